"""Regularizers: closed forms, peers, gradients, and independence of the resolution."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from mmtk.errors import ConfigError, GridMismatch
from mmtk.fields import Gaussian, Grid, Smoother, gradient, identity, invert
from mmtk.regularizers import (
    Bending,
    Deformation,
    Diffusion,
    InverseConsistency,
    JacobianBarrier,
    ResidualNorm,
    VelocityNorm,
    norm_of_momentum,
    norm_of_white,
)

GRIDS = {2: Grid((6, 5), (0.5, 2.0)), 3: Grid((4, 5, 3), (1.0, 0.5, 2.0))}
ON_DISPLACEMENTS = [Diffusion, Bending, JacobianBarrier, InverseConsistency]


def random(*shape, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def millimeters(grid):
    """Coordinates in mm, ``(1, dim, *space)``."""
    x = identity(grid.shape, dtype=torch.float64)
    return x * grid.per_axis(x)


def in_voxels(u, grid):
    return u / grid.per_axis(u)


def price(regularizer, grid, u, **fields):
    if isinstance(regularizer, InverseConsistency):
        fields.setdefault("inverse", -u)
    return regularizer(Deformation(grid=grid, displacement=u, **fields))


# --- laws ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("make", ON_DISPLACEMENTS, ids=lambda c: c.__name__)
def test_the_gradient_by_the_displacement_is_right(make, dim):
    grid = GRIDS[dim]
    u = random(1, dim, *grid.shape, scale=0.4).requires_grad_()
    fixed_inverse = random(1, dim, *grid.shape, seed=1, scale=0.4)
    assert gradcheck(lambda u: price(make(), grid, u, inverse=fixed_inverse), u)


def test_the_gradient_by_the_inverse_is_right():
    grid = GRIDS[2]
    u = random(1, 2, *grid.shape, scale=0.3)
    w = random(1, 2, *grid.shape, seed=1, scale=0.3).requires_grad_()
    assert gradcheck(lambda w: price(InverseConsistency(), grid, u, inverse=w), w)


def test_the_gradients_of_the_norms_are_right():
    grid = GRIDS[3]
    mask = random(1, 1, *grid.shape).sigmoid().requires_grad_()
    residual = random(1, 2, *grid.shape).requires_grad_()
    assert gradcheck(lambda r, m: ResidualNorm()(Deformation(grid=grid, residual=r, mask=m)), (residual, mask))
    w = random(1, 3, *grid.shape).requires_grad_()
    norm = VelocityNorm()
    assert gradcheck(lambda w: norm(Deformation(grid=grid, velocity_norm=norm_of_white(w, grid))), w)


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("make", ON_DISPLACEMENTS, ids=lambda c: c.__name__)
def test_rest_costs_nothing_and_motion_does_not_pay(make, dim):
    grid = GRIDS[dim]
    u = random(1, dim, *grid.shape)
    assert price(make(), grid, 0 * u) == 0
    assert price(make(), grid, u) > 0


@pytest.mark.parametrize("make", ON_DISPLACEMENTS, ids=lambda c: c.__name__)
def test_a_batch_is_the_sum_of_its_elements(make):
    grid = GRIDS[3]
    u = random(3, 3, *grid.shape)
    alone = sum(price(make(), grid, u[i : i + 1]) for i in range(3))
    torch.testing.assert_close(price(make(), grid, u), alone)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("make", ON_DISPLACEMENTS, ids=lambda c: c.__name__)
def test_dtype_and_device_stay(make, dtype):
    grid = GRIDS[2]
    u = random(1, 2, *grid.shape).to(dtype)
    before = u.clone()
    energy = price(make(), grid, u)
    assert (energy.dtype, energy.device, energy.shape) == (dtype, u.device, ())
    assert torch.equal(u, before)


@pytest.mark.parametrize(
    "regularizer", [Diffusion(), Bending(), JacobianBarrier(threshold=0.8), InverseConsistency()], ids=repr
)
def test_values_do_not_depend_on_the_resolution(regularizer):
    """One smooth field in mm, sampled on two grids over the same box."""

    def value(n):
        spacing = (12 / n, 24 / n)
        grid = Grid((n, n), spacing)
        x = millimeters(grid) + torch.tensor([s / 2 for s in spacing]).view(1, 2, 1, 1)
        a, b = 2 * math.pi * x[:, 0] / 12, 2 * math.pi * x[:, 1] / 24
        u = in_voxels(torch.stack([1.6 * a.sin() * b.cos(), 1.5 * (a + b).cos()], 1), grid)
        return float(price(regularizer, grid, u))

    assert value(64) == pytest.approx(value(128), rel=0.02) and value(64) > 0.1


monai_indexes_by_lists = pytest.mark.filterwarnings("ignore:Using a non-tuple sequence:UserWarning")


# --- closed forms and peers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [2, 3])
def test_smoothness_of_affine_and_quadratic_maps(dim):
    grid = GRIDS[dim]
    volume = grid.size * grid.cell_volume
    x = millimeters(grid)
    matrix = random(dim, dim)
    affine = in_voxels(torch.einsum("ab,zb...->za...", matrix, x) + 3, grid)
    assert float(price(Diffusion(), grid, affine)) == pytest.approx(float(matrix.square().sum()) * volume)
    assert float(price(Bending(), grid, affine)) == pytest.approx(0, abs=1e-9)

    hessians = random(dim, dim, dim)
    hessians = hessians + hessians.transpose(1, 2)
    quadratic = in_voxels(0.5 * torch.einsum("cab,za...,zb...->zc...", hessians, x, x), grid)
    assert float(price(Bending(), grid, quadratic)) == pytest.approx(float(hessians.square().sum()) * volume)


@monai_indexes_by_lists
@pytest.mark.parametrize("dim", [2, 3])
def test_bending_is_that_of_monai_at_unit_spacing(dim):
    from monai.losses import BendingEnergyLoss

    grid = Grid((6, 5, 7)[:dim], (1.0,) * dim)
    u = random(1, dim, *grid.shape)
    theirs = BendingEnergyLoss(reduction="mean")(u) * dim * grid.size
    torch.testing.assert_close(price(Bending(), grid, u), theirs, check_dtype=False)


@monai_indexes_by_lists
def test_diffusion_is_that_of_monai_on_linear_fields():
    from monai.losses import DiffusionLoss

    grid = Grid((6, 5, 7), (1.0, 1.0, 1.0))
    u = torch.einsum("ab,zb...->za...", random(3, 3), millimeters(grid))
    theirs = DiffusionLoss(reduction="mean")(u) * 3 * grid.size
    torch.testing.assert_close(price(Diffusion(), grid, u), theirs, check_dtype=False)


def test_diffusion_is_a_sum_over_pairs_of_neighbors():
    grid = GRIDS[2]
    u = random(1, 2, *grid.shape)
    mm = (u * grid.per_axis(u))[0].numpy()
    expected = 0.0
    for axis, h in enumerate(grid.spacing):
        squares = (np.diff(mm, axis=axis + 1) / h) ** 2
        expected += squares.sum() / squares[0].size
    found = price(Diffusion(), grid, u)
    assert float(found) == pytest.approx(expected * grid.size * grid.cell_volume)


def test_smoothness_sees_a_field_that_alternates():
    grid = Grid((8, 8), (1.0, 1.0))
    u = torch.tensor([(-1.0) ** (i + j) for i, j in itertools.product(range(8), repeat=2)]).view(1, 1, 8, 8)
    u = u.expand(1, 2, 8, 8)
    assert price(Diffusion(), grid, u) > 100 and price(Bending(), grid, u) > 100


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("determinant", [0.5, 0.1, 0.05, 0.0, -0.2])
def test_the_barrier_prices_compression_below_its_threshold(dim, determinant):
    grid = GRIDS[dim]
    x = identity(grid.shape, dtype=torch.float64)
    u = torch.zeros_like(x)
    u[:, 0] = (determinant - 1) * x[:, 0]  # squeezes one axis
    expected = max(0.0, 1 - determinant / 0.1) ** 2 * grid.size * grid.cell_volume
    assert float(price(JacobianBarrier(threshold=0.1), grid, u)) == pytest.approx(expected, abs=1e-9)


def test_the_barrier_undoes_a_fold():
    grid = Grid((8, 8), (1.0, 1.0))
    u = torch.zeros(1, 2, 8, 8)
    u[0, 0, 3], u[0, 0, 4] = 1.5, -1.5
    for _ in range(200):
        u.requires_grad_()
        (g,) = torch.autograd.grad(price(JacobianBarrier(threshold=0.2), grid, u), u)
        u = (u - 0.01 * g).detach()
    assert price(JacobianBarrier(threshold=0.1), grid, u) < 1e-3


def test_inverse_consistency_of_translations():
    grid = Grid((6, 5), (0.5, 2.0))
    there = torch.tensor([1.0, -0.5]).view(1, 2, 1, 1).expand(1, 2, *grid.shape)
    back = -there + torch.tensor([0.2, 0.1]).view(1, 2, 1, 1)
    expected = ((0.2 * 0.5) ** 2 + (0.1 * 2.0) ** 2) * grid.size * grid.cell_volume
    assert float(price(InverseConsistency(), grid, there, inverse=back)) == pytest.approx(expected)
    assert price(InverseConsistency(), grid, there, inverse=-there) == 0


def test_inverse_consistency_is_small_for_an_inverse_and_not_for_the_negative():
    grid = Grid((24, 24), (1.0, 1.0))
    x = 2 * math.pi * identity(grid.shape, dtype=torch.float64) / 24
    u = 1.5 * torch.cat([x[:, :1].sin() * x[:, 1:].sin(), x[:, 1:].sin()], 1)
    inverse = invert(u, tolerance=1e-6)
    assert price(InverseConsistency(), grid, u, inverse=inverse) < 1e-8
    assert price(InverseConsistency(), grid, u, inverse=-u) > 1


def test_the_residual_counts_under_the_mask_alone():
    grid = GRIDS[2]
    residual, mask = random(1, 3, *grid.shape), random(1, 1, *grid.shape).sigmoid()
    expected = float((mask * residual**2).sum()) * grid.cell_volume
    assert float(ResidualNorm()(Deformation(grid=grid, residual=residual, mask=mask))) == pytest.approx(expected)
    torch.testing.assert_close(
        ResidualNorm()(Deformation(grid=grid, residual=residual)),
        ResidualNorm()(Deformation(grid=grid, residual=residual, mask=torch.ones_like(mask))),
    )


def test_the_velocity_norm_of_white_coefficients_is_that_of_their_momentum():
    """v = K^(1/2) w = K p: the two parametrizations of one velocity cost the same."""
    grid = Grid((16, 12), (1.0, 2.0))
    smoother = Smoother(Gaussian(3.0), grid, 0.0)
    p = random(1, 2, *grid.shape)  # per mm
    w = smoother.root(p)
    v = smoother.smooth(p)  # mm per unit time
    white = norm_of_white(w, grid)
    torch.testing.assert_close(norm_of_momentum(p * grid.per_axis(p), in_voxels(v, grid), grid), white)
    torch.testing.assert_close(VelocityNorm()(Deformation(grid=grid, velocity_norm=white)), white)


def test_the_momentum_of_an_image_costs_what_the_published_energy_says():
    """At 1 mm, <z grad I, K*(z grad I)> is the plain sum."""
    grid = Grid((12, 10), (1.0, 1.0))
    p = -random(1, 1, *grid.shape) * gradient(random(1, 1, *grid.shape, seed=1))
    v = Smoother(Gaussian(2.0), grid, 6.0).smooth(p)
    torch.testing.assert_close(norm_of_momentum(p, v, grid), (p * v).sum())


# --- errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (Diffusion, "displacement"),
        (Bending, "displacement"),
        (JacobianBarrier, "displacement"),
        (ResidualNorm, "residual"),
        (VelocityNorm, "velocity_norm"),
    ],
)
def test_a_field_that_the_method_does_not_give_is_named(make, name):
    with pytest.raises(ConfigError, match=f"{make.__name__} needs `{name}`, which this method does not give"):
        make()(Deformation(grid=GRIDS[2]))


def test_all_missing_fields_are_named():
    with pytest.raises(ConfigError, match="InverseConsistency needs `displacement` and `inverse`"):
        InverseConsistency()(Deformation(grid=GRIDS[2]))


def test_fields_off_the_grid_are_refused():
    with pytest.raises(GridMismatch, match="resample `displacement` onto the grid of `grid` first"):
        Deformation(grid=GRIDS[2], displacement=torch.zeros(1, 2, 5, 5))
    with pytest.raises(GridMismatch, match="`inverse`"):
        Deformation(grid=GRIDS[2], inverse=torch.zeros(1, 3, 6, 5))


def test_grids_too_small_and_thresholds_without_meaning_are_refused():
    grid = Grid((2, 5), (1.0, 1.0))
    with pytest.raises(ConfigError, match="Bending needs at least 3 voxels along each axis"):
        price(Bending(), grid, torch.zeros(1, 2, 2, 5))
    with pytest.raises(ConfigError, match="threshold: 0 must be positive"):
        JacobianBarrier(threshold=0)
