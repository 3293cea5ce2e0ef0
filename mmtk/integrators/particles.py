"""The whole equation in the moving frame: full-size images are touched at the start and at the end only."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor

from mmtk.equations import Equation, Maps
from mmtk.fields.warp import Mode
from mmtk.integrators.base import PLAIN, Context, Flow, Integrator, at_once, check
from mmtk.types import Displacement, Image, Mask

__all__ = ["ParticleState", "Particles"]

Rates: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Load:
    """What the particles carry, gathered once: each of the three is a sum over the voxels about a node.

    Attributes:
        edge: ``sum_c w_c z_0^c grad I_0^c``, ``(B, dim, *box)``, per box spacing.
        gain: ``sum_c w_c z_0^c grad (m_0 z_0^c)``, alike; None where ``mu`` is 0.
        square: ``sum_c w_c m_0 (z_0^c)^2``, ``(B, 1, *box)``; None where ``mu`` is 0.
    """

    edge: Tensor
    gain: Tensor | None
    square: Tensor | None


@dataclass(frozen=True, eq=False)
class ParticleState:
    """Where the particles are, and all velocities so far; images follow from them when they are asked for.

    Attributes:
        start: Image, momentum and mask at time 0, stacked along the channels.
        forth: Displacement of ``phi_t``, ``(B, dim, *box)``, box spacings.
        exposure: ``int_0^t ds / D_s``, ``(B, 1, *box)``, in the moving frame.
        path: Velocity and length of each past step.
        before: The rates of the step that led here; None at time 0.
    """

    equation: Equation
    mode: Mode
    start: Tensor
    channels: int
    load: Load
    forth: Displacement
    exposure: Tensor
    path: tuple[tuple[Tensor, float], ...]
    before: Rates | None
    kinetic: Tensor
    residual: Tensor

    @cached_property
    def flow(self) -> Flow:
        """Both maps; the pull-back is composed of all velocities here, not along the way."""
        maps = self.equation.maps
        flow = Flow.still(maps, self.start, both=False)
        before: Tensor | None = None
        for velocity, dt in self.path:
            halfway = velocity if before is None else 1.5 * velocity - 0.5 * before
            flow = flow.advance(maps.advect(halfway, -0.5 * dt * halfway, self.mode), dt, self.mode)
            before = velocity
        return replace(flow, forth=self.forth)

    @cached_property
    def image(self) -> Image:
        image, momentum, mask = self._start()
        if self.path and self.equation.mu > 0:
            added = self.equation.appearance(momentum, mask)
            image = torch.addcmul(image, self.equation.maps.refine(self.exposure), added)
        return self._carried(image)

    @cached_property
    def momentum(self) -> Image:
        _, momentum, _ = self._start()
        if self.path:
            columns = columns_of(self.equation.maps, self.forth)
            rarefaction = 1 / determinant_of(columns, cofactors_of(columns))
            momentum = momentum * self.equation.maps.refine(rarefaction)
        return self._carried(momentum)

    @cached_property
    def mask(self) -> Mask | None:
        mask = self._start()[2]
        return None if mask is None else self._carried(mask)

    @property
    def displacement(self) -> Displacement:
        return self.flow.displacement

    @property
    def inverse(self) -> Displacement:
        return self.flow.inverse

    def _start(self) -> tuple[Image, Image, Mask | None]:
        c = self.channels
        image, momentum, mask = self.start.split([c, c, self.start.shape[1] - 2 * c], 1)
        return image, momentum, mask if mask.shape[1] else None

    def _carried(self, image: Image) -> Image:
        return self.equation.maps.carry(image, self.flow.back, self.mode) if self.path else image


class Particles(Integrator):
    r"""Every node of the velocities' box is a particle that carries its share of the momentum.

    With the closed form of :class:`Lagrangian` the force, too, can be written in the moving frame: its covector
    at the particle that started in y is

    .. math::
        q_t(y) = (D\phi_t)^{-T} \Big( z_0 \nabla I_0 + \mu^2 \big( A_t\, z_0 \nabla (m_0 z_0)
            + m_0 z_0^2\, \nabla A_t \big) \Big), \qquad A_t = \int_0^t ds / D_s

    and :math:`v_t(x) = -\int K(x - \phi_t(y))\, q_t(y)\, dy`. In y, what stands beside the three densities in
    :math:`z_0` is as smooth as the kernel and the map, so that their sums about the nodes, gathered once, are
    all that the flow ever needs of the images. One evaluation touches full-size images at its start and at its
    end, whatever the number of steps, and everything between is as small as the lattice: this is the scheme for
    fine images.

    The price is that the lattice must be fine enough for the kernel *seen through the map*: where the flow
    stretches twofold, sigma/2 is the least.

    Time is of second order (Adams and Bashforth): in the moving frame the positions and :math:`A_t` are ordinary
    differential equations, and the velocity of the last step costs nothing.
    """

    order = 2

    def begin(self, equation: Equation, image: Image, momentum: Image, context: Context = PLAIN) -> ParticleState:
        check(equation, image, momentum, context)
        start, _ = at_once([image, momentum, context.mask])
        still, zero = equation.maps.zeros(image), image.new_zeros(image.shape[0])
        return ParticleState(
            equation, self.mode, start, image.shape[1], self._load(equation, image, momentum, context.mask),
            still, still[:, :1], (), None, zero, zero,
        )  # fmt: skip

    def step(self, equation: Equation, state: ParticleState, dt: float) -> ParticleState:
        maps, load = equation.maps, state.load
        columns = columns_of(maps, state.forth)
        cofactors = cofactors_of(columns)
        rarefaction = 1 / determinant_of(columns, cofactors)
        covector, residual = load.edge, torch.zeros_like(state.residual)
        if load.gain is not None and load.square is not None:
            slope = torch.cat([maps.partial(state.exposure, a) for a in range(maps.box.dim)], dim=1)
            covector = covector + equation.mu**2 * (state.exposure * load.gain + load.square * slope)
            residual = equation.mu**2 * maps.grid.cell_volume * (load.square * rarefaction).flatten(1).sum(1)
        pushed = sum(p * c for p, c in zip(covector.split(1, 1), cofactors, strict=True)) * rarefaction
        motion = equation.respond(maps.spread(pushed, state.forth, self.mode))

        now = maps.at(motion.velocity, state.forth, self.mode), rarefaction, motion.kinetic, residual
        velocity, rarefaction, kinetic, residual = now if state.before is None else ahead(now, state.before)
        return replace(
            state,
            forth=state.forth + dt * velocity,
            exposure=state.exposure + dt * rarefaction,
            path=(*state.path, (motion.velocity, dt)),
            before=now,
            kinetic=state.kinetic + dt * kinetic,
            residual=state.residual + dt * residual,
        )

    def _load(self, equation: Equation, image: Image, momentum: Image, mask: Mask | None) -> Load:
        edge = equation.force(image, momentum)
        if equation.mu == 0:
            return Load(edge, None, None)
        allowed = momentum if mask is None else mask * momentum
        square = equation.weighted(momentum) * allowed
        gathered = equation.maps.gather(square.sum(1, keepdim=True))
        return Load(edge, equation.force(allowed, momentum), gathered)


def ahead(now: Rates, before: Rates) -> Rates:
    """Extrapolate from the last step and this one to the middle of the next (Adams and Bashforth)."""
    velocity, rarefaction, kinetic, residual = (1.5 * a - 0.5 * b for a, b in zip(now, before, strict=True))
    return velocity, rarefaction, kinetic, residual


def columns_of(maps: Maps, u: Displacement) -> list[Tensor]:
    """Return the columns of ``D(x + u(x))``: its derivative along each axis, ``(B, dim, *box)`` each."""
    eye = torch.eye(u.shape[1], dtype=u.dtype, device=u.device).view(u.shape[1], 1, -1, *[1] * (u.ndim - 2))
    return [maps.partial(u, axis) + eye[axis] for axis in range(u.shape[1])]


def cofactors_of(columns: list[Tensor]) -> list[Tensor]:
    """Return the columns of ``det(D) D^{-T}``: to each column of ``D``, the product of the others."""
    if len(columns) == 2:
        (a0, a1), (b0, b1) = (c.split(1, 1) for c in columns)
        return [torch.cat([b1, -b0], 1), torch.cat([-a1, a0], 1)]
    once, twice = ([c.roll(-k, 1) for c in columns] for k in (1, 2))
    following = [((k + 1) % 3, (k + 2) % 3) for k in range(3)]
    return [once[a] * twice[b] - twice[a] * once[b] for a, b in following]


def determinant_of(columns: list[Tensor], cofactors: list[Tensor]) -> Tensor:
    """Return the determinant, ``(B, 1, *box)``, expanded along the first column."""
    return (columns[0] * cofactors[0]).sum(1, keepdim=True)
