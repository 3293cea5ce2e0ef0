"""``fixed=... warped=...``: what a registration is worth, for the folder of a run or for what any tool has written.

Everything that is wrong with a request is found before a voxel is read. Images and label maps that are compared must
lie on one grid, since resampling changes what is measured; masks and true displacements are smooth enough to be
resampled.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmtk.config import nearest
from mmtk.errors import ConfigError, InputError, MmtkError
from mmtk.io import (
    FieldStep,
    Header,
    Points,
    Volume,
    probe_image,
    read_mask,
    read_points,
    to_voxels,
    to_world,
    write_json,
    write_text,
)
from mmtk.io.formats import read_steps
from mmtk.io.headers import existing_file, where
from mmtk.io.images import check_finite, load
from mmtk.io.space import spacing_of

if TYPE_CHECKING:
    from torch import Tensor

    from mmtk.report.findings import Findings

__all__ = ["KEYS", "Evaluation", "as_json_text", "as_text", "check_out", "evaluate", "write_numbers"]

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
#: Grids whose voxels lie nearer to each other than this, in voxels, are one grid.
SAME_GRID = 1e-2
#: There and back is tried at so many points, or a few more.
TRIALS = 200_000
RUN_INVERSE = "inverse_transform.h5"
OUT_SUFFIXES = (".json", ".csv")


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        metrics: Numbers by group and name, as in ``metrics.json``; NaN where one has no meaning.
        notes: Sentences that a user should read.
        seconds: How long it took.
    """

    metrics: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    seconds: float = 0.0


def evaluate(settings: Mapping[str, Any], *, problems: Iterable[str] = ()) -> Evaluation:
    """Measure what the keys name.

    Args:
        settings: By the names in :data:`KEYS`, as typed.
        problems: What is known to be wrong already, to be told together with what is found here.

    Raises:
        ConfigError: With everything that is wrong.
    """
    begin = time.perf_counter()
    request = _Request(dict(settings), list(problems))
    request.check()
    import torch

    with torch.no_grad():
        metrics = request.measure()
    return Evaluation(metrics, tuple(dict.fromkeys(request.notes)), round(time.perf_counter() - begin, 3))


def as_text(found: Evaluation) -> str:
    """Return a table: each number, what it was before, and its meaning in a phrase."""
    from mmtk.report.tables import sections

    lines: list[str] = []
    for section in sections(found.metrics):
        rows = [
            (row.label, row.value, f"(before: {row.before})" if row.before else "", row.meaning)
            for row in section.rows
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines += ["", section.title]
        for row in rows:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=False) if width)
            lines.append("  ".join(["", *cells, row[3]]).rstrip())
    return "\n".join(lines[1:])


def as_json_text(found: Evaluation) -> str:
    """Return the numbers as JSON, NaN and infinity as null."""
    return json.dumps(_nulled(_whole(found)), indent=2, ensure_ascii=False, allow_nan=False)


def check_out(out: Path, overwrite: bool) -> list[str]:
    """Return a sentence for each reason why numbers cannot be written to a file."""
    if out.suffix.lower() not in OUT_SUFFIXES:
        return [f"--out {out}: must end in {' or '.join(OUT_SUFFIXES)}"]
    if out.is_dir():
        return [f"--out {out}: is a folder; name a file in it"]
    if out.exists() and not overwrite:
        return [f"--out {out}: exists already; name another file, or add --overwrite"]
    above = next(parent for parent in out.absolute().parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        return [f"--out {out}: nothing can be written into '{above}'; name another place"]
    return []


def write_numbers(out: Path, found: Evaluation) -> Path:
    """Write the numbers as JSON, or as a table ``group,name,value,meaning`` if the name ends in ``.csv``.

    Raises:
        MmtkError: If the file cannot be written.
    """
    from mmtk.report.tables import flat
    from mmtk.report.words import METRICS

    try:
        if out.suffix.lower() == ".json":
            return write_json(out, _whole(found))
        table = io.StringIO()
        rows = csv.writer(table, lineterminator="\n")
        rows.writerow(["group", "name", "value", "meaning"])
        for group, values in found.metrics.items():
            for name, value in flat(values):
                first = name.partition(".")[0].removesuffix("_before")
                rows.writerow([group, name, value, METRICS.get(first, ("", ""))[1]])
        return write_text(out, table.getvalue())
    except OSError as error:
        raise MmtkError(
            f"--out {out}: cannot be written ({error.strerror or error}); make room or name another folder"
        ) from error


def _whole(found: Evaluation) -> dict[str, Any]:
    return {"metrics": found.metrics, "notes": found.notes, "seconds": found.seconds}


def _nulled(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _nulled(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass
class _Request:
    said: dict[str, Any]
    problems: list[str]
    notes: list[str] = field(default_factory=list)
    headers: dict[str, Header] = field(default_factory=dict)
    points: dict[str, Points] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)

    # --- what is wrong

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
            self._check_grid(key, "fixed", "carry the moving image onto the grid of the fixed one first")
        self._check_grid(
            "labels",
            "fixed_labels",
            "label maps are not resampled here: carry the first onto the grid of the second, by mmtk apply labels=",
        )

    def _check_grid(self, one: str, other: str, advice: str) -> None:
        a, b = self.headers.get(one), self.headers.get(other)
        if a is not None and b is not None and not _same_grid(a, b):
            self.problems.append(f"{one}: {_told(a)}, but {other}: {_told(b)}; {advice}")

    def _check_others(self) -> None:
        space = self.said.get("space")
        frame = [word for word in str(space or "").split(",") if word.strip().upper() in ("RAS", "LPS")]
        for key, name in (("landmarks", space or "moving"), ("fixed_landmarks", ",".join(["fixed", *frame]))):
            if key in self.said:
                found = self._try(_points, self.said[key], name, key)
                if found is not None:
                    self.points[key] = found
        if len(self.points) == 2:
            self._try(_paired, self.points["landmarks"], self.points["fixed_landmarks"])
        for key in ("displacement", "inverse"):
            if key in self.said:
                self._try(existing_file, self.said[key], key)
        if "transform" in self.said:
            from mmtk.transforms.load import spaces_of

            for place in str(self.said["transform"]).split(","):
                self._try(spaces_of, place)
        if "truth" in self.said and not Path(str(self.said["truth"])).is_dir():
            self._try(existing_file, self.said["truth"], "truth")

    def _try(self, read: Any, *arguments: Any, **options: Any) -> Any:
        try:
            return read(*arguments, **options)
        except ConfigError as error:
            self.problems += error.problems
        except MmtkError as error:
            self.problems.append(str(error))
        return None

    # --- what is measured

    def measure(self) -> dict[str, Any]:
        """Return every group of numbers that the request has the files for."""
        report: dict[str, Any] = {}
        found: FieldStep | None = None
        fixed: Volume | None = None
        lesion: Volume | None = None
        if "run" in self.said:
            report, found, fixed, lesion = self._of_run(Path(str(self.said["run"])).expanduser())
        elif "fixed" in self.said:
            fixed = load(self.said["fixed"], name="fixed")
            check_finite(fixed)
            if "mask" in self.said:
                lesion = read_mask(self.said["mask"], like=fixed)
                self.notes += lesion.notes
        if "warped" in self.said:
            assert fixed is not None
            report |= self._of_pair(fixed, lesion)
        if "displacement" in self.said:
            found = self._field("displacement", fixed)
            report |= self._of_field(found, fixed, lesion)
        truth = self._truth(fixed) if found is not None else None
        if truth is not None and found is not None:
            report["truth"] = self._against(truth, found, fixed, lesion)
        if "fixed_labels" in self.said:
            report["overlap"] = self._of_labels()
        if "landmarks" in self.points:
            report["landmarks"] = self._of_landmarks()
        return report

    def _of_pair(self, fixed: Volume, lesion: Volume | None) -> dict[str, Any]:
        from mmtk.intensity import pair_normalizers
        from mmtk.measure import Compared, disentanglement, similarity
        from mmtk.prepare import tensor

        images = {key: load(self.said[key], name=key) for key in IMAGES[1:] if key in self.said}
        for volume in images.values():
            check_finite(volume)
        mask = None if lesion is None else lesion.data
        # Whatever has no appearance tells the moving image's scale.
        source = images.get("placed", images.get("deformed", images["warped"]))
        how = self.said.get("normalize", "robust")
        ours, theirs = pair_normalizers(source.data, fixed.data, mask, mask, how=how)
        names = {"placed": "before"}
        compared = Compared(
            fixed=theirs.apply(tensor(fixed))[0, 0],
            images={names.get(key, key): ours.apply(tensor(volume))[0, 0] for key, volume in images.items()},
            mask=None if lesion is None else tensor(lesion)[0, 0],
        )
        report: dict[str, Any] = {"similarity": similarity(compared)}
        if "deformed" in images:
            report["disentanglement"] = disentanglement(compared, fixed.grid)
        return report

    def _of_run(self, folder: Path) -> tuple[dict[str, Any], FieldStep, Volume, Volume | None]:
        from mmtk.measure import measure
        from mmtk.report.findings import read_findings

        run, record = read_findings(folder)
        if run.moving is None or run.fixed is None or run.gone:
            raise InputError(
                [
                    f"run={folder}: {sentence.rstrip('.')}; bring the file back to measure the run"
                    for sentence in run.gone
                ]
                or f"run={folder}: does not name its images; give fixed= and warped= instead"
            )
        report = measure(*_again(run, folder))
        cost = {"seconds": sum(record.get("seconds", {}).values()), "peak_memory_mb": record.get("peak_memory_mb")}
        report["cost"] = {name: value for name, value in cost.items() if value is not None}
        from mmtk.io import total_displacement

        found = FieldStep(total_displacement(run.displacement, run.fixed, run.matrix), run.fixed.affine)
        lesion = None if run.lesion is None else replace(run.space, data=run.lesion.numpy())
        if "labels" not in self.said and "fixed_labels" in self.said:
            self._labels_of_run(folder)
        return report, found, run.fixed, lesion

    def _labels_of_run(self, folder: Path) -> None:
        place = folder / "warped_labels.nii.gz"
        if not place.is_file():
            raise InputError(
                f"fixed_labels={self.said['fixed_labels']}: the run in '{folder}' carried no label map; give labels=, "
                f"made by mmtk apply transform={folder} labels="
            )
        self.said["labels"] = place
        self.headers["labels"] = probe_image(place, name="labels")
        self._check_grid("labels", "fixed_labels", "give the label map on the grid of the run's fixed image")
        if self.problems:
            raise InputError(self.problems)

    def _field(self, key: str, fixed: Volume | None) -> FieldStep:
        """Return a map as one field: on its own grid if it is one, else on the grid of the fixed image."""
        from mmtk.transforms import Transform

        steps = self._steps(key, fixed)
        fields = [step for step in steps if isinstance(step, FieldStep)]
        if len(steps) == 1 and fields:
            return fields[0]
        grid: Any = fixed or (_Placed(fields[0].vectors.shape[1:], fields[0].affine) if fields else None)
        if grid is None:
            raise InputError(
                f"{key}={self.said[key]}: holds no field; give fixed=FILE, on whose grid it is measured"
            )
        return Transform(steps).as_field(grid)

    def _steps(self, key: str, fixed: Volume | None) -> Any:
        stated = {name: self.said.get(name) for name in ("format", "convention")}
        stated = {} if key == "truth" else stated
        return read_steps(Path(str(self.said[key])).expanduser(), **stated, fixed=fixed)

    def _of_field(self, found: FieldStep, fixed: Volume | None, lesion: Volume | None) -> dict[str, Any]:
        import torch

        from mmtk.fields import Grid, jacobian_determinant
        from mmtk.measure import deformation
        from mmtk.measure import lesion as around

        _check_field(found, "displacement")
        shape = found.vectors.shape[1:]
        grid = Grid(shape, spacing_of(found.affine, len(shape)))
        u = torch.from_numpy(np.ascontiguousarray(to_voxels(found.vectors, found.affine)))[None]
        determinant = jacobian_determinant(u)[0, 0]
        report: dict[str, Any] = {"deformation": deformation(u, determinant, grid)}
        if "inverse" in self.said:
            report["deformation"] |= self._there_and_back(found)
        if lesion is not None and fixed is not None:
            if _same_grid(_Placed(shape, found.affine), fixed):
                mask, image = torch.from_numpy(lesion.data), torch.from_numpy(fixed.data)
                report["lesion"] = around(determinant / determinant.median(), mask, image, grid)
                self.notes.append(
                    "The mass effect is told relative to the median determinant, since the field may hold an affine."
                )
            else:
                self.notes.append("The displacement lies on another grid than the mask: no mass effect is told.")
        return report

    def _there_and_back(self, found: FieldStep) -> dict[str, float]:
        from mmtk.transforms import Transform
        from mmtk.transforms.displaced import voxels_of, within

        back = Transform(tuple(self._steps("inverse", None)))
        shape = found.vectors.shape[1:]
        every = max(1, int((math.prod(shape) / TRIALS) ** (1 / len(shape))))
        voxels = np.stack(np.meshgrid(*(np.arange(0, n, every) for n in shape), indexing="ij"), -1)
        dim = len(shape)
        voxels = voxels.reshape(-1, dim)
        start = voxels @ found.affine[:dim, :dim].T + found.affine[:dim, 3]
        there = start + found.vectors[(slice(None), *voxels.T)].T
        first = back.steps[0]
        stays = np.ones(len(there), bool)
        if isinstance(first, FieldStep):
            stays = within(voxels_of(there, first.affine), first.vectors.shape[1:])
        error = np.linalg.norm(back.points(there[stays]) - start[stays], axis=1)
        if not len(error):
            return {"inverse_consistency_mean_mm": math.nan, "inverse_consistency_max_mm": math.nan}
        return {
            "inverse_consistency_mean_mm": float(error.mean()),
            "inverse_consistency_max_mm": float(error.max()),
        }

    def _truth(self, fixed: Volume | None) -> Any:
        """Return the true field, or what a sample knows of it; None where there is none."""
        from mmtk.samples.truth import TRUTH_FILE, Truth

        if "truth" not in self.said:
            beside = None if "run" not in self.said or fixed is None or fixed.path is None else fixed.path.parent
            known = None if beside is None else Truth.read(beside)
            return known if known is not None and fixed is not None and _of_grid(known, fixed) else None
        place = Path(str(self.said["truth"])).expanduser()
        if place.is_dir() or place.name == TRUTH_FILE:
            known = Truth.read(place if place.is_dir() else place.parent)
            if known is None:
                raise InputError(
                    f"truth={place}: holds no {TRUTH_FILE}; name a folder that mmtk sample has filled"
                )
            return known
        return self._field("truth", fixed)

    def _against(
        self, truth: Any, found: FieldStep, fixed: Volume | None, lesion: Volume | None
    ) -> dict[str, float]:
        from mmtk.metrics import edge_error, truth_errors
        from mmtk.metrics.truth import ring
        from mmtk.samples.truth import Truth
        from mmtk.transforms import Transform

        shape = found.vectors.shape[1:]
        grid = _Placed(shape, found.affine)
        inside, seen = np.zeros(shape, bool), np.ones(shape, bool)
        known = truth
        if isinstance(truth, Truth):
            known = FieldStep(to_world(truth.displacement, truth.affine), truth.affine)
            if _of_grid(truth, grid):
                inside, seen = truth.fixed_mask, truth.foreground
        on_fixed = fixed is not None and _same_grid(grid, fixed)
        if fixed is not None and on_fixed:
            if not isinstance(truth, Truth):
                seen = fixed.data > 0.1 * fixed.data.max()
                inside = inside if lesion is None else lesion.data >= 0.5
        elif not isinstance(truth, Truth):
            self.notes.append("Without fixed= on the grid of the displacement, errors count its background, too.")
        same = _same_grid(_Placed(known.vectors.shape[1:], known.affine), grid)
        expected = known.vectors if same else Transform((known,)).displacement_on(grid)
        if not same:
            self.notes.append("The true displacement lies on another grid; it was interpolated linearly.")
        spacing = spacing_of(found.affine, len(shape))
        off = to_voxels(found.vectors - expected, found.affine) * np.reshape(spacing, (-1, *[1] * len(shape)))
        report = truth_errors(off, inside, seen, spacing, near=self.numbers["near"])
        if fixed is not None and on_fixed:
            away = ~inside & ~ring(inside, spacing, 2 * max(spacing))
            report["edges"] = edge_error(off, fixed.data, spacing, away)
        return {f"{name}_mm": value for name, value in report.items()}

    def _of_labels(self) -> dict[str, Any]:
        import torch

        from mmtk.measure import overlap
        from mmtk.metrics import dice, surface_distances

        moved, fixed = (_label_map(self.said[key], key) for key in ("labels", "fixed_labels"))
        a, b = torch.from_numpy(moved.data), torch.from_numpy(fixed.data)
        found = surface_distances(a, b, fixed.spacing, tolerance=self.numbers["tolerance"])
        both = [distance for distance in found.values() if math.isfinite(distance.hd95)]
        report: dict[str, Any] = {
            **overlap(a, b),
            "labels_missing": len(found) - len(both),
            "hd95_mean_mm": _mean([d.hd95 for d in both]),
            "surface_distance_mean_mm": _mean([d.mean for d in both]),
            "surface_dice_mean": _mean([d.within for d in found.values()]),
        }
        by_label = {"dice": dice(a, b), "hd95": {label: d.hd95 for label, d in found.items()}}
        return report | {name: {str(k): v for k, v in values.items()} for name, values in by_label.items()}

    def _of_landmarks(self) -> dict[str, float]:
        import torch

        from mmtk.metrics import landmark_errors
        from mmtk.transforms import load_transform
        from mmtk.transforms.apply import carry_points

        moving, fixed = _paired(self.points["landmarks"], self.points["fixed_landmarks"])
        found = moving
        places = [part for part in str(self.said.get("transform", self.said.get("run", ""))).split(",") if part]
        if places:
            transform = load_transform(places[0], *places[1:])
            found, notes = carry_points(moving, transform, to=fixed.space)
            self.notes += [*transform.notes, *notes]
        elif moving.space != fixed.space:
            self.notes.append("No transform= was given: the landmarks are taken to be carried already.")
        errors = landmark_errors(*(torch.from_numpy(p.places) for p in (found, fixed, moving)))
        report = {"landmark_error_median_mm": errors.median, "landmark_error_mean_mm": errors.mean}
        report |= {"landmark_error_max_mm": errors.max, "landmarks": len(moving)}
        if places:
            before = landmark_errors(*(torch.from_numpy(p.places) for p in (moving, fixed, moving)))
            report |= {f"landmark_error_{n}_mm_before": getattr(before, n) for n in ("median", "mean", "max")}
            report["robustness"] = errors.robustness
        return report


@dataclass(frozen=True, eq=False)
class _Placed:
    shape: tuple[int, ...]
    affine: np.ndarray


def _same_grid(one: Any, other: Any) -> bool:
    """Whether two grids have one shape, and their corners meet."""
    if tuple(one.shape) != tuple(other.shape):
        return False
    dim = len(one.shape)
    corners = np.array(np.meshgrid(*((0, n - 1) for n in one.shape))).reshape(dim, -1)
    apart = (one.affine - other.affine)[:dim, :dim] @ corners + (one.affine - other.affine)[:dim, 3:]
    return bool(np.linalg.norm(apart, axis=0).max() <= SAME_GRID * min(spacing_of(other.affine, dim)))


def _of_grid(truth: Any, grid: Any) -> bool:
    return _same_grid(_Placed(truth.displacement.shape[1:], truth.affine), grid)


def _told(header: Header) -> str:
    shape, spacing = ("x".join(f"{n:.4g}" for n in numbers) for numbers in (header.shape, header.spacing))
    first = ", ".join(f"{x:.4g}" for x in header.affine[: header.dim, 3])
    return f"'{header.path}' has {shape} voxels of {spacing} mm, the first at ({first})"


def _points(path: Any, space: str, name: str) -> Points:
    """Read points, in the space that their file says, or else in ``space``."""
    try:
        return read_points(path, name=name)
    except InputError:
        return read_points(path, space=space, name=name)


def _paired(moving: Points, fixed: Points) -> tuple[Points, Points]:
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


def _check_field(found: FieldStep, key: str) -> None:
    if min(found.vectors.shape[1:]) < 2 or not np.isfinite(found.vectors).all():
        raise InputError(
            f"{key}: the field has NaN or infinite values, or an axis of one voxel (its grid is "
            f"{found.vectors.shape[1:]}); write it again"
        )


def _label_map(path: Any, key: str) -> Volume:
    volume = load(path, name=key)
    low, _ = check_finite(volume)
    if low < 0 or (volume.data != np.rint(volume.data)).any():
        raise InputError(
            f"{key}: {where(volume.path)} holds values that are no labels; give whole numbers of at least 0, carried "
            f"by mmtk apply labels= or by nearest neighbor"
        )
    return volume


def _again(run: Findings, folder: Path) -> tuple[Any, Any, Any]:
    """Return what a run had in memory when it was measured."""
    import torch

    from mmtk.align import Alignment
    from mmtk.io import read_transform
    from mmtk.method import Pair
    from mmtk.outputs import Warped
    from mmtk.prepare import Prepared, tensor
    from mmtk.result import Registration

    assert run.fixed is not None and run.moving is not None
    assert run.fixed_scale is not None and run.moving_scale is not None
    existing_file(folder / RUN_INVERSE, "run")
    back: list[Tensor] = [
        torch.from_numpy(np.ascontiguousarray(to_voxels(step.vectors, run.fixed.affine)))[None]
        for step in read_transform(folder / RUN_INVERSE)
        if isinstance(step, FieldStep) and step.vectors.shape[1:] == run.fixed.shape
    ]
    if len(back) != 1:
        raise InputError(
            f"run: '{folder / RUN_INVERSE}' holds no field on the grid of warped.nii.gz; run it again"
        )
    fixed = tensor(run.fixed)
    prepared = Prepared(
        moving=run.moving,
        fixed=run.fixed,
        mask=run.mask,
        fixed_mask=run.fixed_mask,
        alignment=Alignment(run.matrix, run.placement),
        moving_scale=run.moving_scale,
        fixed_scale=run.fixed_scale,
        pair=Pair(moving=fixed, fixed=fixed, grid=run.fixed.grid),
    )
    u = run.displacement[None]
    found = Registration(run.fixed.grid, u, back[0], run.appearance, {}, ())
    images = Warped(run.warped, run.deformed, run.appearance, run.lesion, None, run.jacobian)
    return prepared, found, images


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
