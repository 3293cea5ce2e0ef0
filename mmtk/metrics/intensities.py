"""Squared error of intensities, inside and outside of a mask."""

from __future__ import annotations

from typing import NamedTuple

from mmtk.types import Image, Mask, Weight

__all__ = ["SquaredErrors", "squared_error", "squared_errors"]


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
    square = (moved - fixed).double().square()
    if weight is not None:
        square = (square * weight).where(weight > 0, 0)
    return float(square.sum())


def squared_errors(moved: Image, fixed: Image, mask: Mask) -> SquaredErrors:
    """Return :func:`squared_error` with the mask as weight, and with one minus the mask.

    Args:
        moved, fixed: ``(B, C, *space)``.
        mask: ``(B, 1, *space)``, in [0, 1], on the same grid: of the lesion as warped.
    """
    return SquaredErrors(squared_error(moved, fixed, mask), squared_error(moved, fixed, 1 - mask))
