"""The metamorphic auto-encoder as a method."""

from __future__ import annotations

from typing import Any

from mmtk.fields import Grid
from mmtk.learned import LearnedMethod, Model
from mmtk_mae.network import MetamorphicAutoencoder

__all__ = ["MetamorphicAutoencoderMethod"]


class MetamorphicAutoencoderMethod(LearnedMethod):
    """Runs the metamorphic auto-encoder (Bone et al., MICCAI 2020)."""

    kind = "metamorphic_autoencoder"

    def make(self, grid: Grid, settings: dict[str, Any]) -> Model:
        settings.pop("half", None)  # its convolutions are few
        return MetamorphicAutoencoder(grid, **settings)
