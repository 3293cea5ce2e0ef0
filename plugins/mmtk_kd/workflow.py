"""What a bundle's ``train.json`` names, so that ``python -m monai.bundle run`` trains with MONAI's own engines.

training        plain data          the description that ``mmtk train bundle=NAME`` begins from, too
task            Lesson              network, objective and heads of a description
handlers        EpochOrder          (mmtk.training.workflow) the order of the data, by epoch
                WriteSegmenter      leaves model.safetensors, which `weights=` takes
key metric      GroundTruthMetric   the ground-truth loss of the held-out heads; the lower, the better
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.metrics import Metric
from torch import nn

from mmtk.errors import ConfigError
from mmtk_kd.data import Augment, Patches
from mmtk_kd.losses import GroundTruth
from mmtk_kd.plugin import DistillationConfig
from mmtk_kd.students import Answer, HeadBatch
from mmtk_kd.training import heads_of, make_task, write_weights

__all__ = ["GroundTruthMetric", "Lesson", "WriteSegmenter"]


class Lesson:
    """A description, carried out as far as its parts: what an engine needs.

    Args:
        training: Plain data, with ``kind`` ``distillation``.
        seed: Of weights and synthetic heads.
        count, held_out, teacher, cache: In place of the description's, where given.

    Attributes:
        network: What is trained; called with a batch.
        loss: Of its answer and the batch.
        prepare: MONAI's ``prepare_batch``.
        patches, held_out_patches: What it sees.

    Raises:
        ConfigError: Heads or teacher cannot be had.
    """

    def __init__(
        self,
        training: Mapping[str, Any],
        seed: int = 0,
        count: int | None = None,
        held_out: int | None = None,
        teacher: str | None = None,
        cache: str | None = None,
    ) -> None:
        given = {"count": count, "held_out": held_out, "teacher": teacher, "cache": cache}
        said = {**training, **{name: value for name, value in given.items() if value is not None}}
        if said.get("kind") != "distillation":
            raise ConfigError(f"training::kind is {said.get('kind')!r}; it must be 'distillation'")
        self.config = DistillationConfig.model_validate(said)
        self.heads, held = heads_of(self.config, seed)
        self.task, self.described = make_task(self.config, self.heads, seed)
        augment = Augment(self.config.flip, self.config.shift, self.config.gamma)
        self.patches = Patches(self.heads, self.config.patch, augment)
        self.held_out_patches = Patches(held, self.config.patch)
        self.network: nn.Module = self.task.network
        self.loss, self.prepare = self.task.loss, self.task.prepare


class GroundTruthMetric(Metric):
    """Mean ground-truth loss of the heads that an evaluator saw; negative, since MONAI keeps what is greatest."""

    def __init__(self) -> None:
        super().__init__(output_transform=lambda output: (output["pred"], output["label"]))
        self._loss = GroundTruth()

    def reset(self) -> None:
        """Forget what was seen."""
        self.total, self.count = 0.0, 0

    def update(self, output: tuple[Answer, HeadBatch]) -> None:
        """See one batch."""
        answer, batch = output
        self.total += len(batch) * float(self._loss(answer.logits, batch.truth))
        self.count += len(batch)

    def compute(self) -> float:
        """Return the negative mean."""
        return -self.total / max(self.count, 1)


class WriteSegmenter:
    """A handler that leaves ``model.safetensors`` beside the best ``model.pt`` when training ends.

    Args:
        lesson: What was trained.
        folder: Where ``state`` lies and the weights go.
        state: Name of the file that the checkpoint saver left: of all that was trained; as it is, if there is none.
    """

    def __init__(self, lesson: Lesson, folder: str, state: str = "model.pt") -> None:
        self.lesson, self.folder, self.state = lesson, Path(folder), state

    def attach(self, engine: Engine) -> None:
        """Listen to a trainer."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Write the file."""
        kept = self.folder / self.state
        if kept.is_file():
            self.lesson.network.load_state_dict(torch.load(kept, map_location="cpu", weights_only=True))
        config = self.lesson.config
        record = {
            "config": config.model_dump(mode="json", exclude={"cache", "workers", "tensorboard"}),
            "epochs": engine.state.epoch,
            "engine": "monai.bundle",
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        write_weights(
            self.folder / "model.safetensors",
            config,
            self.lesson.heads.spacing,
            self.lesson.described,
            self.lesson.task.kept(),
            record,
        )
