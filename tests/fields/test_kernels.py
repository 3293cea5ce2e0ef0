"""Kernels and the control lattice: units, adjoints, and what they must not depend on."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from mmtk.fields import (
    Gaussian,
    Grid,
    Lattice,
    Smoother,
    Sobolev,
    Sum,
    compose,
    exponential,
    fast_length,
    identity,
    jacobian_determinant,
    sample,
)

KERNELS = [
    Gaussian(4.0),
    Gaussian((2.0, 5.0)),
    Sum((Gaussian(6.0), Gaussian(3.0)), (1.0, 0.1)),
    Sobolev(4.0, 2.0),
]


def noise(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: type(k).__name__)
@pytest.mark.parametrize("padding", [0.0, 12.0])
def test_kernels_are_self_adjoint_and_positive(kernel, padding):
    smoother = Smoother(kernel, Grid((15, 18), (1.0, 1.5)), padding)
    a, b = noise(1, 2, 15, 18), noise(1, 2, 15, 18, seed=1)
    torch.testing.assert_close((smoother(a) * b).sum(), (a * smoother(b)).sum())
    assert float((a * smoother(a)).sum()) > 0


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: type(k).__name__)
def test_twice_the_root_is_the_kernel_on_a_periodic_box(kernel):
    smoother = Smoother(kernel, Grid((20, 24), (1.0, 1.5)))
    a = noise(1, 3, 20, 24)
    torch.testing.assert_close(smoother.root(smoother.root(a)), smoother(a))


def test_a_gaussian_agrees_with_scipy_in_millimeters():
    spacing, sigma = (1.0, 2.0, 1.5), 4.0
    smoother = Smoother(Gaussian(sigma), Grid((32, 24, 28), spacing))
    a = noise(1, 1, 32, 24, 28)
    expected = ndimage.gaussian_filter(
        a[0, 0].numpy(), [sigma / h for h in spacing], mode="wrap", truncate=8, radius=[32, 16, 21]
    )
    np.testing.assert_allclose(smoother(a)[0, 0].numpy(), expected, atol=2e-6)


def test_a_kernel_of_unit_sum_keeps_a_constant():
    a = torch.full((1, 1, 12, 10), 3.0)
    torch.testing.assert_close(Smoother(Gaussian(5.0), Grid((12, 10), (1.0, 1.0)))(a), a)


def test_a_width_is_millimeters_at_any_spacing():
    fine = Smoother(Gaussian(6.0), Grid((96,) * 2, (0.5, 0.5)))
    coarse = Smoother(Gaussian(6.0), Grid((48,) * 2, (1.0, 1.0)))
    bump = torch.zeros(1, 1, 48, 48, dtype=torch.float64)
    bump[..., 20:28, 22:26] = 1
    spread = bump.repeat_interleave(2, 2).repeat_interleave(2, 3)
    mean = torch.nn.functional.avg_pool2d(fine(spread), 2)
    torch.testing.assert_close(mean, coarse(bump), atol=2e-3, rtol=0)


def test_a_kernel_with_the_wrong_number_of_widths_is_refused():
    with pytest.raises(ValueError, match="2 widths"):
        Smoother(Gaussian((1.0, 2.0)), Grid((8, 8, 8), (1.0,) * 3))(torch.zeros(1, 1, 8, 8, 8))


@pytest.mark.parametrize("n", [1, 7, 11, 13, 97, 121])
def test_fast_lengths_have_small_prime_factors(n):
    found = fast_length(n)
    rest = found
    for prime in (2, 3, 5):
        while rest % prime == 0:
            rest //= prime
    assert found >= n and rest == 1


@pytest.mark.parametrize("shape", [(21, 30), (12, 17, 9)])
def test_restriction_is_the_exact_transpose_of_prolongation(shape):
    lattice = Lattice(Grid(shape, (1.0, 1.5, 2.0)[: len(shape)]), 4.0, padding=10.0)
    a, b = noise(1, 2, *lattice.nodes), noise(1, 2, *shape, seed=1)
    torch.testing.assert_close((lattice.prolong(a) * b).sum(), (a * lattice.restrict(b)).sum())


def test_the_nodes_of_a_part_of_the_grid_lie_where_they_are_told_to():
    grid = Grid((20, 30), (1.0, 2.0))
    lattice = Lattice(grid, 4.0, 12.0, [slice(3, 17), slice(0, 30)])
    points = lattice.points(torch.zeros(1, dtype=torch.float64))
    assert points.shape == (1, 2, *lattice.nodes)
    for axis, line in enumerate((points[0, 0, :, 0], points[0, 1, 0])):
        there = torch.arange(lattice.nodes[axis], dtype=torch.float64)
        torch.testing.assert_close(lattice.positions(axis, line), there)
        middle = {0: 9.5, 1: 14.5}[axis]  # of rows 3 to 16, and of columns 0 to 29
        torch.testing.assert_close(line.mean(), torch.tensor(middle, dtype=torch.float64))


def test_prolongation_reproduces_a_band_limited_field():
    grid = Grid((60, 50), (1.0, 1.0))
    lattice = Lattice(grid, 4.0, padding=4.0)
    period = lattice.nodes[0] * lattice.spacing
    nodes = lattice.spacing * (torch.arange(lattice.nodes[0], dtype=torch.float64) - lattice.before[0])
    coarse = torch.cos(2 * math.pi * 2 * nodes / period).view(1, 1, -1, 1).expand(1, 1, *lattice.nodes)
    x = torch.arange(60, dtype=torch.float64)
    exact = torch.cos(2 * math.pi * 2 * x / period).view(-1, 1).expand(60, 50)
    assert float((lattice.prolong(coarse)[0, 0] - exact).abs().max()) < 2e-3


def test_the_flow_on_the_lattice_is_the_flow_on_the_full_grid():
    grid = Grid((72, 64), (1.0, 1.0))
    lattice = Lattice(grid, 4.0, padding=24.0)
    w = noise(1, 2, *lattice.nodes)
    velocity = Smoother(Gaussian(8.0), lattice.box)(w)
    velocity *= 6.0 / 4.0 / velocity.abs().max()  # 6 mm in node spacings
    coarse = lattice.in_voxels(lattice.prolong(lattice.exponential(velocity, 8)))
    # The full-size reference lives on the whole period, one voxel a millimeter.
    dense = lattice.finer(4)
    full = exponential(4 * lattice.refined(velocity, 4), 8, "cubic", "periodic")
    assert tuple(full.shape[2:]) == dense.nodes
    inside = identity((72, 64), dtype=torch.float64) + torch.tensor(dense.before).view(1, 2, 1, 1)
    part = sample(full, inside, "cubic", "periodic")
    determinant = jacobian_determinant(part)
    assert float(determinant.min()) > 0.4 and float(determinant.max()) < 2.5
    assert float((coarse - part).abs().max()) < 0.05


def test_the_inverse_on_the_fine_grid_undoes_the_flow():
    grid = Grid((64, 56), (1.0, 1.25))
    lattice = Lattice(grid, 4.0, padding=24.0)
    velocity = Smoother(Gaussian(8.0), lattice.box)(noise(1, 2, *lattice.nodes, seed=4))
    velocity *= 1.2 / velocity.abs().max()
    nodes = lattice.exponential(velocity, 7)
    inverse = lattice.invert(nodes, lattice.exponential(-velocity, 7))
    there_and_back = compose(lattice.in_voxels(lattice.prolong(nodes)), inverse)
    assert float(there_and_back[..., 8:-8, 8:-8].abs().max()) < 0.02
