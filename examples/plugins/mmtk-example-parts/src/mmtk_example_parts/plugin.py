"""What this package offers to mmtk: names, settings, a line each. It loads no torch, so that listings stay fast."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from mmtk import ComponentConfig, hookimpl
from mmtk.config import Capabilities, SimilarityPart
from pydantic import Field

#: The version of mmtk's hooks that this was written for.
requires_api = "1"


class MindSSCConfig(ComponentConfig):
    """Self-similarity context (MIND-SSC): for images of different modalities or sequences."""

    target = "mmtk_example_parts.mind:MindSSC"
    kind: Literal["mind_ssc"] = "mind_ssc"
    limits = {"memory": 120}  # 12 channels of two images, and their difference
    step: int = Field(
        default=2,
        ge=1,
        description="distance of the neighbors; in mm as far along coarser axes",
        json_schema_extra={"unit": "voxels"},
    )
    radius: int = Field(
        default=1,
        ge=0,
        description="half width of the patches, likewise; 0: single voxels",
        json_schema_extra={"unit": "voxels"},
    )
    eps: float = Field(
        default=1e-4,
        gt=0,
        description="added to a squared difference; contrast far below its root is ignored",
        json_schema_extra={"unit": "intensity^2"},
    )


class RK4Config(ComponentConfig):
    """Runge-Kutta step of fourth order on the grid: stable where `eulerian` is not."""

    target = "mmtk_example_parts.rk4:RK4"
    kind: Literal["rk4"] = "rk4"
    mode: Literal["linear", "cubic"] = Field(default="linear", description="interpolation of the maps")


class IncompressibleConfig(ComponentConfig):
    """Squared logarithm of the volume change within the lesion: it stays as large as it is."""

    target = "mmtk_example_parts.incompressible:Incompressible"
    kind: Literal["incompressible"] = "incompressible"
    weight: float = Field(default=1.0, ge=0, description="weight of the term; integrals are in mm")
    least: float = Field(
        default=0.1, gt=0, lt=1, description="volume change below which the price goes on as a line"
    )


class ConvexAdamConfig(ComponentConfig):
    """Discrete search, then Adam, on self-similarity descriptors (ConvexAdam), as a flow without folds."""

    target = "mmtk_example_parts.convexadam:ConvexAdam"
    capabilities = Capabilities(diffeomorphic=True)

    kind: Literal["convexadam"] = "convexadam"
    similarity: SimilarityPart = Field(
        default_factory=MindSSCConfig, description="how images are compared, voxel by voxel"
    )
    search: float = Field(
        default=12.0,
        ge=0,
        description="displacements of up to so much along each axis are tried first; 0: none",
        json_schema_extra={"unit": "mm"},
    )
    grid: float = Field(
        default=6.0,
        gt=0,
        description="distance of the places of the search, and of the displacements that are tried",
        json_schema_extra={"unit": "mm"},
    )
    resolution: float = Field(
        default=2.0, gt=0, description="sample distance of the descriptors", json_schema_extra={"unit": "mm"}
    )
    sigma: float = Field(
        default=8.0,
        gt=0,
        description="width of the Gaussian that makes the velocity smooth; 6 for two people, 11 for one person twice",
        json_schema_extra={"unit": "mm"},
    )
    lam: float = Field(
        default=0.1, gt=0, alias="lambda", description="weight of the squared slopes; the larger, the stiffer"
    )
    iterations: int = Field(default=80, ge=0, description="steps of Adam")
    learning_rate: float = Field(
        default=0.25, gt=0, description="length of the first step of Adam", json_schema_extra={"unit": "mm"}
    )


@hookimpl
def mmtk_similarities() -> list[type[ComponentConfig]]:
    return [MindSSCConfig]


@hookimpl
def mmtk_integrators() -> list[type[ComponentConfig]]:
    return [RK4Config]


@hookimpl
def mmtk_regularizers() -> list[type[ComponentConfig]]:
    return [IncompressibleConfig]


@hookimpl
def mmtk_methods() -> list[type[ComponentConfig]]:
    return [ConvexAdamConfig]


@hookimpl
def mmtk_bundles() -> list[Path]:
    return [Path(__file__).parent / "bundles" / "convexadam"]
