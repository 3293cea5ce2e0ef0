"""What a bundle's ``train.json`` names, so that ``python -m monai.bundle run`` trains with MONAI's own engines.

network_def     untrained     the model that a method trains, on the grid of its pairs
loss            MeanEnergy    (mmtk.training.engine)
train::dataset  SyntheticPairs, FilePairs
handlers        EpochOrder    tells the sampler which epoch it is
                WriteWeights  leaves model.safetensors, which `weights=` takes
key metric      energy        of the validation pairs; the lower, the better
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.metrics import Metric

from mmtk.config import LearnedConfig, Recipe
from mmtk.errors import ConfigError
from mmtk.learned import Batch, Model, Prediction, Weights
from mmtk.plugins import installed
from mmtk.settings import Setting, resolve
from mmtk.training.data import EpochSampler

__all__ = ["EnergyMetric", "EpochOrder", "WriteWeights", "untrained"]


def untrained(method: str | Mapping[str, Any], pairs: Any, seed: int = 0) -> Model:
    """Return the model that a method trains, on the grid of the pairs, as the seed makes it.

    Args:
        method: Name of a learned method, or its settings with the name under ``kind``.
        pairs: A set of pairs, which knows its ``grid()``.

    Raises:
        ConfigError: If the method has nothing to learn, or a setting is wrong.
    """
    config = resolve([Setting("method", method)], {}, installed(), Recipe).method
    if not isinstance(config, LearnedConfig):
        raise ConfigError(f"method={config.kind}: has nothing to learn")
    built = config.model_copy(update={"engine": "optimize", "weights": None}).build()
    torch.manual_seed(seed)
    model: Model = built.make(pairs.grid(), {**built.settings, "half": built.narrow})
    model.described = {"kind": config.kind, "settings": dict(built.settings)}  # type: ignore[assignment]
    return model


class EnergyMetric(Metric):
    """Mean energy of the pairs that an evaluator saw, per mm^dim; negative, since MONAI keeps what is greatest."""

    def __init__(self) -> None:
        super().__init__(output_transform=lambda output: (output["pred"], output["label"]))

    def reset(self) -> None:
        """Forget what was seen."""
        self.total, self.count = 0.0, 0

    def update(self, output: tuple[Prediction, Batch]) -> None:
        """See one batch."""
        prediction, batch = output
        self.total += float(prediction.energy.sum()) / math.prod(batch.fixed.shape[2:])
        self.count += len(batch)

    def compute(self) -> float:
        """Return the negative mean."""
        return -self.total / max(self.count, 1)


class EpochOrder:
    """A handler that gives every epoch the order which the sampler has for it."""

    def __init__(self, sampler: EpochSampler) -> None:
        self.sampler = sampler

    def attach(self, engine: Engine) -> None:
        """Listen to a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Choose the order of the epoch that begins."""
        self.sampler.set_epoch(engine.state.epoch - 1)


class WriteWeights:
    """A handler that leaves ``model.safetensors`` beside the best ``model.pt`` when training ends.

    Args:
        network: From :func:`untrained`.
        pairs: The pairs that it was trained on, for grid and template.
        folder: Where ``state`` lies and the weights go.
        state: Name of the file that the checkpoint saver left; the network as it is, if there is none.
    """

    def __init__(self, network: Model, pairs: Any, folder: str, state: str = "model.pt") -> None:
        self.network, self.pairs, self.folder, self.state = network, pairs, Path(folder), state

    def attach(self, engine: Engine) -> None:
        """Listen to a trainer."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Write the file."""
        kept = self.folder / self.state
        network = (
            torch.load(kept, map_location="cpu", weights_only=True)
            if kept.is_file()
            else self.network.state_dict()
        )
        described: Any = self.network.described
        template = self.pairs[0]["fixed"][None] if self.network.one_template else None
        facts = {"epochs": engine.state.epoch, "pairs": len(self.pairs), "engine": "monai.bundle"}
        Weights(
            described["kind"],
            described["settings"],
            self.network.grid,
            self.pairs.affine(),
            network,
            template,
            facts,
        ).save(self.folder / "model.safetensors")
