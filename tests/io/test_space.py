import subprocess
import sys

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mmtk.io import Volume, orientation, to_voxels, to_world, total_displacement, voxel_to_voxel
from mmtk.io.space import itk_grid, plane_affine

few = settings(max_examples=25, deadline=None)
angles = st.floats(-3, 3)


@st.composite
def affines(draw, dim=3):
    """An invertible affine with any rotation, flips, spacings from 0.3 to 5 mm and any origin."""
    turn = np.eye(3)
    for a, b in [(0, 1), (1, 2), (0, 2)][: 3 if dim == 3 else 1]:
        angle, step = draw(angles), np.eye(3)
        step[a, a] = step[b, b] = np.cos(angle)
        step[a, b], step[b, a] = -np.sin(angle), np.sin(angle)
        turn = turn @ step
    steps = draw(arrays(float, dim, elements=st.floats(0.3, 5)))
    signs = draw(arrays(float, dim, elements=st.sampled_from([-1.0, 1.0])))
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag(np.append(steps * signs, [1.0] * (3 - dim)))
    affine[:dim, 3] = draw(arrays(float, dim, elements=st.floats(-200, 200)))
    return affine


def volume(affine, dim=3):
    return Volume(np.zeros((3, 4, 5)[:dim]), affine)


@few
@given(affines(), affines(), affines())
def test_there_and_back_is_the_identity(fixed, moving, world):
    there = voxel_to_voxel(volume(fixed), volume(moving), world)
    back = voxel_to_voxel(volume(moving), volume(fixed), np.linalg.inv(world))
    np.testing.assert_allclose(back @ there, np.eye(4), atol=1e-6)


@few
@given(affines(), affines(), affines(), affines(), affines())
def test_maps_between_voxels_compose_as_those_between_points_do(one, two, three, first, second):
    a, b, c = volume(one), volume(two), volume(three)
    direct = voxel_to_voxel(a, c, second @ first)
    chained = voxel_to_voxel(b, c, second) @ voxel_to_voxel(a, b, first)
    np.testing.assert_allclose(direct, chained, atol=1e-6 * np.abs(direct).max())


@few
@given(affines(), arrays(np.float32, (3, 2, 2, 2), elements=st.floats(-10, 10, width=32)))
def test_vectors_survive_the_way_to_the_world_and_back(affine, u):
    np.testing.assert_allclose(to_voxels(to_world(u, affine), affine), u, atol=1e-4)


@pytest.mark.parametrize("dim", [2, 3])
@few
@given(data=st.data())
def test_the_total_displacement_is_its_definition(dim, data):
    fixed = volume(data.draw(affines(dim)), dim)
    world = data.draw(affines(dim))
    u = data.draw(arrays(np.float32, (dim, *fixed.shape), elements=st.floats(-3, 3, width=32)))
    voxels = np.indices(fixed.shape).reshape(dim, -1)
    at = fixed.affine[:dim, :dim] @ voxels + fixed.affine[:dim, 3:]
    to = fixed.affine[:dim, :dim] @ (voxels + u.reshape(dim, -1)) + fixed.affine[:dim, 3:]
    to = world[:dim, :dim] @ to + world[:dim, 3:]
    np.testing.assert_allclose(total_displacement(u, fixed, world).reshape(dim, -1), to - at, atol=1e-2, rtol=1e-5)


def test_orientations_are_named():
    assert orientation(np.array([[0, 0, 1, 5], [-2, 0, 0, 6], [0, 3, 0, 7], [0, 0, 0, 1]])) == "PSR"
    assert orientation(np.diag([-1, -1, 1, 1]), 2) == "LP"


@pytest.mark.parametrize("dim", [2, 3])
@few
@given(data=st.data())
def test_itk_sees_the_same_grid(dim, data, tmp_path_factory):
    affine = data.draw(affines(dim))
    path = tmp_path_factory.mktemp("grid") / "image.nii"
    shape = (3, 4, 5)[:dim]
    nibabel.save(nibabel.Nifti1Image(np.zeros(shape, np.float32), affine), path)
    theirs, ours = sitk.ReadImage(str(path)), itk_grid(shape, affine)
    assert theirs.GetSize() == ours.size
    np.testing.assert_allclose(theirs.GetSpacing(), ours.spacing, rtol=1e-4)
    np.testing.assert_allclose(theirs.GetOrigin(), ours.origin, atol=1e-3)
    np.testing.assert_allclose(theirs.GetDirection(), ours.direction.ravel(), atol=1e-3)
    np.testing.assert_allclose(ours.affine, affine, atol=1e-9)


def test_a_tilted_slice_has_the_plane_that_itk_gives_it(save, tmp_path):
    tilt = np.eye(4)
    tilt[1:3, 1:3] = [[np.cos(0.5), -np.sin(0.5)], [np.sin(0.5), np.cos(0.5)]]
    affine = tilt @ np.diag([2, 3, 1, 1])
    affine[:3, 3] = 5, 6, 7
    theirs = sitk.ReadImage(str(save(np.ones((4, 5), np.float32), affine)))
    ours = itk_grid((4, 5), plane_affine(affine))
    np.testing.assert_allclose(theirs.GetSpacing(), ours.spacing, rtol=1e-6)
    np.testing.assert_allclose(theirs.GetOrigin(), ours.origin)
    np.testing.assert_allclose(theirs.GetDirection(), ours.direction.ravel(), atol=1e-6)


def test_a_sagittal_slice_has_a_plane_too():
    sagittal = np.array([[0, 0, 1, 5], [2, 0, 0, 6], [0, 3, 0, 7], [0, 0, 0, 1]], float)
    assert Volume(np.zeros((4, 5)), sagittal).spacing == (2, 3)


def test_images_are_read_and_refused_without_torch(save, tmp_path):
    good = save(np.random.rand(4, 5, 6).astype(np.float32))
    program = f"""
import sys
from mmtk.errors import InputError
from mmtk.io import probe_image, read_image, read_mask
probe_image({str(good)!r})
image = read_image({str(good)!r})
try:
    read_image({str(tmp_path / "missing.nii")!r})
except InputError:
    read_mask((image.data > 0.5).astype("uint8"), like=image)
    sys.exit(int("torch" in sys.modules))
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
