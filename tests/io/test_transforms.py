"""SimpleITK as the independent reader: what it makes of our files is what we meant."""

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import map_coordinates

from mmtk.errors import GridMismatch, InputError
from mmtk.io import (
    read_displacement,
    read_transform,
    to_voxels,
    total_displacement,
    transform_points,
    voxel_to_voxel,
    write_displacement,
    write_image,
    write_inverse_transform,
    write_transform,
)


def warped(moving, fixed, u, matrix):
    """Sample the moving image by our own rule; also tell which voxels fall well inside it."""
    dim = fixed.dim
    to_moving = voxel_to_voxel(fixed, moving, matrix)
    points = np.indices(fixed.shape) + u
    points = np.tensordot(to_moving[:dim, :dim], points, 1) + to_moving[:dim, 3].reshape(-1, *[1] * dim)
    last = np.array(moving.shape).reshape(-1, *[1] * dim) - 1
    inside = ((points > 0.01) & (points < last - 0.01)).all(axis=0)
    return map_coordinates(moving.data, points, order=1, mode="nearest"), inside


def through_itk(tmp_path, moving, fixed, transform):
    images = {}
    for volume in (moving, fixed):
        path = write_image(tmp_path / f"{volume.name}.nii.gz", volume.data, volume)
        images[volume.name] = sitk.ReadImage(str(path), sitk.sitkFloat64)
    result = sitk.Resample(images["moving"], images["fixed"], transform, sitk.sitkLinear)
    return sitk.GetArrayFromImage(result).T


def lps(points):
    return points * np.array([-1, -1, 1])[: points.shape[1]]


def world_of(fixed, u, matrix):
    """Some fixed points on voxel centers, and where the map takes them, from its definition."""
    dim = fixed.dim
    voxels = np.random.default_rng(5).integers(2, np.array(fixed.shape) - 2, (12, dim))
    moved = voxels + u[(slice(None), *voxels.T)].T
    at = voxels @ fixed.affine[:dim, :dim].T + fixed.affine[:dim, 3]
    to = moved @ fixed.affine[:dim, :dim].T + fixed.affine[:dim, 3]
    return at, to @ matrix[:dim, :dim].T + matrix[:dim, 3]


def test_itk_warps_by_our_composite_as_we_do(pair, displacement, placement, tmp_path):
    fixed, moving = pair
    u, matrix = displacement(fixed), placement(fixed.dim)
    path = write_transform(tmp_path / "transform.h5", u, fixed, matrix)
    ours, inside = warped(moving, fixed, u, matrix)
    theirs = through_itk(tmp_path, moving, fixed, sitk.ReadTransform(str(path)))
    assert inside.mean() > 0.3
    np.testing.assert_allclose(theirs[inside], ours[inside], atol=1e-3)


def test_the_one_field_holds_the_whole_map(pair, displacement, placement, tmp_path):
    fixed, moving = pair
    u, matrix = displacement(fixed), placement(fixed.dim)
    path = write_displacement(tmp_path / "displacement.nii.gz", u, fixed, matrix)
    field = sitk.ReadImage(str(path), sitk.sitkVectorFloat64)
    assert field.GetDimension() == fixed.dim
    ours, inside = warped(moving, fixed, u, matrix)
    theirs = through_itk(tmp_path, moving, fixed, sitk.DisplacementFieldTransform(field))
    np.testing.assert_allclose(theirs[inside], ours[inside], atol=1e-3)


def test_points_go_where_the_definition_says(pair, displacement, placement, tmp_path):
    fixed, _ = pair
    u, matrix = displacement(fixed), placement(fixed.dim)
    at, to = world_of(fixed, u, matrix)
    path = write_transform(tmp_path / "transform.h5", u, fixed, matrix)
    itk = sitk.ReadTransform(str(path))
    np.testing.assert_allclose([itk.TransformPoint(p) for p in lps(at)], lps(to), atol=1e-4)
    np.testing.assert_allclose(transform_points(read_transform(path), at), to, atol=1e-4)
    alone = write_displacement(tmp_path / "displacement.nii.gz", u, fixed, matrix)
    np.testing.assert_allclose(transform_points(read_transform(alone), at), to, atol=1e-4)


def test_the_inverse_takes_points_back(pair, displacement, placement, tmp_path):
    fixed, _ = pair
    inverse, matrix = displacement(fixed, seed=7), placement(fixed.dim)
    # Points that the inverse affine brings onto voxel centers: the inverse field is met without interpolation.
    on_grid, back = world_of(fixed, inverse, np.eye(4))
    dim = fixed.dim
    moving_points = on_grid @ matrix[:dim, :dim].T + matrix[:dim, 3]
    path = write_inverse_transform(tmp_path / "inverse_transform.h5", inverse, fixed, matrix)
    itk = sitk.ReadTransform(str(path))
    np.testing.assert_allclose([itk.TransformPoint(p) for p in lps(moving_points)], lps(back), atol=1e-4)
    np.testing.assert_allclose(transform_points(read_transform(path), moving_points), back, atol=1e-4)


def test_forward_and_inverse_of_a_shift_cancel(pair, placement, tmp_path):
    fixed, _ = pair
    dim = fixed.dim
    shift = np.ones((dim, *fixed.shape), np.float32) * 0.5
    matrix = placement(dim)
    there = sitk.ReadTransform(str(write_transform(tmp_path / "a.h5", shift, fixed, matrix)))
    back = sitk.ReadTransform(str(write_inverse_transform(tmp_path / "b.h5", -shift, fixed, matrix)))
    at, _ = world_of(fixed, shift, matrix)
    for point in lps(at):
        np.testing.assert_allclose(back.TransformPoint(there.TransformPoint(point)), point, atol=1e-4)


def test_the_field_file_has_the_shape_and_intent_that_itk_writes(pair, displacement, tmp_path):
    fixed, _ = pair
    path = write_displacement(tmp_path / "ours.nii.gz", displacement(fixed), fixed)
    field = sitk.ReadImage(str(path))
    sitk.WriteImage(field, str(tmp_path / "theirs.nii.gz"))
    ours, theirs = (nibabel.load(tmp_path / f"{who}.nii.gz") for who in ("ours", "theirs"))
    assert ours.shape == theirs.shape == (*(*fixed.shape, 1, 1)[:4], fixed.dim)
    assert ours.header["intent_code"] == theirs.header["intent_code"] == 1007
    np.testing.assert_allclose(ours.get_fdata(), theirs.get_fdata())
    np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-5)


def test_a_field_is_read_back(pair, displacement, placement, tmp_path):
    fixed, _ = pair
    u, matrix = displacement(fixed), placement(fixed.dim)
    field = read_displacement(write_displacement(tmp_path / "d.nii.gz", u, fixed))
    np.testing.assert_allclose(to_voxels(field.vectors, field.affine), u, atol=1e-4)
    affine_step = read_transform(write_transform(tmp_path / "t.h5", u, fixed, matrix))[1]
    np.testing.assert_allclose(affine_step.matrix, matrix, atol=1e-12)
    step = read_transform(tmp_path / "t.h5")[0]
    np.testing.assert_allclose(to_voxels(step.vectors, fixed.affine), u, atol=1e-4)
    np.testing.assert_allclose(step.affine, fixed.affine, atol=1e-9)


def test_a_field_that_nifti_calls_a_displacement_is_taken_as_ras(pair, displacement, tmp_path):
    fixed, _ = pair
    path = write_displacement(tmp_path / "d.nii.gz", displacement(fixed), fixed)
    image = nibabel.load(path)
    image.header["intent_code"] = 1006
    nibabel.save(nibabel.Nifti1Image(image.get_fdata(dtype=np.float32), None, image.header), tmp_path / "r.nii.gz")
    vector, standard = read_displacement(path), read_displacement(tmp_path / "r.nii.gz")
    np.testing.assert_allclose(standard.vectors[:2], -vector.vectors[:2], atol=1e-6)


def test_the_identity_moves_nothing(pair):
    fixed, _ = pair
    assert not total_displacement(np.zeros((1, fixed.dim, *fixed.shape)), fixed).any()


def test_a_tensor_will_do(pair, displacement, tmp_path):
    import torch

    fixed, _ = pair
    u = displacement(fixed)
    write_transform(tmp_path / "array.h5", u, fixed)
    write_transform(tmp_path / "tensor.h5", torch.from_numpy(u)[None], fixed)
    one, other = (read_transform(tmp_path / f"{kind}.h5")[0] for kind in ("array", "tensor"))
    np.testing.assert_array_equal(one.vectors, other.vectors)


def test_a_displacement_of_another_grid_is_refused(pair, tmp_path):
    fixed, _ = pair
    with pytest.raises(GridMismatch, match="resample `displacement` onto the grid of `fixed`"):
        write_transform(tmp_path / "t.h5", np.zeros((fixed.dim, *[5] * fixed.dim)), fixed)
    assert not list(tmp_path.iterdir())


def test_an_image_is_no_displacement(save):
    with pytest.raises(InputError, match=r"shape \(4, 5, 6\) and intent 0, but a displacement field is"):
        read_displacement(save(np.random.rand(4, 5, 6).astype(np.float32)))
