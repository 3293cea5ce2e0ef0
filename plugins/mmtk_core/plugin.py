"""Similarities, regularizers and integrators: their settings. The classes live in mmtk; pydantic only here."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from mmtk.config import Capabilities, ComponentConfig, load_target
from mmtk.plugins import hookimpl
from mmtk_core.benchmarks import BENCHMARKS

# --- similarities


class SquaredDifferenceConfig(ComponentConfig):
    """Sum of squared differences: the same tissue has the same intensity in both images."""

    target = "mmtk.similarity:SquaredDifference"
    kind: Literal["ssd"] = "ssd"


class LocalSquaredDifferenceConfig(ComponentConfig):
    """Squared differences of locally normalized images: blind to slow changes of brightness and contrast."""

    target = "mmtk.similarity:LocalSquaredDifference"
    kind: Literal["local_ssd"] = "local_ssd"
    radius: int = Field(
        default=2, ge=1, description="half width of the window on a level", json_schema_extra={"unit": "voxels"}
    )
    eps: float = Field(
        default=1e-3,
        gt=0,
        description="added to a variance; contrast far below its root is ignored",
        json_schema_extra={"unit": "intensity^2"},
    )


class NormalizedCrossCorrelationConfig(ComponentConfig):
    """One correlation coefficient for the whole image: one brightness and contrast for all."""

    target = "mmtk.similarity:NormalizedCrossCorrelation"
    kind: Literal["ncc"] = "ncc"


class LocalCorrelationConfig(ComponentConfig):
    """Squared local correlation coefficient, in a box."""

    target = "mmtk.similarity:LocalCorrelation"
    kind: Literal["lncc"] = "lncc"
    radius: int = Field(
        default=2, ge=1, description="half width of the window on a level", json_schema_extra={"unit": "voxels"}
    )
    stride: int = Field(
        default=1,
        ge=1,
        description="distance of the windows' centers along each axis",
        json_schema_extra={"unit": "voxels"},
    )
    eps: float = Field(
        default=1e-3,
        gt=0,
        description="added to variances and covariance; contrast far below its root is ignored",
        json_schema_extra={"unit": "intensity^2"},
    )


class MutualInformationConfig(ComponentConfig):
    """Mutual information: for images of different modalities."""

    target = "mmtk.similarity:MutualInformation"
    capabilities = Capabilities(stationary=False)  # an image of more information is nearer than the image itself
    kind: Literal["mi"] = "mi"
    bins: int = Field(default=32, ge=2, description="bins of each image's histogram")


class IntensityRatioVarianceConfig(ComponentConfig):
    """Variance of the ratio of intensities: one factor of brightness for all."""

    target = "mmtk.similarity:IntensityRatioVariance"
    kind: Literal["vir"] = "vir"
    eps: float = Field(
        default=1e-3,
        gt=0,
        description="added to a square; keeps background from dividing by 0",
        json_schema_extra={"unit": "intensity^2"},
    )


# --- regularizers


class RegularizerConfig(ComponentConfig):
    """A further term of the energy, times a weight."""

    weight: float = Field(default=1.0, ge=0, description="weight of the term; integrals are in mm")

    def build(self, **context: Any) -> Any:
        term = {name: value for name, value in self.settings().items() if name != "weight"}
        return load_target("mmtk_core.weighted:Weighted")(load_target(self.target)(**term, **context), self.weight)


class VelocityNormConfig(RegularizerConfig):
    """Squared norm of the velocities in V: the length of the path of shapes."""

    target = "mmtk.regularizers:VelocityNorm"
    kind: Literal["v_norm"] = "v_norm"


class ResidualNormConfig(RegularizerConfig):
    """Squared norm of the residual: the price of a change in intensity."""

    target = "mmtk.regularizers:ResidualNorm"
    kind: Literal["residual_norm"] = "residual_norm"


class BendingConfig(RegularizerConfig):
    """Bending energy of the displacement; affine motion is free."""

    target = "mmtk.regularizers:Bending"
    kind: Literal["bending"] = "bending"


class DiffusionConfig(RegularizerConfig):
    """Squared gradient of the displacement."""

    target = "mmtk.regularizers:Diffusion"
    kind: Literal["diffusion"] = "diffusion"


class JacobianBarrierConfig(RegularizerConfig):
    """Price of a Jacobian determinant that comes near zero: keeps the map from folding."""

    target = "mmtk.regularizers:JacobianBarrier"
    kind: Literal["jacobian_barrier"] = "jacobian_barrier"
    threshold: float = Field(default=0.1, gt=0, description="determinant below which it costs")


class InverseConsistencyConfig(RegularizerConfig):
    """Distance from the identity of the map followed by its inverse."""

    target = "mmtk.regularizers:InverseConsistency"
    kind: Literal["inverse_consistency"] = "inverse_consistency"


# --- integrators


class IntegratorConfig(ComponentConfig):
    """What the time integrators share."""

    mode: Literal["linear", "cubic"] = Field(
        default="linear", description="interpolation of what is resampled; cubic is slow and exact"
    )


class EulerianConfig(IntegratorConfig):
    """Finite differences on the grid: needs small steps; the teaching case."""

    target = "mmtk.integrators:Eulerian"
    kind: Literal["eulerian"] = "eulerian"


class SemiLagrangianConfig(IntegratorConfig):
    """Image and momentum are resampled once a step; blurs after many steps."""

    target = "mmtk.integrators:SemiLagrangian"
    kind: Literal["semi_lagrangian"] = "semi_lagrangian"


class SharpConfig(IntegratorConfig):
    """Every residual is resampled once, through composed maps: no blur; the cost grows with steps squared."""

    target = "mmtk.integrators:Sharp"
    kind: Literal["sharp"] = "sharp"


class LagrangianConfig(IntegratorConfig):
    """Closed form in the moving frame: as sharp as `sharp`; the cost grows with the steps."""

    target = "mmtk.integrators:Lagrangian"
    kind: Literal["lagrangian"] = "lagrangian"


class ParticlesConfig(IntegratorConfig):
    """The flow on the nodes alone; full-size images are touched at its start and end: for fine images."""

    target = "mmtk.integrators:Particles"
    kind: Literal["particles"] = "particles"


# --- hooks


@hookimpl
def mmtk_benchmarks() -> list[type[ComponentConfig]]:
    return BENCHMARKS


@hookimpl
def mmtk_similarities() -> list[type[ComponentConfig]]:
    return [
        SquaredDifferenceConfig,
        LocalSquaredDifferenceConfig,
        NormalizedCrossCorrelationConfig,
        LocalCorrelationConfig,
        MutualInformationConfig,
        IntensityRatioVarianceConfig,
    ]


@hookimpl
def mmtk_regularizers() -> list[type[ComponentConfig]]:
    return [
        VelocityNormConfig,
        ResidualNormConfig,
        BendingConfig,
        DiffusionConfig,
        JacobianBarrierConfig,
        InverseConsistencyConfig,
    ]


@hookimpl
def mmtk_integrators() -> list[type[ComponentConfig]]:
    return [EulerianConfig, SemiLagrangianConfig, SharpConfig, LagrangianConfig, ParticlesConfig]
