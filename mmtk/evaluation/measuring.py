"""The groups of numbers that a request has the files for."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmtk.errors import InputError
from mmtk.evaluation.grids import Placed, same_grid
from mmtk.evaluation.request import IMAGES, Request, paired
from mmtk.io import FieldStep, Volume, probe_image, read_mask, to_voxels, to_world
from mmtk.io.headers import existing_file, where
from mmtk.io.images import check_finite, load
from mmtk.io.space import spacing_of

if TYPE_CHECKING:
    from torch import Tensor

    from mmtk.report.findings import Findings

__all__ = ["Measuring"]

#: There and back is tried at so many points, or a few more.
TRIALS = 200_000
RUN_INVERSE = "inverse_transform.h5"


@dataclass
class Measuring:
    """Measures what a checked request asks for.

    Attributes:
        request: The request.
        notes: Sentences that a user should read.
    """

    request: Request
    notes: list[str] = field(default_factory=list)

    @property
    def said(self) -> dict[str, Any]:
        """The settings, as typed."""
        return self.request.said

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
        if "landmarks" in self.request.points:
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
        elif "fixed_labels" not in self.said and (known := run.settings.get("fixed_labels")):
            self.notes.append(f"The overlap of the labels is left out; measure it with fixed_labels={known}.")
        return report, found, run.fixed, lesion

    def _labels_of_run(self, folder: Path) -> None:
        place = folder / "warped_labels.nii.gz"
        if not place.is_file():
            raise InputError(
                f"fixed_labels={self.said['fixed_labels']}: the run in '{folder}' carried no label map; give labels=, "
                f"made by mmtk apply transform={folder} labels="
            )
        self.said["labels"] = place
        self.request.headers["labels"] = probe_image(place, name="labels")
        self.request.check_grid(
            "labels", "fixed_labels", "give the label map on the grid of the run's fixed image"
        )
        if self.request.problems:
            raise InputError(self.request.problems)

    def _field(self, key: str, fixed: Volume | None) -> FieldStep:
        """Return a map as one field: on its own grid if it is one, else on the grid of the fixed image."""
        from mmtk.transforms import Transform

        steps = self.request.steps[key]
        fields = [step for step in steps if isinstance(step, FieldStep)]
        if len(steps) == 1 and fields:
            return fields[0]
        grid: Any = fixed or (Placed(fields[0].vectors.shape[1:], fields[0].affine) if fields else None)
        if grid is None:
            raise InputError(
                f"{key}={self.said[key]}: holds no field; give fixed=FILE, on whose grid it is measured"
            )
        return Transform(steps).as_field(grid)

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
        self.notes.append("The deformation is that of the whole field: an affine that it holds is not left out.")
        report: dict[str, Any] = {"deformation": deformation(u, determinant, grid)}
        if "inverse" in self.said:
            report["deformation"] |= self._there_and_back(found)
        if lesion is not None and fixed is not None:
            if same_grid(Placed(shape, found.affine), fixed):
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

        back = Transform(tuple(self.request.steps["inverse"]))
        shape = found.vectors.shape[1:]
        every = max(1, int((math.prod(shape) / TRIALS) ** (1 / len(shape))))
        voxels = np.stack(np.meshgrid(*(np.arange(0, n, every) for n in shape), indexing="ij"), -1)
        dim = len(shape)
        voxels = voxels.reshape(-1, dim)
        start = voxels @ found.affine[:dim, :dim].T + found.affine[:dim, 3]
        there = start + found.vectors[(slice(None), *voxels.T)].T
        # Beyond its grid a field is 0 and tells nothing of the way back.
        affines = list(itertools.takewhile(lambda step: not isinstance(step, FieldStep), back.steps))
        stays = np.ones(len(there), bool)
        if len(affines) < len(back.steps):
            field = back.steps[len(affines)]
            assert isinstance(field, FieldStep)
            reached = replace(back, steps=tuple(affines)).points(there)
            stays = within(voxels_of(reached, field.affine), field.vectors.shape[1:])
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
            return Truth.read(place if place.is_dir() else place.parent)
        return self._field("truth", fixed)

    def _against(
        self, truth: Any, found: FieldStep, fixed: Volume | None, lesion: Volume | None
    ) -> dict[str, float]:
        from mmtk.metrics import edge_error, truth_errors
        from mmtk.metrics.truth import ring
        from mmtk.samples.truth import Truth
        from mmtk.transforms import Transform

        shape = found.vectors.shape[1:]
        grid = Placed(shape, found.affine)
        inside, seen = np.zeros(shape, bool), np.ones(shape, bool)
        known = truth
        if isinstance(truth, Truth):
            known = FieldStep(to_world(truth.displacement, truth.affine), truth.affine)
            if _of_grid(truth, grid):
                inside, seen = truth.fixed_mask, truth.foreground
        on_fixed = fixed is not None and same_grid(grid, fixed)
        if fixed is not None and on_fixed:
            if not isinstance(truth, Truth):
                seen = fixed.data > 0.1 * fixed.data.max()
                inside = inside if lesion is None else lesion.data >= 0.5
        elif not isinstance(truth, Truth):
            self.notes.append("Without fixed= on the grid of the displacement, errors count its background, too.")
        same = same_grid(Placed(known.vectors.shape[1:], known.affine), grid)
        expected = known.vectors if same else Transform((known,)).displacement_on(grid)
        if not same:
            self.notes.append("The true displacement lies on another grid; it was interpolated linearly.")
        spacing = spacing_of(found.affine, len(shape))
        off = to_voxels(found.vectors - expected, found.affine) * np.reshape(spacing, (-1, *[1] * len(shape)))
        report = truth_errors(off, inside, seen, spacing, near=self.request.numbers["near"])
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
        found = surface_distances(a, b, fixed.spacing, tolerance=self.request.numbers["tolerance"])
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
        from mmtk.transforms.apply import carry_points, flat

        moving, fixed = paired(self.request.points["landmarks"], self.request.points["fixed_landmarks"])
        found = moving
        places = [part for part in str(self.said.get("transform", self.said.get("run", ""))).split(",") if part]
        if places:
            transform = load_transform(places[0], *places[1:])
            found, notes = carry_points(moving, transform, to=fixed.space)
            self.notes += [*transform.notes, *notes]
            if found.dim < fixed.dim:  # a table may give the points of a plane their z, which is 0
                moving, fixed = flat(moving), flat(fixed)
        elif moving.space != fixed.space:
            self.notes.append("No transform= was given: the landmarks are taken to be carried already.")
        errors = landmark_errors(*(torch.from_numpy(p.places) for p in (found, fixed, moving)))
        report = {"landmark_error_median_mm": errors.median, "landmark_error_mean_mm": errors.mean}
        report |= {"landmark_error_max_mm": errors.max, "landmarks": len(moving)}
        report |= {f"landmark_error_{axis}_mm": mean for axis, mean in zip("xyz", errors.axes, strict=False)}
        if places:
            before = landmark_errors(*(torch.from_numpy(p.places) for p in (moving, fixed, moving)))
            report |= {f"landmark_error_{n}_mm_before": getattr(before, n) for n in ("median", "mean", "max")}
            report["robustness"] = errors.robustness
        return report


def _of_grid(truth: Any, grid: Any) -> bool:
    return same_grid(Placed(truth.displacement.shape[1:], truth.affine), grid)


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
