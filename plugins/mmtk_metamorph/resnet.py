r"""The integrator of MetaMorph-R: a network says how the momentum changes, any scheme carries the images.

.. math::
    v_t = -K \star (z_t \nabla I_t) \qquad z_{t+1} = z_t - \delta f_{\theta_t}(z_t, I_t, J)

The momentum is no density any more (thesis eq. 5.6): nothing transports it, and what it paints at time t it paints
where it is then. In the moving frame the painted residuals add up to

.. math::
    A_t = \delta \mu^2 m_0 \sum_{s < t} z_s \circ \phi_s \qquad I_t = (I_0 + A_t) \circ \phi_t^{-1}

which is the carrier ``lagrangian``: what is sharp is resampled once, at linear cost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from mmtk.equations import Equation
from mmtk.fields.warp import Mode
from mmtk.integrators import Context, Eulerian, Flow, Integrator, SemiLagrangian, Sharp
from mmtk.integrators.base import PLAIN, at_once, check
from mmtk.types import Displacement, Image, Mask

__all__ = ["CARRIERS", "Given", "ResNet"]

#: Schemes that may carry the images.
CARRIERS = ("lagrangian", "semi_lagrangian", "sharp", "eulerian")


@dataclass(frozen=True, eq=False)
class MovingFrameState:
    """What the carrier ``lagrangian`` keeps: the start, what was painted onto it, and the maps.

    Attributes:
        start: Image and mask at time 0, stacked along the channels.
        channels: Of the image.
        painted: ``A_t``, ``(B, C, *space)`` in the moving frame; None where ``mu`` is 0.
        flow: ``phi_t^-1`` and ``phi_t``.
    """

    start: Tensor
    channels: int
    painted: Tensor | None
    flow: Flow
    mode: Mode
    kinetic: Tensor
    residual: Tensor

    def now(self) -> tuple[Image, Mask | None]:
        """Return image and mask at time t, by one resampling of both."""
        counts = [self.channels, self.start.shape[1] - self.channels]
        image, mask = self.start.split(counts, 1)
        if self.painted is not None:
            image = image + self.painted
        carried = self.flow.maps.carry(torch.cat([image, mask], 1), self.flow.back, self.mode)
        image, mask = carried.split(counts, 1)
        return image, mask if counts[1] else None

    @cached_property
    def _shown(self) -> tuple[Image, Mask | None]:
        return self.now()

    @property
    def image(self) -> Image:
        return self._shown[0]

    @property
    def mask(self) -> Mask | None:
        return self._shown[1]

    @property
    def displacement(self) -> Displacement:
        return self.flow.displacement

    @property
    def inverse(self) -> Displacement:
        return self.flow.inverse


class MovingFrame:
    """Carries image and mask by momenta that are given, resampling what is sharp from the start."""

    def __init__(self, mode: Mode = "linear") -> None:
        self.mode: Mode = mode

    def begin(self, equation: Equation, image: Image, momentum: Image, context: Context) -> MovingFrameState:
        check(equation, image, momentum, context)
        start, _ = at_once([image, context.mask])
        flow = Flow.still(equation.maps, image, both=context.maps or equation.mu > 0)
        zero = image.new_zeros(image.shape[0])
        painted = torch.zeros_like(image) if equation.mu > 0 else None
        return MovingFrameState(start, image.shape[1], painted, flow, self.mode, zero, zero)

    def step(
        self, equation: Equation, state: MovingFrameState, image: Image, mask: Mask | None, z: Image, dt: float
    ) -> MovingFrameState:
        motion = equation.motion(image, z)
        painted = state.painted
        if painted is not None:
            assert state.flow.forth is not None
            first = state.start[:, state.channels :]
            here = equation.maps.carry(z, state.flow.forth, self.mode)
            painted = painted + dt * equation.appearance(here, first if first.shape[1] else None)
        return replace(
            state, painted=painted, flow=state.flow.advance(motion.velocity, dt, self.mode),
            kinetic=state.kinetic + dt * motion.kinetic, residual=state.residual + dt * equation.residual(z, mask),
        )  # fmt: skip


class _Recursion:
    """Carries by one of the classical schemes, whose own idea of the next momentum is passed over."""

    def __init__(self, scheme: Integrator) -> None:
        self.scheme = scheme

    def begin(self, equation: Equation, image: Image, momentum: Image, context: Context) -> Any:
        return self.scheme.begin(equation, image, momentum, context)

    def step(self, equation: Equation, state: Any, image: Image, mask: Mask | None, z: Image, dt: float) -> Any:
        return self.scheme.step(equation, replace(state, momentum=z), dt)


def _carrier(name: str, mode: Mode) -> MovingFrame | _Recursion:
    if name == "lagrangian":
        return MovingFrame(mode)
    schemes: dict[str, Callable[..., Integrator]] = {
        "semi_lagrangian": SemiLagrangian, "sharp": Sharp, "eulerian": Eulerian,
    }  # fmt: skip
    if name not in schemes:
        raise ValueError(f"carrier {name!r}: must be one of {', '.join(CARRIERS)}")
    return _Recursion(schemes[name](mode=mode))


@dataclass(frozen=True, eq=False)
class DrivenState:
    """Images on their way, and the momentum that acts next.

    Attributes:
        carried: The carrier's state.
        momentum: ``(B, C, *space)``, ``z_t``.
        index: Which step comes next.
        fixed: ``(B, C, *space)``, ``J``; None where nothing asks for it.
    """

    carried: Any
    momentum: Image
    index: int
    fixed: Image | None

    @property
    def image(self) -> Image:
        image: Image = self.carried.image
        return image

    @property
    def mask(self) -> Mask | None:
        mask: Mask | None = self.carried.mask
        return mask

    @property
    def kinetic(self) -> Tensor:
        kinetic: Tensor = self.carried.kinetic
        return kinetic

    @property
    def residual(self) -> Tensor:
        residual: Tensor = self.carried.residual
        return residual

    @property
    def flow(self) -> Flow | None:
        flow: Flow | None = self.carried.flow
        return flow

    @property
    def displacement(self) -> Displacement:
        displacement: Displacement = self.carried.displacement
        return displacement

    @property
    def inverse(self) -> Displacement:
        inverse: Displacement = self.carried.inverse
        return inverse


class _Driven(Integrator):
    """Carries images by momenta that something else than the equation provides.

    Args:
        carrier: One of :data:`CARRIERS`: how images are resampled.
        split: Only ``(1 - m_t) z_t`` moves anything: what the lesion hides does not drive the shape.
        mode: See :class:`mmtk.integrators.Integrator`.
    """

    order = 1

    def __init__(self, carrier: str = "lagrangian", split: bool = False, mode: Mode = "linear") -> None:
        super().__init__(mode)
        self.carrier, self.split = carrier, split
        self._carrier = _carrier(carrier, mode)

    def begin(self, equation: Equation, image: Image, momentum: Image, context: Context = PLAIN) -> DrivenState:
        carried = self._carrier.begin(equation, image, momentum, replace(context, back=True))
        return DrivenState(carried, momentum, 0, context.fixed)

    def step(self, equation: Equation, state: DrivenState, dt: float) -> DrivenState:
        carried, z = state.carried, state.momentum
        image, mask = carried.now() if isinstance(carried, MovingFrameState) else (carried.image, carried.mask)
        acting = z * (1 - mask) if self.split and mask is not None else z
        moved = self._carrier.step(equation, carried, image, mask, acting, dt)
        return DrivenState(moved, self.following(state, image, dt), state.index + 1, state.fixed)

    def following(self, state: DrivenState, image: Image, dt: float) -> Image:
        """Return the momentum of the next step; ``image`` is ``I_t``."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, carrier={self.carrier!r}, split={self.split}"


class ResNet(_Driven):
    """A residual network in the divergence's place (thesis eq. 5.6).

    Args:
        blocks: Called with ``z_t, I_t, J``, one for each time step but the last: a momentum at time 1 moves nothing.
        carrier, split, mode: See the base class.

    References:
        Maillard et al., ISBI 2022, eq. 5; Maillard's thesis (2023), eq. 5.6, whose sign is used.
    """

    def __init__(
        self, blocks: nn.ModuleList, carrier: str = "lagrangian", split: bool = False, mode: Mode = "linear"
    ) -> None:
        super().__init__(carrier, split, mode)
        self.blocks = blocks

    def following(self, state: DrivenState, image: Image, dt: float) -> Image:
        if state.fixed is None:
            raise ValueError("the network looks at the fixed image; begin with `Context(fixed=...)`")
        if state.index >= len(self.blocks):
            return state.momentum
        rate = self.blocks[state.index](state.momentum, image, state.fixed)
        return state.momentum - dt * rate


class Given(_Driven):
    """Momenta that are given for every step, as refinement optimizes them.

    Args:
        momenta: ``z_0, ..., z_(T-1)``, each ``(B, C, *space)``.
        carrier, split, mode: See the base class.
    """

    def __init__(
        self, momenta: Sequence[Tensor], carrier: str = "lagrangian", split: bool = False, mode: Mode = "linear"
    ) -> None:
        super().__init__(carrier, split, mode)
        self.momenta = momenta

    def following(self, state: DrivenState, image: Image, dt: float) -> Image:
        return self.momenta[min(state.index + 1, len(self.momenta) - 1)]
