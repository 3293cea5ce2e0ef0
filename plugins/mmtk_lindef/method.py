"""The linear + deformable CNN as a method; weights of slices register volumes, too, slice by slice."""

from __future__ import annotations

from typing import Any

from mmtk.fields import Grid
from mmtk.learned import LearnedMethod, Model, part
from mmtk.learned.slices import by_slices
from mmtk.method import Pair, Progress, silent
from mmtk.result import Registration
from mmtk_lindef.network import LinearDeformable

__all__ = ["LinearDeformableMethod"]


class LinearDeformableMethod(LearnedMethod):
    """Runs the network of Christodoulidis et al. (2018).

    Weights of 2-D images register a volume slice by slice, along its third axis; nothing moves across slices.
    """

    kind = "linear_deformable_cnn"

    def make(self, grid: Grid, settings: dict[str, Any]) -> Model:
        similarity = part("similarity", settings.pop("similarity"), reduction="none")
        return LinearDeformable(grid, similarity=similarity, **settings)

    def register(self, pair: Pair, progress: Progress = silent) -> Registration:
        if self.weights is None or (self.weights.grid.dim, pair.grid.dim) != (2, 3):
            return super().register(pair, progress)
        register = super().register
        return by_slices(pair, lambda plane: register(plane, progress))
