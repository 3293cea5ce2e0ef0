"""The closed form of the flow: only what is given at time 0 is ever resampled, at linear cost."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmtk.equations import Equation
from mmtk.fields.warp import Mode
from mmtk.integrators.base import PLAIN, Context, Flow, Integrator, at_once, check
from mmtk.types import Displacement, Image, Mask

__all__ = ["Lagrangian", "LagrangianState"]


@dataclass(frozen=True, eq=False)
class LagrangianState:
    """The start and the maps; image, momentum and mask at time t follow from them, each time they are asked for.

    Attributes:
        start: Image, momentum and mask at time 0, stacked along the channels.
        channels: Channels of the image.
        mu: The equation's.
        flow: ``phi_t^-1``, and ``phi_t`` if asked for.
        swelling: ``log D_t o phi_t^-1``, ``(B, 1, *box)``: how much room the flow made where it brought us.
        exposure: ``(int_0^t ds / D_s) o phi_t^-1``, ``(B, 1, *box)``; None where ``mu`` is 0.
        moved: False at time 0, when nothing needs resampling.
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
    moved: bool

    def now(self) -> tuple[Image, Image, Mask | None]:
        """Return image, momentum and mask at time t, by one resampling for the three."""
        counts = [self.channels, self.channels, self.start.shape[1] - 2 * self.channels]
        maps = self.flow.maps
        if not self.moved:
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

    @property
    def image(self) -> Image:
        return self.now()[0]

    @property
    def momentum(self) -> Image:
        return self.now()[1]

    @property
    def mask(self) -> Mask | None:
        return self.now()[2]

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

    Its states compute ``image`` and ``momentum`` when they are asked for them, and keep no full-size field but
    the start.
    """

    order = 1

    def begin(
        self, equation: Equation, image: Image, momentum: Image, context: Context = PLAIN
    ) -> LagrangianState:
        check(equation, image, momentum, context)
        start, _ = at_once([image, momentum, context.mask])
        flow = Flow.still(equation.maps, image, both=context.maps)
        zeros, zero = flow.back[:, :1], image.new_zeros(image.shape[0])
        return LagrangianState(
            start, image.shape[1], equation.mu, self.mode, flow, zeros, zeros if equation.mu > 0 else None,
            zero, zero, moved=False,
        )  # fmt: skip

    def step(self, equation: Equation, state: LagrangianState, dt: float) -> LagrangianState:
        image, momentum, mask = state.now()
        motion = equation.motion(image, momentum)
        maps, velocity, flow = equation.maps, motion.velocity, state.flow

        # Both integrals grow where the particle is now, and are then carried to where it goes.
        exposure = None if state.exposure is None else state.exposure + dt * torch.exp(-state.swelling)
        swelling = state.swelling + dt * maps.divergence(velocity)
        carried, counts = at_once([flow.back, swelling, exposure])
        moved = maps.advect(carried, -dt * velocity, self.mode).split(counts, 1)
        flow = Flow(maps, moved[0] - dt * velocity, flow.forward(velocity, dt, self.mode))
        return LagrangianState(
            state.start,
            state.channels,
            state.mu,
            self.mode,
            flow,
            moved[1],
            moved[2] if exposure is not None else None,
            state.kinetic + dt * motion.kinetic,
            state.residual + dt * equation.residual(momentum, mask),
            moved=True,
        )
