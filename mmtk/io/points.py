"""Points and landmarks in files, and what keeps them from landing on the wrong side.

Three things decide where a number in a table lies, and few tables say any of them: in which image's space it is,
whether x grows to the right (RAS) or to the left (LPS), and its unit. Here all three are read or asked for, and
never guessed.

    .csv         first line ``# space: moving, RAS, mm``, then a header with ``x,y,z`` (or ``x,y``) and any others
    .csv         of BraTS-Reg: ``Landmark,X,Y,Z``, LPS, mm. Its images have the voxel (X, 239 + Y, Z) there
    .fcsv        3D Slicer: ``# CoordinateSystem = LPS``, in older files a code: 0 is RAS, 1 LPS
    .mrk.json    3D Slicer: ``coordinateSystem`` of each markup

In memory points are ``(n, dim)``, world (RAS), mm; every other column stays as it was written.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mmtk.errors import InputError
from mmtk.io.files import write_text
from mmtk.io.headers import existing_file

__all__ = ["POINT_SUFFIXES", "Points", "points_suffix", "read_points", "write_points"]

#: What a file of points may end in.
POINT_SUFFIXES = (".csv", ".fcsv", ".mrk.json")
FRAMES = ("RAS", "LPS")
AXES = ("x", "y", "z")
BRATS_REG = ["Landmark", "X", "Y", "Z"]
SLICER_COLUMNS = [
    "id", "x", "y", "z", "ow", "ox", "oy", "oz", "vis", "sel", "lock", "label", "desc", "associatedNodeID",
]  # fmt: skip
SLICER_DEFAULTS = {"ow": "0", "ox": "0", "oy": "0", "oz": "1", "vis": "1", "sel": "1", "lock": "0"}
SLICER_FRAMES = {"0": "RAS", "1": "LPS", "RAS": "RAS", "LPS": "LPS"}
SLICER_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)
#: What of a control point of Slicer is a column here, and its name in ``.fcsv``.
SLICER_KEYS = {"id": "id", "label": "label", "description": "desc", "associatedNodeID": "associatedNodeID"}
_SPACE = re.compile(r"#\s*space\s*[:=]\s*(?P<words>.*)$", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Points:
    """Points of one space.

    Attributes:
        places: ``(n, dim)``, float64, world (RAS), mm; NaN where a point has no place.
        space: Name of the space, such as ``moving``.
        columns: Everything else that the file says of each point, as text, by column.
        style: ``"brats-reg"`` if the file was one of that challenge, and is to stay so; else ``"plain"``.
        name: The role of the points, named in messages.
        path: The file, or None.
    """

    places: np.ndarray
    space: str
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    style: str = "plain"
    name: str = "points"
    path: Path | None = None

    @property
    def dim(self) -> int:
        """2 or 3."""
        return int(self.places.shape[1])

    def __len__(self) -> int:
        return len(self.places)

    def moved(self, places: np.ndarray, space: str) -> Points:
        """Return the same points at other places, in another space."""
        return replace(self, places=np.asarray(places, dtype=np.float64), space=space, path=None)


def points_suffix(path: str | os.PathLike[str]) -> str | None:
    """Return which of :data:`POINT_SUFFIXES` a name ends in, or None."""
    name = str(path).lower()
    return next((suffix for suffix in POINT_SUFFIXES if name.endswith(suffix)), None)


def read_points(path: str | os.PathLike[str], *, space: str | None = None, name: str = "points") -> Points:
    """Read points.

    Args:
        path: ``.csv``, ``.fcsv`` or ``.mrk.json``.
        space: In which space they lie, for a file that does not say: ``moving``, or ``moving,LPS`` where it does
            not say which way x and y grow either. One that does must agree.
        name: The role of the points, named in messages.

    Raises:
        InputError: If the file cannot be read, or leaves open where the points lie.
    """
    file = existing_file(path, name)
    suffix = points_suffix(file)
    if suffix is None:
        raise InputError(
            f"{name}: '{file}' does not end in {', '.join(POINT_SUFFIXES)}; save the points in one of these forms"
        )
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: '{file}' is no text; save the points as UTF-8 text") from error
    reader = {".csv": _read_csv, ".fcsv": _read_fcsv, ".mrk.json": _read_json}[suffix]
    found = reader(text, _Where(file, name))
    words = _words(space, f"space={space}", name) if space else _Words(None, None)
    if found.told.space and words.space and found.told.space != words.space:
        raise InputError(
            f"{name}: '{file}' says that it lies in '{found.told.space}', but space={space} was given; leave "
            f"`space=` out, or mend the file"
        )
    if found.told.frame and words.frame and found.told.frame != words.frame:
        raise InputError(
            f"{name}: '{file}' says that it is in {found.told.frame}, but space={space} was given; leave "
            f"{words.frame} out, or mend the file"
        )
    space_name, frame = found.told.space or words.space, found.told.frame or words.frame
    if space_name is None or frame is None:
        raise InputError(_what_is_missing(file, name, suffix, space_name, frame))
    return Points(_turned(found.places, frame), space_name, found.columns, found.style, name, file)


def write_points(path: str | os.PathLike[str], points: Points) -> Path:
    """Write points in the form that the name asks for, and return the path.

    Slicer's files are written in LPS, as Slicer does; ``.csv`` in RAS, or as BraTS-Reg has it if they came so.

    Raises:
        InputError: If the name ends otherwise.
    """
    suffix = points_suffix(path)
    if suffix is None:
        raise InputError(f"'{path}' does not end in {', '.join(POINT_SUFFIXES)}; name the file so")
    if suffix == ".csv":
        text = _brats_reg(points) if points.style == "brats-reg" else _csv(points)
    else:
        text = _fcsv(points) if suffix == ".fcsv" else _json(points)
    return write_text(path, text)


@dataclass(frozen=True)
class _Where:
    file: Path
    name: str

    def refuse(self, what: str) -> InputError:
        return InputError(f"{self.name}: '{self.file}' {what}")


@dataclass(frozen=True)
class _Words:
    """What is known of where numbers lie: the space, and RAS or LPS."""

    space: str | None
    frame: str | None


@dataclass(frozen=True, eq=False)
class _Found:
    places: np.ndarray
    told: _Words
    columns: dict[str, list[str]]
    style: str = "plain"


def _what_is_missing(file: Path, name: str, suffix: str, space: str | None, frame: str | None) -> str:
    if frame is None:
        space = space or "moving"
        return (
            f"{name}: '{file}' does not say in which space its numbers are, RAS or LPS; begin it with the line "
            f"'# space: {space}, RAS, mm' (x to the right, y to the front) or '# space: {space}, LPS, mm' (x to the "
            f"left, y to the back), or give space={space},RAS or space={space},LPS"
        )
    line = ", or begin it with the line '# space: moving, " + frame + ", mm'" if suffix == ".csv" else ""
    return (
        f"{name}: '{file}' does not say on which image its points were set; give space=NAME, such as space=moving "
        f"or space=fixed{line}"
    )


def _words(text: str, seen: str, name: str) -> _Words:
    """Read ``moving, RAS, mm``.

    Raises:
        InputError: If it says something else.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    frames = [word.upper() for word in words if word.upper() in FRAMES]
    units = [word for word in words if word.lower() in ("mm", "cm", "m", "um", "voxel", "voxels", "ijk", "pixel")]
    names = [word for word in words if word.upper() not in FRAMES and word not in units]
    if any(unit.lower() != "mm" for unit in units):
        raise InputError(f"{name}: {seen} is in {units[0]}, but points are in mm; convert them first")
    if len(names) > 1 or len(frames) > 1:
        raise InputError(
            f"{name}: {seen} must be a name, RAS or LPS, and mm, such as 'moving, RAS, mm'; write it so"
        )
    return _Words(names[0] if names else None, frames[0] if frames else None)


def _turned(places: np.ndarray, frame: str) -> np.ndarray:
    """Return places in RAS from ``frame``, or back."""
    return places * np.array([-1.0, -1.0, 1.0])[: places.shape[1]] if frame == "LPS" else places.copy()


def _read_csv(text: str, where: _Where) -> _Found:
    lines = text.splitlines()
    told = _Words(None, None)
    for line in lines:
        if (match := _SPACE.match(line.strip())) is not None:
            told = _words(match["words"].strip().strip(","), f"'{line.strip()}' in '{where.file}'", where.name)
            break
    numbered = [(n, line) for n, line in enumerate(lines, 1) if line.strip() and not line.lstrip().startswith("#")]
    if not numbered:
        raise where.refuse("holds no points; give one with a header x,y,z and a line for each point")
    delimiter = ";" if ";" in numbered[0][1] and "," not in numbered[0][1] else ","
    rows = list(csv.reader([line for _, line in numbered], delimiter=delimiter, skipinitialspace=True))
    header = [cell.strip() for cell in rows[0]]
    if header == BRATS_REG:
        told = _Words(told.space, told.frame or "LPS")
    places, columns = _table(header, rows[1:], [n for n, _ in numbered][1:], where)
    return _Found(places, told, columns, "brats-reg" if header == BRATS_REG else "plain")


def _read_fcsv(text: str, where: _Where) -> _Found:
    header, told = SLICER_COLUMNS, _Words(None, None)
    frame = None
    for line in text.splitlines():
        comment, equals, value = line.partition("=")
        if not comment.startswith("#") or (not equals and not _SPACE.match(line)):
            continue
        key, value = comment.strip("# ").lower(), value.strip()
        if key == "coordinatesystem":
            frame = SLICER_FRAMES.get(value.upper())
            if frame is None:
                raise where.refuse(f"has the coordinate system '{value}'; save it in Slicer as LPS or RAS")
        elif key == "columns":
            header = [cell.strip() for cell in value.split(",")]
        elif (match := _SPACE.match(line)) is not None:
            told = _words(match["words"], f"'{line}' in '{where.file}'", where.name)
    numbered = [(n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip() and line[0] != "#"]
    rows = list(csv.reader([line for _, line in numbered]))
    places, columns = _table(header, rows, [n for n, _ in numbered], where)
    return _Found(places, _Words(told.space, frame or told.frame), columns)


def _table(
    header: list[str], rows: list[list[str]], lines: list[int], where: _Where
) -> tuple[np.ndarray, dict[str, list[str]]]:
    """Split a table into places ``(n, dim)`` and the other columns."""
    low = [cell.lower() for cell in header]
    axes = [low.index(axis) for axis in AXES if axis in low]
    if len(axes) < 2 or [low[a] for a in axes] != list(AXES[: len(axes)]) or len(set(low)) < len(low):
        raise where.refuse(
            f"has the columns {', '.join(header)}, but x, y and z (in 2-D x and y) are needed, each once; name them "
            f"so in a header line"
        )
    if not rows:
        raise where.refuse("holds no points; give a line for each")
    places = np.empty((len(rows), len(axes)))
    for n, (row, line) in enumerate(zip(rows, lines, strict=True)):
        # Slicer leaves empty columns at the end out.
        row += [""] * (len(header) - len(row))
        if len(row) > len(header) and any(cell.strip() for cell in row[len(header) :]):
            raise where.refuse(
                f"has {len(row)} values in line {line} under {len(header)} columns; put quotes around commas"
            )
        places[n] = [_number(row[a], line, where) for a in axes]
    rest = [c for c in range(len(header)) if c not in axes]
    return places, {header[c]: [row[c].strip() for row in rows] for c in rest}


def _number(cell: str, line: int, where: _Where) -> float:
    try:
        value = float(cell) if cell.strip() else math.nan
    except ValueError:
        value = math.inf
    if math.isinf(value):
        raise where.refuse(f"has '{cell.strip()}' in line {line} where a number of mm is needed; correct it")
    return value


def _read_json(text: str, where: _Where) -> _Found:
    try:
        markups = json.loads(text)["markups"]
        frames = {str(markup.get("coordinateSystem", "LPS")).upper() for markup in markups}
        units = {_unit(markup.get("coordinateUnits", "mm")) for markup in markups}
        spaces = {markup["mmtk"]["space"] for markup in markups if "mmtk" in markup}
        controls = [point for markup in markups for point in markup["controlPoints"]]
        places = np.array([_position(point) for point in controls], dtype=np.float64).reshape(-1, 3)
        columns = {
            column: [str(point.get(key, "")) for point in controls]
            for key, column in SLICER_KEYS.items()
            if any(point.get(key) for point in controls)
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise where.refuse(
            f"is no markup file of 3D Slicer ({error!r}); save it from Slicer as .mrk.json"
        ) from error
    if not controls:
        raise where.refuse("holds no points; set some in Slicer and save it again")
    if len(frames) > 1 or not frames <= set(SLICER_FRAMES):
        raise where.refuse(
            f"has the coordinate systems {', '.join(sorted(frames))}; save it with LPS or RAS alone"
        )
    if units != {"mm"}:
        raise where.refuse(f"is in {', '.join(sorted(units))}, but points are in mm; save it in mm")
    if len(spaces) > 1:
        raise where.refuse(f"holds points of several spaces ({', '.join(sorted(spaces))}); save them one by one")
    return _Found(places, _Words(next(iter(spaces), None), SLICER_FRAMES[frames.pop()]), columns)


def _unit(stated: Any) -> str:
    return str(stated[0] if isinstance(stated, list) else stated).strip("[]'\" ").split(",")[0]


def _position(point: Mapping[str, Any]) -> Sequence[float]:
    """Return where a control point lies, NaN for one that Slicer calls not placed."""
    position = point.get("position")
    if position is None or point.get("positionStatus", "defined") in ("undefined", "missing"):
        return (math.nan,) * 3
    if len(position) != 3 or not all(math.isfinite(x) for x in position):
        raise ValueError(f"position {position}")
    return position


def _csv(points: Points) -> str:
    rows = [[*_decimals(place), *rest] for place, rest in zip(points.places, _others(points), strict=True)]
    table = _lines([[*AXES[: points.dim], *points.columns], *rows])
    return f"# space: {points.space}, RAS, mm\n{table}"


def _brats_reg(points: Points) -> str:
    marks = points.columns.get("Landmark", [str(n + 1) for n in range(len(points))])
    places = _turned(points.places, "LPS")
    return _lines([BRATS_REG, *([m, *_decimals(p)] for m, p in zip(marks, places, strict=True))])


def _fcsv(points: Points) -> str:
    """Slicer's own columns and no others, which it would not read."""
    rows = []
    for n, place in enumerate(_solid(points)):
        values = {key: _cell(points, key, n) or default for key, default in SLICER_DEFAULTS.items()}
        values |= dict(zip(AXES, _decimals(place), strict=True))
        values |= {key: _cell(points, key, n) for key in ("desc", "associatedNodeID")}
        values |= {"id": _cell(points, "id", n) or str(n), "label": _label(points, n)}
        rows.append([values[key] for key in SLICER_COLUMNS])
    head = "# Markups fiducial file version = 4.13\n# CoordinateSystem = LPS\n"
    return f"{head}# space: {points.space}\n# columns = {','.join(SLICER_COLUMNS)}\n{_lines(rows)}"


def _json(points: Points) -> str:
    controls = []
    for n, place in enumerate(_solid(points)):
        there = bool(np.isfinite(place).all())
        control: dict[str, Any] = {"id": _cell(points, "id", n) or str(n + 1), "label": _label(points, n)}
        control |= {
            "description": _cell(points, "desc", n),
            "associatedNodeID": _cell(points, "associatedNodeID", n),
        }
        control |= {"position": [round(x, 6) for x in place.tolist()]} if there else {}
        controls.append(control | {"positionStatus": "defined" if there else "undefined"})
    markup = {
        "type": "Fiducial",
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "mmtk": {"space": points.space},
        "controlPoints": controls,
    }
    return json.dumps({"@schema": SLICER_SCHEMA, "markups": [markup]}, indent=2, ensure_ascii=False) + "\n"


def _solid(points: Points) -> np.ndarray:
    """Return places ``(n, 3)`` in LPS; those of a plane lie in z = 0."""
    flat = np.zeros((len(points), 3))
    flat[:, : points.dim] = points.places
    return _turned(flat, "LPS")


def _cell(points: Points, column: str, n: int) -> str:
    return points.columns[column][n] if column in points.columns else ""


def _label(points: Points, n: int) -> str:
    named = next((c for c in ("label", "Landmark", "name") if c in points.columns), None)
    return _cell(points, named, n) if named else f"P-{n + 1}"


def _others(points: Points) -> Iterator[list[str]]:
    return ([column[n] for column in points.columns.values()] for n in range(len(points)))


def _decimals(place: np.ndarray) -> list[str]:
    return ["nan" if math.isnan(x) else f"{x + 0.0:.6f}" for x in place.tolist()]


def _lines(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
