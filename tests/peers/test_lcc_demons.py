"""LCC-demons of our own: what is one stays, a smooth motion is found, nothing folds."""

import pytest
import torch

from mmtk.fields import Gaussian, Grid, Smoother, exponential, folds, warp
from mmtk.method import Pair
from mmtk.testing import MethodContract
from mmtk_peers.plugin import LCCDemonsConfig

GRIDS = {2: Grid((60, 70), (2.0, 2.5)), 3: Grid((30, 34, 28), (4.0, 3.5, 4.0))}


class TestContract(MethodContract):
    @pytest.fixture
    def part(self):
        return LCCDemonsConfig(levels=(8.0, 4.0), iterations=(15, 10), masked=True)


def texture(grid: Grid, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    noise = torch.randn(1, 1, *grid.shape, generator=draw)
    image = Smoother(Gaussian(6.0), grid, padding=18.0)(noise)
    return (image - image.amin()) / (image.amax() - image.amin())


def bent(grid: Grid, size: float = 5.0) -> tuple[Pair, torch.Tensor]:
    """A pair and its true displacement: the flow of a smooth velocity of up to ``size`` mm."""
    draw = torch.Generator().manual_seed(1)
    v = Smoother(Gaussian(14.0), grid, padding=42.0)(torch.randn(1, grid.dim, *grid.shape, generator=draw))
    v = v / v.abs().amax() * size / grid.per_axis(v)
    u = exponential(v, 6)
    moving = texture(grid)
    return Pair(moving, warp(moving, u, mode="cubic"), grid), u


def inner(u: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Lengths in mm, away from the border."""
    return (u * grid.per_axis(u)).norm(dim=1)[(slice(None), *[slice(4, -4)] * grid.dim)]


@pytest.mark.parametrize("dim", [2, 3])
def test_a_smooth_deformation_is_recovered(dim):
    grid = GRIDS[dim]
    pair, truth = bent(grid)
    found = LCCDemonsConfig(levels=(8.0, 4.0, 2.0), iterations=(30, 30, 20)).build().register(pair)
    before, after = inner(truth, grid).mean(), inner(found.displacement - truth, grid).mean()
    assert after < 0.5 * before, f"{after:.2f} mm are left of {before:.2f}"
    assert folds(found.displacement) == 0 and folds(found.inverse) == 0


def test_where_the_moving_image_has_no_data_nothing_breaks():
    grid = GRIDS[3]
    pair, truth = bent(grid)
    inside = torch.ones_like(pair.moving)
    inside[..., :7, :, :] = 0
    pair = Pair(pair.moving * inside, pair.fixed, grid, inside=inside)
    found = LCCDemonsConfig(levels=(8.0, 4.0), iterations=(15, 10)).build().register(pair)
    assert found.outcome.ok and all(e == e for level in found.levels for e in level.energies)
    seen = (slice(None), slice(7, -4), *[slice(4, -4)] * 2)
    before, after = ((u * grid.per_axis(u)).norm(dim=1)[seen].mean() for u in (truth, found.displacement - truth))
    assert after < 0.7 * before, f"{after:.2f} mm are left of {before:.2f}"


def test_brightness_and_contrast_do_not_matter():
    grid = GRIDS[2]
    pair, truth = bent(grid)
    config = LCCDemonsConfig(iterations=(20, 15, 10))
    plain = config.build().register(pair).displacement
    other = config.build().register(Pair(0.8 * pair.moving + 0.2, pair.fixed, grid)).displacement
    assert inner(other - plain, grid).mean() < 0.1 * inner(truth, grid).mean()


def test_the_two_images_play_one_part():
    grid = GRIDS[2]
    pair, truth = bent(grid)
    config = LCCDemonsConfig(iterations=(20, 15, 10))
    there = config.build().register(pair)
    back = config.build().register(Pair(pair.fixed, pair.moving, grid))
    assert inner(there.displacement - back.inverse, grid).mean() < 0.02 * inner(truth, grid).mean()


def test_a_large_motion_does_not_fold():
    grid = GRIDS[2]
    pair = Pair(texture(grid, 2), texture(grid, 3), grid)  # images that have nothing to do with one another
    found = LCCDemonsConfig(elastic=0.3, fluid=0.3, step=3.0).build().register(pair)
    assert folds(found.displacement) == 0 and folds(found.inverse) == 0


def test_several_channels_count():
    grid = GRIDS[2]
    pair, truth = bent(grid)
    flat = torch.full_like(pair.fixed, 0.5)
    both = Pair(torch.cat([flat, pair.moving], 1), torch.cat([flat, pair.fixed], 1), grid)
    found = LCCDemonsConfig().build().register(both)
    assert inner(found.displacement - truth, grid).mean() < 0.5 * inner(truth, grid).mean()
