"""Overlap and surface distance of label maps.

    labels   (*space) or (1, 1, *space)   whole numbers of any dtype, 0 is background

One case at a time: voxels of a batch would be counted together.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mmtk.errors import GridMismatch

__all__ = ["SurfaceDistance", "dice", "mean_dice", "surface_distances"]


def dice(moved: Tensor, fixed: Tensor, labels: Iterable[int] | None = None) -> dict[int, float]:
    """Return ``2 |A and B| / (|A| + |B|)`` for every label, ``A`` and ``B`` its voxels in the two maps.

    A label that only one map has scores 0; one that neither has, NaN.

    Args:
        moved, fixed: Label maps of one shape, labels at least 0. Warp them by nearest neighbor.
        labels: Those wanted; if None, all above 0 that occur in either map.

    Raises:
        GridMismatch: If the shapes differ.
        ValueError: If a label is negative.
    """
    moved, fixed = _pair(moved, fixed)
    size = int(max(moved.max(), fixed.max())) + 1
    both = torch.bincount(moved[moved == fixed], minlength=size)
    either = torch.bincount(moved, minlength=size) + torch.bincount(fixed, minlength=size)
    if labels is None:
        labels = (1 + either[1:].nonzero().flatten()).tolist()
    result = {}
    for label in labels:
        total = int(either[label]) if 0 <= label < size else 0
        result[label] = 2 * int(both[label]) / total if total else math.nan
    return result


def mean_dice(moved: Tensor, fixed: Tensor, labels: Iterable[int] | None = None) -> float:
    """Return the mean of :func:`dice` over labels, each counted once; those in neither map are left out."""
    scores = [s for s in dice(moved, fixed, labels).values() if not math.isnan(s)]
    return sum(scores) / len(scores) if scores else math.nan


class SurfaceDistance(NamedTuple):
    """Distances between the surfaces of one label in two maps, in mm.

    Attributes:
        hd95: The larger of the two directed 95th percentiles.
        mean: The mean over all voxels of both surfaces of the distance to the other surface.
        within: Share of both surfaces that lies within a tolerance of the other: the normalized surface distance,
            or surface Dice.
    """

    hd95: float
    mean: float
    within: float


def surface_distances(
    moved: Tensor,
    fixed: Tensor,
    spacing: Sequence[float],
    labels: Iterable[int] | None = None,
    *,
    tolerance: float = 1.0,
) -> dict[int, SurfaceDistance]:
    """Return how far the surfaces of every label are from each other.

    A surface is the set of a label's voxels that have a neighbor along an axis outside of it, as MONAI's
    ``compute_hausdorff_distance(percentile=95)``, ``compute_average_surface_distance(symmetric=True)`` and
    ``compute_surface_dice`` define it; they do the work. A label that one map does not have is infinitely far, one that
    neither has, NaN.

    Args:
        moved, fixed: Label maps of one shape.
        spacing: In mm, one number an axis.
        labels: Those wanted; if None, all above 0 that occur in either map.
        tolerance: For the share that lies within it, mm.

    Raises:
        GridMismatch: If the shapes differ.
        ValueError: If a label is negative.
    """
    from monai.metrics import (
        compute_average_surface_distance,
        compute_hausdorff_distance,
        compute_surface_dice,
    )

    shape = fixed.shape[-len(spacing) :]
    maps = [m.view(shape) for m in _pair(moved, fixed)]
    boxes = _boxes(maps)
    result = {}
    for label in dice(moved, fixed) if labels is None else labels:
        box = boxes(label)
        ours, theirs = ((m[box] == label)[None, None] for m in maps)
        if not (ours.any() and theirs.any()):
            far = math.inf if ours.any() or theirs.any() else math.nan
            result[label] = SurfaceDistance(far, far, 0.0 if far == math.inf else math.nan)
            continue
        options = {"include_background": True, "spacing": list(spacing)}
        with warnings.catch_warnings():  # MONAI warns of its own future
            warnings.simplefilter("ignore")
            hd95 = compute_hausdorff_distance(ours, theirs, percentile=95, **options)
            mean = compute_average_surface_distance(ours, theirs, symmetric=True, **options)
            within = compute_surface_dice(ours, theirs, class_thresholds=[tolerance], **options)
        result[label] = SurfaceDistance(float(hd95), float(mean), float(within))
    return result


def _pair(moved: Tensor, fixed: Tensor) -> tuple[Tensor, Tensor]:
    """Return both maps as flat whole numbers."""
    if moved.shape != fixed.shape:
        raise GridMismatch("moved", tuple(moved.shape), "fixed", tuple(fixed.shape))
    moved, fixed = moved.flatten().long(), fixed.flatten().long()
    if int(min(moved.min(), fixed.min())) < 0:
        raise ValueError("labels must be whole numbers of at least 0")
    return moved, fixed


def _boxes(maps: Sequence[Tensor]) -> Callable[[int], tuple[slice, ...]]:
    """Return what tells the box that holds a label in all maps, and one voxel more, which a surface needs."""
    from scipy.ndimage import find_objects

    found = [find_objects(labels.cpu().numpy()) for labels in maps]
    whole = tuple(slice(0, n) for n in maps[0].shape)

    def box(label: int) -> tuple[slice, ...]:
        known = [boxes[label - 1] for boxes in found if 0 < label <= len(boxes) and boxes[label - 1] is not None]
        if not known:
            return whole
        return tuple(
            slice(max(min(s.start for s in a) - 1, 0), max(s.stop for s in a) + 1)
            for a in zip(*known, strict=True)
        )

    return box
