"""Image and momentum resampled once a step: the thesis's algorithm 5.1."""

from __future__ import annotations

from mmtk.equations import Equation
from mmtk.integrators.base import PLAIN, CarriedState, Context, Integrator, at_once, begin_carried
from mmtk.types import Image

__all__ = ["SemiLagrangian"]


class SemiLagrangian(Integrator):
    r"""Warp by ``Id - dt v``, then add what the residual and the divergence contribute.

    .. math::
        I_{t+1} &= I_t \circ (Id - \delta v_t) + \delta \mu^2 m_t z_t \\
        z_{t+1} &= z_t \circ (Id - \delta v_t) - \delta\, (\nabla \cdot v_t)\, z_t

    Stable for large steps, but every step blurs: with linear interpolation on a fixed grid the error *grows* with
    the number of steps once they are small (thesis, fig. 5.3).

    References:
        Maillard's thesis (2023), algorithm 5.1; the mask, eq. 5.11.
    """

    order = 1

    def begin(self, equation: Equation, image: Image, momentum: Image, context: Context = PLAIN) -> CarriedState:
        return begin_carried(equation, image, momentum, context)

    def step(self, equation: Equation, state: CarriedState, dt: float) -> CarriedState:
        motion = equation.motion(state.image, state.momentum)
        maps, z = equation.maps, state.momentum
        together, counts = at_once([state.image, z, state.mask])
        moved = maps.carry(together, -dt * motion.velocity, self.mode).split(counts, 1)
        image, mask = moved[0], moved[2] if state.mask is not None else None
        if equation.mu > 0:
            image = image + dt * equation.appearance(z, state.mask)
        momentum = moved[1] - dt * maps.refine(maps.divergence(motion.velocity)) * z
        return CarriedState(
            image,
            momentum,
            mask,
            state.kinetic + dt * motion.kinetic,
            state.residual + dt * equation.residual(z, state.mask),
            None if state.flow is None else state.flow.advance(motion.velocity, dt, self.mode),
        )
