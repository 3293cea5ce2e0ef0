"""SVCCA, zeroed layers, training-set sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from mmtk.segmenters.weights import SegmenterWeights
from mmtk_kd.analysis import svcca
from mmtk_kd.cli import app
from mmtk_kd.data import MODALITIES
from mmtk_kd.networks import UNet


@pytest.fixture
def activations() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((500, 6)) @ np.diag([5.0, 4, 3, 2, 1, 1])


def test_what_spans_the_same_is_the_same(activations: np.ndarray) -> None:
    mixed = activations @ np.random.default_rng(1).standard_normal((6, 6)) + 3
    assert svcca(activations, activations) == pytest.approx(1)
    assert svcca(activations, mixed, kept=1.0) == pytest.approx(1)
    assert svcca(mixed, activations) == pytest.approx(svcca(activations, mixed))


def test_what_has_nothing_in_common_is_near_chance(activations: np.ndarray) -> None:
    other = np.random.default_rng(2).standard_normal((500, 6))
    assert svcca(activations, other) < 0.2  # sqrt(6 / 500) = 0.11
    assert svcca(activations, np.ones((500, 2))) == 0


def test_half_of_the_channels_in_common() -> None:
    rng = np.random.default_rng(3)
    shared, ours, theirs = rng.standard_normal((3, 4000, 2))
    found = svcca(np.hstack([shared, ours]), np.hstack([shared, theirs]), kept=1.0)
    assert found == pytest.approx(0.5, abs=0.03)


def test_weak_directions_are_left_out() -> None:
    rng = np.random.default_rng(4)
    strong, ours, theirs = rng.standard_normal((3, 1000, 2))
    found = svcca(np.hstack([strong, 1e-2 * ours]), np.hstack([strong, 1e-2 * theirs]))
    assert found == pytest.approx(1, abs=1e-3)


def weights(path: Path, modalities: tuple[str, ...], strategy: str, seed: int) -> str:
    torch.manual_seed(seed)
    settings = {"modalities": len(modalities), "widths": [2, 2, 2, 4]}
    SegmenterWeights(
        network="mmtk_kd.networks:UNet",
        settings=settings,
        modalities=modalities,
        outputs=("0", "1", "2", "4"),
        activation="softmax",
        spacing=(6.0, 6.0, 6.0),
        patch=(24, 24, 24),
        state=UNet(**settings).state_dict(),
        facts={"config": {"strategy": strategy, "count": 7}},
    ).save(path)
    return str(path)


def test_the_commands_leave_a_table_and_a_picture(tmp_path: Path) -> None:
    many = weights(tmp_path / "many.safetensors", MODALITIES, "baseline", 0)
    one = weights(tmp_path / "one.safetensors", ("t1ce",), "kl_kd", 1)
    calls = {"similarity": [many, one], "zeroed": [one], "sizes": [many, one]}
    for name, given in calls.items():
        out = tmp_path / name
        done = CliRunner().invoke(app, [name, *given, "--count", "1", "--out", str(out)])
        assert done.exit_code == 0, done.output
        assert (out / f"{name}.png").stat().st_size > 4000
        assert (out / f"{name}.md").read_text() in done.output
    assert "| bottleneck |" in (tmp_path / "zeroed" / "zeroed.md").read_text()
    assert "| kl_kd, 7 heads |" in (tmp_path / "sizes" / "sizes.md").read_text()


def test_what_cannot_be_compared_is_told(tmp_path: Path) -> None:
    one = weights(tmp_path / "one.safetensors", ("t1ce",), "kl_kd", 1)
    for call, message in (
        (["similarity", one], "give two or more"),
        (["sizes", one, "--count", "1"], "give a baseline and a strategy"),
        (["zeroed", "nowhere.safetensors"], "no such file, nor a bundle"),
    ):
        done = CliRunner().invoke(app, call)
        assert done.exit_code == 2 and message in done.output, done.output
