"""Benchmarks that point at a folder of images: healthy brains, patients with tumors, hearts.

They know how the files of a data set are named, and bring no image along.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmtk.config import nearest
from mmtk.errors import ConfigError
from mmtk.io.brats_reg import BASELINE, FOLLOW_UP, find_patients, modalities_of, scans_of
from mmtk.study import published
from mmtk.study.benchmarks import APART, COST, Benchmark, Measure, made
from mmtk.study.cases import Case
from mmtk.study.files import ENDS, beside, drawn, existing, named, stems
from mmtk.study.synthetic import found_displacement

if TYPE_CHECKING:
    import numpy as np

    from mmtk.io import Volume

__all__ = ["Brains", "BratsReg", "BratsTemplate", "Cardiac"]


class Brains(Benchmark):
    """Brains with label maps: pairs of people, drawn by a seed; overlap and distance of the labels."""

    metrics = (
        "overlap.dice_mean",
        "overlap.hd95_mean_mm",
        "overlap.surface_distance_mean_mm",
        "overlap.surface_dice_mean",
        "deformation.folds",
        "deformation.sdlogj",
        "similarity.correlation_outside",
        *COST,
    )

    def __init__(self, folder: Path, image: str, labels: str, count: int, seed: int, strip: bool) -> None:
        self.folder, self.image, self.labels = folder, image, labels
        self.count, self.seed, self.strip = count, seed, strip
        self.notes = (
            f"brains: {count} ordered pairs of different people from '{folder.name}', drawn by seed {seed}"
            + ("; the images are cut to what is labeled." if strip else "."),
        )

    def check(self) -> None:
        self._pairs()

    def cases(self, folder: Path) -> Sequence[Case]:
        return [self._case(folder, *pair) for pair in self._pairs()]

    def _pairs(self) -> list[tuple[str, str]]:
        """Draw pairs of people: nobody with himself, no pair twice, as few people twice as can be."""
        people = stems(self.folder, self.image, self.labels)
        most = len(people) * (len(people) - 1)
        if self.count > most:
            raise ConfigError(
                f"count={self.count}: {len(people)} images with labels lie in '{self.folder}', which give {most} "
                f"pairs; ask for no more"
            )
        import random

        draw = random.Random(self.seed)
        pairs: list[tuple[str, str]] = []
        while len(pairs) < self.count:
            order = draw.sample(people, len(people))
            fresh = [(a, b) for a, b in zip(order[::2], order[1::2], strict=False) if (a, b) not in pairs]
            pairs += fresh[: self.count - len(pairs)]
        return pairs

    def _case(self, folder: Path, moving: str, fixed: str) -> Case:
        name = f"{moving}-{fixed}"
        files = {
            f"{what}{side}": named(self.folder, f"{who}{end}")
            for side, who in (("moving", moving), ("fixed", fixed))
            for what, end in (("", self.image), ("labels_", self.labels))
        }
        if not self.strip:
            moving_labels, fixed_labels = files["labels_moving"], files["labels_fixed"]
            return Case(name, files["moving"], files["fixed"], labels=moving_labels, fixed_labels=fixed_labels)

        def make(place: Path) -> None:
            import numpy as np

            from mmtk.io import read_image, write_image

            place.mkdir(parents=True)
            for side in ("moving", "fixed"):
                image, labels = (read_image(files[key]) for key in (side, f"labels_{side}"))
                if image.shape != labels.shape:
                    raise ConfigError(
                        f"'{files[side]}' and its labels are not of one shape; resample the labels onto the image, or "
                        "say strip: false"
                    )
                write_image(place / f"{side}.nii.gz", np.where(labels.data > 0, image.data, 0), image, "float32")
                write_image(place / f"labels_{side}.nii.gz", labels.data, labels, "int32")

        return made(folder / name, make)


class Cardiac(Benchmark):
    """Hearts from end-diastole to end-systole: overlap and distance of the left ventricle's cavity."""

    metrics = (
        "overlap.dice_mean",
        "overlap.hd95_mean_mm",
        "overlap.surface_distance_mean_mm",
        "similarity.squared_error_outside",
        "deformation.folds",
        "deformation.jacobian_min",
        "deformation.sdlogj",
        *COST,
    )
    published = published.CARDIAC

    def __init__(
        self, folder: Path, count: int | None, seed: int, direction: str, names: Sequence[str] = ()
    ) -> None:
        self.folder, self.count, self.seed, self.direction = folder, count, seed, direction
        self.names = tuple(names)
        told = "end-diastole onto end-systole" if direction == "ed_es" else "end-systole onto end-diastole"
        self.notes = (f"cardiac: {told}; the label is the cavity of the left ventricle.",)

    def check(self) -> None:
        self._chosen()

    def cases(self, folder: Path) -> Sequence[Case]:
        moving, fixed = self.direction.split("_")
        return [
            Case(
                name,
                named(self.folder, f"{name}_{moving}"),
                named(self.folder, f"{name}_{fixed}"),
                labels=named(self.folder, f"{name}_{moving}_lv"),
                fixed_labels=named(self.folder, f"{name}_{fixed}_lv"),
            )
            for name in self._chosen()
        ]

    def _chosen(self) -> list[str]:
        there = stems(self.folder, "_ed", "_es", "_ed_lv", "_es_lv")
        if missing := [name for name in self.names if name not in there]:
            raise ConfigError(f"names={','.join(missing)}: not in '{self.folder}', which holds {', '.join(there)}")
        return drawn(list(self.names) or there, self.count, self.seed, self.folder)


class BratsReg(Benchmark):
    """BraTS-Reg: the follow-up of a glioma patient onto the scan before treatment, landmarks by experts.

    The layout is the challenge's, see :mod:`mmtk.io.brats_reg`.
    """

    metrics = (
        "landmarks.landmark_error_median_mm",
        "landmarks.landmark_error_mean_mm",
        "landmarks.robustness",
        "landmarks.landmark_error_max_mm",
        "deformation.folds",
        "deformation.jacobian_min",
        "deformation.jacobian_max",
        "deformation.sdlogj",
        *APART,
        *COST,
    )
    published = published.BRATS_REG

    def __init__(self, folder: Path, modality: str, count: int | None, seed: int) -> None:
        self.folder, self.modality, self.count, self.seed = folder, modality, count, seed
        self.notes = (
            f"brats_reg: {modality}, the follow-up onto the scan before treatment; errors are of landmarks of the "
            "follow-up, carried onto that scan.",
        )

    def check(self) -> None:
        self._patients()

    def cases(self, folder: Path) -> Sequence[Case]:
        return [self._case(patient) for patient in self._patients()]

    def _patients(self) -> list[Path]:
        existing(self.folder)
        chosen = drawn(find_patients(self.folder), self.count, self.seed, self.folder)
        problems = []
        for patient in chosen:
            scans = scans_of(patient, self.modality)
            for time, when in ((BASELINE, "before treatment"), (FOLLOW_UP, "follow-up")):
                if time not in scans:
                    known = modalities_of(patient)
                    there = nearest(self.modality, known) or f"; there are {', '.join(known) or 'none'}"
                    problems.append(
                        f"'{patient}': no scan {patient.name}_{time}_*_{self.modality} ({when}){there}"
                    )
                elif not beside(scans[time], self.modality, "landmarks", (".csv",)):
                    problems.append(
                        f"'{patient}': no {patient.name}_{time}_*_landmarks.csv ({when}); cases without landmarks, "
                        "such as those for validation, cannot be scored"
                    )
        if problems:
            raise ConfigError(problems)
        return chosen

    def _case(self, patient: Path) -> Case:
        scans = scans_of(patient, self.modality)
        before, after = scans[BASELINE], scans[FOLLOW_UP]
        return Case(
            patient.name,
            moving=after,
            fixed=before,
            mask=beside(after, self.modality, "seg", ENDS),
            fixed_mask=beside(before, self.modality, "seg", ENDS),
            landmarks=beside(after, self.modality, "landmarks", (".csv",)),
            fixed_landmarks=beside(before, self.modality, "landmarks", (".csv",)),
            channels={
                name: (found[FOLLOW_UP], found[BASELINE])
                for name in modalities_of(patient)
                if name != self.modality and len(found := scans_of(patient, name)) == 2
            },
        )


class BratsTemplate(Benchmark):
    """Patients with a tumor onto a healthy template: table 5.3 of Maillard's thesis.

    Every ``NAME_MODALITY.nii.gz`` in the folder, or in folders in it, with ``NAME_seg.nii.gz`` beside it is a patient;
    ``NAME_ventricles.nii.gz`` is scored where it and the template's are there. Squared errors are told on one scale of
    intensities for all methods: the patient's histogram is matched to the template's, lesion left out.
    """

    metrics = (
        "overlap.dice_mean",
        "brats_template.l2",
        "brats_template.l2_without_tumor",
        "deformation.folds",
        "overlap.hd95_mean_mm",
        "deformation.sdlogj",
        *APART,
        *COST,
    )
    measures = {
        "l2": Measure("L2", "sum over voxels of (total image − template)², template in [0, 1]"),
        "l2_without_tumor": Measure("L2 without the tumor", "the same where the carried mask is 0"),
    }
    published = published.BRATS_TEMPLATE

    def __init__(
        self,
        folder: Path,
        template: Path,
        template_ventricles: Path | None,
        modality: str,
        count: int | None,
        seed: int,
    ) -> None:
        self.folder, self.template, self.ventricles = folder, template, template_ventricles
        self.modality, self.count, self.seed = modality, count, seed
        self.notes = (f"brats_template: {modality} of each patient onto '{template.name}'.",)

    def check(self) -> None:
        problems = [
            f"{key}={path}: no such file; name the image of the template"
            for key, path in (("template", self.template), ("template_ventricles", self.ventricles))
            if path is not None and not path.is_file()
        ]
        try:
            self._patients()
        except ConfigError as error:
            problems += error.problems
        if problems:
            raise ConfigError(problems)

    def cases(self, folder: Path) -> Sequence[Case]:
        return [self._case(path) for path in self._patients()]

    def _patients(self) -> list[Path]:
        """Return the image of each patient."""
        existing(self.folder)
        ends = tuple(f"_{self.modality}{end}" for end in ENDS)
        found = [
            path
            for path in sorted([*self.folder.glob("*.nii*"), *self.folder.glob("*/*.nii*")])
            if path.name.endswith(ends) and beside(path, self.modality, "seg", ENDS)
        ]
        if not found:
            raise ConfigError(
                f"folder={self.folder}: holds no NAME_{self.modality}.nii.gz with NAME_seg.nii.gz beside it, nor do the "
                "folders in it; give the folder of the patients, and modality= as their files say it"
            )
        return drawn(found, self.count, self.seed, self.folder)

    def _case(self, path: Path) -> Case:
        theirs = beside(path, self.modality, "ventricles", ENDS)
        both = theirs is not None and self.ventricles is not None
        return Case(
            path.name.partition(f"_{self.modality}.")[0],
            moving=path,
            fixed=self.template,
            mask=beside(path, self.modality, "seg", ENDS),
            labels=theirs if both else None,
            fixed_labels=self.ventricles if both else None,
        )

    def measure(self, case: Case, run: Path) -> Mapping[str, float]:
        import numpy as np

        from mmtk.intensity import pair_normalizers
        from mmtk.io import read_image, read_mask
        from mmtk.prepare import tensor

        moving, fixed = (read_image(path) for path in (case.moving, case.fixed))
        mask = None if case.mask is None else read_mask(case.mask, like=moving)
        ours, theirs = pair_normalizers(
            moving.data, fixed.data, None if mask is None else mask.data, None, how="histogram"
        )
        target, warped = (
            scale.apply(tensor(image))[0, 0].numpy().astype(np.float64)
            for scale, image in ((theirs, fixed), (ours, read_image(run / "warped.nii.gz")))
        )
        squares = (warped - target) ** 2
        found = {"l2": float(squares.sum()), "l2_without_tumor": math.nan}
        if mask is not None:
            found["l2_without_tumor"] = float(squares[carried(mask, fixed, run) <= 0].sum())
        return found


def carried(mask: Volume, fixed: Volume, run: Path) -> np.ndarray:
    """Return a mask of the moving image where a run has led it, on the fixed grid, interpolated linearly.

    That of the run's own folder is not there where its method was not given the mask.
    """
    import numpy as np
    from scipy.ndimage import map_coordinates

    from mmtk.io import voxel_to_voxel

    u = found_displacement(run, fixed.shape)
    matrix = voxel_to_voxel(fixed, mask)
    where = (np.indices(u.shape[1:]) + u).reshape(fixed.dim, -1)
    there = matrix[: fixed.dim, : fixed.dim] @ where + matrix[: fixed.dim, 3:]
    found: np.ndarray = map_coordinates(mask.data, there, order=1).reshape(u.shape[1:])
    return found
