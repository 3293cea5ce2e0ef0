"""The linear + deformable CNN as a method."""

from __future__ import annotations

from typing import Any

from mmtk.fields import Grid
from mmtk.learned import LearnedMethod, Model, part
from mmtk_lindef.network import LinearDeformable

__all__ = ["LinearDeformableMethod"]


class LinearDeformableMethod(LearnedMethod):
    """Runs the network of Christodoulidis et al. (2018)."""

    kind = "linear_deformable_cnn"

    def make(self, grid: Grid, settings: dict[str, Any]) -> Model:
        similarity = part("similarity", settings.pop("similarity"), reduction="none")
        return LinearDeformable(grid, similarity=similarity, **settings)
