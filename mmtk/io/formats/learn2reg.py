"""Displacements of the Learn2Reg challenge: ``disp_FFFF_MMMM.nii.gz`` or ``.npz``, in voxels.

    d     (X, Y, Z, 3), along the array axes: voxel i of the fixed array samples the moving array at i + d(i), as
          ``scipy.ndimage.map_coordinates`` does. Affines play no part; ours come from the images that are given

The rules of 2020 and 2021 had (3, X, Y, Z), at half the resolution for most tasks, in half precision. Such an array is
read where it has the full size, and refused else.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from mmtk.io.files import replacing
from mmtk.io.formats.compose import as_steps, displacement_on
from mmtk.io.formats.fields import open_vectors, write_vectors
from mmtk.io.formats.request import Grid, Request, Steps
from mmtk.io.headers import existing_file

__all__ = ["named_for_learn2reg", "read_learn2reg", "write_learn2reg"]

_NAME = re.compile(r"disp_\d{4}(_\d{4}){1,3}\.(nii\.gz|nii|npz)")


def named_for_learn2reg(path: Path) -> bool:
    """Tell whether a file has the name that the challenge demands."""
    return _NAME.fullmatch(path.name) is not None


def _images(request: Request) -> tuple[Grid, Grid]:
    request.need("fixed", "moving")
    request.need_three_axes()
    assert request.fixed is not None and request.moving is not None
    return request.fixed, request.moving


def read_learn2reg(request: Request) -> Steps:
    """Read a displacement from voxels of the fixed array to voxels of the moving one.

    Raises:
        InputError: If the shape is not the fixed image's.
    """
    fixed, moving = _images(request)
    npz = request.path.suffix.lower() == ".npz"
    stored = _from_npz(request) if npz else open_vectors(request).vectors(request)
    if stored.shape != (3, *fixed.shape):
        half = (
            " (half the resolution, as the rules of 2021 had it; enlarge it first)" if _half(stored, fixed) else ""
        )
        request.refuse(
            f"it has {tuple(stored.shape[1:])} voxels{half}, but the fixed image has {tuple(fixed.shape)}; "
            f"give the image that it was made for"
        )
    return as_steps(stored, fixed.affine, np.linalg.inv(moving.affine), np.linalg.inv(fixed.affine))


def _half(stored: np.ndarray, fixed: Grid) -> bool:
    return all(abs(2 * n - m) <= 1 for n, m in zip(stored.shape[1:], fixed.shape, strict=True))


def _from_npz(request: Request) -> np.ndarray:
    file = existing_file(request.path, "transform")
    try:
        with open(file, "rb") as stream, np.load(stream, allow_pickle=False) as content:
            arrays = [content[name] for name in content.files]
    except Exception as error:  # zipfile, zlib and NumPy each have their own way of saying that a file is damaged
        request.refuse(f"it cannot be read as .npz ({error}); write it again")
    if len(arrays) != 1 or arrays[0].ndim != 4 or 3 not in (arrays[0].shape[0], arrays[0].shape[-1]):
        shapes = ", ".join(str(array.shape) for array in arrays)
        request.refuse(f"it holds {shapes or 'nothing'}, but one array (X, Y, Z, 3) is expected")
    array = arrays[0].astype(np.float32)
    if not np.isfinite(array).all():
        request.refuse("some of its numbers are NaN or infinite; write it again")
    if array.shape[-1] == 3 and request.fixed is not None and array.shape[:3] == tuple(request.fixed.shape):
        return np.ascontiguousarray(np.moveaxis(array, -1, 0))
    return array if array.shape[0] == 3 else np.ascontiguousarray(np.moveaxis(array, -1, 0))


def write_learn2reg(request: Request, steps: Steps) -> None:
    """Write the whole transform as a displacement in voxels of the fixed array."""
    fixed, moving = _images(request)
    frames = np.linalg.inv(moving.affine), np.linalg.inv(fixed.affine)
    vectors = displacement_on(steps, fixed.shape, fixed.affine, *frames)
    if request.path.suffix.lower() != ".npz":
        write_vectors(request, vectors, fixed.affine, 0, five=False)
        return
    with replacing(request.path) as temporary, open(temporary, "xb") as file:
        np.savez_compressed(file, np.moveaxis(vectors, 0, -1))
