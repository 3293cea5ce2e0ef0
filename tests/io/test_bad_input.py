"""One sentence for each thing that can be wrong with an input: what was seen, what was expected, what to do."""

import gzip

import nibabel
import numpy as np
import pytest

from mmtk.errors import ConfigError, InputError
from mmtk.io import probe_image, read_image


def noise(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("read", [probe_image, read_image])
class TestSeenFromTheHeader:
    """Whatever the header shows is found without the voxels, and in the same words."""

    def test_a_missing_file_is_answered_with_its_nearest_neighbor(self, read, save, tmp_path):
        save(noise(4, 5, 6), name="patient_t1.nii.gz")
        with pytest.raises(InputError, match=r"^moving: there is no file '.*patient_t2.nii.gz'; .*did you mean"):
            read(tmp_path / "patient_t2.nii.gz")
        with pytest.raises(InputError, match=r"^fixed: there is no file 'nowhere/x.nii'; .*nor is there a folder"):
            read("nowhere/x.nii", name="fixed")

    def test_a_folder(self, read, tmp_path):
        with pytest.raises(InputError, match=r"is a folder, but one image file is expected; give the file's own"):
            read(tmp_path)

    def test_an_empty_file(self, read, tmp_path):
        (tmp_path / "image.nii").touch()
        with pytest.raises(InputError, match=r"is empty \(0 bytes\); copy or download it again"):
            read(tmp_path / "image.nii")

    @pytest.mark.parametrize("name", ["image.nii", "image.nii.gz", "image.txt", "image.nrrd"])
    def test_another_format(self, read, tmp_path, name):
        (tmp_path / name).write_bytes(b"NRRD0004, or a letter to a friend" * 40)
        with pytest.raises(InputError, match=r"cannot be read as an image .* mmtk reads NIfTI, MGH, Analyze"):
            read(tmp_path / name)

    def test_four_axes(self, read, save):
        with pytest.raises(InputError, match=r"has 4 axes \(4, 5, 6, 7\), .* take one volume of it first"):
            read(save(noise(4, 5, 6, 7)))

    def test_a_line(self, read, save):
        with pytest.raises(
            InputError, match=r"is a line of voxels \(shape \(4, 1, 1\)\); give an image of 2 or 3"
        ):
            read(save(noise(4, 1, 1)))

    def test_complex_numbers(self, read, save):
        with pytest.raises(InputError, match=r"holds complex numbers .*; give their magnitude or real part"):
            read(save(noise(4, 5, 6).astype(np.complex64)))

    def test_colors(self, read, save):
        colors = np.zeros((4, 5, 6), [("R", "u1"), ("G", "u1"), ("B", "u1")])
        with pytest.raises(InputError, match=r"holds colors .*; turn it to gray first"):
            read(save(colors))

    def test_no_forms(self, read, save):
        path = save(noise(4, 5, 6), np.diag([2, 3, 4, 1]), codes=(0, 0))
        advice = r"`spacing=` in mm \(its header suggests 2 x 3 x 4\)"
        with pytest.raises(InputError, match=rf"where its voxels lie \(zero qform and sform\); .* {advice}"):
            read(path)
        assert read(path, spacing=(2, 3, 4)).spacing == (2, 3, 4)

    @pytest.mark.parametrize(
        ("entry", "words"), [(0, "has a singular affine"), (np.nan, "has an affine with NaN")]
    )
    def test_an_affine_that_is_none(self, read, tmp_path, entry, words):
        image = nibabel.Nifti1Image(noise(4, 5, 6), np.eye(4))
        image.header["srow_x"] = [entry, 0, 0, 0]
        nibabel.save(nibabel.Nifti1Image(noise(4, 5, 6), None, image.header), tmp_path / "image.nii")
        with pytest.raises(InputError, match=f"{words}.*; set its sform or qform"):
            read(tmp_path / "image.nii")
        assert read(tmp_path / "image.nii", spacing=2).spacing == (2, 2, 2)

    def test_a_file_shorter_than_its_header_says(self, read, save):
        path = save(noise(4, 5, 6), name="image.nii")
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(InputError, match=r"732 bytes are there and 832 are expected; the file is truncated"):
            read(path)

    def test_more_voxels_than_a_computer_holds(self, read, tmp_path):
        header = nibabel.Nifti1Header()
        header.set_data_shape((30000, 30000, 30000))
        header.set_sform(np.eye(4), 1)
        (tmp_path / "image.nii").write_bytes(header.binaryblock + b"\0" * 8)
        with pytest.raises(InputError, match=r"claims 27,000,000,000,000 voxels .* header is probably damaged"):
            read(tmp_path / "image.nii")

    def test_no_voxels(self, read, tmp_path):
        header = nibabel.Nifti1Header()
        header.set_sform(np.eye(4), 1)
        header["dim"][:4] = [3, 4, 0, 6]
        (tmp_path / "image.nii").write_bytes(header.binaryblock + b"\0" * 8)
        with pytest.raises(InputError, match=r"has no voxels \(shape \(4, 0, 6\)\)"):
            read(tmp_path / "image.nii")

    @pytest.mark.parametrize("spacing", [0, -1, np.inf, (1, 2), "wide"])
    def test_a_spacing_that_is_none(self, read, save, spacing):
        with pytest.raises(
            InputError, match=r"`spacing` is .* needs one positive number of mm, or one for each of"
        ):
            read(save(noise(4, 5, 6), codes=(0, 0)), spacing=spacing)


def test_a_truncated_compressed_file(save):
    path = save(noise(20, 20, 20))
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(
        InputError, match=r"moving: the voxels of .* cannot be read .* the file is truncated or damaged"
    ):
        read_image(path)


def test_a_compressed_file_with_too_few_voxels(save):
    path = save(noise(20, 20, 20))
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-1000]))
    with pytest.raises(InputError, match=r"cannot be read .* copy or download it again"):
        read_image(path)


def test_voxels_that_are_no_numbers_are_counted(save):
    data = noise(4, 5, 6)
    data[0, 0, :3], data[1, 1, 1] = np.nan, np.inf
    with pytest.raises(InputError, match=r"has 3 NaN and 1 infinite voxels, .* `numpy.nan_to_num`"):
        read_image(save(data))


def test_numbers_beyond_float32_are_infinite(save):
    data = noise(4, 5, 6).astype(np.float64)
    data[0, 0, 0] = 1e300
    with pytest.raises(InputError, match="has 0 NaN and 1 infinite"):
        read_image(save(data))


def test_a_constant_image(save):
    with pytest.raises(InputError, match=r"every voxel of .* is 7, and a constant image cannot be registered"):
        read_image(save(np.full((4, 5, 6), 7, np.int16)))


def test_an_array_of_colors():
    with pytest.raises(InputError, match=r"has the shape \(32, 32, 3\) of a color picture; turn it to gray"):
        read_image(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("source", "words"), [(np.zeros((2, 3, 4, 5)), "4 axes"), (np.array(["a"]), "real numbers")]
)
def test_an_array_that_is_no_image(source, words):
    with pytest.raises(InputError, match=f"moving: the given array .*{words}"):
        read_image(source)


def test_surfaces_are_no_images(tmp_path):
    nibabel.save(nibabel.gifti.GiftiImage(), tmp_path / "surface.gii")
    with pytest.raises(InputError, match="holds no grid of voxels"):
        read_image(tmp_path / "surface.gii")


def test_every_such_error_can_be_caught_as_a_wrong_description(tmp_path):
    with pytest.raises(ConfigError) as caught:
        read_image(tmp_path / "missing.nii")
    assert len(caught.value.problems) == 1
