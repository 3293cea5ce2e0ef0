"""Uniformity of the ratio of two images."""

from __future__ import annotations

import torch

from mmtk.errors import ConfigError
from mmtk.similarity.base import Reduction, Similarity, weighted_mean
from mmtk.types import Image, Weight

__all__ = ["IntensityRatioVariance"]


class IntensityRatioVariance(Similarity):
    r"""The squared coefficient of variation of the ratio ``R = moved / fixed``, for images of one modality.

    .. math:: \mathrm{VIR}^2 = \frac{\mathrm{mean} (R - \bar R)^2}{\bar R^2}

    0 if the images agree up to a factor. The weighted mean of the cost is this number; the thesis (section 4.1)
    takes its root, whose gradient is infinite at the optimum.

    Where ``fixed`` is 0 there is no ratio. Voxels are therefore weighed by ``fixed^2 / (fixed^2 + eps)`` besides:
    background counts little, and nothing is ever divided by ``fixed``, since the weight times ``R`` is
    ``moved fixed / (fixed^2 + eps)`` and the weight times ``R^2`` is ``moved^2 / (fixed^2 + eps)``. Where moved or
    fixed is 0 throughout the cost is 1, with no gradient.

    Args:
        eps: In squared intensity; intensities well below its root count as background. Intensities should not be
            negative. The default is meant for [0, 1].
        reduction: See :class:`~mmtk.similarity.base.Similarity`.

    Raises:
        ConfigError: If ``eps`` is not positive.
    """

    def __init__(self, *, eps: float = 1e-3, reduction: Reduction = "sum") -> None:
        super().__init__(reduction=reduction)
        if not eps > 0:
            raise ConfigError(f"eps: {eps} must be positive, or background divides by 0")
        self.eps = eps

    def cost(self, moved: Image, fixed: Image, weight: Weight) -> Image:
        share = fixed / (fixed.square() + self.eps)
        presence = weighted_mean(share * fixed, weight)
        ratio = weighted_mean(share * moved, weight) / torch.where(presence > 0, presence, 1)
        tiny = torch.finfo(fixed.dtype).tiny
        defined = ratio.square() * presence > tiny**0.5
        scale = torch.where(defined, ratio.square() * presence, 1)
        variation = (moved - ratio * fixed).square() / (fixed.square() + self.eps)
        return torch.where(defined, variation / scale, 1)
