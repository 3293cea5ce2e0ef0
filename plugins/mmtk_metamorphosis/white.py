r"""The shape by white velocity coefficients on a control lattice: ``v = K^(1/2) w``.

.. math::
    v = K^{1/2} w, \qquad \|v\|_V^2 = \|w\|^2

The unknowns are as well conditioned as they can be, live on few nodes, and the full-size image is touched once for each
evaluation, whatever the number of time steps; any similarity will do.

Say plainly what this is: with a residual that is free inside the mask it is cost-function masking with a painted
residual, no geodesic couples shape and appearance, and a single stationary w is a stationary velocity field.

    w             (velocities, dim, *nodes)   white, so that its sum of squares times the node volume is the norm
    displacement  (1, dim, *nodes)            node spacings
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from mmtk.fields import Grid, Kernel, Lattice, Smoother, squarings_needed
from mmtk_metamorphosis.detail import Detail

__all__ = ["WhiteFlow"]


class WhiteFlow:
    """From white coefficients to the flow that they generate.

    Args:
        kernel: The kernel K, in mm.
        grid: The fixed image's grid.
        spacing: Node spacing in mm.
        velocities: 1 is a stationary velocity; more are a path, each lasting its part of the time.
        squarings: A stationary flow is composed from ``2 ** squarings`` steps, at least; a path shares them.
        box: The part of the grid where something is to be matched; all of it if None.

    Attributes:
        detail: A finer kernel around a lesion; None for one kernel everywhere.
    """

    def __init__(
        self,
        kernel: Kernel,
        grid: Grid,
        spacing: float,
        velocities: int = 1,
        squarings: int = 3,
        box: Sequence[slice] | None = None,
    ) -> None:
        # 1.5 sigma between the two ends of the period: farther, and most nodes would lie outside the image.
        self.lattice = Lattice(grid, spacing, kernel.reach / 2, box)
        self.smoother = Smoother(kernel, self.lattice.box)
        self.velocities = velocities
        self.squarings = squarings
        self.detail: Detail | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the unknowns."""
        return (self.velocities, self.lattice.grid.dim, *self.lattice.nodes)

    def norm(self, white: Tensor) -> Tensor:
        """Return the squared norm of the path in V, an integral over time: mm^dim times (mm/time)^2."""
        return (white**2).sum() * (self.lattice.box.cell_volume / self.velocities)

    def velocity(self, white: Tensor) -> Tensor:
        """Return the velocities, ``(velocities, dim, *nodes)``, in node spacings per unit time."""
        root = self.smoother.root(white)
        if self.detail is not None:
            root = self.detail.root(white, root)
        return root / self.lattice.spacing

    def displacement(self, white: Tensor, *, backward: bool = False) -> Tensor:
        """Return the pull-back ``phi^-1`` of the flow, or with ``backward`` its inverse, in node spacings."""
        steps = self.velocity(white) / self.velocities
        squarings = max(0, self.squarings - round(math.log2(self.velocities)))
        total: Tensor | None = None
        for step in reversed(steps) if backward else steps:
            small = self.lattice.exponential((-step if backward else step)[None], squarings)
            total = small if total is None else self.lattice.compose(total, small)
        assert total is not None
        return total

    def steepness(self, white: Tensor) -> int:
        """Return how many squarings this flow needs so as not to fold."""
        return squarings_needed(self.velocity(white) / self.velocities) + round(math.log2(self.velocities))

    def on_grid(self, nodes: Tensor, voxels: Sequence[Tensor] | None = None) -> Tensor:
        """Return a displacement in voxels of the full grid, ``(1, dim, *space)``."""
        return self.lattice.in_voxels(self.lattice.prolong(nodes, voxels))
