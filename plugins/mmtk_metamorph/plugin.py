"""MetaMorph-R and MetaMorph-G: their settings and the bundles that hold their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from mmtk.bundle import shipped_bundle
from mmtk.config import Capabilities, ComponentConfig, IntegratorPart, LearnedConfig, SimilarityPart
from mmtk.plugins import hookimpl
from mmtk_core.plugin import LagrangianConfig, SquaredDifferenceConfig

Positive = Annotated[float, Field(gt=0)]


class _MetaMorphConfig(LearnedConfig):
    """What both share: the energy (thesis eq. 5.4, 5.7, 5.11)."""

    sigma: tuple[Positive, ...] = Field(
        default=(6.0,),
        min_length=1,
        description="width of the kernel in mm; several: a sum, each a tenth of the last",
    )
    lam: float = Field(
        default=3e-6, gt=0, alias="lambda", description="weight of shape and appearance in the energy"
    )
    mu: float = Field(default=0.05, ge=0, description="weight of the intensity change; 0: motion only")
    momentum: Literal["coupled", "split"] = Field(
        default="coupled",
        description="coupled: one momentum drives the shape and fills the lesion, as published; split: two of them",
    )
    masked: bool = Field(
        default=False,
        description="leave the lesion out of the cost and of what the network sees (cost-function masking); nothing is "
        "painted",
    )
    steps: int = Field(default=15, ge=2, description="time steps T")
    inverse_weight: float = Field(
        default=0.0, ge=0, description="weight of the inverse-consistency term (thesis 5.2.1); 0: without"
    )
    similarity: SimilarityPart = Field(default=SquaredDifferenceConfig(), description="data term of the energy")
    channels: int = Field(
        default=1,
        ge=1,
        description="channels of each image that weights are trained for; optimize: as the images have",
    )
    scale: float = Field(default=100.0, gt=0, description="size of momenta as the network sees them")


class MetaMorphRConfig(_MetaMorphConfig):
    """MetaMorph-R: a residual network learns how the momentum changes; for one template."""

    target = "mmtk_metamorph.method:MetaMorphRMethod"
    capabilities = Capabilities(learned=True)

    kind: Literal["metamorph_r"] = "metamorph_r"
    carrier: Literal["lagrangian", "semi_lagrangian", "sharp", "eulerian"] = Field(
        default="lagrangian", description="how images are resampled along the path"
    )
    hidden: int = Field(
        default=32,
        ge=1,
        description="channels within a block; 60 makes the thesis's 1.5 million parameters in 3-D",
    )


class MetaMorphGConfig(_MetaMorphConfig):
    """MetaMorph-G: a U-Net predicts the initial momentum, the equations do the rest."""

    target = "mmtk_metamorph.method:MetaMorphGMethod"
    capabilities = Capabilities(learned=True)

    kind: Literal["metamorph_g"] = "metamorph_g"
    integrator: IntegratorPart = Field(default=LagrangianConfig(), description="scheme of the shooting")
    widths: tuple[int, ...] = Field(
        default=(16, 32, 32, 32), min_length=1, description="channels of the U-Net's levels, finest first"
    )


@hookimpl
def mmtk_methods() -> list[type[ComponentConfig]]:
    return [MetaMorphRConfig, MetaMorphGConfig]


@hookimpl
def mmtk_bundles() -> list[Path]:
    return [shipped_bundle(name) for name in ("metamorph_r", "metamorph_g")]
