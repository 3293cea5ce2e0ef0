"""From steps to what a format can hold: one matrix, or one displacement field.

Programs differ in the *frame* in which they count a displacement: millimeters along L, P, S (ITK), scaled voxels with
a flip (FSL), plain voxels (Learn2Reg). With ``F`` from the fixed image's world into its frame, and ``G`` from the
moving image's world into that one's, each of them stores

    d(x) = G T(x) - F x                             for a voxel center x of the fixed grid and the transform T

and ``d`` is read back as the displacement ``G^-1 (F x + d(x)) - x`` in the world. This is the one place where that is
written down.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmtk.io.formats.request import Grid, Request, Steps
from mmtk.io.space import shear
from mmtk.io.transforms import AffineStep, FieldStep, transform_points

__all__ = [
    "affine_of",
    "as_steps",
    "dimension",
    "displacement_on",
    "grid_of",
    "only_matrix",
    "right_angled",
]

_POINTS_AT_ONCE = 1 << 20


def dimension(steps: Steps) -> int | None:
    """Return 2 or 3, or None if there is no field to tell it."""
    return next((len(step.vectors) for step in steps if isinstance(step, FieldStep)), None)


def affine_of(steps: Steps) -> np.ndarray | None:
    """Return the matrix that the steps amount to, or None if one of them is a field."""
    matrix = np.eye(4)
    for step in steps:
        if isinstance(step, FieldStep):
            return None
        matrix = step.matrix @ matrix
    return matrix


def only_matrix(request: Request, steps: Steps) -> np.ndarray:
    """Return the matrix that the steps amount to.

    Raises:
        InputError: If one of them is a field, or the matrix is singular.
    """
    matrix = affine_of(steps)
    if matrix is None:
        request.refuse(
            "it holds one affine matrix, but the transform has a displacement field, which would be lost; "
            "write it as .h5 (ITK, any chain) or as a field (.nii.gz)"
        )
    if not np.isfinite(matrix).all() or not abs(np.linalg.det(matrix)) > 1e-12:
        request.refuse(
            "the matrix is singular or not finite, so there is nothing to write; repeat the registration"
        )
    return matrix


def grid_of(request: Request, steps: Steps) -> tuple[tuple[int, ...], np.ndarray]:
    """Return shape and affine of the grid that a field is to be written on.

    It is the fixed image's where that is given, else the grid of a field that a point meets first.

    Raises:
        InputError: If neither is there.
    """
    if request.fixed is not None:
        return tuple(request.fixed.shape), request.fixed.affine
    if steps and isinstance(steps[0], FieldStep):
        return tuple(steps[0].vectors.shape[1:]), steps[0].affine
    request.refuse(
        "it holds a displacement field, but the transform does not begin with one, so that nothing tells its "
        "grid; add fixed=FILE"
    )


def displacement_on(
    steps: Steps,
    shape: Sequence[int],
    affine: np.ndarray,
    target: np.ndarray | None = None,
    source: np.ndarray | None = None,
) -> np.ndarray:
    """Return ``G T(x) - F x`` at the voxel centers of a grid.

    Nothing is approximated there; between centers a field is linear, whatever the steps were.

    Args:
        steps: ``T``.
        shape: Of the grid, 2 or 3 numbers.
        affine: 4x4 of the grid, voxel to world.
        target: ``G``, 4x4, moving world to its frame; None is the identity.
        source: ``F``, 4x4, fixed world to its frame; None is the identity.

    Returns:
        ``(dim, *shape)``, float32, in the unit of the frames.
    """
    dim = len(shape)
    g, f = (np.eye(4) if frame is None else frame for frame in (target, source))
    total = int(np.prod(shape))
    found = np.empty((dim, total), dtype=np.float32)
    # A field that lies on this very grid need not be interpolated, which takes most of the time.
    first = steps[0] if steps and _lies_on(steps[0], shape, affine) else None
    vectors = first.vectors.reshape(dim, total) if isinstance(first, FieldStep) else None
    for start in range(0, total, _POINTS_AT_ONCE):
        stop = min(start + _POINTS_AT_ONCE, total)
        voxels = np.stack(np.unravel_index(np.arange(start, stop), tuple(shape)), axis=1)
        points = voxels @ affine[:dim, :dim].T + affine[:dim, 3]
        if vectors is None:
            moved = transform_points(steps, points)
        else:
            moved = transform_points(steps[1:], points + vectors[:, start:stop].T)
        there = moved @ g[:dim, :dim].T + g[:dim, 3]
        here = points @ f[:dim, :dim].T + f[:dim, 3]
        found[:, start:stop] = (there - here).T
    return found.reshape(dim, *shape)


def _lies_on(step: AffineStep | FieldStep, shape: Sequence[int], affine: np.ndarray) -> bool:
    if isinstance(step, AffineStep) or tuple(step.vectors.shape[1:]) != tuple(shape):
        return False
    return bool(np.allclose(step.affine, affine, rtol=1e-9, atol=1e-9))


def as_steps(
    vectors: np.ndarray, affine: np.ndarray, target: np.ndarray | None = None, source: np.ndarray | None = None
) -> Steps:
    """Return the one step that a stored displacement stands for: the inverse of :func:`displacement_on`.

    It is exact at the voxel centers and linear between them; beyond the grid, of which the file says nothing, points
    stay where they are, as in ITK.

    Args:
        vectors: ``(dim, *space)``, in the unit of the frames.
        affine, target, source: As there.
    """
    dim, shape = len(vectors), vectors.shape[1:]
    g, f = (np.eye(4) if frame is None else frame for frame in (target, source))
    back = np.linalg.inv(g)
    # In float64: far from the origin, and between voxels of unlike sizes, the terms are large and their sum is not.
    world = np.tensordot(back[:dim, :dim], np.asarray(vectors, dtype=np.float64), axes=1)
    slope = (back @ f - np.eye(4)) @ affine
    axes = np.ix_(*(np.arange(n, dtype=np.float64) for n in shape))
    for a in range(dim):
        world[a] += sum((slope[a, b] * axes[b] for b in range(dim)), np.float64(slope[a, 3]))
    return (FieldStep(world.astype(np.float32), np.array(affine, dtype=np.float64)),)


def right_angled(request: Request, grid: Grid | np.ndarray, name: str) -> None:
    """Refuse a grid whose axes are not at right angles, for formats that know of none.

    Raises:
        InputError: With what to do.
    """
    affine = grid if isinstance(grid, np.ndarray) else grid.affine
    if shear(affine) > 1e-3:
        request.refuse(
            f"the axes of the {name} grid are not at right angles, which this format cannot represent; give "
            f"another grid by fixed=FILE"
        )
