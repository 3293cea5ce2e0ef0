r"""Split momentum: the shape is driven by what lies outside the mask, the residual inside it is free.

One momentum that both fills a lesion and drives the shape drags the lesion's borders along. Here they are two
unknowns, and no geodesic couples them:

    p    (B, C, *space)   drives the shape; only ``(1 - m) p`` acts
    r    (B, C, *space)   intensity painted inside the mask, on the moving image, before it is deformed
"""

from __future__ import annotations

from torch import Tensor

from mmtk.equations.base import Equation, Motion
from mmtk.equations.metamorphosis import Metamorphosis
from mmtk.equations.state import State
from mmtk.fields import warp
from mmtk.fields.warp import Mode
from mmtk.types import Displacement, Image, Mask

__all__ = ["SplitMetamorphosis"]


class SplitMetamorphosis(Equation):
    r"""The shape is LDDMM by the scalar momentum outside the mask; the appearance is a residual inside it.

    .. math::
        p_0 &= (1 - m)\, p \qquad v_t = -K \star (p_t \nabla (I_0 \circ \phi_t^{-1})) \\
        I_t &= (I_0 + t\, m\, r) \circ \phi_t^{-1}

    and the energy is the data term, plus ``lambda`` times the shape's, plus ``(lambda / mu^2) ||sqrt(m) r||^2``.
    It is cost-function masking with a painted residual: the shape outside the lesion does not know of ``r``.

    As an equation it is the shape's: integrators carry ``I_0`` and ``p_0``, and :meth:`paint` adds the residual.

    Args:
        shape: The equation of the shape; its ``mu`` must be 0.
        mu: How cheap the residual is, > 0. Toward 0 it is forbidden; the larger, the less the residual costs.
    """

    def __init__(self, shape: Metamorphosis, mu: float) -> None:
        if shape.mu != 0:
            raise ValueError(f"the shape of a split metamorphosis keeps intensities: its mu is 0, not {shape.mu}")
        if not mu > 0:
            raise ValueError(f"mu must be positive, not {mu}; for a shape without any appearance use LDDMM")
        self.shape, self.maps, self.grid = shape, shape.maps, shape.grid
        self.mu = 0.0
        self.ease = float(mu)

    def force(self, image: Image, momentum: Image) -> Tensor:
        return self.shape.force(image, momentum)

    def respond(self, force: Tensor) -> Motion:
        return self.shape.respond(force)

    def weighted(self, momentum: Image) -> Image:
        return self.shape.weighted(momentum)

    def rate(self, state: State) -> State:
        return self.shape.rate(state)

    def momentum(self, p: Image, mask: Mask | None) -> Image:
        """Return the initial momentum ``p_0 = (1 - m) p``; without a mask, ``p``."""
        return p if mask is None else (1 - mask) * p

    def painted(self, image: Image, r: Image, mask: Mask | None, time: float = 1.0) -> Image:
        """Return ``I_0 + t m r`` in the moving frame. Without a mask every voxel may change."""
        return image + time * (r if mask is None else mask * r)

    def paint(
        self, image: Image, r: Image, mask: Mask | None, displacement: Displacement, *,
        time: float = 1.0, mode: Mode = "linear",
    ) -> Image:  # fmt: skip
        """Return ``I_t = (I_0 + t m r) o phi_t^-1``, by one resampling of the moving image.

        Args:
            image, r: ``(B, C, *space)`` in the moving frame.
            mask: ``(B, 1, *space)`` in the moving frame.
            displacement: ``(B, dim, *space)``, voxels: the pull-back ``phi_t^-1`` of the shape at ``time``.
        """
        return warp(self.painted(image, r, mask, time), displacement, mode, self.maps.padding)

    def appearance_cost(self, r: Image, mask: Mask | None) -> Tensor:
        """Return ``||sqrt(m) r||^2 / mu^2``, ``(B,)``, with the cell volume."""
        square = r**2 if mask is None else mask * r**2
        return self.grid.cell_volume / self.ease**2 * square.flatten(1).sum(1)
