"""The deep image prior of deformations: its settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from mmtk.bundle import shipped_bundle
from mmtk.config import ComponentConfig, SimilarityPart
from mmtk.plugins import hookimpl

Count = Annotated[int, Field(ge=1)]


class AbsoluteDifferenceConfig(ComponentConfig):
    """Mean absolute error: outliers weigh less than with squares."""

    target = "mmtk_dip.absolute:AbsoluteDifference"

    kind: Literal["mae"] = "mae"


class StructuralSimilarityConfig(ComponentConfig):
    """Structural similarity of the moved and the fixed image, and the mean Jacobian determinant of the map."""

    target = "mmtk_dip.ssim:StructuralSimilarity"

    kind: Literal["ssim"] = "ssim"
    sigma: float = Field(
        default=1.5, gt=0, description="width of the Gaussian window", json_schema_extra={"unit": "voxels"}
    )


class DeepImagePriorConfig(ComponentConfig):
    """Deep image prior: the weights of an untrained network are the unknowns, its structure is the regularizer."""

    target = "mmtk_dip.method:DeepImagePrior"
    # A generator's maps and all their gradients, for every pair: it cannot be done in few images. Where nothing in the
    # images says otherwise, the map is what the network's first weights make of it, and these do not turn with the scan.
    limits = {"memory": 2500, "agreement": 0.5}

    kind: Literal["deep_image_prior"] = "deep_image_prior"
    similarity: SimilarityPart = Field(default=AbsoluteDifferenceConfig(), description="what is minimized")
    iterations: Count = Field(default=150, description="steps of Adam at most")
    learning_rate: float = Field(default=3e-3, gt=0, description="of Adam")
    tolerance: float = Field(
        default=0.02,
        ge=0,
        lt=1,
        description="it ends where 20 steps lowered the cost by less than this share of the first one; 0: never",
    )
    diffeomorphic: bool = Field(
        default=False,
        description="the network answers a velocity, whose exponential is the map; off: the displacement, as published",
    )
    squarings: int = Field(
        default=6, ge=1, le=12, description="the exponential is composed from 2^squarings steps at least"
    )
    masked: bool = Field(
        default=False, description="leave the lesion out of the comparison (cost-function masking)"
    )
    widths: tuple[Count, ...] = Field(
        default=(8, 16, 16, 16, 16),
        min_length=1,
        description="maps of the generator's levels, finest first; each halves the size, until 8 voxels are left",
    )
    skip: Count = Field(default=4, description="maps that go from each level's way down to its way up")
    inputs: Count = Field(default=8, description="channels of the noise that goes in")
    noise: float = Field(default=0.1, gt=0, description="standard deviation of that noise, z")
    spread: float = Field(default=0.01, gt=0, description="standard deviation of the first weights, theta")
    redraw: bool = Field(
        default=True, description="draw the noise anew for every step, as published; off: one for all"
    )
    seed: int = Field(default=0, ge=0, description="of weights and noise")


@hookimpl
def mmtk_similarities() -> list[type[ComponentConfig]]:
    return [AbsoluteDifferenceConfig]


@hookimpl
def mmtk_metrics() -> list[type[ComponentConfig]]:
    return [StructuralSimilarityConfig]


@hookimpl
def mmtk_methods() -> list[type[ComponentConfig]]:
    return [DeepImagePriorConfig]


@hookimpl
def mmtk_bundles() -> list[Path]:
    return [shipped_bundle("deep_image_prior")]
