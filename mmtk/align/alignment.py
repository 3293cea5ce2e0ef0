"""Placing the moving image on the fixed one: none, center, rigid, affine or a file.

The start is the best of several: what the headers say, the centers of mass, and the most promising of all
translations under a handful of turns. A short rigid descent from each chooses one, which is then refined level by
level. The result is kept only where it is a better match than the headers' own, by one measure on one lattice.

    matrix    4x4, float64, world RAS mm, **fixed -> moving**
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch

from mmtk.align.descent import Report
from mmtk.align.motion import Freedom
from mmtk.align.scene import SEARCH, Scene
from mmtk.errors import InputError
from mmtk.io import Volume, read_affine

__all__ = ["Alignment", "Kind", "Progress", "align"]

Kind = Literal["none", "center", "rigid", "affine"]
#: Called with the stage (``search``, ``rigid``, ``affine``), the step of its lattice in mm and the cost.
Progress = Callable[[str, float, float], None]

#: Steps of the lattices in 2-D and in 3-D, as parts of the foreground's radius: 8, 4 and 2.8 mm for a brain.
LEVELS = {2: (7.0, 14.0, 28.0), 3: (7.0, 14.0, 20.0)}
#: Where the result is compared with the headers' own. On finer lattices texture weighs more than shape.
JUDGE = 14.0
#: A placement is kept where it lowers the mismatch by more than this: less is the noise of interpolation.
GAIN = 5e-4
#: No affine placement of one body on another of its kind stretches or shrinks a direction by more than this.
STRETCH = 2.0


@dataclass(frozen=True, eq=False)
class Alignment:
    """Where the moving image lies.

    Attributes:
        matrix: 4x4, world RAS mm, fixed to moving: ``moving_point = matrix @ fixed_point``.
        kind: What was found: ``none``, ``center``, ``rigid``, ``affine`` or ``file``.
        accepted: False where the search found nothing better than the headers' own placement.
        cost_before: Mismatch of the headers' placement, 1 where the images do not meet; NaN if nothing was compared.
        cost_after: Mismatch of ``matrix``'s placement, or of the one that was refused. In [0, 1], but never near
            0 between two people: it is a share of local contrast that stays unexplained.
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
    weight: Volume | None = None,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Alignment:
    """Place ``moving`` on ``fixed``.

    The images may differ in grid, orientation, field of view, contrast and in whether they show the skull; neither
    is reflected. What a mask covers is not looked at.

    Args:
        moving, fixed: Two images of one dimension.
        kind: ``none`` trusts the headers, ``center`` joins the centers of mass, ``rigid`` and ``affine`` search;
            anything else is the path of a transform file (fixed to moving points).
        moving_mask, fixed_mask: Lesions on the grid of their image, 1 inside: there nothing is compared.
        weight: On the grid of ``fixed``, 1 where images are compared, 0 where they are not.
        device: Where to compute.
        progress: Called after every step.

    Raises:
        InputError: The dimensions differ, an image is constant, masked everywhere or not finite, or a transform file
            cannot be read.
        GridMismatch: A mask or the weight is not on the grid of its image.
    """
    if kind not in get_args(Kind):
        return Alignment(read_affine(kind), "file")
    if kind == "none":
        return Alignment(np.eye(4), "none")
    if moving.dim != fixed.dim:
        raise InputError(
            f"`moving` has {moving.dim} axes but `fixed` has {fixed.dim}; give two images of one dimension."
        )
    scene = Scene.of(moving, fixed, moving_mask, fixed_mask, weight, device)
    if kind == "center":
        return _joined(scene)
    judge, note = scene.likeness(JUDGE), ""
    before = after = judge.mismatch(np.eye(fixed.dim + 1))
    families: tuple[Freedom, ...] = ("affine", "rigid") if kind == "affine" else ("rigid",)
    for family in families:
        matrix = _found(scene, family, progress)
        after = judge.mismatch(matrix)
        if not _plausible(matrix):
            note = f"the {family} placement stretched the image more than {STRETCH:g} times, and was refused; "
        elif after < before - GAIN:
            note += f"a {family} one was used" if note else ""
            return Alignment(_in_world(matrix), family, True, before, after, note)
        else:
            note = (
                f"no {family} placement was better than the headers' own "
                f"(mismatch {after:.3f}, theirs {before:.3f}); "
            )
    return Alignment(np.eye(4), "none", False, before, after, note + "the headers were kept")


def _joined(scene: Scene) -> Alignment:
    """The centers of mass joined, as asked, be it better or worse."""
    matrix, judge = scene.centers(), scene.likeness(SEARCH)
    before, after = judge.mismatch(np.eye(len(matrix))), judge.mismatch(matrix)
    note = ""
    if after > before:
        note = (
            f"joining the centers of mass matches less well than what the headers say (mismatch {after:.3f}, "
            f"theirs {before:.3f}); try init=rigid"
        )
    return Alignment(_in_world(matrix), "center", True, before, after, note)


def _found(scene: Scene, freedom: Freedom, progress: Progress | None) -> np.ndarray:
    """The best placement of a family: searched for on the coarsest lattice, refined on the others."""
    first = _report(progress, "search", scene.radius / SEARCH)
    matrix = scene.search(scaled=freedom == "affine", report=first)
    for level in LEVELS[len(matrix) - 1]:
        matrix = scene.refine(level, matrix, freedom, _report(progress, freedom, scene.radius / level))
    return matrix


def _plausible(matrix: np.ndarray) -> bool:
    stretches = np.linalg.svd(matrix[:-1, :-1], compute_uv=False)
    return bool(stretches.max() < STRETCH and stretches.min() > 1 / STRETCH)


def _report(progress: Progress | None, stage: str, step: float) -> Report | None:
    return None if progress is None else lambda cost: progress(stage, step, cost)


def _in_world(matrix: np.ndarray) -> np.ndarray:
    """A 2-D or 3-D homogeneous matrix as 4x4; a 2-D one leaves the third axis alone."""
    dim = len(matrix) - 1
    world = np.eye(4)
    world[:dim, :dim], world[:dim, 3] = matrix[:dim, :dim], matrix[:dim, dim]
    return world
