"""FreeSurfer's LTA: one matrix from a source (moving) to a destination (fixed), with the grids of both.

The matrix takes points of the source to the destination, so it is the *inverse* of the map from fixed to moving points
by which an image is resampled. It is stated between world points (type 1) or between voxels (type 0); in the second
case the grids in the file give it its meaning. A grid's ``cras`` is the world position of voxel n / 2, not (n - 1) / 2.

Fields of FreeSurfer (``.m3z``, ``.mgz``) are not read: ``mri_warp_convert --inm3z WARP --outitk FIELD.nii.gz`` makes
an ITK field of them.
"""

from __future__ import annotations

import re

import numpy as np

from mmtk.io.files import write_text
from mmtk.io.formats.compose import only_matrix
from mmtk.io.formats.matrix import text_of
from mmtk.io.formats.request import Grid, Request, Steps
from mmtk.io.space import spacing_of
from mmtk.io.transforms import AffineStep

__all__ = ["read_lta", "write_lta"]

_VOXELS, _WORLD = 0, 1
_NUMBER = r"[-+0-9.eEnaifNAIF]+"


def read_lta(request: Request) -> Steps:
    """Read the one matrix of an LTA file.

    Where images are given, they must not be the file's own the other way round.

    Raises:
        InputError: If the file is no LTA, holds several matrices, or one of a kind that is not known.
    """
    request.need_three_axes()
    text = "\n".join(line.split("#")[0].rstrip() for line in text_of(request).splitlines())
    try:
        kind = int(re.search(r"^\s*type\s*=\s*(\d+)", text, re.M)[1])  # type: ignore[index]
        count = int(re.search(r"^\s*nxforms\s*=\s*(\d+)", text, re.M)[1])  # type: ignore[index]
        rows = re.search(rf"^\s*1\s+4\s+4\s*\n((?:\s*(?:{_NUMBER}\s+){{3}}{_NUMBER}\s*\n){{4}})", text, re.M)
        matrix = np.array(rows[1].split(), dtype=np.float64).reshape(4, 4)  # type: ignore[index]
        source, target = (_geometry(text, name) for name in ("src", "dst"))
    except (TypeError, ValueError):
        request.refuse("it is not an LTA file of FreeSurfer, or a damaged one; write it again by lta_convert")
    if count != 1:
        request.refuse(f"it holds {count} matrices, but one is expected; take one of them by lta_convert")
    if kind not in (_VOXELS, _WORLD):
        request.refuse(
            f"its type is {kind}, but mmtk reads 0 (voxel to voxel) and 1 (RAS to RAS); turn it into one of these "
            f"by `lta_convert --inlta {request.path.name} --outlta OUT.lta`"
        )
    _check_direction(request, source, target)
    if kind == _VOXELS:
        if source is None or target is None:
            request.refuse("its matrix is between voxels, but it does not say of which grids; write it again")
        matrix = target[1] @ matrix @ np.linalg.inv(source[1])
    if not np.isfinite(matrix).all() or not abs(np.linalg.det(matrix)) > 1e-12:
        request.refuse("the matrix is singular or not finite; write the transform again")
    return (AffineStep(np.linalg.inv(matrix)),)


_Geometry = tuple[tuple[int, ...], np.ndarray] | None


def _geometry(text: str, name: str) -> _Geometry:
    """Return shape and affine of a grid in the file, or None where it says that it is not valid."""
    block = text.split(f"{name} volume info", 1)
    if len(block) < 2:
        return None
    values = dict(re.findall(r"^\s*(\w+)\s*=[ \t]*(.*)$", block[1].split("volume info")[0], re.M))
    if not values.get("valid", "0").strip().startswith("1"):
        return None
    shape, spacing, x, y, z, center = (
        np.array(values[key].split(), dtype=np.float64)
        for key in ("volume", "voxelsize", "xras", "yras", "zras", "cras")
    )
    affine = np.eye(4)
    affine[:3, :3] = np.stack([x, y, z], axis=1) * spacing
    affine[:3, 3] = center - affine[:3, :3] @ (shape / 2)
    return tuple(int(n) for n in shape), affine


def _check_direction(request: Request, source: _Geometry, target: _Geometry) -> None:
    fixed, moving = request.fixed, request.moving
    if fixed is None or moving is None or source is None or target is None or _is(fixed, target):
        return
    if _is(fixed, source) and _is(moving, target):
        request.refuse(
            "its source is the grid of the fixed image and its destination that of the moving one, but an LTA goes "
            "from moving to fixed; exchange fixed= and moving=, or leave them out to take the file by its word"
        )


def _is(grid: Grid, other: _Geometry) -> bool:
    return (
        other is not None and tuple(grid.shape) == other[0] and bool(np.allclose(grid.affine, other[1], atol=1e-3))
    )


def write_lta(request: Request, steps: Steps) -> None:
    """Write a matrix between world points, for ``mri_vol2vol --mov MOVING --targ FIXED --lta FILE``."""
    request.need("fixed", "moving")
    request.need_three_axes()
    assert request.fixed is not None and request.moving is not None
    matrix = np.linalg.inv(only_matrix(request, steps))
    lines = ["type      = 1 # LINEAR_RAS_TO_RAS", "nxforms   = 1", "mean      = 0.0000 0.0000 0.0000", "sigma     = 1.0000", "1 4 4"]  # fmt: skip # noqa: E501
    lines += [" ".join(f"{value:.17e}" for value in row) for row in matrix]
    lines += ["src volume info", *_lines(request.moving), "dst volume info", *_lines(request.fixed)]
    write_text(request.path, "\n".join(lines) + "\n")


def _lines(grid: Grid) -> list[str]:
    spacing = np.array(spacing_of(grid.affine, 3))
    axes = grid.affine[:3, :3] / spacing
    center = grid.affine[:3, :3] @ (np.array(grid.shape) / 2) + grid.affine[:3, 3]
    named = {
        "voxelsize": spacing,
        "xras  ": axes[:, 0],
        "yras  ": axes[:, 1],
        "zras  ": axes[:, 2],
        "cras  ": center,
    }
    return [
        "valid = 1  # volume info valid",
        f"filename = {grid.path or ''}",
        "volume = " + " ".join(str(n) for n in grid.shape),
        *(f"{name} = " + " ".join(f"{value:.15e}" for value in values) for name, values in named.items()),
    ]
