"""Methods to compare with: their settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, JsonValue, model_validator
from typing_extensions import Self

from mmtk.bundle import shipped_bundle
from mmtk.config import Capabilities, ComponentConfig
from mmtk.plugins import hookimpl

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
MM: dict[str, JsonValue] = {"unit": "mm"}
VOXELS: dict[str, JsonValue] = {"unit": "voxels"}
MASKED = "leave the lesion out of the comparison, on every level and stage (cost-function masking)"


class AntsConfig(ComponentConfig):
    """ANTs: rigid, affine, SyN or B-spline SyN, by antspyx; on the CPU."""

    target = "mmtk_peers.ants:Ants"
    capabilities = Capabilities(multichannel=False)
    needs = {"ants": "mmtk[ants]"}
    # Voxels and shares, on images of 24 x 28 pixels. Its masks do not keep the lesion out of all that it computes.
    limits = {"drift": 4.0, "agreement": 0.7, "gain": 0.5, "shown": 6.0, "force": 6.0}

    kind: Literal["ants"] = "ants"
    transform: Literal["rigid", "affine", "syn", "bspline_syn"] = Field(
        default="syn", description="what is looked for; a displacement comes of each"
    )
    preset: Literal["default", "recommended"] = Field(
        default="default",
        description="default: as antspyx does it unless told (SyN: mutual information, no iteration at full "
        "resolution); recommended: by local correlation, down to full resolution; many times as long",
    )
    metric: Literal["mattes", "cc", "meansquares"] | None = Field(
        default=None,
        description="mattes: mutual information; cc: local correlation (rigid and affine: of the whole images); "
        "none: as `preset` says",
    )
    radius: int | None = Field(
        default=None,
        ge=1,
        description="half width of the windows of SyN's cc; none: 2",
        json_schema_extra=VOXELS,
    )
    iterations: tuple[Count, ...] | None = Field(
        default=None,
        min_length=1,
        description="on each level, coarse to fine, each level half as coarse as the one before; rigid and affine: "
        "four numbers; none: as `preset` says",
    )
    affine_first: bool = Field(
        default=True, description="SyN begins with an affine stage of its own, as its name means in ANTs"
    )
    threads: int = Field(
        default=1,
        ge=1,
        description="with one alone the same run gives the same result; the first run of a process sets it for all",
    )
    masked: bool = Field(default=False, description=MASKED)

    @model_validator(mode="after")
    def _fields_fit_one_another(self) -> Self:
        problems = []
        if self.transform == "bspline_syn":
            problems += [
                f"{name}: B-spline SyN takes it from `preset`; leave it out"
                for name in ("metric", "radius", "iterations")
                if getattr(self, name) is not None
            ]
        if self.transform in ("rigid", "affine"):
            if self.iterations is not None and len(self.iterations) != 4:
                problems.append(
                    f"iterations: {len(self.iterations)} numbers; {self.transform} has four levels, such as "
                    "2100,1200,1200,10"
                )
            if self.radius is not None:
                problems.append(f"radius: {self.transform} knows no windows; leave it out")
        elif self.radius is not None and (self.metric or "") != "cc" and self.preset == "default":
            problems.append("radius: belongs to metric=cc; give that, too")
        if problems:
            raise ValueError("\n".join(problems))
        return self


class GreedyConfig(ComponentConfig):
    """Greedy diffeomorphic registration, by picsl-greedy; on the CPU."""

    target = "mmtk_peers.greedy:Greedy"
    capabilities = Capabilities(multichannel=False)
    needs = {"picsl_greedy": "mmtk[greedy]", "SimpleITK": "mmtk[greedy]"}
    limits = {"agreement": 0.3, "shown": 4.0, "force": 4.0}  # its mask does not hide all of the lesion

    kind: Literal["greedy"] = "greedy"
    preset: Literal["default", "recommended"] = Field(
        default="default",
        description="default: squared differences, 100x100, which leaves full resolution out; "
        "recommended: local correlation, 100x60x30",
    )
    metric: Literal["ssd", "ncc"] | None = Field(
        default=None, description="squared differences or local correlation; none: as `preset` says"
    )
    radius: int = Field(default=2, ge=1, description="half width of the windows of ncc", json_schema_extra=VOXELS)
    iterations: tuple[Count, ...] | None = Field(
        default=None, min_length=1, description="on each level, coarse to fine; none: as `preset` says"
    )
    masked: bool = Field(default=False, description=MASKED)


class DemonsConfig(ComponentConfig):
    """Diffeomorphic demons of SimpleITK, in a pyramid; on the CPU."""

    target = "mmtk_peers.demons:Demons"
    capabilities = Capabilities(multichannel=False)
    needs = {"SimpleITK": "mmtk[demons]"}

    kind: Literal["demons"] = "demons"
    shrink: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(4, 2, 1), min_length=1, description="voxels for one of each level, coarse to fine"
    )
    iterations: tuple[Count, ...] = Field(
        default=(100, 60, 30), min_length=1, description="on each level, coarse to fine"
    )
    sigma: float = Field(
        default=1.5, gt=0, description="smoothing of the displacement on a level", json_schema_extra=VOXELS
    )
    masked: bool = Field(
        default=False,
        description="leave the lesion out of the comparison (cost-function masking): it shows what the fixed image has "
        "there by the map so far",
    )

    @model_validator(mode="after")
    def _one_number_each(self) -> Self:
        if len(self.shrink) != len(self.iterations):
            raise ValueError(
                f"shrink and iterations must be equally long: {len(self.shrink)} against {len(self.iterations)}"
            )
        return self


class LCCDemonsConfig(ComponentConfig):
    """LCC-demons: symmetric local correlation, a stationary velocity, Gaussian smoothing of steps and velocity."""

    target = "mmtk_peers.lcc_demons:LCCDemons"
    capabilities = Capabilities(diffeomorphic=True)

    kind: Literal["lcc_demons"] = "lcc_demons"
    radius: int = Field(
        default=2,
        ge=1,
        description="half width of the windows of the local correlation on a level",
        json_schema_extra=VOXELS,
    )
    fluid: float = Field(
        default=1.0,
        ge=0,
        description="width of the Gaussian that smooths each step, in sample distances of a level; 0: none",
    )
    elastic: float = Field(
        default=1.0,
        ge=0,
        description="width of the one that smooths the velocity after each step, likewise; 0: none",
    )
    step: float = Field(default=1.0, gt=0, description="twice the longest step, in sample distances of a level")
    levels: tuple[Positive, ...] = Field(
        default=(8.0, 4.0, 2.0),
        min_length=1,
        description="sample distance of each level, coarse to fine",
        json_schema_extra=MM,
    )
    iterations: tuple[Count, ...] = Field(
        default=(30, 20, 10), min_length=1, description="most iterations on each level"
    )
    squarings: int = Field(
        default=3,
        ge=0,
        le=12,
        description="a flow is composed from 2^squarings steps at least; a steep one takes more by itself",
    )
    masked: bool | None = Field(default=None, description=f"{MASKED}; none: wherever there is a mask")

    @model_validator(mode="after")
    def _levels_fit(self) -> Self:
        if len(self.levels) != len(self.iterations):
            raise ValueError(
                f"levels and iterations must be equally long: {len(self.levels)} against {len(self.iterations)}"
            )
        if list(self.levels) != sorted(self.levels, reverse=True):
            raise ValueError("levels: must run from coarse to fine, such as 8,4,2")
        return self


class IdentityConfig(ComponentConfig):
    """The identity: the affine placement alone, as a row to compare with."""

    target = "mmtk_peers.identity:Identity"
    capabilities = Capabilities(diffeomorphic=True, registers=False)

    kind: Literal["identity"] = "identity"


@hookimpl
def mmtk_methods() -> list[type[ComponentConfig]]:
    return [AntsConfig, GreedyConfig, DemonsConfig, LCCDemonsConfig, IdentityConfig]


@hookimpl
def mmtk_bundles() -> list[Path]:
    return [shipped_bundle(name) for name in ("syn", "syn_cfm", "rigid", "rigid_cfm", "affine", "lcc_demons")]
