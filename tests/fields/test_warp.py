"""Sampling against scipy, composition and inversion against closed forms."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from mmtk.fields import (
    Gaussian,
    Grid,
    Smoother,
    compose,
    exponential,
    folds,
    identity,
    invert,
    sample,
    squarings_needed,
    warp,
)


def smooth_field(shape, size, sigma=6.0, seed=0):
    dim = len(shape)
    smoother = Smoother(Gaussian(sigma), Grid(shape, (1.0,) * dim), padding=3 * sigma)
    noise = torch.randn(1, dim, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    field = smoother(noise)
    return field * (size / field.abs().max())


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize(("mode", "order"), [("linear", 1), ("cubic", 3)])
@pytest.mark.parametrize(("padding", "scipy_mode"), [("border", "mirror"), ("periodic", "grid-wrap")])
def test_sampling_agrees_with_scipy(dim, mode, order, padding, scipy_mode):
    rng = np.random.default_rng(0)
    image = rng.standard_normal((9, 10, 11)[:dim])
    low, high = (-30, 40) if padding == "periodic" else (0, 8)
    points = rng.uniform(low, high, (dim, *(4, 5, 6)[:dim]))
    expected = ndimage.map_coordinates(image, points, order=order, mode=scipy_mode)
    found = sample(torch.from_numpy(image)[None, None], torch.from_numpy(points)[None], mode, padding)
    np.testing.assert_allclose(found[0, 0].numpy(), expected, atol=1e-9)


def test_nearest_keeps_labels():
    labels = torch.arange(12.0).view(1, 1, 3, 4)
    u = torch.full((1, 2, 3, 4), 0.3)
    assert torch.equal(warp(labels, u, "nearest"), labels)


def test_zero_padding_is_background_and_border_padding_repeats():
    image = torch.ones(1, 1, 4, 4)
    far = identity((4, 4)) + 20
    assert float(sample(image, far, padding="zeros").sum()) == 0
    assert float(sample(image, far, padding="border").min()) == 1


def test_composition_of_translations_adds_them():
    one = torch.zeros(1, 2, 8, 8, dtype=torch.float64)
    one[:, 0] = 1.25
    two = torch.zeros_like(one)
    two[:, 1] = -0.5
    torch.testing.assert_close(compose(one, two), one + two)


def test_composition_applies_the_inner_map_first():
    scale = 0.5 * identity((9, 9), dtype=torch.float64)  # x -> 1.5 x
    shift = torch.ones_like(scale)  # x -> x + 1
    inside = (slice(None), slice(None), slice(0, 3), slice(0, 3))
    points = identity((9, 9), dtype=torch.float64)
    torch.testing.assert_close((points + compose(scale, shift))[inside], (1.5 * (points + 1))[inside])


@pytest.mark.parametrize("dim", [2, 3])
def test_exponential_of_the_negative_is_the_inverse(dim):
    v = smooth_field((32, 30, 28)[:dim], 3.0)
    forward, backward = exponential(v, 7, "cubic"), exponential(-v, 7, "cubic")
    inner = (slice(None), slice(None), *[slice(6, -6)] * dim)
    assert float(compose(forward, backward, "cubic")[inner].abs().max()) < 0.02
    assert folds(forward) == 0


def test_exponential_is_of_first_order_in_its_step():
    v = smooth_field((48, 48), 3.0, sigma=8.0)
    exact = exponential(v, 10, "cubic")
    errors = [float((exponential(v, n, "cubic") - exact)[..., 8:-8, 8:-8].abs().max()) for n in (3, 4, 5)]
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.15)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.15)


def test_enough_squarings_keep_every_small_step_invertible():
    v = smooth_field((32, 32), 30.0, sigma=4.0)
    needed = squarings_needed(v)
    steepest = max(float((torch.roll(v, -1, axis) - v).abs().sum(1).max()) for axis in (2, 3))
    assert needed >= 1
    assert steepest / 2**needed < 1
    assert folds(v / 2**needed) == 0


@pytest.mark.parametrize(("size", "sigma"), [(2.0, 6.0), (5.5, 5.0)])
def test_inverse_undoes_the_map_even_where_it_compresses(size, sigma):
    u = exponential(smooth_field((40, 40), size, sigma, seed=2), 8, "cubic")
    assert folds(u) == 0
    w = invert(u, tolerance=1e-6, iterations=60)
    inner = (slice(None), slice(None), slice(8, -8), slice(8, -8))
    assert float(compose(u, w)[inner].abs().max()) < 1e-4


def test_a_point_that_is_no_number_gives_none_and_takes_no_process_with_it():
    image = torch.rand(1, 1, 32, 30, requires_grad=True)
    points = torch.rand(1, 2, 32, 30) * 20
    points[..., 3:6] = torch.nan
    points.requires_grad_(True)
    found = sample(image, points)
    assert torch.equal(torch.isnan(found), torch.isnan(points[:, :1]))
    found.nansum().backward()
    assert torch.isfinite(image.grad).all()
    assert torch.isfinite(points.grad[~torch.isnan(points)]).all()
