"""Pairs that are shown in other ways: what belongs together stays together, and nothing else of training changes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmtk.fields import Grid, warp
from mmtk.learned import Batch
from mmtk.training.augment import AMOUNTS, Amount, augmented

NOTHING = Amount(angle=0, shift=0, scale=0, gamma=0, mirror=False)
GRIDS = {2: Grid((40, 48), (1.0, 2.0)), 3: Grid((24, 32, 16), (2.0, 1.5, 3.0))}


def blob(grid: Grid, radius: float, at: tuple[float, ...] = (0.0, 0.0, 0.0)) -> Tensor:
    axes = [h * (torch.arange(n) - (n - 1) / 2) - c for n, h, c in zip(grid.shape, grid.spacing, at, strict=False)]
    distance = torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0).sqrt()
    return torch.exp(-0.5 * (distance / (radius / 1.5)).square())[None, None]


@pytest.mark.parametrize("dim", [2, 3])
def test_no_change_is_no_change(dim: int) -> None:
    grid = GRIDS[dim]
    image = torch.rand(3, 1, *grid.shape)
    batch = augmented(Batch(image, image.flip(2), mask=(image > 0.5).float()), grid, NOTHING)
    torch.testing.assert_close(batch.moving, image, atol=1e-5, rtol=0)
    torch.testing.assert_close(batch.fixed, image.flip(2), atol=1e-5, rtol=0)
    assert batch.mask is not None
    torch.testing.assert_close(batch.mask, (image > 0.5).float(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("dim", [2, 3])
def test_turned_and_mirrored_in_millimetres_a_blob_in_the_middle_stays(dim: int) -> None:
    grid = GRIDS[dim]
    image = blob(grid, 9.0)
    turned = augmented(Batch(image, image), grid, Amount(angle=180, shift=0, scale=0, gamma=0, mirror=True))
    assert float((turned.moving - image).abs().mean()) < 0.01
    off = blob(grid, 6.0, (5.0, 0.0, 0.0))
    other = augmented(Batch(off, off), grid, Amount(angle=180, shift=0, scale=0, gamma=0, mirror=False))
    assert float((other.moving - off).abs().max()) > 0.1


def test_both_images_and_their_masks_go_alike_and_pairs_go_apart() -> None:
    torch.manual_seed(1)
    grid = GRIDS[2]
    image = blob(grid, 6.0, (5.0, 3.0)).repeat(4, 1, 1, 1)
    found = augmented(Batch(image, image, mask=image, fixed_mask=image), grid, Amount(180, 0.1, 0.1, 0, True))
    torch.testing.assert_close(found.moving, found.fixed)
    assert found.mask is not None and found.fixed_mask is not None
    torch.testing.assert_close(found.moving, found.mask)
    torch.testing.assert_close(found.moving, found.fixed_mask)
    assert float((found.moving[0] - found.moving[1]).abs().max()) > 0.3


def test_a_scaled_blob_has_the_area_that_was_drawn() -> None:
    torch.manual_seed(2)
    grid = Grid((64, 64), (1.0, 1.0))
    disc = blob(grid, 12.0)
    found = augmented(Batch(disc, disc), grid, Amount(angle=180, shift=0.05, scale=0.3, gamma=0, mirror=True))
    torch.manual_seed(2)
    torch.rand(1, 1)  # the angle
    torch.rand(1, 2)  # the mirrors
    factor = float(torch.exp(0.3 * (2 * torch.rand(1, 1) - 1)))
    assert float(disc.sum() / found.moving.sum()) == pytest.approx(factor**2, rel=0.02)


def test_intensities_change_by_an_exponent_on_each_image_and_zero_stays_zero() -> None:
    torch.manual_seed(0)
    grid = GRIDS[2]
    image = blob(grid, 9.0) * 0.8
    image[image < 0.01] = 0
    found = augmented(Batch(image, image), grid, Amount(0, 0, 0, gamma=0.5, mirror=False))
    inside = image > 0.1
    for changed in (found.moving, found.fixed):
        exponents = changed[inside].log() / image[inside].log()
        torch.testing.assert_close(exponents, exponents.median().expand_as(exponents), rtol=1e-2, atol=0)
        assert changed[0, 0, 0, 0] == 0
    assert float((found.moving - found.fixed).abs().max()) > 0.01


def test_a_true_displacement_is_left_out_and_draws_repeat_by_the_seed() -> None:
    grid = GRIDS[2]
    image = blob(grid, 9.0)
    batch = Batch(image, warp(image, torch.ones(1, 2, *grid.shape)), displacement=torch.ones(1, 2, *grid.shape))
    torch.manual_seed(5)
    first = augmented(batch, grid, AMOUNTS["large"])
    torch.manual_seed(5)
    second = augmented(batch, grid, AMOUNTS["large"])
    assert first.displacement is None
    assert torch.equal(first.fixed, second.fixed)
    assert batch.displacement is not None
