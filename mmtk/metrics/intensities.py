"""Squared error and correlation of intensities, inside and outside of a mask.

Sums run along rows in the images' own precision and over rows in double: as good as a sum in double, at a fifth of
its cost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from mmtk.types import Image, Mask, Weight

__all__ = ["Moments", "SquaredErrors", "correlation", "squared_error", "squared_errors", "total"]


def total(field: Tensor) -> float:
    """Return the sum of a field, of two axes or more."""
    return float(field.flatten(-2).sum(-1).double().sum())


class SquaredErrors(NamedTuple):
    """Sums of squared differences, inside and outside of a mask."""

    inside: float
    outside: float


def squared_error(moved: Image, fixed: Image, weight: Weight | None = None) -> float:
    """Return ``sum w (moved - fixed)^2`` over all voxels and channels: no 1/2, no cell volume.

    Args:
        moved, fixed: ``(B, C, *space)``.
        weight: ``(B, 1, *space)``; 1 everywhere if None. What lies where it is 0 does not count, even if infinite.
    """
    square = (moved - fixed).square_()
    if weight is not None:
        square = (square * weight).where(weight > 0, 0)
    return total(square)


def squared_errors(moved: Image, fixed: Image, mask: Mask) -> SquaredErrors:
    """Return :func:`squared_error` with the mask as weight, and with one minus the mask.

    Args:
        moved, fixed: ``(B, C, *space)``.
        mask: ``(B, 1, *space)``, in [0, 1], on the same grid: of the lesion as warped.
    """
    return SquaredErrors(squared_error(moved, fixed, mask), squared_error(moved, fixed, 1 - mask))


@dataclass(frozen=True)
class Moments:
    """Sums over voxels by which two images correlate; sums of parts add up.

    Attributes:
        count: Of voxels, by weight.
        a, b, aa, bb, ab: Weighted sums of the two images, of their squares, and of their product.
    """

    count: float
    a: float
    b: float
    aa: float
    bb: float
    ab: float

    @classmethod
    def of(cls, a: Image, b: Image, weight: Weight | None = None) -> Moments:
        """Return those of two images ``(B, C, *space)``; what lies where the weight is 0 does not count."""
        if weight is None:
            return cls(a.numel(), total(a), total(b), total(a * a), total(b * b), total(a * b))
        weight = weight.to(a.dtype)
        seen = weight > 0
        wa, wb = (a * weight).where(seen, 0), (b * weight).where(seen, 0)
        a, b = a.where(seen, 0), b.where(seen, 0)
        return cls(total(weight.expand_as(a)), total(wa), total(wb), total(wa * a), total(wb * b), total(wa * b))

    @classmethod
    def constant(cls, a: float, b: float, count: float) -> Moments:
        """Return those of ``count`` voxels at which the images are ``a`` and ``b``."""
        return cls(count, count * a, count * b, count * a * a, count * b * b, count * a * b)

    def __add__(self, other: Moments) -> Moments:
        return Moments(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    @property
    def correlation(self) -> float:
        """Pearson's; NaN where an image is constant or nothing has weight."""
        if not self.count > 0:
            return math.nan
        mean_a, mean_b = self.a / self.count, self.b / self.count
        spread = (self.aa - mean_a * self.a) * (self.bb - mean_b * self.b)
        flat = spread <= 1e-12 * self.aa * self.bb
        return math.nan if flat else (self.ab - mean_a * self.b) / math.sqrt(spread)


def correlation(moved: Image, fixed: Image, weight: Weight | None = None) -> float:
    """Return Pearson's correlation of two images, NaN where one is constant.

    Args:
        moved, fixed: ``(B, C, *space)``.
        weight: ``(B, 1, *space)``; 1 everywhere if None.
    """
    return Moments.of(moved, fixed, weight).correlation
