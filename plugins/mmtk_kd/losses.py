r"""What a student learns from: the reference segmentation, and what its teacher makes of all modalities.

Each loss compares one thing of the student with one of the truth or the teacher, ``loss(prediction, truth)``, and knows
no network: :func:`mmtk_kd.networks.recorded` gives the features of any layer that has a name. The loss of a batch is the
mean over its elements, and the mean over voxels where the thesis sums over them, so that weights do not depend on the
size of a patch.

    logits      (B, classes, *space)    of softmax; of one channel: of its sigmoid
    truth       (B, classes, *space)    shares in [0, 1], one-hot for a label map
    features    (B, C, *space)          of one layer, student's and teacher's of one shape

Equations and symbols: Maillard's thesis (2023), chapter 3; T is the teacher, S the student, sigma the softmax.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from mmtk.errors import ConfigError, GridMismatch

__all__ = [
    "Adversarial",
    "AttentionTransfer",
    "BottleneckDivergence",
    "Contrastive",
    "GroundTruth",
    "InfoNCE",
    "Objective",
    "SoftTargets",
    "Term",
    "attention_map",
]

_TINY = 1e-12


def _check(prediction: Tensor, truth: Tensor) -> None:
    if prediction.shape[2:] != truth.shape[2:]:
        raise GridMismatch("prediction", tuple(prediction.shape[2:]), "truth", tuple(truth.shape[2:]))
    if prediction.shape != truth.shape:
        raise ConfigError(
            f"prediction has shape {tuple(prediction.shape)} and truth {tuple(truth.shape)}; both need one number of "
            f"elements and channels: compare layers of one width"
        )


class GroundTruth(nn.Module):
    r"""Dice and cross-entropy against the reference, eq. 3.6: :math:`(1 - Dice) + CE`, of MONAI.

    Args:
        form: ``dice_ce``; ``dice_focal``: with :math:`(1 - p)^\gamma` times each voxel's cross-entropy;
            ``focal_dice``: the focal Dice of thesis 2.4.1 alone, the mean of :math:`(1 - Dice_c)^{1/\gamma}`.
        gamma: Of the focal forms; 0 for ``dice_focal`` and 1 for ``focal_dice`` are the plain forms.
        background: Count the Dice of the first class, too; of one channel it always counts.
    """

    def __init__(
        self,
        form: Literal["dice_ce", "dice_focal", "focal_dice"] = "dice_ce",
        gamma: float = 2.0,
        background: bool = False,
    ) -> None:
        super().__init__()
        self.form, self.gamma, self.background = form, gamma, background

    def forward(self, prediction: Tensor, truth: Tensor) -> Tensor:
        """Return the loss of logits against shares."""
        from monai.losses import DiceCELoss, DiceLoss

        _check(prediction, truth)
        one = prediction.shape[1] == 1
        shared: dict[str, Any] = {"softmax": not one, "sigmoid": one, "include_background": one or self.background}
        if self.form == "dice_ce":
            return DiceCELoss(**shared)(prediction, truth)
        each = DiceLoss(**shared, reduction="none")(prediction, truth)
        if self.form == "dice_focal":
            return each.mean() + self._focal(prediction, truth)
        return (each.clamp(min=0) + _TINY).pow(1 / self.gamma).mean()

    def _focal(self, prediction: Tensor, truth: Tensor) -> Tensor:
        logs = _two(prediction).log_softmax(1)
        shares = torch.cat([1 - truth, truth], 1) if truth.shape[1] == 1 else truth
        return -(shares * (1 - logs.exp()).clamp(min=_TINY).pow(self.gamma) * logs).sum(1).mean()


class SoftTargets(nn.Module):
    r"""Knowledge distillation, eq. 3.1, 3.2 and 3.7: :math:`CE[\sigma(f_T(I)/T), \sigma(f_S(I_k)/T)]`, by voxels.

    The teacher sees all modalities, :math:`f_T(I)`; eq. 3.7 prints :math:`f_T(I_k)`, against its text and
    eq. 3.1.

    Args:
        temperature: T; 1: the probabilities as they are, the larger, the softer.
    """

    def __init__(self, temperature: float = 3.0) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, prediction: Tensor, truth: Tensor) -> Tensor:
        """Return the cross-entropy of the student's logits with the teacher's."""
        _check(prediction, truth)
        ours, theirs = (_two(t) / self.temperature for t in (prediction, truth))
        return -(theirs.softmax(1) * ours.log_softmax(1)).sum(1).mean()


def _two(logits: Tensor) -> Tensor:
    """Return logits of at least two classes: of one, beside it the class that it is not."""
    return torch.cat([torch.zeros_like(logits), logits], 1) if logits.shape[1] == 1 else logits


def attention_map(features: Tensor, power: float = 2.0, reduce: str = "sum") -> Tensor:
    r"""Return where a layer looks, ``(B, 1, *space)``: the sum, or the maximum, over channels of :math:`|F_i|^p`."""
    strength = features.abs().pow(power)
    return strength.sum(1, keepdim=True) if reduce == "sum" else strength.amax(1, keepdim=True)


class AttentionTransfer(nn.Module):
    r"""Attention transfer, eq. 3.3: :math:`\| A^T / \|A^T\| - A^S / \|A^S\| \|` of one layer.

    Args:
        power: p of the maps; the thesis takes 2 (and the bottleneck as the layer).
        reduce: ``sum`` or ``max`` over the channels.
    """

    def __init__(self, power: float = 2.0, reduce: Literal["sum", "max"] = "sum") -> None:
        super().__init__()
        self.power, self.reduce = power, reduce

    def forward(self, prediction: Tensor, truth: Tensor) -> Tensor:
        """Return the distance of the maps of two layers' features; their numbers of channels may differ."""
        if prediction.shape[2:] != truth.shape[2:]:
            raise GridMismatch("prediction", tuple(prediction.shape[2:]), "truth", tuple(truth.shape[2:]))
        ours, theirs = (_unit(attention_map(t, self.power, self.reduce)) for t in (prediction, truth))
        return _norm(ours - theirs).mean()


def _unit(maps: Tensor) -> Tensor:
    flat = maps.flatten(1)
    return flat / _norm(flat)[:, None].clamp(min=1e-8)


def _norm(rows: Tensor) -> Tensor:
    """Return the length of each row, with a gradient of 0 at 0."""
    return (rows.square().sum(1) + _TINY).sqrt() - _TINY**0.5


class BottleneckDivergence(nn.Module):
    r"""Kullback-Leibler divergence of two layers' features, eq. 3.5: :math:`\sum_j q(j) \log (q(j) / p(j))`.

    ``p`` is the student's and ``q`` the teacher's, flattened and normalized: not symmetric, and in this order.

    Args:
        normalize: ``softmax`` over all entries; ``sum``: absolute values divided by their sum. The thesis says
            "normalized", not how.
    """

    def __init__(self, normalize: Literal["softmax", "sum"] = "softmax") -> None:
        super().__init__()
        self.normalize = normalize

    def forward(self, prediction: Tensor, truth: Tensor) -> Tensor:
        """Return the divergence of the student's features from the teacher's."""
        _check(prediction, truth)
        ours, theirs = (self._log(t.flatten(1)) for t in (prediction, truth))
        return (theirs.exp() * (theirs - ours)).sum(1).mean()

    def _log(self, flat: Tensor) -> Tensor:
        if self.normalize == "softmax":
            return flat.log_softmax(1)
        positive = flat.abs() + 1e-6
        return (positive / positive.sum(1, keepdim=True)).log()


class _Projected(nn.Module):
    """A loss of projected features: the head g is made when the first features are seen, for their size.

    Args:
        hidden, out: Widths of the head's two layers.
        pool: The features are averaged over cells of so many voxels an axis first; 0: over all of them.
    """

    def __init__(self, hidden: int, out: int, pool: int) -> None:
        super().__init__()
        self.hidden, self.out, self.pool = hidden, out, pool
        self.head: nn.Module | None = None

    def prepare(self, features: Tensor) -> None:
        """Make the head for features of this size, if there is none: its weights are the optimizer's to change."""
        if self.head is None:
            width = self._pooled(features).shape[1]
            head = nn.Sequential(nn.Linear(width, self.hidden), nn.ReLU(), nn.Linear(self.hidden, self.out))
            self.head = head.to(features.device, features.dtype)

    def _pooled(self, features: Tensor) -> Tensor:
        if self.pool == 0:
            return features.flatten(2).mean(2)
        average = F.avg_pool2d if features.ndim == 4 else F.avg_pool3d
        return average(features, min(self.pool, *features.shape[2:]), ceil_mode=True).flatten(1)

    def project(self, features: Tensor) -> Tensor:
        """Return ``g(F)``, ``(B, out)``."""
        self.prepare(features)
        assert self.head is not None
        projected: Tensor = self.head(self._pooled(features))
        return projected


class Contrastive(_Projected):
    r"""Contrastive distillation, eq. 3.4, with its projection head.

    .. math:: \|g(F_i^S) - g(F_i^T)\|^2 + \sum_{j \ne i} \max(0, \xi - \|g(F_j^S) - g(F_i^T)\|)^2

    Args:
        margin: xi: student and teacher of two heads are pushed apart as far as this.
        hidden, out: Widths of the head's two layers.
        pool: Cells that the features are averaged over before, voxels an axis (thesis: 2); 0: all of them.
    """

    def __init__(self, margin: float = 1.0, hidden: int = 64, out: int = 32, pool: int = 2) -> None:
        super().__init__(hidden, out, pool)
        self.margin = margin

    def forward(self, prediction: Tensor, truth: Tensor) -> Tensor:
        """Return the loss of the batch's features; its elements are compared with one another."""
        _check(prediction, truth)
        ours, theirs = self.project(prediction), self.project(truth)
        same = (ours - theirs).square().sum(1)
        gaps = theirs[:, None] - ours[None]  # i, j
        distances = (gaps.square().sum(2) + _TINY).sqrt()
        others = 1 - torch.eye(len(ours), device=ours.device, dtype=ours.dtype)
        apart = (others * (self.margin - distances).clamp(min=0).square()).sum(1)
        return (same + apart).mean()


class InfoNCE(_Projected):
    r"""InfoNCE between student and teacher (thesis 3.2.3), ``sim`` the exponential of the cosine over a temperature.

    .. math:: -\frac{1}{N} \sum_i \log \frac{sim(g(F_i^S), g(F_i^T))}{\sum_{j \ne i} sim(g(F_j^S), g(F_i^T))}

    The sum leaves ``i`` out, as the thesis prints it; a batch of one has nothing to be compared with, and no loss.

    Args:
        temperature: Of the cosine.
        hidden, out, pool: As of :class:`Contrastive`.
    """

    def __init__(self, temperature: float = 0.1, hidden: int = 64, out: int = 32, pool: int = 2) -> None:
        super().__init__(hidden, out, pool)
        self.temperature = temperature

    def forward(self, prediction: Tensor, truth: Tensor) -> Tensor:
        """Return the loss of the batch's features."""
        _check(prediction, truth)
        ours, theirs = self.project(prediction), self.project(truth)
        if len(ours) == 1:
            return 0 * ours.sum()
        cosines = F.normalize(theirs, dim=1) @ F.normalize(ours, dim=1).T / self.temperature
        same = torch.eye(len(ours), device=ours.device, dtype=torch.bool)
        return (torch.logsumexp(cosines.masked_fill(same, -torch.inf), 1) - cosines.diagonal()).mean()


class _Critic(nn.Module):
    """Judges features of several layers, finest first: each joins where the judge's own have come down to its size."""

    def __init__(self, channels: Sequence[int], dim: int, width: int, depth: int, bounded: bool) -> None:
        super().__init__()
        convolution = nn.Conv2d if dim == 2 else nn.Conv3d
        self.activation: nn.Module = nn.Tanh() if bounded else nn.LeakyReLU(0.2)
        joins = [*channels, *[0] * (depth - len(channels))]
        self.levels = nn.ModuleList(
            convolution((width if k else 0) + joined, width, 3, stride=2, padding=1)
            for k, joined in enumerate(joins)
        )
        self.verdict = nn.Linear(width, 1)

    def forward(self, *layers: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the verdicts ``(B, 1)`` and the features of every level."""
        here, found = layers[0][:, :0], []
        for k, level in enumerate(self.levels):
            if k < len(layers):
                joined = layers[k]
                if k and here.shape[2:] != joined.shape[2:]:
                    mode = "bilinear" if joined.ndim == 4 else "trilinear"
                    here = F.interpolate(here, joined.shape[2:], mode=mode, align_corners=False)
                here = torch.cat([here, joined], 1) if k else joined
            here = self.activation(level(here))
            found.append(here)
        return self.verdict(here.flatten(2).mean(2)), found


class Adversarial(nn.Module):
    """A critic that tells student from teacher, and a student that lowers its success.

    ``forward`` is the student's loss, which does not change the critic; :meth:`critic_loss` is the critic's, which does
    not change the student. Their sum trains both by one optimizer.

    Args:
        form: ``had``: one critic sees several layers of the decoder at once and says which of the two they are of, the
            hierarchical form of HAD-Net (thesis, fig. 3.5); ``multi_scale_l1``: the critic's features at every level are
            to be alike, and apart for the critic (SegAN; thesis 2.4.1 and fig. 2.6). Its features are within -1 and 1,
            so that the critic cannot win by growing.
        width, depth: Channels and levels of the critic, each of which halves the size.

    References:
        S. Vadacchino et al., "HAD-Net", MIDL 2021; Y. Xue et al., "SegAN", Neuroinformatics 16 (2018) 383-392.
    """

    def __init__(self, form: Literal["had", "multi_scale_l1"] = "had", width: int = 16, depth: int = 3) -> None:
        super().__init__()
        self.form, self.width, self.depth = form, width, depth
        self.critic: nn.Module | None = None

    def prepare(self, features: Tensor | Sequence[Tensor]) -> None:
        """Make the critic for features of these sizes, if there is none."""
        if self.critic is None:
            layers = _several(features)
            channels, dim = [t.shape[1] for t in layers], layers[0].ndim - 2
            depth = max(self.depth, len(layers))
            critic = _Critic(channels, dim, self.width, depth, self.form == "multi_scale_l1")
            self.critic = critic.to(layers[0].device, layers[0].dtype)

    def forward(self, prediction: Tensor | Sequence[Tensor], truth: Tensor | Sequence[Tensor]) -> Tensor:
        """Return the student's loss.

        Args:
            prediction, truth: Features of one layer, or of several, finest first.
        """
        ours, theirs = _several(prediction), _several(truth)
        for a, b in zip(ours, theirs, strict=True):
            _check(a, b)
        self.prepare(ours)
        assert self.critic is not None
        frozen = {name: p.detach() for name, p in self.critic.named_parameters()}
        verdict, found = functional_call(self.critic, frozen, tuple(ours))
        if self.form == "had":
            return F.binary_cross_entropy_with_logits(verdict, torch.ones_like(verdict))
        expected = functional_call(self.critic, frozen, tuple(theirs))[1]
        return torch.stack([(a - b).abs().mean() for a, b in zip(found, expected, strict=True)]).mean()

    def critic_loss(self, prediction: Tensor | Sequence[Tensor], truth: Tensor | Sequence[Tensor]) -> Tensor:
        """Return the critic's loss: small where it tells the two apart."""
        ours, theirs = ([t.detach() for t in _several(side)] for side in (prediction, truth))
        self.prepare(ours)
        assert self.critic is not None
        (fake, found), (real, expected) = self.critic(*ours), self.critic(*theirs)
        if self.form == "had":
            told = F.binary_cross_entropy_with_logits
            return 0.5 * (told(real, torch.ones_like(real)) + told(fake, torch.zeros_like(fake)))
        return -torch.stack([(a - b).abs().mean() for a, b in zip(found, expected, strict=True)]).mean()


def _several(features: Tensor | Sequence[Tensor]) -> list[Tensor]:
    return [features] if isinstance(features, Tensor) else list(features)


@dataclass(frozen=True, eq=False)
class Term:
    """One term of an objective.

    Attributes:
        loss: What compares.
        weight: >= 0.
        layers: Names of the layers whose features are compared, each on its own; ``output`` are the logits. An
            adversarial loss sees them together, finest first.
        against: ``truth``: the reference; ``teacher``: the teacher's features of the same layers.
    """

    loss: nn.Module
    weight: float = 1.0
    layers: tuple[str, ...] = ("output",)
    against: Literal["truth", "teacher"] = "truth"


class Objective(nn.Module):
    r"""A weighted sum of terms, such as eq. 3.8: :math:`L = \lambda L_{KD} + (1 - \lambda) L_{GT} + \alpha L_{KL}`."""

    def __init__(self, terms: Sequence[Term]) -> None:
        super().__init__()
        self.terms = tuple(terms)
        self.losses = nn.ModuleList(term.loss for term in self.terms)

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that it asks the student for."""
        return tuple(dict.fromkeys(name for term in self.terms for name in term.layers))

    @property
    def taught(self) -> tuple[str, ...]:
        """The layers that it asks the teacher for; none: it needs no teacher."""
        return tuple(dict.fromkeys(n for term in self.terms if term.against == "teacher" for n in term.layers))

    def forward(self, student: dict[str, Tensor], teacher: dict[str, Tensor], truth: Tensor) -> Tensor:
        """Return the sum, the critics' own losses included.

        Args:
            student, teacher: Features by the names of layers.
            truth: Shares of the classes ``(B, classes, *space)``.
        """
        total = truth.new_zeros(())
        for term in self.terms:
            ours = [student[name] for name in term.layers]
            theirs = (
                [truth] * len(ours)
                if term.against == "truth"
                else [teacher[name].detach() for name in term.layers]
            )
            if isinstance(term.loss, Adversarial):
                total = total + term.weight * term.loss(ours, theirs) + term.loss.critic_loss(ours, theirs)
            else:
                each = [term.loss(a, b) for a, b in zip(ours, theirs, strict=True)]
                total = total + term.weight * torch.stack(each).sum()
        return total
