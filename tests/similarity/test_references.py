"""Each similarity against an independent computation of its definition."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from mmtk.errors import ConfigError, GridMismatch
from mmtk.similarity import (
    IntensityRatioVariance,
    LocalCorrelation,
    LocalSquaredDifference,
    MutualInformation,
    NormalizedCrossCorrelation,
    SquaredDifference,
)
from mmtk.similarity.windows import gather, spread


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def tensors(*arrays):
    return [torch.from_numpy(a)[None, None] for a in arrays]


def windows(shape, radius, stride=1):
    """Yield the index of every center and the slices of its window, cut off at the border."""
    for center in itertools.product(*(range(0, n, stride) for n in shape)):
        box = tuple(slice(max(c - radius, 0), c + radius + 1) for c in center)
        yield tuple(c // stride for c in center), box


@pytest.mark.parametrize("shape", [(7, 9), (5, 6, 7), (2, 3, 8)])
@pytest.mark.parametrize(("radius", "stride"), [(1, 1), (2, 1), (2, 2), (1, 3), (4, 2), (3, 5)])
def test_box_sums_and_their_transpose(rng, shape, radius, stride):
    image = torch.from_numpy(rng.normal(size=(2, 3, *shape)))
    sums = gather(image, (radius,) * len(shape), stride)
    for center, box in windows(shape, radius, stride):
        inside = image[(slice(None), slice(None), *box)].flatten(2).sum(2)
        torch.testing.assert_close(sums[(slice(None), slice(None), *center)], inside)
    other = torch.from_numpy(rng.normal(size=tuple(sums.shape)))
    back = spread(other, (radius,) * len(shape), stride, image.shape)
    torch.testing.assert_close((sums * other).sum(), (image * back).sum())


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(8, 9), (5, 6, 4)])
def test_local_correlation_is_that_of_each_window(rng, shape, stride):
    a, b, w = rng.random(shape), rng.random(shape), rng.random(shape)
    w[:3, :2] = 0
    found = LocalCorrelation(radius=2, stride=stride, eps=1e-2, reduction="none")(*tensors(a, b, w))[0, 0]
    for center, box in windows(shape, 2, stride):
        weight = w[tuple(c * stride for c in center)]
        if not weight:
            assert found[center] == 0
            continue
        (va, c), (_, vb) = np.cov(a[box].ravel(), b[box].ravel(), aweights=w[box].ravel(), ddof=0)
        cost = 1 - (c + 1e-2) ** 2 / ((va + 1e-2) * (vb + 1e-2))
        assert float(found[center]) == pytest.approx(weight * cost * stride ** len(shape))


def test_local_correlation_is_the_angle_between_windows_with_one_more_component(rng):
    """Less its mean, and with the root of eps beside it: the cosine of two vectors, so never above 1."""
    a, b = rng.random((5, 5)), rng.random((5, 5))
    found = LocalCorrelation(radius=2, eps=0.04, reduction="none")(*tensors(a, b))[0, 0, 2, 2]
    one, other = (np.append((x - x.mean()).ravel() / 5, 0.2) for x in (a, b))
    cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    assert float(found) == pytest.approx(1 - cosine**2)


def test_contrast_is_not_rewarded_where_windows_are_nearly_flat(rng):
    (image,) = tensors(0.5 + 1e-3 * rng.random((12, 12)))
    similarity = LocalCorrelation(eps=1e-3)
    for factor in (0.5, 2.0, 100.0):
        changed = image.mean() + factor * (image - image.mean())
        assert similarity(changed, image) > similarity(image, image)
    assert float(similarity(image, image)) == pytest.approx(0, abs=1e-12)


def test_local_correlation_is_that_of_monai_away_from_the_border(rng):
    from monai.losses import LocalNormalizedCrossCorrelationLoss

    a, b = tensors(rng.random((12, 11, 10)), rng.random((12, 11, 10)))
    theirs = LocalNormalizedCrossCorrelationLoss(kernel_size=5, reduction="none", smooth_dr=1e-12)(a, b)
    ours = LocalCorrelation(radius=2, eps=1e-12, reduction="none")(a, b)
    inner = (..., *[slice(2, -2)] * 3)
    torch.testing.assert_close(ours[inner], 1 + theirs[inner])


def test_local_normalization_is_that_of_each_window(rng):
    image, weight = rng.random((8, 9)), rng.random((8, 9))
    weight[3:5, 2:6] = 0
    normal = LocalSquaredDifference(radius=2, eps=1e-3).prepare(*tensors(image, weight))[0, 0]
    for center, box in windows(image.shape, 2):
        mean = np.average(image[box], weights=weight[box])
        variance = np.average((image[box] - mean) ** 2, weights=weight[box])
        expected = (image[center] - mean) / math.sqrt(variance + 1e-3) if weight[center] else 0
        assert float(normal[center]) == pytest.approx(expected)


def test_local_normalization_without_weight_is_that_of_scipy_inside(rng):
    image = rng.random((9, 8, 10))
    mean = ndimage.uniform_filter(image, 5)
    variance = ndimage.uniform_filter(image**2, 5) - mean**2
    normal = LocalSquaredDifference().prepare(*tensors(image))[0, 0].numpy()
    inner = (slice(2, -2),) * 3
    np.testing.assert_allclose(normal[inner], ((image - mean) / np.sqrt(variance + 1e-3))[inner], rtol=1e-9)


def test_two_stages_are_one(rng):
    a, b, w = tensors(*(rng.random((7, 8)) for _ in range(3)))
    similarity = LocalSquaredDifference()
    prepared = similarity.prepare(a, w), similarity.prepare(b, w)
    torch.testing.assert_close(similarity.compare(*prepared, w), similarity(a, b, w))
    torch.testing.assert_close(similarity.compare(*prepared, w), SquaredDifference()(*prepared, w))


def test_a_finer_image_is_normalized_in_windows_as_wide(rng):
    image, weight = tensors(rng.random((9, 8)), rng.random((9, 8)))
    fine = LocalSquaredDifference(radius=(1, 2)).prepare(image, weight, scale=(3, 1))
    torch.testing.assert_close(fine, LocalSquaredDifference(radius=(3, 2)).prepare(image, weight))
    assert SquaredDifference().prepare(image, weight, scale=2) is image


def test_what_does_not_fit_the_image_is_refused(rng):
    image, weight = tensors(rng.random((9, 8)), rng.random((9, 7)))
    with pytest.raises(GridMismatch, match="resample `weight` onto the grid of `image` first"):
        LocalSquaredDifference().prepare(image, weight)
    with pytest.raises(ConfigError, match="3 numbers, but the images have 2 axes"):
        LocalSquaredDifference(radius=(1, 1, 1)).prepare(image)


def test_local_squares_are_blind_to_smooth_changes_of_contrast(rng):
    image = ndimage.gaussian_filter(rng.random((40, 40)), 1.0) * 3
    field = 1 + 0.3 * np.linspace(0, 1, 40)[:, None]
    a, b = tensors(image, field * image + 0.1)
    other = tensors(np.roll(image, 7, 0))[0]
    similarity = LocalSquaredDifference(eps=1e-6)
    assert similarity(a, b) < 0.01 * similarity(other, a)


def test_squares_are_half_the_squared_norm(rng):
    a, b, w = rng.random((4, 5)), rng.random((4, 5)), rng.random((4, 5))
    expected = 0.5 * (w * (a - b) ** 2).sum()
    assert float(SquaredDifference()(*tensors(a, b, w))) == pytest.approx(expected)
    mean = SquaredDifference(reduction="mean")(*tensors(a, b, w))
    assert float(mean) == pytest.approx(expected / w.sum())


def test_global_correlation_is_that_of_numpy(rng):
    a, b, w = rng.random((6, 7, 5)), rng.random((6, 7, 5)), rng.random((6, 7, 5))
    covariance = np.cov(a.ravel(), b.ravel(), aweights=w.ravel(), ddof=0)
    cc = covariance[0, 1] / math.sqrt(covariance[0, 0] * covariance[1, 1])
    mean = NormalizedCrossCorrelation(reduction="mean")(*tensors(a, b, w))
    assert float(mean) == pytest.approx(1 - cc)
    assert float(NormalizedCrossCorrelation()(*tensors(a, b, w))) == pytest.approx(w.sum() * (1 - cc))


def test_global_correlation_does_not_know_units_and_flat_is_uncorrelated(rng):
    a, b = tensors(rng.random((6, 7)), rng.random((6, 7)))
    similarity = NormalizedCrossCorrelation(reduction="mean")
    torch.testing.assert_close(similarity(1e-6 * a, 1e6 * b + 3), similarity(a, b))
    assert similarity(3 * a + 2, a) == pytest.approx(0, abs=1e-12)
    assert similarity(-a, a) == pytest.approx(2)
    assert similarity(torch.full_like(a, 0.3), a) == 1


def test_ratio_variance_is_that_of_the_ratios(rng):
    a, b, w = rng.random((6, 7)) + 0.5, rng.random((6, 7)) + 0.5, rng.random((6, 7))
    ratio = a / b
    mean = np.average(ratio, weights=w)
    expected = np.average((ratio - mean) ** 2, weights=w) / mean**2
    found = IntensityRatioVariance(eps=1e-9, reduction="mean")(*tensors(a, b, w))
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_ratio_variance_is_safe_for_zeros_and_blind_to_a_factor(rng):
    fixed = rng.random((10, 10))
    fixed[:, :5] = 0
    a, b = tensors(2.5 * fixed, fixed)
    similarity = IntensityRatioVariance(reduction="mean")
    assert similarity(a, b) == pytest.approx(0, abs=1e-12)
    assert similarity(0 * a, b) == similarity(b, 0 * a) == 1


# --- mutual information: closed forms -----------------------------------------------------------------------


def joint_images(counts, levels):
    """Images in which the pair of levels (u, v) occurs ``counts[u, v]`` times."""
    pairs = [(levels[u], levels[v]) for u, v in np.ndindex(counts.shape) for _ in range(counts[u, v])]
    a, b = np.array(pairs, dtype=float).T
    return tensors(a.reshape(4, -1), b.reshape(4, -1))


def information(counts):
    p = counts / counts.sum()
    q = p.sum(0, keepdims=True) * p.sum(1, keepdims=True)
    return (p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum()


@pytest.mark.parametrize(
    "counts",
    [
        [[8, 2], [2, 8]],  # two classes with some confusion
        [[5, 5], [5, 5]],  # independent: no information
        [[10, 0], [0, 10]],  # a bit: log 2
        [[0, 4, 0], [0, 0, 12], [8, 0, 0]],  # a permutation of three contrasts: the entropy
        [[3, 1, 4], [1, 5, 2], [6, 5, 5]],
    ],
)
def test_information_of_a_known_joint_histogram(counts):
    """Levels 5 bins apart share no spline, so that smoothing moves nothing between them."""
    counts = np.array(counts)
    levels = np.linspace(0, 1, len(counts))
    a, b = joint_images(counts, levels)
    bins = 5 * (len(counts) - 1) + 1
    found = -MutualInformation(bins=bins, reduction="mean")(a, b)
    assert float(found) == pytest.approx(information(counts), abs=1e-9)


def test_information_is_that_of_the_weighted_histogram():
    a, b = joint_images(np.array([[8, 2], [2, 8]]), [0.0, 1.0])
    weight = torch.where((a == 1) & (b == 0), 0.5, 1.0).double()
    expected = information(np.array([[8, 2], [1, 8]]))
    assert float(-MutualInformation(bins=6, reduction="mean")(a, b, weight)) == pytest.approx(expected, abs=1e-9)


def test_information_does_not_know_contrast(rng):
    image = ndimage.gaussian_filter(rng.random((24, 24)), 1.5)
    image = (image - image.min()) / np.ptp(image)
    a, inverted, shifted = tensors(image, 1 - image, np.roll(1 - image, 5, 0))
    similarity = MutualInformation(bins=16)
    # Inverting mirrors the histogram: nothing else changes.
    torch.testing.assert_close(similarity(inverted, a), similarity(a, a))
    assert similarity(inverted, a) < 3 * similarity(shifted, a)


def test_information_ranks_shifts_as_monai_does(rng):
    from monai.losses import GlobalMutualInformationLoss

    image = ndimage.gaussian_filter(rng.random((32, 32)), 2)
    image = (image - image.min()) / np.ptp(image)
    fixed = tensors(np.sqrt(1 - image))[0].float()
    shifts = [tensors(np.roll(image, k, 1))[0].float() for k in range(4)]
    ours = [float(MutualInformation(bins=23)(m, fixed)) for m in shifts]
    theirs = [float(GlobalMutualInformationLoss(num_bins=23)(m, fixed)) for m in shifts]
    assert ours == sorted(ours) and theirs == sorted(theirs)


def test_information_in_pieces_is_information_at_once(rng, monkeypatch):
    a, b, w = tensors(*(rng.random((9, 11)) for _ in range(3)))
    at_once = MutualInformation()(a, b, w)
    monkeypatch.setattr("mmtk.similarity.information._CHUNK", 13)
    torch.testing.assert_close(MutualInformation()(a, b, w), at_once)


def test_intensities_outside_the_limits_count_as_the_nearest(rng):
    a, b = tensors(rng.random((9, 11)), rng.random((9, 11)))
    similarity = MutualInformation(bins=8, limits=(0.2, 0.8))
    torch.testing.assert_close(similarity(a, b), similarity(a.clamp(0.2, 0.8), b.clamp(0.2, 0.8)))
