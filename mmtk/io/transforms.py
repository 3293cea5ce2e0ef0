"""Transforms as ITK writes them: read by ANTs, 3D Slicer, ITK-SNAP, SimpleITK and nitransforms.

    displacement.nii.gz     (X, Y, Z, 1, 3), in 2-D (X, Y, 1, 1, 2), intent 1007, LPS, mm.  The *whole* map, affine
                            included: this one file takes the moving image to the fixed grid
    transform.h5            composite of affine and field: fixed point -> field -> affine -> moving point
    inverse_transform.h5    composite of inverse field and inverse affine: moving point -> inverse affine ->
                            inverse field -> fixed point

Two traps are dealt with here. A composite applies the transform that was added *last* first, so the field stands
behind the affine in ``transform.h5`` and before it in the inverse. And a NIfTI field of intent 1006 is RAS while
one of 1007 is LPS: ITK writes and expects 1007.

Fields are stored as float32, uncompressed in HDF5: ITK reads either type, double is twice as large, and the
low bits of a smooth field do not compress.
"""

from __future__ import annotations

import io
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmtk.errors import InputError
from mmtk.io.affines import StoredTransform, linear_matrix, matrix_parameters, stored_transforms
from mmtk.io.files import write_bytes
from mmtk.io.headers import existing_file, open_image
from mmtk.io.images import nifti, nifti_path
from mmtk.io.space import LPS, ItkGrid, itk_grid, on_grid, ras_lps, to_voxels, to_world, total_displacement
from mmtk.io.volume import Volume

__all__ = [
    "AffineStep",
    "FieldStep",
    "read_displacement",
    "read_transform",
    "transform_points",
    "write_composite",
    "write_displacement",
    "write_inverse_transform",
    "write_transform",
]

VECTOR, DISPLACEMENT = 1007, 1006


@dataclass(frozen=True, eq=False)
class AffineStep:
    """A point to ``matrix @ point``: 4x4, world mm."""

    matrix: np.ndarray


@dataclass(frozen=True, eq=False)
class FieldStep:
    """A point to ``point + vectors(point)``, linear between voxels, 0 beyond the grid as in ITK.

    Attributes:
        vectors: ``(dim, *space)``, RAS, mm.
        affine: 4x4 of the grid, voxel to world.
    """

    vectors: np.ndarray
    affine: np.ndarray


def write_displacement(
    path: str | os.PathLike[str], u: Any, fixed: Volume, matrix: np.ndarray | None = None
) -> Path:
    """Write the whole map as one ITK displacement field, and return the path.

    Args:
        path: Ends in ``.nii`` or ``.nii.gz``.
        u: ``(dim, *space)`` or ``(1, dim, *space)``, voxels of the fixed grid.
        fixed: The fixed image.
        matrix: The affine that acts after it, 4x4, world mm, fixed to moving; None is the identity.

    Raises:
        GridMismatch: If ``u`` does not lie on the grid of ``fixed``.
    """
    target = nifti_path(path)
    vectors = np.moveaxis(ras_lps(total_displacement(u, fixed, matrix)), 0, -1)
    image = nifti(vectors.reshape(*(*fixed.shape, 1, 1)[:4], fixed.dim), fixed.affine, (1, 1))
    image.header.set_intent(VECTOR, allow_unknown=True)
    image.header["descrip"] = "mmtk: fixed to moving, affine included"
    return write_bytes(target, image.to_bytes())


def read_displacement(path: str | os.PathLike[str], *, name: str = "displacement") -> FieldStep:
    """Read a displacement field that ITK, ANTs or mmtk wrote.

    Raises:
        InputError: If the file holds no displacement field.
    """
    file = existing_file(path, name)
    image = open_image(file, name)
    intent = int(image.header["intent_code"]) if "intent_code" in image.header else 0
    dim = image.shape[-1]
    if image.ndim != 5 or intent not in (VECTOR, DISPLACEMENT) or image.shape[3] != 1 or dim not in (2, 3):
        raise InputError(
            f"{name}: '{file}' has shape {tuple(image.shape)} and intent {intent}, but a displacement field is "
            f"(X, Y, Z, 1, 3) with intent 1007, in mm; write it by ITK or mmtk"
        )
    vectors = np.moveaxis(image.get_fdata(caching="unchanged", dtype=np.float32), -1, 0)[..., 0]
    vectors = vectors[..., 0] if dim == 2 else vectors
    return FieldStep(ras_lps(vectors) if intent == VECTOR else vectors, image.affine)


def write_transform(path: str | os.PathLike[str], u: Any, fixed: Volume, matrix: np.ndarray | None = None) -> Path:
    """Write the map from fixed to moving points as an ITK composite, and return the path.

    ``SimpleITK.Resample(moving, fixed, SimpleITK.ReadTransform(path))`` is the warped image.

    Args:
        path: Ends in ``.h5``.
        u: ``(dim, *space)`` or ``(1, dim, *space)``, voxels of the fixed grid.
        fixed: The fixed image.
        matrix: The affine that acts after it, 4x4, world mm, fixed to moving; None is the identity.

    Raises:
        GridMismatch: If ``u`` does not lie on the grid of ``fixed``.
    """
    affine = np.eye(4) if matrix is None else np.asarray(matrix, dtype=np.float64)
    return _write_composite(path, [_affine_parts(affine, fixed.dim), _field_parts(u, fixed)])


def write_inverse_transform(
    path: str | os.PathLike[str], inverse: Any, fixed: Volume, matrix: np.ndarray | None = None
) -> Path:
    """Write the map from moving to fixed points as an ITK composite, and return the path.

    It carries points and landmarks of the moving image, and resamples fixed images onto the moving grid.

    Args:
        path: Ends in ``.h5``.
        inverse: The inverse ``(dim, *space)`` of ``x -> x + u(x)``, voxels, on the fixed grid.
        fixed: The fixed image.
        matrix: The affine of :func:`write_transform`, not its inverse.

    Raises:
        GridMismatch: If ``inverse`` does not lie on the grid of ``fixed``.
    """
    affine = np.eye(4) if matrix is None else np.linalg.inv(np.asarray(matrix, dtype=np.float64))
    return _write_composite(path, [_field_parts(inverse, fixed), _affine_parts(affine, fixed.dim)])


_Parts = tuple[str, np.ndarray, np.ndarray]


def _affine_parts(matrix: np.ndarray, dim: int) -> _Parts:
    return "AffineTransform", matrix_parameters(LPS @ matrix @ LPS, dim), np.zeros(dim)


def _field_parts(u: Any, fixed: Volume) -> _Parts:
    vectors = ras_lps(to_world(on_grid(u, fixed), fixed.affine))
    # Fortran order of (dim, i, j, k): components next to one another, then x, y, z, as ITK has them in memory.
    return "DisplacementFieldTransform", vectors.ravel(order="F"), itk_grid(fixed.shape, fixed.affine).parameters


def write_composite(
    path: str | os.PathLike[str], steps: Sequence[AffineStep | FieldStep], *, dim: int = 3
) -> Path:
    """Write the steps that a point takes, first one first, as an ITK composite, and return the path.

    Nothing is resampled: every step stays a transform of its own. No step at all is the identity.

    Args:
        path: Ends in ``.h5``.
        steps: Of :func:`read_transform`.
        dim: 2 or 3.
    """
    parts = [_step_parts(step, dim) for step in reversed(steps)]  # ITK applies the last one first
    return _write_composite(path, parts or [_affine_parts(np.eye(4), dim)])


def _step_parts(step: AffineStep | FieldStep, dim: int) -> _Parts:
    if isinstance(step, AffineStep):
        return _affine_parts(step.matrix, dim)
    grid = itk_grid(step.vectors.shape[1:], step.affine)
    vectors = ras_lps(np.asarray(step.vectors, dtype=np.float32))
    return "DisplacementFieldTransform", vectors.ravel(order="F"), grid.parameters


def _write_composite(path: str | os.PathLike[str], transforms: Sequence[_Parts]) -> Path:
    import h5py

    text = h5py.string_dtype("ascii")
    dim = 2 if len(transforms[0][2]) in (2, 10) else 3
    content = io.BytesIO()  # HDF5 brings the process down where a disk is full; so it never sees the disk
    with h5py.File(content, "w") as file:
        for key, value in {
            "ITKVersion": "5.4.0",
            "HDFVersion": h5py.version.hdf5_version,
            "OSName": platform.system(),
            "OSVersion": platform.release(),
        }.items():
            file.create_dataset(key, data=[value], dtype=text)
        group = file.create_group("TransformGroup")
        group.create_dataset("0/TransformType", data=[f"CompositeTransform_double_{dim}_{dim}"], dtype=text)
        for number, (kind, parameters, fixed) in enumerate(transforms, start=1):
            group.create_dataset(f"{number}/TransformType", data=[f"{kind}_double_{dim}_{dim}"], dtype=text)
            group.create_dataset(f"{number}/TransformFixedParameters", data=fixed)
            group.create_dataset(f"{number}/TransformParameters", data=parameters)
    return write_bytes(path, content.getbuffer())


def read_transform(path: str | os.PathLike[str], *, name: str = "transform") -> tuple[AffineStep | FieldStep, ...]:
    """Read a transform file as the steps that a point takes, first one first.

    ITK's ``.h5``, ``.tfm``, ``.txt`` and ``.mat`` with linear transforms and displacement fields, and fields as
    NIfTI.

    Raises:
        InputError: If the file cannot be read, or holds a transform of another kind.
    """
    file = existing_file(path, name)
    if file.name.lower().endswith((".nii", ".nii.gz")):
        return (read_displacement(file, name=name),)
    steps = [_step(stored, file, name) for stored in stored_transforms(file, name)]
    return tuple(reversed(steps))  # ITK applies the last one first


def _step(stored: StoredTransform, file: Path, name: str) -> AffineStep | FieldStep:
    if stored.kind != "DisplacementFieldTransform":
        return AffineStep(LPS @ linear_matrix(stored, file, name) @ LPS)
    dim = 2 if len(stored.fixed) == 10 else 3
    size, origin, spacing, direction = np.split(stored.fixed, [dim, 2 * dim, 3 * dim])
    shape = tuple(int(n) for n in size)
    vectors = stored.parameters.astype(np.float32).reshape((dim, *shape), order="F")
    grid = ItkGrid(shape, origin, spacing, direction.reshape(dim, dim))
    return FieldStep(np.ascontiguousarray(ras_lps(vectors)), grid.affine)


def transform_points(steps: Sequence[AffineStep | FieldStep], points: np.ndarray) -> np.ndarray:
    """Return points carried through the steps of a transform: ``(n, dim)``, world (RAS), mm.

    With the steps of ``transform.h5`` fixed points go to the moving image, with those of
    ``inverse_transform.h5`` moving points to the fixed image.
    """
    from scipy.ndimage import map_coordinates

    moved = np.array(points, dtype=np.float64)
    dim = moved.shape[1]
    for step in steps:
        if isinstance(step, AffineStep):
            moved = moved @ step.matrix[:dim, :dim].T + step.matrix[:dim, 3]
            continue
        last = np.array(step.vectors.shape[1:])[:, None] - 1
        voxels = to_voxels((moved - step.affine[:dim, 3]).T, step.affine)
        inside = ((voxels >= -0.5) & (voxels <= last + 0.5)).all(axis=0)
        pulled = [map_coordinates(part, voxels, order=1, mode="nearest") for part in step.vectors]
        moved += np.where(inside, pulled, 0).T
    return moved
