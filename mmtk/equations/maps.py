"""Where velocities and maps live: on the image's own grid, or on the coarse nodes of a lattice.

A kernel of width sigma leaves nothing in a velocity above the frequency 1/(2 sigma), so a velocity and the maps
that it makes are known from nodes sigma/2 apart. Every equation and every integrator speaks of maps through the
few operations below and runs unchanged on either.

    field        (B, C, *box)     box: the grid's voxels, or the lattice's nodes
    v, u         (B, dim, *box)   velocity and displacement, in **box spacings**
    fine         (B, C, *space)   on the voxels of the image

Sampling on nodes needs more than linear interpolation, since sigma is only two of them: a field taken as linear
between nodes errs by several percent. ``at`` refines the field by its spline first. ``advect``, the step that
each time step takes, moves by a part of a node only; there the second and third derivatives at the node mend
linear interpolation as well, at half the cost.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmtk.equations import stencils
from mmtk.fields import Grid, Lattice, identity, sample, warp
from mmtk.fields.splines import interpolation_matrix
from mmtk.fields.warp import Mode, Padding, sample_units
from mmtk.types import Displacement

__all__ = ["FullMaps", "Maps", "NodeMaps"]


class Maps(ABC):
    """The operations on velocities and maps that equations and integrators need.

    Attributes:
        grid: The image's grid.
        box: The grid of velocities and maps.
        padding: What lies outside an image that is sampled: ``periodic`` or ``border``.
    """

    grid: Grid
    box: Grid
    padding: Padding

    def zeros(self, like: Tensor) -> Displacement:
        """Return the displacement of the identity map for every image of a batch."""
        return like.new_zeros(like.shape[0], self.box.dim, *self.box.shape)

    @abstractmethod
    def at(self, field: Tensor, u: Displacement, mode: Mode = "linear") -> Tensor:
        """Return ``field(x + u(x))``, for displacements of any size."""

    def advect(self, field: Tensor, step: Displacement, mode: Mode = "linear") -> Tensor:
        """Return ``field(x + step(x))`` for the small displacement of one time step."""
        return self.at(field, step, mode)

    def spread(self, field: Tensor, u: Displacement, mode: Mode = "linear") -> Tensor:
        """Return the transpose of :meth:`at`: every value is laid down where ``x + u(x)`` lies."""
        return _Spread.apply(field, u, self, mode)

    def lay_down(self, field: Tensor, u: Displacement, mode: Mode) -> Tensor:
        """Compute :meth:`spread`, not to be differentiated."""
        with torch.enable_grad():
            target = torch.zeros_like(field).requires_grad_()
            taken = self.at(target, u.detach(), mode)
        return torch.autograd.grad(taken, target, field)[0]

    @abstractmethod
    def partial(self, field: Tensor, axis: int) -> Tensor:
        """Return the derivative along a spatial axis (counted from 0), per box spacing."""

    def divergence(self, v: Tensor) -> Tensor:
        """Return ``div v``, ``(B, 1, *box)``: it has no unit of length, on any box."""
        return torch.stack([self.partial(v[:, a : a + 1], a) for a in range(self.box.dim)]).sum(0)

    @abstractmethod
    def refine(self, field: Tensor) -> Tensor:
        """Return the field's values at the voxels of the image, ``(B, C, *space)``."""

    @abstractmethod
    def gather(self, fine: Tensor) -> Tensor:
        """Return the transpose of :meth:`refine`: the box's share of a density on the voxels."""

    @abstractmethod
    def in_voxels(self, u: Tensor) -> Tensor:
        """Turn the components of a displacement from box spacings into voxels."""

    def per_spacing(self, covector: Tensor) -> Tensor:
        """Turn the components of a gradient from per voxel into per box spacing."""
        return self.in_voxels(covector)  # the same factor: what a step grows by, a slope grows by

    def displacement(self, u: Displacement) -> Displacement:
        """Return a map's displacement at the voxels of the image, in voxels."""
        return self.refine(self.in_voxels(u))

    def carry(self, images: Tensor, u: Displacement, mode: Mode = "linear") -> Tensor:
        """Return ``images(x + u(x))`` at the voxels, the images fine and the displacement on the box."""
        return warp(images, self.displacement(u), mode, self.padding)


class _Spread(torch.autograd.Function):
    """The transpose of sampling, whose own derivatives are sampling's again."""

    @staticmethod
    def forward(ctx: Any, field: Tensor, u: Tensor, maps: Maps, mode: Mode) -> Tensor:
        ctx.save_for_backward(field, u)
        ctx.how = maps, mode
        return maps.lay_down(field, u, mode)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None, None]:
        field, u = ctx.saved_tensors
        maps, mode = ctx.how
        with torch.enable_grad():
            where = u.detach().requires_grad_()
            taken = maps.at(g, where, mode)
        return taken.detach(), torch.autograd.grad(taken, where, field)[0], None, None


class FullMaps(Maps):
    """Velocities and maps on the image's own grid.

    Args:
        grid: The image's grid.
        periodic: The grid closes on itself; otherwise maps, like images, go on beyond the border unchanged.
    """

    def __init__(self, grid: Grid, *, periodic: bool) -> None:
        self.grid = self.box = grid
        self.padding = "periodic" if periodic else "border"

    def at(self, field: Tensor, u: Displacement, mode: Mode = "linear") -> Tensor:
        return warp(field, u, mode, self.padding)

    def partial(self, field: Tensor, axis: int) -> Tensor:
        if self.padding == "border":
            return torch.gradient(field, dim=axis + 2)[0]
        return stencils.partial(field, axis, periodic=True)

    def refine(self, field: Tensor) -> Tensor:
        return field

    def gather(self, fine: Tensor) -> Tensor:
        return fine

    def in_voxels(self, u: Tensor) -> Tensor:
        return u


class NodeMaps(Maps):
    """Velocities and maps on the nodes of a lattice, which is wider than the image and closes on itself.

    Args:
        lattice: Nodes at most sigma/2 apart; where the flow stretches more than twofold, half of that.
    """

    def __init__(self, lattice: Lattice) -> None:
        self.lattice, self.grid, self.box = lattice, lattice.grid, lattice.box
        self.padding = "border"
        self._matrices: dict[tuple[str, torch.dtype, torch.device], list[Tensor]] = {}
        self._points: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}

    def at(self, field: Tensor, u: Displacement, mode: Mode = "linear") -> Tensor:
        if mode != "linear":
            return self._sample(field, u, mode)
        for axis, matrix in enumerate(self._cached("closed", field)):
            field = _along(field, matrix, axis)
        return _sampled(field, self._within_period(u))

    def lay_down(self, field: Tensor, u: Displacement, mode: Mode) -> Tensor:
        if mode != "linear":
            return super().lay_down(field, u, mode)
        matrices = self._cached("closed", field)
        shape = (*field.shape[:2], *(m.shape[0] for m in matrices))
        backward = (
            torch.ops.aten.grid_sampler_2d_backward if len(matrices) == 2
            else torch.ops.aten.grid_sampler_3d_backward
        )  # fmt: skip
        points = self._within_period(u)
        if _would_crash(field, points):
            return torch.full_like(field, torch.nan)
        blank, bilinear, border = field.new_zeros(1).expand(shape), 0, 1
        laid, _ = backward(field, blank, points, bilinear, border, True, (True, False))
        for axis, matrix in enumerate(matrices):
            laid = _along(laid, matrix.t(), axis)
        return laid

    def advect(self, field: Tensor, step: Displacement, mode: Mode = "linear") -> Tensor:
        if mode != "linear":
            return self._sample(field, step, mode)
        closed = field
        for axis in range(2, field.ndim):
            closed = torch.cat([closed, closed.narrow(axis, 0, 1)], dim=axis)
        moved = _sampled(closed, self._within_period(step))
        # Between two nodes, t of the way into the cell, a line lies t (1 - t) (3 f_2 + (1 + t) f_3) / 6 off the
        # cubic. A step of more than a node would miss the right cell, but then time is resolved too coarsely too.
        size = step.abs()
        bend, twist = 0.5 * size * (size - 1), step * (size * size - 1) / 6
        second, third = self._cached("second", field), self._cached("third", field)
        for axis in range(self.box.dim):
            moved = torch.addcmul(moved, _along(field, second[axis], axis), bend[:, axis : axis + 1])
            moved = torch.addcmul(moved, _along(field, third[axis], axis), twist[:, axis : axis + 1])
        return moved

    def partial(self, field: Tensor, axis: int) -> Tensor:
        return _along(field, self._cached("first", field)[axis], axis)

    def refine(self, field: Tensor) -> Tensor:
        return self.lattice.prolong(field)

    def gather(self, fine: Tensor) -> Tensor:
        return self.lattice.restrict(fine)

    def in_voxels(self, u: Tensor) -> Tensor:
        return self.lattice.in_voxels(u)

    def carry(self, images: Tensor, u: Displacement, mode: Mode = "linear") -> Tensor:
        # grid_sample counts from -1 to 1, last axis first. Told so on the nodes already, its grid is one product
        # and one sum; on the voxels it would be ten passes over the largest field of the whole step.
        if mode == "cubic" or min(self.grid.shape) < 2:
            return super().carry(images, u, mode)
        size = u.new_tensor([n - 1 for n in self.grid.shape]).view(1, -1, *[1] * self.grid.dim)
        points = self.refine((self.in_voxels(u) * (2 / size)).flip(1)) + self._normalized(u)
        flavor = "bilinear" if mode == "linear" else "nearest"
        return _sampled(images, points.movedim(1, -1), flavor)

    def _sample(self, field: Tensor, u: Displacement, mode: Mode) -> Tensor:
        points = identity(self.box.shape, dtype=u.dtype, device=u.device) + u
        return sample(field, points, mode, padding="periodic")

    def _within_period(self, u: Displacement) -> Tensor:
        """Return ``x + u(x)`` as grid_sample counts on a field whose first plane is repeated behind the last."""
        key = ("nodes", u.dtype, u.device)
        periods = u.new_tensor(self.box.shape).view(1, -1, *[1] * self.box.dim)
        if key not in self._points:
            self._points[key] = identity(self.box.shape, dtype=u.dtype, device=u.device) / periods
        turns = self._points[key] + u / periods
        return (2 * (turns - torch.floor(turns.detach())) - 1).flip(1).movedim(1, -1)

    def _normalized(self, like: Tensor) -> Tensor:
        """Coordinates of the voxels as grid_sample counts them, ``(1, dim, *space)``."""
        key = ("voxels", like.dtype, like.device)
        if key not in self._points:
            axes = [torch.linspace(-1, 1, n, dtype=like.dtype, device=like.device) for n in self.grid.shape]
            self._points[key] = torch.stack(torch.meshgrid(*axes, indexing="ij")).flip(0)[None]
        return self._points[key]

    def _cached(self, what: str, like: Tensor) -> list[Tensor]:
        key = (what, like.dtype, like.device)
        if key not in self._matrices:
            make = {"first": _slope, "second": _curvature, "third": _twist, "closed": self._refinement}[what]
            self._matrices[key] = [make(n).to(like) for n in self.box.shape]
        return self._matrices[key]

    def _refinement(self, nodes: int) -> Tensor:
        """Refine by the spline and repeat the first plane behind the last, in one product."""
        k = self.lattice.refine
        return interpolation_matrix(torch.arange(nodes * k + 1) / k, nodes)


def _sampled(image: Tensor, grid: Tensor, flavor: str = "bilinear") -> Tensor:
    """Sample as ``grid_sample`` does, corners aligned, the border repeated; NaN where a point is."""
    if _would_crash(image, grid):
        return sample_units(image, grid, "linear" if flavor == "bilinear" else "nearest")
    return F.grid_sample(image, grid, flavor, "border", align_corners=True)


def _would_crash(image: Tensor, grid: Tensor) -> bool:
    """Whether torch's backward pass would write where no memory is: a NaN among the points of a 2-D image."""
    return image.ndim == 4 and not image.is_cuda and bool(torch.isnan(grid).any())


def _along(field: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """Multiply one spatial axis of a field by a matrix."""
    shape = field.shape
    before, after = math.prod(shape[: axis + 2]), math.prod(shape[axis + 3 :])
    if after == 1:
        product = field.reshape(before, shape[axis + 2]) @ matrix.t()
    else:
        product = torch.matmul(matrix, field.reshape(before, shape[axis + 2], after))
    return product.reshape(*shape[: axis + 2], matrix.shape[0], *shape[axis + 3 :])


def _coefficients(nodes: int) -> Tensor:
    """The matrix from values at the nodes to the coefficients of the periodic cubic spline through them."""
    values = _circulant(nodes, {-1: 1 / 6, 0: 4 / 6, 1: 1 / 6})
    return torch.linalg.inv(values)


def _slope(nodes: int) -> Tensor:
    """The spline's first derivative at the nodes: of fourth order, where central differences are of second."""
    return _circulant(nodes, {1: 0.5, -1: -0.5}) @ _coefficients(nodes)


def _curvature(nodes: int) -> Tensor:
    """The spline's second derivative at the nodes."""
    return _circulant(nodes, {-1: 1.0, 0: -2.0, 1: 1.0}) @ _coefficients(nodes)


def _twist(nodes: int) -> Tensor:
    """The third derivative at the nodes: the mean of either side's, for a cubic spline's jumps there."""
    return _circulant(nodes, {1: 0.5, -1: -0.5}) @ _curvature(nodes)


def _circulant(n: int, weights: dict[int, float]) -> Tensor:
    matrix, rows = torch.zeros(n, n, dtype=torch.float64), torch.arange(n)
    for offset, weight in weights.items():
        matrix[rows, (rows + offset) % n] += weight
    return matrix
