"""The matched pyramid: fixed image on a coarse lattice, moving image on one two or more times as fine.

Each level smooths both images with one Gaussian and samples them. Averaging both onto the same coarse grid is
worse: the moving image is then interpolated, and so blurred, a second time, and the coarse level fits that blur.
Voxels under the lesion mask do not leak into their neighbors: the smoothing is divided by the smoothed weight.

    moving, mask       (1, C, *finer)    sampled by the optimizer, in voxels of ``finer``
    fixed, weight      (1, C, *coarse)   compared with
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmtk.fields import Grid, along_axes

__all__ = ["Axis", "Level", "level_axes", "smooth_and_sample"]

#: Width of the smoothing, in strides of the fixed image's lattice.
WIDTH = 0.4


@dataclass(frozen=True)
class Axis:
    """One axis of a level: which voxels of the full grid it samples.

    Args:
        first, stride, count: Sampled are ``first + stride * range(count)``. The samples lie centered, between voxels
            where need be, so that a flipped image is sampled at the same places.
    """

    first: float
    stride: int
    count: int

    @property
    def voxels(self) -> Tensor:
        """Voxel coordinates of the samples, float64."""
        return self.first + self.stride * torch.arange(self.count, dtype=torch.float64)

    def within(self, finer: Axis) -> slice:
        """Return where these samples lie among those of a finer axis that holds them all."""
        start, step = round((self.first - finer.first) / finer.stride), self.stride // finer.stride
        return slice(start, start + step * (self.count - 1) + 1, step)


@dataclass(frozen=True)
class Level:
    """Lattices of one level for the fixed (``coarse``) and the moving (``finer``) image.

    Attributes:
        sigma: Width of the smoothing along each axis, in voxels of the full grid.
        grid: The coarse lattice as a grid, for norms and cell volumes.

    Every coarse sample is a finer one, so that identical images, prepared alike on the finer lattice, match exactly.
    """

    coarse: tuple[Axis, ...]
    finer: tuple[Axis, ...]
    sigma: tuple[float, ...]
    grid: Grid

    @property
    def ratio(self) -> tuple[int, ...]:
        """Finer samples in one coarse stride, for each axis."""
        return tuple(c.stride // f.stride for c, f in zip(self.coarse, self.finer, strict=True))

    def thin(self, image: Tensor) -> Tensor:
        """Return the coarse samples of an image on the finer lattice."""
        parts = [c.within(f) for c, f in zip(self.coarse, self.finer, strict=True)]
        return image[(slice(None), slice(None), *parts)]


def level_axes(grid: Grid, box: Sequence[slice], size: float) -> Level:
    """Lay out the level whose samples are about ``size`` mm apart, inside a box of the grid.

    Args:
        grid: The full grid.
        box: Voxels of it that are compared, one slice an axis.
        size: Wanted spacing in mm; an axis whose voxels are already that far apart keeps them.
    """
    coarse, finer, sigma, spacing = [], [], [], []
    for part, h in zip(box, grid.spacing, strict=True):
        n = part.stop - part.start
        stride = max(1, min(round(size / h), (n - 1) // 3))
        half = stride // next((p for p in range(2, stride + 1) if stride % p == 0), 1)
        coarse_count = (n - 1) // stride + 1
        margin = (n - 1 - (coarse_count - 1) * stride) / 2
        beyond = int(margin // half)
        coarse.append(Axis(part.start + margin, stride, coarse_count))
        finer.append(
            Axis(part.start + margin - beyond * half, half, (coarse_count - 1) * (stride // half) + 1 + 2 * beyond)
        )
        sigma.append(WIDTH * stride if stride > 1 else 0.0)
        spacing.append(stride * h)
    shape = tuple(axis.count for axis in coarse)
    return Level(tuple(coarse), tuple(finer), tuple(sigma), Grid(shape, tuple(spacing)))


def smooth_and_sample(
    image: Tensor, axes: Sequence[Axis], sigma: Sequence[float], weight: Tensor | None = None
) -> Tensor:
    """Return the image smoothed by a Gaussian and sampled on a lattice, one dense product an axis.

    Args:
        image: ``(1, C, *space)``.
        axes: The lattice.
        sigma: Width in voxels, one an axis; 0 only samples.
        weight: ``(1, 1, *space)``: voxels of weight 0 do not count; deep among them the result goes to 0.

    Returns:
        ``(1, C, *lattice)``.
    """
    matrices = [_matrix(n, axis, s).to(image) for n, axis, s in zip(image.shape[2:], axes, sigma, strict=True)]
    if weight is None:
        return along_axes(image, matrices)
    share = along_axes(weight, matrices)
    return along_axes(image * weight, matrices) / share.clamp_min(1e-6)


def _matrix(n: int, axis: Axis, sigma: float) -> Tensor:
    distance = axis.voxels[:, None] - torch.arange(n, dtype=torch.float64)
    if sigma == 0:
        return (distance == 0).double()
    matrix = torch.exp(-0.5 * (distance / sigma) ** 2)
    return matrix / matrix.sum(1, keepdim=True)
