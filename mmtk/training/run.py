"""A training run from its description: the data, the model, the engine, the weights."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

import mmtk
from mmtk.config import LearnedConfig
from mmtk.errors import ConfigError
from mmtk.fields import Grid
from mmtk.learned import LearnedMethod, Model, Weights
from mmtk.training.config import TrainConfig
from mmtk.training.data import SyntheticPairs
from mmtk.training.engine import train
from mmtk.training.files import FilePairs, training_grid
from mmtk.training.listing import list_pairs
from mmtk.training.plan import Plan, Progress, Watch, ignore, silent

__all__ = ["TrainingSet", "prepare_data", "run", "untrained"]


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """What a description's ``data`` comes to.

    Attributes:
        training, validation: The pairs.
        grid, affine: What they lie on, and how that lies in the world.
    """

    training: Dataset[dict[str, Tensor]]
    validation: Dataset[dict[str, Tensor]]
    grid: Grid
    affine: np.ndarray


def prepare_data(config: TrainConfig, seed: int) -> TrainingSet:
    """Return the pairs that a description asks for.

    Raises:
        ConfigError: If they cannot be had: missing files, too few pairs, options that the sample does not know.
    """
    if config.synthetic:
        return _synthetic(config, seed)
    pairs = list_pairs(Path(config.data).expanduser(), config.template)
    if len(pairs) <= config.held_out:
        raise ConfigError(
            f"held_out={config.held_out}: of {len(pairs)} pairs none would be left to train on; give more pairs, or a "
            f"smaller held_out"
        )
    frame = training_grid(pairs[0].fixed, config.reduce, config.spacing)
    parts = [
        FilePairs(
            part,
            frame,
            init=str(config.init),
            normalize=config.normalize,
            spacing=config.spacing,
            labels=scored,
            cache=config.cache,
        )
        for part, scored in ((pairs[: -config.held_out], False), (pairs[-config.held_out :], True))
    ]
    return TrainingSet(parts[0], parts[1], frame.grid, frame.affine)


def _synthetic(config: TrainConfig, seed: int) -> TrainingSet:
    common: dict[str, Any] = {"reduce": config.reduce, "cache": config.cache}
    training = SyntheticPairs(config.data, config.options, count=config.count, seed=2 * seed, **common)
    validation = SyntheticPairs(
        config.data, config.options, count=config.held_out, seed=2 * seed + 1, truth=True, **common
    )
    grid, affine = training.grid(), training.affine()
    if affine.shape != (4, 4):
        raise ConfigError(f"data={config.data}: its pairs do not say where they lie")
    return TrainingSet(training, validation, grid, affine)


def untrained(config: TrainConfig, grid: Grid, seed: int) -> tuple[Model, dict[str, Any]]:
    """Return the model that a description asks for, as the seed makes it, and its settings as weights keep them."""
    assert isinstance(config.method, LearnedConfig)
    method: LearnedMethod = config.method.model_copy(update={"engine": "optimize", "weights": None}).build()
    torch.manual_seed(seed)
    return method.make(grid, {**method.settings, "half": method.narrow}), dict(method.settings)


def for_channels(config: TrainConfig, count: int) -> TrainConfig:
    """Return the description with a network of as many channels as the pairs have.

    Raises:
        ConfigError: The method takes no such pairs, or was asked for with another number.
    """
    method = config.method
    known = int(getattr(method, "channels", 1))
    if known == count:
        return config
    if known != 1:
        raise ConfigError(
            f"channels={known}: the pairs have {count}; leave it out, or give pairs that have as many"
        )
    if "channels" not in type(method).model_fields:
        raise ConfigError(
            f"data={config.data}: the pairs have {count} modalities, but {method.kind} takes one; give pairs of one, or "
            f"another method"
        )
    return config.model_copy(update={"method": method.model_copy(update={"channels": count})})


def run(
    config: TrainConfig,
    out: Path,
    *,
    device: torch.device | str = "cpu",
    seed: int = 0,
    resume: bool = False,
    progress: Progress = silent,
    watch: Watch = ignore,
) -> dict[str, Any]:
    """Train what a description says, and leave the weights in ``out``; the other files are those of the engine.

    ``model.safetensors`` is what ``weights=`` takes, ``model.pt`` the same network as MONAI's bundles have it.

    Raises:
        ConfigError: If the data cannot be had, or the run to be resumed was another one.
    """
    data = prepare_data(config, seed)
    config = for_channels(config, len(data.training[0]["moving"]))
    model, settings = untrained(config, data.grid, seed)
    if model.one_template and config.augment != "none":
        raise ConfigError(
            f"augment={config.augment}: {config.method.kind} knows one fixed image, which must not change; leave it out"
        )
    plan = Plan.of(config, seed)
    asked = config.model_dump(mode="json", exclude={"cache", "workers", "tensorboard"})
    facts = {"config": asked, "mmtk": mmtk.__version__}
    record = train(
        model, plan, data.training, data.validation, out,
        device=device, resume=resume, facts=facts, progress=progress, watch=watch,
    )  # fmt: skip
    if int(os.environ.get("RANK", 0)) == 0:
        state = torch.load(out / "model.pt", map_location="cpu", weights_only=True)
        template = data.validation[0]["fixed"][None] if model.one_template else None
        weights = Weights(config.method.kind, settings, data.grid, data.affine, state, template, _told(record))
        part = out / ".model.safetensors.part"
        weights.save(part)
        os.replace(part, out / "model.safetensors")
        weights.write_template(out / "template.nii.gz")
    return record


def _told(record: dict[str, Any]) -> dict[str, Any]:
    """Return what weights say of their training: nothing that names a folder of this machine."""
    config = {**record["config"]}
    for name in ("data", "template"):
        if config.get(name) and os.sep in str(config[name]):
            config[name] = Path(config[name]).name
    return {**record, "config": config}
