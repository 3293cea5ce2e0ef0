"""MetaMorph-R and MetaMorph-G as methods."""

from __future__ import annotations

from typing import Any

from mmtk.fields import Grid
from mmtk.learned import LearnedMethod, Model, part
from mmtk_metamorph.networks import MetaMorphG, MetaMorphR

__all__ = ["MetaMorphGMethod", "MetaMorphRMethod"]


class MetaMorphRMethod(LearnedMethod):
    """Runs MetaMorph-R (ISBI 2022; thesis 5.2.2)."""

    kind = "metamorph_r"

    def make(self, grid: Grid, settings: dict[str, Any]) -> Model:
        similarity = part("similarity", settings.pop("similarity"), reduction="none")
        return MetaMorphR(grid, similarity=similarity, **settings)


class MetaMorphGMethod(LearnedMethod):
    """Runs MetaMorph-G (thesis 5.2.1)."""

    kind = "metamorph_g"

    def make(self, grid: Grid, settings: dict[str, Any]) -> Model:
        similarity = part("similarity", settings.pop("similarity"), reduction="none")
        integrator = part("integrator", settings.pop("integrator"))
        return MetaMorphG(grid, similarity=similarity, integrator=integrator, **settings)
