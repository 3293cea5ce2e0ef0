"""A displacement field as a map of points, and that map backwards.

The map is ``x -> x + u(x)`` with ``u`` linear between voxels, repeated over the half voxel around the grid and 0
beyond, as ITK has it. Backwards it is solved for at each point, by Newton's method on exactly this interpolated
map, so that there and back again is the identity to rounding, which a stored inverse field is not.

    points    (n, dim), float64, world (RAS), mm
    voxels    (dim, n), float64, of the field's grid
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from mmtk.io import FieldStep

__all__ = ["TOLERANCE", "displaced", "undisplaced", "voxels_of", "within"]

#: What counts as found, in mm. The iterations aim a hundred times lower.
TOLERANCE = 1e-4
AIM = 1e-6
#: Slack at the rim of a grid, in voxels: a point found again from the other side is not to fall out by rounding.
RIM = 0.5 + 1e-6
MOST_STEPS = 40
SHORTEST = 1e-3
#: A step that leaves less than this share of the distance is a good one.
FAST = 0.3
#: The lattice from which lost points start anew has at most this many nodes.
MOST_SEEDS = 1 << 20
SEEDS_TRIED = 8


def voxels_of(points: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Return ``(dim, n)`` voxels of a grid for points ``(n, dim)`` in mm."""
    dim = points.shape[1]
    return np.linalg.inv(affine[:dim, :dim]) @ (points - affine[:dim, 3]).T


def within(voxels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return ``(n,)``, true where a point lies on the grid or less than half a voxel beside it; false for NaN."""
    last = np.array(shape)[:, None] - 1
    return np.asarray(((voxels >= -RIM) & (voxels <= last + RIM)).all(axis=0))


def displaced(field: FieldStep, points: np.ndarray) -> np.ndarray:
    """Return ``points + u(points)``, ``(n, dim)``."""
    from scipy.ndimage import map_coordinates

    voxels = voxels_of(points, field.affine)
    inside = within(voxels, field.vectors.shape[1:])
    voxels[:, ~inside] = 0
    pulled = [map_coordinates(part, voxels, np.float64, order=1, mode="nearest") for part in field.vectors]
    return points + np.where(inside, pulled, 0).T


def undisplaced(field: FieldStep, points: np.ndarray, start: FieldStep | None = None) -> np.ndarray:
    """Return the points that :func:`displaced` takes to ``points``, ``(n, dim)``; NaN where there are none.

    Nothing is taken to a point where the field tears: over folds, and just inside the grid's border where the
    field points inward, since it ends there. Where folds take several points to one, one of them is returned.

    Args:
        field: The field of the map.
        points: Where the points came to lie.
        start: An approximate inverse, such as the one that a run stores; without it the field itself serves.
    """
    begin = displaced(start, points) if start is not None else 2 * points - displaced(field, points)
    found, miss = _newton(field, points, begin)
    for seed in _seeds(field, points, miss):
        lost = np.flatnonzero(~(miss <= TOLERANCE))
        if not len(lost):
            break
        again, gap = _newton(field, points[lost], seed[lost])
        better = gap < miss[lost]
        found[lost[better]], miss[lost[better]] = again[better], gap[better]
    shape = field.vectors.shape[1:]
    on_grid = within(voxels_of(found, field.affine), shape)
    away = ~within(voxels_of(points, field.affine), shape) & np.isfinite(points).all(axis=1)
    good = (miss <= TOLERANCE) & on_grid
    return np.where(good[:, None], found, np.where(away[:, None], points, np.nan))


class _Jet(NamedTuple):
    """The map and its derivative at points: where they go ``(n, dim)``, and ``(n, dim, dim)``."""

    value: np.ndarray
    slope: np.ndarray


def _landed(field: FieldStep, points: np.ndarray) -> np.ndarray:
    """Evaluate the map, its field continued beyond the grid by the nearest voxel, so that there is no cliff."""
    from scipy.ndimage import map_coordinates

    voxels = voxels_of(points, field.affine)
    pulled = [map_coordinates(part, voxels, np.float64, order=1, mode="nearest") for part in field.vectors]
    return points + np.stack(pulled, axis=1)


def _jet(field: FieldStep, points: np.ndarray) -> _Jet:
    """Evaluate the map of :func:`_landed`, and its derivative."""
    vectors = field.vectors
    dim, shape = len(vectors), vectors.shape[1:]
    last = np.array(shape)[:, None] - 1
    free = voxels_of(points, field.affine)
    held = np.clip(free, 0, last)
    low = np.minimum(held.astype(np.intp), np.maximum(last - 1, 0))
    ends = (low, np.minimum(low + 1, last))
    share = held - low
    flat = vectors.reshape(dim, -1)
    nodes = (
        np.ravel_multi_index([ends[c][a] for a, c in enumerate(k)], shape) for k in product((0, 1), repeat=dim)
    )
    # Values at the corners of a cell become one value axis by axis, the last axis first; slopes come along.
    cell: list[list[np.ndarray]] = [[flat[:, node].astype(np.float64)] for node in nodes]
    for axis in reversed(range(dim)):
        cell = [_between(cell[n], cell[n + 1], share[axis]) for n in range(0, len(cell), 2)]
    value, *slopes = cell[0]
    slope = np.stack(slopes, axis=1) * (free == held)[None]
    to_voxels = np.linalg.inv(field.affine[:dim, :dim])
    return _Jet(points + value.T, np.eye(dim) + np.moveaxis(slope, -1, 0) @ to_voxels)


def _between(here: list[np.ndarray], there: list[np.ndarray], share: np.ndarray) -> list[np.ndarray]:
    """Return value, slope along this axis, and slopes along the others, between two sides of a cell."""
    value, *slopes = (one + share * (other - one) for one, other in zip(here, there, strict=True))
    return [value, there[0] - here[0], *slopes]


def _newton(field: FieldStep, targets: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the solutions ``(n, dim)`` and by how much each misses, in mm (NaN for targets that are NaN).

    The slope is kept while steps by it come nearer fast, since from cell to cell it changes little; then it is
    taken anew, and where a step by it does not come nearer, the step is halved.
    """
    found = np.where(np.isfinite(start), start, targets)
    value, slope = _jet(field, np.nan_to_num(found))
    back = _inverted(slope)
    rest = targets - value
    miss = np.linalg.norm(rest, axis=1)
    length, fresh = np.ones(len(found)), np.ones(len(found), bool)
    for _ in range(MOST_STEPS):
        busy = np.flatnonzero((miss > AIM) & (length > SHORTEST))
        if not len(busy):
            break
        trial = found[busy] + length[busy, None] * (back[busy] @ rest[busy, :, None])[:, :, 0]
        left = targets[busy] - _landed(field, trial)
        gap = np.linalg.norm(left, axis=1)
        nearer, fast = gap < miss[busy], gap < FAST * miss[busy]
        had_fresh = fresh[busy]
        shorter = np.where(had_fresh, length[busy] / 2, length[busy])
        length[busy] = np.where(nearer, np.minimum(1, 2 * length[busy]), shorter)
        moved = busy[nearer]
        found[moved], rest[moved], miss[moved] = trial[nearer], left[nearer], gap[nearer]
        renewed = busy[~fast & (nearer | ~had_fresh)]
        back[renewed] = _inverted(_jet(field, found[renewed]).slope)
        fresh[busy] = ~fast
    return found, miss


def _inverted(slope: np.ndarray) -> np.ndarray:
    """Return the inverse of each slope; the identity, as in a fixed point iteration, where the map folds."""
    upright = np.linalg.det(slope) > 1e-3
    back = np.broadcast_to(np.eye(slope.shape[-1]), slope.shape).copy()
    back[upright] = np.linalg.inv(slope[upright])
    return back


def _seeds(field: FieldStep, points: np.ndarray, miss: np.ndarray) -> Iterator[np.ndarray]:
    """Yield other starts for the points that are lost: the voxels that the map takes nearest to them."""
    lost = np.flatnonzero(miss > TOLERANCE)
    if not len(lost):
        return
    tree, centers = _landings(field)
    _, nearest = tree.query(points[lost], k=min(SEEDS_TRIED, len(centers)))
    for column in np.reshape(nearest, (len(lost), -1)).T:
        seeds = points.copy()
        seeds[lost] = centers[column]
        yield seeds


_known_landings: WeakKeyDictionary[FieldStep, tuple[Any, np.ndarray]] = WeakKeyDictionary()


def _landings(field: FieldStep) -> tuple[Any, np.ndarray]:
    """Return a tree of where the map takes the voxels of its grid, and the voxels, ``(m, dim)`` in mm."""
    from scipy.spatial import cKDTree

    if field not in _known_landings:
        dim, shape = len(field.vectors), field.vectors.shape[1:]
        stride = int(np.ceil((np.prod(shape, dtype=np.float64) / MOST_SEEDS) ** (1 / dim)))
        cut = tuple(slice(None, None, stride) for _ in shape)
        nodes = np.stack(np.meshgrid(*(np.arange(0, n, stride) for n in shape), indexing="ij")).reshape(dim, -1)
        centers = (field.affine[:dim, :dim] @ nodes).T + field.affine[:dim, 3]
        landed = centers + field.vectors[(slice(None), *cut)].reshape(dim, -1).T
        _known_landings[field] = cKDTree(landed), centers
    return _known_landings[field]
