r"""VoxelMorph: a U-Net predicts a stationary velocity, which scaling and squaring integrates.

.. math::
    E = \frac{1}{2} \Big( \|I \circ \phi^{-1} - J\|^2 + \lambda \, \overline{\|\nabla v\|^2} \Big)

As published (Balakrishnan et al., IEEE TMI 2019), but for a common factor: the slopes are averaged over components
and axes, in voxels, and both terms are integrals instead of means, so that ``lambda`` means what it means there.

Masked (thesis 5.3.3), the cost leaves out what the warped lesion covers, and the network does not see the lesion.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmtk.fields import Grid, exponential, filled, warp
from mmtk.learned import Backbone, Batch, Model, Prediction
from mmtk.similarity import Similarity

__all__ = ["VoxelMorph"]


class VoxelMorph(Model):
    """A U-Net, a velocity, a map; images keep their intensities.

    Args:
        grid: The grid that the weights belong to.
        similarity: Of the data term, with the reduction ``none``.
        lam: Weight of the velocity's smoothness.
        masked: Leave the lesion out of the cost and of what the network sees.
        channels: Of each image.
        widths: Channels of the U-Net's levels, finest first.
        squarings: The map is composed from ``2 ** squarings`` steps; 0: the answer is the displacement itself.
        half: Convolve in bfloat16.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        similarity: Similarity,
        lam: float = 0.1,
        masked: bool = False,
        channels: int = 1,
        widths: Sequence[int] = (16, 32, 32, 32),
        squarings: int = 7,
        half: bool = False,
    ) -> None:
        super().__init__()
        self.grid, self.similarity, self.lam, self.masked, self.squarings = (
            grid,
            similarity,
            lam,
            masked,
            squarings,
        )
        self.backbone = Backbone(grid.dim, 2 * channels, grid.dim, widths, half)

    def forward(self, batch: Batch, *, maps: bool = False) -> Prediction:
        self.check(batch)
        moving = batch.moving
        if self.masked and batch.mask is not None:
            moving = moving * (1 - batch.mask)
        velocity = self.backbone(torch.cat([moving, batch.fixed], dim=1))
        return self.follow(batch, (velocity,), maps=maps)

    def follow(self, batch: Batch, path: tuple[Tensor, ...], *, maps: bool = False) -> Prediction:
        self.check(batch)
        (velocity,) = path
        displacement = self._integrated(velocity)
        warped, lesion = warp(batch.moving, displacement), None
        weight = torch.ones_like(batch.fixed[:, :1]) if batch.fixed_mask is None else 1 - batch.fixed_mask
        compared = warped
        if batch.mask is not None:
            lesion = warp(batch.mask, displacement)
            if self.masked:  # its rim, which interpolation shares out, shows what is beside it
                weight = weight * (1 - lesion)
                compared = warp(filled(batch.moving, batch.mask), displacement)
        cells = self.grid.cell_volume
        data = cells * self.similarity(compared, batch.fixed, weight).flatten(1).sum(1)
        return Prediction(
            warped=warped,
            displacement=displacement,
            data=data,
            cost=0.5 * self.lam * cells * _slopes(velocity),
            lesion=lesion,
            inverse=self._integrated(-velocity) if maps else None,
            path=(velocity.detach(),),
        )

    def _integrated(self, velocity: Tensor) -> Tensor:
        return exponential(velocity, self.squarings) if self.squarings else velocity

    @torch.no_grad()
    def predict(self, batch: Batch) -> tuple[Tensor, ...]:
        return self(batch).path


def _slopes(velocity: Tensor) -> Tensor:
    """Return the sum over voxels of the mean squared slope over components and axes, ``(B,)``."""
    dim = velocity.shape[1]
    slopes = [velocity.diff(dim=axis).square().flatten(1).sum(1) for axis in range(2, velocity.ndim)]
    return torch.stack(slopes).sum(0) / dim**2
