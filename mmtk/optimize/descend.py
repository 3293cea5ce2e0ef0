"""One level of a registration, minimized by the optimizer that the settings name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor

from mmtk.optimize.lbfgs import Descent, adam, lbfgs

__all__ = ["LevelObjective", "OptimizerSettings", "minimize"]


class OptimizerSettings(Protocol):
    """The settings that choose and tune the optimizer."""

    @property
    def levels(self) -> Sequence[float]: ...
    @property
    def optimizer(self) -> str: ...
    @property
    def learning_rate(self) -> float | None: ...
    @property
    def tolerance(self) -> float: ...


class LevelObjective(Protocol):
    """An energy with its gradient, which knows how far a first step may go."""

    def __call__(self, flat: Tensor, /) -> tuple[float, Tensor]: ...
    def first_step(self, gradient: Tensor) -> float: ...


def minimize(
    objective: LevelObjective,
    start: Tensor,
    iterations: int,
    settings: OptimizerSettings,
    progress: Callable[[int, int, int, int, float], None],
    level: int,
) -> Descent:
    """Minimize one level's energy with at most ``iterations`` evaluations.

    Args:
        objective: The energy on flat unknowns.
        start: Where to begin.
        iterations: Evaluations of energy and gradient.
        settings: ``lbfgs`` or ``adam``; Adam's learning rate, in the unit of the unknowns, is the first L-BFGS step's
            greatest component unless given.
        progress: Told of every accepted iterate.
        level: Which level this is, from 0.
    """
    levels = len(settings.levels)

    def watch(iteration: int, energy: float) -> None:
        progress(level, levels, iteration, iterations, energy)

    if settings.optimizer == "lbfgs":
        return lbfgs(
            objective,
            start,
            iterations,
            first_step=objective.first_step,
            tolerance=settings.tolerance,
            watch=watch,
        )
    rate = settings.learning_rate
    if rate is None:
        gradient = objective(start)[1]
        size = float(gradient.norm())
        rate = 0.2 * objective.first_step(gradient) * float(gradient.abs().amax()) / size if size else 1.0
    return adam(objective, start, iterations, learning_rate=rate, tolerance=settings.tolerance, watch=watch)
