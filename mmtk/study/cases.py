"""Cases: a pair of images each, and what is known of it.

Four sources give them. A folder holds a folder for each case, with the names that ``mmtk sample`` writes:

    moving  fixed                       any image format; the only two that must be there
    mask  fixed_mask                    lesions (beside a truth, ``fixed_mask`` is part of it and not given to a method)
    labels_moving  labels_fixed         label maps
    landmarks_moving  landmarks_fixed   points: .csv, .fcsv or .mrk.json
    moving_t1ce  fixed_t1ce             the pair in a further modality (t1, t1ce, t2, flair), for methods that ask for it
    truth.npz                           the true deformation, as ``mmtk sample`` writes it

A ``.csv`` has a row a case and these names as columns, paths from its own folder. A benchmark makes its cases, or knows
where they lie. A BIDS data set gives them as ``mmtk.study.bids`` says.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from mmtk.config import nearest
from mmtk.errors import ConfigError
from mmtk.modalities import KNOWN

__all__ = ["COLUMNS", "IMAGES", "Case", "check_cases", "from_csv", "from_folder"]

TRUTH_FILE = "truth.npz"

#: What a case may consist of, by the name of its file or column, and the field that holds it.
COLUMNS = {
    "moving": "moving",
    "fixed": "fixed",
    "mask": "mask",
    "fixed_mask": "fixed_mask",
    "labels_moving": "labels",
    "labels_fixed": "fixed_labels",
    "landmarks_moving": "landmarks",
    "landmarks_fixed": "fixed_landmarks",
    "truth": "truth",
}

#: Fields that hold images, and what comes in pairs.
IMAGES = ("moving", "fixed", "mask", "fixed_mask", "labels", "fixed_labels")
PAIRS = (("labels", "fixed_labels"), ("landmarks", "fixed_landmarks"))

IMAGE_ENDS = (".nii.gz", ".nii", ".mgz", ".mgh", ".png", ".tif", ".tiff", ".jpg", ".jpeg", ".npy")
POINT_ENDS = (".csv", ".fcsv", ".mrk.json")


@dataclass(frozen=True)
class Case:
    """One pair.

    Attributes:
        name: Unlike that of any other case of the study; it becomes the name of a folder.
        truth: Folder of a sample, or a displacement field.
        voxels: Of moving and fixed image; known once the headers were read.
        group: What sets it apart from other cases of the study, such as the kind of its lesion; tables are made of each
            group, too.
        known: What a user may know of it, as settings of a method: ``lesion: grew``; for methods that are told.
        channels: Moving and fixed image of further modalities, by name.
        measured: The benchmark that measures more of a run on it, as a study's file would say it.
    """

    name: str
    moving: Path
    fixed: Path
    mask: Path | None = None
    fixed_mask: Path | None = None
    labels: Path | None = None
    fixed_labels: Path | None = None
    landmarks: Path | None = None
    fixed_landmarks: Path | None = None
    truth: Path | None = None
    voxels: tuple[int, int] = (0, 0)
    group: str = ""
    known: Mapping[str, str] | None = None
    measured: Mapping[str, Any] | None = None
    channels: Mapping[str, tuple[Path, Path]] = field(default_factory=dict)

    @property
    def files(self) -> dict[str, Path]:
        """What there is, by field."""
        every = ((one.name, getattr(self, one.name)) for one in fields(self))
        return {name: value for name, value in every if isinstance(value, Path)}


def from_folder(folder: Path) -> list[Case]:
    """Return the cases of a folder, by name.

    Raises:
        ConfigError: It holds none.
    """
    if not folder.is_dir():
        close = nearest(folder.name, (p.name for p in folder.parent.iterdir())) if folder.parent.is_dir() else ""
        raise ConfigError(f"cases={folder}: no such folder{close}")
    found = [case for place in sorted(folder.iterdir()) if place.is_dir() and (case := one_folder(place))]
    if not found:
        raise ConfigError(
            f"cases={folder}: holds no folder with the images moving and fixed (such as moving.nii.gz); give one "
            f"folder for each case, as `mmtk sample` makes them, or a .csv"
        )
    return found


def one_folder(folder: Path, name: str | None = None) -> Case | None:
    """Return the case that a folder holds, or None where moving or fixed image is not there."""

    def named(stem: str) -> Path | None:
        ends = POINT_ENDS if "landmarks" in stem else IMAGE_ENDS
        return next((path for end in ends if (path := folder / f"{stem}{end}").is_file()), None)

    found = {role: named(stem) for stem, role in COLUMNS.items() if role != "truth"}
    there = {role: path for role, path in found.items() if path is not None}
    if "moving" not in there or "fixed" not in there:
        return None
    if (folder / TRUTH_FILE).is_file():
        there["truth"] = folder
        there.pop("fixed_mask", None)  # where the lesion truly lies is not for the method to know
    both = {name: (named(f"moving_{name}"), named(f"fixed_{name}")) for name in KNOWN}
    channels = {name: (ours, theirs) for name, (ours, theirs) in both.items() if ours and theirs}
    return Case(name or folder.name, **there, channels=channels)  # type: ignore[arg-type]


def from_csv(table: Path) -> list[Case]:
    """Return the cases of a table.

    Raises:
        ConfigError: With a sentence for each row and column that cannot be.
    """
    if not table.is_file():
        raise ConfigError(f"cases={table}: no such file")
    with open(table, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        columns = [column.strip() for column in reader.fieldnames or ()]
        rows = [
            {(k or "").strip(): (v or "").strip() for k, v in row.items() if isinstance(v, str)} for row in reader
        ]
    further = {f"{side}_{name}": f"{side}_{name}" for name in KNOWN for side in ("moving", "fixed")}
    known = {**COLUMNS, **{role: role for role in COLUMNS.values()}, **further, "case": "case"}
    problems = [
        f"cases={table}: unknown column '{column}'{nearest(column, known) or '; there are ' + ', '.join(known)}"
        for column in columns
        if column not in known
    ]
    problems += [
        f"cases={table}: there is no column '{column}'" for column in ("moving", "fixed") if column not in columns
    ]
    if not rows:
        problems.append(f"cases={table}: holds no row")
    cases = []
    for number, row in enumerate(rows, 2):
        there: dict[str, Path] = {}
        for column, value in row.items():
            if not value or known.get(column, "case") == "case":
                continue
            path = table.parent / Path(value).expanduser()
            if not path.exists():
                problems.append(f"cases={table}: line {number}: {column}: there is no file '{path}'")
            there[known[column]] = path
        problems += [
            f"cases={table}: line {number}: {role} is empty"
            for role in ("moving", "fixed")
            if role in columns and role not in there
        ]
        channels = {}
        for name in KNOWN:
            pair = [there.pop(f"{side}_{name}", None) for side in ("moving", "fixed")]
            if pair[0] and pair[1]:
                channels[name] = (pair[0], pair[1])
            elif any(pair):
                problems.append(
                    f"cases={table}: line {number}: {name} is there for one image alone; give both or none"
                )
        if "moving" in there and "fixed" in there:
            cases.append(Case(row.get("case") or f"{number - 2:03d}", **there, channels=channels))  # type: ignore[arg-type]
    if problems:
        raise ConfigError(problems)
    return cases


def check_cases(cases: Iterable[Case]) -> tuple[list[Case], list[str]]:
    """Read the headers of all files; return the cases with their sizes, and what is wrong in sentences."""
    from dataclasses import replace

    problems: list[str] = []
    checked = []
    seen: set[str] = set()
    for case in cases:
        problems += _named(case, seen)
        seen.add(case.name)
        trouble, voxels = _probed(case)
        problems += [f"case {case.name}: {problem}" for problem in trouble]
        checked.append(replace(case, voxels=voxels))
    return checked, problems


def _named(case: Case, seen: set[str]) -> Sequence[str]:
    if case.name in seen:
        return [f"case {case.name}: two cases have that name; give each its own"]
    if not re.fullmatch(r"[\w][\w.+=-]*", case.name):
        return [f"case {case.name}: is to be the name of a folder; use letters, digits, '-', '_' and '.'"]
    return []


def _probed(case: Case) -> tuple[list[str], tuple[int, int]]:
    from mmtk.io import probe_image, read_points

    problems: list[str] = []
    sizes: dict[str, int] = {}
    dims: dict[str, int] = {}
    scans = {
        f"{side} ({m})": path
        for m, pair in case.channels.items()
        for side, path in zip(("moving", "fixed"), pair, strict=True)
    }
    for name, path in {**case.files, **scans}.items():
        try:
            if name in IMAGES or name in scans:
                header = probe_image(path, name=name)
                dims[name], sizes[name] = header.dim, math.prod(header.shape)
            elif "landmarks" in name:
                read_points(path, space="moving" if name == "landmarks" else "fixed", name=name)
        except ConfigError as error:
            problems += error.problems
    if len(set(dims.values())) > 1:
        told = ", ".join(f"{name} {dim}-D" for name, dim in dims.items())
        problems.append(f"the images are not of one dimension: {told}")
    for one, other in PAIRS:
        if (getattr(case, one) is None) != (getattr(case, other) is None):
            there, gone = (one, other) if getattr(case, one) else (other, one)
            problems.append(f"{there} says nothing without {gone}; give both or none")
    return problems, (sizes.get("moving", 0), sizes.get("fixed", 0))


def as_data(case: Case) -> dict[str, str]:
    """Return a case as plain data."""
    group = {"group": case.group} if case.group else {}
    return {"name": case.name, **group, **{name: str(path) for name, path in case.files.items()}}


def from_data(data: Mapping[str, str]) -> Case:
    """Return the case of :func:`as_data`."""
    files = {name: Path(value) for name, value in data.items() if name not in ("name", "group")}
    return Case(data["name"], **files, group=data.get("group", ""))  # type: ignore[arg-type]
