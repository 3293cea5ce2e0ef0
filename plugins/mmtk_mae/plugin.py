"""The metamorphic auto-encoder: its settings, and the bundle that holds its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from mmtk.bundle import shipped_bundle
from mmtk.config import Capabilities, ComponentConfig, LearnedConfig
from mmtk.plugins import hookimpl

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class MetamorphicAutoencoderConfig(LearnedConfig):
    """Metamorphic auto-encoder: every image is a template, its shape and its appearance two short vectors."""

    target = "mmtk_mae.method:MetamorphicAutoencoderMethod"
    capabilities = Capabilities(learned=True)

    kind: Literal["metamorphic_autoencoder"] = "metamorphic_autoencoder"
    shape_latent: Count = Field(
        default=128,
        description="length of the shape's vector; published: 10, too short for shapes as free as letters",
    )
    appearance_latent: Count = Field(default=32, description="length of the appearance's vector; published: 5")
    shape_scale: Positive = Field(
        default=269.0,
        description="lambda_s: size that the shape's vector is expected to have; the larger, the freer",
    )
    appearance_scale: Positive = Field(
        default=10.0, description="lambda_a: the same of the appearance, which may change everywhere"
    )
    shape_sigma: Positive = Field(
        default=6.0, description="width of the shape's kernel", json_schema_extra={"unit": "mm"}
    )
    appearance_sigma: Positive = Field(
        default=3.0, description="width of the appearance's kernel", json_schema_extra={"unit": "mm"}
    )
    noise: Positive = Field(default=0.1, description="standard deviation of what neither explains, in intensity")
    widths: tuple[Count, ...] = Field(
        default=(8, 16, 32, 32), min_length=2, description="channels of the encoder's levels, finest first"
    )
    squarings: int = Field(default=5, ge=0, le=12, description="the flow is composed from 2^squarings steps")


@hookimpl
def mmtk_methods() -> list[type[ComponentConfig]]:
    return [MetamorphicAutoencoderConfig]


@hookimpl
def mmtk_bundles() -> list[Path]:
    return [shipped_bundle("metamorphic_autoencoder")]
