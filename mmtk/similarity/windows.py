"""Sums over box windows, and their exact transpose.

    image      (B, C, *space)
    box sums   (B, C, *strided)   one window around every ``stride``-th voxel of each axis, from voxel 0 on

A window that reaches over the border sums what there is. Each axis is summed alone by adding shifted views in
place: no padding, one allocation per axis, and planes stay contiguous. ``avg_pool3d`` takes four times as long
on one channel, because it shares its work out by channels. The outermost axis goes first, so that a stride
throws most of the data away before the expensive innermost axis is touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmtk.errors import ConfigError

__all__ = ["box_sum", "gather", "per_axis", "spread"]


def per_axis(number: int | Sequence[int], dim: int) -> tuple[int, ...]:
    """Return a radius or stride for each of ``dim`` axes.

    Raises:
        ConfigError: If there are more or fewer numbers than axes.
    """
    numbers = (number,) * dim if isinstance(number, int) else tuple(number)
    if len(numbers) != dim:
        raise ConfigError(f"{numbers} has {len(numbers)} numbers, but the images have {dim} axes")
    return numbers


def box_sum(image: Tensor, radius: Sequence[int], stride: int = 1) -> Tensor:
    """Return the sum over the window of ``2 * radius + 1`` voxels around every ``stride``-th voxel.

    Args:
        image: ``(B, C, *space)``. Gradients flow through.
        radius: Voxels to either side, one number an axis.
        stride: Distance of the windows' centers in voxels.
    """
    return _BoxSum.apply(image, tuple(radius), stride)


class _BoxSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, radius: tuple[int, ...], stride: int) -> Tensor:
        ctx.window = radius, stride, image.shape
        return gather(image, radius, stride)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return spread(gradient, *ctx.window), None, None


def gather(image: Tensor, radius: Sequence[int], stride: int = 1) -> Tensor:
    """The same as :func:`box_sum`, unknown to autograd."""
    for axis, r in enumerate(radius, start=2):
        n = image.shape[axis]
        total = _every(image, axis, 0, n, stride).clone(memory_format=torch.contiguous_format)
        for first, count, start in _shifts(n, r, stride):
            total.narrow(axis, first, count).add_(_every(image, axis, start, count, stride))
        image = total
    return image


def spread(sums: Tensor, radius: Sequence[int], stride: int, shape: Sequence[int]) -> Tensor:
    """The transpose of :func:`gather`: add every window's value to all voxels that the window holds.

    Args:
        sums: ``(B, C, *strided)``.
        radius: As given to :func:`gather`.
        stride: As given to :func:`gather`.
        shape: That of the image; only its spatial part counts.
    """
    for axis, r in reversed(list(enumerate(radius, start=2))):
        n = shape[axis]
        if stride == 1:
            total = sums.clone(memory_format=torch.contiguous_format)
        else:
            total = sums.new_zeros([*sums.shape[:axis], n, *sums.shape[axis + 1 :]])
            _every(total, axis, 0, n, stride).copy_(sums)
        for first, count, start in _shifts(n, r, stride):
            _every(total, axis, start, count, stride).add_(sums.narrow(axis, first, count))
        sums = total
    return sums


def _every(image: Tensor, axis: int, start: int, count: int, stride: int) -> Tensor:
    """View ``count`` voxels of an axis, ``stride`` apart, from ``start`` on (fewer where the axis ends)."""
    index = [slice(None)] * axis + [slice(start, start + stride * (count - 1) + 1, stride)]
    return image[tuple(index)]


def _shifts(n: int, radius: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Yield, for every offset but 0, the first window that holds a voxel there, how many do, and that voxel."""
    windows = (n - 1) // stride + 1
    for offset in (d for d in range(-radius, radius + 1) if d):
        first = max(0, -(offset // stride))
        last = min(windows - 1, (n - 1 - offset) // stride)
        if first <= last:
            yield first, last - first + 1, first * stride + offset
