"""VoxelMorph as a method."""

from __future__ import annotations

from typing import Any

from mmtk.fields import Grid
from mmtk.learned import LearnedMethod, Model, part
from mmtk_voxelmorph.network import VoxelMorph

__all__ = ["VoxelMorphMethod"]


class VoxelMorphMethod(LearnedMethod):
    """Runs VoxelMorph (Balakrishnan et al., IEEE TMI 2019; masked: thesis 5.3.3)."""

    kind = "voxelmorph"

    def make(self, grid: Grid, settings: dict[str, Any]) -> Model:
        similarity = part("similarity", settings.pop("similarity"), reduction="none")
        return VoxelMorph(grid, similarity=similarity, **settings)
