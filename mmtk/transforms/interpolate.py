"""Values of an image between its voxels.

    nearest    the voxel that is nearest
    linear     between the 2^dim voxels around
    cubic      the interpolating cubic B-spline, mirrored at the borders
    sinc       Lanczos-windowed sinc, four voxels to each side, its weights made to sum to 1
    labels     the label that has the largest share when every label is interpolated linearly, found without making
               an image of each: the voxels around vote with their linear weights

`cubic` and `sinc` overshoot at edges: a positive image may come out slightly negative. All of them repeat the last
voxel over the half voxel around the grid (`cubic` mirrors), as ITK does.

    data      (*space)
    voxels    (dim, n), float64, on the grid or at most half a voxel beside it
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, product
from typing import Literal, get_args

import numpy as np

__all__ = ["INTERPOLATIONS", "KEEPS_VALUES", "Interpolation", "prepared", "sampled"]

Interpolation = Literal["linear", "cubic", "sinc", "nearest", "labels"]
INTERPOLATIONS: tuple[str, ...] = get_args(Interpolation)
#: Those that invent no values between those of the image.
KEEPS_VALUES = ("nearest", "labels")
RADIUS = 4
#: Points that a windowed sinc treats at a time.
BLOCK = 1 << 14


def prepared(data: np.ndarray, interpolation: Interpolation) -> np.ndarray:
    """Return what :func:`sampled` takes: the image, or for ``cubic`` the coefficients of its spline."""
    if interpolation != "cubic":
        return data
    from scipy.ndimage import spline_filter

    return spline_filter(data, order=3, output=np.float32, mode="mirror")


def sampled(coefficients: np.ndarray, voxels: np.ndarray, interpolation: Interpolation) -> np.ndarray:
    """Return the values at points, ``(n,)``: float64, or the type of the image where no new values arise."""
    return _SAMPLERS[interpolation](coefficients, voxels)


def _nearest(data: np.ndarray, voxels: np.ndarray) -> np.ndarray:
    return data[tuple(_held(np.floor(voxels + 0.5).astype(np.intp), data.shape))]


def _linear(data: np.ndarray, voxels: np.ndarray) -> np.ndarray:
    from scipy.ndimage import map_coordinates

    return map_coordinates(data, voxels, np.float64, order=1, mode="nearest")


def _cubic(coefficients: np.ndarray, voxels: np.ndarray) -> np.ndarray:
    from scipy.ndimage import map_coordinates

    return map_coordinates(coefficients, voxels, np.float64, order=3, mode="mirror", prefilter=False)


def _sinc(data: np.ndarray, voxels: np.ndarray) -> np.ndarray:
    out = np.empty(voxels.shape[1])
    for begin in range(0, len(out), BLOCK):
        out[begin : begin + BLOCK] = _sinc_block(data, voxels[:, begin : begin + BLOCK])
    return out


def _sinc_block(data: np.ndarray, voxels: np.ndarray) -> np.ndarray:
    """Sum over the (2 * RADIUS)^dim voxels around, the last axis at once since its voxels lie side by side."""
    first = np.floor(voxels).astype(np.intp) - RADIUS + 1
    taps = first[:, :, None] + np.arange(2 * RADIUS)
    away = voxels[:, :, None] - taps
    weights = np.sinc(away) * np.sinc(away / RADIUS)
    weights /= weights.sum(axis=2, keepdims=True)
    nodes = _held(taps, data.shape)
    strides = [int(np.prod(data.shape[a + 1 :])) for a in range(data.ndim)]
    offsets = [node * stride for node, stride in zip(nodes, strides, strict=True)]
    flat = data.reshape(-1)
    total = np.zeros(voxels.shape[1])
    for corner in product(range(2 * RADIUS), repeat=data.ndim - 1):
        base = sum(offsets[a][:, tap] for a, tap in enumerate(corner))
        weight = np.prod([weights[a][:, tap] for a, tap in enumerate(corner)], axis=0)
        row = flat[base[:, None] + offsets[-1]]
        total += weight * np.einsum("nt,nt->n", row, weights[-1])
    return total


def _labels(data: np.ndarray, voxels: np.ndarray) -> np.ndarray:
    """Return the label with the most weight; of equal ones that of the voxel nearest, which comes first."""
    last = np.array(data.shape)[:, None] - 1
    held = np.clip(voxels, 0, last)
    near = np.floor(held + 0.5).astype(np.intp)
    far = _held(near + np.where(held >= near, 1, -1), data.shape)
    share = np.abs(held - near)
    corners = list(product((0, 1), repeat=data.ndim))
    labels = [data[tuple((far if c else near)[a] for a, c in enumerate(corner))] for corner in corners]
    votes = [np.prod([share[a] if c else 1 - share[a] for a, c in enumerate(k)], axis=0) for k in corners]
    total = [vote.copy() for vote in votes]
    for one, other in combinations(range(len(corners)), 2):
        same = labels[one] == labels[other]
        total[one] += np.where(same, votes[other], 0)
        total[other] += np.where(same, votes[one], 0)
    best, most = labels[0].copy(), total[0] + 1e-9
    for label, votes_for in zip(labels[1:], total[1:], strict=True):
        wins = votes_for > most
        best[wins], most[wins] = label[wins], votes_for[wins]
    return best


def _held(nodes: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return indices ``(dim, ...)`` with those beyond the border replaced by the border's."""
    last = np.array(shape).reshape(-1, *[1] * (nodes.ndim - 1)) - 1
    return np.clip(nodes, 0, last)


_SAMPLERS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "nearest": _nearest,
    "linear": _linear,
    "cubic": _cubic,
    "sinc": _sinc,
    "labels": _labels,
}
