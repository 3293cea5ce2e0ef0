"""Folds, inverted volume, spread of the Jacobian."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from mmtk.fields import Grid, identity
from mmtk.metrics import fold_count, nondiffeomorphic_volume, sdlogj, sdlogj_learn2reg

GRIDS = {2: Grid((6, 7), (0.5, 2.0)), 3: Grid((5, 6, 4), (1.0, 0.5, 2.0))}


def linear(grid, diagonal):
    """The displacement of ``x -> diagonal * x``."""
    x = identity(grid.shape, dtype=torch.float64)
    return (torch.tensor(diagonal, dtype=torch.float64).view(1, -1, *[1] * grid.dim) - 1) * x


def random_displacement(grid, scale, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(1, grid.dim, *grid.shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("dim", [2, 3])
def test_a_reflection_folds_everywhere_and_a_stretch_nowhere(dim):
    grid = GRIDS[dim]
    cells = math.prod((n - 1) * h for n, h in zip(grid.shape, grid.spacing, strict=True))
    mirror, stretch = linear(grid, [-1.0, 1.0, 1.0][:dim]), linear(grid, [2.0, 0.5, 3.0][:dim])
    assert fold_count(mirror) == grid.size and fold_count(stretch) == 0
    assert nondiffeomorphic_volume(mirror, grid) == pytest.approx(cells)
    assert nondiffeomorphic_volume(stretch, grid) == 0
    half = torch.zeros(1, 1, *grid.shape)
    half[:, :, 1:] = 1
    assert fold_count(mirror, half) == grid.size - math.prod(grid.shape[1:])


def test_a_displacement_that_is_not_a_number_is_a_fold():
    u = torch.zeros(1, 2, 5, 5)
    u[0, 0, 2, 2] = torch.nan
    assert fold_count(u) > 0


@pytest.mark.parametrize("dim", [2, 3])
def test_the_inverted_volume_is_that_of_all_inverted_simplices(dim):
    """Every simplex of both cuts of every cell, oriented by itself, one at a time."""
    grid = GRIDS[dim]
    u = random_displacement(grid, 0.4)
    points = (identity(grid.shape, dtype=torch.float64) + u)[0].movedim(0, -1).numpy()
    if dim == 2:
        simplices = [[(i, j), (1 - i, j), (i, 1 - j)] for i, j in itertools.product((0, 1), repeat=2)]
    else:
        corners = list(itertools.product((0, 1), repeat=3))
        simplices = [[c, *((*c[:a], 1 - c[a], *c[a + 1 :]) for a in range(3))] for c in corners]
        simplices += [[c for c in corners if sum(c) % 2 == parity] for parity in (0, 1)]
    inverted = 0.0
    for cell in itertools.product(*(range(n - 1) for n in grid.shape)):
        for simplex in simplices:
            rest = np.array(simplex, dtype=float)
            here = np.array([points[tuple(np.add(cell, corner))] for corner in simplex])
            before, after = np.linalg.det(rest[1:] - rest[0]), np.linalg.det(here[1:] - here[0])
            inverted += max(0.0, -after * np.sign(before)) / math.factorial(dim)
    assert inverted > 0
    assert nondiffeomorphic_volume(u, grid) == pytest.approx(inverted / 2 * grid.cell_volume)


def test_the_inverted_volume_sees_what_central_differences_do_not():
    grid = Grid((9, 9), (1.0, 1.0))
    u = torch.zeros(1, 2, 9, 9)
    u[0, 0, ::2] = 1.2  # every other row jumps over the next
    assert fold_count(u[..., 1:-1, :]) <= 18
    assert nondiffeomorphic_volume(u, grid) > 1


@pytest.mark.parametrize("dim", [2, 3])
def test_sdlogj_is_the_deviation_of_the_log_determinant(dim):
    grid = GRIDS[dim]
    assert sdlogj(linear(grid, [2.0, 0.5, 3.0][:dim])) == pytest.approx(0, abs=1e-12)
    # x -> (exp(x) - 1) / 10: the determinant follows from central differences of the exponential.
    x = identity((40,) + (4,) * (dim - 1), dtype=torch.float64)
    u = torch.zeros_like(x)
    u[:, 0] = (0.05 * x[:, 0]).exp() / 0.05 - x[:, 0]
    where = torch.zeros_like(x[:, :1])
    where[:, :, 1:-1] = 1
    expected = 0.05 * np.std(np.arange(1, 39))
    assert sdlogj(u, where) == pytest.approx(expected, rel=1e-9)
    assert math.isnan(sdlogj(u, 0 * where))


def test_a_fold_raises_sdlogj_and_not_that_of_learn2reg():
    u = random_displacement(Grid((12, 12, 12), (1.0,) * 3), 0.02)
    folded = u.clone()
    folded[0, 0, 5, 5, 5] += 3
    assert fold_count(folded) > 0
    assert sdlogj(folded) > 5 * sdlogj(u)
    assert sdlogj_learn2reg(folded) < 0.1


def test_sdlogj_of_learn2reg_is_that_of_scipy_filters():
    u = random_displacement(Grid((9, 8, 10), (1.0,) * 3), 0.2)[0].numpy()
    jacobian = np.empty((3, 3, *u.shape[1:]))
    for a, b in np.ndindex(3, 3):
        shape = [1, 1, 1]
        shape[b] = 3
        kernel = np.array([-0.5, 0, 0.5]).reshape(shape)
        jacobian[a, b] = ndimage.correlate(u[a], kernel, mode="constant") + (a == b)
    determinant = np.linalg.det(np.moveaxis(jacobian, (0, 1), (-2, -1)))[2:-2, 2:-2, 2:-2]
    expected = np.log(np.clip(determinant + 3, 1e-9, 1e9)).std()
    assert sdlogj_learn2reg(torch.from_numpy(u)[None]) == pytest.approx(expected)
