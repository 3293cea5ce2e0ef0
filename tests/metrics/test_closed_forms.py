"""Metrics on maps and images whose numbers are known in closed form."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtk.errors import GridMismatch
from mmtk.fields import Grid, identity, jacobian_determinant
from mmtk.metrics import (
    Moments,
    appearance_energy_outside,
    appearance_leak,
    correlation,
    edge_error,
    fold_count,
    landmark_errors,
    mass_effect,
    nondiffeomorphic_volume,
    sdlogj,
    sdlogj_learn2reg,
    shape_share,
    surface_distances,
    total,
    truth_errors,
    visible_edges,
)
from mmtk.metrics.topology import _steep


def radii(shape, spacing):
    """Vectors from the center and their lengths, mm: ``(dim, *space)`` and ``(*space)``."""
    center = [(n - 1) / 2 for n in shape]
    axes = [(np.arange(n) - c) * h for n, c, h in zip(shape, center, spacing, strict=True)]
    vectors = np.stack(np.meshgrid(*axes, indexing="ij"))
    return vectors, np.sqrt((vectors**2).sum(0))


def radial(shape, spacing, to):
    """The displacement in voxels of a map that takes radius r mm to ``to(r)``, and the radii."""
    vectors, r = radii(shape, spacing)
    stretch = to(np.maximum(r, 1e-9)) / np.maximum(r, 1e-9) - 1
    u = vectors * stretch / np.reshape(spacing, (-1, *[1] * len(shape)))
    return torch.from_numpy(u)[None], torch.from_numpy(r)


def linear(matrix, grid):
    """The displacement of the linear map ``matrix`` of millimeters about the first voxel."""
    x = identity(grid.shape, dtype=torch.float64)
    h = grid.per_axis(x)
    return torch.einsum("ab,zb...->za...", matrix, x * h) / h - x


@settings(deadline=None, max_examples=25)
@given(
    angles=st.tuples(*[st.floats(-1, 1)] * 3),
    spacing=st.tuples(*[st.floats(0.5, 3)] * 3),
)
def test_a_rotation_has_determinant_1_and_neither_folds_nor_spreads(angles, spacing):
    a, b, c = angles
    turn = torch.linalg.matrix_exp(torch.tensor([[0.0, -c, b], [c, 0.0, -a], [-b, a, 0.0]], dtype=torch.float64))
    grid = Grid((6, 5, 7), spacing)
    u = linear(turn, grid)
    torch.testing.assert_close(jacobian_determinant(u), torch.ones(1, 1, 6, 5, 7, dtype=torch.float64))
    assert sdlogj(u) == pytest.approx(0, abs=1e-12) and sdlogj_learn2reg(u) == pytest.approx(0, abs=1e-12)
    assert fold_count(u) == 0 and nondiffeomorphic_volume(u, grid) == pytest.approx(0, abs=1e-9)


def test_the_volume_of_a_mirrored_part_is_folded_whole():
    """x -> |x - 8| - 8 mirrors the 8 columns before the ninth: all their volume is inside out."""
    grid = Grid((17, 5, 6), (0.5, 2.0, 1.0))
    x = identity(grid.shape, dtype=torch.float64)
    u = torch.zeros_like(x)
    u[:, 0] = (x[:, 0] - 8).abs() - x[:, 0]
    assert nondiffeomorphic_volume(u, grid) == pytest.approx(8 * 4 * 5 * grid.cell_volume)
    assert fold_count(u) == 9 * 5 * 6  # central differences give 0 at the crease


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), scale=st.floats(0.02, 0.6), dim=st.sampled_from([2, 3]))
def test_no_simplex_of_a_cell_that_is_passed_over_is_inverted(seed, scale, dim):
    shape = (4, 5, 3)[:dim]
    generator = torch.Generator().manual_seed(seed)
    u = scale * torch.randn(1, dim, *shape, generator=generator, dtype=torch.float64)
    points = (identity(shape, dtype=torch.float64) + u)[0]
    steep = _steep(u[0])
    corners = list(itertools.product((0, 1), repeat=dim))
    simplices = [[c, *((*c[:a], 1 - c[a], *c[a + 1 :]) for a in range(dim))] for c in corners]
    if dim == 3:
        simplices += [[c for c in corners if sum(c) % 2 == parity] for parity in (0, 1)]
    for cell in itertools.product(*(range(n - 1) for n in shape)):
        if bool(steep[cell]):
            continue
        for simplex in simplices:
            here = torch.stack([points[(slice(None), *np.add(cell, c))] for c in simplex])
            rest = torch.tensor(simplex, dtype=torch.float64)
            sign = torch.linalg.det(rest[1:] - rest[0])
            assert float(torch.linalg.det(here[1:] - here[0]) * sign) > 0


def test_a_gentle_map_is_passed_over_as_a_whole_and_a_fold_is_not():
    u = 0.01 * torch.randn(1, 3, 6, 6, 6, generator=torch.Generator().manual_seed(0))
    assert not _steep(u[0]).any()
    u[0, 0, 3, 3, 3] += 1.5
    assert nondiffeomorphic_volume(u, Grid((6, 6, 6), (1.0,) * 3)) > 0
    u[0, 0, 3, 3, 3] = torch.nan
    assert math.isnan(nondiffeomorphic_volume(u, Grid((6, 6, 6), (1.0,) * 3)))


@pytest.mark.parametrize("push", [0.4, -0.3])
def test_the_mass_effect_is_the_volume_that_a_shell_lost_to_the_lesion(push):
    """Radius r goes to ``r (1 + push exp(-r^2 / 32))``: the shell from 6 to 16 mm goes to one of known volume."""
    a, b, spacing = 6.0, 16.0, (1.0, 1.25, 0.8)

    def to(r):
        return r * (1 + push * np.exp(-(r**2) / 32))

    u, r = radial((40, 33, 49), spacing, to)
    found = mass_effect(jacobian_determinant(u)[0, 0], (r <= a).double(), spacing, width=b - a, where=r <= b)
    shell, moved = (4 / 3 * math.pi * (outer**3 - inner**3) for inner, outer in ((a, b), (to(a), to(b))))
    assert math.copysign(1, found.volume) == math.copysign(1, push)
    assert found.volume == pytest.approx(shell - moved, rel=0.05)
    assert found.compression == pytest.approx(1 - moved / shell, rel=0.05)


def test_mass_effect_is_0_where_nothing_moved_and_nan_without_a_lesion_or_shell():
    ones, lesion = torch.ones(9, 9), torch.zeros(9, 9)
    assert math.isnan(mass_effect(ones, lesion, (1.0, 1.0)).compression)
    lesion[4, 4] = 1
    assert mass_effect(ones, lesion, (1.0, 1.0)) == (0, 0)
    assert math.isnan(mass_effect(ones, lesion, (1.0, 1.0), where=lesion > 0).volume)
    with pytest.raises(GridMismatch, match="resample `determinant`"):
        mass_effect(ones[1:], lesion, (1.0, 1.0))


def test_the_shell_is_measured_in_millimeters():
    """Determinant 0 on one plane 4 mm from the lesion, 2 voxels away along the coarse axis."""
    determinant, lesion = torch.ones(9, 9), torch.zeros(9, 9)
    lesion[4] = 1
    determinant[6] = 0
    assert mass_effect(determinant, lesion, (2.0, 1.0), width=3.9).volume == 0
    assert mass_effect(determinant, lesion, (2.0, 1.0), width=4.0).volume == pytest.approx(9 * 2)


def test_shape_alone_has_share_1_and_no_appearance():
    grid = Grid((12, 12), (1.0, 2.0))
    moving = torch.rand(1, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    deformed, mask = moving.roll(1, 2), torch.zeros(1, 1, 12, 12)
    mask[..., 3:6, 3:6] = 1
    assert shape_share(moving, deformed, deformed) == 1
    assert appearance_energy_outside(deformed, deformed, mask, grid) == 0
    assert math.isnan(appearance_leak(deformed, deformed, mask))


def test_appearance_alone_has_share_0_and_leaks_what_lies_outside():
    grid = Grid((12, 12), (1.0, 2.0))
    moving = torch.rand(1, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    mask, change = torch.zeros(1, 1, 12, 12), torch.zeros(1, 1, 12, 12)
    mask[..., :3, :] = 1
    change[..., 1:5, 0] = 0.5  # two voxels inside, two outside
    assert shape_share(moving, moving, moving + change) == 0
    assert appearance_leak(moving + change, moving, mask) == pytest.approx(0.5, abs=1e-6)
    assert appearance_energy_outside(moving + change, moving, mask, grid) == pytest.approx(2 * 0.25 * 2, abs=1e-6)
    assert appearance_leak(moving + change * mask, moving, mask) == 0
    assert appearance_leak(moving + change * (1 - mask), moving, mask) == 1


def test_correlation_is_that_of_numpy_where_there_is_weight():
    rng = np.random.default_rng(0)
    a, b = rng.normal(300, 20, (2, 1, 1, 9, 8, 7)).astype(np.float32)
    b += a
    weight = rng.random((1, 1, 9, 8, 7)) < 0.5
    expected = np.corrcoef(a[weight], b[weight])[0, 1]
    damaged = torch.from_numpy(np.where(weight, a, np.inf).astype(np.float32))
    assert correlation(damaged, torch.from_numpy(b), torch.from_numpy(weight)) == pytest.approx(expected, abs=1e-4)
    assert correlation(*map(torch.from_numpy, (a, -2 * a + 1))) == pytest.approx(-1, abs=1e-5)
    assert math.isnan(correlation(torch.ones(1, 1, 4, 4), torch.rand(1, 1, 4, 4)))


def test_moments_of_parts_add_up_to_those_of_the_whole():
    a, b = torch.rand(2, 1, 1, 8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a[..., 4:, :], b[..., 4:, :] = 0.25, 0.75
    parts = Moments.of(a[..., :4, :], b[..., :4, :]) + Moments.constant(0.25, 0.75, 24)
    assert parts.correlation == pytest.approx(correlation(a, b))
    assert parts.count == 48 and parts.ab == pytest.approx(total(a * b))


def test_errors_by_region():
    """An error of 1 mm in the lesion, 2 next to it, 4 beyond; 2 mm voxels, so that `near=6` holds three of them."""
    off = np.full((2, 20, 5), 4.0) / math.sqrt(2)
    lesion, head = np.zeros((20, 5), bool), np.ones((20, 5), bool)
    lesion[4:6] = True
    head[18:] = False
    off[:, 4:6] /= 4
    off[:, 1:4] /= 2
    off[:, 6:9] /= 2
    off[:, 18:] = 1e6
    found = truth_errors(off, lesion, head, (2.0, 1.0), near=6.0)
    assert found["inside"] == pytest.approx(1) and found["near"] == pytest.approx(2)
    assert found["far"] == pytest.approx(4) and found["median"] == pytest.approx(4)
    assert found["outside"] == pytest.approx((6 * 2 + 10 * 4) / 16)
    empty = truth_errors(off, ~head, head, (2.0, 1.0))
    assert math.isnan(empty["inside"])


def test_an_error_along_an_edge_is_not_seen_and_one_across_it_is():
    image = np.zeros((12, 10))
    image[:, 5:] = 100.0
    edges = visible_edges(image, (1.0, 3.0))
    assert edges[:, 4:6].all() and edges.sum() == 24
    along, across = np.zeros((2, 2, 12, 10))
    along[0], across[1] = 5.0, -3.0
    assert edge_error(along, image, (1.0, 3.0)) == 0
    assert edge_error(along + across, image, (1.0, 3.0)) == pytest.approx(3)
    assert math.isnan(edge_error(along, image, (1.0, 3.0), ~edges))


def test_a_landmark_that_has_no_place_is_infinitely_far_and_not_nearer_than_before():
    truth, before = torch.zeros(3, 3), torch.ones(3, 3)
    found = torch.tensor([[0.5, 0, 0], [0, math.nan, 0], [0, 0, 0.25]])
    errors = landmark_errors(found, truth, before)
    assert errors[:4] == (0.5, math.inf, math.inf, pytest.approx(2 / 3))
    assert errors.axes == pytest.approx((0.5 / 3, math.inf, 0.25 / 3))


@pytest.mark.filterwarnings("ignore")
def test_the_share_of_a_surface_within_a_tolerance():
    """Two cubes of 6 voxels, one shifted by 2 along i: 1.5 mm voxels there, so that 3 mm hold everything."""
    fixed, moved = torch.zeros(2, 16, 12, 12, dtype=torch.long)
    fixed[4:10, 3:9, 3:9], moved[6:12, 3:9, 3:9] = 1, 1
    spacing = (1.5, 1.0, 1.0)
    # Within 1 mm: the surfaces' own overlap, and the rings of the end faces next to it. By counting:
    faces = [{tuple(p) for p in _surface(m)} for m in (fixed, moved)]
    near = [sum(_closest(p, other, spacing) <= 1.0 for p in one) for one, other in (faces, faces[::-1])]
    expected = sum(near) / (len(faces[0]) + len(faces[1]))
    assert 0 < expected < 1
    assert surface_distances(moved, fixed, spacing, tolerance=1.0)[1].within == pytest.approx(expected)
    assert surface_distances(moved, fixed, spacing, tolerance=3.0)[1].within == 1


def _surface(mask):
    cells = mask.bool().numpy()
    inner = cells.copy()
    for axis in range(3):
        for step in (1, -1):
            inner &= np.roll(cells, step, axis)
    return np.argwhere(cells & ~inner)


def _closest(point, others, spacing):
    return min(math.dist(np.multiply(point, spacing), np.multiply(o, spacing)) for o in others)
