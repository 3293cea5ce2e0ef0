"""The price of what the lesion covers: the one term that says what it did to its neighborhood.

A mask that moves with the image hides tissue, and nothing in the data term asks it to shrink or to grow. A tumor
grew and pushed its surroundings away, so on its way back it should shrink; after a resection tissue collapsed into the
cavity. The price is linear in the covered volume, free of contrast, and 0 where nothing is known.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mmtk.fields import Grid
from mmtk.similarity import ChannelSimilarity, Similarity, SquaredDifference
from mmtk.similarity.windows import box_sum, per_axis
from mmtk_metamorphosis.settings import Settings

__all__ = ["LARGEST_GROWTH", "LESION_PRICE", "lesion_price"]

#: In the cost of a mismatch of one local standard deviation, for each voxel that the lesion covers.
LESION_PRICE = {"unknown": 0.0, "replaced": 0.0, "grew": 0.12, "collapsed": -0.5}

#: A negative price rewards a growing mask and would have no bound; beyond so many times its first volume it saturates.
LARGEST_GROWTH = 4.0


def lesion_price(
    settings: Settings, fixed: Tensor, weight: Tensor, grid: Grid, mask: Tensor | None
) -> Callable[[Tensor], Tensor | float]:
    """Return the price as a function of the warped mask ``(1, 1 or C, *space)`` of ``grid``.

    Where channels have masks of their own, the lesion is where any of them has one.

    Args:
        settings: For the lesion's history and the similarity.
        fixed, weight: The prepared fixed image and its weight.
        grid: Of the comparison.
        mask: The lesion before it moves, on a grid of the same density; for its first volume.
    """
    price = LESION_PRICE[settings.lesion] * _unit(settings.similarity, fixed, weight) * grid.cell_volume
    if mask is None or price == 0:
        return lambda warped: 0.0
    if price > 0:
        return lambda warped: price * _covered(warped)
    most = LARGEST_GROWTH * float(_covered(mask).clamp_min(1))
    return lambda warped: price * most * (1 - torch.exp(-_covered(warped) / most))


def _covered(mask: Tensor) -> Tensor:
    return mask.sum() if mask.shape[1] == 1 else mask.amax(1).sum()


def _unit(similarity: Similarity, fixed: Tensor, weight: Tensor) -> float:
    """Return the cost of a mismatch of one local standard deviation at one voxel, about; of all channels together."""
    if isinstance(similarity, ChannelSimilarity):
        weights = weight.expand(-1, len(similarity.weights), *weight.shape[2:]).split(1, 1)
        shares = zip(similarity.weights, similarity.parts, fixed.split(similarity.made, 1), weights, strict=True)
        total = 0.0
        for share, part, channel, seen in shares:
            assert isinstance(part, Similarity)
            total += share * _unit(part, channel, seen)
        return total
    if type(similarity) is not SquaredDifference:
        return 1.0
    radius = per_axis(2, fixed.ndim - 2)
    count = box_sum(weight, radius) + 1e-6
    mean = box_sum(fixed * weight, radius) / count
    variance = (box_sum(fixed.square() * weight, radius) / count - mean.square()).clamp_min(0)
    textured = weight * (variance > 1e-3)
    return float((variance * textured).sum() / textured.sum().clamp_min(1))
