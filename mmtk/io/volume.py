"""An image and where it lies.

A :class:`Header` is what can be told without a voxel being read; a :class:`Volume` has the voxels as well. Both
are on one convention, whatever the file's was: at most three axes, no axis of length 1, millimeters, RAS.

    data       (*space), float32, C order, array axes i, j(, k)
    affine     4x4, voxel -> world; of a 2-D image, in the plane where ITK would place it (third axis: identity)
    storage    how the file had it, so that results are written as the image came
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmtk.io.space import orientation, plane_affine, spacing_of

if TYPE_CHECKING:
    from mmtk.fields import Grid

__all__ = ["Header", "Storage", "Volume"]


@dataclass(frozen=True, eq=False)
class Storage:
    """How an image lay in its file.

    Attributes:
        affine: 4x4, RAS, mm, of the array as stored.
        sform_code, qform_code: As in NIfTI; both 0 where the file says nothing about position.
        dtype: Type of the stored voxels.
        slice_axis: Of a 2-D image that was stored with three axes, the one of length 1; else None.
    """

    affine: np.ndarray
    sform_code: int = 1
    qform_code: int = 1
    dtype: np.dtype = field(default_factory=lambda: np.dtype(np.float32))
    slice_axis: int | None = None

    @property
    def located(self) -> bool:
        """Whether the file says where its voxels lie."""
        return bool(self.sform_code or self.qform_code)


class _Placed:
    shape: tuple[int, ...]
    affine: np.ndarray
    name: str
    path: Path | None

    @property
    def dim(self) -> int:
        """Number of spatial axes, 2 or 3."""
        return len(self.shape)

    @property
    def spacing(self) -> tuple[float, ...]:
        """Distance between neighbors along each axis, in mm."""
        return spacing_of(self.affine, self.dim)


@dataclass(frozen=True, eq=False)
class Header(_Placed):
    """What can be told about an image without reading a voxel.

    Attributes:
        shape: Voxels along each axis, 2 or 3 numbers.
        affine: 4x4, voxel to world.
        storage: How the file had it.
        name: The role of the image, as messages speak of it: ``moving``, ``fixed``, ``mask``.
        path: The file, or None.
        notes: Sentences that a user may want to read.
    """

    shape: tuple[int, ...]
    affine: np.ndarray
    storage: Storage
    name: str = "image"
    path: Path | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False, repr=False)
class Volume(_Placed):
    """An image on its grid.

    Args:
        data: ``(*space)``, two or three axes; kept as float32 in C order.
        affine: 4x4, voxel to world (RAS, mm). Of a 2-D image only the plane is kept.
        storage: How a file had it; without one, as ``affine`` says.
        name: The role of the image: ``moving``, ``fixed``, ``mask``.
        path: The file it came from, or None.
        notes: Sentences that a user may want to read.

    Raises:
        ValueError: If ``data`` has not two or three axes, or ``affine`` is not an invertible 4x4 matrix.
    """

    data: np.ndarray
    affine: np.ndarray
    storage: Storage = None  # type: ignore[assignment]  # always there once built
    name: str = "image"
    path: Path | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        data = np.ascontiguousarray(self.data, dtype=np.float32)
        affine = np.array(self.affine, dtype=np.float64)
        if data.ndim not in (2, 3):
            raise ValueError(f"a volume has 2 or 3 axes, not the shape {data.shape}")
        placed = plane_affine(affine) if data.ndim == 2 and affine.shape == (4, 4) else affine
        if placed.shape != (4, 4) or not abs(np.linalg.det(placed)) > 0:
            raise ValueError(f"the affine of a volume is an invertible 4x4 matrix, not {affine.tolist()}")
        object.__setattr__(self, "data", data)
        object.__setattr__(self, "affine", placed)
        object.__setattr__(self, "storage", self.storage or Storage(affine))

    def __repr__(self) -> str:
        shape, spacing = ("x".join(f"{n:.4g}" for n in numbers) for numbers in (self.shape, self.spacing))
        return f"Volume({self.name}: {shape} voxels of {spacing} mm, {orientation(self.affine, self.dim)})"

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """Voxels along each axis."""
        return self.data.shape

    @property
    def grid(self) -> Grid:
        """Shape and spacing, for the numerics. Loads torch."""
        from mmtk.fields import Grid

        return Grid(self.shape, self.spacing)
