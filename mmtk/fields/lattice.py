"""A coarse, periodic control grid over a fine one, and the cubic splines that join the two.

A kernel of width sigma removes every frequency above about 1/(2 sigma). Velocities and maps can therefore live
on nodes some sigma/4 to sigma/2 apart, with a small part of the work and the memory; only images need the fine
grid. What joins them has to be a cubic spline: linear interpolation of a velocity errs by several percent.

    nodes       one period of the control grid, ``(B, C, *nodes)``; ``spacing`` mm apart on every axis
    fine        ``(B, C, *grid.shape)`` or any lattice of points along the axes of the fine grid

A displacement on the nodes is in **node spacings**; on the fine grid, in voxels. The lattice is wider than the
grid by ``padding`` mm, half on either side, and closes on itself there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mmtk.fields.grid import Grid, identity
from mmtk.fields.kernels import fast_length
from mmtk.fields.splines import interpolation_matrix
from mmtk.fields.warp import sample

__all__ = ["Lattice", "along_axes"]


def along_axes(field: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Multiply every axis of a field by a matrix of its own: ``(B, C, *in)`` to ``(B, C, *out)``.

    Planes come first, so that each axis is one large matrix product; with the small channel axis innermost the
    same sum is several times slower.
    """
    lead = field.shape[:2]
    spatial = list(field.shape[2:])
    for axis in reversed(range(len(matrices))):
        matrix = matrices[axis]
        before = lead[0] * lead[1] * math.prod(spatial[:axis])
        after = math.prod(spatial[axis + 1 :])
        if after == 1:
            field = field.reshape(before, spatial[axis]) @ matrix.t()
        else:
            field = torch.matmul(matrix, field.reshape(before, spatial[axis], after))
        spatial[axis] = matrix.shape[0]
    return field.reshape(*lead, *spatial)


class Lattice:
    """A periodic control grid over ``grid``.

    Args:
        grid: The fine grid.
        spacing: Distance of the nodes in mm, the same along every axis.
        padding: mm by which the period is longer than the grid; about 1.5 sigma keeps the two ends apart.
        refine: Composition samples the map linearly after refining it so many times by its spline: 1 is plain
            linear interpolation, 2 has a quarter of its error at little cost.
    """

    def __init__(self, grid: Grid, spacing: float, padding: float, refine: int = 2) -> None:
        if not spacing > 0 or padding < 0:
            raise ValueError(f"node spacing {spacing} mm must be positive, padding {padding} mm not negative")
        self.grid, self.spacing, self.padding, self.refine = grid, float(spacing), float(padding), refine
        least = [math.ceil(e / spacing) + 1 for e in grid.extent]
        self.nodes = tuple(fast_length(max(n + math.ceil(padding / spacing), 4)) for n in least)
        self.before = tuple((n - m) // 2 for n, m in zip(self.nodes, least, strict=True))
        self.box = Grid(self.nodes, (self.spacing,) * grid.dim)
        self._matrices: dict[object, list[Tensor]] = {}

    def positions(self, axis: int, voxels: Tensor) -> Tensor:
        """Return node coordinates of voxel coordinates along one axis."""
        return voxels * (self.grid.spacing[axis] / self.spacing) + self.before[axis]

    def matrices(self, voxels: Sequence[Tensor], like: Tensor) -> list[Tensor]:
        """Return, for each axis, the matrix from the nodes to points at the given voxel coordinates."""
        key = (tuple(tuple(p.tolist()) for p in voxels), like.dtype, like.device)
        if key not in self._matrices:
            self._matrices[key] = [
                interpolation_matrix(self.positions(axis, p), n).to(like)
                for axis, (p, n) in enumerate(zip(voxels, self.nodes, strict=True))
            ]
        return self._matrices[key]

    def prolong(self, coarse: Tensor, voxels: Sequence[Tensor] | None = None) -> Tensor:
        """Return a field's values at the voxels of the fine grid, or on a lattice of voxel coordinates.

        Args:
            coarse: ``(B, C, *nodes)``.
            voxels: For each axis the voxel coordinates wanted; all voxels if None.

        Returns:
            ``(B, C, *fine)``, in the unit of ``coarse`` (see :meth:`in_voxels` for displacements).
        """
        return along_axes(coarse, self.matrices(voxels or self._all(), coarse))

    def restrict(self, fine: Tensor, voxels: Sequence[Tensor] | None = None) -> Tensor:
        """Return the exact transpose of :meth:`prolong`: ``<prolong(a), b> == <a, restrict(b)>``."""
        return along_axes(fine, [m.t() for m in self.matrices(voxels or self._all(), fine)])

    def in_voxels(self, displacement: Tensor) -> Tensor:
        """Turn the components of a displacement from node spacings into voxels of the fine grid."""
        return displacement * (self.spacing / self.grid.per_axis(displacement))

    def compose(self, outer: Tensor, inner: Tensor) -> Tensor:
        """Return the displacement of ``(id + outer) o (id + inner)`` on the nodes, in node spacings."""
        points = (identity(self.nodes, dtype=inner.dtype, device=inner.device) + inner) * self.refine
        return inner + sample(self._refined(outer), points, padding="periodic")

    def exponential(self, velocity: Tensor, squarings: int) -> Tensor:
        """Return the displacement of the flow at time 1 of a stationary velocity, both in node spacings."""
        u = velocity / 2**squarings
        for _ in range(squarings):
            u = self.compose(u, u)
        return u

    def _refined(self, field: Tensor) -> Tensor:
        if self.refine == 1:
            return field
        key = ("refine", field.dtype, field.device)
        if key not in self._matrices:
            self._matrices[key] = [
                interpolation_matrix(torch.arange(n * self.refine) / self.refine, n).to(field)
                for n in self.nodes
            ]
        return along_axes(field, self._matrices[key])

    def _all(self) -> list[Tensor]:
        return [torch.arange(n, dtype=torch.float64) for n in self.grid.shape]
