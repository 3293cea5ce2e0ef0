"""How regular a deformation is: folds, volume turned inside out, spread of the Jacobian.

    u   (B, dim, *space)   displacement in voxels of the map ``x -> x + u(x)``

Numbers are those of the whole batch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from mmtk.fields import Grid, jacobian_determinant
from mmtk.metrics.intensities import total
from mmtk.types import Displacement, Mask

__all__ = ["fold_count", "log_deviation", "nondiffeomorphic_volume", "sdlogj", "sdlogj_learn2reg"]


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
    determinant = jacobian_determinant(u)
    return log_deviation(determinant if where is None else determinant[where > 0])


def sdlogj_learn2reg(u: Displacement) -> float:
    """Return SDlogJ as the evaluator of the Learn2Reg challenge does, to compare with published tables.

    That is the standard deviation of ``log(clip(det + 3, 1e-9, 1e9))`` over the grid less 2 voxels at each
    border. Because of the 3 it is about a quarter of :func:`sdlogj` for a tame deformation, and is hardly moved by
    folds.

    Args:
        u: ``(B, dim, *space)``, voxels, more than 4 along each axis.
    """
    inner = (slice(2, -2),) * (u.ndim - 2)
    return log_deviation(jacobian_determinant(u)[(slice(None), slice(None), *inner)] + 3)


def log_deviation(determinant: Tensor) -> float:
    """Return the standard deviation of the logarithm of determinants, each first clipped to [1e-9, 1e9].

    Args:
        determinant: Of any shape. NaN if there is none.
    """
    if not determinant.numel():
        return math.nan
    logs = torch.atleast_2d(determinant.clamp(1e-9, 1e9).log_())
    logs -= total(logs) / logs.numel()
    return math.sqrt(total(logs.square_()) / logs.numel())


def nondiffeomorphic_volume(u: Displacement, grid: Grid) -> float:
    """Return the volume in mm^dim that the map turns inside out, voxel centers joined by simplices.

    Four neighboring voxels (a pixel square) can be cut into two triangles in two ways, eight (a cube) into five
    tetrahedra in two ways: one at every other corner and one in the middle. The map is taken to be linear in each
    simplex. The number is the sum of the volumes of the images of all simplices that changed orientation, halved,
    as both ways of cutting cover each point. It is 0 exactly if no simplex is inverted, a stricter test than the
    determinant at voxels, whose central differences look past the voxel itself.

    Cells that cannot fold, since the displacement changes too little in them, are passed over.

    Args:
        u: ``(B, dim, *space)``, voxels.
        grid: For the volume of a voxel.

    References:
        Y. Liu, J. Chen, S. Wei, A. Carass, J. Prince, "On finite difference Jacobian computation in deformable image
        registration", Int. J. Comput. Vis. (2024), arXiv:2212.06060: the ten determinants of a voxel (four in 2-D).
    """
    if min(grid.shape) < 2:
        return 0.0
    inverted = 0.0
    for element in u:
        for begin in range(0, grid.shape[0] - 1, SLAB):
            inverted += _inverted(element[:, begin : begin + SLAB + 1])
    return inverted / 2 * grid.cell_volume


#: Planes that are looked at together, so that they stay in the processor's cache.
SLAB = 4


def _inverted(u: Tensor) -> float:
    """Return twice the volume, in voxels, that a part ``(dim, *space)`` of a map turns inside out."""
    dim = len(u)
    cells = _steep(u).nonzero().unbind(1)
    if not len(cells[0]):
        return 0.0
    corner: dict[tuple[int, ...], list[Tensor]] = {}
    for bits in itertools.product((0, 1), repeat=dim):
        place = tuple(index + bit for index, bit in zip(cells, bits, strict=True))
        corner[bits] = [u[axis][place].double() + bits[axis] for axis in range(dim)]
    inverted = torch.zeros((), dtype=torch.float64, device=u.device)
    for bits in corner:
        edges = [_edge(corner, _with(bits, a, 0), _with(bits, a, 1)) for a in range(dim)]
        inverted += _determinant(edges).neg_().clamp_min_(0).sum() / math.factorial(dim)
    if dim == 3:
        for base in (0, 1):
            # The corners with an even (odd) number of ones span the tetrahedron in the middle.
            first, *others = ((base, 0, 0), (base, 1, 1), (1 - base, 0, 1), (1 - base, 1, 0))
            edges = [_edge(corner, first, bits) for bits in others]
            sign = -1 if base else 1
            inverted += _determinant(edges).mul_(-sign).clamp_min_(0).sum() / 6
    return float(inverted)


def _edge(
    corner: Mapping[tuple[int, ...], list[Tensor]], start: tuple[int, ...], end: tuple[int, ...]
) -> list[Tensor]:
    return [b - a for a, b in zip(corner[start], corner[end], strict=True)]


def _steep(u: Tensor) -> Tensor:
    """Return where a simplex of a cell could be inverted, ``(*cells)``, bool.

    ``I + E`` keeps its orientation while ``|E| < 1``. The columns of E are differences along the edges of the cell in
    a simplex at a corner; in the middle tetrahedron each is at most the sum of two such, so that ``|E|^2`` is at most
    four times the sum of squares.
    """
    dim = len(u)
    bound: Tensor | None = None
    for axis in range(dim):
        edge = torch.diff(u, dim=axis + 1).square_().sum(0)
        for other in range(dim):
            if other != axis:
                n = edge.shape[other] - 1
                edge = torch.maximum(edge.narrow(other, 0, n), edge.narrow(other, 1, n))
        bound = edge if bound is None else bound.add_(edge)
    assert bound is not None
    return ~(bound < (1.0 if dim == 2 else 0.25))


def _with(bits: tuple[int, ...], axis: int, value: int) -> tuple[int, ...]:
    return (*bits[:axis], value, *bits[axis + 1 :])


def _determinant(edges: list[list[Tensor]]) -> Tensor:
    """Return the determinant of the matrix with these rows, each a list of components."""
    if len(edges) == 2:
        (a, b), (c, d) = edges
        return a * d - b * c
    (a, b, c), (d, e, f), (g, h, i) = edges
    return a * (e * i - f * h) + b * (f * g - d * i) + c * (d * h - e * g)
