"""Grids of every kind that a scanner or a program leaves behind, and smooth things to put on them."""

import nibabel
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from mmtk.io import Volume


def rotation(*angles):
    turn = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = [(1, 2), (2, 0), (0, 1)][axis]
        c, s = np.cos(angle), np.sin(angle)
        step = np.eye(3)
        step[a, a] = step[b, b] = c
        step[a, b], step[b, a] = -s, s
        turn = step @ turn
    return turn


def matrix(linear, origin=(0, 0, 0)):
    affine = np.eye(4)
    affine[: len(linear), : len(linear)] = linear
    affine[: len(origin), 3] = origin
    return affine


def centered(shape, linear, at):
    """A shape and the affine that puts the middle of its grid at a point."""
    middle = linear[: len(at), : len(shape)] @ ((np.array(shape) - 1) / 2)
    return shape, matrix(linear, np.array(at) - middle)


#: name: (shape and affine of the fixed image, shape and affine of the moving one)
PAIRS = {
    "oblique": (
        centered((20, 18, 14), rotation(0.3, -0.2, 0.4) @ np.diag([1.5, 1.0, 2.5]), (30, -50, 20)),
        centered((24, 23, 20), rotation(-0.1, 0.2, 0.1) @ np.diag([1.2, 1.4, 1.9]), (28, -48, 21)),
    ),
    "flipped": (
        centered((20, 18, 14), np.diag([-1.5, 1.0, -2.5]), (12, -9, 15)),
        centered((24, 25, 21), np.array([[0, 0, 1.5], [-1.2, 0, 0], [0, 1.8, 0]]), (11, -8, 16)),
    ),
    "flat": (
        centered((24, 20), np.diag([-1.5, -1.0, 1.0]), (14, 8)),
        centered((25, 29), rotation(0, 0, 2.9) @ np.diag([1.3, 0.8, 1.0]), (13, 9)),
    ),
}


def smooth(shape, seed, sigma=3.0):
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), sigma, mode="nearest")
    return (noise / np.abs(noise).max()).astype(np.float32)


@pytest.fixture(params=PAIRS)
def pair(request):
    """A fixed and a moving volume on grids of their own."""
    (shape, affine), (other_shape, other_affine) = PAIRS[request.param]
    fixed = Volume(smooth(shape, 0), affine, name="fixed")
    return fixed, Volume(100 * smooth(other_shape, 1, 1.5), other_affine, name="moving")


@pytest.fixture
def displacement():
    """Draw a smooth displacement of up to two voxels for a volume, ``(dim, *space)``."""
    return lambda volume, seed=2: np.stack([2 * smooth(volume.shape, seed + a) for a in range(volume.dim)])


@pytest.fixture
def placement():
    """A small world affine for a volume's dimension, fixed to moving."""

    def make(dim):
        linear = np.eye(3)
        if dim == 3:
            linear = rotation(0.1, 0.05, -0.08) @ np.diag([1.05, 0.97, 1.02])
        else:
            linear = rotation(0, 0, 0.1) @ np.diag([1.05, 0.97, 1.0])
        return matrix(linear, (1.0, -2.0, 0.5)[:dim])

    return make


@pytest.fixture
def save(tmp_path):
    """Write an array as NIfTI with an affine, sform and qform codes and units."""

    def write(data, affine=None, name="image.nii.gz", codes=(1, 1), **header):
        affine = np.eye(4) if affine is None else affine
        image = nibabel.Nifti1Image(np.asarray(data), affine)
        image.set_sform(affine, codes[0])
        image.set_qform(affine, codes[1])
        image.header.set_xyzt_units(header.pop("units", "mm"))
        for key, value in header.items():
            image.header[key] = value
        path = tmp_path / name
        nibabel.save(image, path)
        return path

    return write
