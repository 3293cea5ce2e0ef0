"""Placements are found again, by what lies outside the masks, and are never worse than the headers'."""

from __future__ import annotations

import numpy as np
import pytest

from mmtk.align import align
from mmtk.errors import GridMismatch, InputError
from mmtk.io import Volume

OBLIQUE = np.linalg.qr(np.array([[1.0, 0.4, -0.2], [-0.3, 1.0, 0.3], [0.1, -0.4, 1.0]]))[0]
PERMUTED = np.array([[0.0, 0.0, -1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
WORLD = np.eye(4)


def test_a_turn_of_20_degrees_and_30_mm_is_found_again(head, fixed, motion, distance):
    true = motion(degrees=20, shift=(30, -20, 15))
    found = align(head.seen((66, 70, 60), (3, 3, 3), true, shifted=(30, -20, 15)), fixed, kind="rigid")
    assert found.kind == "rigid"
    assert found.accepted
    assert found.cost_after < found.cost_before
    assert distance(head, found.matrix, true) < 0.3
    np.testing.assert_allclose(found.matrix[:3, :3] @ found.matrix[:3, :3].T, np.eye(3), atol=1e-9)


@pytest.mark.parametrize(
    ("shape", "spacing", "turned", "limit"),
    [
        ((70, 80, 64), (3, 3, 3), None, 0.9),
        ((100, 100, 28), (2, 2, 7), OBLIQUE, 1.8),  # a quarter of a slice
        ((44, 90, 100), (4, 2.5, 2), PERMUTED, 0.9),
    ],
    ids=["alike", "oblique slices", "axes permuted and flipped"],
)
def test_an_affine_placement_is_found_again_on_any_grid(
    head, fixed, motion, distance, shape, spacing, turned, limit
):
    true = motion(degrees=15, shift=(20, 30, -10), stretch=(1.2, 0.85, 1.1), shear=0.08)
    found = align(head.seen(shape, spacing, true, turned, (20, 30, -10)), fixed)
    assert found.kind == "affine"
    assert distance(head, found.matrix, true) < limit
    assert found.note == ""


def test_a_slab_is_placed_within_the_head(head, fixed, motion, distance):
    true = motion(degrees=8, shift=(10, 5, 0), stretch=(1.05, 1, 1))
    found = align(head.seen((90, 90, 24), (2, 2, 3), true, shifted=(10, 5, 8)), fixed)
    assert distance(head, found.matrix, true) < 3  # one of its 24 slices


def test_contrast_may_be_another(head, fixed, motion, distance):
    true = motion(degrees=12, shift=(15, -10, 5), stretch=(1.1, 1, 0.95))
    inverted = head.seen(
        (66, 76, 60), (3, 3, 3), true, shifted=(15, -10, 5), contrast=lambda x: np.where(x > 5, 400 - 2.5 * x, x)
    )
    assert distance(head, align(inverted, fixed).matrix, true) < 2


@pytest.mark.parametrize(("kind", "limit"), [("rigid", 0.2), ("affine", 0.4)])
def test_slices_are_placed_in_their_plane(slice_of_head, motion, distance, kind, limit):
    stretched = (1.15, 0.9) if kind == "affine" else (1, 1)
    true = motion(2, degrees=20, shift=(30, -20), stretch=stretched)
    still = slice_of_head.seen((140, 160), (1.2, 1.2), name="fixed")
    found = align(slice_of_head.seen((180, 180), (1, 1.3), true, shifted=(30, -20)), still, kind=kind)
    assert distance(slice_of_head, found.matrix, true) < limit
    np.testing.assert_array_equal(found.matrix[2], WORLD[2])
    np.testing.assert_array_equal(found.matrix[:, 2], WORLD[2])


def test_a_lesion_under_its_mask_changes_nothing(head, fixed, motion):
    true = motion(degrees=10, shift=(10, 5, -8), stretch=(1.05, 0.95, 1))
    healthy = head.seen((60, 70, 56), (3, 3, 3), true)
    mask = np.zeros(healthy.shape, np.float32)
    mask[34:46, 30:44, 26:38] = 1
    damaged = Volume(np.where(mask > 0, 900, healthy.data), healthy.affine)
    lesion = Volume(mask, healthy.affine)
    one, other = (align(image, fixed, moving_mask=lesion) for image in (healthy, damaged))
    np.testing.assert_array_equal(one.matrix, other.matrix)
    assert one.cost_after == other.cost_after


def test_a_bright_lesion_does_not_pull_when_it_is_masked(head, fixed, motion, distance):
    true = motion(degrees=10, shift=(10, 5, -8))
    healthy = head.seen((60, 70, 56), (3, 3, 3), true)
    mask = np.zeros(healthy.shape, np.float32)
    mask[34:46, 30:44, 26:38] = 1
    damaged = Volume(np.where(mask > 0, 900, healthy.data), healthy.affine)
    found = align(damaged, fixed, moving_mask=Volume(mask, healthy.affine))
    assert distance(head, found.matrix, true) < 0.9


def test_a_mask_on_the_fixed_side_and_its_weight_are_one(head, fixed, motion):
    moving = head.seen((60, 70, 56), (3, 3, 3), motion(degrees=5, shift=(5, 0, 0)))
    mask = np.zeros(fixed.shape, np.float32)
    mask[20:30, 20:30, 20:30] = 1
    damaged = Volume(np.where(mask > 0, -500, fixed.data), fixed.affine)
    masked = align(moving, damaged, fixed_mask=Volume(mask, fixed.affine))
    weighed = align(moving, fixed, weight=Volume(1 - mask, fixed.affine))
    np.testing.assert_array_equal(masked.matrix, weighed.matrix)


@pytest.mark.parametrize("kind", ["rigid", "affine"])
def test_images_that_lie_well_are_left_where_they_are(fixed, kind):
    found = align(fixed, fixed, kind=kind)
    np.testing.assert_array_equal(found.matrix, WORLD)
    assert not found.accepted
    assert found.kind == "none"
    assert "headers were kept" in found.note


def test_the_answer_does_not_depend_on_how_the_arrays_are_stored(head, fixed, motion, distance):
    moving = head.seen((60, 70, 56), (3, 3, 3), motion(degrees=10, shift=(10, -5, 8), stretch=(1.1, 1, 0.9)))
    expected = align(moving, fixed).matrix
    for first, second in (
        (_restored(moving), fixed),
        (moving, _restored(fixed)),
        (_restored(moving), _restored(fixed)),
    ):
        assert distance(head, align(first, second).matrix, expected) < 0.05


def _restored(volume: Volume) -> Volume:
    """The same image with its first axis flipped and its axes rotated, affine with it."""
    flip = np.eye(4)
    flip[0, 0], flip[0, 3] = -1, volume.shape[0] - 1
    order = np.eye(4)[[2, 0, 1, 3]]
    return Volume(volume.data[::-1].transpose(2, 0, 1), volume.affine @ flip @ np.linalg.inv(order))


def test_centers_of_mass_are_joined_when_asked(head, fixed, motion):
    moving = head.seen((80, 80, 70), (3, 3, 3), motion(shift=(40, -30, 20)), shifted=(20, -15, 10))
    found = align(moving, fixed, kind="center")
    assert found.kind == "center"
    np.testing.assert_allclose(found.matrix[:3, 3], (40, -30, 20), atol=1)
    np.testing.assert_array_equal(found.matrix[:3, :3], np.eye(3))


def test_none_trusts_the_headers(fixed):
    found = align(fixed, fixed, kind="none")
    np.testing.assert_array_equal(found.matrix, WORLD)
    assert np.isnan(found.cost_before)


def test_progress_tells_stage_step_and_cost(fixed, head, motion):
    heard = []
    moving = head.seen((60, 70, 56), (3, 3, 3), motion(shift=(9, 0, 0)))
    align(moving, fixed, progress=lambda *told: heard.append(told))
    assert next(stage for stage, _, _ in heard) == "search"
    assert {stage for stage, _, _ in heard} == {"search", "affine"}
    assert all(0 <= cost <= 1 and step > 0 for _, step, cost in heard)


def test_a_constant_image_is_refused(fixed):
    flat = Volume(np.full(fixed.shape, 7.0, np.float32), fixed.affine)
    with pytest.raises(InputError, match=r"moving: nothing differs from its background.*init=none"):
        align(flat, fixed)


def test_a_mask_that_covers_everything_is_refused(fixed):
    everything = Volume(np.ones(fixed.shape, np.float32), fixed.affine)
    with pytest.raises(InputError, match="fixed: every voxel is masked"):
        align(fixed, fixed, fixed_mask=everything)


def test_voxels_that_are_no_numbers_are_refused(fixed):
    broken = fixed.data.copy()
    broken[30, 30, 30] = np.nan
    with pytest.raises(InputError, match="NaN or infinite"):
        align(Volume(broken, fixed.affine), fixed)


def test_a_mask_on_another_grid_is_refused(fixed):
    with pytest.raises(GridMismatch, match="resample `moving_mask` onto the grid of `moving`"):
        align(fixed, fixed, moving_mask=Volume(np.zeros((8, 8, 8)), fixed.affine))


def test_dimensions_must_agree(fixed, slice_of_head):
    with pytest.raises(InputError, match="two images of one dimension"):
        align(slice_of_head.seen((60, 60), (3, 3)), fixed)
