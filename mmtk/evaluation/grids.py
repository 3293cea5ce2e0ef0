"""Whether two grids are one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mmtk.io import Header
from mmtk.io.space import spacing_of

__all__ = ["Placed", "same_grid", "told"]

#: Grids whose voxels lie nearer to each other than this, in voxels, are one grid.
SAME_GRID = 1e-2


@dataclass(frozen=True, eq=False)
class Placed:
    """A grid: its shape, and its affine from voxel to world."""

    shape: tuple[int, ...]
    affine: np.ndarray


def same_grid(one: Any, other: Any) -> bool:
    """Return whether two grids have one shape, and their corners meet."""
    if tuple(one.shape) != tuple(other.shape):
        return False
    dim = len(one.shape)
    corners = np.array(np.meshgrid(*((0, n - 1) for n in one.shape))).reshape(dim, -1)
    apart = (one.affine - other.affine)[:dim, :dim] @ corners + (one.affine - other.affine)[:dim, 3:]
    return bool(np.linalg.norm(apart, axis=0).max() <= SAME_GRID * min(spacing_of(other.affine, dim)))


def told(header: Header) -> str:
    """Return where an image lies, for a message."""
    shape, spacing = ("x".join(f"{n:.4g}" for n in numbers) for numbers in (header.shape, header.spacing))
    first = ", ".join(f"{x:.4g}" for x in header.affine[: header.dim, 3])
    return f"'{header.path}' has {shape} voxels of {spacing} mm, the first at ({first})"
