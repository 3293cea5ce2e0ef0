"""VoxelMorph: its settings."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from mmtk.bundle import shipped_bundle
from mmtk.config import Capabilities, ComponentConfig, LearnedConfig, SimilarityPart
from mmtk.plugins import hookimpl
from mmtk_core.plugin import SquaredDifferenceConfig


class VoxelMorphConfig(LearnedConfig):
    """VoxelMorph: a U-Net predicts a stationary velocity; shape alone."""

    target = "mmtk_voxelmorph.method:VoxelMorphMethod"
    capabilities = Capabilities(learned=True)

    kind: Literal["voxelmorph"] = "voxelmorph"
    lam: float = Field(default=0.1, gt=0, alias="lambda", description="weight of the velocity's smoothness")
    masked: bool = Field(
        default=False,
        description="leave the lesion out of the cost and of what the network sees (cost-function masking)",
    )
    similarity: SimilarityPart = Field(default=SquaredDifferenceConfig(), description="data term of the energy")
    channels: int = Field(
        default=1,
        ge=1,
        description="channels of each image that weights are trained for; optimize: as the images have",
    )
    widths: tuple[int, ...] = Field(
        default=(16, 32, 32, 32), min_length=1, description="channels of the U-Net's levels, finest first"
    )
    squarings: int = Field(
        default=7, ge=0, le=12, description="the map is composed from 2^squarings steps; 0: the answer is the map"
    )


@hookimpl
def mmtk_methods() -> list[type[ComponentConfig]]:
    return [VoxelMorphConfig]


@hookimpl
def mmtk_bundles() -> list[Path]:
    return [shipped_bundle(name) for name in ("voxelmorph", "voxelmorph_cfm")]
