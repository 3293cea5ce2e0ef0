"""The one loop over time, and what a path costs.

    E = data(I_1) + lambda * (kinetic + residual)

    kinetic     int_0^1 ||v_t||_V^2 dt            (B,)
    residual    int_0^1 mu^2 ||sqrt(m) z_t||^2 dt  (B,)

The integrals are the sums over the steps, times their length (thesis eq. 5.4), and the states carry them along.
The loop is a generator: what is kept of the path is the caller's choice. So is the memory of the backward pass:
with ``checkpoint`` each step keeps its state alone and is computed a second time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor
from torch.utils.checkpoint import checkpoint as recomputed

from mmtk.equations import Equation, SplitMetamorphosis
from mmtk.integrators import PLAIN, Context, Integrator, Shown
from mmtk.types import Image, Mask, Scalar

__all__ = ["Shot", "SplitShot", "shoot", "shoot_energy", "shoot_split"]

S = TypeVar("S", bound=Shown)


def shoot(
    equation: Equation, integrator: Integrator, start: S, steps: int, *, checkpoint: bool = False
) -> Iterator[S]:
    """Yield the states at ``0, 1/steps, ..., 1``; the caller keeps what it needs.

    Args:
        equation, integrator: What moves, and by which scheme.
        start: From ``integrator.begin``.
        steps: Time steps over [0, 1], at least 1.
        checkpoint: Recompute every step in the backward pass instead of keeping its intermediates. Values and
            gradients are the same to the bit.

    Raises:
        ValueError: If ``steps`` is below 1.
    """
    if steps < 1:
        raise ValueError(f"a path needs at least one time step, not {steps}")
    state = start
    yield state
    for _ in range(steps):
        if checkpoint:
            state = recomputed(
                integrator.step, equation, state, 1 / steps, use_reentrant=False, preserve_rng_state=False
            )
        else:
            state = integrator.step(equation, state, 1 / steps)
        yield state


@dataclass(frozen=True, eq=False)
class Shot:
    """Where a path ended and what it cost.

    Attributes:
        state: The last state: ``displacement``, ``inverse``, ``momentum`` and ``mask`` are asked of it.
        image: ``I_1``, ``(B, C, *space)``.
        kinetic: ``(B,)``.
        residual: ``(B,)``.
    """

    state: Shown
    image: Image
    kinetic: Tensor
    residual: Tensor

    @property
    def energy(self) -> Scalar:
        """Cost of the whole path, summed over the batch, before ``lambda``."""
        return (self.kinetic + self.residual).sum()


def shoot_energy(
    equation: Equation,
    integrator: Integrator,
    image: Image,
    momentum: Image,
    steps: int,
    context: Context = PLAIN,
    *,
    checkpoint: bool = False,
) -> Shot:
    """Shoot from an initial momentum and return the image at time 1 with the energy of its path.

    Args:
        image, momentum: ``(B, C, *space)``, ``I_0`` and ``z_0``.
        steps, checkpoint: See :func:`shoot`.
        context: The mask, and whether maps are wanted.

    Raises:
        GridMismatch: If image, momentum, mask and the equation's grid do not fit.
        ValueError: If ``steps`` is below 1.
    """
    start = integrator.begin(equation, image, momentum, context)
    state = _last(shoot(equation, integrator, start, steps, checkpoint=checkpoint))
    return Shot(state, state.image, state.kinetic, state.residual)


def _last(states: Iterator[S]) -> S:
    """Return the last state, letting go of every earlier one."""
    return deque(states, maxlen=1).pop()


@dataclass(frozen=True, eq=False)
class SplitShot(Shot):
    """A path of the split form; its ``residual`` is ``||sqrt(m) r||^2 / mu^2``."""

    @property
    def deformed(self) -> Image:
        """``I_0 o phi_1^-1``: shape only, as the scheme carried it."""
        return self.state.image


def shoot_split(
    equation: SplitMetamorphosis,
    integrator: Integrator,
    image: Image,
    p: Image,
    r: Image,
    mask: Mask | None,
    steps: int,
    *,
    maps: bool = False,
    checkpoint: bool = False,
) -> SplitShot:
    """Shoot the shape from ``(1 - m) p`` and paint ``m r`` onto the moving image.

    Args:
        image, p, r: ``(B, C, *space)`` on the moving side.
        mask: ``(B, 1, *space)`` on the moving side; None: every voxel may change, and every voxel drives.
        steps, checkpoint: See :func:`shoot`.
        maps: Carry the forward map along, so that the last state gives ``inverse``.
    """
    context = Context(mask=mask, back=True, maps=maps)
    start = integrator.begin(equation, image, equation.momentum(p, mask), context)
    state = _last(shoot(equation, integrator, start, steps, checkpoint=checkpoint))
    painted = equation.paint(image, r, mask, state.displacement, mode=integrator.mode)
    return SplitShot(state, painted, state.kinetic, equation.appearance_cost(r, mask))
