import numpy as np
import pytest

from mmtk.samples.maps import FreeForm, Lobed, RadialGrowth


def bending(dim):
    bend = FreeForm.draw(np.random.default_rng(1), [100.0] * dim, 36.0)
    axes = [np.arange(0, 100, 7.0)] * dim
    return bend.times(8 / np.sqrt((bend.displacement_on_grid(axes) ** 2).sum(0)).max()), axes


def growth(dim, ratio):
    center = np.full(dim, 50.0)
    form = Lobed.draw(np.random.default_rng(2), dim, 10.0, 0.2)
    return RadialGrowth(center, form, ratio, min(0.2, 0.6 * ratio**dim), reach=4.0)


def numerical_determinants(transform, points, step=1e-4):
    dim = len(points)
    columns = []
    for axis in range(dim):
        offset = step * np.eye(dim)[axis][:, None]
        columns.append((transform(points + offset) - transform(points - offset)) / (2 * step))
    return np.linalg.det(np.moveaxis(np.stack(columns, 1), -1, 0))


@pytest.mark.parametrize("dim", [2, 3])
def test_a_bending_on_a_grid_is_the_bending_at_its_points(dim):
    bend, axes = bending(dim)
    points = np.stack(np.meshgrid(*axes, indexing="ij"))
    np.testing.assert_allclose(bend.displacement_on_grid(axes), bend.displacement(points), atol=1e-10)


@pytest.mark.parametrize("dim", [2, 3])
def test_the_determinant_of_a_bending_is_exact(dim):
    bend, axes = bending(dim)
    points = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(dim, -1)
    expected = numerical_determinants(bend, points)
    np.testing.assert_allclose(bend.determinants(axes).ravel(), expected, atol=1e-6)
    assert expected.min() > 0


@pytest.mark.parametrize("dim", [2, 3])
def test_the_inverse_of_a_bending_is_good_to_a_micrometer(dim):
    bend, axes = bending(dim)
    points = np.stack(np.meshgrid(*axes, indexing="ij"))
    back = bend(points + bend.inverse_on_grid(axes))
    assert np.abs(back - points).max() < 1e-3


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("ratio", [15 / 8, 9 / 14, 1.0, 3.0, 0.2])
def test_growth_sends_the_border_to_its_new_radius_and_comes_back(dim, ratio):
    grow = growth(dim, ratio)
    directions = np.random.default_rng(3).normal(size=(dim, 500))
    directions /= np.linalg.norm(directions, axis=0)
    border = grow.center[:, None] + grow.radius(directions) * directions
    grown = grow.center[:, None] + ratio * grow.radius(directions) * directions
    np.testing.assert_allclose(grow(border), grown, atol=1e-9)
    points = np.random.default_rng(4).uniform(0, 100, (dim, 3000))
    np.testing.assert_allclose(grow.inverse(grow(points)), points, atol=1e-6)


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("ratio", [15 / 8, 9 / 14])
def test_the_determinant_of_growth_is_that_of_its_radial_law(dim, ratio):
    grow = growth(dim, ratio)
    points = np.random.default_rng(5).uniform(20, 80, (dim, 500))
    _, r, radius = grow.polar(points)
    expected = numerical_determinants(grow, points)
    np.testing.assert_allclose(grow.determinant(r / radius), expected, rtol=1e-4, atol=1e-4)
    assert expected.min() > 0


def test_growth_keeps_the_volume_of_tissue_near_the_lesion_and_ends_far_away():
    grow = growth(3, 15 / 8)
    assert grow.determinant(np.array([1.6])) == pytest.approx(1, abs=0.15)
    assert grow.determinant(np.array([0.5])) > 5
    far = grow.center[:, None] + np.array([[100.0], [0.0], [0.0]])
    np.testing.assert_array_equal(grow(far), far)
