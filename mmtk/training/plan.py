"""How to train, and where a training stands: what goes into the engine, and what those who watch are told."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

__all__ = ["Plan", "Progress", "Status", "Watch", "ignore", "silent"]

#: Called as ``progress(epoch, iteration, iterations, energy)``.
Progress = Callable[[int, int, int, float], None]


def silent(epoch: int, iteration: int, iterations: int, energy: float) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Status:
    """Where a training stands, after each step and at the end of each epoch.

    Attributes:
        epoch, epochs: Which epoch, from 1, of how many at most.
        iteration, iterations: Which step of it, of how many.
        energy: Of the step, or the epoch's mean at its end.
        pairs: Seen so far, in earlier parts of the run, too.
        minutes: Of the processor, likewise, and ``budget``, how many it may use; None: any.
        best: Lowest energy of the validation pairs so far; infinite before the first validation.
        line: At the end of an epoch, what ``log.jsonl`` says of it.
    """

    epoch: int
    epochs: int
    iteration: int
    iterations: int
    energy: float
    pairs: int
    minutes: float
    budget: float | None = None
    best: float = math.inf
    line: Mapping[str, Any] | None = None

    @property
    def done(self) -> float:
        """The share of the epochs that is done, or of the processor's time if that is more: in [0, 1]."""
        epochs = (self.epoch - 1 + self.iteration / max(self.iterations, 1)) / max(self.epochs, 1)
        time = 0.0 if self.budget is None else self.minutes / self.budget
        return min(max(epochs, time), 1.0)


Watch = Callable[[Status], None]


def ignore(status: Status) -> None:
    """Watch nothing."""


@dataclass(frozen=True)
class Plan:
    """How to train.

    Attributes:
        epochs: At most.
        batch_size: Pairs for one step, on each process.
        learning_rate: Of Adam.
        seed: Of weights, orders and whatever is drawn.
        workers: Processes that make the data; 0: this one.
        validate_every: Epochs between validations.
        patience: Validations without a better one before it stops; 0: never.
        cpu_minutes: It stops after the epoch in which the training itself has used so many of the processor; none: no
            bound. Time of earlier parts of a resumed run counts.
        clip: Largest norm of a step's gradient; 0: any.
        decay: ``none``: the learning rate stays; ``cosine``: it falls to 0 over ``epochs``, or over ``cpu_minutes``
            where those end sooner; ``plateau``: it is multiplied by ``plateau_factor`` after ``plateau_epochs`` without
            a better validation, and training ends below ``least_rate``.
        augment: ``none``, or by the names of :data:`mmtk.training.augment.AMOUNTS`: pairs are shown in other ways, too.
        weight_decay: L2 penalty of Adam.
        use_mask: Give the model the lesion's mask. Without, appearance may change anywhere (ISBI 2022's "without local
            regularization"), and whatever the model does by the mask it leaves.
        tensorboard: Write the log for TensorBoard, too.
    """

    epochs: int = 20
    batch_size: int = 4
    learning_rate: float = 1e-3
    seed: int = 0
    workers: int = 0
    validate_every: int = 1
    patience: int = 0
    cpu_minutes: float | None = None
    clip: float = 0.0
    decay: str = "none"
    use_mask: bool = True
    tensorboard: bool = False
    weight_decay: float = 0.0
    plateau_epochs: int = 50
    plateau_factor: float = 0.2
    least_rate: float = 1e-8
    augment: str = "none"

    @classmethod
    def of(cls, config: Any, seed: int) -> Plan:
        """Return the plan that a training's description holds, by the same names; ``rate`` is the learning rate.

        Args:
            config: A :class:`~mmtk.training.config.Training`; what it does not say stays at its default.
            seed: Of weights, orders and whatever is drawn.
        """
        said = {one.name: getattr(config, one.name) for one in fields(cls) if hasattr(config, one.name)}
        return cls(**{**said, "learning_rate": config.rate, "seed": seed})
