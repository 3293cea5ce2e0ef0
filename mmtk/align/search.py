"""Where to begin: every translation at once, for a handful of rotations, by masked correlation of coarse images.

Headers are often wrong by a hand's breadth and centers of mass by as much, when one scan shows the neck, the
other not, or one is stripped of its skull. So beside those two starts all translations are tried. The squared
correlation over the common foreground, for each translation, follows from six correlations that Fourier
transforms give at once (D. Padfield, "Masked FFT registration", CVPR 2010).
"""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from mmtk.align.lattice import EMPTY, Lattice, moved

__all__ = ["placements", "sphere"]

#: Turns to try, in degrees: about the normal in 2-D, about each axis in 3-D.
TURNS = {2: (-40, -20, 20, 40), 3: (-25, 25)}
#: At least this share of the smaller foreground must lie in the other.
MEETING = 0.5


def placements(fixed: Lattice, moving: Lattice, count: int) -> list[np.ndarray]:
    """Return up to ``count`` rigid placements ``(d + 1, d + 1)``, fixed to moving, the most promising first.

    Args:
        fixed: A coarse image, weighted by its foreground.
        moving: Another, on a lattice as fine or finer.
        count: How many.
    """
    found = [_translated(fixed, moving, turn) for turn in _turns(fixed.dim)]
    found.sort(key=lambda scored: -scored[0])
    return [matrix for _, matrix in found[:count]]


def _turns(dim: int) -> list[np.ndarray]:
    turns = [np.eye(dim)]
    for a, b in combinations(range(dim), 2):
        for degrees in TURNS[dim]:
            turn = np.eye(dim)
            cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
            turn[[a, a, b, b], [a, b, a, b]] = cos, -sin, sin, cos
            turns.append(turn)
    return turns


def _translated(fixed: Lattice, moving: Lattice, turn: np.ndarray) -> tuple[float, np.ndarray]:
    """The best translation after a turn, with its score ``R^2 sqrt(overlap)``."""
    dim = fixed.dim
    centre, reach = sphere(moving)
    size = [2 * math.ceil(reach / spacing) + 1 for spacing in fixed.spacing]
    # Index of the turned lattice -> mm in the moving image: the fixed lattice's axes, turned, around the centre.
    axes = turn @ fixed.affine[:dim, :dim]
    turned = np.eye(dim + 1)
    turned[:dim, :dim] = axes
    turned[:dim, dim] = centre - axes @ (np.array(size) - 1) / 2
    score, shift = _best_shift(fixed, _resampled(moving, turned, size))
    back = np.eye(dim + 1)
    back[:dim, dim] = -shift
    return score, turned @ back @ np.linalg.inv(fixed.affine)


def sphere(image: Lattice) -> tuple[np.ndarray, float]:
    """Center of the weights, and the radius within which 99 % of them lie, mm."""
    weight = image.weight.reshape(-1)
    points = image.positions()
    centre = (points * weight[:, None]).sum(0) / weight.sum().clamp_min(1e-12)
    order = (points - centre).norm(dim=1).sort()
    inside = weight[order.indices].cumsum(0)
    reach = order.values[int((inside < 0.99 * inside[-1]).sum().clamp_max(len(points) - 1))]
    return centre.double().cpu().numpy(), float(reach)


def _resampled(image: Lattice, affine: np.ndarray, size: list[int]) -> Lattice:
    dim = image.dim
    device = image.mass.device
    index = torch.ones(size, device=device).nonzero().to(image.mass.dtype)
    extent = torch.tensor(image.shape, dtype=index.dtype, device=device) - 1
    where = 2 * moved(index, np.linalg.inv(image.affine) @ affine) / extent.clamp_min(1) - 1
    fields = torch.stack([image.mass, image.weight])[None]
    mass, weight = grid_sample(fields, where.flip(-1).view(1, *size, dim), align_corners=True)[0]
    return Lattice(mass, weight, affine)


def _best_shift(fixed: Lattice, moving: Lattice) -> tuple[float, np.ndarray]:
    """Shift ``s`` in samples, fixed index = moving index + s, and its score."""
    axes = tuple(range(fixed.dim))
    shape = [_fast(a + b - 1) for a, b in zip(fixed.shape, moving.shape, strict=True)]
    ours = torch.fft.rfftn(_moments(fixed), s=shape, dim=[axis + 1 for axis in axes])
    theirs = torch.fft.rfftn(_moments(moving), s=shape, dim=[axis + 1 for axis in axes]).conj()
    # Weighted sums over the overlap, for every shift: 1, f, m, ff, mm, fm.
    pairs = torch.stack([ours[i] * theirs[j] for i, j in ((0, 0), (1, 0), (0, 1), (2, 0), (0, 2), (1, 1))])
    n, f, m, ff, mm, fm = torch.fft.irfftn(pairs, s=shape, dim=[axis + 1 for axis in axes])
    smaller = torch.minimum(fixed.weight.sum(), moving.weight.sum())
    n = n.clamp_min(EMPTY)
    left, right = (ff - f * f / n).clamp_min(1e-4 * n), (mm - m * m / n).clamp_min(1e-4 * n)
    overlap = n / smaller.clamp_min(EMPTY)
    score = (fm - f * m / n) ** 2 / (left * right) * overlap.clamp(0, 1).sqrt()
    score = torch.where(overlap >= MEETING, score, 0.0)
    best = int(score.argmax())
    shift = np.array(np.unravel_index(best, shape))
    wrapped = shift >= np.array(fixed.shape)
    return float(score.reshape(-1)[best]), np.where(wrapped, shift - np.array(shape), shift)


def _moments(image: Lattice) -> Tensor:
    """``(3, *space)``: weight, weighted value and weighted square; values of mean 0 and variance 1."""
    weight, value = image.weight, image.value
    total = weight.sum().clamp_min(EMPTY)
    value = value - (weight * value).sum() / total
    value = value / ((weight * value * value).sum() / total).sqrt().clamp_min(1e-12)
    return torch.stack([weight, weight * value, weight * value * value])


def _fast(size: int) -> int:
    """The next length of which 2, 3 and 5 are the only prime factors."""
    while True:
        rest = size
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return size
        size += 1
