"""Distances in millimeters, intensities, disentanglement: by hand on small cases."""

import math

import pytest
import torch

from mmtk.fields import Grid, identity, invert
from mmtk.metrics import (
    appearance_energy_outside,
    endpoint_error,
    endpoint_errors,
    inverse_consistency_error,
    landmark_errors,
    lesion_volume_kept,
    shape_share,
    squared_error,
    squared_errors,
)

GRID = Grid((6, 5), (0.5, 2.0))


def constant(*vector, grid=GRID):
    return torch.tensor(vector, dtype=torch.float64).view(1, -1, 1, 1).expand(1, -1, *grid.shape)


def test_endpoint_errors_are_in_millimeters():
    u, truth = constant(4.0, 1.0), constant(-2.0, -1.0)
    assert endpoint_errors(u, truth, GRID).shape == (1, 1, 6, 5)
    assert endpoint_error(u, truth, GRID) == pytest.approx(5.0)  # 6 voxels of 0.5 mm, 2 of 2 mm


def test_the_endpoint_error_is_weighted():
    u = constant(2.0, 0.0).clone()
    u[:, :, :3] = 0
    where = torch.zeros(1, 1, 6, 5)
    where[:, :, 3:] = 1
    assert endpoint_error(u, constant(0.0, 0.0), GRID) == pytest.approx(0.5)
    assert endpoint_error(u, constant(0.0, 0.0), GRID, where) == pytest.approx(1.0)
    assert endpoint_error(u, constant(0.0, 0.0), GRID, where > 0) == pytest.approx(1.0)
    assert math.isnan(endpoint_error(u, u, GRID, 0 * where))
    u[:, :, :3] = torch.inf
    assert endpoint_error(u, constant(0.0, 0.0), GRID, where) == pytest.approx(1.0)


def test_inverse_consistency_leaves_out_what_leaves_the_grid():
    there, back = constant(1.0, 0.0), constant(-1.2, 0.0)
    error = inverse_consistency_error(there, back, GRID)
    assert error.mean == pytest.approx(0.1) and error.max == pytest.approx(0.1)
    assert math.isnan(inverse_consistency_error(there, constant(-9.0, 0.0), GRID).mean)


def test_an_inverse_is_consistent():
    grid = Grid((20, 20), (1.0, 1.5))
    x = 2 * math.pi * identity(grid.shape, dtype=torch.float64) / 20
    u = torch.cat([x[:, :1].sin() * x[:, 1:].sin(), x[:, 1:].sin()], 1)
    good = inverse_consistency_error(u, invert(u, tolerance=1e-6), grid)
    bad = inverse_consistency_error(u, -u, grid)
    assert good.max < 1e-5 < 0.1 < bad.mean < bad.max


def test_landmark_errors():
    truth = torch.zeros(4, 3)
    found = torch.tensor([[1.0, 0, 0], [0, 2, 0], [0, 0, 3], [10, 0, 0]])
    before = torch.full((4, 3), 2.0)
    errors = landmark_errors(found, truth, before)
    assert errors[:4] == pytest.approx((2.5, 4.0, 10.0, 0.75))
    assert errors.axes == pytest.approx((11 / 4, 2 / 4, 3 / 4))
    nowhere = landmark_errors(torch.full((1, 3), torch.nan), truth[:1], before[:1])
    assert nowhere.axes == (torch.inf,) * 3 and nowhere.mean == torch.inf
    with pytest.raises(ValueError, match="one shape"):
        landmark_errors(found[:3], truth, before)
    with pytest.raises(ValueError, match="n at least 1"):
        landmark_errors(found[:0], truth[:0], before[:0])


def test_squared_errors_inside_and_outside():
    moved, fixed = torch.full((1, 2, 4, 5), 3.0), torch.ones(1, 2, 4, 5)
    mask = torch.zeros(1, 1, 4, 5)
    mask[..., :2] = 1
    mask[..., 2] = 0.25
    assert squared_error(moved, fixed) == 4 * 40
    assert squared_errors(moved, fixed, mask) == (4 * 2 * 9, 4 * 2 * 11)
    moved[..., :2] = torch.inf
    assert squared_errors(moved, fixed, mask).outside == 4 * 2 * 11


def test_appearance_outside_the_mask_is_an_integral():
    deformed = torch.zeros(1, 1, 6, 5)
    warped, mask = torch.full_like(deformed, 2.0), torch.zeros_like(deformed)
    mask[..., :4] = 1
    assert appearance_energy_outside(warped, deformed, mask, GRID) == pytest.approx(4 * 6 * 1.0)
    inside_only = deformed + mask
    assert appearance_energy_outside(inside_only, deformed, mask, GRID) == 0


def test_the_share_of_shape():
    moving = torch.zeros(1, 1, 4, 4)
    deformed, warped = moving.clone(), moving.clone()
    deformed[..., 0] = 3.0
    warped[..., 0] = 4.0
    assert shape_share(moving, deformed, warped) == pytest.approx(0.9)
    assert shape_share(moving, deformed, deformed) == 1
    assert shape_share(moving, moving, warped) == 0
    assert math.isnan(shape_share(moving, moving, moving))


def test_the_volume_of_the_lesion():
    mask, warped = torch.zeros(1, 1, 6, 5), torch.zeros(1, 1, 12, 5)
    mask[..., :2, :2] = 1
    warped[..., :2, :2] = 0.5
    assert lesion_volume_kept(mask, mask, GRID) == 1
    assert lesion_volume_kept(mask, warped, GRID, Grid((12, 5), (0.25, 2.0))) == pytest.approx(0.25)
    assert math.isnan(lesion_volume_kept(0 * mask, mask, GRID))
