import nibabel
import numpy as np
import pytest
from PIL import Image

from mmtk.errors import InputError
from mmtk.io import Volume, read_image, read_mask

AFFINE = np.array([[-1.5, 0, 0, 20], [0, 0.6, -1.2, 5], [0, 0.8, 0.9, -8], [0, 0, 0, 1]])
SHAPE = (16, 14, 12)


def lesion(shape=SHAPE, low=4, high=9):
    box = np.zeros(shape, np.uint8)
    box[(slice(low, high),) * len(shape)] = 1
    return box


@pytest.fixture
def moving(save):
    """A brain of noise in a background of zeros."""
    data = np.zeros(SHAPE, np.float32)
    data[2:-2, 2:-2, 2:-2] = np.random.default_rng(0).uniform(1, 2, (12, 10, 8))
    return read_image(save(data, AFFINE, "moving.nii.gz"))


def test_a_mask_on_the_same_grid_is_taken_as_it_is(save, moving):
    mask = read_mask(save(lesion(), AFFINE, "mask.nii.gz"), like=moving)
    np.testing.assert_array_equal(mask.data, lesion())
    assert mask.notes == () and mask.name == "mask"
    np.testing.assert_array_equal(mask.affine, moving.affine)


def test_probabilities_stay(save, moving):
    soft = lesion() * np.float32(0.3)
    np.testing.assert_array_equal(read_mask(save(soft, AFFINE, "mask.nii"), like=moving).data, soft)


@pytest.mark.parametrize("values", [(2, 4), (1, 255), (-1, 1)])
def test_any_label_but_0_counts_and_a_note_says_so(save, moving, values):
    labels = (np.where(np.indices(SHAPE)[0] < 6, *values) * lesion()).astype(np.int16)
    mask = read_mask(save(labels, AFFINE, "mask.nii"), like=moving)
    np.testing.assert_array_equal(mask.data, lesion())
    assert "holds the labels" in mask.notes[0] and "any but 0 counts as lesion" in mask.notes[0]


def test_what_interpolation_left_beyond_0_and_1_is_clipped(save, moving):
    mask = read_mask(save(lesion() * np.float32(1.02) - np.float32(0.01), AFFINE, "mask.nii"), like=moving)
    assert mask.data.min() == 0 and mask.data.max() == 1
    assert "it is clipped to [0, 1]" in mask.notes[0]


def test_what_rounding_left_beyond_1_is_clipped_without_a_word(save, moving):
    mask = read_mask(save(lesion() * np.nextafter(np.float32(1), np.float32(2)), AFFINE, "mask.nii"), like=moving)
    assert mask.data.max() == 1 and not mask.notes


def test_fractions_that_mean_neither_are_refused(save, moving):
    with pytest.raises(InputError, match=r"holds fractions from 0 to 37.5, .*; threshold it, or divide it"):
        read_mask(save(lesion() * np.float32(37.5), AFFINE, "mask.nii"), like=moving)


def test_a_mask_on_a_finer_grid_keeps_its_volume(save, moving):
    fine = np.repeat(np.repeat(np.repeat(lesion(), 2, 0), 2, 1), 2, 2)
    half = AFFINE @ np.diag([0.5, 0.5, 0.5, 1])
    half[:3, 3] = AFFINE[:3, :3] @ [-0.25, -0.25, -0.25] + AFFINE[:3, 3]
    mask = read_mask(save(fine, half, "mask.nii"), like=moving)
    assert mask.data.sum() == pytest.approx(lesion().sum(), rel=0.01)
    assert np.abs(mask.data - lesion()).mean() < 0.05
    assert "lies on another grid (shape (32, 28, 24)) and was resampled onto moving" in mask.notes[0]


def test_a_lesion_smaller_than_a_voxel_does_not_vanish(save, moving):
    quarter = AFFINE @ np.diag([0.25, 0.25, 0.25, 1])
    speck = np.zeros([4 * n for n in SHAPE], np.uint8)
    speck[22, 22, 22] = 1  # between the voxels of the image
    mask = read_mask(save(speck, quarter, "mask.nii"), like=moving)
    assert mask.data.sum() == pytest.approx(1 / 64, rel=0.2)


def test_a_mask_in_another_orientation_is_the_same_mask(save, moving):
    turned = nibabel.load(save(lesion(), AFFINE, "mask.nii")).as_reoriented([[1, -1], [2, 1], [0, -1]])
    mask = read_mask(turned, like=moving)
    np.testing.assert_allclose(mask.data, lesion(), atol=1e-5)


def test_a_mask_of_another_place_is_refused(save, moving):
    far = AFFINE.copy()
    far[:3, 3] += 500
    with pytest.raises(InputError, match=r"mask: .* does not overlap moving in space: .* give a mask drawn on"):
        read_mask(save(lesion(), far, "mask.nii"), like=moving)


@pytest.mark.parametrize("name", ["mask", "fixed_mask"])
def test_an_empty_mask_is_refused(save, moving, name):
    with pytest.raises(InputError, match=f"^{name}: .* is empty .* mark the lesion in it, or leave out `{name}=`"):
        read_mask(save(np.zeros(SHAPE, np.uint8), AFFINE, "mask.nii"), like=moving, name=name)


@pytest.mark.parametrize("what", ["everything", "foreground"])
def test_a_mask_that_covers_everything_is_refused(save, moving, what):
    mask = np.ones(SHAPE, np.uint8) if what == "everything" else (moving.data > 0).astype(np.uint8)
    with pytest.raises(InputError, match="covers all of moving, so nothing is left to compare; it must mark the"):
        read_mask(save(mask, AFFINE, "mask.nii"), like=moving)


def test_a_brain_mask_that_is_not_quite_the_brain_is_refused(save, moving):
    brain = (moving.data > 0).astype(np.uint8)
    brain[2, 2] = 0
    with pytest.raises(InputError, match="is it a brain mask, or 1 and 0 the wrong way round"):
        read_mask(save(brain, AFFINE, "mask.nii"), like=moving)


def test_a_lesion_that_is_partly_outside_is_told(save, moving):
    shifted = AFFINE.copy()
    shifted[:3, 3] -= AFFINE[:3, :3] @ [6.5, 0, 0]
    mask = read_mask(save(lesion(), shifted, "mask.nii"), like=moving)
    assert "the rest lies outside" in mask.notes[0]


def test_nan_in_a_mask_is_refused(save, moving):
    holed = lesion().astype(np.float32)
    holed[0, 0, :3] = np.nan
    with pytest.raises(InputError, match=r"mask: .* has 3 NaN and 0 infinite voxels"):
        read_mask(save(holed, AFFINE, "mask.nii"), like=moving)


def test_a_flat_mask_does_not_fit_a_volume(save, moving):
    with pytest.raises(InputError, match=r"is 2-D but moving is 3-D; give a mask of that image"):
        read_mask(save(lesion((16, 14)), None, "mask.nii"), like=moving)


def test_a_mask_without_a_place_takes_that_of_its_image(save, moving):
    array = read_mask(lesion(), like=moving)
    formless = read_mask(save(lesion(), AFFINE, "mask.nii", codes=(0, 0)), like=moving)
    for mask in (array, formless):
        np.testing.assert_array_equal(mask.data, lesion())
        np.testing.assert_array_equal(mask.affine, moving.affine)
    with pytest.raises(InputError, match=r"as the given mask has no position in space it cannot be resampled"):
        read_mask(lesion((10, 10, 10)), like=moving)


def test_a_placed_mask_fits_an_image_without_a_place_by_its_shape(save):
    image = read_image(np.random.default_rng(0).normal(size=SHAPE))
    mask = read_mask(save(lesion(), AFFINE, "mask.nii"), like=image)
    assert "is laid on it voxel by voxel" in mask.notes[0]


def test_a_picture_masks_a_picture_of_any_spacing(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (14, 16), dtype=np.uint8)).save(tmp_path / "i.png")
    Image.fromarray(lesion((14, 16)) * 255).save(tmp_path / "m.png")
    Image.fromarray(lesion((14, 16)) * 255).save(tmp_path / "m.jpg")
    image = read_image(tmp_path / "i.png", spacing=0.5)
    for name in ("m.png", "m.jpg"):
        mask = read_mask(tmp_path / name, like=image)
        np.testing.assert_array_equal(mask.data, lesion((16, 14)))
        assert mask.spacing == (0.5, 0.5)


def test_the_image_is_not_written_to(moving):
    before = moving.data.copy()
    source = lesion() * 3
    read_mask(source, like=moving)
    np.testing.assert_array_equal(moving.data, before)
    assert source.max() == 3


def test_a_volume_will_do(moving):
    mask = read_mask(Volume(lesion(), AFFINE), like=moving)
    np.testing.assert_array_equal(mask.data, lesion())
