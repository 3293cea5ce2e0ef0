"""Images on coarse lattices: smoothed and thinned out by one dense matrix product for each axis.

An image travels as two tensors, ``mass = weight * value`` and ``weight``. Smoothing, thinning and interpolation
act on both, and a value is their quotient where one is needed. So neither what lies under a weight of zero nor
what lies outside the field of view reaches anything, at any level.

The lattice lies centered in the array, wherever its step leads it: an array that is flipped or transposed, its
affine with it, is then sampled at the very same points in space.

    mass, weight    (*space)            weight in [0, 1]
    affine          (d + 1, d + 1)      lattice index -> mm of the world (of its plane, in 2-D)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import max_pool1d, pad

__all__ = ["Lattice"]

#: Smoothing before a lattice of step k, in steps. The moving image is kept at half the step and smoothed alike,
#: so that both sides have lost the same detail and interpolation takes little more from the moving one.
SMOOTH = 0.5
#: An axis is thinned out only where that saves something.
WORTHWHILE = 1.2
#: Weights below this are taken for none: a quotient of such small numbers is noise.
EMPTY = 1e-3
#: Foreground differs from the background by this share of the range of intensities.
VISIBLE = 0.15


@dataclass(frozen=True, eq=False)
class Lattice:
    """An image on a lattice, with the weight of every sample."""

    mass: Tensor
    weight: Tensor
    affine: np.ndarray

    @property
    def dim(self) -> int:
        return self.weight.ndim

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.weight.shape)

    @property
    def spacing(self) -> np.ndarray:
        """mm along each axis, ``(d,)``."""
        dim = self.dim
        return np.linalg.norm(self.affine[:dim, :dim], axis=0)

    @property
    def value(self) -> Tensor:
        """The image; where its weight is nothing, 0."""
        return torch.where(self.weight > EMPTY, self.mass / self.weight.clamp_min(EMPTY), 0.0)

    def coarser(self, step: float, sigma: float) -> Lattice:
        """Smooth by ``sigma`` mm and keep a sample every ``step`` mm; an axis that is as coarse already stays."""
        full = bool((self.weight == 1).all())  # and stays so: the rows of every matrix sum to one
        both = self.mass[None] if full else torch.stack([self.mass, self.weight])
        affine = self.affine.copy()
        first = np.zeros(self.dim)
        for axis, (size, spacing) in enumerate(zip(self.shape, self.spacing, strict=True)):
            stride = step / spacing
            if stride < WORTHWHILE or size == 1:
                continue
            where = _centered(size, stride)
            first[axis] = where[0]
            both = _along(both, _gaussians(where, size, sigma / spacing).to(both), axis + 1)
            affine[:, axis] *= stride
        affine[:-1, -1] += self.affine[:-1, :-1] @ first
        return Lattice(both[0], torch.ones_like(both[0]) if full else both[1], affine)

    def smoothed(self, sigma: float) -> Callable[[Tensor], Tensor]:
        """The operator that smooths a field on this lattice by ``sigma`` mm, axis by axis."""
        matrices = [
            _gaussians(torch.arange(size, dtype=torch.float64), size, sigma / spacing).to(self.mass)
            for size, spacing in zip(self.shape, self.spacing, strict=True)
        ]

        def smooth(field: Tensor) -> Tensor:
            for axis, matrix in enumerate(matrices):
                field = _along(field, matrix, axis + field.ndim - self.dim)
            return field

        return smooth

    def contrasted(self, sigma: float, floor: float) -> Lattice:
        """Local mean 0 and variance 1, in Gaussian windows of ``sigma`` mm that see weighted samples alone.

        Args:
            sigma: Size of the window.
            floor: Standard deviation, in the image's unit, below which a window counts as flat.
        """
        mean, variance = self._moments(sigma)
        contrast = (self.value - mean) / (variance + floor**2).sqrt()
        return replace(self, mass=self.weight * contrast)

    def texture(self, sigma: float) -> Tensor:
        """The local standard deviation in the same windows, ``(*space)``."""
        return self._moments(sigma)[1].sqrt()

    def _moments(self, sigma: float) -> tuple[Tensor, Tensor]:
        """Local mean and variance in Gaussian windows of ``sigma`` mm."""
        smooth = self.smoothed(sigma)
        weight, mean, square = smooth(torch.stack([self.weight, self.mass, self.mass * self.value]))
        weight = weight.clamp_min(EMPTY)
        mean = mean / weight
        return mean, (square / weight - mean * mean).clamp_min(0)

    def weighed(self, weight: Tensor) -> Lattice:
        """The same image with its weights multiplied."""
        return replace(self, mass=self.mass * weight, weight=self.weight * weight)

    def positions(self) -> Tensor:
        """World coordinates of the samples, ``(N, d)`` mm."""
        return moved(torch.ones(self.shape, device=self.mass.device).nonzero().to(self.mass.dtype), self.affine)

    def spots(self, step: float) -> tuple[Tensor, float]:
        """Places at which to compare, every ``step`` mm along each axis (an axis that is coarser: at its samples).

        Returns:
            World coordinates ``(N, d)``, and the volume in mm^d that each stands for.
        """
        axes, volume = [], 1.0
        for size, spacing in zip(self.shape, self.spacing, strict=True):
            stride = step / spacing if step / spacing > WORTHWHILE else 1.0
            where = _centered(size, stride).to(self.mass)
            axes.append(where)
            volume *= stride * spacing
        index = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, self.dim)
        return moved(index, self.affine), volume

    def standardized(self) -> Lattice:
        """The same image less its background, in units of its range; zero where nothing differs from it.

        The background is the median of the border: air, the zero of a stripped scan, the paper of a drawing. The
        range is what all but the 2 % of the samples that are farthest from it stay below.
        """
        inner = torch.zeros(self.shape, dtype=torch.bool, device=self.mass.device)
        inner[tuple(slice(1, -1) if size > 2 else slice(None) for size in self.shape)] = True
        seen, value = self.weight > EMPTY, self.value
        border = seen & ~inner
        level = _quantile(value[border if border.any() else seen], 0.5)
        span = _quantile((value[seen] - level).abs(), 0.98)
        if not span > 0:
            span = float((value[seen] - level).abs().max()) if seen.any() else 0.0
        mass = (self.mass - level * self.weight) / span if span > 0 else torch.zeros_like(self.mass)
        return replace(self, mass=mass)

    def foreground(self, closing: float) -> Tensor:
        """1 where a standardized image shows something, 0 elsewhere; gaps below twice ``closing`` mm are filled.

        The gaps matter: dark fluid inside a brain is no background, and the ventricles guide a registration.
        """
        return self.grown((self.value.abs() > VISIBLE).to(self.mass), closing, -closing)

    def grown(self, region: Tensor, *margins: float) -> Tensor:
        """A region of 0 and 1 after its rim has moved outward by each of the margins, in mm; inward if negative.

        Beyond the lattice there is nothing, yet what has grown there and shrinks again is not forgotten.
        """
        reaches = [[math.ceil(abs(margin) / spacing) for spacing in self.spacing] for margin in margins]
        room = [sum(axis) for axis in zip(*reaches, strict=True)]
        region = pad(region, [r for r in reversed(room) for _ in range(2)])
        for margin, reach in zip(margins, reaches, strict=True):
            region = region if margin > 0 else 1 - region
            for axis, r in enumerate(reach):
                region = _dilated(region, r, axis)
            region = region if margin > 0 else 1 - region
        return region[tuple(slice(r, r + size) for r, size in zip(room, self.shape, strict=True))]


def moved(points: Tensor, matrix: np.ndarray) -> Tensor:
    """``(N, d)`` points through a homogeneous matrix."""
    dim = points.shape[1]
    placed = torch.as_tensor(matrix, dtype=points.dtype, device=points.device)
    return points @ placed[:dim, :dim].T + placed[:dim, dim]


def _quantile(values: Tensor, level: float) -> float:
    if not len(values):
        return 0.0
    ordered = np.sort(values.cpu().numpy())  # vectorized; torch's takes four times as long
    return float(ordered[int(level * (len(ordered) - 1))])


def _centered(size: int, stride: float) -> Tensor:
    """Places a stride apart that cover an axis, as far beyond its one end as beyond the other."""
    count = 1 + math.ceil((size - 1) / stride - 1e-9)
    return 0.5 * (size - 1) + stride * (torch.arange(count, dtype=torch.float64) - 0.5 * (count - 1))


def _gaussians(where: Tensor, size: int, sigma: float) -> Tensor:
    """Rows that average ``size`` samples around each place; near the ends, over what there is."""
    distance = where[:, None] - torch.arange(size, dtype=where.dtype)
    kernel = torch.exp(-0.5 * (distance / max(sigma, 1e-3)) ** 2)
    return kernel / kernel.sum(1, keepdim=True)


def _along(field: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """Apply a matrix along one axis, as one large product."""
    before, after = field.shape[:axis], field.shape[axis + 1 :]
    if not after:
        return field @ matrix.T
    return (matrix @ field.reshape(math.prod(before), field.shape[axis], -1)).reshape(*before, -1, *after)


def _dilated(field: Tensor, reach: int, axis: int) -> Tensor:
    """The maximum over a window of ``2 reach + 1`` samples along one axis."""
    lines = field.movedim(axis, -1)
    return (
        max_pool1d(lines.reshape(-1, 1, lines.shape[-1]), 2 * reach + 1, 1, reach)
        .view(lines.shape)
        .movedim(-1, axis)
    )
