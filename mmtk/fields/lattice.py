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
from mmtk.fields.splines import derivative_matrix, interpolation_matrix
from mmtk.fields.warp import invert, sample, warp

__all__ = ["Lattice", "along_axes"]


def along_axes(field: Tensor, matrices: Sequence[Tensor | None]) -> Tensor:
    """Multiply every axis of a field by a matrix of its own (or none): ``(B, C, *in)`` to ``(B, C, *out)``.

    Planes come first, so that each axis is one large matrix product; with the small channel axis innermost the
    same sum is several times slower.
    """
    lead = field.shape[:2]
    spatial = list(field.shape[2:])
    for axis in reversed(range(len(matrices))):
        matrix = matrices[axis]
        if matrix is None:
            continue
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
        box: The part of the grid that needs nodes, one slice an axis; all of it if None. Beyond the period around
            the box a field goes on as it ended.
    """

    def __init__(self, grid: Grid, spacing: float, padding: float, box: Sequence[slice] | None = None) -> None:
        if not spacing > 0 or padding < 0:
            raise ValueError(f"node spacing {spacing} mm must be positive, padding {padding} mm not negative")
        self.grid, self.spacing, self.padding = grid, float(spacing), float(padding)
        box = box or [slice(0, n) for n in grid.shape]
        self.starts = tuple(part.start for part in box)
        extent = [(part.stop - part.start - 1) * h for part, h in zip(box, grid.spacing, strict=True)]
        least = [math.ceil(e / spacing) + 1 for e in extent]
        self.nodes = tuple(fast_length(max(n + math.ceil(padding / spacing), 4)) for n in least)
        # The nodes lie centered on the box, so that a flipped image meets the same nodes.
        self.before = tuple((n - 1 - e / spacing) / 2 for n, e in zip(self.nodes, extent, strict=True))
        self.box = Grid(self.nodes, (self.spacing,) * grid.dim)
        self.refine = 2
        self._matrices: dict[object, list[Tensor]] = {}

    def positions(self, axis: int, voxels: Tensor) -> Tensor:
        """Return node coordinates of voxel coordinates along one axis."""
        nodes = (voxels - self.starts[axis]) * (self.grid.spacing[axis] / self.spacing) + self.before[axis]
        return nodes.clamp(0, self.nodes[axis])

    def points(self, like: Tensor) -> Tensor:
        """Return where the nodes lie, ``(1, dim, *nodes)`` in voxels of the grid; some lie outside of it."""
        axes = []
        for start, before, n, h in zip(self.starts, self.before, self.nodes, self.grid.spacing, strict=True):
            nodes = torch.arange(n, dtype=torch.float64) - before
            axes.append((start + nodes * (self.spacing / h)).to(like))
        return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]

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

    def at(self, field: Tensor, displacement: Tensor) -> Tensor:
        """Return ``field(x + u(x))`` on the nodes, for displacements of any size in node spacings.

        Between two nodes a cubic spline lies off the straight line by ``t (1 - t) / 2`` times its second derivative,
        taken at ``(1 + t) / 3``. The second derivatives along each axis are sampled there, in the same call, and taken
        off: the spline itself but for terms of fourth order across axes, at a small part of a cubic stencil's price.

        Args:
            field: ``(1, C, *nodes)``.
            displacement: ``(1, dim, *nodes)``.
        """
        points = identity(self.nodes, dtype=displacement.dtype, device=displacement.device) + displacement
        floor = torch.floor(points.detach())
        behind = points - floor
        dim = len(self.nodes)
        fields, places = [field], [points]
        for axis in range(dim):
            fields.append(self.derivative(field, axis, 2))
            third = (floor[:, axis] + (1 + behind[:, axis]) / 3)[:, None]
            places.append(torch.cat([points[:, :axis], third, points[:, axis + 1 :]], dim=1))
        value, *bends = sample(torch.cat(fields), torch.cat(places), padding="periodic").split(1)
        bow = 0.5 * behind * (1 - behind)
        for axis, bend in enumerate(bends):
            value = torch.addcmul(value, bend, bow[:, axis : axis + 1], value=-1)
        return value

    def compose(self, outer: Tensor, inner: Tensor) -> Tensor:
        """Return the displacement of ``(id + outer) o (id + inner)`` on the nodes, in node spacings."""
        return inner + self.at(outer, inner)

    def exponential(self, velocity: Tensor, squarings: int) -> Tensor:
        """Return the displacement of the flow at time 1 of a stationary velocity, both in node spacings.

        Scaling and squaring from a second-order first step, ``e v + e^2/2 (Dv) v``. Small steps interpolated linearly
        err in proportion to the step, and their sum does not vanish however small they are; with a better
        first step three to five squarings do, and each of them moves far enough for interpolation to pay.

        Args:
            velocity: ``(1, dim, *nodes)``.
            squarings: The flow is composed of ``2 ** squarings`` first steps.
        """
        small = velocity / 2**squarings
        u = small + 0.5 * self._along(small)
        for _ in range(squarings):
            u = self.compose(u, u)
        return u

    def _along(self, velocity: Tensor) -> Tensor:
        """Return ``(Dv) v`` on the nodes, by the derivative of the spline."""
        parts = [
            self.derivative(velocity, axis, 1) * velocity[:, axis : axis + 1] for axis in range(len(self.nodes))
        ]
        return torch.stack(parts).sum(0)

    def derivative(self, field: Tensor, axis: int, order: int) -> Tensor:
        """Return the first or second derivative of the spline along one axis, at the nodes, per node spacing."""
        key = (axis, order, field.dtype, field.device)
        if key not in self._matrices:
            self._matrices[key] = [derivative_matrix(self.nodes[axis], order).to(field)]
        matrices = [None if a != axis else self._matrices[key][0] for a in range(len(self.nodes))]
        return along_axes(field, matrices)

    def finer(self, factor: int) -> Lattice:
        """Return the lattice over the same period with its nodes ``factor`` times as dense."""
        fine = Lattice.__new__(Lattice)
        fine.grid, fine.padding, fine.starts = self.grid, self.padding, self.starts
        fine.spacing = self.spacing / factor
        fine.nodes = tuple(n * factor for n in self.nodes)
        fine.before = tuple(n * factor for n in self.before)
        fine.box = Grid(fine.nodes, (fine.spacing,) * self.grid.dim)
        fine._matrices = {}
        return fine

    def refined(self, field: Tensor, factor: int) -> Tensor:
        """Return a field's values on the nodes of :meth:`finer`, in the same unit."""
        key = ("refine", factor, field.dtype, field.device)
        if key not in self._matrices:
            self._matrices[key] = [
                interpolation_matrix(torch.arange(n * factor) / factor, n).to(field) for n in self.nodes
            ]
        return along_axes(field, self._matrices[key])

    def invert(self, displacement: Tensor, start: Tensor, tolerance: float = 0.005) -> Tensor:
        """Return the inverse of a map given on the nodes, in voxels of the fine grid.

        Solved on a lattice twice as dense, where a step costs little, and polished by two fixed-point steps on the
        fine grid itself, so that the two maps undo each other there, as sampled linearly by whoever reads them.

        Args:
            displacement: ``(1, dim, *nodes)``, node spacings, without folds.
            start: A first guess of the inverse, alike.
            tolerance: Largest residual of the dense lattice, in mm.
        """
        dense = self.finer(2)
        forward, guess = (2 * self.refined(field, 2) for field in (displacement, start))
        solved = invert(forward, guess, tolerance=tolerance / dense.spacing, padding="periodic")
        inverse = dense.in_voxels(dense.prolong(solved))
        there = self.in_voxels(self.prolong(displacement))
        for _ in range(2):
            inverse = -warp(there, inverse)
        return inverse

    def _all(self) -> list[Tensor]:
        return [torch.arange(n, dtype=torch.float64) for n in self.grid.shape]
