"""What is trained: a student with its teacher and its objective, or a network for any modalities.

Both are tasks of mmtk's training engine. Validation is the ground-truth loss alone, so that the best epochs of different
objectives are chosen by one number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmtk.training.task import Task
from mmtk_kd.losses import GroundTruth, Objective
from mmtk_kd.networks import CLASSES, UHVED, recorded

__all__ = ["Answer", "Distilling", "HeadBatch", "HeteroModal", "one_hot", "prepare_heads"]


@dataclass(frozen=True, eq=False)
class HeadBatch:
    """Heads, or patches of them.

    Attributes:
        image: ``(B, 4, *space)``, all modalities.
        truth: ``(B, classes, *space)``, one-hot.
    """

    image: Tensor
    truth: Tensor

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True, eq=False)
class Answer:
    """What student and teacher make of a batch: features by the names of layers, ``output`` the logits.

    Attributes:
        extra: What a network adds to the loss of its own; a scalar.
    """

    student: Mapping[str, Tensor]
    teacher: Mapping[str, Tensor]
    extra: Tensor | None = None

    @property
    def logits(self) -> Tensor:
        """``(B, classes, *space)``."""
        return self.student["output"]


def one_hot(labels: Tensor, classes: int = len(CLASSES)) -> Tensor:
    """Return ``(B, classes, *space)`` float32 for classes ``(B, 1, *space)``."""
    return F.one_hot(labels[:, 0], classes).movedim(-1, 1).float().contiguous()


def prepare_heads(
    data: Mapping[str, Any], device: torch.device | str | None = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[HeadBatch, HeadBatch]:
    """Return input and target for MONAI's engines: a batch is both."""
    image = data["image"].to(device or "cpu", non_blocking=non_blocking)
    batch = HeadBatch(image, one_hot(data["labels"].to(image.device)))
    return batch, batch


class _Student(nn.Module):
    """The student, beside it the teacher, which is no part of what is trained or kept."""

    def __init__(
        self,
        network: nn.Module,
        channels: Sequence[int],
        objective: Objective,
        teacher: nn.Module | None,
        teacher_channels: Sequence[int],
        half: bool,
    ) -> None:
        super().__init__()
        self.network, self.objective = network, objective
        self.channels, self.teacher_channels, self.narrow = list(channels), list(teacher_channels), half
        self._teacher = [] if teacher is None else [teacher.eval().requires_grad_(False)]  # a list: no submodule

    def forward(self, batch: HeadBatch) -> Answer:
        image = batch.image
        with torch.autocast(image.device.type, torch.bfloat16, enabled=self.narrow):
            ours = _seen(self.network, image[:, self.channels], self.objective.layers if self.training else ())
            theirs: dict[str, Tensor] = {}
            if self._teacher and self.training and self.objective.taught:
                with torch.no_grad():
                    teacher = self._teacher[0].to(image.device)
                    theirs = _seen(teacher, image[:, self.teacher_channels], self.objective.taught)
        return Answer({k: v.float() for k, v in ours.items()}, {k: v.float() for k, v in theirs.items()})


def _seen(network: nn.Module, image: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
    with recorded(network, [name for name in layers if name != "output"]) as found:
        logits = network(image)
    return {**found, "output": logits}


class _ObjectiveLoss(nn.Module):
    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, answer: Answer, batch: HeadBatch) -> Tensor:
        total: Tensor = self.objective(dict(answer.student), dict(answer.teacher), batch.truth)
        return total if answer.extra is None else total + answer.extra


class _Segmenting(Task):
    """What both have in common: the validation, and what is kept."""

    def __init__(self, network: nn.Module, inner: nn.Module, objective: Objective) -> None:
        self.network, self.inner = network, inner
        self.loss = _ObjectiveLoss(objective)
        self.prepare = prepare_heads
        self._truth = GroundTruth()
        self.forget()

    def costs(self, answer: Answer, batch: HeadBatch) -> Tensor:
        logits = answer.logits
        return torch.stack([self._truth(logits[i : i + 1], batch.truth[i : i + 1]) for i in range(len(batch))])

    @torch.no_grad()
    def see(self, items: Mapping[str, Any], answer: Answer) -> None:
        found = answer.logits.argmax(1, keepdim=True).cpu()
        truth = items["labels"]
        for name, members in (("ET", (3,)), ("TC", (1, 3)), ("WT", (1, 2, 3))):
            ours, theirs = (torch.isin(t, torch.tensor(members)) for t in (found, truth))
            for a, b in zip(ours, theirs, strict=True):
                if b.any():
                    overlap = 2 * float((a & b).sum()) / float(a.sum() + b.sum())
                    self._seen.setdefault(name, []).append(overlap)

    def forget(self) -> None:
        self._seen: dict[str, list[float]] = {}

    def means(self) -> dict[str, float]:
        return {f"dice_{name.lower()}": sum(v) / len(v) for name, v in self._seen.items()}

    def kept(self) -> Mapping[str, Tensor]:
        state: Mapping[str, Tensor] = self.inner.state_dict()
        return state


class Distilling(_Segmenting):
    """A student that learns from the reference, and from a teacher that sees all modalities.

    Args:
        student: Takes ``channels`` of the four.
        objective: What is lowered.
        channels: Which modalities the student sees, as places in T1, T1ce, T2, FLAIR.
        teacher: A trained network, frozen; None where the objective asks for none.
        teacher_channels: Which it sees.
        example: A batch like those to come: heads and critics of the objective are made for its size.
        half: Convolve in bfloat16; losses are of float32.
    """

    def __init__(
        self,
        student: nn.Module,
        objective: Objective,
        channels: Sequence[int],
        *,
        teacher: nn.Module | None = None,
        teacher_channels: Sequence[int] = (0, 1, 2, 3),
        example: HeadBatch | None = None,
        half: bool = False,
    ) -> None:
        network = _Student(student, channels, objective, teacher, teacher_channels, half)
        super().__init__(network, student, objective)
        if example is not None:
            network.train()
            with torch.no_grad():
                self.loss(network(example), example)


class _AnyModalities(nn.Module):
    def __init__(self, network: nn.Module, tested: Sequence[int], half: bool) -> None:
        super().__init__()
        self.network, self.tested, self.narrow = network, list(tested), half

    def forward(self, batch: HeadBatch) -> Answer:
        image, extra = batch.image, None
        present = self.tested
        if self.training:  # any of the subsets, equally likely
            drawn = int(torch.randint(1, 2 ** image.shape[1], ()))
            present = [k for k in range(image.shape[1]) if drawn >> k & 1]
        with torch.autocast(image.device.type, torch.bfloat16, enabled=self.narrow):
            if self.training and isinstance(self.network, UHVED):
                logits, painted, divergence = self.network.learn(image[:, present], present)
                extra = 0.1 * (F.mse_loss(painted.float(), image) + divergence.float())
            else:
                logits = self.network(image[:, present], present)
        return Answer({"output": logits.float()}, {}, extra)


class HeteroModal(_Segmenting):
    """U-HVED or HeMIS: modalities are left out at random, and one network takes whatever is there.

    Args:
        network: Called as ``network(image, present)``.
        objective: On the logits; :class:`UHVED` adds a tenth of what its reconstruction and its divergence cost.
        tested: Modalities that it is validated with.
    """

    def __init__(
        self, network: nn.Module, objective: Objective, tested: Sequence[int], half: bool = False
    ) -> None:
        super().__init__(_AnyModalities(network, tested, half), network, objective)
