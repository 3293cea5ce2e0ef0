from dataclasses import replace

import nibabel
import numpy as np
import pytest

from mmtk.errors import GridMismatch, InputError
from mmtk.io import Volume, probe_image, read_image, sha256, write_image

OBLIQUE = nibabel.affines.from_matvec(
    nibabel.eulerangles.euler2mat(0.3, -0.2, 0.1) @ np.diag([-1.5, 1.0, 2.5]), [10, -20, 30]
)


def ramp(*shape, dtype=np.float32):
    return np.arange(np.prod(shape), dtype=dtype).reshape(shape)


@pytest.mark.parametrize("name", ["image.nii", "image.nii.gz", "image.img"])
def test_voxels_and_affine_are_the_files(save, name):
    volume = read_image(save(ramp(4, 5, 6), OBLIQUE, name))
    np.testing.assert_array_equal(volume.data, ramp(4, 5, 6))
    np.testing.assert_allclose(volume.affine, OBLIQUE, atol=1e-5)
    assert volume.data.dtype == np.float32 and volume.data.flags.c_contiguous
    assert volume.dim == 3 and volume.grid.spacing == pytest.approx((1.5, 1.0, 2.5), rel=1e-5)


def test_freesurfer_files_are_read(tmp_path):
    path = tmp_path / "image.mgz"
    nibabel.save(nibabel.MGHImage(ramp(4, 5, 6), OBLIQUE), path)
    np.testing.assert_allclose(read_image(path).affine, OBLIQUE, atol=1e-5)


def test_analyze_files_are_read_with_a_note(tmp_path):
    nibabel.save(nibabel.AnalyzeImage(ramp(4, 5, 6), None), tmp_path / "image.img")
    volume = read_image(tmp_path / "image.hdr")
    np.testing.assert_array_equal(volume.data, ramp(4, 5, 6))
    assert "Analyze format, which leaves left and right open" in volume.notes[0]


def test_scaled_integers_are_scaled(save):
    path = save(ramp(4, 5, 6, dtype=np.int16), scl_slope=0.5, scl_inter=3)
    image = nibabel.load(path)
    np.testing.assert_allclose(read_image(path).data, image.get_fdata())
    assert read_image(path).storage.dtype == np.int16


@pytest.mark.parametrize("kind", ["path", "string", "nibabel", "volume"])
def test_every_source_gives_the_same_volume(save, kind):
    path = save(ramp(4, 5, 6), OBLIQUE)
    first = read_image(path)
    source = {"path": path, "string": str(path), "nibabel": nibabel.load(path), "volume": first}[kind]
    volume = read_image(source, name="fixed")
    np.testing.assert_array_equal(volume.data, first.data)
    np.testing.assert_array_equal(volume.affine, first.affine)
    assert volume.name == "fixed"


def test_an_array_or_tensor_lies_along_left_posterior_superior():
    import torch

    for source in (ramp(4, 5, 6), torch.from_numpy(ramp(4, 5, 6))):
        volume = read_image(source, spacing=(1, 2, 3))
        np.testing.assert_allclose(volume.affine, np.diag([-1, -2, 3, 1]))
    assert read_image(ramp(4, 5)).spacing == (1, 1)


@pytest.mark.parametrize(
    ("stored", "shape"),
    [
        ((4, 5, 6, 1), (4, 5, 6)),
        ((4, 5, 6, 1, 1), (4, 5, 6)),
        ((4, 5), (4, 5)),
        ((4, 5, 1), (4, 5)),
        ((4, 5, 1, 1), (4, 5)),
        ((4, 1, 6), (4, 6)),
        ((1, 5, 6), (5, 6)),
    ],
)
def test_axes_of_length_one_are_dropped_and_come_back(save, tmp_path, stored, shape):
    path = save(ramp(*stored), OBLIQUE)
    volume = read_image(path)
    assert volume.shape == probe_image(path).shape == shape
    np.testing.assert_array_equal(volume.data, ramp(*shape))
    back = nibabel.load(write_image(tmp_path / "back.nii.gz", volume.data, volume))
    assert back.shape == stored[:3]
    np.testing.assert_array_equal(back.get_fdata().ravel(), ramp(*stored).ravel())
    np.testing.assert_allclose(back.affine, nibabel.load(path).affine, atol=1e-5)


def test_a_slice_keeps_the_spacing_of_its_own_axes(save):
    assert read_image(save(ramp(4, 1, 6), np.diag([2, 3, 4, 1]))).spacing == (2, 4)


@pytest.mark.parametrize("codes", [(1, 0), (0, 1), (2, 1), (4, 4)])
def test_codes_and_affine_come_back_as_they_were(save, tmp_path, codes):
    volume = read_image(save(ramp(4, 5, 6), OBLIQUE, codes=codes))
    back = nibabel.load(write_image(tmp_path / "back.nii.gz", volume.data, volume))
    assert (back.header["sform_code"], back.header["qform_code"]) == codes
    np.testing.assert_allclose(back.affine, OBLIQUE, atol=1e-4)
    assert back.header.get_xyzt_units()[0] == "mm"


def test_the_sform_wins_over_the_qform_and_a_note_says_so(save, tmp_path):
    image = nibabel.load(save(ramp(4, 5, 6), OBLIQUE))
    image.set_qform(np.eye(4), 1)
    nibabel.save(image, tmp_path / "two.nii")
    volume = read_image(tmp_path / "two.nii")
    np.testing.assert_allclose(volume.affine, OBLIQUE, atol=1e-5)
    assert "sform and qform" in volume.notes[0]
    back = nibabel.load(write_image(tmp_path / "back.nii", volume.data, volume))
    np.testing.assert_allclose(back.header.get_qform(), OBLIQUE, atol=1e-4)


def test_meters_become_millimeters(save, tmp_path):
    affine = np.diag([0.002, 0.003, 0.004, 1])
    volume = read_image(save(ramp(4, 5, 6), affine, units="meter"))
    np.testing.assert_allclose(volume.spacing, (2, 3, 4), rtol=1e-6)
    back = nibabel.load(write_image(tmp_path / "back.nii", volume.data, volume))
    np.testing.assert_allclose(back.affine, np.diag([2, 3, 4, 1]), rtol=1e-6)
    assert back.header.get_xyzt_units()[0] == "mm"


def test_a_sheared_affine_is_kept_with_a_note(save, tmp_path):
    sheared = np.eye(4)
    sheared[0, 1] = 0.3
    volume = read_image(save(ramp(4, 5, 6), sheared))
    assert "not at right angles" in volume.notes[-1]
    back = nibabel.load(write_image(tmp_path / "back.nii", volume.data, volume))
    np.testing.assert_allclose(back.affine, sheared, atol=1e-6)


def test_spacing_places_an_image_without_forms_as_itk_does(save, tmp_path):
    import SimpleITK as sitk

    path = save(ramp(4, 5, 6), np.diag([2, 3, 4, 1]), codes=(0, 0))
    volume = read_image(path, spacing=(2, 3, 4))
    np.testing.assert_allclose(volume.affine, np.diag([-2, -3, 4, 1]))
    assert sitk.ReadImage(str(path)).GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)
    back = write_image(tmp_path / "back.nii.gz", volume.data, volume)
    assert nibabel.load(back).header["sform_code"] == 1


def test_spacing_does_not_touch_an_image_that_knows_its_own(save):
    volume = read_image(save(ramp(4, 5, 6), OBLIQUE), spacing=7)
    np.testing.assert_allclose(volume.affine, OBLIQUE, atol=1e-5)
    assert "`spacing` is not used" in volume.notes[0]


def test_an_empty_normal_of_a_slice_is_filled_in(tmp_path):
    image = nibabel.Nifti1Image(ramp(4, 5), np.eye(4))
    image.header["srow_x"], image.header["srow_y"] = [2, 0, 0, 1], [0, 3, 0, 1]
    image.header["srow_z"], image.header["sform_code"] = 0, 1
    nibabel.save(nibabel.Nifti1Image(ramp(4, 5), None, image.header), tmp_path / "flat.nii")
    volume = read_image(tmp_path / "flat.nii")
    assert volume.spacing == (2, 3)
    write_image(tmp_path / "back.nii", volume.data, volume)


def test_probing_tells_what_reading_would(save):
    path = save(ramp(4, 5, 6), OBLIQUE)
    header, volume = probe_image(path, name="fixed"), read_image(path)
    assert (header.shape, header.dim, header.spacing) == (volume.shape, 3, volume.spacing)
    assert header.name == "fixed" and header.path == volume.path == path


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_values_are_rounded_and_clipped_to_the_type_of_the_file(tmp_path, dtype):
    volume = Volume(np.zeros((2, 2, 2)), np.eye(4))
    data = np.array([-1.0, 0.4, 0.6, 300.0] * 2, np.float32).reshape(2, 2, 2)
    image = nibabel.load(write_image(tmp_path / "x.nii.gz", data, volume, dtype))
    assert image.get_data_dtype() == dtype
    expected = {np.uint8: [0, 0, 1, 255], np.int16: [-1, 0, 1, 300]}.get(dtype, [-1, 0.4, 0.6, 300])
    np.testing.assert_allclose(image.get_fdata().ravel()[:4], expected, rtol=1e-6)


def test_tensors_with_batch_and_channel_are_written(tmp_path):
    import torch

    volume = Volume(ramp(4, 5, 6), OBLIQUE)
    path = write_image(tmp_path / "x.nii.gz", torch.from_numpy(volume.data)[None, None], volume)
    np.testing.assert_array_equal(nibabel.load(path).get_fdata(), volume.data)


def test_equal_data_give_equal_files(tmp_path):
    volume = Volume(np.random.default_rng(0).normal(size=(40, 50, 60)), OBLIQUE)
    one, two = (write_image(tmp_path / f"{i}.nii.gz", volume.data, volume) for i in "ab")
    assert sha256(one) == sha256(two)


def test_data_of_another_grid_are_not_written(tmp_path):
    volume = Volume(ramp(4, 5, 6), OBLIQUE, name="fixed")
    with pytest.raises(GridMismatch, match="resample `data` onto the grid of `fixed`"):
        write_image(tmp_path / "x.nii", ramp(4, 5, 7), volume)
    with pytest.raises(InputError, match=r"results are written as NIfTI, so name it so"):
        write_image(tmp_path / "x.png", volume.data, volume)
    assert not list(tmp_path.iterdir())


def test_a_volume_says_what_it_is_in_a_line():
    assert (
        repr(Volume(ramp(4, 5), np.diag([-2, -1, 1, 1]), name="moving"))
        == "Volume(moving: 4x5 voxels of 2x1 mm, LP)"
    )


def test_a_volume_can_be_changed_only_into_another(save):
    volume = read_image(save(ramp(4, 5, 6), OBLIQUE))
    other = replace(volume, data=volume.data + 1)
    assert other.storage is volume.storage and other.data[0, 0, 0] == 1
    with pytest.raises(AttributeError):
        volume.data = other.data
