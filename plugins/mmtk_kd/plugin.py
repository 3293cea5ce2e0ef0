"""What knowledge distillation offers: losses, a training, bundles. Descriptions alone; torch is not loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from mmtk.bundle import shipped_bundle
from mmtk.config import Capabilities, ComponentConfig
from mmtk.errors import ConfigError
from mmtk.plugins import Command, hookimpl
from mmtk.training.config import Training

Modality = Literal["t1", "t1ce", "t2", "flair"]

#: Strategies that need no teacher.
ALONE = ("baseline",)


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


class DistillationConfig(Training):
    """Segmentation of a tumor from few modalities, taught by a network that sees all (thesis, chapter 3)."""

    target = "mmtk_kd.training:run"
    capabilities = Capabilities(dims=(3,), learned=True)

    kind: Literal["distillation"] = "distillation"
    data: str = Field(
        default="gliomas", description="gliomas: synthetic heads; or a folder of heads as BraTS lays them out"
    )
    options: dict[str, Any] = Field(default={}, description='of the synthetic heads, such as {"spacing": 3}')
    count: int = Field(default=100, ge=1, description="heads to train on; of files: at most so many, the first")
    held_out: int = Field(default=20, ge=1, description="heads to choose the best epoch by: of files, the last")
    reduce: int = Field(default=1, ge=1, description="of files: average so many voxels along each axis into one")
    patch: tuple[int, int, int] = Field(default=(64, 64, 64), description="voxels of what is seen at once")
    modalities: tuple[Modality, ...] = Field(
        default=("t1ce",), min_length=1, description="what the student sees; a teacher: t1,t1ce,t2,flair"
    )
    teacher: str | None = Field(
        default=None, description="weights of the teacher, or a bundle with models/model.safetensors"
    )
    strategy: Literal[
        "baseline", "att", "kl", "kd", "kl_kd", "ct", "ct_kd", "info_nce", "adversarial", "multi_scale_l1"
    ] = Field(
        default="kl_kd",
        description="baseline: the reference alone; att: attention transfer; kl: divergence of the bottlenecks; "
        "kd: soft targets; ct: contrastive; adversarial: HAD-Net's form; multi_scale_l1: SegAN's, on the segmentation",
    )
    lam: float = Field(
        default=0.5,
        ge=0,
        le=1,
        alias="lambda",
        description="imitation: the soft targets' share against the reference",
    )
    alpha: float | None = Field(
        default=None,
        ge=0,
        description="weight of the features' term; none: 1 for att and kl, 0.01 for ct, else 0.1",
    )
    temperature: float = Field(default=3.0, gt=0, description="of the soft targets")
    power: float = Field(default=2.0, ge=1, description="of the attention maps")
    margin: float = Field(default=1.0, gt=0, description="of the contrastive loss")
    network: Literal["unet", "unet_without_skips", "u_hved", "hemis"] = Field(
        default="unet", description="the thesis's; without skip connections; U-HVED; HeMIS"
    )
    widths: tuple[int, ...] = Field(
        default=(32, 64, 128, 256), min_length=1, description="channels of the levels, finest first"
    )
    shared_decoder: bool = Field(default=False, description="take the teacher's decoder as it is (thesis 3.3)")
    warm: bool = Field(
        default=False, description="begin from the teacher's weights, for the modalities that the student sees"
    )
    half: bool = Field(default=False, description="convolve in bfloat16")
    flip: float = Field(default=0.5, ge=0, le=1, description="probability of a mirror along each axis")
    shift: float = Field(default=0.1, ge=0, description="largest shift of intensities, in deviations")
    gamma: tuple[float, float] = Field(default=(0.8, 1.25), description="range of the power of intensities")

    rate: float = Field(default=1e-4, gt=0, description="learning rate of Adam")
    weight_decay: float = Field(default=1e-5, ge=0, description="L2 penalty of Adam")
    decay: Literal["none", "cosine", "plateau"] = Field(
        default="plateau",
        description="none: the rate stays; cosine: it falls to 0; plateau: by plateau_factor where validation stays",
    )
    epochs: int = Field(default=1000, ge=1, description="times that everything is seen, at most")

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> Self:
        taught = self.strategy not in ALONE or self.shared_decoder or self.warm
        if taught and self.teacher is None:
            raise ValueError(
                f"strategy={self.strategy}: needs a teacher; give teacher=kdnet_teacher, or a file of weights, or take "
                f"strategy=baseline"
            )
        if self.network in ("u_hved", "hemis") and (taught or self.strategy not in ALONE):
            raise ValueError(f"network={self.network}: learns from the reference alone; give strategy=baseline")
        multiple = 2 ** (len(self.widths) - 1)
        if any(side < multiple or side % multiple for side in self.patch):
            raise ValueError(
                f"patch={','.join(map(str, self.patch))}: {len(self.widths)} levels halve it {len(self.widths) - 1} "
                f"times; give multiples of {multiple}"
            )
        return self

    def check(self) -> None:
        if self.data != "gliomas":
            folder = Path(self.data).expanduser()
            if not folder.is_dir():
                raise ConfigError(
                    f"data={self.data}: no such folder; give one of heads as BraTS lays them out, or gliomas"
                )
            return
        from mmtk.samples.options import GliomasOptions, parse

        parse(GliomasOptions, self.options, "data=gliomas")


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


@hookimpl
def mmtk_trainings() -> list[type[ComponentConfig]]:
    return [DistillationConfig]


@hookimpl
def mmtk_commands() -> list[Command]:
    return [
        Command(
            "distillation",
            "how students differ: SVCCA, layers set to zero, training-set size",
            "mmtk_kd.cli:app",
        )
    ]


@hookimpl
def mmtk_bundles() -> list[Path]:
    return [shipped_bundle("kdnet_teacher")]
