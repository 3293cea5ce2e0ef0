"""AFNI: matrices of 3dAllineate (``.aff12.1D``) and fields of 3dQwarp, both LPS, mm, fixed to moving.

AFNI has one trap: of an image whose axes are oblique it uses, unasked, a *cardinal* grid, turned to the nearest axes
about its first voxel. For matrices that turn is undone here as nitransforms does it, which was checked against AFNI by
its authors; so both images must be known. Where two axes of a grid are nearest to one direction, nitransforms makes a
singular grid of it, and the matrix is refused here. What AFNI does with a *field* on an oblique grid nobody has checked,
and such fields are refused.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mmtk.io.files import write_text
from mmtk.io.formats.compose import as_steps, displacement_on, only_matrix
from mmtk.io.formats.extra import nitransforms
from mmtk.io.formats.fields import open_vectors, write_vectors
from mmtk.io.formats.matrix import numbers_of, text_of
from mmtk.io.formats.request import Grid, Request, Steps
from mmtk.io.space import LPS
from mmtk.io.transforms import AffineStep

__all__ = ["oblique", "read_1d", "read_qwarp", "write_1d", "write_qwarp"]

_THRESHOLD = 0.01  # degrees, AFNI's own


def oblique(affine: np.ndarray) -> bool:
    """Tell whether AFNI takes a grid for oblique."""
    from nibabel.affines import obliquity

    return bool(np.degrees(obliquity(affine).max()) > _THRESHOLD)


def _images(request: Request) -> tuple[Grid, Grid]:
    request.need("fixed", "moving")
    request.need_three_axes()
    assert request.fixed is not None and request.moving is not None
    return request.fixed, request.moving


def read_1d(request: Request) -> Steps:
    """Read the one matrix that ``3dAllineate -base FIXED -1Dmatrix_save FILE`` wrote: twelve numbers.

    Raises:
        InputError: If it holds another number of them, or an image is missing.
    """
    fixed, moving = _images(request)
    rows = numbers_of(text_of(request))
    count = 0 if rows is None else sum(len(row) for row in rows)
    if rows is None or count != 12:
        several = f"{count // 12} matrices" if count and count % 12 == 0 else "something else"
        request.refuse(f"one matrix of twelve numbers is expected, but it holds {several}; take one line of it")
    matrix = np.eye(4)
    matrix[:3] = np.array([value for row in rows for value in row]).reshape(3, 4)
    if not np.isfinite(matrix).all() or not abs(np.linalg.det(matrix)) > 1e-12:
        request.refuse("the matrix is singular or not finite; write the transform again")
    if _turned(request, fixed, moving):
        # The text that nitransforms writes has six digits, so its numbers are passed by hand.
        linear = nitransforms(request, "io.afni").AFNILinearTransform()
        linear.structarr["parameters"] = matrix
        return (AffineStep(np.asarray(linear.to_ras(moving=_image(moving), reference=_image(fixed)))),)
    return (AffineStep(LPS @ matrix @ LPS),)


def write_1d(request: Request, steps: Steps) -> None:
    """Write a matrix for ``3dAllineate -base FIXED -source MOVING -1Dmatrix_apply FILE``."""
    fixed, moving = _images(request)
    matrix = only_matrix(request, steps)
    if _turned(request, fixed, moving):
        found = nitransforms(request, "io.afni").AFNILinearTransform.from_ras(
            matrix, moving=_image(moving), reference=_image(fixed)
        )
        numbers = np.asarray(found.structarr["parameters"])
    else:
        numbers = LPS @ matrix @ LPS
    row = " ".join(f"{value:.17g}" for value in numbers[:3].ravel())
    write_text(request.path, f"# 3dAllineate matrices (DICOM-to-DICOM, row-by-row):\n{row}\n")


def _turned(request: Request, fixed: Grid, moving: Grid) -> bool:
    """Tell whether AFNI turns one of the grids; refuse those of which it is not clear to which axes."""
    for grid in (fixed, moving):
        nearest = np.abs(grid.affine[:3, :3] / np.linalg.norm(grid.affine[:3, :3], axis=0)).argmax(axis=0)
        if len(set(nearest.tolist())) < 3:
            request.refuse(
                f"the {grid.name} grid is so oblique that two of its axes are nearest to the same direction, and what "
                f"AFNI takes for its upright grid is not known for certain; deoblique the image first by "
                f"`3dWarp -deoblique`, or use another format"
            )
    return oblique(fixed.affine) or oblique(moving.affine)


def _image(grid: Grid) -> Any:
    import nibabel

    return nibabel.Nifti1Image(np.broadcast_to(np.uint8(0), tuple(grid.shape)), grid.affine)


def _upright(request: Request, grid: Grid | np.ndarray, name: str) -> None:
    if oblique(grid if isinstance(grid, np.ndarray) else grid.affine):
        request.refuse(
            f"the {name} grid is oblique, and what AFNI does with a field there is not known for certain; "
            f"deoblique the image first by `3dWarp -deoblique`, or use an ITK field"
        )


def read_qwarp(request: Request) -> Steps:
    """Read a field of 3dQwarp, saved as NIfTI.

    Raises:
        InputError: If a grid is oblique, or the moving image is missing.
    """
    request.need("moving")
    request.need_three_axes()
    found = open_vectors(request)
    assert request.moving is not None
    _upright(request, found.affine, "fixed")
    _upright(request, request.moving, "moving")
    return as_steps(found.vectors(request), found.affine, LPS, LPS)


def write_qwarp(request: Request, steps: Steps) -> None:
    """Write the whole transform as a field for ``3dNwarpApply -nwarp FILE -source MOVING``."""
    fixed, moving = _images(request)
    _upright(request, fixed, "fixed")
    _upright(request, moving, "moving")
    vectors = displacement_on(steps, fixed.shape, fixed.affine, LPS, LPS)
    write_vectors(request, vectors, fixed.affine, 0, five=True)
