"""What a registration hands back: frozen, and with the reason why it stopped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from torch import Tensor

from mmtk.fields import Grid

__all__ = ["LevelReport", "Outcome", "Registration"]


class Outcome(Enum):
    """Why an optimization stopped; the value is the sentence that a user reads."""

    CONVERGED = "the energy fell by less than `tolerance`"
    EXHAUSTED = "every iteration was used; if the energy was still falling, raise `iterations`"
    STALLED = "no step lowered the energy any more"
    FOREIGN = "another program registered; it does not say why it stopped"
    PREDICTED = "one pass of a network; nothing was optimized"
    NONFINITE = "the energy became NaN or infinite; lower `learning_rate` or raise `steps`"

    @property
    def ok(self) -> bool:
        """Whether the result may be used."""
        return self is not Outcome.NONFINITE


@dataclass(frozen=True)
class LevelReport:
    """One level of the pyramid: its sample spacing in mm, energies, evaluations, seconds and outcome."""

    size: float
    energies: tuple[float, ...]
    evaluations: int
    seconds: float
    outcome: Outcome

    @classmethod
    def of(cls, size: float, descent: Any, seconds: float) -> LevelReport:
        """Return the report of one descent (:class:`mmtk.optimize.Descent`)."""
        return cls(size, tuple(descent.energies), descent.evaluations, seconds, descent.outcome)


@dataclass(frozen=True, eq=False)
class Registration:
    """What a method found on the fixed image's grid.

    Attributes:
        grid: The fixed image's grid.
        displacement: ``(1, dim, *space)``, voxels: the pull-back ``x -> x + u(x)`` from a fixed voxel to where the
            affinely placed moving image is sampled.
        inverse: The displacement of the inverse map, on the same grid.
        appearance: ``(1, C, *space)`` intensity change in fixed space, in normalized intensity, exactly 0
            where the warped lesion mask is 0; None for methods without appearance.
        shape: The coefficients of the deformation and what is needed to rebuild it, by name.
        levels: What happened on each level.
        notes: Sentences that a user should read.
    """

    grid: Grid
    displacement: Tensor
    inverse: Tensor
    appearance: Tensor | None
    shape: Mapping[str, Tensor]
    levels: tuple[LevelReport, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def outcome(self) -> Outcome:
        """Why the last level stopped."""
        return self.levels[-1].outcome if self.levels else Outcome.CONVERGED

    @property
    def energies(self) -> tuple[float, ...]:
        """All energies, level after level. Levels do not share a scale."""
        return tuple(e for level in self.levels for e in level.energies)
