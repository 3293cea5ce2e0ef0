"""Shapes as vectors: logarithms undo flows, the bias of a round is taken off, a pose is no stretch."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmtk.atlas.shapes import ShapeSpace, mean_stretch, stretch_of, voxels_through
from mmtk.fields import Grid, compose

SPACE = ShapeSpace(Grid((40, 36), (1.0, 1.5)), 4.0, 8.0)


def smooth(seed: int, size: float = 3.0) -> torch.Tensor:
    """A velocity of some millimeters that fades toward the edges of the period."""
    white = torch.from_numpy(np.random.default_rng(seed).standard_normal(SPACE.shape))
    velocity = SPACE.root(SPACE.root(white))
    return velocity * (size / SPACE.lattice.spacing / float(velocity.abs().max()))


@pytest.mark.parametrize("seed", range(3))
def test_the_logarithm_undoes_the_flow(seed):
    velocity = smooth(seed)
    u = SPACE.displacement(velocity)
    again = SPACE.displacement(SPACE.logarithm(u))
    error = (again - u)[..., 4:-4, 4:-4].norm(dim=1)  # beyond the image nothing is known
    assert float(error.mean()) < 0.02 < 0.02 * float(u.norm(dim=1).max())
    assert float(error.max()) < 0.25


def test_rows_are_isometric_to_shapes():
    one, other = smooth(0), smooth(1)
    rows = SPACE.white(one), SPACE.white(other)
    assert torch.allclose(SPACE.velocity(rows[0]), one, atol=1e-10)
    # <v, K^-1 v'> by the kernel's own spectrum
    inverse = SPACE.unroot(SPACE.unroot(other)) * SPACE.lattice.spacing**2 * SPACE.lattice.box.cell_volume
    assert rows[0] @ rows[1] == pytest.approx(float((one * inverse).sum()), rel=1e-9)


def test_what_a_round_takes_off_is_the_mean_of_the_shapes():
    velocities = [smooth(seed) + smooth(9) for seed in range(4)]
    flows = [SPACE.displacement(v) for v in velocities]
    logs = [SPACE.logarithm(u) for u in flows]
    mean = torch.stack(logs).mean(dim=0)
    back = SPACE.displacement(-mean).float()
    rest = torch.stack([SPACE.logarithm(compose(u.float(), back)) for u in flows]).mean(dim=0)
    inside = (..., slice(3, -3), slice(3, -3))
    before, after = (float(SPACE.on_grid(v)[inside].square().mean().sqrt()) for v in (mean, rest))
    assert after < 0.25 * before


@given(st.lists(st.floats(-0.3, 0.3), min_size=6, max_size=6), st.floats(-3, 3), st.floats(-50, 50))
def test_a_stretch_knows_no_pose_and_is_undone(numbers, angle, shift):
    symmetric = np.zeros((3, 3))
    symmetric[np.triu_indices(3)] = numbers
    symmetric = symmetric + np.triu(symmetric, 1).T
    center = np.array([3.0, -20.0, 7.0])
    stretch = mean_stretch(symmetric, center)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    turn[:3, 3] = shift
    assert np.allclose(stretch_of(turn @ stretch, 3), symmetric, atol=1e-9)
    assert np.allclose(stretch @ mean_stretch(symmetric, center, back=True), np.eye(4), atol=1e-9)
    assert np.allclose(stretch @ [*center, 1], [*center, 1])


def test_voxels_go_through_the_displacement_and_then_the_affine():
    u = torch.full((1, 2, 5, 4), 2.0)
    matrix = np.diag([3.0, 1.0, 1.0, 1.0])
    matrix[1, 3] = 7
    places = voxels_through((5, 4), u, matrix)
    assert places[:, 1, 3].tolist() == [3 * (1 + 2), 3 + 2 + 7]
