import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from mmtk.errors import InputError
from mmtk.io import probe_image, read_image, write_image

ROWS = np.arange(7 * 5, dtype=np.uint8).reshape(5, 7) * 6  # 5 rows of 7 pixels: width 7, height 5


@pytest.mark.parametrize("suffix", ["png", "tif", "tiff", "jpg", "jpeg", "PNG"])
def test_axis_i_runs_along_the_row(tmp_path, suffix):
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(ROWS).save(path)
    volume = read_image(path)
    assert volume.shape == probe_image(path).shape == (7, 5) and volume.dim == 2
    np.testing.assert_allclose(volume.data, ROWS.T, atol=12 if "j" in suffix else 0)
    assert not volume.notes


def test_a_picture_and_the_nifti_that_itk_makes_of_it_are_one_image(tmp_path):
    Image.fromarray(ROWS).save(tmp_path / "image.png")
    sitk.WriteImage(sitk.ReadImage(str(tmp_path / "image.png")), str(tmp_path / "itk.nii.gz"))
    picture, nifti = read_image(tmp_path / "image.png"), read_image(tmp_path / "itk.nii.gz")
    np.testing.assert_array_equal(picture.data, nifti.data)
    np.testing.assert_allclose(picture.affine, nifti.affine)
    write_image(tmp_path / "ours.nii.gz", picture.data, picture)
    ours, theirs = (sitk.ReadImage(str(tmp_path / name)) for name in ("ours.nii.gz", "itk.nii.gz"))
    assert ours.GetDirection() == theirs.GetDirection() and ours.GetOrigin() == theirs.GetOrigin()


@pytest.mark.parametrize(("spacing", "expected"), [(None, (1, 1)), (0.5, (0.5, 0.5)), ((0.5, 2), (0.5, 2))])
def test_the_spacing_is_1_mm_unless_given(tmp_path, spacing, expected):
    Image.fromarray(ROWS).save(tmp_path / "image.png", dpi=(300, 300))
    assert read_image(tmp_path / "image.png", spacing=spacing).spacing == expected


@pytest.mark.parametrize(("array", "mode"), [(ROWS.astype(np.uint16) * 200, "I;16"), (ROWS / 7.0, "F")])
def test_deep_gray_values_are_kept(tmp_path, array, mode):
    path = tmp_path / "image.tif"
    Image.fromarray(array.astype(np.float32) if mode == "F" else array).save(path)
    np.testing.assert_allclose(read_image(path).data, array.T, rtol=1e-6)


def test_colors_become_luma_with_a_note(tmp_path):
    colors = np.random.default_rng(0).integers(0, 255, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(colors).save(tmp_path / "color.png")
    volume = read_image(tmp_path / "color.png")
    np.testing.assert_allclose(volume.data, (colors @ [0.299, 0.587, 0.114]).T, rtol=1e-5)
    assert "is in color; its luma (ITU-R BT.601) is used" in volume.notes[0]


def test_gray_that_is_stored_as_color_stays_exact(tmp_path):
    Image.fromarray(ROWS).convert("RGBA").save(tmp_path / "gray.png")
    volume = read_image(tmp_path / "gray.png")
    np.testing.assert_array_equal(volume.data, ROWS.T)
    assert not volume.notes


def test_black_and_white_is_1_and_0(tmp_path):
    Image.fromarray(ROWS > 60).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_image(tmp_path / "bits.png").data, (ROWS > 60).T)


def test_several_pages_are_refused(tmp_path):
    page = Image.fromarray(ROWS)
    page.save(tmp_path / "stack.tif", save_all=True, append_images=[page, page])
    with pytest.raises(InputError, match="has 3 pages, but a picture is one 2-D image; save the page you want"):
        read_image(tmp_path / "stack.tif")


def test_a_damaged_picture_is_refused(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 90), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match="probably truncated, so copy or download it again"):
        read_image(path)
    path.write_bytes(b"no picture at all")
    with pytest.raises(InputError, match=r"moving: .* cannot be read as a picture .* save it again as PNG"):
        probe_image(path)
