"""Transforms from the folder of a run, from files, and from several of them in a row.

What a file says about its two spaces, in this order:

    the folder of a run             its images, ``moving`` and ``fixed``
    transform.h5, displacement.nii.gz, inverse_transform.h5 beside a run.json: the same
    sub-01_from-T1w_to-MNI_mode-image_xfm.h5 (BIDS): an image goes from T1w to MNI, so points go from MNI to T1w
    anything else                   as the programs that resample images write it: points go from fixed to moving

Several files are given as for ``antsApplyTransforms``: the one nearest to the fixed image first.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmtk.errors import InputError
from mmtk.io import AffineStep, FieldStep, Header, probe_image
from mmtk.io.formats import format_of, read_steps, stored_dimension
from mmtk.io.headers import existing_file
from mmtk.transforms.transform import PairedFieldStep, Placed, Transform

__all__ = ["Spaces", "load_transform", "spaces_of"]

FORWARD, FIELD, BACKWARD, RECORD = "transform.h5", "displacement.nii.gz", "inverse_transform.h5", "run.json"
FIXED, MOVING = "fixed", "moving"
_BIDS = re.compile(r"_from-(?P<start>[A-Za-z0-9+]+)_to-(?P<end>[A-Za-z0-9+]+)_mode-(?P<mode>image|points)")


class Spaces(NamedTuple):
    """Between which spaces a transform takes points; ``told`` if its name or its folder says so."""

    points_from: str
    points_to: str
    told: bool


def load_transform(
    path: str | os.PathLike[str],
    *more: str | os.PathLike[str],
    format: str | None = None,
    convention: str | None = None,
    fixed: Any = None,
    moving: Any = None,
) -> Transform:
    """Read a transform, or several that follow one another, nearest to the fixed image first.

    Args:
        path: The folder of a run, or a file that :func:`mmtk.io.formats.read_steps` reads.
        more: What follows, on the way of a point from the fixed image to the moving one.
        format, convention: Of the files, where they do not say it themselves; see ``read_steps``.
        fixed, moving: The images, for formats whose numbers mean something only together with their grids.

    Raises:
        InputError: If one cannot be read, or does not continue where the one before ends.
    """
    paths = [Path(p).expanduser() for p in (path, *more)]
    stated = {"format": format, "convention": convention}
    last = len(paths) - 1
    parts = [
        _load(p, **stated, fixed=None if n else fixed, moving=None if n < last else moving)
        for n, p in enumerate(paths)
    ]
    chain = parts[0]
    for (before, after), part in zip(pairwise(paths), parts[1:], strict=True):
        chain = _joined(chain, part, before, after)
    if chain.points_from == chain.points_to:
        named = " and ".join(f"'{p}'" for p in paths)
        raise InputError(
            f"transform: {named} lead from '{chain.points_from}' back to it; list "
            f"them from the fixed image to the moving one, as for antsApplyTransforms"
        )
    return chain


def spaces_of(path: str | os.PathLike[str], name: str = "transform") -> Spaces:
    """Return between which spaces a folder or a file takes points, without reading a transform.

    Raises:
        InputError: If there is no such file, or no transform in the folder.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        _main_file(place, name)
        return Spaces(FIXED, MOVING, True)
    existing_file(place, name)
    if (place.parent / RECORD).exists() and place.name in (FORWARD, FIELD):
        return Spaces(FIXED, MOVING, True)
    if (place.parent / RECORD).exists() and place.name == BACKWARD:
        return Spaces(MOVING, FIXED, True)
    if (match := _BIDS.search(place.name)) is not None:
        start, end = match["start"], match["end"]
        return Spaces(end, start, True) if match["mode"] == "image" else Spaces(start, end, True)
    return Spaces(FIXED, MOVING, False)


def _main_file(folder: Path, name: str) -> Path:
    for candidate in (FORWARD, FIELD):
        if (folder / candidate).is_file():
            return folder / candidate
    raise InputError(
        f"{name}: the folder '{folder}' holds neither {FORWARD} nor {FIELD}; give the folder of a finished run, or "
        f"the file of a transform"
    )


def _load(place: Path, **stated: Any) -> Transform:
    spaces = spaces_of(place)
    if not place.is_dir():
        grids = _grids(place.parent) if spaces.told and (place.parent / RECORD).exists() else {}
        steps = read_steps(place, **stated)
        dim = _stated_dimension(place, steps, stated)
        return Transform(steps, spaces.points_from, spaces.points_to, grids, dim_stated=dim)
    steps = read_steps(_main_file(place, "transform"))
    back = place / BACKWARD
    paired = _paired(steps, read_steps(back)) if back.is_file() else steps
    return Transform(paired, spaces.points_from, spaces.points_to, _grids(place))


def _stated_dimension(place: Path, steps: Sequence[Any], stated: dict[str, Any]) -> int | None:
    """Return the dimension of affines whose file is one of ITK's; others do not say it."""
    if not all(isinstance(step, AffineStep) for step in steps):
        return None
    chosen = format_of(place, format=stated.get("format"), convention=stated.get("convention"))
    return stored_dimension(place) if chosen.name in ("itk-h5", "itk-text", "itk-mat") else None


def _paired(
    steps: Sequence[AffineStep | FieldStep], back: Sequence[AffineStep | FieldStep]
) -> tuple[AffineStep | FieldStep, ...]:
    """Give each field the stored inverse that stands at its place when the chain is read backwards."""
    if len(steps) != len(back):
        return tuple(steps)
    return tuple(
        PairedFieldStep(step.vectors, step.affine, other)
        if isinstance(step, FieldStep) and isinstance(other, FieldStep)
        else step
        for step, other in zip(steps, reversed(back), strict=True)
    )


def _grids(folder: Path) -> dict[str, Placed]:
    """Return the grids of a run's images, as far as they can be had.

    The warped image lies on the fixed grid and moves with the folder. The moving image is where it was, or not.
    """
    grids: dict[str, Placed] = {}
    if (folder / "warped.nii.gz").is_file():
        grids[FIXED] = probe_image(folder / "warped.nii.gz", name=FIXED)
    try:
        inputs = json.loads((folder / RECORD).read_text(encoding="utf-8"))["inputs"]
    except (OSError, ValueError, KeyError):
        return grids
    for space in (FIXED, MOVING):
        found = _recorded(inputs.get(space) or {}, folder, space)
        if found is not None:
            grids.setdefault(space, found)
    return grids


def _recorded(entry: dict[str, Any], folder: Path, space: str) -> Header | None:
    """Return the header of an input if it still is where it was, on the grid that it had."""
    if not entry.get("path"):
        return None
    for place in (Path(entry["path"]), folder / entry["path"]):
        try:
            header = probe_image(place, name=space, spacing=tuple(entry["spacing"]))
        except InputError:
            continue
        same = list(header.shape) == list(entry["shape"]) and np.allclose(header.spacing, entry["spacing"])
        return header if same else None
    return None


def _joined(chain: Transform, part: Transform, before: Path, after: Path) -> Transform:
    """Return a chain and what follows it. `fixed` and `moving` stand for any space; other names must fit."""
    end, start = chain.points_to, part.points_from
    if (end, start) == (MOVING, FIXED):
        _check_order(before, after)
        end = start = f"between {before.name} and {after.name}"
    elif end in (FIXED, MOVING):
        end = start
    elif start in (FIXED, MOVING):
        start = end
    elif end == part.points_to:
        return chain.then(part.inverse())
    if end != start:
        raise InputError(
            f"transform: '{before}' takes points to '{end}' but '{after}' takes them from '{start}'; list the files "
            f"from the fixed image to the moving one, as for antsApplyTransforms"
        )
    return chain.renamed(points_to=end).then(part.renamed(points_from=start))


def _check_order(before: Path, after: Path) -> None:
    """Refuse two runs that cannot follow one another, as their records show by the images that they share.

    Where no image is shared nothing is said: one image may lie in two files.
    """
    if before.resolve() == after.resolve() and spaces_of(before).told:
        raise InputError(
            f"transform: '{before}' is given twice, but it ends at its moving image and begins at its fixed one, so it "
            f"cannot follow itself; give it once"
        )
    first, second = (_hashes(place) for place in (before, after))
    if first.get(MOVING) and first.get(MOVING) == second.get(FIXED):
        return
    if first.get(FIXED) and first.get(FIXED) == second.get(MOVING):
        raise InputError(
            f"transform: '{before}' has as its fixed image what '{after}' has as its moving one, so their order is "
            f"the wrong way round; list them from the fixed image to the moving one: {after},{before}"
        )
    for space in (FIXED, MOVING):
        if first.get(space) and first.get(space) == second.get(space):
            raise InputError(
                f"transform: '{before}' and '{after}' have the same {space} image, so neither goes on where the other "
                f"ends; after '{before}' comes a transform whose fixed image is the moving one of '{before}'"
            )


def _hashes(place: Path) -> dict[str, str | None]:
    folder = place if place.is_dir() else place.parent
    try:
        inputs = json.loads((folder / RECORD).read_text(encoding="utf-8"))["inputs"]
        return {space: inputs[space]["sha256"] for space in (FIXED, MOVING)}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
