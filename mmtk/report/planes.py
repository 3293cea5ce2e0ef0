"""Planes of a volume, turned the way a radiologist looks at them.

A plane is one of the grid's own: nothing is resampled, rows and columns are only flipped and exchanged. On an
oblique grid it is the plane nearest to the standard one. The convention is radiological: the patient's right is on
the left of the picture, and in the sagittal plane the nose points left.

    axial      seen from the feet:  R on the left, A on top
    coronal    seen from the front: R on the left, S on top
    sagittal   seen from the left:  A on the left, S on top

    rows       the array axis that runs down the picture; columns, the one that runs to the right
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mmtk.io import Volume
from mmtk.io.space import as_numpy

__all__ = ["Plane", "nearest_axes", "planes_through", "tilt"]

#: Name of the plane, and the world directions that run down its picture and to its right.
STANDARD = {"axial": ("P", "L"), "coronal": ("I", "L"), "sagittal": ("I", "P")}

#: World axis and sign of a direction, and its opposite.
DIRECTIONS = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
OPPOSITE = {"R": "L", "L": "R", "A": "P", "P": "A", "S": "I", "I": "S"}

#: Share of the content's extent that is left around it, and the fewest voxels that a picture has along an axis.
MARGIN, FEWEST = 0.05, 8


@dataclass(frozen=True)
class Plane:
    """A plane of a grid and how it is shown.

    Attributes:
        name: ``axial``, ``coronal``, ``sagittal``, or ``image`` for a 2-D image.
        across: The array axis that stands on the plane and the index on it; None in 2-D.
        axes: Array axes along rows and columns of the picture.
        flips: Whether the picture runs against them.
        spacing: Millimeters between rows and between columns.
        letters: What lies at the left, top, right and bottom edge; empty where the image does not say.
        box: The part of the picture that is shown.
    """

    name: str
    across: tuple[int, int] | None
    axes: tuple[int, int]
    flips: tuple[bool, bool]
    spacing: tuple[float, float]
    letters: tuple[str, ...]
    box: tuple[slice, slice] = (slice(None), slice(None))

    def take(self, data: Any) -> np.ndarray:
        """Return the picture of an array or tensor ``(*lead, *space)`` as ``(*lead, rows, columns)``."""
        dim = 2 if self.across is None else 3
        index: list[Any] = [slice(None)] * dim
        if self.across is not None:
            index[self.across[0]] = self.across[1]
        flat = as_numpy(data[(..., *index)])
        if self.axes[0] > self.axes[1]:
            flat = flat.swapaxes(-1, -2)
        steps = tuple(slice(None, None, -1) if flip else slice(None) for flip in self.flips)
        return np.ascontiguousarray(flat[(..., *steps)][(..., *self.box)])

    def points(self, shape: Sequence[int]) -> np.ndarray:
        """Return the voxel coordinates of the whole plane, ``(1, dim, *shape)`` with one index across it."""
        ranges = [np.arange(n, dtype=np.float32) for n in shape]
        if self.across is not None:
            axis, index = self.across
            ranges[axis] = np.array([index], dtype=np.float32)
        return np.stack(np.meshgrid(*ranges, indexing="ij"))[None]

    def places(self, displacement: np.ndarray) -> np.ndarray:
        """Return where the voxels of the picture are sampled, in mm along its rows and columns: ``(2, rows, columns)``.

        Args:
            displacement: ``(dim, rows, columns)`` in voxels, as :meth:`take` returns it.
        """
        rows, columns = np.indices(displacement.shape[1:], dtype=np.float32)
        down, right = (
            (-1 if flip else 1) * displacement[axis] for axis, flip in zip(self.axes, self.flips, strict=True)
        )
        return np.stack([(rows + down) * self.spacing[0], (columns + right) * self.spacing[1]])

    def slab(self) -> Plane:
        """Return the whole of the plane, for an array with one index across it, as :meth:`points` makes it."""
        across = None if self.across is None else (self.across[0], 0)
        return replace(self, across=across, box=(slice(None), slice(None)))

    def around(self, content: np.ndarray) -> Plane:
        """Return the plane with its box drawn around the voxels where ``content`` is true, and a margin."""
        boxes = []
        for axis, n in enumerate(content.shape):
            used = np.flatnonzero(content.any(axis=1 - axis))
            first, last = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, n)
            grow = max(round(MARGIN * (last - first)), (FEWEST - last + first + 1) // 2, 1)
            boxes.append(slice(max(first - grow, 0), min(last + grow, n)))
        return replace(self, box=(boxes[0], boxes[1]))


def planes_through(volume: Volume, center: Sequence[int]) -> list[Plane]:
    """Return the axial, coronal and sagittal plane through a voxel; of a 2-D image, the one that there is."""
    nearest = nearest_axes(volume.affine[:3, : volume.dim])
    if volume.dim == 2:
        return [replace(_plane("image", volume, nearest, *STANDARD["axial"], None), letters=())]
    planes = []
    for name, (down, right) in STANDARD.items():
        used = {DIRECTIONS[down][0], DIRECTIONS[right][0]}
        axis = nearest[({0, 1, 2} - used).pop()][0]
        planes.append(_plane(name, volume, nearest, down, right, (axis, int(center[axis]))))
    return planes if volume.storage.located else [replace(plane, letters=()) for plane in planes]


def tilt(volume: Volume) -> float:
    """Return the largest angle between an axis of the grid and the world axis nearest to it, in degrees."""
    axes = volume.affine[:3, : volume.dim]
    nearest = nearest_axes(axes)
    cosines = [abs(axes[w, axis]) / np.linalg.norm(axes[:, axis]) for w, (axis, _) in nearest.items()]
    return float(np.degrees(np.arccos(min(1.0, *cosines))))


def _plane(
    name: str,
    volume: Volume,
    nearest: dict[int, tuple[int, int]],
    down: str,
    right: str,
    across: tuple[int, int] | None,
) -> Plane:
    axes, flips = [], []
    for direction in (down, right):
        world, sign = DIRECTIONS[direction]
        axis, points_to = nearest[world]
        axes.append(axis)
        flips.append(sign != points_to)
    h = volume.spacing
    letters = (OPPOSITE[right], OPPOSITE[down], right, down)
    return Plane(name, across, (axes[0], axes[1]), (flips[0], flips[1]), (h[axes[0]], h[axes[1]]), letters)


def nearest_axes(axes: np.ndarray) -> dict[int, tuple[int, int]]:
    """Return, for each world axis, the array axis nearest to it and the sign; no array axis is given twice."""
    dim = axes.shape[1]
    unit = axes[:dim] / np.linalg.norm(axes, axis=0)
    best = max(itertools.permutations(range(dim)), key=lambda p: sum(abs(unit[w, p[w]]) for w in range(dim)))
    return {w: (axis, 1 if unit[w, axis] >= 0 else -1) for w, axis in enumerate(best)}
