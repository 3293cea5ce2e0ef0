"""Laws of the exponentiation layer and of the symmetric correlation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from torch import Tensor

from mmtk.fields import Gaussian, Grid, Smoother, compose, exponential, folds, squarings_needed, warp
from mmtk_cvae.layers import Exponentiation, GaussianCorrelation

SHAPES = {2: (32, 28), 3: (16, 14, 12)}
SEEDS = st.integers(0, 2**31 - 1)


def velocity(dim: int, size: float, sigma: float, seed: int) -> Tensor:
    """Return a smooth velocity whose longest vector is ``size`` voxels, in double precision."""
    shape = SHAPES[dim]
    noise = torch.randn(1, dim, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    smooth = Smoother(Gaussian(sigma), Grid(shape, (1.0,) * dim), 0)(noise)
    return smooth * size / smooth.norm(dim=1).amax()


@settings(max_examples=15, deadline=None)
@given(dim=st.sampled_from([2, 3]), ratio=st.floats(0.05, 1.5), sigma=st.floats(2.0, 4.0), seed=SEEDS)
def test_with_as_many_squarings_as_needed_nothing_folds(dim: int, ratio: float, sigma: float, seed: int) -> None:
    """Motions of up to one and a half widths: then the flow is resolved by the voxels."""
    v = velocity(dim, ratio * sigma, sigma, seed)
    layer = Exponentiation("auto")
    count = layer.count(v)
    steepest = torch.stack([torch.roll(v, -1, a) - v for a in range(2, v.ndim)], 2).abs().sum(2).amax()
    assert float(steepest) / 2**count < 0.5
    assert count == 1 or float(steepest) / 2 ** (count - 1) >= 0.5
    assert folds(v / 2**count) == 0
    assert folds(layer(v)) == 0


def test_beyond_what_voxels_resolve_no_number_of_squarings_helps() -> None:
    """The flow is a diffeomorphism, its samples need not be: the paper's claim, bounded."""
    v = velocity(2, 20.0, 2.0, 0)
    assert squarings_needed(v) < 6
    assert all(folds(Exponentiation(n)(v)) > 0 for n in (6, 10))


@settings(max_examples=15, deadline=None)
@given(count=st.integers(1, 8), shift=st.tuples(st.floats(-9, 9), st.floats(-9, 9)), number=st.integers(1, 3))
def test_the_exponential_of_a_constant_velocity_is_a_translation(
    count: int, shift: tuple[float, float], number: int
) -> None:
    v = torch.tensor(shift, dtype=torch.float64).view(1, 2, 1, 1).repeat(number, 1, *SHAPES[2])
    torch.testing.assert_close(Exponentiation(count)(v), v)


@settings(max_examples=10, deadline=None)
@given(dim=st.sampled_from([2, 3]), seed=SEEDS)
def test_the_negative_velocity_undoes_the_map_to_the_order(dim: int, seed: int) -> None:
    v = velocity(dim, 2.0, 4.0, seed)
    inside = (slice(None), slice(None), *[slice(4, -4)] * dim)

    def missed(count: int) -> float:
        layer = Exponentiation(count)
        return float(compose(layer(v), layer(-v))[inside].abs().max())

    errors = [missed(n) for n in (2, 3, 4)]
    # What is left is half as much for each squaring more, until interpolation is what is left.
    assert errors[2] < 0.1
    assert errors[0] > 1.5 * errors[1] or errors[1] < 0.05


def test_the_whole_is_half_and_half_and_shares_the_steps_of_mmtk() -> None:
    v = velocity(2, 3.0, 4.0, 1)
    flow = Exponentiation(4).halves(v)
    torch.testing.assert_close(flow.whole, exponential(v, 4))
    torch.testing.assert_close(flow.half, exponential(v / 2, 3))
    torch.testing.assert_close(flow.half_back, exponential(-v / 2, 3))
    torch.testing.assert_close(flow.back, exponential(-v, 4))


@pytest.mark.parametrize("dim", [2, 3])
def test_the_gradient_through_the_exponential_is_the_slope(dim: int) -> None:
    shape = (5, 6, 4)[:dim]
    generator = torch.Generator().manual_seed(4)
    v = torch.randn(1, dim, *shape, generator=generator, dtype=torch.float64).mul(0.4).requires_grad_()
    assert torch.autograd.gradcheck(Exponentiation(3), (v,), eps=1e-7, atol=1e-5, nondet_tol=1e-12)


# --- the correlation


def image(seed: int, channels: int = 1, shape: tuple[int, ...] = (24, 20)) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, channels, *shape, generator=generator, dtype=torch.float64)


def test_printed_it_is_scipys_gaussian_means_of_products() -> None:
    a, b = image(0), image(1)

    def mean(f: Tensor) -> np.ndarray:
        smooth = gaussian_filter(f[0, 0].numpy(), 2.0, mode="constant", truncate=2.0)
        return smooth / gaussian_filter(np.ones(f.shape[2:]), 2.0, mode="constant", truncate=2.0)

    expected = 1 - mean(a * b) ** 2 / (mean(a * a) * mean(b * b) + 1e-5)
    found = GaussianCorrelation()(a, b, torch.ones_like(a))
    np.testing.assert_allclose(found[0, 0], expected, rtol=1e-6)


@settings(max_examples=20, deadline=None)
@given(factor=st.floats(0.2, 5), offset=st.floats(-1, 1), seed=SEEDS)
def test_printed_a_factor_does_not_matter_and_centered_an_offset_neither(
    factor: float, offset: float, seed: int
) -> None:
    a = image(seed % 1000)
    ones = torch.ones_like(a)
    assert float(GaussianCorrelation(eps=1e-12)(a, factor * a, ones).abs().max()) < 1e-6
    centered = GaussianCorrelation(eps=1e-12, centered=True)
    assert float(centered(a, factor * a + offset, ones).abs().max()) < 1e-6


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("dim", [2, 3])
def test_what_has_no_weight_cannot_matter(centered: bool, dim: int) -> None:
    shape = SHAPES[dim]
    a, b, weight = image(2, 2, shape), image(3, 2, shape), torch.ones(1, 1, *shape, dtype=torch.float64)
    weight[..., 3:8, 4:7] = 0
    likeness = GaussianCorrelation(centered=centered)
    damaged = torch.where(weight > 0, a, 1e3)
    torch.testing.assert_close(
        weight * likeness(a, b, weight), weight * likeness(damaged, b, weight), atol=1e-9, rtol=1e-6
    )


@pytest.mark.parametrize("centered", [False, True])
def test_the_gradient_of_the_correlation_is_the_slope(centered: bool) -> None:
    a, b = image(4, 1, (7, 6)).requires_grad_(), image(5, 1, (7, 6)).requires_grad_()
    weight = torch.ones(1, 1, 7, 6, dtype=torch.float64)
    likeness = GaussianCorrelation(centered=centered, eps=1e-3)
    assert torch.autograd.gradcheck(lambda x, y: likeness(x, y, weight), (a, b))


def test_half_way_both_images_are_moved_and_none_is_preferred() -> None:
    """Exchanged images and a turned velocity are the same criterion: it is symmetric."""
    m, f = image(6), image(7)
    m, f = (Smoother(Gaussian(2.0), Grid((24, 20), (1.0, 1.0)), 0)(x) for x in (m, f))
    noise = torch.randn(1, 2, 24, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    v = 3 * Smoother(Gaussian(3.0), Grid((24, 20), (1.0, 1.0)), 0)(noise)
    likeness, layer, ones = GaussianCorrelation(centered=True, eps=1e-6), Exponentiation(4), torch.ones_like(m)

    def cost(moving: Tensor, fixed: Tensor, by: Tensor) -> Tensor:
        flow = layer.halves(by)
        return likeness(warp(moving, flow.half), warp(fixed, flow.half_back), ones).mean()

    torch.testing.assert_close(cost(m, f, v), cost(f, m, -v))
    assert float((cost(m, f, v) - cost(m, f, -v)).abs()) > 1e-6
