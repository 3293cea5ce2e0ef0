"""A finer kernel around the lesion: the window, the blended root, and what it is for."""

from dataclasses import replace

import pytest
import torch

from mmtk.fields import Gaussian, Grid, Lattice, Smoother, Sum, warp
from mmtk.method import Pair, silent
from mmtk.optimize import level_axes
from mmtk.similarity import SquaredDifference
from mmtk_metamorphosis.detail import Detail, window_around
from mmtk_metamorphosis.primal import _LevelEnergy, register_white
from mmtk_metamorphosis.settings import Settings
from mmtk_metamorphosis.white import WhiteFlow


def ball(shape, center, radius):
    axes = torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in shape], indexing="ij")
    return (sum((a - c) ** 2 for a, c in zip(axes, center, strict=True)) < radius**2).float()[None, None]


@pytest.mark.parametrize("shape", [(150, 170), (50, 60, 44)])
def test_the_window_is_whole_near_the_lesion_and_nothing_far_from_it(shape):
    grid = Grid(shape, (4.0, 3.0, 4.0)[: len(shape)])
    lattice = Lattice(grid, 5.0, 20.0)
    center = [n // 3 for n in shape]
    window = window_around(ball(shape, center, 3), lattice)
    assert window.shape == (1, 1, *lattice.nodes)
    # Distance of every node from the middle of the ball, whose radius is between 9 and 12 mm.
    places = [
        (torch.arange(n) - lattice.positions(axis, torch.tensor([float(center[axis])]))) * lattice.spacing
        for axis, n in enumerate(lattice.nodes)
    ]
    away = torch.stack(torch.meshgrid(*places, indexing="ij")).norm(dim=0)
    assert torch.all(window[0, 0][away < 15 + 9 - 9] == 1)
    assert torch.all(window[0, 0][away > 40 + 12 + 9] == 0)
    assert 0 < float(window[0, 0][(away > 30) & (away < 40)].mean()) < 1


def test_without_a_lesion_there_is_no_window():
    assert not window_around(torch.zeros(1, 1, 30, 30), Lattice(Grid((30, 30), (1.0, 1.0)), 4.0, 9.0)).any()


def test_the_root_is_that_of_the_finer_kernel_where_the_window_is_whole():
    grid = Grid((40, 36), (4.0, 4.0))
    flow = WhiteFlow(Gaussian(16.0), grid, 6.0)
    white = torch.randn(flow.shape, generator=torch.Generator().manual_seed(0))
    plain = flow.velocity(white)
    finer = Smoother(Sum((Gaussian(16.0), Gaussian(7.0)), (1.0, 0.05)), flow.lattice.box).root(white) / 6.0
    flow.detail = Detail.around(ball((40, 36), (12, 12), 3), flow.lattice, Gaussian(16.0), 7.0)
    blended, window = flow.velocity(white), flow.detail.window.expand_as(plain)
    torch.testing.assert_close(blended[window == 1], finer[window == 1])
    torch.testing.assert_close(blended[window == 0], plain[window == 0])


def test_the_gradient_is_that_of_the_energy():
    fixed = ball((30, 28), (14, 14), 8).double()
    mask = ball((30, 28), (14, 14), 4).double()
    pair = Pair(fixed.roll(1, 2), fixed, Grid((30, 28), (2.0, 2.0)), mask=mask)
    settings = Settings(Gaussian(12.0), 6.0, SquaredDifference(), 1e-4, detail=6.0, lesion="grew")
    flow = WhiteFlow(settings.kernel, pair.grid, 6.0)
    flow.detail = Detail.around(mask, flow.lattice, settings.kernel, 6.0)
    energy = _LevelEnergy(pair, level_axes(pair.grid, pair.box, 2.0), flow, settings)
    rng = torch.Generator().manual_seed(1)
    white = torch.randn(flow.shape, generator=rng, dtype=torch.float64).flatten()
    direction = torch.randn(white.shape, generator=rng, dtype=torch.float64)
    h = 1e-5
    difference = (energy(white + h * direction)[0] - energy(white - h * direction)[0]) / (2 * h)
    assert difference == pytest.approx(float(energy(white)[1] @ direction), rel=1e-4)


def test_what_a_tumor_pushed_aside_is_found_better():
    """A texture pushed away from a point by a bump that a kernel of 24 mm cannot follow."""
    shape, spacing = (90, 90), 2.0
    grid = Grid(shape, (spacing, spacing))
    texture = Smoother(Gaussian(5.0), grid)(torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(0)))
    fixed = (texture - texture.min()) / (texture.max() - texture.min())
    axes = torch.stack(torch.meshgrid(*[torch.arange(n) - 45.0 for n in shape], indexing="ij"))[None] * spacing
    away = axes.norm(dim=1, keepdim=True)
    # moving = fixed pushed outwards; the displacement sought points the other way round: fixed to moving.
    truth = axes / away.clamp_min(1) * 5 * (away / 12) * torch.exp(0.5 - 0.5 * (away / 12) ** 2) / spacing
    inverse = torch.zeros_like(truth)
    for _ in range(40):
        inverse = -warp(truth, inverse)
    moving = warp(fixed, inverse, "cubic")
    pair = Pair(moving, fixed, grid, mask=ball(shape, (45, 45), 4))
    settings = Settings(
        Gaussian(24.0), 6.0, SquaredDifference(), 2e-6, mu=0.03, levels=(4.0, 2.0), iterations=(12, 12)
    )
    near = (away > 12) & (away < 24)
    errors = {}
    for width in (0.0, 7.0):
        found = register_white(pair, replace(settings, detail=width), silent)
        errors[width] = float(((found.displacement - truth).norm(dim=1, keepdim=True) * spacing)[near].mean())
    assert errors[7.0] < 0.7 * errors[0.0]
