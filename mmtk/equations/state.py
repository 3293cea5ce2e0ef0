"""What evolves in time: image, momentum, mask, and what the path has cost so far."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

from torch import Tensor

from mmtk.types import Image, Mask

__all__ = ["State"]

S = TypeVar("S", bound="State")


@dataclass(frozen=True, eq=False)
class State:
    """A point on the path, or its rate of change: a vector space, so that a scheme reads like the textbook.

    Attributes:
        image: ``(B, C, *space)``.
        momentum: ``(B, C, *space)``, the residual ``z`` of every channel.
        mask: ``(B, 1, *space)`` where intensities may change, carried by the flow; None: everywhere.
        kinetic: ``(B,)``, the integral of ``||v||_V^2`` from time 0 until now.
        residual: ``(B,)``, the integral of ``mu^2 ||sqrt(m) z||^2`` from time 0 until now.
    """

    image: Image
    momentum: Image
    mask: Mask | None
    kinetic: Tensor
    residual: Tensor

    @classmethod
    def start(cls: type[S], image: Image, momentum: Image, mask: Mask | None = None) -> S:
        """Return the state at time 0, where nothing has been spent yet."""
        zero = image.new_zeros(image.shape[0])
        return cls(image, momentum, mask, zero, zero)

    def __add__(self: S, other: State) -> S:
        mask = None if self.mask is None or other.mask is None else self.mask + other.mask
        return replace(
            self,
            image=self.image + other.image,
            momentum=self.momentum + other.momentum,
            mask=mask,
            kinetic=self.kinetic + other.kinetic,
            residual=self.residual + other.residual,
        )

    def __rmul__(self: S, scale: float) -> S:
        return replace(
            self,
            image=scale * self.image,
            momentum=scale * self.momentum,
            mask=None if self.mask is None else scale * self.mask,
            kinetic=scale * self.kinetic,
            residual=scale * self.residual,
        )
