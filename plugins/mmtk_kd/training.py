"""A student's training from its description: heads, networks, teacher, objective, engine, weights.

What a strategy is, and which layers it looks at, stands here; the losses know no names of layers.

    baseline        L_GT
    kd              lambda L_KD + (1 - lambda) L_GT                           eq. 3.7
    kl              L_GT + alpha L_KL(bottleneck)                             eq. 3.5
    kl_kd           lambda L_KD + (1 - lambda) L_GT + alpha L_KL(bottleneck)  eq. 3.8, KD-Net
    att             L_GT + alpha L_att(bottleneck)                            eq. 3.3
    ct, ct_kd       L_GT (and L_KD) + alpha L_ct(up1), the layer before the last  eq. 3.4
    info_nce        L_GT + alpha L_InfoNCE(up1)
    adversarial     L_GT + alpha L_adv(up1, up2, output): one critic
    multi_scale_l1  L_GT + alpha L_1 of a critic's features of the probabilities and of the reference
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import mmtk
from mmtk.errors import ConfigError
from mmtk.learned.weights import find_weights
from mmtk.segmenters.weights import SegmenterWeights
from mmtk.training.engine import train
from mmtk.training.plan import Plan, Progress, Watch, ignore, silent
from mmtk_kd.data import MODALITIES, Augment, BratsHeads, Heads, Patches, SyntheticHeads, list_brats
from mmtk_kd.losses import (
    Adversarial,
    AttentionTransfer,
    BottleneckDivergence,
    Contrastive,
    GroundTruth,
    InfoNCE,
    Objective,
    SoftTargets,
    Term,
)
from mmtk_kd.networks import CLASSES, UHVED, HeMIS, UNet
from mmtk_kd.plugin import DistillationConfig
from mmtk_kd.students import Distilling, HeteroModal, prepare_heads

__all__ = [
    "build_network",
    "heads_of",
    "load_network",
    "make_objective",
    "make_task",
    "run",
    "write_weights",
]


#: Weights of the features' terms that bring them to a tenth to one of the reference's.
_ALPHAS = {"att": 1.0, "kl": 1.0, "ct": 0.01}


class _Probabilities(nn.Module):
    """A loss of probabilities, asked with logits."""

    def __init__(self, loss: Adversarial) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, prediction: Tensor, truth: Tensor) -> Tensor:
        chances = prediction.softmax(1)
        alike: Tensor = self.loss(chances, truth)
        return alike + self.loss.critic_loss(chances, truth)


def make_objective(config: DistillationConfig) -> Objective:
    """Return the objective of a strategy, see the module's table."""
    words = config.strategy.split("_") if config.strategy in ("kl_kd", "ct_kd") else [config.strategy]
    soft = config.lam if "kd" in words else 0.0
    alpha = config.alpha if config.alpha is not None else _ALPHAS.get(words[0], 0.1)
    terms = [Term(GroundTruth(), 1 - soft)]
    if soft:
        terms.append(Term(SoftTargets(config.temperature), soft, ("output",), "teacher"))
    if "kl" in words:
        terms.append(Term(BottleneckDivergence(), alpha, ("bottleneck",), "teacher"))
    if "att" in words:
        terms.append(Term(AttentionTransfer(config.power), alpha, ("bottleneck",), "teacher"))
    if "ct" in words:
        terms.append(Term(Contrastive(config.margin), alpha, ("up1",), "teacher"))
    if config.strategy == "info_nce":
        terms.append(Term(InfoNCE(), alpha, ("up1",), "teacher"))
    if config.strategy == "adversarial":
        terms.append(Term(Adversarial("had"), alpha, ("up1", "up2"), "teacher"))
    if config.strategy == "multi_scale_l1":
        terms.append(Term(_Probabilities(Adversarial("multi_scale_l1")), alpha))
    return Objective(terms)


def build_network(config: DistillationConfig) -> tuple[nn.Module, str, dict[str, Any]]:
    """Return the network as the generator's state makes it, its class and its settings as plain data."""
    channels = len(config.modalities)
    if config.network == "hemis":
        settings: dict[str, Any] = {"modalities": 4, "width": config.widths[0]}
        return HeMIS(**settings), "mmtk_kd.networks:HeMIS", settings
    if config.network == "u_hved":
        settings = {"modalities": 4, "widths": list(config.widths)}
        return UHVED(**settings), "mmtk_kd.networks:UHVED", settings
    settings = {"modalities": channels, "widths": list(config.widths), "skips": config.network == "unet"}
    return UNet(**settings), "mmtk_kd.networks:UNet", settings


def load_network(given: str | Path) -> tuple[nn.Module, SegmenterWeights]:
    """Return a trained network and its description.

    Args:
        given: A file of weights, a bundle, or ``BUNDLE:VARIANT``.

    Raises:
        ConfigError: There is no such file, or it is none of a segmenter.
    """
    weights = SegmenterWeights.load(find_weights(given))
    return weights.build(packages=("mmtk_kd",)), weights


def heads_of(config: DistillationConfig, seed: int) -> tuple[Heads, Heads]:
    """Return the heads to train on, and those to choose the best epoch by.

    Raises:
        ConfigError: They cannot be had, or are too few.
    """
    if config.data == "gliomas":
        return (
            SyntheticHeads(config.options, count=config.count, seed=2 * seed, cache=config.cache),
            SyntheticHeads(config.options, count=config.held_out, seed=2 * seed + 1, cache=config.cache),
        )
    files = list_brats(Path(config.data).expanduser())
    if len(files) <= config.held_out:
        raise ConfigError(
            f"held_out={config.held_out}: of {len(files)} heads none would be left to train on; give more heads, or a "
            f"smaller held_out"
        )
    parts = files[: -config.held_out][: config.count], files[-config.held_out :]
    first, last = (BratsHeads(part, reduce=config.reduce, cache=config.cache) for part in parts)
    return first, last


def make_task(
    config: DistillationConfig, heads: Heads, seed: int
) -> tuple[Distilling | HeteroModal, dict[str, Any]]:
    """Return what is trained, and what its weights say of it: class and settings of the network.

    Raises:
        ConfigError: The teacher cannot be had, or sees or shares what it cannot.
    """
    torch.manual_seed(seed)
    network, target, settings = build_network(config)
    channels = [MODALITIES.index(m) for m in config.modalities]
    if not isinstance(network, UNet):
        return HeteroModal(network, make_objective(config), channels, config.half), {
            "network": target,
            "settings": settings,
        }
    teacher, seen = None, [0, 1, 2, 3]
    if config.strategy != "baseline" or config.shared_decoder or config.warm:
        assert config.teacher is not None
        teacher, weights = load_network(config.teacher)
        seen = [MODALITIES.index(m) for m in weights.modalities]
        if config.warm:
            _warm(network, teacher, [weights.modalities.index(m) for m in config.modalities], config)
        if config.shared_decoder:
            _share(network, teacher, config)
    patches = Patches(heads, config.patch)
    items = [patches[k % len(patches)] for k in range(2)]
    example = prepare_heads({name: torch.stack([item[name] for item in items]) for name in ("image", "labels")})[0]
    task = Distilling(
        network,
        make_objective(config),
        channels,
        teacher=teacher,
        teacher_channels=seen,
        example=example,
        half=config.half,
    )
    return task, {"network": target, "settings": settings}


def _warm(network: UNet, teacher: nn.Module, channels: list[int], config: DistillationConfig) -> None:
    """Give the student the teacher's weights; of the first convolution those of the channels that it sees."""
    first = "encoder.levels.0.conv1.conv.weight"
    state = dict(teacher.state_dict())
    if first in state:
        state[first] = state[first][:, channels]
    try:
        network.load_state_dict(state)
    except RuntimeError:
        raise ConfigError(
            f"teacher={config.teacher}: its network is another than network={config.network} of widths "
            f"{config.widths}, so no student can begin from it; leave warm out"
        ) from None


def _share(network: UNet, teacher: nn.Module, config: DistillationConfig) -> None:
    """Give the student a copy of the teacher's decoder, which stays as it is."""
    if not isinstance(teacher, UNet) or teacher.decoder.skips != network.decoder.skips:
        raise ConfigError(
            f"teacher={config.teacher}: has no decoder that {config.network} could share; train a teacher with "
            f"network={config.network}"
        )
    try:
        network.decoder.load_state_dict(teacher.decoder.state_dict())
    except RuntimeError:
        raise ConfigError(
            f"teacher={config.teacher}: its decoder has other widths than {config.widths}; give the teacher's widths"
        ) from None
    network.decoder.requires_grad_(False)


def run(
    config: DistillationConfig,
    out: Path,
    *,
    device: torch.device | str = "cpu",
    seed: int = 0,
    resume: bool = False,
    progress: Progress = silent,
    watch: Watch = ignore,
) -> dict[str, Any]:
    """Train what a description says, and leave the weights in ``out``; the other files are those of the engine.

    Raises:
        ConfigError: If heads or teacher cannot be had, or the run to be resumed was another one.
    """
    heads, held_out = heads_of(config, seed)
    task, network = make_task(config, heads, seed)
    plan = Plan.of(config, seed)
    asked = config.model_dump(mode="json", exclude={"cache", "workers", "tensorboard"})
    defaults = {name: field.default for name, field in DistillationConfig.model_fields.items()}
    augment = Augment(config.flip, config.shift, config.gamma)
    record = train(
        task,
        plan,
        Patches(heads, config.patch, augment),
        Patches(held_out, config.patch),
        out,
        device=device,
        resume=resume,
        facts={"config": asked, "mmtk": mmtk.__version__, "defaults": defaults},
        progress=progress,
        watch=watch,
    )
    if int(os.environ.get("RANK", 0)) == 0:
        state = torch.load(out / "model.pt", map_location="cpu", weights_only=True)
        write_weights(out / "model.safetensors", config, heads.spacing, network, state, record)
    return record


def write_weights(
    path: Path,
    config: DistillationConfig,
    spacing: tuple[float, ...],
    network: Mapping[str, Any],
    state: Mapping[str, Tensor],
    record: Mapping[str, Any],
) -> None:
    """Write the file that ``weights=`` takes, in half precision if the network was trained in it."""
    several = network["network"] != "mmtk_kd.networks:UNet"
    kept = {name: t.half() if config.half and t.is_floating_point() else t for name, t in state.items()}
    told = {**record, "config": _told(record["config"])}
    part = path.with_name(f".{path.name}.part")
    SegmenterWeights(
        network=network["network"],
        settings=network["settings"],
        modalities=MODALITIES if several else config.modalities,
        outputs=tuple(str(label) for label in CLASSES),
        activation="softmax",
        spacing=spacing,
        patch=config.patch,
        normalize="zscore",
        state=kept,
        facts=told,
    ).save(part)
    os.replace(part, path)


def _told(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what weights say of their training: nothing that names a folder of this machine."""
    told = dict(config)
    for name in ("data", "teacher"):
        if told.get(name) and os.sep in str(told[name]):
            told[name] = Path(str(told[name])).name
    return told
