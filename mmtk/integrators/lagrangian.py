"""The closed form of the flow: only what is given at time 0 is ever resampled, at linear cost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor

from mmtk.equations import Equation
from mmtk.fields.warp import Mode
from mmtk.integrators.base import PLAIN, Context, Flow, Integrator, at_once, check
from mmtk.types import Displacement, Image, Mask

__all__ = ["Lagrangian", "LagrangianState"]

Rates: TypeAlias = tuple[Tensor, Tensor, Tensor]
Moved: TypeAlias = tuple[Flow, Tensor, "Tensor | None"]


@dataclass(frozen=True, eq=False)
class LagrangianState:
    """The start and the maps; image, momentum and mask at time t follow from them when they are asked for.

    Attributes:
        start: Image, momentum and mask at time 0, stacked along the channels.
        channels: Channels of the image.
        mu: The equation's.
        flow: ``phi_t^-1``, and ``phi_t`` if asked for.
        swelling: ``log D_t o phi_t^-1``, ``(B, 1, *box)``: how much room the flow made where it brought us.
        exposure: ``(int_0^t ds / D_s) o phi_t^-1``, ``(B, 1, *box)``; None where ``mu`` is 0.
        before: Velocity, kinetic energy and residual of the step that led here; None at time 0.
    """

    start: Tensor
    channels: int
    mu: float
    mode: Mode
    flow: Flow
    swelling: Tensor
    exposure: Tensor | None
    kinetic: Tensor
    residual: Tensor
    before: Rates | None

    def now(self) -> tuple[Image, Image, Mask | None]:
        """Return image, momentum and mask at time t, by one resampling for the three."""
        counts = [self.channels, self.channels, self.start.shape[1] - 2 * self.channels]
        maps = self.flow.maps
        if self.before is None:
            image, momentum, mask = self.start.split(counts, 1)
            return image, momentum, mask if counts[2] else None
        image, start_momentum, mask = maps.carry(self.start, self.flow.back, self.mode).split(counts, 1)
        rarefied = torch.exp(-self.swelling)
        if self.exposure is None:
            return image, start_momentum * maps.refine(rarefied), mask if counts[2] else None
        rarefaction, exposure = maps.refine(torch.cat([rarefied, self.mu**2 * self.exposure], 1)).split(1, 1)
        gain = exposure * mask if counts[2] else exposure
        image = torch.addcmul(image, gain, start_momentum)
        return image, start_momentum * rarefaction, mask if counts[2] else None

    @cached_property
    def _shown(self) -> tuple[Image, Image, Mask | None]:
        # Kept for the caller only. A step that is checkpointed has to compute it anew, or nothing is saved.
        return self.now()

    @property
    def image(self) -> Image:
        return self._shown[0]

    @property
    def momentum(self) -> Image:
        return self._shown[1]

    @property
    def mask(self) -> Mask | None:
        return self._shown[2]

    @property
    def displacement(self) -> Displacement:
        return self.flow.displacement

    @property
    def inverse(self) -> Displacement:
        return self.flow.inverse


class Lagrangian(Integrator):
    r"""Along the flow momentum is a density, and the residual adds up in the moving frame:

    .. math::
        z_t = (z_0 / D_t) \circ \phi_t^{-1} \qquad
        I_t = \Big( I_0 + \mu^2 m_0 z_0 \int_0^t ds / D_s \Big) \circ \phi_t^{-1}

    with :math:`D_t = |D \phi_t|`. The state is the map, ``log D_t`` and the integral, all three carried on the
    box of the velocities; what is fine and sharp, ``I_0``, ``z_0`` and ``m_0``, is resampled once a step from
    the start. As sharp as ``sharp``, and as cheap as ``semi_lagrangian``; on a lattice, cheaper.

    Its states compute ``image`` and ``momentum`` when they are first asked for them, and keep no other full-size
    field than the start.

    Args:
        mode: See :class:`Integrator`.
        order: 1, the step of the other schemes; or 2, which takes the velocity half a step ahead, extrapolated
            from this step and the last, at the midpoint of the way. The second costs a fifth more a step and
            needs a third of the steps.
    """

    def __init__(self, mode: Mode = "linear", order: int = 1) -> None:
        super().__init__(mode)
        if order not in (1, 2):
            raise ValueError(f"the order of the scheme is 1 or 2, not {order}")
        self.order = order

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, order={self.order}"

    def begin(
        self, equation: Equation, image: Image, momentum: Image, context: Context = PLAIN
    ) -> LagrangianState:
        check(equation, image, momentum, context)
        start, _ = at_once([image, momentum, context.mask])
        flow = Flow.still(equation.maps, image, both=context.maps)
        zeros, zero = flow.back[:, :1], image.new_zeros(image.shape[0])
        return LagrangianState(
            start, image.shape[1], equation.mu, self.mode, flow, zeros, zeros if equation.mu > 0 else None,
            zero, zero, before=None,
        )  # fmt: skip

    def step(self, equation: Equation, state: LagrangianState, dt: float) -> LagrangianState:
        image, momentum, mask = state.now()
        motion = equation.motion(image, momentum)
        now = motion.velocity, motion.kinetic, equation.residual(momentum, mask)
        velocity, kinetic, residual = now if self.order == 1 or state.before is None else ahead(now, state.before)
        move = self._first_order if self.order == 1 else self._second_order
        flow, swelling, exposure = move(state, velocity, dt)
        return replace(
            state, flow=flow, swelling=swelling, exposure=exposure, before=now,
            kinetic=state.kinetic + dt * kinetic, residual=state.residual + dt * residual,
        )  # fmt: skip

    def _first_order(self, state: LagrangianState, velocity: Tensor, dt: float) -> Moved:
        # Both integrals grow where the particle is now, and are then carried to where it goes.
        flow, maps = state.flow, state.flow.maps
        exposure = None if state.exposure is None else state.exposure + dt * torch.exp(-state.swelling)
        swelling = state.swelling + dt * maps.divergence(velocity)
        step = -dt * velocity
        back, swelling, exposure = self._advect(state, swelling, exposure, step)
        return Flow(maps, back, flow.forward(velocity, dt, self.mode)), swelling, exposure

    def _second_order(self, state: LagrangianState, velocity: Tensor, dt: float) -> Moved:
        # The particle that arrives at x was, half a step ago, at x - dt/2 v; its velocity there is what counts.
        flow, maps, dim = state.flow, state.flow.maps, velocity.shape[1]
        growing = torch.cat([velocity, maps.divergence(velocity)], dim=1)
        midway = maps.advect(growing, -0.5 * dt * velocity, self.mode)
        half = 0.5 * dt * torch.exp(-state.swelling)
        exposure = None if state.exposure is None else state.exposure + half
        back, swelling, exposure = self._advect(state, state.swelling, exposure, -dt * midway[:, :dim])
        swelling = swelling + dt * midway[:, dim:]
        if exposure is not None:
            exposure = exposure + 0.5 * dt * torch.exp(-swelling)
        forth = flow.forth
        if forth is not None:
            halfway = forth + 0.5 * dt * maps.at(velocity, forth, self.mode)
            forth = forth + dt * maps.at(velocity, halfway, self.mode)
        return Flow(maps, back, forth), swelling, exposure

    def _advect(
        self, state: LagrangianState, swelling: Tensor, exposure: Tensor | None, step: Displacement
    ) -> tuple[Displacement, Tensor, Tensor | None]:
        """Carry the map and both integrals along one step, in one sampling."""
        carried, counts = at_once([state.flow.back, swelling, exposure])
        back, swelling, *rest = state.flow.maps.advect(carried, step, self.mode).split(counts, 1)
        return back + step, swelling, rest[0] if rest else None


def ahead(now: Rates, before: Rates) -> Rates:
    """Extrapolate from the last step and this one to the middle of the next (Adams and Bashforth)."""
    velocity, kinetic, residual = (1.5 * a - 0.5 * b for a, b in zip(now, before, strict=True))
    return velocity, kinetic, residual
