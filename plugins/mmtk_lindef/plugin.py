"""Linear + deformable CNN: its settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from mmtk.bundle import shipped_bundle
from mmtk.config import Capabilities, ComponentConfig, LearnedConfig, SimilarityPart
from mmtk.plugins import hookimpl
from mmtk_core.plugin import SquaredDifferenceConfig

Count = Annotated[int, Field(ge=1)]


class LinearDeformableConfig(LearnedConfig):
    """Linear + deformable CNN: one pass gives an affine matrix and a map whose coordinates grow along their axes."""

    target = "mmtk_lindef.method:LinearDeformableMethod"
    capabilities = Capabilities(learned=True)

    kind: Literal["linear_deformable_cnn"] = "linear_deformable_cnn"
    alpha: float = Field(
        default=1e-6, ge=0, description="weight of |A - identity|, the sum over the matrix (eq. 4)"
    )
    beta: float = Field(
        default=1e-6, ge=0, description="weight of |slopes - 1|, the sum over voxels and axes (eq. 4)"
    )
    linear: bool = Field(
        default=True, description="predict the affine matrix, too; off: the deformable part alone"
    )
    masked: bool = Field(
        default=False,
        description="leave the lesion out of the cost and of what the network sees (cost-function masking)",
    )
    similarity: SimilarityPart = Field(default=SquaredDifferenceConfig(), description="data term of the energy")
    widths: tuple[Count, ...] = Field(
        default=(32, 64, 64, 64, 64),
        min_length=1,
        description="maps of the encoder's layers; with the two images they add up to the published 290",
    )
    dilations: tuple[Count, ...] = Field(
        default=(1, 1, 2, 3, 5), min_length=1, description="of the same layers; these see the published 25 voxels"
    )
    decoder: tuple[Count, ...] = Field(
        default=(64, 32), min_length=1, description="maps of the layers before the slopes"
    )
    squeeze: Count = Field(
        default=16, description="the squeeze-excitation has so many times fewer units than maps"
    )
    reduce: Count = Field(
        default=1,
        description="the network sees so many voxels along an axis as one; its slopes are interpolated back",
    )

    @model_validator(mode="after")
    def _one_dilation_each(self) -> Self:
        if len(self.widths) != len(self.dilations):
            raise ValueError(
                f"widths and dilations must be equally long: {len(self.widths)} against {len(self.dilations)}"
            )
        return self


@hookimpl
def mmtk_methods() -> list[type[ComponentConfig]]:
    return [LinearDeformableConfig]


@hookimpl
def mmtk_bundles() -> list[Path]:
    return [shipped_bundle("linear_deformable_cnn")]
