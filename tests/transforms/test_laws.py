"""Laws of maps that hold for any affine and any field without folds; Hypothesis draws them."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from mmtk.errors import InputError
from mmtk.io import AffineStep, FieldStep, Volume
from mmtk.transforms import Transform, resample

calm = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def rotation(*angles):
    turn = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = [(1, 2), (2, 0), (0, 1)][axis]
        step = np.eye(3)
        step[a, a] = step[b, b] = np.cos(angle)
        step[a, b], step[b, a] = -np.sin(angle), np.sin(angle)
        turn = step @ turn
    return turn


def matrix(linear, origin=(0, 0, 0)):
    affine = np.eye(4)
    affine[:3, :3], affine[: len(origin), 3] = linear, origin
    return affine


def smooth(shape, seed, sigma=3.0):
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), sigma, mode="nearest")
    return (noise / np.abs(noise).max()).astype(np.float32)


@st.composite
def affines(draw, shift=30.0):
    """Oblique, flipped, anisotropic, scaled by 0.1 to 10."""
    turn = rotation(*(draw(st.floats(-3, 3)) for _ in range(3)))
    scale = [10 ** draw(st.floats(-1, 1)) * draw(st.sampled_from((-1, 1))) for _ in range(3)]
    return matrix(turn @ np.diag(scale), [draw(st.floats(-shift, shift)) for _ in range(3)])


@st.composite
def fields(draw):
    """A smooth field without folds on a grid that lies askew: no voxel comes nearer to its neighbor than by 0.7."""
    shape = tuple(draw(st.integers(6, 12)) for _ in range(3))
    grid = Volume(np.zeros(shape), draw(affines()))
    size = 0.3 * min(grid.spacing) * draw(st.floats(0.1, 1))
    vectors = np.stack([smooth(shape, draw(st.integers(0, 99)) + a, 1.5) for a in range(3)])
    steepest = max(np.abs(np.diff(v, axis=a)).max() for v in vectors for a in range(3))
    return FieldStep((vectors * size / (3 * steepest)).astype(np.float32), grid.affine)


@st.composite
def chains(draw, points_from="a", points_to="b"):
    steps = draw(st.lists(st.one_of(affines().map(AffineStep), fields()), max_size=3))
    return Transform(tuple(steps), points_from, points_to)


def spread(transform, count=40, seed=0):
    """Points over the first field that they meet, or anywhere."""
    rng = np.random.default_rng(seed)
    first = next((step for step in transform.steps if isinstance(step, FieldStep)), None)
    if first is None or not isinstance(transform.steps[0], FieldStep):
        return rng.uniform(-50, 50, (count, 3))
    voxels = rng.uniform(0.25, 0.75, (count, 3)) * (np.array(first.vectors.shape[1:]) - 1)
    return voxels @ first.affine[:3, :3].T + first.affine[:3, 3]


@calm
@given(chains("a", "b"), chains("b", "c"), chains("c", "d"))
def test_chains_are_associative_to_the_last_bit(one, two, three):
    left, right = one.then(two).then(three), one.then(two.then(three))
    assert left.steps == right.steps == (*one.steps, *two.steps, *three.steps)
    assert (left.points_from, left.points_to) == (right.points_from, right.points_to) == ("a", "d")
    points = spread(left)
    np.testing.assert_array_equal(left.points(points), right.points(points))


@calm
@given(chains("a", "b"), chains("b", "c"))
def test_a_chain_takes_points_where_its_parts_do_one_after_the_other(one, two):
    points = spread(one)
    np.testing.assert_array_equal(one.then(two).points(points), two.points(one.points(points)))


@calm
@given(affines(), affines())
def test_affines_chain_as_their_matrices_multiply(first, second):
    points = np.random.default_rng(1).uniform(-50, 50, (20, 3))
    chain = Transform((AffineStep(first),), "a", "b").then(Transform((AffineStep(second),), "b", "c"))
    product = second @ first
    expected = points @ product[:3, :3].T + product[:3, 3]
    np.testing.assert_allclose(chain.points(points), expected, atol=1e-9)


@calm
@given(affines(), fields(), affines())
def test_there_and_back_is_the_identity(first, field, last):
    inner = np.random.default_rng(2).uniform(0.2, 0.8, (60, 3)) * (np.array(field.vectors.shape[1:]) - 1)
    at_field = inner @ field.affine[:3, :3].T + field.affine[:3, 3]
    back = np.linalg.inv(first)
    points = at_field @ back[:3, :3].T + back[:3, 3]
    there = Transform((AffineStep(first), field, AffineStep(last)))
    arrived = there.inverse().points(there.points(points))
    # The field's map is solved to 1e-6 mm; the affine before it enlarges that by its inverse, at most tenfold.
    np.testing.assert_allclose(arrived, points, atol=1e-4)


@calm
@given(fields())
def test_back_and_there_is_the_identity_wherever_there_is_a_way_back(field):
    there = Transform((field,))
    voxels = np.random.default_rng(3).uniform(-0.2, 1.2, (60, 3)) * (np.array(field.vectors.shape[1:]) - 1)
    points = voxels @ field.affine[:3, :3].T + field.affine[:3, 3]
    back = there.inverse().points(points)
    found = ~np.isnan(back).any(axis=1)
    assert found.mean() > 0.5
    np.testing.assert_allclose(there.points(back[found]), points[found], atol=1e-4)


@calm
@given(chains())
def test_the_inverse_of_the_inverse_is_the_transform(chain):
    twice = chain.inverse().inverse()
    assert (twice.points_from, twice.points_to) == (chain.points_from, chain.points_to)
    points = spread(chain)
    expected = chain.points(points)
    np.testing.assert_allclose(twice.points(points), expected, atol=1e-8 * max(1, np.abs(expected).max()))


@calm
@given(chains(), st.integers(0, 99))
def test_the_map_on_a_grid_is_the_map_of_its_voxels(chain, seed):
    rng = np.random.default_rng(seed)
    grid = Volume(np.zeros((4, 5, 3)), matrix(rotation(*rng.uniform(-1, 1, 3)), rng.uniform(-20, 20, 3)))
    voxels = np.indices(grid.shape).reshape(3, -1).T
    points = voxels @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    moved = points + chain.displacement_on(grid).reshape(3, -1).T
    expected = chain.points(points)
    np.testing.assert_allclose(moved, expected, atol=1e-6 * max(1, np.abs(expected - points).max()))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(0, 999),
    st.floats(-3, 3),
    st.floats(0.7, 1.5),
    st.sampled_from([(1, 1, 1), (-1, 1, 1), (1, -1, -1)]),
)
def test_a_landmark_lands_where_the_blob_around_it_does(seed, angle, scale, flips):
    rng = np.random.default_rng(seed)
    moving = Volume(np.zeros((32, 30, 28)), matrix(rotation(0.2, -angle, 0.1) @ np.diag(flips), (5, -3, 8)))
    fixed = Volume(np.zeros((30, 30, 30)), matrix(rotation(angle, 0.3, 0.1) @ np.diag((1.1, 0.9, 1.0))))
    middles = [g.affine[:3, :3] @ ((np.array(g.shape) - 1) / 2) + g.affine[:3, 3] for g in (fixed, moving)]
    linear = rotation(0.1, angle / 5, 0.2) * scale
    placed = matrix(linear, middles[1] - linear @ middles[0])
    vectors = np.stack([2.0 * smooth(fixed.shape, seed + a, 6.0) for a in range(3)]).astype(np.float32)
    transform = Transform((FieldStep(vectors, fixed.affine), AffineStep(placed)))
    landmark = transform.points(middles[0][None] + rng.uniform(-3, 3, (1, 3)))
    nodes = np.indices(moving.shape).reshape(3, -1).T @ moving.affine[:3, :3].T + moving.affine[:3, 3]
    blob = np.exp(-0.5 * ((nodes - landmark) ** 2).sum(axis=1) / 2.0**2).reshape(moving.shape)
    drawn = resample(Volume(blob, moving.affine), transform, fixed).data
    places = np.indices(fixed.shape).reshape(3, -1).T @ fixed.affine[:3, :3].T + fixed.affine[:3, 3]
    center = (places * drawn.reshape(-1, 1)).sum(axis=0) / drawn.sum()
    # A bent blob's middle is not quite the landmark's place; a wrong way round would miss by the whole motion.
    np.testing.assert_allclose(transform.inverse().points(landmark)[0], center, atol=0.35)


def test_spaces_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="takes points to 'b' cannot be followed by one that takes them from 'c'"):
        Transform((), "a", "b").then(Transform((), "c", "d"))


def test_a_map_between_others_is_refused():
    with pytest.raises(InputError, match="leads between 'moving' and 'fixed', not from 'fixed' to 'atlas'"):
        Transform(()).mapping("fixed", "atlas")


def test_a_singular_affine_has_no_inverse():
    with pytest.raises(InputError, match="singular"):
        Transform((AffineStep(np.diag([1.0, 1.0, 0.0, 1.0])),)).inverse()


def test_points_of_another_dimension_are_refused():
    flat = Transform((FieldStep(np.zeros((2, 4, 4), np.float32), np.eye(4)),))
    with pytest.raises(InputError, match="do not fit a transform of 2 dimensions"):
        flat.points(np.zeros((5, 3)))
