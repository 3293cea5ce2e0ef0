"""Runs as the two registration challenges want them: the files, their names, and what an evaluator would trip over.

Learn2Reg    disp_FFFF_MMMM.nii.gz for each pair, with the four digits of the case in the images' names
             (``OASIS_0438_0000.nii.gz``: case 0438, modality 0000); all on one grid
BraTS-Reg    ID_df_f2b.nii.gz, ID_df_b2f.nii.gz, ID_detj.nii.gz, ID_MODALITY_f2b.nii.gz, ID.csv. The baseline
             (``_00_``) is fixed, the follow-up (``_01_``) moving
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mmtk.errors import InputError
from mmtk.io.brats_reg import SCAN
from mmtk.io.files import replacing
from mmtk.io.formats import fields, learn2reg
from mmtk.io.formats.request import Request
from mmtk.io.formats.runs import FORWARD, INVERSE, RunFolder, free_to_write
from mmtk.io.transforms import transform_points
from mmtk.io.volume import Header

__all__ = ["write_brats_reg", "write_learn2reg_submission"]

_CASE = re.compile(r"_(\d{4})_(\d{4})\.nii(\.gz)?$")


def write_learn2reg_submission(
    runs: Sequence[RunFolder], out: Path, *, shape: Sequence[int] | None = None, overwrite: bool = False
) -> list[Path]:
    """Write one displacement a run into a folder and return the files.

    Where two pairs would get one name, as pairs of modalities of one case do, all get the long form
    ``disp_FFFF_mmmm_MMMM_mmmm.nii.gz``.

    Args:
        runs: The pairs.
        out: Folder; ``zip -r submission.zip .`` in it is what is uploaded.
        shape: What the task demands, if it is known.
        overwrite: Whether files may be replaced.

    Raises:
        InputError: If an image has no case in its name, or the grids are not all one; nothing is written.
    """
    problems: list[str] = []
    pairs, cases = [], []
    for run in runs:
        try:
            images = run.image("fixed"), run.image("moving")
            cases.append((*_case(images[0]), *_case(images[1])))
            pairs.append((run, *images))
        except InputError as error:
            problems += error.problems
    demanded = tuple(shape) if shape is not None else tuple(pairs[0][1].shape) if pairs else ()
    for run, fixed, moving in pairs:
        problems += [
            f"'{run.path}': its {image.name} image has {tuple(image.shape)} voxels, but all images of a task have "
            f"one shape, here {demanded}; register the images as the challenge gives them"
            for image in (fixed, moving)
            if tuple(image.shape) != demanded
        ]
    long = len({case[::2] for case in cases}) < len(cases)
    names = ["disp_" + "_".join(case if long else case[::2]) + ".nii.gz" for case in cases]
    problems += [f"{name}: two runs are of this pair; leave one out" for name in sorted(_twice(names))]
    if problems:
        raise InputError(problems)
    free_to_write([out / name for name in names], overwrite)
    for name, (run, fixed, moving) in zip(names, pairs, strict=True):
        request = Request(out / name, "learn2reg", fixed, moving)
        learn2reg.write_learn2reg(request, run.steps())
    return [out / name for name in names]


def _case(image: Header) -> tuple[str, str]:
    assert image.path is not None
    found = _CASE.search(image.path.name)
    if found is None:
        raise InputError(
            f"{image.name}: '{image.path.name}' does not end in _FFFF_MMMM.nii.gz, so that the case is not known; "
            f"use the file names of the challenge, or write a single file named disp_FFFF_MMMM.nii.gz"
        )
    return found[1], found[2]


def _twice(names: Sequence[str]) -> set[str]:
    return {name for name in names if names.count(name) > 1}


def write_brats_reg(
    run: RunFolder, out: Path, *, landmarks: Path | None = None, overwrite: bool = False
) -> list[Path]:
    """Write the files of one subject and return them.

    The fields are ITK's, and each maps the points of the grid that it lies on: ``f2b`` on the baseline, by which the
    follow-up is resampled, ``b2f`` on the follow-up. The registered scan is the shape alone: no intensity is changed.

    Args:
        run: With the baseline as fixed and the follow-up as moving image.
        out: Folder.
        landmarks: Of the follow-up, as the challenge has them; None takes those beside the follow-up, if there are any.
        overwrite: Whether files may be replaced.

    Raises:
        InputError: If the images are not those of one subject, or exchanged; nothing is written.
    """
    fixed, moving = run.image("fixed"), run.image("moving")
    (subject, time, _), (other, later, modality) = _scan(fixed), _scan(moving)
    if subject != other:
        raise InputError(
            f"'{run.path}': the fixed image is of {subject}, but the moving one of {other}; register one"
        )
    if (time, later) != ("00", "01"):
        raise InputError(
            f"'{run.path}': BraTS-Reg carries the follow-up (_01_) onto the baseline (_00_), but here the moving image "
            f"is _{later}_ and the fixed one _{time}_; register them the other way round"
        )
    landmarks = landmarks or _beside(moving, subject)
    forward, inverse = run.steps(FORWARD), run.steps(INVERSE)
    jobs: dict[str, Callable[[Path], object]] = {
        f"{subject}_df_f2b.nii.gz": lambda path: fields.write_itk_field(
            Request(path, "itk-field", fixed), forward
        ),
        f"{subject}_df_b2f.nii.gz": lambda path: fields.write_itk_field(
            Request(path, "itk-field", moving), inverse
        ),
        f"{subject}_detj.nii.gz": lambda path: copy(run.file("jacobian.nii.gz"), path),
        f"{subject}_{modality}_f2b.nii.gz": lambda path: copy(run.file("deformed.nii.gz"), path),
    }
    if landmarks is not None:
        carried = _carried(landmarks, inverse)
        jobs[f"{subject}.csv"] = carried
    free_to_write([out / name for name in jobs], overwrite)
    for name, job in jobs.items():
        job(out / name)
    return [out / name for name in jobs]


def _scan(image: Header) -> tuple[str, str, str]:
    assert image.path is not None
    found = SCAN.search(image.path.name)
    if found is None:
        raise InputError(
            f"{image.name}: '{image.path.name}' is not named as BraTS-Reg names its scans "
            f"(BraTSReg_001_00_0000_t1ce.nii.gz), so that subject and time are not known; use these names"
        )
    return found["id"], found["time"], found["modality"]


def _beside(moving: Header, subject: str) -> Path | None:
    assert moving.path is not None
    return next(iter(sorted(moving.path.parent.glob(f"{subject}_01_*_landmarks.csv"))), None)


def _carried(landmarks: Path, inverse: object) -> Callable[[Path], object]:
    """Return the job that writes the landmarks, carried from the follow-up to the baseline."""
    from mmtk.io.points import read_points, write_points

    points = read_points(landmarks, space="moving", name="landmarks")
    if points.style != "brats-reg":
        raise InputError(
            f"landmarks: '{landmarks}' has not the columns Landmark,X,Y,Z; give a file of the challenge"
        )
    places = transform_points(inverse, np.asarray(points.places))  # type: ignore[arg-type]
    return lambda path: write_points(path, points.moved(places, "fixed"))


def copy(source: Path, target: Path) -> None:
    """Copy a file; the copy appears whole or not at all."""
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)
