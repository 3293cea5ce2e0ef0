"""From a network's answer downhill: the start of an optimization instead of its rival."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from mmtk.learned.model import Batch, Model
from mmtk.optimize import Descent, lbfgs

__all__ = ["refine"]

#: Length of the first step, in lengths of what the network answered; the line search shortens it if need be.
FIRST = 0.02


def refine(
    model: Model, batch: Batch, evaluations: int, *, watch: Callable[[int, float], None] | None = None
) -> tuple[tuple[Tensor, ...], Descent]:
    """Lower a pair's energy, beginning at what the network says of it.

    The unknowns are the network's answer itself, its momenta or velocities, freed from the network. The energy is the
    one that it was trained by, so the result is never worse by it than the network's.

    Args:
        model: In evaluation mode; its weights stay as they are.
        batch: One pair, or several whose energies add up.
        evaluations: Of the energy with its gradient, at most.
        watch: Called with the number of the evaluation and the energy.

    Returns:
        The path to be handed to ``model.follow``, and how the descent went.
    """
    path = model.predict(batch)
    shapes, sizes = [p.shape for p in path], [p.numel() for p in path]

    def split(flat: Tensor) -> tuple[Tensor, ...]:
        return tuple(part.view(shape) for part, shape in zip(flat.split(sizes), shapes, strict=True))

    def objective(flat: Tensor) -> tuple[float, Tensor]:
        with torch.enable_grad():
            unknowns = flat.detach().requires_grad_(True)
            energy = model.follow(batch, split(unknowns)).energy.sum()
            value = float(energy.detach())
            if not math.isfinite(value):  # nothing to follow, and torch may crash on the way back
                return math.inf, torch.zeros_like(flat)
            (gradient,) = torch.autograd.grad(energy, unknowns)
        return value, gradient

    start = torch.cat([p.reshape(-1) for p in path])
    length = FIRST * float(start.norm()) or 1.0
    descent = lbfgs(objective, start, max(1, evaluations), first_step=lambda gradient: length, watch=watch)
    return split(descent.unknowns), descent
