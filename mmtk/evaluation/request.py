"""What a user asks to be measured, checked whole before a voxel is read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmtk.config import nearest
from mmtk.errors import ConfigError, InputError, MmtkError
from mmtk.evaluation.grids import same_grid, told
from mmtk.io import Header, Points, probe_image, read_points
from mmtk.io.formats import read_steps
from mmtk.samples.truth import TRUTH_FILE

__all__ = ["IMAGES", "KEYS", "Request", "paired"]

#: What each key means; the first words of the help.
KEYS = {
    "run": "folder of a run: everything that can be measured of it",
    "fixed": "image that stayed",
    "warped": "moving image as carried onto it, shape and appearance",
    "deformed": "the same, shape only",
    "placed": "the same, placed affinely and not deformed",
    "mask": "lesion on the fixed grid",
    "labels": "label map as carried onto the fixed image",
    "fixed_labels": "label map of the fixed image",
    "landmarks": "points of the moving image: .csv, .fcsv or .mrk.json",
    "fixed_landmarks": "the same points of the fixed image",
    "transform": "what carries the landmarks: folder of a run, or transform files as for mmtk apply",
    "displacement": "displacement field or transform, from fixed to moving points",
    "inverse": "its inverse",
    "truth": "the true displacement: a field, or the folder of a sample",
    "space": "of landmarks whose file does not say it: NAME,RAS or NAME,LPS",
    "normalize": "how intensities are brought onto one scale: robust (the default), histogram or none",
    "near": "width of the band around the lesion in which errors are told apart, mm; 10",
    "tolerance": "for the share of a surface that lies within it, mm; 1",
    "format": "of displacement and inverse, where their files do not say",
    "convention": "of a displacement field that does not say it: ras-mm, lps-mm or voxel",
}
IMAGES = ("fixed", "warped", "deformed", "placed")
#: What a run brings itself.
OF_A_RUN = (*IMAGES, "mask", "displacement", "inverse", "normalize", "format", "convention", "transform")
#: Each key, and the one without which it says nothing.
PARTNERS = {
    "warped": "fixed",
    "deformed": "warped",
    "placed": "warped",
    "mask": "fixed",
    "labels": "fixed_labels",
    "fixed_labels": "labels",
    "landmarks": "fixed_landmarks",
    "fixed_landmarks": "landmarks",
    "transform": "landmarks",
    "space": "landmarks",
    "inverse": "displacement",
    "truth": "displacement",
}
MEASURED = ("run", "warped", "labels", "landmarks", "displacement")
SCALES = ("robust", "histogram", "none")


@dataclass
class Request:
    """Settings by the names in :data:`KEYS`, and what is known of the files.

    Attributes:
        said: The settings, as typed.
        problems: A sentence for each thing that is wrong.
        headers, points: Of the files that were looked into, by key.
        numbers: Settings that are numbers.
        steps: What points go through in each map, by key.
    """

    said: dict[str, Any]
    problems: list[str]
    headers: dict[str, Header] = field(default_factory=dict)
    points: dict[str, Points] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)
    steps: dict[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Find everything that is wrong before a voxel is read.

        Raises:
            ConfigError: If anything is.
        """
        self._check_keys()
        self._check_numbers()
        self._check_images()
        self._check_others()
        if self.problems:
            raise ConfigError(self.problems)

    def _check_keys(self) -> None:
        said = self.said
        for key in said:
            if key not in KEYS:
                hint = nearest(key, KEYS) or f"; there are {', '.join(KEYS)}"
                self.problems.append(f"{key}={said[key]}: unknown key{hint}")
        if not any(key in said for key in MEASURED):
            self.problems.append(
                "nothing is to be measured; give run=FOLDER, or fixed= and warped=, labels= and fixed_labels=, "
                "landmarks= and fixed_landmarks=, or displacement="
            )
        if "run" in said:
            self.problems += [
                f"{key}={said[key]}: run={said['run']} brings its own; leave one of them out"
                for key in OF_A_RUN
                if key in said
            ]
            folder = Path(str(said["run"])).expanduser()
            if not (folder / "run.json").is_file():
                self.problems.append(
                    f"run={said['run']}: is no folder that `mmtk run --out` has filled; name one, or give files"
                )
        for key, partner in PARTNERS.items():
            by_run = "run" in said and (key in ("fixed_labels", "truth", *OF_A_RUN))
            if key in said and partner not in said and not by_run:
                self.problems.append(f"{key}={said[key]}: says nothing without {partner}=; give both")

    def _check_numbers(self) -> None:
        for key, default in (("near", 10.0), ("tolerance", 1.0)):
            try:
                self.numbers[key] = float(self.said.get(key, default))
            except ValueError:
                self.numbers[key] = math.nan
            if not 0 < self.numbers[key] < math.inf:
                self.problems.append(f"{key}={self.said[key]}: must be a number of mm above 0")
        how = str(self.said.get("normalize", "robust"))
        if how not in SCALES:
            self.problems.append(f"normalize={how}: must be one of {', '.join(SCALES)}{nearest(how, SCALES)}")

    def _check_images(self) -> None:
        for key in (*IMAGES, "mask", "labels", "fixed_labels"):
            if key in self.said:
                found = self._try(probe_image, self.said[key], name=key)
                if found is not None:
                    self.headers[key] = found
        for key in IMAGES[1:]:
            self.check_grid(key, "fixed", "carry the moving image onto the grid of the fixed one first")
        self.check_grid(
            "labels",
            "fixed_labels",
            "label maps are not resampled here: carry the first onto the grid of the second, by mmtk apply labels=",
        )

    def check_grid(self, one: str, other: str, advice: str) -> None:
        """Note it as a problem if two images do not lie on one grid."""
        a, b = self.headers.get(one), self.headers.get(other)
        if a is not None and b is not None and not same_grid(a, b):
            self.problems.append(f"{one}: {told(a)}, but {other}: {told(b)}; {advice}")

    def _check_others(self) -> None:
        space = self.said.get("space")
        frame = [word for word in str(space or "").split(",") if word.strip().upper() in ("RAS", "LPS")]
        for key, name in (("landmarks", space or "moving"), ("fixed_landmarks", ",".join(["fixed", *frame]))):
            if key in self.said:
                found = self._try(_points, self.said[key], name, key)
                if found is not None:
                    self.points[key] = found
        if len(self.points) == 2:
            self._try(paired, self.points["landmarks"], self.points["fixed_landmarks"])
        self._read_maps()
        if "transform" in self.said:
            from mmtk.transforms.load import spaces_of

            for place in str(self.said["transform"]).split(","):
                self._try(spaces_of, place)

    def _read_maps(self) -> None:
        """Read the maps: what is wrong with them shows in their numbers alone."""
        stated = {name: self.said.get(name) for name in ("format", "convention")}
        for key in ("displacement", "inverse", "truth"):
            if key not in self.said:
                continue
            place = Path(str(self.said[key])).expanduser()
            if key == "truth" and (place.is_dir() or place.name == TRUTH_FILE):
                if not (place / TRUTH_FILE if place.is_dir() else place).is_file():
                    self.problems.append(
                        f"truth={place}: holds no {TRUTH_FILE}; name a folder that mmtk sample has filled"
                    )
                continue
            options = {} if key == "truth" else stated
            known = len(self.problems)
            self.steps[key] = self._try(read_steps, place, fixed=self.headers.get("fixed"), **options)
            self.problems[known:] = [f"{key}={self.said[key]}: {problem}" for problem in self.problems[known:]]

    def _try(self, read: Any, *arguments: Any, **options: Any) -> Any:
        try:
            return read(*arguments, **options)
        except ConfigError as error:
            self.problems += error.problems
        except MmtkError as error:
            self.problems.append(str(error))
        return None


def _points(path: Any, space: str, name: str) -> Points:
    """Read points, in the space that their file says, or else in ``space``."""
    try:
        return read_points(path, name=name)
    except InputError:
        return read_points(path, space=space, name=name)


def paired(moving: Points, fixed: Points) -> tuple[Points, Points]:
    """Return two sets of points in one order: that of their names if both have such, else as they come.

    Raises:
        InputError: If they do not match.
    """
    if moving.dim != fixed.dim:
        raise InputError(
            f"landmarks are {moving.dim}-D but fixed_landmarks are {fixed.dim}-D; give points of images of one kind"
        )
    names = [_names(points) for points in (moving, fixed)]
    if names[0] is not None and names[1] is not None:
        if set(names[0]) != set(names[1]):
            odd = sorted(set(names[0]) ^ set(names[1]))
            raise InputError(
                f"landmarks and fixed_landmarks do not name the same points ({', '.join(odd[:5])} stands in one of "
                f"them alone); give each point in both files"
            )
        order = [names[1].index(name) for name in names[0]]
        columns = {key: [values[n] for n in order] for key, values in fixed.columns.items()}
        return moving, replace(fixed, places=fixed.places[order], columns=columns)
    if len(moving) != len(fixed):
        raise InputError(
            f"landmarks holds {len(moving)} points but fixed_landmarks {len(fixed)}; give each point in both files"
        )
    return moving, fixed


def _names(points: Points) -> Sequence[str] | None:
    """Return a name for each point, or None where they have none, or not each its own."""
    for column in ("Landmark", "label", "name", "id"):
        names = points.columns.get(column)
        if names and len(set(names)) == len(points) and all(names):
            return names
    return None
