"""Limited-memory BFGS and Adam on plain tensors, with the best iterate kept.

Building any optimizer of ``torch.optim`` imports its compiler stack, 1.5 s that a registration of a few seconds
has no use for; and a registration wants three things that those do not give: one evaluation per iteration while
the unit step serves, a first step of a known length, and an answer that is never worse than the start.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mmtk.result import Outcome

__all__ = ["Descent", "Objective", "adam", "lbfgs"]

#: From the flat unknowns to the energy and its gradient.
Objective = Callable[[Tensor], tuple[float, Tensor]]
#: Called after every accepted iterate with its number and its energy.
Watcher = Callable[[int, float], None]


@dataclass
class Descent:
    """What a minimizer found: the best iterate, its energy, every accepted energy, and why it stopped."""

    unknowns: Tensor
    energy: float
    energies: list[float] = field(default_factory=list)
    evaluations: int = 0
    outcome: Outcome = Outcome.EXHAUSTED


def lbfgs(
    objective: Objective,
    start: Tensor,
    evaluations: int,
    *,
    first_step: Callable[[Tensor], float],
    tolerance: float = 0.0,
    memory: int = 12,
    watch: Watcher | None = None,
) -> Descent:
    """Minimize by L-BFGS with a backtracking line search.

    A pair of differences enters the history only where its curvature is positive (the part of the Wolfe
    conditions that L-BFGS lives on); the unit step is tried first and nearly always taken.

    Args:
        objective: Returns energy and gradient.
        start: Flat unknowns.
        evaluations: At most so many calls of ``objective``.
        first_step: From the first gradient to the length (Euclidean) of the first step: neither lost nor wild.
        tolerance: Stop when three iterations together lower the energy by less than this part of it; 0: never.

    Returns:
        The best iterate; the start itself if nothing was better.
    """
    x = start
    energy, gradient = objective(x)
    found = Descent(x, energy, [energy], 1)
    if not math.isfinite(energy) or not bool(torch.isfinite(gradient).all()):
        found.outcome = Outcome.NONFINITE
        return found
    steps: list[Tensor] = []
    changes: list[Tensor] = []
    while found.evaluations < evaluations:
        size = float(gradient.norm())
        if size == 0.0:
            found.outcome = Outcome.CONVERGED
            break
        direction = -_two_loops(gradient, steps, changes)
        if not steps:
            direction = direction * (first_step(gradient) / size)
        slope = float(torch.dot(gradient, direction))
        if not slope < 0:
            steps.clear()
            changes.clear()
            direction = gradient * (-first_step(gradient) / size)
            slope = float(torch.dot(gradient, direction))
        trial = _backtrack(objective, x, energy, direction, slope, found, evaluations)
        if trial is None:
            found.outcome = Outcome.EXHAUSTED if found.evaluations >= evaluations else Outcome.STALLED
            break
        new, new_energy, new_gradient = trial
        step, change = new - x, new_gradient - gradient
        if float(torch.dot(step, change)) > 1e-10 * float(step.norm() * change.norm()):
            steps.append(step)
            changes.append(change)
            if len(steps) > memory:
                steps.pop(0)
                changes.pop(0)
        x, energy, gradient = new, new_energy, new_gradient
        found.energies.append(energy)
        found.unknowns, found.energy = x, energy
        if watch is not None:
            watch(found.evaluations, energy)
        if len(found.energies) > 3 and found.energies[-4] - energy < tolerance * abs(energy):
            found.outcome = Outcome.CONVERGED
            break
    return found


def _two_loops(gradient: Tensor, steps: list[Tensor], changes: list[Tensor]) -> Tensor:
    q = gradient.clone()
    weights = []
    for s, y in zip(reversed(steps), reversed(changes), strict=True):
        weight = torch.dot(s, q) / torch.dot(s, y)
        q -= weight * y
        weights.append(weight)
    if steps:
        q *= torch.dot(steps[-1], changes[-1]) / torch.dot(changes[-1], changes[-1])
    for s, y, weight in zip(steps, changes, reversed(weights), strict=True):
        q += s * (weight - torch.dot(y, q) / torch.dot(s, y))
    return q


def _backtrack(
    objective: Objective,
    x: Tensor,
    energy: float,
    direction: Tensor,
    slope: float,
    found: Descent,
    evaluations: int,
) -> tuple[Tensor, float, Tensor] | None:
    """Halve (by a parabola, within [0.1, 0.5]) until the energy falls enough; None if it never does."""
    length = 1.0
    for _ in range(8):
        if found.evaluations >= evaluations:
            return None
        new = x + length * direction
        new_energy, new_gradient = objective(new)
        found.evaluations += 1
        finite = math.isfinite(new_energy) and bool(torch.isfinite(new_gradient).all())
        if finite and new_energy <= energy + 1e-4 * length * slope:
            return new, new_energy, new_gradient
        best = -slope * length**2 / (2 * (new_energy - energy - slope * length)) if finite else 0.0
        length = min(max(best, 0.1 * length), 0.5 * length)
    return None


def adam(
    objective: Objective,
    start: Tensor,
    evaluations: int,
    *,
    learning_rate: float,
    tolerance: float = 0.0,
    watch: Watcher | None = None,
) -> Descent:
    """Minimize by Adam (Kingma & Ba, 2015, with its default decay rates), the optimizer of the papers.

    Args and return value as :func:`lbfgs`; ``learning_rate`` is in the unit of the unknowns.
    """
    x = start.clone()
    mean, square = torch.zeros_like(x), torch.zeros_like(x)
    found = Descent(start, math.inf)
    for k in range(1, evaluations + 1):
        energy, gradient = objective(x)
        found.evaluations = k
        if not math.isfinite(energy) or not bool(torch.isfinite(gradient).all()):
            found.outcome = Outcome.NONFINITE
            break
        found.energies.append(energy)
        if energy < found.energy:
            found.unknowns, found.energy = x.clone(), energy
        if watch is not None:
            watch(k, energy)
        recent = found.energies[-11:]
        if tolerance and len(recent) == 11 and recent[0] - min(recent[1:]) < tolerance * abs(energy):
            found.outcome = Outcome.CONVERGED
            break
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        x = x - learning_rate * (mean / (1 - 0.9**k)) / ((square / (1 - 0.999**k)).sqrt() + 1e-8)
    return found
