"""The figures of docs/concepts: each is drawn by a script, is on a page, and shows what the page says of it.

The scripts run here on small cases (what ``--check`` does), so that their code cannot rot; what is asserted of their
numbers are the statements of the pages that hold at any size.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

CONCEPTS = Path(__file__).parents[2] / "docs" / "concepts"
IMAGES = CONCEPTS.parent / "images" / "concepts"
PAGES = sorted(CONCEPTS.glob("*.md"))


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a function that imports a script by its name; the modules are forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(CONCEPTS / "figures"))
    threads = torch.get_num_threads()
    yield importlib.import_module
    torch.set_num_threads(threads)
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and "figures" in str(sys.modules[name].__file__):
            del sys.modules[name]


def test_every_picture_is_on_a_page_and_small() -> None:
    shown = {name for page in PAGES for name in re.findall(r"images/concepts/(\w+)\.png", page.read_text())}
    assert shown == {picture.stem for picture in IMAGES.glob("*.png")}
    assert max(picture.stat().st_size for picture in IMAGES.glob("*.png")) < 200_000


@pytest.mark.parametrize("picture", sorted(IMAGES.glob("*.png")), ids=lambda p: p.stem)
def test_a_picture_can_be_read_on_light_and_on_dark_pages(picture: Path) -> None:
    # An opaque card, light at its corners, with ink on it that is dark.
    with Image.open(picture) as image:
        assert "transparency" not in image.info
        values = np.asarray(image.convert("L"))
    corners = values[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners.min() > 240
    assert (values < 90).mean() > 0.005


def drawn(script: Any, name: str, out: Path, *more: Path) -> Mapping[str, Any]:
    numbers = script(name).draw(out, True, *more)
    made = {picture.stem for picture in out.glob("*.png")}
    expected = {picture.stem for picture in IMAGES.glob(f"{name}*.png")}
    assert made == expected
    for picture in out.glob("*.png"):
        with Image.open(picture) as image:
            assert np.asarray(image.convert("L")).std() > 5, f"{picture.name} is blank"
    return numbers


def test_frames(script: Any, tmp_path: Path) -> None:
    drawn(script, "frames", tmp_path)


def test_distillation(script: Any, tmp_path: Path) -> None:
    numbers = drawn(script, "distillation", tmp_path)
    for volumes in numbers.values():
        assert 0 < volumes["ET"] < volumes["TC"] < volumes["WT"]


def test_lindef(script: Any, tmp_path: Path) -> None:
    numbers = drawn(script, "lindef", tmp_path)
    assert numbers["folds"] == 4 and numbers["least slope"] == 0.5 and numbers["least determinant"] == -3.25
    assert numbers["landmarks"] == 11


def test_prior(script: Any, tmp_path: Path) -> None:
    numbers = drawn(script, "prior", tmp_path)
    errors = [numbers["before"], *(numbers[f"{n} steps"]["mean absolute error"] for n in (5, 10, 15))]
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0]
    assert all(numbers[f"{n} steps"]["folds"] == 0 for n in (5, 10, 15))


@pytest.mark.slow
def test_integrators(script: Any, tmp_path: Path) -> None:
    numbers = drawn(script, "integrators", tmp_path)
    for name, order in numbers["observed orders"].items():
        assert order == pytest.approx(2 if name in ("particles", "lagrangian, order 2") else 1, abs=0.25), name
    blur = numbers["blur of a stripe"]
    assert blur["semi_lagrangian"] == sorted(blur["semi_lagrangian"]) and blur["semi_lagrangian"][0] > 0
    assert max(*blur["sharp"], *blur["lagrangian"]) < 1e-12
    assert numbers["variance added, measured"] == pytest.approx(
        numbers["variance added, by the formula"], abs=1e-6
    )
    assert numbers["growth, measured"] == pytest.approx(numbers["growth, by the formula"], rel=1e-6)
    errors = {
        name: numbers[f"T = 15, {name}"]["image, root mean square"] for name in ("semi_lagrangian", "particles")
    }
    assert errors["particles"] < errors["semi_lagrangian"]


@pytest.mark.slow
def test_kernels(script: Any, tmp_path: Path) -> None:
    numbers = drawn(script, "kernels", tmp_path)
    assert numbers["lattice, largest, px"][0] < 0.05
    fine, coarse = (numbers["kernels"][k]["share of 16 mm waves"] for k in numbers["kernels"] if "subject" in k)
    assert min(fine, coarse) < 1e-3 * max(fine, coarse)
    assert numbers["slices"]["edges"][0] < 1.0


@pytest.mark.slow
def test_metamorphosis(script: Any, tmp_path: Path) -> None:
    numbers = drawn(script, "metamorphosis", tmp_path)
    assert numbers["path, painted beside the carried mask"] == 0
    smooth = [numbers[name]["energy"] for name in numbers if name.startswith("a smooth pair")]
    assert len(smooth) == 3 and max(smooth) < 1.01 * min(smooth)


@pytest.mark.slow
def test_appearance(script: Any, tmp_path: Path) -> None:
    numbers = drawn(script, "appearance", tmp_path)
    free, masked = numbers["no mask, mu = 0.03"], numbers["with the mask, mu = 0.03"]
    assert free["both"] < free["shape only"]  # it looks better than it is
    assert free["share by shape"] < masked["share by shape"]


@pytest.mark.slow
def test_choices(script: Any, tmp_path: Path) -> None:
    numbers = script("choices").draw(tmp_path, True)
    assert numbers["subject=same"][0] < 1.0
    assert numbers["local_ssd, bias of 30 %"] < numbers["ssd, bias of 30 %"]


def test_learned_on_slices(script: Any, tmp_path: Path) -> None:
    numbers = drawn(script, "learned_slices", tmp_path, tmp_path / "runs")
    free, masked = (numbers[f"{name}, mu = 0.08, lambda = 3e-06"] for name in ("no mask", "with the mask"))
    assert free["total outside"] < 0.5 * free["shape outside"]  # painted where it might have moved
    assert masked["total outside"] > 0.8 * masked["shape outside"]


def test_there_and_back_is_the_identity_but_for_interpolation(script: Any) -> None:
    # A network that moves something: momenta of a learned start, by hand.
    module = script("learned_slices")
    slices = module.slices
    item = slices.pairs("test", None)[module.SHOWN]
    model = slices.make_model(slices.ROWS["r"], slices.pairs("test", None).grid())
    with torch.no_grad():
        model.start += 0.4 * (item["fixed"] - item["moving"])[None] / 0.2
    states = module._followed(model, item)
    there = states[-1]["inverse"]
    back = there
    for state in reversed(states[:-1]):
        back = module.compose(-state["step"], back)
    assert float(there.norm(dim=1).max()) > 1.0
    assert float(back.norm(dim=1).mean()) < 0.1 * float(there.norm(dim=1).mean())


def test_learned_on_letters(script: Any, tmp_path: Path) -> None:
    numbers = drawn(script, "learned_letters", tmp_path, tmp_path / "runs")
    for mu in ("0", "0.1"):
        blurred, once, closed = (
            numbers[f"mu = {mu}, {scheme}"]["pixels that are neither ink nor paper"]
            for scheme in ("semi_lagrangian", "sharp", "lagrangian")
        )
        assert once < 0.8 * blurred and closed == pytest.approx(once, rel=0.1)


def test_learned_auto_encoders(script: Any, tmp_path: Path) -> None:
    numbers = drawn(script, "learned_encoder", tmp_path, tmp_path / "runs")
    free, refined = (numbers[f"MAE (lambda_s 269){more}"]["l2"] for more in ("", ", 20 steps of refinement"))
    assert refined < 0.8 * free  # untrained here: the descent starts from what a network of no use answers


def test_a_weak_hearts_code_moves_a_well_heart_as_the_weak_one_and_nothing_folds(
    script: Any, tmp_path: Path
) -> None:
    numbers = drawn(script, "cvae", tmp_path)
    assert not any(found["folds"] for found in numbers.values())
    moved = {name: found["largest motion, mm"] for name, found in numbers.items()}
    assert abs(moved["transported"] - moved["weak"]) < 0.3 * abs(moved["well"] - moved["weak"])
    assert max(moved["drawn 0"], moved["drawn 1"]) < moved["weak"]
