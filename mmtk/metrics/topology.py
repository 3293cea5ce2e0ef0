"""How regular a deformation is: folds, volume turned inside out, spread of the Jacobian.

    u   (B, dim, *space)   displacement in voxels of the map ``x -> x + u(x)``

Numbers are those of the whole batch.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from mmtk.fields import Grid, identity, jacobian_determinant
from mmtk.types import Displacement, Mask

__all__ = ["fold_count", "nondiffeomorphic_volume", "sdlogj", "sdlogj_learn2reg"]


def fold_count(u: Displacement, where: Mask | None = None) -> int:
    """Return the number of voxels whose Jacobian determinant is 0 or less, or not a number.

    Central differences, one-sided at the border.

    Args:
        u: ``(B, dim, *space)``, voxels.
        where: Count only voxels where this is above 0, ``(B, 1, *space)``; all if None.
    """
    folded = ~(jacobian_determinant(u) > 0)
    return int(folded.sum() if where is None else (folded & (where > 0)).sum())


def sdlogj(u: Displacement, where: Mask | None = None) -> float:
    """Return the standard deviation of the natural logarithm of the Jacobian determinant.

    Central differences, one-sided at the border; determinants below 1e-9 count as 1e-9, so that each fold raises
    the number instead of vanishing from it; divided by the number of voxels, not one less.

    Args:
        u: ``(B, dim, *space)``, voxels.
        where: Only voxels where this is above 0, ``(B, 1, *space)``; all if None. NaN if there are none.
    """
    determinant = jacobian_determinant(u).double()
    if where is not None:
        determinant = determinant[where > 0]
    return _deviation(determinant.clamp(1e-9, 1e9).log())


def sdlogj_learn2reg(u: Displacement) -> float:
    """Return SDlogJ as the evaluator of the Learn2Reg challenge does, to compare with published tables.

    That is the standard deviation of ``log(clip(det + 3, 1e-9, 1e9))`` over the grid less 2 voxels at each
    border. Because of the 3 it is about a quarter of :func:`sdlogj` for a tame deformation, and is hardly moved by
    folds.

    Args:
        u: ``(B, dim, *space)``, voxels, more than 4 along each axis.
    """
    inner = (slice(2, -2),) * (u.ndim - 2)
    determinant = jacobian_determinant(u).double()[(slice(None), slice(None), *inner)]
    return _deviation((determinant + 3).clamp(1e-9, 1e9).log())


def _deviation(values: Tensor) -> float:
    return float(values.std(correction=0)) if values.numel() else math.nan


def nondiffeomorphic_volume(u: Displacement, grid: Grid) -> float:
    """Return the volume in mm^dim that the map turns inside out, voxel centers joined by simplices.

    Four neighboring voxels (a pixel square) can be cut into two triangles in two ways, eight (a cube) into five
    tetrahedra in two ways: one at every other corner and one in the middle. The map is taken to be linear in each
    simplex. The number is the sum of the volumes of the images of all simplices that changed orientation, halved,
    as both ways of cutting cover each point. It is 0 exactly if no simplex is inverted, a stricter test than the
    determinant at voxels, whose central differences look past the voxel itself.

    Args:
        u: ``(B, dim, *space)``, voxels.
        grid: For the volume of a voxel.
    """
    points = identity(grid.shape, dtype=torch.float64, device=u.device) + u.double()
    dim = grid.dim
    corner = {bits: _corner(points, bits) for bits in itertools.product((0, 1), repeat=dim)}
    inverted = torch.zeros((), dtype=torch.float64, device=u.device)
    for bits in corner:
        edges = [corner[_with(bits, a, 1)] - corner[_with(bits, a, 0)] for a in range(dim)]
        inverted += (-_determinant(edges)).clamp_min(0).sum() / math.factorial(dim)
    if dim == 3:
        for base in (0, 1):
            # The corners with an even (odd) number of ones span the tetrahedron in the middle.
            first, *others = ((base, 0, 0), (base, 1, 1), (1 - base, 0, 1), (1 - base, 1, 0))
            edges = [corner[bits] - corner[first] for bits in others]
            sign = -1 if base else 1
            inverted += (-sign * _determinant(edges)).clamp_min(0).sum() / 6
    return float(inverted) / 2 * grid.cell_volume


def _corner(points: Tensor, bits: tuple[int, ...]) -> Tensor:
    for axis, bit in enumerate(bits, start=2):
        points = points.narrow(axis, bit, points.shape[axis] - 1)
    return points


def _with(bits: tuple[int, ...], axis: int, value: int) -> tuple[int, ...]:
    return (*bits[:axis], value, *bits[axis + 1 :])


def _determinant(edges: list[Tensor]) -> Tensor:
    """Return the determinant of the matrix with these rows, each ``(B, dim, *space)``."""
    if len(edges) == 2:
        (a, b), (c, d) = (e.unbind(1) for e in edges)
        return a * d - b * c
    first, second, third = edges
    return (first * torch.linalg.cross(second, third, dim=1)).sum(1)
