"""Linear transforms that SimpleITK wrote, read by us, take points where SimpleITK takes them."""

import numpy as np
import pytest
import SimpleITK as sitk

from mmtk.errors import InputError
from mmtk.io import Volume, read_affine, write_displacement, write_transform

POINTS = np.random.default_rng(0).uniform(-80, 80, (8, 3))


def turned(transform, dim):
    """Give a transform a center and parameters of its own."""
    rng = np.random.default_rng(3)
    numbers = np.array(transform.GetParameters())
    transform.SetParameters(numbers + rng.uniform(-0.2, 0.2, len(numbers)))
    if hasattr(transform, "SetCenter"):
        transform.SetCenter(rng.uniform(-30, 30, dim))
    return transform


def zyx():
    transform = sitk.Euler3DTransform()
    transform.SetComputeZYX(True)
    return transform


TRANSFORMS = {
    "affine": (lambda: sitk.AffineTransform(3), 3),
    "rigid by angles": (sitk.Euler3DTransform, 3),
    "rigid by angles, ZYX": (zyx, 3),
    "rigid by versor": (sitk.VersorRigid3DTransform, 3),
    "similarity": (sitk.Similarity3DTransform, 3),
    "translation": (lambda: sitk.TranslationTransform(3), 3),
    "flat affine": (lambda: sitk.AffineTransform(2), 2),
    "flat rigid": (sitk.Euler2DTransform, 2),
    "flat similarity": (sitk.Similarity2DTransform, 2),
    "flat translation": (lambda: sitk.TranslationTransform(2), 2),
}


def assert_same_map(matrix, transform, dim):
    signs = np.array([-1, -1, 1])[:dim]
    for point in POINTS[:, :dim]:
        ours = matrix[:dim, :dim] @ point + matrix[:dim, 3]
        np.testing.assert_allclose(ours * signs, transform.TransformPoint(point * signs), atol=1e-6)


@pytest.mark.parametrize("suffix", ["tfm", "txt", "h5", "mat"])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_what_itk_wrote_is_read(tmp_path, name, suffix):
    make, dim = TRANSFORMS[name]
    transform = turned(make(), dim)
    sitk.WriteTransform(transform, str(tmp_path / f"a.{suffix}"))
    assert_same_map(read_affine(tmp_path / f"a.{suffix}"), transform, dim)


@pytest.mark.parametrize("suffix", ["tfm", "h5"])
def test_a_composite_is_multiplied_out_in_itks_order(tmp_path, suffix):
    parts = [turned(make(), 3) for make in (sitk.Euler3DTransform, sitk.Similarity3DTransform)]
    composite = sitk.CompositeTransform(parts)
    sitk.WriteTransform(composite, str(tmp_path / f"c.{suffix}"))
    assert_same_map(read_affine(tmp_path / f"c.{suffix}"), composite, 3)


@pytest.mark.parametrize("separator", [" ", ",", "\t"])
def test_a_plain_matrix_is_in_ras_already(tmp_path, separator):
    matrix = np.eye(4) + np.random.default_rng(0).uniform(-0.1, 0.1, (4, 4))
    matrix[3] = 0, 0, 0, 1
    np.savetxt(tmp_path / "m.txt", matrix, delimiter=separator, header="from fixed to moving")
    np.testing.assert_allclose(read_affine(tmp_path / "m.txt"), matrix)


def refused(path, words):
    with pytest.raises(InputError, match=f"^init: .*{words}"):
        read_affine(path)


def test_a_matrix_of_fsl_is_refused(tmp_path):
    np.savetxt(tmp_path / "flirt.mat", np.eye(4))
    refused(tmp_path / "flirt.mat", "as FSL FLIRT writes it, .*c3d_affine_tool")


def test_a_singular_matrix_is_refused(tmp_path):
    np.savetxt(tmp_path / "m.txt", np.diag([1, 1, 0, 1]))
    refused(tmp_path / "m.txt", "is singular or not finite")


def test_a_text_that_is_no_matrix_is_refused(tmp_path):
    (tmp_path / "m.txt").write_text("1 0 0\n0 1 0\nhello")
    refused(tmp_path / "m.txt", "is neither an ITK transform nor a 4x4 matrix")


@pytest.mark.parametrize("name", ["t.h5", "t.mat"])
def test_a_damaged_file_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(50))
    refused(tmp_path / name, "cannot be read as an ITK transform")


def test_a_missing_file_is_refused(tmp_path):
    refused(tmp_path / "none.mat", "there is no file")


def test_what_is_not_linear_is_refused(tmp_path):
    fixed = Volume(np.zeros((4, 5, 6)), np.eye(4))
    still = np.zeros((3, 4, 5, 6))
    refused(write_transform(tmp_path / "t.h5", still, fixed), "holds a DisplacementFieldTransform, but a linear")
    refused(write_displacement(tmp_path / "d.nii.gz", still, fixed), "is an image, but a linear transform is")
