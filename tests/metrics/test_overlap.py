"""Dice and surface distances, against MONAI and by hand."""

import math
import sys

import numpy as np
import pytest
import torch

from mmtk.errors import GridMismatch
from mmtk.metrics import dice, mean_dice, surface_distances


def label_maps(shape=(10, 9, 8), labels=4, seed=0):
    rng = np.random.default_rng(seed)
    fixed = rng.integers(0, labels, shape)
    moved = np.where(rng.random(shape) < 0.3, rng.integers(0, labels, shape), fixed)
    return torch.from_numpy(moved), torch.from_numpy(fixed)


def one_hot(labels, count):
    return torch.stack([labels == k for k in range(count)])[None].float()


def test_dice_is_that_of_monai():
    from monai.metrics import DiceMetric

    moved, fixed = label_maps()
    theirs = DiceMetric(include_background=False, reduction="none")(one_hot(moved, 4), one_hot(fixed, 4))
    ours = dice(moved, fixed)
    assert list(ours) == [1, 2, 3]
    assert list(ours.values()) == pytest.approx(theirs[0].tolist())
    assert mean_dice(moved, fixed) == pytest.approx(float(theirs.mean()))


def test_dice_of_absent_labels_and_chosen_ones():
    moved, fixed = torch.tensor([[0, 1, 1, 7]]), torch.tensor([[0, 1, 3, 3]])
    assert dice(moved, fixed) == {1: 2 / 3, 3: 0.0, 7: 0.0}
    chosen = dice(moved, fixed, labels=[0, 1, 99])
    assert chosen[0] == 1 and chosen[1] == 2 / 3 and math.isnan(chosen[99])
    assert mean_dice(moved, fixed, labels=[1, 99]) == 2 / 3
    assert math.isnan(mean_dice(0 * moved, 0 * fixed))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.float32])
def test_labels_may_be_of_any_dtype_and_with_batch_axes(dtype):
    moved, fixed = label_maps()
    assert dice(moved.to(dtype)[None, None], fixed.to(dtype)[None, None]) == dice(moved, fixed)


def test_label_maps_on_two_grids_or_below_zero_are_refused():
    moved, fixed = label_maps()
    with pytest.raises(GridMismatch, match="resample `moved`"):
        dice(moved[1:], fixed)
    with pytest.raises(ValueError, match="at least 0"):
        dice(moved - 1, fixed)


def test_surface_distances_of_two_boxes():
    """Faces 2 voxels of 1.5 mm apart along one axis, none along the others."""
    fixed = torch.zeros(16, 12, 12, dtype=torch.long)
    moved = fixed.clone()
    fixed[4:10, 3:9, 3:9] = 2
    moved[6:12, 3:9, 3:9] = 2
    found = surface_distances(moved, fixed, (1.5, 1.0, 1.0))
    assert list(found) == [2]
    assert found[2].hd95 == pytest.approx(3.0)
    assert 0 < found[2].mean < 3.0
    same = surface_distances(fixed, fixed, (1.5, 1.0, 1.0))[2]
    assert (same.hd95, same.mean) == (0, 0)


@pytest.mark.filterwarnings("ignore")
def test_surface_distances_are_those_of_monai_on_the_whole_grid():
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

    moved, fixed = torch.zeros(2, 14, 13, 12, dtype=torch.long)
    fixed[2:7, 3:9, 3:8], moved[3:9, 3:8, 4:8] = 1, 1
    fixed[8:, 9:, :5], moved[9:, 8:, :6] = 2, 2
    spacing = (1.0, 2.0, 0.5)
    found = surface_distances(moved, fixed, spacing)
    options = {"include_background": False, "spacing": list(spacing)}
    pair = one_hot(moved, 3), one_hot(fixed, 3)
    hd95 = compute_hausdorff_distance(*pair, percentile=95, **options)[0].tolist()
    mean = compute_average_surface_distance(*pair, symmetric=True, **options)[0].tolist()
    assert [d.hd95 for d in found.values()] == pytest.approx(hd95)
    assert [d.mean for d in found.values()] == pytest.approx(mean)


def test_the_surface_of_an_absent_label_is_infinitely_far():
    moved, fixed = torch.zeros(6, 6, dtype=torch.long), torch.zeros(6, 6, dtype=torch.long)
    fixed[2:4, 2:4] = 1
    found = surface_distances(moved, fixed, (1.0, 1.0), labels=[1, 5])
    assert found[1] == (math.inf, math.inf, 0)
    assert math.isnan(found[5].hd95)


def test_the_module_loads_monai_only_when_asked():
    assert "mmtk.metrics.overlap" in sys.modules
    assert "monai" not in vars(sys.modules["mmtk.metrics.overlap"])
