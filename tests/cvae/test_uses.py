"""`mmtk x cvae`: codes drawn, carried over, and sorted; what is wrong is said in a sentence."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from mmtk import io
from mmtk.errors import ConfigError
from mmtk.fields import Grid
from mmtk.learned import Weights
from mmtk_cvae.cli import app
from mmtk_cvae.codes import Codes, drawn, encoded, load, sorted_out, transported
from mmtk_cvae.network import DiffeomorphicCVAE
from mmtk_cvae.plugin import CVAEConfig

SHAPE = (24, 32)
needs_sklearn = pytest.mark.skipif(
    importlib.util.find_spec("sklearn") is None, reason="scikit-learn is not installed"
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that move something, disks of several sizes, and a volume of them."""
    folder = tmp_path_factory.mktemp("cvae")
    settings = {"latent": 5, "widths": (4, 4, 4)}
    torch.manual_seed(0)
    model = DiffeomorphicCVAE(Grid(SHAPE, (1.0, 1.0)), latent=5, widths=(4, 4, 4))
    with torch.no_grad():
        model.decoder.answer.weight.normal_(0, 0.2)
    method = CVAEConfig(engine="optimize", **settings).build()
    Weights("cvae", method.settings, model.grid, np.eye(4), model.state_dict()).save(folder / "w.safetensors")
    for radius in (5, 7, 9):
        nib.save(nib.Nifti1Image(disk(radius), np.eye(4)), folder / f"disk_{radius}.nii.gz")
    volume = np.stack([disk(5), disk(7), disk(9)], axis=-1)
    nib.save(nib.Nifti1Image(volume, np.diag([1.0, 1, 4, 1])), folder / "volume.nii.gz")
    return folder


def disk(radius: float) -> np.ndarray:
    x, y = np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in SHAPE], indexing="ij")
    return (900 / (1 + np.exp(np.hypot(x, y) - radius)) + 100).astype(np.float32)


def run(*words: Any) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_drawn_codes_are_the_priors_and_repeat_by_their_seed(place: Path) -> None:
    method = load(str(place / "w.safetensors"))
    first = drawn(method, place / "disk_7.nii.gz", 120, seed=3)
    again = drawn(method, place / "disk_7.nii.gz", 120, seed=3)[:2]
    other = drawn(method, place / "disk_7.nii.gz", 2, seed=4)
    codes = torch.stack([each.code for each in first])
    assert torch.equal(first[1].displacement, again[1].displacement)
    assert not torch.equal(again[0].displacement, other[0].displacement)
    assert float(codes.mean().abs()) < 0.1 and float(codes.std()) == pytest.approx(1, abs=0.08)


def test_without_spread_all_are_the_mean_deformation(place: Path) -> None:
    method = load(str(place / "w.safetensors"))
    first, second = drawn(method, place / "disk_7.nii.gz", 2, spread=0.0)
    assert torch.equal(first.displacement, second.displacement)
    assert not first.code.any()


def test_what_is_drawn_is_warped_in_the_images_own_intensities(place: Path) -> None:
    (found,) = drawn(load(str(place / "w.safetensors")), place / "disk_7.nii.gz", 1)
    image = disk(7)
    assert found.warped.min() > 90 and found.warped.max() < 1010
    assert np.corrcoef(found.warped.ravel(), image.ravel())[0, 1] > 0.8
    assert found.jacobian.shape == SHAPE
    assert found.folds == int((found.jacobian <= 0).sum())


def test_transported_onto_itself_a_deformation_is_its_own(place: Path) -> None:
    method = load(str(place / "w.safetensors"))
    pair = place / "disk_5.nii.gz", place / "disk_9.nii.gz"
    own, carried = transported(method, *pair, pair[0])
    torch.testing.assert_close(own.displacement, carried.displacement)
    own, carried = transported(method, *pair, place / "disk_9.nii.gz")
    assert torch.equal(own.code, carried.code)
    assert not torch.equal(own.displacement, carried.displacement)


def test_weights_of_slices_take_a_volume_apart(place: Path) -> None:
    method = load(str(place / "w.safetensors"))
    codes = encoded(method, [{"moving": str(place / "volume.nii.gz"), "fixed": str(place / "volume.nii.gz")}])
    assert codes.names == ["volume:0", "volume:1", "volume:2"]
    assert codes.subjects == ["volume"] * 3
    one = encoded(method, [{"moving": str(place / "disk_5.nii.gz"), "fixed": str(place / "disk_5.nii.gz")}])
    assert one.means.shape == (1, 5)
    own, carried = transported(method, place / "volume.nii.gz", place / "volume.nii.gz", place / "volume.nii.gz")
    assert own.displacement.shape == (1, 3, *SHAPE, 3)
    torch.testing.assert_close(own.displacement, carried.displacement)


def codes_of(subjects: int, shift: float, seed: int = 0) -> Codes:
    rng = np.random.default_rng(seed)
    groups = [("a", "b", "c")[i % 3] for i in range(subjects)]
    means = rng.standard_normal((subjects, 40))
    means[:, 0] += shift * np.array([{"a": -1, "b": 0, "c": 1}[g] for g in groups])
    means[:, 1] += shift * np.array([{"a": 0, "b": 1, "c": 0}[g] for g in groups])
    names = [f"s{i}" for i in range(subjects)]
    return Codes(names, names, groups, means)


@needs_sklearn
def test_groups_that_differ_are_told_and_others_are_not() -> None:
    told = sorted_out(codes_of(60, 12.0))
    assert told.accuracy > 0.9
    assert told.folds == 10
    assert told.components.shape == (60, 2)
    guessed = sorted_out(codes_of(60, 0.0))
    assert guessed.accuracy < 0.55
    assert guessed.chance == pytest.approx(1 / 3)
    # A projection that has seen everybody finds groups where there are none.
    assert guessed.leaked > guessed.accuracy


@needs_sklearn
def test_too_few_subjects_are_refused() -> None:
    codes = codes_of(3, 1.0)
    with pytest.raises(ConfigError, match="3 groups, the smallest of 1 subjects; give two groups or more"):
        sorted_out(codes)


def test_slices_of_a_subject_count_once() -> None:
    codes = Codes(["a:0", "a:1", "b:0"], ["a", "a", "b"], ["x", "x", "y"], np.array([[1.0], [3.0], [5.0]]))
    subjects, groups, means = codes.of_subjects()
    assert (subjects, groups, means.ravel().tolist()) == (["a", "b"], ["x", "y"], [2.0, 5.0])


def test_the_commands_leave_what_they_say(place: Path, tmp_path: Path) -> None:
    weights = ["--weights", place / "w.safetensors"]
    found = run("sample", place / "disk_7.nii.gz", *weights, "--count", 2, "--out", tmp_path / "s")
    assert found.exit_code == 0, found.output
    names = sorted(path.name for path in (tmp_path / "s").iterdir())
    assert "000_displacement.nii.gz" in names and "001_warped.nii.gz" in names and "sampled.png" in names
    step = io.read_displacement(tmp_path / "s" / "000_displacement.nii.gz")
    assert np.isfinite(np.asarray(step.field if hasattr(step, "field") else 0.0)).all()
    rows = list(csv.reader((tmp_path / "s" / "codes.csv").read_text().splitlines()))
    assert len(rows) == 3 and rows[0] == ["name", "z0", "z1", "z2", "z3", "z4"]
    found = run(
        "transport", place / "disk_5.nii.gz", place / "disk_9.nii.gz", place / "disk_7.nii.gz", *weights,
        "--compare", place / "disk_9.nii.gz", "--out", tmp_path / "t",
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    assert (tmp_path / "t" / "transported.png").stat().st_size > 10_000
    table = tmp_path / "pairs.csv"
    table.write_text(f"moving,fixed\n{place / 'disk_5.nii.gz'},{place / 'disk_9.nii.gz'}\n")
    found = run("encode", table, *weights, "--out", tmp_path / "e")
    assert found.exit_code == 0, found.output
    assert "1 codes of 5 numbers" in found.output


@needs_sklearn
def test_encode_draws_the_groups(place: Path, tmp_path: Path) -> None:
    table = tmp_path / "pairs.csv"
    radii = ((5, 9, "grows"), (9, 5, "shrinks"), (7, 9, "grows"), (9, 7, "shrinks"))
    lines = [f"{place}/disk_{a}.nii.gz,{place}/disk_{b}.nii.gz,{a}{b},{group}" for a, b, group in radii]
    table.write_text("moving,fixed,subject,group\n" + "\n".join(lines) + "\n")
    found = run("encode", table, "--weights", place / "w.safetensors", "--out", tmp_path / "e")
    assert found.exit_code == 0, found.output
    assert "4 subjects of 2 groups" in found.output and "cross-validation with 2 folds" in found.output
    assert (tmp_path / "e" / "groups.png").is_file()


def test_without_scikit_learn_groups_are_refused_in_a_sentence(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text(f"moving,fixed,group\n{place / 'disk_5.nii.gz'},{place / 'disk_9.nii.gz'},a\n")
    found_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "sklearn" else found_spec(name, *a)
    )
    found = run("encode", table, "--weights", place / "w.safetensors", "--out", tmp_path / "e")
    assert found.exit_code == 2
    assert "pip install 'mmtk[cvae]'" in found.output
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("moving\na.nii.gz\n", "they must be moving and fixed"),
        ("moving,fixed,sex\na,b,c\n", "may be subject and group"),
        ("moving,fixed\n", "holds no pair"),
        ("moving,fixed\nnone.nii.gz,none.nii.gz\n", "row 1: moving: no such file"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path: Path, text: str, said: str) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text(text)
    found = run("encode", table)
    assert found.exit_code == 2
    assert said in " ".join(found.output.split())


def test_a_missing_file_and_foreign_weights_are_refused(place: Path, tmp_path: Path) -> None:
    found = run("sample", tmp_path / "none.nii.gz")
    assert found.exit_code == 2 and "image: no such file" in found.output
    found = run("sample", place / "disk_7.nii.gz", "--weights", "voxelmorph", "--out", tmp_path / "s")
    assert found.exit_code == 2 and "belong to voxelmorph, not to cvae" in " ".join(found.output.split())
