"""``transform=... image=... out=...``: what a user asks for, checked whole and then done.

The user says what is carried, in which image's space it lies (``from``) and to which it shall go (``to``). Which way
round the transform is taken for that follows from it: an image is read where the new grid's points go, while points
go themselves.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mmtk.config import nearest
from mmtk.errors import ConfigError, InputError, MmtkError
from mmtk.io import Header, probe_image
from mmtk.io.headers import where
from mmtk.io.points import POINT_SUFFIXES, Points, read_points, write_points
from mmtk.transforms.displaced import voxels_of, within
from mmtk.transforms.interpolate import INTERPOLATIONS
from mmtk.transforms.layers import Layers, read_layers
from mmtk.transforms.load import Spaces, load_transform, spaces_of
from mmtk.transforms.resampling import REORIENTATIONS, check_options, resample
from mmtk.transforms.transform import Transform

__all__ = ["KEYS", "Applied", "apply", "carry_points", "flat"]

#: What each key means; the first words of the help.
KEYS = {
    "transform": "folder of a run, or a transform file; several, nearest to the fixed image first, by commas",
    "image": "image, mask, series or vector image to carry",
    "labels": "label map to carry; interpolation=labels unless said otherwise",
    "points": "points to carry: .csv, .fcsv or .mrk.json",
    "out": "file to write",
    "reference": "image onto whose grid to carry; the run's own by default",
    "from": "space that image or points lie in: moving (the default for images) or fixed",
    "to": "space to carry them to: the other one",
    "space": "for points whose file does not say it: NAME,RAS or NAME,LPS",
    "interpolation": "linear (the default), cubic, sinc, nearest or labels",
    "outside": "value where the image does not reach; 0",
    "antialias": "on: a voxel of a coarser grid is the mean of what it covers",
    "reorient": "of vector images: none (the default), rotation or jacobian",
    "fixed": "fixed image of the transform, for formats that need its grid",
    "moving": "moving image of the transform, for formats that need its grid",
    "format": "of the transform, where its file does not say",
    "convention": "of a displacement field that does not say it: ras-mm, lps-mm or voxel",
}
CARRIED = ("image", "labels", "points")
FOR_IMAGES = ("reference", "interpolation", "outside", "antialias", "reorient")
IMAGE_SUFFIXES = (".nii", ".nii.gz")
SWITCH = {"on": True, "true": True, "yes": True, "1": True, "off": False, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class Applied:
    """What was done.

    Attributes:
        out: The file.
        start, end: From which space to which.
        notes: Sentences that a user should read.
        seconds: How long it took.
    """

    out: Path
    start: str
    end: str
    notes: tuple[str, ...]
    seconds: float


def apply(settings: Mapping[str, Any], *, problems: Iterable[str] = (), overwrite: bool = False) -> Applied:
    """Carry an image, a label map or points through a transform, and write the result.

    Args:
        settings: By the names in :data:`KEYS`, as typed.
        problems: What is known to be wrong already, to be told together with what is found here.
        overwrite: Whether ``out`` may exist.

    Raises:
        ConfigError: With everything that is wrong; nothing was written.
        MmtkError: If the result cannot be written.
    """
    begin = time.perf_counter()
    request = _Request(dict(settings), list(problems))
    request.check(overwrite)
    try:
        start, end, notes = request.carry_points() if request.kind == "points" else request.carry_image()
    except OSError as error:
        raise MmtkError(
            f"out={request.said['out']}: cannot be written ({error.strerror or error}); make room or name another "
            f"folder"
        ) from error
    return Applied(Path(request.said["out"]), start, end, notes, round(time.perf_counter() - begin, 3))


def carry_points(points: Points, transform: Transform, *, to: str | None = None) -> tuple[Points, tuple[str, ...]]:
    """Return points in the other space of a transform, and sentences that a user should read.

    Args:
        points: In one of its two spaces, by name.
        transform: Either way round.
        to: The other space, if it shall be checked.

    Raises:
        InputError: If the points lie in another space, or have another dimension.
    """
    end = transform.other(points.space) if to is None else to
    points = flat(points) if (points.dim, transform.dim) == (3, 2) else points
    carried = points.moved(transform.mapping(points.space, end).points(points.places), end)
    notes = []
    known = ~np.isnan(points.places).any(axis=1)
    gone = np.isnan(carried.places).any(axis=1) & known
    if gone.any():
        notes.append(
            f"{int(gone.sum())} of {len(points)} points have no counterpart in '{end}', since the field folds there "
            f"or ends; they are written as nan (number {_rows(gone)})."
        )
    grid = transform.grids.get(points.space)
    away = (
        np.zeros_like(known)
        if grid is None
        else known & ~within(voxels_of(points.places, grid.affine), grid.shape)
    )
    if away.any():
        notes.append(
            f"{int(away.sum())} of {len(points)} points lie outside the image '{points.space}' (number "
            f"{_rows(away)}), where a field is 0; is their space right, and RAS not LPS?"
        )
    return carried, tuple(notes)


def flat(points: Points) -> Points:
    """Return points of a plane without their z, which Slicer's files always have.

    Raises:
        InputError: If they do not lie in z = 0.
    """
    if np.nan_to_num(points.places[:, 2]).any():
        raise InputError(
            f"{points.name}: {where(points.path, 'table')} holds points in space, but the transform is 2-D, whose "
            f"points lie in z = 0; give points of that plane"
        )
    return replace(points, places=points.places[:, :2])


def _rows(chosen: np.ndarray) -> str:
    return ", ".join(str(n + 1) for n in np.flatnonzero(chosen)[:8]) + (", ..." if chosen.sum() > 8 else "")


@dataclass
class _Request:
    said: dict[str, Any]
    problems: list[str]
    layers: Layers | None = None
    points: Points | None = None
    reference: Header | None = None
    options: dict[str, Any] = field(default_factory=dict)
    found: list[Spaces | None] = field(default_factory=list)

    @property
    def kind(self) -> str:
        return next((key for key in CARRIED if key in self.said), "image")

    @property
    def places(self) -> list[str]:
        return [part for part in str(self.said.get("transform", "")).split(",") if part]

    def check(self, overwrite: bool) -> None:
        """Find everything that is wrong before a voxel is read.

        Raises:
            ConfigError: If anything is.
        """
        self._check_keys()
        self._check_out(overwrite)
        self._read_options()
        self._open()
        self._check_spaces()
        if self.layers is not None and self.reference is not None:
            self.problems += check_options(self.layers, self.reference, None, **self.options)
        if self.problems:
            raise ConfigError(self.problems)

    def _check_keys(self) -> None:
        for key in self.said:
            if key not in KEYS:
                hint = nearest(key, KEYS) or f"; there are {', '.join(KEYS)}"
                self.problems.append(f"{key}={self.said[key]}: unknown key{hint}")
        for key in ("transform", "out"):
            if key not in self.said:
                self.problems.append(f"{key}: missing; give {key}={'FOLDER' if key == 'transform' else 'FILE'}")
        given = [key for key in CARRIED if key in self.said]
        if len(given) != 1:
            what = (
                f"{' and '.join(f'{key}=' for key in given)} were given" if given else "nothing is to be carried"
            )
            self.problems.append(f"{what}; give one of image=FILE, labels=FILE and points=FILE")
        if given == ["points"]:
            self.problems += [
                f"{key}={self.said[key]}: has no meaning for points; leave it out"
                for key in FOR_IMAGES
                if key in self.said
            ]
        elif given and "space" in self.said:
            self.problems.append(f"space={self.said['space']}: is for points; an image has from= and to=")

    def _check_out(self, overwrite: bool) -> None:
        if "out" not in self.said:
            return
        out = Path(str(self.said["out"])).expanduser()
        self.said["out"] = out
        given = {key for key in CARRIED if key in self.said} or set(CARRIED)
        images, tables = bool(given - {"points"}), "points" in given
        suffixes = (*(IMAGE_SUFFIXES if images else ()), *(POINT_SUFFIXES if tables else ()))
        if not str(out).lower().endswith(suffixes):
            self.problems.append(f"out={out}: must end in {' or '.join(suffixes)}")
        elif out.is_dir():
            self.problems.append(f"out={out}: is a folder; name a file in it")
        elif out.exists() and not overwrite:
            self.problems.append(f"out={out}: exists already; name another file, or add --overwrite")
        above = next(parent for parent in out.absolute().parents if parent.exists())
        if not above.is_dir():
            self.problems.append(
                f"out={out}: '{above}' is a file, but a folder is needed there; name another place"
            )
        elif not os.access(above, os.W_OK):
            self.problems.append(f"out={out}: you may not write into '{above}'; name another place")

    def _read_options(self) -> None:
        said = self.said
        default = "labels" if self.kind == "labels" else "linear"
        outside: Any = said.get("outside", 0)
        try:
            outside = float(outside)
        except ValueError:
            self.problems.append(f"outside={outside}: is not a number")
            outside = 0.0
        switch = str(said.get("antialias", "off")).lower()
        if switch not in SWITCH:
            self.problems.append(f"antialias={said['antialias']}: is neither on nor off")
        self.options = {
            "interpolation": str(said.get("interpolation", default)),
            "outside": outside,
            "antialias": SWITCH.get(switch, False),
            "reorient": str(said.get("reorient", "none")),
        }
        if self.kind == "points":
            return
        for key, choices in (("interpolation", INTERPOLATIONS), ("reorient", REORIENTATIONS)):
            if self.options[key] not in choices:
                hint = nearest(self.options[key], choices)
                self.problems.append(f"{key}={said[key]}: must be one of {', '.join(choices)}{hint}")
                self.options[key] = default if key == "interpolation" else "none"

    def _open(self) -> None:
        self.found = [self._try(spaces_of, place) for place in self.places]
        if "points" in self.said:
            self.points = self._try(read_points, self.said["points"], space=self.said.get("space"))
        for key in ("image", "labels"):
            if key in self.said:
                self.layers = self._try(read_layers, self.said[key], name=key)
        for key in ("fixed", "moving"):
            if key in self.said:
                self.said[key] = self._try(probe_image, self.said[key], name=key)
        if not ({"reference", "points"} & self.said.keys() or self._in_runs()) and any(self.found):
            self.problems.append("reference: missing; give reference=FILE, an image on the grid to carry onto")
        if "reference" in self.said:
            opened = self._try(read_layers, self.said["reference"], name="reference")
            self.reference = None if opened is None else opened.header

    def _in_runs(self) -> bool:
        """Whether a transform is of a run, whose folder knows the grid to carry onto."""
        places = [Path(place).expanduser() for place in self.places]
        return any(place.is_dir() or (place.parent / "run.json").exists() for place in places)

    def _try(self, read: Any, *arguments: Any, **options: Any) -> Any:
        try:
            return read(*arguments, **options)
        except ConfigError as error:
            self.problems += error.problems
        except MmtkError as error:
            self.problems.append(str(error))
        return None

    def _check_spaces(self) -> None:
        """Refuse names that are none of the transform's, as far as its name and folder tell them."""
        if len(self.found) != 1 or self.found[0] is None:
            return
        ends = self.found[0][:2]
        for key in ("from", "to"):
            if self.said.get(key, ends[0]) not in ends:
                self.problems.append(
                    f"{key}={self.said[key]}: must be one of {' and '.join(sorted(ends))}, between which the "
                    f"transform leads{nearest(str(self.said[key]), ends)}"
                )
        if "from" in self.said and self.said["from"] == self.said.get("to"):
            self.problems.append(f"from={self.said['from']} and to={self.said['to']}: name two spaces")
        if self.points is None:
            return
        if self.points.space not in ends:
            self.problems.append(
                f"points: '{self.points.path}' lies in '{self.points.space}', but the transform leads between "
                f"{' and '.join(sorted(ends))}; mend its first line, or give the transform of that space"
            )
        if self.said.get("from", self.points.space) != self.points.space:
            self.problems.append(
                f"from={self.said['from']}: the points lie in '{self.points.space}', as their file says; leave "
                f"from= out, or mend the file"
            )
        if self.said.get("to") == self.points.space:
            self.problems.append(f"to={self.said['to']}: the points lie there already; give the other space")

    def _load(self, start: str | None) -> tuple[Transform, str, str]:
        """Return the transform, and from which of its spaces to which.

        Args:
            start: Where what is carried lies, if that is known.
        """
        carried = None if self.layers is None else self.layers.header
        back = start == "fixed" or (start is None and self.said.get("to") == "moving")
        images: dict[str, Any] = {
            "moving": self.reference if back else carried,
            "fixed": carried if back else self.reference,
        }
        images |= {key: self.said[key] for key in images if key in self.said}
        stated = {key: self.said.get(key) for key in ("format", "convention")}
        transform = load_transform(self.places[0], *self.places[1:], **stated, **images)
        spaces = {transform.points_from, transform.points_to}
        if start is None:
            # A file may take points either way; an image lies on the moving side unless the user says otherwise.
            end = self.said.get("to", "fixed" if "fixed" in spaces else transform.points_from)
            start = transform.other(str(end))
        end = str(self.said.get("to", transform.other(start)))
        transform.mapping(start, end)
        return transform, start, end

    def carry_points(self) -> tuple[str, str, tuple[str, ...]]:
        assert self.points is not None
        transform, start, end = self._load(self.points.space)
        carried, notes = carry_points(self.points, transform, to=end)
        write_points(self.said["out"], carried)
        return start, end, (*transform.notes, *notes)

    def carry_image(self) -> tuple[str, str, tuple[str, ...]]:
        assert self.layers is not None
        transform, start, end = self._load(self.said.get("from"))
        result = resample(self.layers, transform, self.reference, space=start, **self.options)
        result.save(self.said["out"])
        return start, end, (*transform.notes, *result.notes)
