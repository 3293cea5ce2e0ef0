"""A grid: how many voxels along each axis, and how far apart they are in millimeters.

Orientation and position are no business of the numerics: they stay in ``mmtk.io``. What a grid must carry is
the spacing, because kernels, norms and tolerances are told in millimeters while fields are stored in voxels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Grid", "identity"]


@dataclass(frozen=True)
class Grid:
    """Shape and spacing of a regular grid.

    Args:
        shape: Voxels along each axis, 2 or 3 numbers.
        spacing: Distance between neighbors along each axis, in mm.

    Raises:
        ValueError: If the two differ in length, or a number is not positive and finite.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        object.__setattr__(self, "spacing", tuple(float(h) for h in self.spacing))
        if len(self.shape) != len(self.spacing):
            raise ValueError(f"a grid of shape {self.shape} needs as many spacings, not {self.spacing}")
        if min(self.shape) < 1 or not all(math.isfinite(h) and h > 0 for h in self.spacing):
            raise ValueError(f"shape {self.shape} and spacing {self.spacing} must be positive and finite")

    @property
    def dim(self) -> int:
        """Number of spatial axes, 2 or 3."""
        return len(self.shape)

    @property
    def cell_volume(self) -> float:
        """Volume (area in 2-D) of one voxel in mm^dim: the weight that turns a sum into an integral."""
        return math.prod(self.spacing)

    @property
    def size(self) -> int:
        """Number of voxels."""
        return math.prod(self.shape)

    @property
    def extent(self) -> tuple[float, ...]:
        """Distance between the first and the last voxel center along each axis, in mm."""
        return tuple((n - 1) * h for n, h in zip(self.shape, self.spacing, strict=True))

    def per_axis(self, like: Tensor) -> Tensor:
        """Return the spacing as ``(1, dim, 1, ..)``, to multiply a vector field with."""
        return torch.tensor(self.spacing, dtype=like.dtype, device=like.device).view(1, -1, *[1] * self.dim)


def identity(
    shape: tuple[int, ...], *, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
) -> Tensor:
    """Return the voxel coordinates ``(1, dim, *shape)`` of a grid, components in axis order i, j, k."""
    axes = [torch.arange(n, dtype=dtype, device=device) for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]
