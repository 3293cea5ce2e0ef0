"""What the engine has to know of whatever it trains: a registration, or anything else that a plugin brings.

items       dictionaries of tensors from a set; a loader collates them
batch       what the network is called with, and what its answer is compared with
answer      what the network says of a batch
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmtk.learned import Batch, Model, Prediction
from mmtk.training.augment import AMOUNTS, Amount, augmented
from mmtk.training.data import prepare_batch, prepare_unmasked
from mmtk.training.metrics import ValidationScores

__all__ = ["MeanEnergy", "Registering", "Task"]


class MeanEnergy(nn.Module):
    """The loss: the energy of a pair, averaged over the batch and over the volume, so per mm^dim."""

    def forward(self, prediction: Prediction, batch: Batch) -> Tensor:
        voxels = math.prod(batch.fixed.shape[2:])
        return prediction.energy.mean() / voxels


class Task(ABC):
    """Something to be trained.

    Attributes:
        network: All that the optimizer may change, and what else must be kept for a stopped run to go on.
        loss: Called as ``loss(answer, batch)``; a scalar.
        prepare: MONAI's ``prepare_batch``: of items, the network's input and the target.
        prepare_training: The same of what is trained on, where that differs from what is validated on.
    """

    network: nn.Module
    loss: nn.Module
    prepare: Callable[..., tuple[Any, Any]]
    prepare_training: Callable[..., tuple[Any, Any]] | None = None

    @abstractmethod
    def costs(self, answer: Any, batch: Any) -> Tensor:
        """Return ``(B,)``, one number for each element of a batch; its mean over the held-out ones chooses the epoch."""

    def see(self, items: Mapping[str, Any], answer: Any) -> None:  # noqa: B027 (may be left out)
        """Measure more of a batch of held-out items."""

    def forget(self) -> None:  # noqa: B027
        """Begin to measure anew."""

    def means(self) -> dict[str, float]:
        """Return what was measured since, for the log."""
        return {}

    def kept(self) -> Mapping[str, Tensor]:
        """Return what is to be kept of the best epoch: the weights that a user wants."""
        state: Mapping[str, Tensor] = self.network.state_dict()
        return state


class Registering(Task):
    """A learned registration: its loss is its energy.

    Args:
        model: Its weights are changed in place.
        use_mask: Give it the lesion's mask.
        augment: Show pairs that are trained on in other ways, too: ``none``, ``small`` or ``large``.
    """

    def __init__(self, model: Model, use_mask: bool = True, augment: str = "none") -> None:
        self.network: Model = model
        self.loss = MeanEnergy()
        self.prepare = prepare_batch if use_mask else prepare_unmasked
        if augment != "none":
            self.prepare_training = self._varied(AMOUNTS[augment])
        self._scores = ValidationScores(model.grid)

    def _varied(self, amount: Amount) -> Callable[..., tuple[Batch, Batch]]:
        def prepare(*args: Any, **kwargs: Any) -> tuple[Batch, Batch]:
            batch = augmented(self.prepare(*args, **kwargs)[0], self.network.grid, amount)
            return batch, batch

        return prepare

    def costs(self, answer: Prediction, batch: Batch) -> Tensor:
        return answer.energy / math.prod(batch.fixed.shape[2:])

    @torch.no_grad()
    def see(self, items: Mapping[str, Any], answer: Prediction) -> None:
        self._scores.see(items, answer)

    def forget(self) -> None:
        self._scores.reset()

    def means(self) -> dict[str, float]:
        return self._scores.means()
