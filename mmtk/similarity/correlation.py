"""Correlation of the whole images, and in windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmtk.errors import ConfigError
from mmtk.similarity.base import Reduction, Similarity, nonzero, weighted_mean
from mmtk.similarity.squares import check_window
from mmtk.similarity.windows import gather, per_axis, spread
from mmtk.types import Image, Weight

__all__ = ["LocalCorrelation", "NormalizedCrossCorrelation"]


class NormalizedCrossCorrelation(Similarity):
    """One minus the correlation coefficient: blind to a positive linear change of intensity.

    At a voxel the cost is ``1 - a b / (sd(a) sd(b))`` with ``a``, ``b`` the images less their weighted means; its
    weighted mean is ``1 - cc``, between 0 and 2. A flat image correlates with nothing: 1, with no gradient. Flat
    means a variance below the rounding error of the mean square; there is no other threshold, so that the cost
    does not depend on the intensities' unit.
    """

    def cost(self, moved: Image, fixed: Image, weight: Weight) -> Image:
        moved, moved_flat, moved_variance = _centered(moved, weight)
        fixed, fixed_flat, fixed_variance = _centered(fixed, weight)
        flat = moved_flat | fixed_flat
        scale = torch.where(flat, 1, moved_variance).rsqrt() * torch.where(flat, 1, fixed_variance).rsqrt()
        return 1 - moved * fixed * torch.where(flat, 0, scale)


def _centered(image: Image, weight: Weight) -> tuple[Image, Tensor, Tensor]:
    """Return the image less its mean, whether it is flat, and its variance; the last two ``(B, C, 1, ..)``."""
    mean = weighted_mean(image, weight)
    centered = image - mean
    variance = weighted_mean(centered.square(), weight)
    flat = variance <= 4 * torch.finfo(image.dtype).eps * (variance + mean.square())
    return centered, flat, variance


class LocalCorrelation(Similarity):
    """One minus the squared correlation in a window around each voxel: ``1 - (c + eps)^2 / ((va + eps) (vb + eps))``.

    ``c`` is the weighted covariance of the two images in the window, ``va`` and ``vb`` are their variances. The ratio
    is the squared cosine of two vectors: what lies in the window, less its mean, and one more component
    ``sqrt(eps)`` that both have. So the cost is in [0, 1]; it is 0 exactly where the two windows differ by a constant,
    and as that is its least value, an image that is compared with itself has no gradient. With ``eps`` in the
    denominator alone it would have one: more contrast would pay wherever windows are nearly flat.

    Where both variances are far above ``eps`` it is blind to contrast and to its sign, as the square of a correlation
    is. Where both are far below, the windows are flat and match, whatever lies there; a flat window and one with
    contrast cost 1. Windows average what there is and pad nothing, at the border, too.

    Args:
        radius: Voxels from the center of a window to its side, one number or one for each axis.
        stride: Only every ``stride``-th voxel of each axis is the center of a window, and stands for
            ``stride ** dim`` voxels. 2 takes a quarter of the time in 3-D and registers as well.
        eps: Added to covariance and variances, in squared intensity: contrast far below its root does not count. The
            default is meant for intensities in [0, 1].
        reduction: See :class:`~mmtk.similarity.base.Similarity`; ``none`` has a voxel for each window.

    Raises:
        ConfigError: If the radius is below 1, the stride is, or ``eps`` is not positive.
    """

    def __init__(
        self,
        *,
        radius: int | Sequence[int] = 2,
        stride: int = 1,
        eps: float = 1e-3,
        reduction: Reduction = "sum",
    ) -> None:
        super().__init__(reduction=reduction)
        check_window(radius, eps)
        if stride < 1:
            raise ConfigError(f"stride: {stride} must be 1 or more voxels")
        self.radius, self.stride, self.eps = radius, stride, eps

    def cost(self, moved: Image, fixed: Image, weight: Weight) -> Image:
        radius = per_axis(self.radius, fixed.ndim - 2)
        return _WindowedCorrelation.apply(moved, fixed, weight, radius, self.stride, self.eps)

    def at_costs(self, weight: Weight) -> Weight:
        if self.stride == 1:
            return weight
        dim = weight.ndim - 2
        every = slice(None, None, self.stride)
        return weight[(slice(None), slice(None), *[every] * dim)] * self.stride**dim


class _WindowedCorrelation(torch.autograd.Function):
    """The map of ``1 - c^2 / (va vb)`` with its gradient written out: half the passes that autograd needs.

    Let ``E[f] = sum(w f) / W`` over a window, ``W = sum(w)``. The cost is a function of five such means,

        A = E[a], B = E[b], va = E[aa] - A^2 + eps, vb = E[bb] - B^2 + eps, c = E[ab] - A B + eps,

    and its derivatives by them are

        by E[ab]   p = -2 c / (va vb)              by E[a]   -(B p + 2 A q)
        by E[aa]   q = c^2 / (va^2 vb)             by E[b]   -(A p + 2 B r)
        by E[bb]   r = c^2 / (va vb^2)

    A voxel y enters every window that holds it, so with S = ``spread``, the sum over these windows, of the
    derivatives times the incoming gradient over W,

        by a(y)    w (b S[p] + 2 a S[q] + S[by A])
        by w(y)    ab S[p] + aa S[q] + bb S[r] + a S[by A] + b S[by B]
                   - S[ E[ab] p + E[aa] q + E[bb] r + A by A + B by B ].
    """

    @staticmethod
    def forward(
        ctx: Any, a: Tensor, b: Tensor, w: Tensor, radius: tuple[int, ...], stride: int, eps: float
    ) -> Tensor:
        def window(f: Tensor) -> Tensor:
            return gather(f, radius, stride)

        wa, wb = a * w, b * w
        inverse = nonzero(window(w)).reciprocal_()
        mean_a, mean_b = window(wa).mul_(inverse), window(wb).mul_(inverse)
        va = window(wa * a).mul_(inverse).addcmul_(mean_a, mean_a, value=-1).clamp_min_(0).add_(eps)
        vb = window(wb.mul_(b)).mul_(inverse).addcmul_(mean_b, mean_b, value=-1).clamp_min_(0).add_(eps)
        c = window(wa.mul_(b)).mul_(inverse).addcmul_(mean_a, mean_b, value=-1).add_(eps)
        ctx.save_for_backward(a, b, w, inverse, mean_a, mean_b, va, vb, c)
        ctx.window = radius, stride, eps
        return (c * c).div_(va).div_(vb).neg_().add_(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        a, b, w, inverse, mean_a, mean_b, va, vb, c = ctx.saved_tensors
        radius, stride, eps = ctx.window
        for_a, for_b, for_w = ctx.needs_input_grad[:3]

        def spreads(f: Tensor) -> Tensor:
            return spread(f, radius, stride, a.shape)

        ratio = c / va / vb
        scaled = gradient * inverse
        p = (ratio * scaled).mul_(-2)
        square = ratio.mul_(c).mul_(scaled)
        q, r = square / va, square / vb
        by_mean_a = (mean_b * p).addcmul_(mean_a, q, value=2).neg_()
        by_mean_b = (mean_a * p).addcmul_(mean_b, r, value=2).neg_()

        sum_p = spreads(p)
        sum_q, sum_a = (spreads(q), spreads(by_mean_a)) if for_a or for_w else (p, p)
        sum_r, sum_b = (spreads(r), spreads(by_mean_b)) if for_b or for_w else (p, p)
        by_a = by_b = by_w = None
        if for_w:
            own = (c - eps + mean_a * mean_b) * p + (va - eps + mean_a**2) * q + (vb - eps + mean_b**2) * r
            own += mean_a * by_mean_a + mean_b * by_mean_b
            by_w = a * b * sum_p + a * a * sum_q + b * b * sum_r + a * sum_a + b * sum_b - spreads(own)
            by_w = by_w.sum_to_size(w.shape)
        if for_a:
            by_a = sum_a.addcmul_(sum_q, a, value=2).addcmul_(sum_p, b).mul_(w)
        if for_b:
            by_b = sum_b.addcmul_(sum_r, b, value=2).addcmul_(sum_p, a).mul_(w)
        return by_a, by_b, by_w, None, None, None
