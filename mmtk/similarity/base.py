"""What every similarity shares: the weight, the two stages, the reduction.

    moved, fixed   (B, C, *space)      intensities, dim 2 or 3; each channel is compared with its twin
    weight         (B, 1, *space)      1: compare, 0: ignore; also (1, ...) for all, (B, C, ...) per channel

A similarity is a cost: the smaller, the better. Its ``sum`` runs over voxels, so that the caller turns it into an
integral by the cell volume, and one weight of the regularizer serves every resolution. That holds for global
metrics, too: their one number per image counts once for every voxel compared.

Comparing has two stages. ``prepare`` is what can be done to one image alone, before it is warped; ``compare``
takes prepared images. An optimizer prepares once per level and compares at every step; calling the module does
both.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from mmtk.errors import ConfigError, GridMismatch
from mmtk.types import Image, Scalar, Weight

__all__ = ["Reduction", "Similarity", "blind", "check_weight", "nonzero", "reduce", "weighted_mean"]

Reduction = Literal["sum", "mean", "none"]


class Similarity(nn.Module, ABC):
    """How ill two images match; the smaller, the better.

    Args:
        reduction: ``sum`` adds the weighted cost of all voxels, channels and batch elements; ``mean`` is the
            weighted mean over voxels and channels, averaged over the batch; ``none`` returns the weighted map.

    Raises:
        ConfigError: If there is no such reduction.
    """

    def __init__(self, *, reduction: Reduction = "sum") -> None:
        super().__init__()
        if reduction not in get_args(Reduction):
            raise ConfigError(f"reduction: '{reduction}' is unknown; use one of {', '.join(get_args(Reduction))}")
        self.reduction: Reduction = reduction

    @abstractmethod
    def cost(self, moved: Image, fixed: Image, weight: Weight) -> Image:
        """Return the voxelwise cost ``(B, C, *space)``; a voxel of ``weight`` 0 must not change the result.

        What lies at such voxels has been set to 0 in both images before. The map is not yet weighted.
        """

    def prepare(
        self,
        image: Image,
        weight: Weight | None = None,
        scale: int | Sequence[int] = 1,
        spacing: Sequence[float] | None = None,
    ) -> Image:
        """Return what is to be warped and compared in the image's place: for most metrics, the image itself.

        It may have other channels than the image, a descriptor of several for each, say.

        Args:
            image: ``(B, C, *space)``.
            weight: As for :meth:`compare`, on the grid of this image.
            scale: Voxels of this image for one of those compared, along each axis: a moving image may be kept
                finer than the grid it is sampled on, and its windows must still be as wide as the fixed image's.
            spacing: mm per voxel of this image, along each axis, for metrics whose windows should be as wide along
                every axis; None: not known, voxels are taken as cubes.
        """
        return image

    def compare(self, moved: Image, fixed: Image, weight: Weight | None = None) -> Scalar | Image:
        """Return the reduced cost of two prepared images.

        Raises:
            GridMismatch: If images or weight do not lie on one grid.
        """
        if moved.shape != fixed.shape:
            raise GridMismatch("moved", tuple(moved.shape), "fixed", tuple(fixed.shape))
        if weight is None:
            weight = torch.ones_like(fixed[:, :1])
        else:
            check_weight(weight, fixed)
            moved, fixed = self.blinded(moved, fixed, weight)
        return reduce(self.cost(moved, fixed, weight), self.at_costs(weight), self.reduction)

    def forward(
        self,
        moved: Image,
        fixed: Image,
        weight: Weight | None = None,
        spacing: Sequence[float] | None = None,
    ) -> Scalar | Image:
        """Prepare both images with the weight and compare them; ``spacing`` as for :meth:`prepare`.

        Raises:
            GridMismatch: If images or weight do not lie on one grid.
        """
        if moved.shape != fixed.shape:
            raise GridMismatch("moved", tuple(moved.shape), "fixed", tuple(fixed.shape))
        if weight is not None:
            check_weight(weight, fixed)
        prepared = [self.prepare(image, weight, spacing=spacing) for image in (moved, fixed)]
        return self.compare(prepared[0], prepared[1], weight)

    def blinded(self, moved: Image, fixed: Image, weight: Weight) -> tuple[Image, Image]:
        """Return the images without what lies at voxels of weight 0."""
        return blind(moved, weight), blind(fixed, weight)

    def at_costs(self, weight: Weight) -> Weight:
        """Return the weight where ``cost`` has its values: everywhere, unless the metric skips voxels."""
        return weight


def blind(image: Image, weight: Weight) -> Image:
    """Set to 0 what lies at voxels of weight 0: 0 times a huge number, an infinity or a NaN would not be 0."""
    return torch.where(weight > 0, image, 0)


def reduce(cost: Image, weight: Weight, reduction: Reduction) -> Scalar | Image:
    """Weigh a map of costs and reduce it; with no weight at all, the mean is 0.

    Args:
        cost: ``(B, C, *space)``.
        weight: Of a shape that expands to it.
        reduction: See :class:`Similarity`. A mean is taken in each batch element first, so that the elements do
            not see one another's weights.
    """
    weighted = cost * weight
    if reduction == "none":
        return weighted
    if reduction == "sum":
        return weighted.sum()
    total = weight.expand_as(cost).flatten(1).sum(1)
    return (weighted.flatten(1).sum(1) / nonzero(total)).mean()


def weighted_mean(image: Image, weight: Weight) -> Tensor:
    """Return the mean of each channel ``(B, C, 1, ..)``; 0 where nothing has weight."""
    space = tuple(range(2, image.ndim))
    return (image * weight).sum(space, keepdim=True) / nonzero(weight.sum(space, keepdim=True))


def nonzero(total: Tensor) -> Tensor:
    """Return a sum of weights to divide by: 1 where it is 0 and the numerator is, too, or as good as that.

    A smoothed mask has weights so small that one over them is infinite.
    """
    return torch.where(total > torch.finfo(total.dtype).tiny ** 0.5, total, 1)


def check_weight(weight: Weight, image: Image, name: str = "fixed") -> None:
    """Refuse a weight that is not on the grid of the image.

    Raises:
        GridMismatch: If its shape does not expand to the image's.
    """
    fits = weight.ndim == image.ndim and weight.shape[2:] == image.shape[2:]
    if not fits or any(n not in (1, m) for n, m in zip(weight.shape[:2], image.shape[:2], strict=True)):
        raise GridMismatch("weight", tuple(weight.shape), name, tuple(image.shape))
