"""Squared differences, of the images as they are or after each was normalized in its own neighborhood."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mmtk.errors import ConfigError
from mmtk.similarity.base import Reduction, Similarity, blind, check_weight, nonzero
from mmtk.similarity.windows import box_sum, per_axis
from mmtk.types import Image, Weight

__all__ = ["LocalSquaredDifference", "SquaredDifference", "normalize_locally"]


class SquaredDifference(Similarity):
    """Half the squared difference, ``1/2 (moved - fixed)^2`` at each voxel.

    Its sum times the cell volume is the data term ``1/2 ||I o phi^-1 - J||^2`` of the energy (thesis eq. 5.4).
    """

    def cost(self, moved: Image, fixed: Image, weight: Weight) -> Image:
        return 0.5 * (moved - fixed).square()

    def blinded(self, moved: Image, fixed: Image, weight: Weight) -> tuple[Image, Image]:
        # A difference of 0 does as well, and costs no pass over the moved image, nor over its gradient.
        return moved, torch.where(weight > 0, fixed, moved.detach())


class LocalSquaredDifference(SquaredDifference):
    """Half the squared difference of locally normalized images.

    Each image is brought to mean 0 and variance 1 in a window around every voxel, weighted, so that neither a
    bias field nor another contrast between smooth regions costs anything. The windows look at one image alone:
    this can be done once, before warping (``prepare``), and the loop sees plain squares (``compare``). Where both
    images correlate by ``cc`` in a window the cost there is about ``1 - cc``.

    Two flat images match: their cost is 0.

    Args:
        radius: Voxels from the center of a window to its side, one number or one for each axis.
        eps: Added to the variance, in squared intensity: contrast far below its root counts as flat. The default
            is meant for intensities in [0, 1].
        reduction: See :class:`~mmtk.similarity.base.Similarity`.

    Raises:
        ConfigError: If the radius is below 1 or ``eps`` is not positive.
    """

    def __init__(
        self, *, radius: int | Sequence[int] = 2, eps: float = 1e-3, reduction: Reduction = "sum"
    ) -> None:
        super().__init__(reduction=reduction)
        check_window(radius, eps)
        self.radius, self.eps = radius, eps

    def prepare(
        self,
        image: Image,
        weight: Weight | None = None,
        scale: int | Sequence[int] = 1,
        spacing: Sequence[float] | None = None,
    ) -> Image:
        dim = image.ndim - 2
        radius = [r * k for r, k in zip(per_axis(self.radius, dim), per_axis(scale, dim), strict=True)]
        return normalize_locally(image, weight, radius, self.eps)


def normalize_locally(
    image: Image, weight: Weight | None = None, radius: int | Sequence[int] = 2, eps: float = 1e-3
) -> Image:
    """Return ``(image - mean) / sqrt(variance + eps)`` with the mean and variance of a window at each voxel.

    Args:
        image: ``(B, C, *space)``.
        weight: Of each voxel in the windows that hold it. Where it is 0 the result is 0, the value of a voxel like
            its surroundings, so that warping carries nothing from there.
        radius: Voxels, one number or one for each axis.
        eps: In squared intensity.

    Returns:
        ``(B, C, *space)``, without unit.

    Raises:
        GridMismatch: If the weight does not lie on the image's grid.
    """
    radius = per_axis(radius, image.ndim - 2)
    given = weight is not None
    if weight is None:
        weight = torch.ones_like(image[:, :1])
    else:
        check_weight(weight, image, "image")
        image = blind(image, weight)
    inverse = 1 / nonzero(box_sum(weight, radius))
    weighted = image * weight
    mean = box_sum(weighted, radius) * inverse
    variance = (box_sum(weighted * image, radius) * inverse - mean.square()).clamp_min(0)
    normal = (image - mean) / (variance + eps).sqrt()
    return blind(normal, weight) if given else normal


def check_window(radius: int | Sequence[int], eps: float) -> None:
    """Refuse windows of one voxel and a variance that may be 0.

    Raises:
        ConfigError: If a radius is negative or all are 0, or ``eps`` is not positive.
    """
    radii = (radius,) if isinstance(radius, int) else tuple(radius)
    problems = []
    if min(radii) < 0 or max(radii) < 1:
        problems.append(f"radius: {radius} leaves no neighbor in the window; use 1 or more voxels")
    if not eps > 0:
        problems.append(f"eps: {eps} must be positive, or flat regions divide by 0")
    if problems:
        raise ConfigError(problems)
