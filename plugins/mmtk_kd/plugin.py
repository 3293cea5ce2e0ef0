"""What knowledge distillation offers: losses, a training, bundles. Descriptions alone; torch is not loaded."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mmtk.config import Capabilities, ComponentConfig
from mmtk.plugins import hookimpl


class GroundTruthConfig(ComponentConfig):
    """Dice and cross-entropy against the reference segmentation, also in their focal forms."""

    target = "mmtk_kd.losses:GroundTruth"
    capabilities = Capabilities(stationary=False)

    kind: Literal["dice_ce"] = "dice_ce"
    form: Literal["dice_ce", "dice_focal", "focal_dice"] = Field(
        default="dice_ce", description="Dice + cross-entropy; Dice + focal cross-entropy; focal Dice alone"
    )
    gamma: float = Field(default=2.0, gt=0, description="exponent of the focal forms")
    background: bool = Field(default=False, description="count the Dice of the background, too")


class SoftTargetsConfig(ComponentConfig):
    """Knowledge distillation: cross-entropy with the teacher's softened probabilities."""

    target = "mmtk_kd.losses:SoftTargets"
    capabilities = Capabilities()

    kind: Literal["soft_targets"] = "soft_targets"
    temperature: float = Field(default=3.0, gt=0, description="divides the logits of both; the larger, the softer")


class AttentionTransferConfig(ComponentConfig):
    """Attention transfer: distance of the normalized attention maps of a layer."""

    target = "mmtk_kd.losses:AttentionTransfer"
    capabilities = Capabilities(symmetric=True)

    kind: Literal["attention"] = "attention"
    power: float = Field(default=2.0, ge=1, description="of the absolute features")
    reduce: Literal["sum", "max"] = Field(default="sum", description="over the channels")


class BottleneckDivergenceConfig(ComponentConfig):
    """Kullback-Leibler divergence of a layer's normalized features from the teacher's."""

    target = "mmtk_kd.losses:BottleneckDivergence"
    capabilities = Capabilities()

    kind: Literal["feature_kl"] = "feature_kl"
    normalize: Literal["softmax", "sum"] = Field(
        default="softmax", description="softmax over all entries, or absolute values over their sum"
    )


class ContrastiveConfig(ComponentConfig):
    """Contrastive distillation with a margin, of projected features; compares the elements of a batch."""

    target = "mmtk_kd.losses:Contrastive"
    capabilities = Capabilities(learned=True)

    kind: Literal["contrastive"] = "contrastive"
    margin: float = Field(default=1.0, gt=0, description="distance that two heads' features are pushed apart to")
    hidden: int = Field(default=64, ge=1, description="width of the projection head")
    out: int = Field(default=32, ge=1, description="size of what it returns")
    pool: int = Field(default=2, ge=0, description="voxels an axis averaged before the head; 0: all")


class InfoNCEConfig(ComponentConfig):
    """InfoNCE between student's and teacher's projected features; compares the elements of a batch."""

    target = "mmtk_kd.losses:InfoNCE"
    capabilities = Capabilities(learned=True)

    kind: Literal["info_nce"] = "info_nce"
    temperature: float = Field(default=0.1, gt=0, description="of the cosine")
    hidden: int = Field(default=64, ge=1, description="width of the projection head")
    out: int = Field(default=32, ge=1, description="size of what it returns")
    pool: int = Field(default=2, ge=0, description="voxels an axis averaged before the head; 0: all")


class AdversarialConfig(ComponentConfig):
    """A critic tells student from teacher: HAD-Net's form, or the multi-scale L1 of its features."""

    target = "mmtk_kd.losses:Adversarial"
    capabilities = Capabilities(learned=True)

    kind: Literal["adversarial"] = "adversarial"
    form: Literal["had", "multi_scale_l1"] = Field(
        default="had", description="which of the two it is, or distance of the critic's features"
    )
    width: int = Field(default=16, ge=1, description="channels of the critic")
    depth: int = Field(default=3, ge=1, description="levels of the critic, each half the size of the one before")


@hookimpl
def mmtk_losses() -> list[type[ComponentConfig]]:
    return [
        GroundTruthConfig,
        SoftTargetsConfig,
        AttentionTransferConfig,
        BottleneckDivergenceConfig,
        ContrastiveConfig,
        InfoNCEConfig,
        AdversarialConfig,
    ]
