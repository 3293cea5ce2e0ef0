"""Metamorphosis and LDDMM: their settings and the bundles that hold them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from mmtk.bundle import shipped_bundle
from mmtk.config import Capabilities, ComponentConfig, IntegratorPart, RegularizerPart, SimilarityPart
from mmtk.plugins import hookimpl
from mmtk_core.plugin import LagrangianConfig, LocalSquaredDifferenceConfig

Positive = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]

#: For ``json_schema_extra``: listings show the unit in a column of its own.
MM: dict[str, Any] = {"unit": "mm"}


class _ShapeConfig(ComponentConfig):
    """What metamorphosis and LDDMM share: kernel, time, pyramid and the parts of the energy."""

    capabilities = Capabilities(diffeomorphic=True)

    lam: float | None = Field(
        default=None,
        gt=0,
        alias="lambda",
        description="weight of the shape's energy at every resolution, the larger the stiffer; "
        "none: what suits kernel and similarity",
    )
    subject: Literal["another", "same"] = Field(
        default="another",
        description="whose images these are, which sets the kernel; another: two people, or one and a template; "
        "same: one person before and after",
    )
    kernel: Literal["gaussian", "sobolev"] | None = Field(
        default=None, description="kernel that makes velocities smooth; none: as `subject` says"
    )
    sigma: tuple[Positive, ...] | None = Field(
        default=None,
        min_length=1,
        description="width of the kernel; several: a sum of kernels; none: as `subject` says",
        json_schema_extra=MM,
    )
    sigma_weights: tuple[Weight, ...] | None = Field(
        default=None, min_length=1, description="share of each width in the sum; none: each a tenth of the last"
    )
    order: float = Field(default=2.0, gt=0, description="order of the sobolev kernel; the higher, the smoother")
    stride: float | None = Field(
        default=None,
        gt=0,
        description="node distance of the control lattice; none: half the kernel's finest width",
        json_schema_extra=MM,
    )
    velocities: int = Field(default=1, ge=1, description="velocities along the path; 1: stationary")
    steps: int = Field(default=15, ge=1, description="time steps over [0, 1]")
    squarings: int = Field(
        default=3,
        ge=0,
        le=12,
        description="a flow is composed from 2^squarings steps at least; a steep one takes more by itself",
    )
    levels: tuple[Positive, ...] = Field(
        default=(8.0, 4.0, 2.0),
        min_length=1,
        description="sample distance of each level, coarse to fine",
        json_schema_extra=MM,
    )
    iterations: tuple[Count, ...] = Field(
        default=(12, 12, 10), min_length=1, description="iterations on each level"
    )
    similarity: SimilarityPart = Field(
        default_factory=LocalSquaredDifferenceConfig, description="how images are compared"
    )
    channel_similarity: tuple[SimilarityPart, ...] = Field(
        default=(), description="how each channel is compared, in place of `similarity`; for images of several"
    )
    channel_weights: tuple[Weight, ...] | None = Field(
        default=None,
        min_length=1,
        description="how much each channel counts, for images of several; 0: as if it were not there; none: 1 in all",
    )
    integrator: IntegratorPart = Field(
        default_factory=LagrangianConfig, description="how momentum and image are carried through time"
    )
    regularizers: tuple[RegularizerPart, ...] = Field(default=(), description="further terms of the energy")
    optimizer: Literal["lbfgs", "adam"] = Field(default="lbfgs", description="what descends")
    learning_rate: float | None = Field(
        default=None, gt=0, description="step of adam; none: the method's own choice"
    )
    tolerance: float = Field(
        default=0.0, ge=0, description="stop a level once the energy falls by less than this share; 0: never"
    )
    checkpoint: bool = Field(default=True, description="recompute time steps instead of storing them")

    @model_validator(mode="after")
    def _fields_fit_one_another(self) -> Self:
        problems = [
            *_unequal("levels", self.levels, "iterations", self.iterations),
        ]
        if self.sigma is not None and self.sigma_weights is not None:
            problems += _unequal("sigma", self.sigma, "sigma_weights", self.sigma_weights)
        if self.channel_similarity and self.channel_weights is not None:
            problems += _unequal(
                "channel_similarity", self.channel_similarity, "channel_weights", self.channel_weights
            )
        if self.channel_weights is not None and not any(self.channel_weights):
            problems.append(f"channel_weights={_text(self.channel_weights)}: at least one must be > 0")
        if self.sigma is None and self.sigma_weights is not None:
            problems.append(f"sigma_weights={_text(self.sigma_weights)}: weights of what? Give sigma, too")
        if list(self.levels) != sorted(self.levels, reverse=True):
            problems.append(f"levels={_text(self.levels)}: must run from coarse to fine, such as 8,4,2")
        if self.sigma_weights is not None and not any(self.sigma_weights):
            problems.append(f"sigma_weights={_text(self.sigma_weights)}: at least one must be > 0")
        if problems:
            raise ValueError("\n".join(problems))
        return self


class MetamorphosisConfig(_ShapeConfig):
    """Shape and appearance together: a diffeomorphism, and an intensity change within the lesion."""

    target = "mmtk_metamorphosis.method:Metamorphosis"

    kind: Literal["metamorphosis"] = "metamorphosis"
    momentum: Literal["split", "coupled"] = Field(
        default="split",
        description="split: shape and residual are unknowns of their own; coupled: one momentum, as published",
    )
    shape: Literal["white", "momentum"] = Field(
        default="white", description="unknowns of the shape: white velocity coefficients, or a scalar momentum"
    )
    lesion: Literal["unknown", "replaced", "grew", "collapsed"] = Field(
        default="unknown",
        description="what the lesion did to its neighbors; grew: a tumor that pushed, collapsed: a cavity, "
        "replaced: nothing, it lies where tissue was",
    )
    engine: Literal["optimize", "network", "refine"] = Field(
        default="optimize",
        description="optimize: from rest; network: what `weights` answer, in one pass; "
        "refine: from their answer downhill, on the finest level",
    )
    weights: str | None = Field(
        default=None,
        description="of a learned method, for engine=network and refine: a file, or a bundle with "
        "models/model.safetensors",
    )
    refine_steps: int = Field(default=20, ge=1, description="iterations that `refine` takes")
    mu: float | None = Field(
        default=None,
        ge=0,
        description="weight of the intensity change; 0: motion only, the larger the freer; none: as `subject` says, "
        "0.1 if coupled",
    )
    detail: float | None = Field(
        default=None,
        ge=0,
        description="width of a finer kernel around the lesion; 0: the one kernel everywhere; "
        "none: as `subject` says",
        json_schema_extra=MM,
    )

    masked: bool = Field(
        default=False,
        description="leave the lesion out of the comparison and paint nothing (cost-function masking); "
        "false: its intensities may change",
    )

    @model_validator(mode="after")
    def _weights_are_used(self) -> Self:
        problems = []
        if self.masked and self.mu:
            problems.append(
                f"mu={self.mu:g}: masked=true leaves the lesion out, so that no intensity may change; give one of them"
            )
        if self.masked and self.engine != "optimize":
            problems.append(
                f"masked=true: engine={self.engine} begins with a network that sees the lesion; leave one"
            )
        if self.engine != "optimize" and self.weights is None:
            problems.append(
                f"engine={self.engine}: needs weights=FILE or a bundle that holds them (such as weights=metamorph_g, "
                f"axial slices); none for 3-D brains come with mmtk, see `mmtk train`"
            )
        if self.engine == "optimize" and self.weights is not None:
            problems.append(
                f"weights={self.weights}: engine=optimize has no use for them; give engine=network or refine"
            )
        if self.engine == "refine" and (self.shape != "white" or self.velocities > 1):
            problems.append("engine=refine: starts one stationary velocity; leave shape=white and velocities=1")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def settings(self) -> dict[str, Any]:
        # Masked or not, mu = 0 leaves the lesion out.
        return {**super().settings(), "masked": self.masked or None}


class LDDMMConfig(_ShapeConfig):
    """Shape alone: a diffeomorphism between two images (metamorphosis with mu = 0)."""

    target = "mmtk_metamorphosis.method:Metamorphosis"

    kind: Literal["lddmm"] = "lddmm"
    shape: Literal["white", "momentum"] = Field(
        default="white", description="unknowns of the shape: white velocity coefficients, or a scalar momentum"
    )
    masked: bool | None = Field(
        default=None,
        description="leave the lesion out of the comparison (cost-function masking); none: wherever there is a mask; "
        "false: the mask is only carried along",
    )

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "momentum": "split", "lesion": "unknown", "mu": 0.0, "detail": 0.0}


@hookimpl
def mmtk_methods() -> list[type[ComponentConfig]]:
    return [MetamorphosisConfig, LDDMMConfig]


@hookimpl
def mmtk_bundles() -> list[Path]:
    return [
        shipped_bundle(name) for name in ("metamorph_brats", "metamorphosis", "metamorphosis_multimodal", "lddmm")
    ]


def _unequal(name: str, values: tuple[Any, ...], other: str, others: tuple[Any, ...]) -> list[str]:
    if len(values) == len(others):
        return []
    both = f"{name}={_text(values)} and {other}={_text(others)}"
    return [f"{both} must be equally long: {len(values)} against {len(others)}"]


def _text(values: tuple[Any, ...]) -> str:
    return ",".join(getattr(value, "kind", None) or f"{value:g}" for value in values)
