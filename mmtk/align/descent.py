"""Levenberg and Marquardt's damped Gauss-Newton steps on a motion.

An accepted step costs one evaluation, which is also the next step's linearization. The best placement is the
last accepted one: a step that does not lower the cost is never taken.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mmtk.align.likeness import Likeness
from mmtk.align.motion import Motion

__all__ = ["Report", "descend"]

#: Called with the cost of every placement that is visited.
Report = Callable[[float], None]

#: Longest step, in radii (and radians); a linearization does not reach further.
LONGEST = 0.3
#: A step that moves the foreground's rim by less than this, in steps of the lattice, ends the descent.
SHORTEST = 2e-3
#: So does one that lowers the cost by less than this share.
RELATIVE = 1e-5


def descend(
    likeness: Likeness,
    start: np.ndarray,
    motion: Motion,
    evaluations: int,
    report: Report | None = None,
) -> np.ndarray:
    """Return the best matrix found, after at most ``evaluations`` linearizations."""
    matrix, here, damping = start, likeness.slope(start, motion), 1e-3
    smallest = SHORTEST * likeness.step / motion.radius
    for _ in range(evaluations - 1):
        if report is not None:
            report(here.cost)
        curvature = np.diag(here.hessian)
        if not curvature.max() > 0:
            break
        damped = here.hessian + np.diag(damping * curvature + 1e-9 * curvature.max())
        delta = -np.linalg.solve(damped, here.gradient)
        delta *= min(1.0, LONGEST / max(np.abs(delta).max(), 1e-300))
        trial = matrix @ motion.exponential(delta)
        there = likeness.slope(trial, motion)
        size = np.abs(delta).max()
        if there.cost < here.cost:
            ended = size < smallest or here.cost - there.cost < RELATIVE * here.cost
            matrix, here, damping = trial, there, max(damping / 5, 1e-6)
            if ended:
                break
        else:
            damping *= 10
            if size < smallest or damping > 1e4:
                break
    return matrix
