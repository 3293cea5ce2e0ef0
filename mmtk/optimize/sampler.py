"""Samples images of one pyramid level through a displacement that lives on a control lattice.

This is the inner loop of every registration, so it goes from nodes to sampled values in as few passes over the
full-size data as there can be: scale and flip the components on the few nodes, prolong by three dense products,
add the identity, sample.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmtk.fields import Lattice
from mmtk.fields.warp import sample_units
from mmtk.optimize.pyramid import Level

__all__ = ["LevelSampler"]


class LevelSampler:
    """Evaluates ``image(x + u(x))`` at the coarse samples of a level; the image lies on its finer ones.

    Args:
        level: The two lattices of samples.
        lattice: The control lattice of the displacement.
        like: Sets dtype and device.
    """

    def __init__(self, level: Level, lattice: Lattice, like: Tensor) -> None:
        self.lattice = lattice
        self.voxels = [axis.voxels for axis in level.coarse]
        # From voxels of the full grid to [-1, 1] over the finer samples, as grid_sample counts them.
        scales = [2 / (axis.stride * max(axis.count - 1, 1)) for axis in level.finer]
        starts = [
            (voxels - axis.first) * scale - 1
            for voxels, axis, scale in zip(self.voxels, level.finer, scales, strict=True)
        ]
        mesh = torch.meshgrid(*starts, indexing="ij")
        self.identity = torch.stack(mesh[::-1], dim=-1)[None].to(like)
        nodes_to_unit = [
            lattice.spacing / h * scale for h, scale in zip(lattice.grid.spacing, scales, strict=True)
        ]
        dim = len(scales)
        self.scale = torch.tensor(nodes_to_unit).to(like).view(1, dim, *[1] * dim)
        self.channels_last = (0, *range(2, dim + 2), 1)

    def __call__(self, image: Tensor, displacement: Tensor, aside: float = 0.0) -> Tensor:
        """Return the warped image.

        Args:
            image: ``(1, C, *finer)``.
            displacement: ``(1, dim, *nodes)``, in node spacings.
            aside: Node spacings by which every point is set aside, along all axes.

        Returns:
            ``(1, C, *coarse)``.
        """
        units = ((displacement + aside) * self.scale).flip(1)
        points = self.identity + self.lattice.prolong(units, self.voxels).permute(self.channels_last)
        return sample_units(image, points)
