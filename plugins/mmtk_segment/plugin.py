"""Segmenters: their settings. The classes beside them load torch; pydantic only here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from mmtk.config import Capabilities, ComponentConfig, MethodPart
from mmtk.plugins import hookimpl
from mmtk_metamorphosis.plugin import MetamorphosisConfig

Count = Annotated[int, Field(ge=1)]

#: For ``json_schema_extra``: listings show the unit in a column of its own.
MM: dict[str, Any] = {"unit": "mm"}


class _EvidenceConfig(ComponentConfig):
    """What segmenters share that turn a map of evidence into a mask."""

    smoothing: float = Field(
        default=2.0,
        gt=0,
        description="width of the Gaussian under which the evidence is looked at",
        json_schema_extra=MM,
    )
    threshold: float = Field(
        default=5.0, gt=0, description="evidence at a lesion's border, at least, in robust standard deviations"
    )
    share: float = Field(
        default=0.25, gt=0, lt=1, description="of a lesion's strongest evidence, what its border has"
    )
    components: int = Field(default=1, ge=1, description="lesions at most")
    smallest: float = Field(
        default=0.3,
        ge=0,
        description="a smaller lesion is none (cm^2 of a slice)",
        json_schema_extra={"unit": "ml"},
    )


class OutlierConfig(_EvidenceConfig):
    """Asymmetry, and intensity against a template: a first guess, without training."""

    target = "mmtk_segment.outlier:Outlier"
    limits = {"memory": 120}

    kind: Literal["outlier"] = "outlier"
    threshold: float = Field(
        default=4.0, gt=0, description="evidence at a lesion's border, at least, in robust standard deviations"
    )


class InconsistencyConfig(_EvidenceConfig):
    """What no registration explains: the residual, and where forth and back do not meet."""

    target = "mmtk_segment.inconsistency:Inconsistency"
    capabilities = Capabilities(needs_fixed=True)
    limits = {"agreement": 0.3, "memory": 320}

    kind: Literal["inconsistency"] = "inconsistency"
    rounds: int = Field(
        default=1, ge=1, description="registrations; each but the first leaves out what the one before it found"
    )
    backward: float = Field(
        default=0.0,
        ge=0,
        description="weight of the forward-backward error beside the residual; above 0 each round registers twice",
    )
    method: MethodPart = Field(
        default=MetamorphosisConfig(levels=(8.0, 4.0), iterations=(12, 12)), description="what registers"
    )


class LabelsConfig(ComponentConfig):
    """Labels that somebody else drew: the image is a label map, and the mask is some of them."""

    target = "mmtk_segment.labels:Labels"
    capabilities = Capabilities(binary=True, any_spacing=True)

    kind: Literal["labels"] = "labels"
    lesion: tuple[Count, ...] = Field(default=(), description="labels that are lesion; none: all but 0")
    brats: bool = Field(
        default=False, description="they are BraTS's, 1, 2, 4 or 1, 2, 3: ET, TC and WT are told apart"
    )


class NetworkConfig(ComponentConfig):
    """A trained network: weights of mmtk, such as those of the bundle kdnet_student."""

    target = "mmtk_segment.network:Network"
    capabilities = Capabilities(learned=True)

    kind: Literal["network"] = "network"
    weights: str | None = Field(
        default=None, description="file of weights, or a bundle with models/model.safetensors"
    )
    flips: bool = Field(default=True, description="average over all flips of the image")
    overlap: float = Field(default=0.5, ge=0, lt=1, description="of neighboring windows")
    patch: tuple[Count, ...] | None = Field(
        default=None,
        min_length=2,
        max_length=3,
        description="size of a window; none: that of training",
        json_schema_extra={"unit": "voxels"},
    )
    batch: int = Field(default=1, ge=1, description="windows at once")
    fewest: int = Field(
        default=20, ge=0, description="an enhancing tumor of fewer voxels becomes tumor core; 0: as it is"
    )
    uncertainty: Literal["entropy", "spread"] = Field(
        default="entropy",
        description="entropy: of the mean probability, in bits; spread: twice the standard deviation among the flips",
    )
    region: Literal["ET", "TC", "WT"] = Field(default="WT", description="region that the mask is")


class MonaiBundleConfig(ComponentConfig):
    """Any MONAI segmentation bundle: its own preprocessing, network and inferer."""

    target = "mmtk_segment.monai_bundle:MonaiBundle"
    capabilities = Capabilities(learned=True)

    kind: Literal["monai_bundle"] = "monai_bundle"
    bundle: str | None = Field(default=None, description="name or folder of the bundle")
    lesion: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        default=(),
        description="channels of the output that are lesion, from 0; none: all but the first of a softmax, all of a "
        "sigmoid",
    )
    activation: Literal["auto", "softmax", "sigmoid", "none"] = Field(
        default="auto",
        description="what makes probabilities; auto: as the bundle's own postprocessing says",
    )


@hookimpl
def mmtk_segmenters() -> list[type[ComponentConfig]]:
    return [OutlierConfig, InconsistencyConfig, LabelsConfig, NetworkConfig, MonaiBundleConfig]
