"""Linear transforms from files: ITK's, in its three forms, and plain matrices.

    .h5, .tfm, .txt, .mat    ITK (ANTs' ``0GenericAffine.mat`` is one of them): LPS, fixed point to moving point
    .txt                     four lines of four numbers: a 4x4 matrix, RAS, mm, fixed point to moving point

An ITK transform is ``M (x - c) + t + c`` with a center ``c``; what its parameters mean depends on its class.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmtk.errors import InputError
from mmtk.io.headers import existing_file
from mmtk.io.space import LPS

__all__ = ["StoredTransform", "linear_matrix", "matrix_parameters", "read_affine", "stored_transforms"]


class StoredTransform(NamedTuple):
    """One transform of an ITK file: its class (``AffineTransform``), and its numbers."""

    kind: str
    parameters: np.ndarray
    fixed: np.ndarray


def read_affine(path: str | os.PathLike[str], *, name: str = "init") -> np.ndarray:
    """Return the matrix of a linear transform: 4x4, world (RAS), mm, fixed to moving.

    Several linear transforms in one file are composed as ITK does, the last one first.

    Args:
        path: ``.mat`` (ANTs, ITK), ``.tfm``, ``.txt``, ``.h5``, or a text file with a 4x4 matrix.
        name: The option that the file was given for, named in messages.

    Raises:
        InputError: If the file cannot be read, holds something that is not linear, or a singular matrix.
    """
    file = existing_file(path, name)
    if file.name.lower().endswith((".nii", ".nii.gz")):
        raise InputError(
            f"{name}: '{file}' is an image, but a linear transform is expected (.mat, .tfm, .h5, .txt)"
        )
    if _is_plain_text(file):
        matrix = _plain_matrix(file, name)
    else:
        matrix = np.eye(4)
        for stored in reversed(stored_transforms(file, name)):
            matrix = LPS @ linear_matrix(stored, file, name) @ LPS @ matrix
    if not np.isfinite(matrix).all() or not abs(np.linalg.det(matrix)) > 1e-9:
        raise InputError(f"{name}: the matrix in '{file}' is singular or not finite; write the transform again")
    return matrix


def _is_plain_text(file: Path) -> bool:
    with open(file, "rb") as content:
        head = content.read(512)
    return b"\0" not in head and b"Insight Transform" not in head and not head.startswith(b"\x89HDF")


def _plain_matrix(file: Path, name: str) -> np.ndarray:
    try:
        rows = np.loadtxt(file, ndmin=2, comments="#", delimiter="," if "," in file.read_text() else None)
    except ValueError:
        rows = np.empty((0, 0))
    if rows.shape != (4, 4) or not np.allclose(rows[3], [0, 0, 0, 1]):
        raise InputError(
            f"{name}: '{file}' is neither an ITK transform nor a 4x4 matrix whose last line is 0 0 0 1 (mm, RAS, "
            f"fixed to moving); write it as one of these"
        )
    if file.suffix.lower() == ".mat":
        raise InputError(
            f"{name}: '{file}' is a matrix as FSL FLIRT writes it, which has a meaning only with both its images; "
            f"turn it into an ITK transform, for instance by `c3d_affine_tool -ref FIXED -src MOVING {file.name} "
            f"-fsl2ras -oitk init.txt`, or name it .txt if it is in mm, RAS, fixed to moving"
        )
    return rows


def stored_transforms(file: Path, name: str) -> list[StoredTransform]:
    """Return the transforms of an ITK file in the order of the file, the composite that holds them left out.

    Raises:
        InputError: If the file is no ITK transform.
    """
    reader = {".h5": _from_hdf5, ".hdf5": _from_hdf5, ".mat": _from_matlab}.get(file.suffix.lower(), _from_text)
    with open(file, "rb") as content:
        if content.read(4) == b"\x89HDF":  # whatever its name
            reader = _from_hdf5
    try:
        found = reader(file)
    except Exception as error:  # a damaged file may fail anywhere in h5py, scipy or the parsing
        raise InputError(
            f"{name}: '{file}' cannot be read as an ITK transform ({error}); write it by ITK, ANTs or mmtk "
            f"as .h5, .tfm, .txt or .mat"
        ) from error
    if any(kind.startswith("CompositeTransform") for kind, _, _ in found[1:]):
        raise InputError(
            f"{name}: '{file}' holds a composite within a composite, which ITK neither writes whole nor reads; flatten "
            f"it first (SimpleITK: `CompositeTransform.FlattenTransform()`) and write it again"
        )
    transforms = [
        StoredTransform(kind.split("_")[0], np.asarray(parameters).ravel(), np.asarray(fixed).ravel())
        for kind, parameters, fixed in found
        if not kind.startswith("CompositeTransform")
    ]
    if not transforms:
        raise InputError(f"{name}: '{file}' holds no transform; write it by ITK, ANTs or mmtk")
    return transforms


_Found = list[tuple[str, np.ndarray, np.ndarray]]


def _from_hdf5(file: Path) -> _Found:
    import h5py

    found: _Found = []
    with h5py.File(file) as content:
        group = content["TransformGroup"]
        for number in sorted(group, key=int):
            entry = group[number]
            kind = entry["TransformType"].asstr()[0]
            # Before ITK 5 the names lacked an "s".
            numbers = {key.replace("Tranform", "Transform"): key for key in entry}
            parameters, fixed = (
                np.asarray(entry[numbers[key]]) if key in numbers else np.empty(0)
                for key in ("TransformParameters", "TransformFixedParameters")
            )
            found.append((kind, parameters, fixed))
    return found


def _from_matlab(file: Path) -> _Found:
    from scipy.io import loadmat

    content = {key: value for key, value in loadmat(file).items() if not key.startswith("__")}
    fixed = content.pop("fixed")
    return [(kind, parameters, fixed) for kind, parameters in content.items()]


def _from_text(file: Path) -> _Found:
    found: _Found = []
    for block in file.read_text().split("Transform:")[1:]:
        lines = block.strip().splitlines()
        numbers = dict(line.split(":", 1) for line in lines[1:] if ":" in line)
        parameters, fixed = (
            np.array(numbers.get(key, "").split(), dtype=np.float64) for key in ("Parameters", "FixedParameters")
        )
        found.append((lines[0].strip(), parameters, fixed))
    return found


def matrix_parameters(matrix: np.ndarray, dim: int) -> np.ndarray:
    """Return the parameters of ITK's ``AffineTransform`` for a 4x4 matrix (LPS), its center at the origin."""
    return np.concatenate([matrix[:dim, :dim].ravel(), matrix[:dim, 3]])


def linear_matrix(stored: StoredTransform, file: Path, name: str) -> np.ndarray:
    """Return the 4x4 matrix (LPS) of one of ITK's linear transforms.

    Raises:
        InputError: If the class is not linear, or not known here.
    """
    kind, fixed = stored.kind, stored.fixed.astype(np.float64)
    p = stored.parameters.astype(np.float64)
    dim = 2 if "2D" in kind or ("3D" not in kind and len(p) in (2, 6)) else 3
    linear, shift = np.eye(dim), np.zeros(dim)
    match kind:
        case "IdentityTransform":
            return np.eye(4)
        case "TranslationTransform":
            shift = p
        case "AffineTransform" | "MatrixOffsetTransformBase":
            linear, shift = p[:-dim].reshape(dim, dim), p[-dim:]
        case "Euler2DTransform" | "Rigid2DTransform":
            linear, shift = _turn(p[0], 2)[:2, :2], p[1:]
        case "Similarity2DTransform":
            linear, shift = p[0] * _turn(p[1], 2)[:2, :2], p[2:]
        case "Euler3DTransform":
            x, y, z = (_turn(angle, axis) for axis, angle in enumerate(p[:3]))
            linear, shift = (z @ y @ x if fixed[3:].any() else z @ x @ y), p[3:]
        case "VersorRigid3DTransform":
            linear, shift = _versor(p[:3]), p[3:]
        case "Similarity3DTransform":
            linear, shift = p[6] * _versor(p[:3]), p[3:6]
        case _:
            raise InputError(
                f"{name}: '{file}' holds a {kind}, but a linear transform is expected (translation, rigid, "
                f"similarity or affine); give one of these"
            )
    center = fixed[:dim] if len(fixed) >= dim else np.zeros(dim)
    matrix = np.eye(4)
    matrix[:dim, :dim] = linear
    matrix[:dim, 3] = shift + center - linear @ center
    return matrix


def _turn(angle: float, axis: int) -> np.ndarray:
    """Return the rotation about x, y or z (0, 1, 2), radians."""
    c, s = np.cos(angle), np.sin(angle)
    a, b = ((1, 2), (2, 0), (0, 1))[axis]
    turn = np.eye(3)
    turn[a, a] = turn[b, b] = c
    turn[a, b], turn[b, a] = -s, s
    return turn


def _versor(v: np.ndarray) -> np.ndarray:
    """Return the rotation of a unit quaternion whose scalar part is positive and left out."""
    w = np.sqrt(max(0.0, 1 - v @ v))
    cross = np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])
    return np.eye(3) + 2 * w * cross + 2 * cross @ cross
