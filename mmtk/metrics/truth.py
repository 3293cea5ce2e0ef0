"""How far a displacement is from the true one, where it matters for an image with a lesion. Needs no torch itself.

    off        (dim, *space)   found minus true displacement, mm, along axes at right angles
    lesion     (*space)        bool
    foreground (*space)        bool, where there is something to register

The regions, all within the foreground: ``outside`` the lesion, of this ``near`` (where its mass effect is) and ``far``
(the rest), and ``inside`` it, where tissue may have no counterpart and an error means little.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

__all__ = ["box_of", "edge_error", "ring", "truth_errors", "visible_edges"]

#: An edge is visible where the image is steeper than this share of its steepest place.
VISIBLE = 0.1


def truth_errors(
    off: np.ndarray, lesion: np.ndarray, foreground: np.ndarray, spacing: Sequence[float], *, near: float = 10.0
) -> dict[str, float]:
    """Return the endpoint errors by region, mm.

    Args:
        off: ``(dim, *space)``, found minus true displacement, mm.
        lesion, foreground: ``(*space)``, bool.
        spacing: mm along each axis.
        near: Width of the band around the lesion, mm.

    Returns:
        ``outside`` (mean), ``median`` (outside), ``near``, ``far``, ``inside`` (means); NaN where a region is empty.
    """
    error = np.sqrt((off**2).sum(0))
    outside = foreground & ~lesion
    band = outside & _around(lesion, spacing, near)
    return {
        "outside": _mean(error[outside]),
        "median": float(np.median(error[outside])) if outside.any() else math.nan,
        "near": _mean(error[band]),
        "far": _mean(error[outside & ~band]),
        "inside": _mean(error[foreground & lesion]),
    }


def visible_edges(image: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Return where an image has edges that can be seen, ``(*space)``, bool: steeper than a tenth of its steepest."""
    steepness = _steepness(_slope(image, spacing))
    return steepness > VISIBLE * steepness.max()


def edge_error(
    off: np.ndarray, image: np.ndarray, spacing: Sequence[float], where: np.ndarray | None = None
) -> float:
    """Return the mean error across the visible edges of the fixed image, mm: ``|off . n|``, n along its gradient.

    Along an edge, and where an image is uniform, no method can know how far a point slid; across an edge it can.

    Args:
        off: ``(dim, *space)``, found minus true displacement, mm along the array's axes.
        image: ``(*space)``, the fixed image, without the lesion if it is known so.
        spacing: mm along each axis.
        where: Count only there, bool, such as away from the lesion. NaN if no edge is left.
    """
    slope = _slope(image, spacing)
    steepness = _steepness(slope)
    edge = steepness > VISIBLE * steepness.max()
    if where is not None:
        edge &= where
    across = np.abs((off * slope).sum(0))[edge] / np.maximum(steepness[edge], 1e-12)
    return _mean(across)


def ring(inside: np.ndarray, spacing: Sequence[float], width: float) -> np.ndarray:
    """Return the voxels outside of a region whose centers are at most ``width`` mm from one of its voxels."""
    from scipy.ndimage import distance_transform_edt

    if not inside.any():
        return np.zeros_like(inside)
    return ~inside & (distance_transform_edt(~inside, sampling=tuple(spacing)) <= width)


def box_of(inside: np.ndarray, spacing: Sequence[float], width: float) -> tuple[slice, ...] | None:
    """Return the box of a region and ``width`` mm around it, as slices; None if the region is empty."""
    if not inside.any():
        return None
    box = []
    for axis, h in enumerate(spacing):
        at = np.flatnonzero(inside.any(axis=tuple(a for a in range(inside.ndim) if a != axis)))
        more = math.floor(width / h) + 1
        box.append(slice(max(int(at[0]) - more, 0), int(at[-1]) + 1 + more))
    return tuple(box)


def _around(inside: np.ndarray, spacing: Sequence[float], width: float) -> np.ndarray:
    """Return :func:`ring`, computed in the region's box alone."""
    found = np.zeros_like(inside)
    box = box_of(inside, spacing, width)
    if box is not None:
        found[box] = ring(inside[box], spacing, width)
    return found


def _slope(image: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    return np.stack(np.gradient(image, *spacing))


def _steepness(slope: np.ndarray) -> np.ndarray:
    return np.sqrt((slope**2).sum(0))


def _mean(values: np.ndarray) -> float:
    return float(values.mean(dtype=np.float64)) if values.size else math.nan
