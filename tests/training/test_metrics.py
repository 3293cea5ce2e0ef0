"""Scores of validation pairs, each against its definition written out plainly, by NumPy and SciPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from mmtk.fields import Grid
from mmtk.learned import Prediction
from mmtk.training.data import SyntheticPairs
from mmtk.training.metrics import ValidationScores

BRAINS: dict[str, Any] = {"dim": 2, "spacing": 4}


def prediction(displacement: torch.Tensor) -> Prediction:
    nothing = torch.zeros(len(displacement))
    return Prediction(displacement[:, :1], displacement, data=nothing, cost=nothing)


def scores(items: dict[str, torch.Tensor], u: torch.Tensor, grid: Grid) -> dict[str, float]:
    measured = ValidationScores(grid)
    measured.see(items, prediction(u))
    return measured.means()


@pytest.fixture(scope="module")
def brains() -> tuple[dict[str, torch.Tensor], Grid]:
    pairs = SyntheticPairs("brains", BRAINS, count=2, seed=3, truth=True)
    return torch.utils.data.default_collate([pairs[0], pairs[1]]), pairs.grid()


def test_the_truth_scores_best(brains: tuple[dict[str, torch.Tensor], Grid]) -> None:
    items, grid = brains
    perfect, still = (
        scores(items, u, grid) for u in (items["displacement"], torch.zeros_like(items["displacement"]))
    )
    assert perfect.keys() == {"outside", "folds", "endpoint", "dice"}
    assert perfect["endpoint"] == perfect["folds"] == 0 < still["endpoint"]
    assert perfect["dice"] > 0.9 > still["dice"] and perfect["outside"] < still["outside"]


def test_every_number_is_its_definition(brains: tuple[dict[str, torch.Tensor], Grid]) -> None:
    items, grid = brains
    generator = torch.Generator().manual_seed(4)
    u = 0.8 * torch.randn(items["displacement"].shape, generator=generator)
    found = scores(items, u, grid)
    expected: dict[str, list[float]] = {name: [] for name in found}
    for i in range(2):
        one = {name: value[i].double().numpy() for name, value in items.items()}
        points = np.indices(grid.shape) + u[i].double().numpy()
        shape_only = map_coordinates(one["moving"][0], points, order=1, mode="nearest")
        away = 1 - one["counterpart"][0]
        expected["outside"].append(16 * float((away * (shape_only - one["fixed"][0]) ** 2).sum()))
        off = 4 * np.hypot(*(u[i].double().numpy() - one["displacement"]))
        head = (one["fixed"][0] > 0.1 * one["fixed"].max()) & (away == 1)
        expected["endpoint"].append(float(off[head].mean()))
        carried = map_coordinates(one["labels"][0], points, order=0, mode="nearest")
        target = one["fixed_labels"][0]
        overlaps = [
            2 * ((carried == k) & (target == k)).sum() / ((carried == k).sum() + (target == k).sum())
            for k in np.unique(target[target > 0])
        ]
        expected["dice"].append(float(np.mean(overlaps)))
        (a, b), (c, d) = (np.gradient(points[axis]) for axis in range(2))
        inner = (slice(1, -1), slice(1, -1))
        expected["folds"].append(float((a * d - b * c <= 0)[inner].sum()))
    for name in ("outside", "endpoint", "dice"):
        assert found[name] == pytest.approx(np.mean(expected[name]), rel=2e-3), name
    border = 2 * (sum(grid.shape))
    assert np.mean(expected["folds"]) > 10
    assert np.mean(expected["folds"]) <= found["folds"] <= np.mean(expected["folds"]) + border


def test_without_a_counterpart_the_lesion_is_where_the_map_carries_the_mask() -> None:
    grid = Grid((6, 5), (2.0, 3.0))
    moving, mask = torch.zeros(1, 1, 6, 5), torch.zeros(1, 1, 6, 5)
    moving[0, 0, 4, 2], mask[0, 0, 4, 2] = 5.0, 1.0
    u = torch.zeros(1, 2, 6, 5)
    u[:, 0] = 2.0  # voxel 2 sees voxel 4
    items = {"moving": moving, "fixed": torch.zeros(1, 1, 6, 5), "mask": mask}
    assert scores(items, u, grid) == {"outside": 0.0, "folds": 0.0}
    assert scores({**items, "mask": torch.zeros_like(mask)}, u, grid)["outside"] == 6 * 25
    hidden = torch.zeros_like(mask)
    hidden[0, 0, 2, 2] = 0.5
    assert scores({**items, "mask": 0 * mask, "fixed_mask": hidden}, u, grid)["outside"] == 6 * 12.5


def test_pairs_that_define_a_number_make_its_mean() -> None:
    """One pair of two has no label: Dice is the other's, and what no pair has is not there."""
    grid = Grid((4, 4), (1.0, 1.0))
    labels = torch.zeros(2, 1, 4, 4, dtype=torch.int32)
    labels[1, 0, :2] = 3
    shown = torch.zeros(2, 1, 4, 4)
    items = {"moving": shown, "fixed": shown, "labels": labels.roll(1, 2), "fixed_labels": labels}
    assert scores(items, torch.zeros(2, 2, 4, 4), grid)["dice"] == pytest.approx(0.5)
    assert "dice" not in scores({n: t[:1] for n, t in items.items()}, torch.zeros(1, 2, 4, 4), grid)
    assert ValidationScores(grid).means() == {}


@pytest.mark.parametrize("cells", [1, 2, 3])
def test_fewer_voxels_keep_the_most_frequent_label(cells: int) -> None:
    whole = SyntheticPairs("brains", BRAINS, count=1, seed=1, truth=True)[0]["fixed_labels"][0].numpy()
    found = SyntheticPairs("brains", BRAINS, count=1, seed=1, truth=True, reduce=cells)[0]
    labels = found["fixed_labels"][0].numpy()
    assert labels.shape == found["fixed"].shape[1:] == tuple(n // cells for n in whole.shape)
    for i, j in np.ndindex(labels.shape):
        cell = whole[i * cells : (i + 1) * cells, j * cells : (j + 1) * cells]
        counts = np.bincount(cell.ravel())
        assert counts[labels[i, j]] == counts.max()


def test_pairs_that_were_kept_without_labels_get_them_when_they_are_wanted(tmp_path: Path) -> None:
    old = SyntheticPairs("brains", BRAINS, count=1, seed=1, cache=tmp_path)
    made = old[0]
    (path,) = tmp_path.glob("*/*.npz")
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files if "labels" not in name}
    np.savez_compressed(path, **arrays)
    before = path.read_bytes()
    again = SyntheticPairs("brains", BRAINS, count=1, seed=1, cache=tmp_path)[0]
    assert path.read_bytes() == before, "what nobody asks for is not made"
    assert all(bool((again[name] == made[name]).all()) for name in made)
    scored = SyntheticPairs("brains", BRAINS, count=1, seed=1, truth=True, cache=tmp_path)[0]
    fresh = SyntheticPairs("brains", BRAINS, count=1, seed=1, truth=True)[0]
    assert scored.keys() == fresh.keys() >= {"labels", "fixed_labels"}
    assert all(bool((scored[name] == fresh[name]).all()) for name in fresh)


def test_letters_have_no_labels_and_are_not_made_again_for_them(tmp_path: Path) -> None:
    options = {"size": 48, "sigma": 3.0, "steps": 8, "amplitude": 100.0}
    SyntheticPairs("c_shapes", options, count=1, cache=tmp_path)[0]
    (path,) = tmp_path.glob("*/*.npz")
    with np.load(path) as stored:
        np.savez_compressed(path, **{n: stored[n] for n in stored.files if "labels" not in n})
    before = path.read_bytes()
    assert "labels" not in SyntheticPairs("c_shapes", options, count=1, truth=True, cache=tmp_path)[0]
    assert path.read_bytes() == before
