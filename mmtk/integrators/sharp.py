"""No blur: the moving image and every momentum are resampled once, through composed maps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmtk.equations import Equation
from mmtk.integrators.base import PLAIN, Context, Flow, Integrator, at_once, check
from mmtk.types import Displacement, Image, Mask

__all__ = ["Sharp", "SharpState"]


@dataclass(frozen=True, eq=False)
class SharpState:
    """The state at time t and its whole history.

    Attributes:
        image, momentum, mask, kinetic, residual: See :class:`mmtk.equations.State`.
        start: Image, momentum and mask at time 0, stacked along the channels.
        added: For each past step, what it added to image and momentum, as it was added: ``(B, 2 C, *space)``.
        since: Displacements of ``phi_{i,t}^-1`` for the steps i = 0 .. t-1, ``(B, t dim, *box)``; None at t = 0.
        flow: ``phi_t`` if asked for.
    """

    image: Image
    momentum: Image
    mask: Mask | None
    kinetic: Tensor
    residual: Tensor
    start: Tensor
    added: tuple[Tensor, ...]
    since: Tensor | None
    flow: Flow

    @property
    def displacement(self) -> Displacement:
        return self.flow.displacement

    @property
    def inverse(self) -> Displacement:
        return self.flow.inverse


class Sharp(Integrator):
    r"""The semi-Lagrangian recursion, unrolled: every image is one deformation of the first.

    .. math::
        I_{t+1} &= I_0 \circ \phi_{0,t+1}^{-1}
            + \delta \mu^2 \textstyle\sum_{i \le t} (m_i z_i) \circ \phi_{i+1,t+1}^{-1} \\
        z_{t+1} &= z_0 \circ \phi_{0,t+1}^{-1}
            - \delta \textstyle\sum_{i \le t} (z_i \nabla \cdot v_i) \circ \phi_{i+1,t+1}^{-1}

    with :math:`\phi_{i,t+1}^{-1} = (Id - \delta v_i) \circ \dots \circ (Id - \delta v_t)`. Only maps, which are
    smooth, are interpolated again and again. T steps cost ``T^2 / 2`` compositions and as many resamplings: this
    is the reference that cheaper schemes are measured by.

    References:
        Maillard's thesis (2023), eq. 5.9 and 5.10; the second line treats eq. 5.2b alike.
    """

    order = 1

    def begin(self, equation: Equation, image: Image, momentum: Image, context: Context = PLAIN) -> SharpState:
        check(equation, image, momentum, context)
        start, _ = at_once([image, momentum, context.mask])
        zero = image.new_zeros(image.shape[0])
        flow = Flow.still(equation.maps, image, both=context.maps)
        return SharpState(image, momentum, context.mask, zero, zero, start, (), None, flow)

    def step(self, equation: Equation, state: SharpState, dt: float) -> SharpState:
        maps, z, channels = equation.maps, state.momentum, state.image.shape[1]
        motion = equation.motion(state.image, z)
        lost = -dt * maps.refine(maps.divergence(motion.velocity)) * z
        gained = dt * equation.appearance(z, state.mask)
        since = self._advance(equation, state.since, -dt * motion.velocity)

        dim = maps.box.dim
        first, *later = since.split(dim, dim=1)
        start = maps.carry(state.start, first, self.mode)
        total = start[:, : 2 * channels]
        for source, u in zip(state.added, later, strict=True):
            total = total + maps.carry(source, u, self.mode)
        newest = torch.cat([gained, lost], dim=1)
        image, momentum = (total + newest).split(channels, dim=1)
        flow = Flow(maps, first, state.flow.forward(motion.velocity, dt, self.mode))
        return SharpState(
            image,
            momentum,
            None if state.mask is None else start[:, 2 * channels :],
            state.kinetic + dt * motion.kinetic,
            state.residual + dt * equation.residual(z, state.mask),
            state.start,
            (*state.added, newest),
            since,
            flow,
        )

    def _advance(self, equation: Equation, since: Tensor | None, step: Tensor) -> Tensor:
        """Let every map end one step later, and begin a new one."""
        if since is None:
            return step
        times = since.shape[1] // step.shape[1]
        moved = equation.maps.advect(since, step, self.mode)
        return torch.cat([moved + step.repeat(1, times, *[1] * (step.ndim - 2)), step], dim=1)
