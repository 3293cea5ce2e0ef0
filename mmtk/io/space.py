"""Voxels, world and ITK: the one place that knows RAS from LPS and i,j,k from millimeters.

    voxel      (i, j, k), the axes of the array; displacements of the numerics are in voxels of the fixed grid
    world      RAS, mm: x to the right, y to the front, z up, as NIfTI affines have it
    LPS        x and y of the world negated: the world of ITK, ANTs and Slicer, met only when files are written

A run finds ``u`` on the fixed grid and a world affine ``A``; the map that they stand for is, for a fixed voxel x,

    x  ->  x + u(x)  ->  fixed affine  ->  world  ->  A  ->  moving point (world)

All matrices are 4x4 and float64, also in 2-D, where the third axis is the identity and no one's business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mmtk.errors import GridMismatch

if TYPE_CHECKING:
    from mmtk.io.volume import Volume

__all__ = [
    "LPS",
    "ItkGrid",
    "as_numpy",
    "itk_grid",
    "on_grid",
    "orientation",
    "plane_affine",
    "ras_lps",
    "shear",
    "spacing_of",
    "to_voxels",
    "to_world",
    "total_displacement",
    "voxel_to_voxel",
]

#: Turns RAS into LPS and back.
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def as_numpy(array: Any) -> np.ndarray:
    """Return an array or a tensor, wherever it lies, as a NumPy array. Torch need not be loaded for it."""
    if hasattr(array, "detach"):
        array = array.detach().cpu().numpy()
    return np.asarray(array)


def spacing_of(affine: np.ndarray, dim: int) -> tuple[float, ...]:
    """Return the distance between neighboring voxels along each array axis, in mm."""
    return tuple(float(h) for h in np.linalg.norm(affine[:3, :dim], axis=0))


def shear(affine: np.ndarray, dim: int = 3) -> float:
    """Return the largest cosine between two axes of a grid: 0 where they are at right angles."""
    axes = affine[:3, :dim] / np.linalg.norm(affine[:3, :dim], axis=0)
    return float(np.abs(axes.T @ axes - np.eye(dim)).max())


def orientation(affine: np.ndarray, dim: int = 3) -> str:
    """Return towards what each array axis points, e.g. ``"LPS"``; no direction is named twice."""
    import nibabel

    return "".join(nibabel.aff2axcodes(affine)[:dim])


def plane_affine(affine: np.ndarray) -> np.ndarray:
    """Return the world of a 2-D image: the plane in which ITK would place it, as a 4x4 matrix.

    ITK keeps x and y of the two axes and of the first pixel, and the spacing. A slice that does not lie
    across the z axis (a sagittal one) has no such shadow; its axes are laid along L and P instead.

    Args:
        affine: 4x4, RAS, mm, of the slice in space.
    """
    flat = np.eye(4)
    spacing = spacing_of(affine, 2)
    shadow = affine[:2, :2] / np.maximum(np.linalg.norm(affine[:2, :2], axis=0), 1e-12)
    if not np.allclose(shadow.T @ shadow, np.eye(2), atol=1e-3):
        shadow = -np.eye(2)
    flat[:2, :2] = shadow * spacing
    flat[:2, 3] = affine[:2, 3]
    return flat


def voxel_to_voxel(fixed: Volume, moving: Volume, matrix: np.ndarray | None = None) -> np.ndarray:
    """Return the 4x4 matrix from fixed to moving voxels, ``inv(moving.affine) @ A @ fixed.affine``.

    Args:
        fixed, moving: Anything with an ``affine``.
        matrix: ``A``, 4x4, world mm, fixed to moving; None is the identity.
    """
    world = np.eye(4) if matrix is None else np.asarray(matrix, dtype=np.float64)
    return np.linalg.solve(moving.affine, world @ fixed.affine)


def to_world(u: Any, affine: np.ndarray) -> np.ndarray:
    """Return voxel vectors as world vectors.

    Args:
        u: ``(dim, *space)`` or ``(1, dim, *space)``, voxels, array or tensor.
        affine: 4x4 of the grid that the voxels belong to.

    Returns:
        ``(dim, *space)``, RAS, mm, float32.
    """
    vectors = _vectors(u)
    dim = len(vectors)
    return _times(affine[:dim, :dim], vectors)


def to_voxels(vectors: Any, affine: np.ndarray) -> np.ndarray:
    """Return world vectors ``(dim, *space)`` (RAS, mm) in voxels of a grid: the inverse of :func:`to_world`."""
    field = _vectors(vectors)
    dim = len(field)
    return _times(np.linalg.inv(affine[:dim, :dim]), field)


def ras_lps(vectors: np.ndarray) -> np.ndarray:
    """Return vectors ``(dim, *space)`` with x and y negated: from RAS to LPS, or back."""
    signs = np.array([-1, -1, 1], dtype=vectors.dtype)[: len(vectors)]
    return vectors * signs.reshape(-1, *[1] * (vectors.ndim - 1))


def total_displacement(u: Any, fixed: Volume, matrix: np.ndarray | None = None) -> np.ndarray:
    """Return ``A(world(x + u(x))) - world(x)``: how far the whole map, affine included, takes a fixed point.

    Args:
        u: ``(dim, *space)`` or ``(1, dim, *space)``, voxels of the fixed grid.
        fixed: The volume whose grid ``u`` lies on.
        matrix: ``A``, 4x4, world mm, fixed to moving; None is the identity.

    Returns:
        ``(dim, *space)``, RAS, mm, float32.

    Raises:
        GridMismatch: If ``u`` does not lie on the grid of ``fixed``.
    """
    vectors = on_grid(u, fixed)
    dim = fixed.dim
    world = np.eye(4) if matrix is None else np.asarray(matrix, dtype=np.float64)
    total = _times((world @ fixed.affine)[:dim, :dim], vectors)
    # What the affine alone does is linear in the voxel: one vector for each axis, summed in float64.
    slope = (world - np.eye(4)) @ fixed.affine
    if slope.any():
        axes = np.ix_(*(np.arange(n, dtype=np.float64) for n in fixed.shape))
        for a in range(dim):
            total[a] += sum((slope[a, b] * axes[b] for b in range(dim)), np.float64(slope[a, 3]))
    return total


def on_grid(u: Any, fixed: Volume) -> np.ndarray:
    """Return a vector field as ``(dim, *space)``, float32, after a look at whether it lies on a grid.

    Raises:
        GridMismatch: If it does not.
    """
    vectors = _vectors(u)
    if vectors.shape != (fixed.dim, *fixed.shape):
        raise GridMismatch("displacement", vectors.shape, fixed.name, (fixed.dim, *fixed.shape))
    return vectors


def _vectors(u: Any) -> np.ndarray:
    field = as_numpy(u)
    if field.ndim == field.shape[1] + 2 and len(field) == 1:
        field = field[0]
    return field.astype(np.float32, copy=False)


def _times(matrix: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    return np.tensordot(matrix.astype(np.float32), vectors, axes=1)


class ItkGrid(NamedTuple):
    """A grid in ITK's words: LPS, mm; ``direction`` holds the unit axes as columns."""

    size: tuple[int, ...]
    origin: np.ndarray
    spacing: np.ndarray
    direction: np.ndarray

    @property
    def parameters(self) -> np.ndarray:
        """The fixed parameters of a displacement field transform: 18 numbers in 3-D, 10 in 2-D."""
        return np.concatenate([self.size, self.origin, self.spacing, self.direction.ravel()]).astype(np.float64)

    @property
    def affine(self) -> np.ndarray:
        """The same grid as a 4x4 matrix from voxel to world, RAS, mm."""
        dim = len(self.size)
        lps = np.eye(4)
        lps[:dim, :dim] = self.direction * self.spacing
        lps[:dim, 3] = self.origin
        return LPS @ lps


def itk_grid(shape: tuple[int, ...], affine: np.ndarray) -> ItkGrid:
    """Return the grid of a volume as ITK tells it."""
    dim = len(shape)
    lps = LPS @ affine
    spacing = np.array(spacing_of(affine, dim))
    return ItkGrid(tuple(shape), lps[:dim, 3], spacing, lps[:dim, :dim] / spacing)
