"""Absolute differences."""

from __future__ import annotations

from mmtk.similarity import Similarity
from mmtk.types import Image, Weight

__all__ = ["AbsoluteDifference"]


class AbsoluteDifference(Similarity):
    """``|moved - fixed|`` at each voxel; where both are equal its gradient is 0."""

    def cost(self, moved: Image, fixed: Image, weight: Weight) -> Image:
        return (moved - fixed).abs()
