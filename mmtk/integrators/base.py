"""What every scheme offers, what it is given at the start, and what its states show."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mmtk.equations import Equation, Maps, State
from mmtk.errors import ConfigError, GridMismatch
from mmtk.fields.warp import Mode
from mmtk.types import Displacement, Image, Mask

__all__ = ["PLAIN", "CarriedState", "Context", "Flow", "Integrator", "Shown", "at_once", "begin_carried", "check"]


class Shown(Protocol):
    """What the state of every scheme shows, whatever it keeps.

    ``displacement`` and ``inverse`` are those of ``phi_t^-1`` and ``phi_t`` in voxels, ``(B, dim, *space)``.
    Eulerian and semi-Lagrangian schemes know them only if begun with ``Context(maps=True)``; the others know
    the first always, and the second likewise.
    """

    @property
    def image(self) -> Image: ...
    @property
    def momentum(self) -> Image: ...
    @property
    def mask(self) -> Mask | None: ...
    @property
    def kinetic(self) -> Tensor: ...
    @property
    def residual(self) -> Tensor: ...
    @property
    def flow(self) -> Flow | None: ...
    @property
    def displacement(self) -> Displacement: ...
    @property
    def inverse(self) -> Displacement: ...


@dataclass(frozen=True, eq=False)
class Context:
    """What a scheme may need besides image and momentum.

    Attributes:
        mask: ``(B, 1, *space)`` on the moving image, in [0, 1]: where intensities may change; None: everywhere.
        fixed: ``(B, C, *space)``, for schemes that look at where they are going.
        back: Carry ``phi_t^-1`` along, so that the last state gives ``displacement``.
        maps: Carry ``phi_t`` as well, so that it gives ``inverse`` too.
    """

    mask: Mask | None = None
    fixed: Image | None = None
    back: bool = False
    maps: bool = False


#: No mask, no maps.
PLAIN = Context()


@dataclass(frozen=True, eq=False)
class Flow:
    """The flow until now: ``phi_t^-1``, and ``phi_t`` if it was asked for.

    One step of velocity v and length d is ``phi^-1 o (Id - d v)`` and ``(Id + d v) o phi``: the two are inverse
    to one another up to the order of the scheme, not to rounding.

    Attributes:
        maps: The operations on maps.
        back: Displacement of ``phi_t^-1``, ``(B, dim, *box)``, box spacings.
        forth: Displacement of ``phi_t``, or None.
    """

    maps: Maps
    back: Displacement
    forth: Displacement | None

    @classmethod
    def still(cls, maps: Maps, like: Tensor, *, both: bool) -> Flow:
        """Return the identity."""
        zeros = maps.zeros(like)
        return cls(maps, zeros, zeros if both else None)

    def forward(self, velocity: Tensor, dt: float, mode: Mode) -> Displacement | None:
        """Return ``phi`` after one more step."""
        if self.forth is None:
            return None
        return self.forth + dt * self.maps.at(velocity, self.forth, mode)

    def advance(self, velocity: Tensor, dt: float, mode: Mode) -> Flow:
        """Return the flow after one more step."""
        step = -dt * velocity
        back = step + self.maps.advect(self.back, step, mode)
        return replace(self, back=back, forth=self.forward(velocity, dt, mode))

    @property
    def displacement(self) -> Displacement:
        return self.maps.displacement(self.back)

    @property
    def inverse(self) -> Displacement:
        if self.forth is None:
            raise ConfigError("the forward map was not carried along; begin with `Context(maps=True)`")
        return self.maps.displacement(self.forth)


@dataclass(frozen=True, eq=False)
class CarriedState(State):
    """Image, momentum and mask at time t and, if asked for, the flow that brought them there."""

    flow: Flow | None = None

    @property
    def displacement(self) -> Displacement:
        return self._flow.displacement

    @property
    def inverse(self) -> Displacement:
        return self._flow.inverse

    @property
    def _flow(self) -> Flow:
        if self.flow is None:
            raise ConfigError("this scheme carried no map; begin with `Context(back=True)` or `(maps=True)`")
        return self.flow


class Integrator(nn.Module, ABC):
    """Carries a state over one time step; it neither loops, nor stores, nor plots.

    Args:
        mode: Interpolation of whatever the scheme resamples, ``linear`` or ``cubic``. Cubic is slow and exact:
            for references and tests.
    """

    #: Order in time: halving ``dt`` divides the error by ``2 ** order``.
    order: int

    def __init__(self, mode: Mode = "linear") -> None:
        super().__init__()
        self.mode: Mode = mode

    @abstractmethod
    def begin(self, equation: Equation, image: Image, momentum: Image, context: Context = PLAIN) -> Any:
        """Return the state at time 0.

        Raises:
            GridMismatch: If image, momentum, mask and grid do not lie on one another.
        """

    @abstractmethod
    def step(self, equation: Equation, state: Any, dt: float) -> Any:
        """Return the state at ``t + dt``, given the state at ``t``."""

    def extra_repr(self) -> str:
        return f"mode={self.mode!r}"


def check(equation: Equation, image: Image, momentum: Image, context: Context) -> None:
    """Refuse tensors that do not lie on the equation's grid."""
    shape = equation.maps.grid.shape
    for name, tensor in (("image", image), ("momentum", momentum), ("mask", context.mask)):
        if tensor is not None and tuple(tensor.shape[2:]) != shape:
            raise GridMismatch(name, tensor.shape[2:], "grid", shape)
    if momentum.shape != image.shape:
        raise GridMismatch("momentum", momentum.shape, "image", image.shape)


def begin_carried(equation: Equation, image: Image, momentum: Image, context: Context) -> CarriedState:
    """Return the first state of the schemes that keep nothing but the present."""
    check(equation, image, momentum, context)
    wanted = context.maps or context.back
    flow = Flow.still(equation.maps, image, both=context.maps) if wanted else None
    return replace(CarriedState.start(image, momentum, context.mask), flow=flow)


def at_once(tensors: list[Tensor | None]) -> tuple[Tensor, list[int]]:
    """Stack what is there along the channels, to be sampled together: ``(B, sum C, *space)`` and the counts."""
    present = [t for t in tensors if t is not None]
    return torch.cat(present, dim=1), [t.shape[1] for t in present]
