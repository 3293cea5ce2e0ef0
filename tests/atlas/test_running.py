"""The sums of a round and its sharpness: numpy's means, lesions without weight, memory that stays."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mmtk.atlas.running import RunningSums, share_that_counts
from mmtk.atlas.sharpness import content, sharpened, sharpness
from mmtk.errors import ConfigError

SHAPE, NUMBERS = (6, 5, 4), 7


def cases(count: int, shape=SHAPE):
    for n in range(count):
        draw = np.random.default_rng(n)
        yield (
            f"p{n}",
            draw.random(shape),
            draw.random(shape),
            draw.standard_normal(NUMBERS),
            np.eye(len(shape)) * n,
        )


def test_sums_are_those_of_numpy_and_a_patient_joins_later(tmp_path):
    sums = RunningSums.open(tmp_path, SHAPE, NUMBERS)
    *first, lost = cases(5)
    for name, *rest in first:
        sums.add(name, "d", *rest)
    sums.save()
    sums.add("lost", "d", *lost[1:])  # and then the process was killed
    again = RunningSums.open(tmp_path, SHAPE, NUMBERS)
    assert list(again.cases) == [f"p{n}" for n in range(4)]
    again.add(lost[0], "d", *lost[1:])
    images, counts, white, stretch = (np.stack(part) for part in list(zip(*cases(5), strict=True))[1:])
    mean = np.average(images, axis=0, weights=counts)
    assert np.allclose(again.mean, mean)
    assert np.allclose(again.spread**2, np.average((images - mean) ** 2, axis=0, weights=counts))
    assert np.allclose(again.white, white.sum(axis=0)) and np.allclose(again.stretch, stretch.sum(axis=0))
    assert np.allclose(again.table(), white, atol=1e-6)
    with pytest.raises(ConfigError, match="sums of another grid"):
        RunningSums.open(tmp_path, (6, 5, 5), NUMBERS)


@given(arrays(np.float64, SHAPE, elements=st.floats(-1e6, 1e6)), st.integers(0, 2**16))
def test_what_lies_under_a_lesion_cannot_matter(damage, seed):
    draw = np.random.default_rng(seed)
    image, mean, spread = (draw.random(SHAPE) for _ in range(3))
    lesion = (draw.random(SHAPE) < 0.3) * draw.random(SHAPE)
    damaged = np.where(lesion > 0, damage, image)
    for known in ((mean, spread), (None, None)):
        counts = share_that_counts(image, lesion, *known)
        other = share_that_counts(damaged, lesion, *known)
        assert np.array_equal(counts, other) and np.array_equal(counts * image, other * damaged)
        assert (counts[lesion > 0] == 0).all() and (counts[lesion == 0] > 0).all()


def test_what_is_far_off_counts_less():
    mean, spread = np.zeros(SHAPE), np.full(SHAPE, 0.1)
    assert (share_that_counts(np.full(SHAPE, 0.2), None, mean, spread) == 1).all()
    assert np.allclose(share_that_counts(np.full(SHAPE, -0.8), None, mean, spread), 0.25)


def test_memory_does_not_grow_with_the_cohort(tmp_path):
    shape, peaks = (30, 30, 30), []
    for count in (3, 12):
        folder = tmp_path / str(count)
        folder.mkdir()
        tracemalloc.start()
        sums = RunningSums.open(folder, shape, NUMBERS)
        for name, *rest in cases(count, shape):
            sums.add(name, "d", *rest)
        sums.save()
        assert sums.mean.shape == shape
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.02 * peaks[0] + 1e4


def blobs() -> np.ndarray:
    axes = np.meshgrid(np.linspace(-1, 1, 40), np.linspace(-1, 1, 36), indexing="ij")
    radius = np.hypot(*axes)
    return (radius < 0.8) * (0.5 + 0.5 * (radius < 0.4))


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (7.0, 0.0), (0.1, 3.0)])
def test_a_blurred_image_is_less_sharp_and_contrast_is_no_sharpness(scale, shift):
    from scipy.ndimage import gaussian_filter

    image = blobs()
    inside = content(image)
    own, blurred = (sharpness(scale * i + shift, (1.0, 1.0), inside) for i in (image, gaussian_filter(image, 1.5)))
    assert own == pytest.approx(sharpness(image, (1.0, 1.0), inside))
    assert blurred["gradient"] < own["gradient"] and blurred["fine"] < own["fine"]
    assert blurred["entropy"] > own["entropy"]


@settings(max_examples=30)
@given(arrays(np.float64, (7, 6), elements=st.floats(-10, 10)), st.floats(0, 2))
def test_sharpening_makes_no_halos(image, share):
    from scipy.ndimage import maximum_filter, minimum_filter

    found = sharpened(image, share)
    assert (found <= maximum_filter(image, 3)).all() and (found >= minimum_filter(image, 3)).all()
    assert np.array_equal(sharpened(image, 0.0), image)
