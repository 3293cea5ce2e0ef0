"""What an equation of motion offers to the schemes that integrate it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from mmtk.equations.maps import Maps
from mmtk.equations.state import State
from mmtk.types import Image, Mask, Scalar

__all__ = ["Equation", "Motion"]


@dataclass(frozen=True, eq=False)
class Motion:
    """How everything moves at one instant.

    Attributes:
        velocity: ``(B, dim, *box)``, box spacings per unit time, on the box of ``Equation.maps``.
        kinetic: ``(B,)``, ``||v||_V^2``.
    """

    velocity: Tensor
    kinetic: Tensor


class Equation(ABC):
    """Says how image and momentum move; it knows neither time steps nor interpolation.

    Attributes:
        maps: Where velocities and maps live.
        mu: Weight of the intensity change, >= 0; at 0 images only move.
    """

    maps: Maps
    mu: float

    @property
    def periodic(self) -> bool:
        """Whether the image's grid closes on itself."""
        return self.maps.padding == "periodic"

    @abstractmethod
    def force(self, image: Image, momentum: Image) -> Tensor:
        """Return ``sum_c w_c z^c grad I^c``, gathered on the box, per box spacing, ``(B, dim, *box)``."""

    @abstractmethod
    def respond(self, force: Tensor) -> Motion:
        """Return the motion that a gathered force makes."""

    def motion(self, image: Image, momentum: Image) -> Motion:
        """Return the velocity that a momentum gives to an image, and its squared norm."""
        return self.respond(self.force(image, momentum))

    @abstractmethod
    def weighted(self, momentum: Image) -> Image:
        """Return ``w_c z^c`` for every channel."""

    def residual(self, momentum: Image, mask: Mask | None) -> Tensor:
        """Return ``mu^2 ||sqrt(m) z||^2``, ``(B,)``."""
        if self.mu == 0:
            return momentum.new_zeros(momentum.shape[0])
        square = self.weighted(momentum) * momentum
        if mask is not None:
            square = square * mask
        return self.mu**2 * self.maps.grid.cell_volume * square.flatten(1).sum(1)

    @abstractmethod
    def rate(self, state: State) -> State:
        """Return the derivative of a state in time, every spatial derivative a difference on the grid."""

    def appearance(self, momentum: Image, mask: Mask | None) -> Image:
        """Return ``mu^2 m z``, the rate at which intensities change."""
        return self.mu**2 * (momentum if mask is None else momentum * mask)

    def energy(self, state: State) -> Scalar:
        """Return the Hamiltonian ``1/2 (||v||_V^2 + mu^2 ||sqrt(m) z||^2)``, summed over the batch."""
        kinetic = self.motion(state.image, state.momentum).kinetic
        return 0.5 * (kinetic + self.residual(state.momentum, state.mask)).sum()
