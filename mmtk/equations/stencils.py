"""Central differences of images and their exact transposes, and the force ``z grad I`` in one pass.

Half of what a shooting costs is here unless care is taken: written with plain operators, one product
``z grad I`` keeps five full-size images for the backward pass, and a difference by convolution costs more than
everything else. The functions below keep image and momentum only and recompute the differences.

    f    (B, C, *space)     images
    v    (B, dim, *space)   vector fields, per voxel

What lies outside is the other end of the axis (``periodic``) or the border's own value, so that a picture that
is cut off has no edge there. Either way ``divergence`` is minus the transpose of ``gradient``, to rounding:
with it the shooting equations are Hamiltonian on the grid, not only in the limit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["divergence", "force", "gradient", "partial"]


def _difference(f: Tensor, axis: int, periodic: bool) -> Tensor:
    """Return ``f(x + 1) - f(x - 1)`` along a spatial axis, counted from 0."""
    axis, n = axis + 2, f.shape[axis + 2]
    if n == 1:
        return torch.zeros_like(f)
    out = torch.empty_like(f)
    torch.sub(f.narrow(axis, 2, n - 2), f.narrow(axis, 0, n - 2), out=out.narrow(axis, 1, n - 2))
    before, after = (n - 1, 0) if periodic else (0, n - 1)
    torch.sub(f.narrow(axis, 1, 1), f.narrow(axis, before, 1), out=out.narrow(axis, 0, 1))
    torch.sub(f.narrow(axis, after, 1), f.narrow(axis, n - 2, 1), out=out.narrow(axis, n - 1, 1))
    return out


def _difference_transposed(g: Tensor, axis: int, periodic: bool) -> Tensor:
    """Return the transpose of :func:`_difference`: ``g(x - 1) - g(x + 1)`` but for the borders."""
    axis, n = axis + 2, g.shape[axis + 2]
    if n == 1:
        return torch.zeros_like(g)
    out = torch.empty_like(g)
    torch.sub(g.narrow(axis, 0, n - 2), g.narrow(axis, 2, n - 2), out=out.narrow(axis, 1, n - 2))
    first, second = g.narrow(axis, 0, 1), g.narrow(axis, 1, 1)
    last, last_but_one = g.narrow(axis, n - 1, 1), g.narrow(axis, n - 2, 1)
    torch.sub(last if periodic else -first, second, out=out.narrow(axis, 0, 1))
    torch.sub(last_but_one, first if periodic else -last, out=out.narrow(axis, n - 1, 1))
    return out


class _Difference(torch.autograd.Function):
    """The difference or its transpose; each is the other's backward pass."""

    @staticmethod
    def forward(ctx: Any, f: Tensor, axis: int, periodic: bool, transposed: bool) -> Tensor:
        ctx.how = axis, periodic, transposed
        return (_difference_transposed if transposed else _difference)(f, axis, periodic)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None]:
        axis, periodic, transposed = ctx.how
        return _Difference.apply(g, axis, periodic, not transposed), None, None, None


class _Force(torch.autograd.Function):
    """``sum_c z^c d_i I^c``, keeping ``z`` and ``I`` alone for the backward pass."""

    @staticmethod
    def forward(ctx: Any, momentum: Tensor, image: Tensor, periodic: bool) -> Tensor:
        ctx.save_for_backward(momentum, image)
        ctx.periodic = periodic
        half = 0.5 * momentum
        out = image.new_empty(image.shape[0], image.ndim - 2, *image.shape[2:])
        for axis in range(image.ndim - 2):
            difference = _difference(image, axis, periodic)
            torch.mul(half[:, 0], difference[:, 0], out=out[:, axis])
            for channel in range(1, image.shape[1]):
                out[:, axis].addcmul_(half[:, channel], difference[:, channel])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        momentum, image = ctx.saved_tensors
        by_momentum = torch.zeros_like(momentum) if ctx.needs_input_grad[0] else None
        by_image = torch.zeros_like(image) if ctx.needs_input_grad[1] else None
        for axis in range(image.ndim - 2):
            along = 0.5 * g[:, axis : axis + 1]
            if by_momentum is not None:
                by_momentum.addcmul_(along, _difference(image, axis, ctx.periodic))
            if by_image is not None:
                by_image += _difference_transposed(momentum * along, axis, ctx.periodic)
        return by_momentum, by_image, None


def force(momentum: Tensor, image: Tensor, *, periodic: bool) -> Tensor:
    """Return ``sum_c z^c grad I^c``, the density that the kernel turns into minus the velocity.

    Args:
        momentum, image: ``(B, C, *space)``.
        periodic: What lies outside: the other end, or the border's value.

    Returns:
        ``(B, dim, *space)``, the gradient per voxel. It can be differentiated once.
    """
    return _Force.apply(momentum, image, periodic)


def partial(f: Tensor, axis: int, *, periodic: bool) -> Tensor:
    """Return the central difference of every channel along one spatial axis (counted from 0), per voxel."""
    return 0.5 * _Difference.apply(f, axis, periodic, False)


def gradient(f: Tensor, *, periodic: bool) -> Tensor:
    """Return the central differences of one channel: ``(B, 1, *space)`` to ``(B, dim, *space)``, per voxel."""
    return torch.cat([partial(f, axis, periodic=periodic) for axis in range(f.ndim - 2)], dim=1)


def divergence(v: Tensor, *, periodic: bool) -> Tensor:
    """Return minus the transpose of :func:`gradient`: ``(B, dim, *space)`` to ``(B, 1, *space)``.

    Without ``periodic`` nothing flows through the border: the values sum to zero, as on a periodic box.
    """
    parts = [_Difference.apply(v[:, axis : axis + 1], axis, periodic, True) for axis in range(v.shape[1])]
    return -0.5 * torch.stack(parts).sum(dim=0)
