"""Finite differences in space, one explicit step in time."""

from __future__ import annotations

from dataclasses import replace

from mmtk.equations import Equation
from mmtk.integrators.base import PLAIN, CarriedState, Context, Integrator, begin_carried
from mmtk.types import Image

__all__ = ["Eulerian"]


class Eulerian(Integrator):
    r"""The equations as they stand, ``state + dt * rate``: nothing is resampled.

    The teaching case. An explicit step with central differences lets the finest frequencies grow by
    ``1 + (dt v / h)^2 / 2`` a step, so the step must be small beside ``h / |v|``: some hundred steps for a motion
    of ten voxels, where other schemes need fifteen.

    References:
        Maillard's thesis (2023), eq. 5.2 and 5.5; ISBI 2022, eq. 4.
    """

    order = 1

    def begin(self, equation: Equation, image: Image, momentum: Image, context: Context = PLAIN) -> CarriedState:
        return begin_carried(equation, image, momentum, context)

    def step(self, equation: Equation, state: CarriedState, dt: float) -> CarriedState:
        after = state + dt * equation.rate(state)
        if state.flow is None:
            return after
        velocity = equation.motion(state.image, state.momentum).velocity
        return replace(after, flow=state.flow.advance(velocity, dt, self.mode))
