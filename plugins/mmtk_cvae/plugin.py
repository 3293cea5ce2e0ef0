"""The diffeomorphic CVAE: its settings and its command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from mmtk.bundle import shipped_bundle
from mmtk.config import Capabilities, ComponentConfig, LearnedConfig
from mmtk.plugins import Command, hookimpl

Count = Annotated[int, Field(ge=1)]
Squarings = Annotated[int, Field(ge=1, le=12)]


class CVAEConfig(LearnedConfig):
    """Diffeomorphic CVAE: a pair becomes a short code, the code a stationary velocity on the moving image."""

    target = "mmtk_cvae.method:CVAEMethod"
    capabilities = Capabilities(learned=True)

    kind: Literal["cvae"] = "cvae"
    latent: Count = Field(default=144, description="length of the code, d")
    lam: float = Field(
        default=82.0,
        gt=0,
        alias="lambda",
        description="weight of the similarity against the code's price; published: 82 (hearts), 55 (brains)",
    )
    sigma: float = Field(
        default=2.0, gt=0, description="width of the correlation's Gaussian window, in voxels of the weights' grid"
    )
    window: int = Field(default=9, ge=3, description="its support, an odd number of voxels")
    eps: float = Field(
        default=1e-5, gt=0, description="added to the correlation's denominator, in intensity to the fourth"
    )
    centered: bool = Field(
        default=False,
        description="correlate what differs from the local means; off, as printed: the intensities themselves",
    )
    smoothing: float = Field(
        default=0.0,
        ge=0,
        description="width of a Gaussian on the velocity; published: none",
        json_schema_extra={"unit": "mm"},
    )
    masked: bool = Field(
        default=False,
        description="leave the lesion out of the cost and of what the network sees (cost-function masking)",
    )
    channels: int = Field(
        default=1,
        ge=1,
        description="channels of each image that weights are trained for; optimize: as the images have",
    )
    widths: tuple[Count, ...] = Field(
        default=(16, 32, 32, 16), min_length=2, description="channels of the encoder's convolutions, finest first"
    )
    squarings: Squarings | Literal["auto"] = Field(
        default=4,
        description="N: the map is composed from 2^N steps; auto: as many as no step of the field needs to fold",
    )

    @field_validator("window")
    @classmethod
    def _odd(cls, window: int) -> int:
        if window % 2 == 0:
            raise ValueError(f"{window} is even, a window has a center; give {window - 1} or {window + 1}")
        return window


@hookimpl
def mmtk_methods() -> list[type[ComponentConfig]]:
    return [CVAEConfig]


@hookimpl
def mmtk_bundles() -> list[Path]:
    return [shipped_bundle("cvae_diffeomorphic")]


@hookimpl
def mmtk_commands() -> list[Command]:
    return [
        Command(
            "cvae",
            "deformations drawn, carried to another subject, and sorted, by their codes",
            "mmtk_cvae.cli:app",
        )
    ]
