"""Placing the moving image on the fixed one: none, center, rigid, affine or a file.

Both images are brought to coarse lattices, where lesions have no weight. The start is the best of several: what the
headers say, the centers of mass, and the most promising of all translations under a handful of turns. A rigid descent
from each on the coarsest lattice chooses one, which is then refined level by level. The result is kept only where
it is a better match than the headers' own, by the same measure on the finest lattice.

    matrix    4x4, float64, world RAS mm, **fixed -> moving**
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch

from mmtk.align.descent import descend
from mmtk.align.lattice import Lattice
from mmtk.align.likeness import Likeness
from mmtk.align.motion import Motion
from mmtk.align.search import placements, sphere
from mmtk.errors import InputError
from mmtk.io import Volume, read_affine

__all__ = ["Alignment", "Kind", "align"]

Kind = Literal["none", "center", "rigid", "affine"]

#: The working images have about so many samples along their longest axis.
SAMPLES = 128
#: Steps of the lattices, as parts of the foreground's radius: where to begin, then the levels.
SEARCH, LEVELS = 5.5, (7.0, 14.0)
#: Linearizations at most, in the search and on each level.
TRIES, ITERATIONS = 12, 15
#: Dark gaps narrower than twice this part of the radius belong to the foreground.
CLOSING = 1 / 7
#: Contrast, as a share of an image's range, below which a neighborhood counts as flat.
FLAT = 0.03
#: Placements that the search over translations contributes.
CANDIDATES = 4


@dataclass(frozen=True, eq=False)
class Alignment:
    """Where the moving image lies.

    Attributes:
        matrix: 4x4, world RAS mm, fixed to moving.
        kind: ``none``, ``center``, ``rigid``, ``affine`` or ``file``.
        accepted: Whether a placement was found that is better than the headers' own.
        cost_before, cost_after: Mismatch of locally normalized images in [0, 1]; NaN where nothing was compared.
        note: One sentence for the user; empty if all went as asked.
    """

    matrix: np.ndarray
    kind: str
    accepted: bool = True
    cost_before: float = math.nan
    cost_after: float = math.nan
    note: str = ""


def align(
    moving: Volume,
    fixed: Volume,
    *,
    kind: str | os.PathLike[str] = "affine",
    moving_mask: Volume | None = None,
    fixed_mask: Volume | None = None,
    device: torch.device | str = "cpu",
) -> Alignment:
    """Place ``moving`` on ``fixed``.

    Args:
        moving, fixed: Images of one dimension, on any grids.
        kind: ``none`` trusts the headers, ``center`` joins the centers of mass, ``rigid`` and ``affine`` search;
            anything else is the path of a transform file (fixed to moving points).
        moving_mask, fixed_mask: Lesions on the grid of their image, 1 inside: there nothing is compared.
        device: Where to compute.

    Raises:
        InputError: If a transform file cannot be read, or nothing is left to compare.
    """
    if kind not in get_args(Kind):
        return Alignment(read_affine(kind), "file")
    if kind == "none":
        return Alignment(np.eye(4), "none")
    dim = fixed.dim
    ours, theirs = _working(moving, moving_mask, "moving", device), _working(fixed, fixed_mask, "fixed", device)
    scene = _Scene(ours, theirs)
    coarse = scene.pair(SEARCH, contrasted=False)
    joined = np.eye(dim + 1)
    joined[:dim, dim] = sphere(coarse[1])[0] - sphere(coarse[0])[0]
    if kind == "center":
        return Alignment(_in_world(joined), "center")
    matrix = scene.search(coarse, joined)
    judge = Likeness(*scene.pair(LEVELS[-1], contrasted=True))
    for level in LEVELS:
        likeness = judge if level == LEVELS[-1] else Likeness(*scene.pair(level, contrasted=True))
        matrix, _ = descend(likeness, matrix, scene.motion("affine" if kind == "affine" else "rigid"), ITERATIONS)
    before, after = judge.mismatch(np.eye(dim + 1)), judge.mismatch(matrix)
    if not after < before:
        note = (
            f"no {kind} placement was better than what the headers say (mismatch {after:.3f}, theirs {before:.3f}); "
            "the headers were kept"
        )
        return Alignment(np.eye(4), "none", False, before, after, note)
    return Alignment(_in_world(matrix), str(kind), True, before, after)


class _Scene:
    """Two working images, with the center and the radius of what is to be seen in the fixed one."""

    def __init__(self, moving: Lattice, fixed: Lattice) -> None:
        self.moving, self.fixed = moving, fixed
        extent = max(n * h for n, h in zip(fixed.shape, fixed.spacing, strict=True))
        rough = fixed.coarser(extent / 32, extent / 64)
        seen = rough.foreground(extent / 32)
        self.center = sphere(rough.weighed(seen))[0]
        weight = (rough.weight * seen).reshape(-1)
        offset = rough.positions() - torch.as_tensor(self.center).to(weight)
        spread = (offset.square().sum(1) * weight).sum() / weight.sum().clamp_min(1e-12)
        self.radius = max(float(spread.sqrt()), float(min(fixed.spacing)))

    def motion(self, freedom: Literal["rigid", "affine"]) -> Motion:
        return Motion(self.center, self.radius, freedom)

    def pair(self, level: float, *, contrasted: bool) -> tuple[Lattice, Lattice]:
        """Return the fixed and the moving image on the lattices of a level, weighted by their foregrounds."""
        step = self.radius / level
        pair = []
        for image, k in ((self.fixed, step), (self.moving, step / 2)):
            # What smoothing the working image had already counts.
            had = 0.5 * float(min(image.spacing))
            thin = image.coarser(k, math.sqrt(max((0.5 * step) ** 2 - had**2, 0.0)))
            seen = thin.foreground(CLOSING * self.radius)
            pair.append((thin.contrasted(step, FLAT) if contrasted else thin).weighed(seen))
        return pair[0], pair[1]

    def search(self, coarse: tuple[Lattice, Lattice], joined: np.ndarray) -> np.ndarray:
        """Return the best of the starts, after a rigid descent from each."""
        likeness = Likeness(*coarse)
        starts = [np.eye(len(joined)), joined, *placements(*coarse, CANDIDATES)]
        ends = [descend(likeness, start, self.motion("rigid"), TRIES)[0] for start in starts]
        return min(ends, key=likeness.mismatch)


def _working(image: Volume, mask: Volume | None, name: str, device: torch.device | str) -> Lattice:
    """Return an image on a lattice that the search can afford, less its background, in units of its range."""
    dim = image.dim
    data = torch.from_numpy(image.data).to(device)
    weight = torch.ones_like(data)
    if mask is not None:
        weight = 1 - torch.from_numpy(mask.data).to(device)
    affine = np.eye(dim + 1)
    affine[:dim, :dim], affine[:dim, dim] = image.affine[:dim, :dim], image.affine[:dim, 3]
    full = Lattice(data * weight, weight, affine)
    step = max(n * h for n, h in zip(full.shape, full.spacing, strict=True)) / SAMPLES
    thin = full.coarser(step, 0.5 * step).standardized()
    if not bool(thin.mass.any()):
        raise InputError(f"{name}: nothing differs from its background, so it cannot be placed; use init=none")
    return thin


def _in_world(matrix: Any) -> np.ndarray:
    """Return a 2-D or 3-D homogeneous matrix as 4x4."""
    dim = len(matrix) - 1
    world = np.eye(4)
    world[:dim, :dim], world[:dim, 3] = matrix[:dim, :dim], matrix[:dim, dim]
    return world
