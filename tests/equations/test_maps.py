"""Maps on the full grid and on the nodes of a lattice."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mmtk.equations import FullMaps, Maps, NodeMaps
from mmtk.fields import Gaussian, Grid, Lattice, Smoother, identity, sample, warp

GRID = Grid((20, 26), (1.0, 1.5))


def both() -> list[Maps]:
    return [FullMaps(GRID, periodic=False), FullMaps(GRID, periodic=True), NodeMaps(Lattice(GRID, 3.0, 12.0))]


every_box = pytest.mark.parametrize("maps", both(), ids=["border", "periodic", "nodes"])


def smooth(maps: Maps, channels: int, *, sigma: float = 2.0, seed: int = 0) -> Tensor:
    """A field as smooth as a kernel of ``sigma`` box spacings makes it, of size 1."""
    draw = torch.Generator().manual_seed(seed)
    box = Grid(maps.box.shape, (1.0,) * maps.box.dim)
    noise = torch.randn(1, channels, *box.shape, generator=draw, dtype=torch.float64)
    field = Smoother(Gaussian(sigma), box).smooth(noise)
    return field / field.abs().max()


@every_box
def test_gather_is_the_transpose_of_refine(maps: Maps) -> None:
    torch.manual_seed(0)
    coarse, fine = torch.randn(1, 2, *maps.box.shape).double(), torch.randn(1, 2, *GRID.shape).double()
    torch.testing.assert_close((maps.refine(coarse) * fine).sum(), (coarse * maps.gather(fine)).sum())


@every_box
@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_spread_is_the_transpose_of_sampling(maps: Maps, mode: str) -> None:
    torch.manual_seed(0)
    a, b = torch.randn(2, 1, 3, *maps.box.shape, dtype=torch.float64)
    u = 3 * smooth(maps, 2)
    torch.testing.assert_close((maps.at(a, u, mode) * b).sum(), (a * maps.spread(b, u, mode)).sum())
    inputs = (b[:, :1].clone().requires_grad_(), u.clone().requires_grad_())
    assert torch.autograd.gradcheck(lambda x, y: maps.spread(x, y, mode), inputs, fast_mode=True)


@every_box
def test_a_displacement_and_a_slope_keep_their_product_between_units(maps: Maps) -> None:
    u, slope = smooth(maps, 2), smooth(maps, 2, seed=1)
    torch.testing.assert_close(maps.in_voxels(u) * slope, u * maps.per_spacing(slope))


@every_box
def test_nothing_moves_by_nothing(maps: Maps) -> None:
    field = smooth(maps, 3)
    still = maps.zeros(field)
    for moved in (maps.at(field, still), maps.advect(field, still)):
        torch.testing.assert_close(moved, field)
    image = torch.rand(1, 1, *GRID.shape).double()
    torch.testing.assert_close(maps.carry(image, still), image)


@every_box
@pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
def test_carrying_an_image_is_warping_it_by_the_refined_displacement(maps: Maps, mode: str) -> None:
    image, u = torch.rand(1, 2, *GRID.shape).double(), 1.5 * smooth(maps, 2)
    expected = warp(image, maps.displacement(u), mode, maps.padding)
    torch.testing.assert_close(maps.carry(image, u, mode), expected)


def test_the_slope_on_nodes_is_of_fourth_order() -> None:
    errors = []
    for n in (16, 32):
        grid = Grid((n, n), (1.0, 1.0))
        lattice = Lattice(grid, 1.0, 0.0)
        maps = NodeMaps(lattice)
        x = 2 * math.pi * torch.arange(lattice.nodes[0], dtype=torch.float64) / lattice.nodes[0]
        wave = torch.sin(3 * x).view(1, 1, -1, 1).expand(1, 1, *lattice.nodes)
        exact = 3 * 2 * math.pi / lattice.nodes[0] * torch.cos(3 * x).view(1, 1, -1, 1)
        errors.append(float((maps.partial(wave, 0) - exact).abs().max()) * lattice.nodes[0])
    assert math.log2(errors[0] / errors[1]) > 3.5


def test_on_nodes_a_small_step_is_nearly_as_good_as_cubic_and_far_better_than_linear() -> None:
    maps = NodeMaps(Lattice(GRID, 3.0, 12.0))
    field, step = smooth(maps, 3), 0.7 * smooth(maps, 2, seed=1)
    exact = maps.advect(field, step, "cubic")
    points = identity(maps.box.shape, dtype=torch.float64) + step
    linear = float((sample(field, points, padding="periodic") - exact).abs().mean())
    assert float((maps.advect(field, step) - exact).abs().mean()) < 0.2 * linear
    assert float((maps.at(field, step) - exact).abs().mean()) < 0.4 * linear


@every_box
def test_the_divergence_of_a_linear_field_is_its_trace(maps: Maps) -> None:
    x = identity(maps.box.shape, dtype=torch.float64)
    v = torch.cat([0.2 * x[:, :1] + 0.1 * x[:, 1:], -0.3 * x[:, 1:]], dim=1)
    inner = maps.divergence(v)[0, 0, 6:-6, 6:-6]
    torch.testing.assert_close(inner, torch.full_like(inner, -0.1), atol=1e-3, rtol=0)


@every_box
@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_gradients_pass_through_sampling(maps: Maps, mode: str) -> None:
    field, u = smooth(maps, 1).requires_grad_(), (0.6 * smooth(maps, 2, seed=1)).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: maps.advect(a, b, mode), (field, u), fast_mode=True)
    assert torch.autograd.gradcheck(lambda a, b: maps.at(a, 3 * b, mode), (field, u), fast_mode=True)


@pytest.mark.parametrize("lost", ["one", "all"])
def test_a_path_that_left_all_numbers_gives_none_and_takes_no_process_with_it(lost: str) -> None:
    maps = NodeMaps(Lattice(GRID, 3.0, 12.0))
    u, field = smooth(maps, 2).float(), smooth(maps, 1).float().requires_grad_()
    u[(..., 3, 4) if lost == "one" else ...] = torch.nan
    u.requires_grad_()
    image = torch.rand(1, 1, *GRID.shape, requires_grad=True)
    for taken in (maps.at(field, u), maps.advect(field, u), maps.spread(field, u), maps.carry(image, u)):
        assert torch.isnan(taken).any()
        taken.nansum().backward()
