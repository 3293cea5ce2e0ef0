"""Results under the names of BIDS derivatives.

    OUT/dataset_description.json                             who made the data set
    OUT/sub-01.html                                          the report
    OUT/sub-01/anat/sub-01_space-MNI_desc-warped_T1w.nii.gz  images in the fixed space, with a sidecar each
                    sub-01_from-T1w_to-MNI_mode-image_xfm.h5 carries *images* from T1w to MNI, as fMRIPrep names it

``from`` and ``to`` tell which way images go. Points go the other way: the file above takes points of MNI to T1w, and
is what ITK wants for resampling. BIDS has no names yet for transforms, determinants and reports; ``.bidsignore`` lists
them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmtk.errors import InputError
from mmtk.io.files import replacing, write_json, write_text
from mmtk.io.formats.runs import RunFolder, free_to_write

__all__ = ["BidsNames", "names_for", "write_bids", "write_bids_beside"]

VERSION = "1.10.0"
SUFFIXES = {
    "t1w": "T1w", "t1": "T1w", "t1ce": "T1w", "t1c": "T1w", "t1n": "T1w", "t2w": "T2w", "t2": "T2w", "flair": "FLAIR",
    "t2f": "FLAIR", "t2star": "T2starw", "pdw": "PDw", "pd": "PDw", "inplanet2": "inplaneT2", "ct": "ct", "dwi": "dwi",
    "bold": "bold",
}  # fmt: skip
_IGNORED = "*.html\n*_xfm.*\n*_desc-mmtk_*.json\n*_desc-jacobian_*\n"

#: File of a run: its name here, after the subject, and what the sidecar says. None: no sidecar.
_FILES: dict[str, tuple[str, str | None]] = {
    "warped.nii.gz": ("space-{to}_desc-warped_{suffix}.nii.gz", "shape and appearance"),
    "deformed.nii.gz": ("space-{to}_desc-deformed_{suffix}.nii.gz", "shape only"),
    "appearance.nii.gz": ("space-{to}_desc-appearance_{suffix}.nii.gz", "intensity change: warped minus deformed"),
    "warped_mask.nii.gz": ("space-{to}_label-lesion_probseg.nii.gz", "the lesion mask, carried along"),
    "warped_labels.nii.gz": ("space-{to}_dseg.nii.gz", "the label map, carried along"),
    "jacobian.nii.gz": (
        "space-{to}_desc-jacobian_{suffix}.nii.gz",
        "determinant of the map from fixed to moving points in world mm, affine included",
    ),
    "displacement.nii.gz": (
        "from-{source}_to-{to}_mode-image_desc-displacement_xfm.nii.gz",
        "the whole map as one ITK displacement field (LPS, mm)",
    ),
    "transform.h5": (
        "from-{source}_to-{to}_mode-image_xfm.h5",
        "ITK composite: resamples images of the moving onto the fixed grid, takes points from fixed to moving",
    ),
    "inverse_transform.h5": (
        "from-{to}_to-{source}_mode-image_xfm.h5",
        "ITK composite: resamples images of the fixed onto the moving grid, takes points from moving to fixed",
    ),
    "metrics.json": ("desc-mmtk_metrics.json", None),
    "run.json": ("desc-mmtk_run.json", None),
}


@dataclass(frozen=True)
class BidsNames:
    """What the names of one run are made of.

    Attributes:
        subject, session: Labels; session may be empty.
        source, target: The two spaces: what comes after ``from-`` and ``to-``.
        suffix: Such as ``T1w``.
    """

    subject: str
    session: str
    source: str
    target: str
    suffix: str

    @property
    def stem(self) -> str:
        """``sub-01_ses-02``."""
        return f"sub-{self.subject}" + (f"_ses-{self.session}" if self.session else "")

    @property
    def folder(self) -> Path:
        """``sub-01/ses-02/anat``."""
        return Path(*self.stem.split("_"), "anat")

    def of(self, pattern: str) -> str:
        """Return a whole file name."""
        words = pattern.format(to=self.target, source=self.source, suffix=self.suffix)
        return f"{self.stem}_{words}"


def names_for(moving: Path, fixed: Path, given: Mapping[str, str] | None = None) -> BidsNames:
    """Return names made of the images' own: their BIDS entities where they have them, else their letters and digits.

    Args:
        moving, fixed: The image files; they need not exist.
        given: What a user says: ``subject``, ``session``, ``from``, ``to``, ``suffix``.

    Raises:
        InputError: If the suffix cannot be told, a label has other signs than letters and digits, or the two spaces
            have one name.
    """
    told = dict(given or {})
    ours, theirs = _entities(moving), _entities(fixed)
    suffix = told.get("suffix") or ours["suffix"]
    names = BidsNames(
        subject=told.get("subject") or ours.get("sub") or _label(moving),
        session=told.get("session") or ours.get("ses", ""),
        source=told.get("from") or ours.get("space") or suffix or "",
        target=told.get("to") or _target(theirs, ours) or _label(fixed),
        suffix=suffix,
    )
    problems = [
        f"{key}={label}: a label of BIDS has letters and digits only; choose another"
        for key, label in (("subject", names.subject), ("session", names.session), ("from", names.source),
                           ("to", names.target), ("suffix", names.suffix))
        if not label.isalnum() and label
    ]  # fmt: skip
    if not names.suffix:
        problems.append(
            f"'{moving.name}' does not tell what kind of image it is, which BIDS puts into every name; let the name "
            f"end in _T1w, _T2w, _FLAIR or so, or give suffix=T1w"
        )
    if names.source and names.source == names.target:
        problems.append(
            f"the moving and the fixed space are both called {names.target}; give from=LABEL and to=LABEL"
        )
    if problems:
        raise InputError(problems)
    return names


def _entities(path: Path) -> dict[str, str]:
    stem = _stem(path)
    found = {key: value for key, value in re.findall(r"(?:^|_)([a-z]+)-([A-Za-z0-9]+)", stem)}
    words = re.split(r"[^A-Za-z0-9]+", stem)
    found["suffix"] = next((SUFFIXES[word.lower()] for word in reversed(words) if word.lower() in SUFFIXES), "")
    return found


def _target(theirs: Mapping[str, str], ours: Mapping[str, str]) -> str:
    """Return the label of the fixed space: a template's, else what sets the image apart from the moving one."""
    if label := theirs.get("tpl") or theirs.get("space"):
        return label
    if "sub" not in theirs:
        return ""
    apart = [f"{key}{theirs[key]}" for key in ("sub", "ses") if key in theirs and theirs[key] != ours.get(key)]
    return "".join(apart) + theirs["suffix"]


def _label(path: Path) -> str:
    return re.sub(r"[^A-Za-z0-9]", "", _stem(path))


def _stem(path: Path) -> str:
    return re.sub(r"\.(nii|nii\.gz|mgz|mgh|png|jpe?g|tiff?)$", "", path.name, flags=re.I)


def write_bids(
    run: RunFolder,
    out: Path,
    *,
    given: Mapping[str, str] | None = None,
    overwrite: bool = False,
    link: bool = False,
) -> list[Path]:
    """Lay the results of a run into a derivative data set and return the files.

    The data set is made if it is not there; others of its subjects stay as they are.

    Args:
        run: The run.
        out: Folder of the data set.
        given: See :func:`names_for`.
        overwrite: Whether files of this subject may be replaced.
        link: Whether the files are the run's own under a second name, where the file system can do that.

    Raises:
        InputError: If names cannot be made, files are in the way, or the folder is a data set that mmtk did not make.
    """
    images = {name: _told_path(run, name) for name in ("moving", "fixed")}
    names = names_for(images["moving"], images["fixed"], given)
    description = out / "dataset_description.json"
    _check_owner(description)
    folder = out / names.folder
    jobs = {
        run.path / file: (folder / names.of(pattern), says)
        for file, (pattern, says) in _FILES.items()
        if (run.path / file).is_file()
    }
    if (page := run.path / "report.html").is_file():
        jobs[page] = (out / f"{names.stem}.html", None)
    free_to_write([target for target, _ in jobs.values()], overwrite)
    if not description.exists():
        write_json(description, _description())
        write_text(out / ".bidsignore", _IGNORED)
    written = [description]
    for source, (target, says) in jobs.items():
        _lay(source, target, link)
        written.append(target)
        if says is not None:
            sidecar = target.with_name(re.sub(r"\.(nii\.gz|h5)$", ".json", target.name))
            write_json(sidecar, _sidecar(says, images, target))
            written.append(sidecar)
    return written


def write_bids_beside(folder: Path) -> Path:
    """Give the results of a run BIDS names as well, in ``bids`` within its folder, and return that.

    They are the same files under a second name, where the file system can do that. What an earlier run left there
    goes.

    Raises:
        InputError: See :func:`write_bids`.
    """
    out = folder / "bids"
    _check_owner(out / "dataset_description.json")
    if (out / "dataset_description.json").exists():
        shutil.rmtree(out)
    write_bids(RunFolder.open(folder), out, overwrite=True, link=True)
    return out


def _told_path(run: RunFolder, name: str) -> Path:
    """Return the path of an image, for its name alone: it need not be there any more."""
    told = run.images.get(name) or run.record.get("inputs", {}).get(name, {}).get("path")
    if told is None:
        raise InputError(f"'{run.path}': its {name} image was not a file; add {name}=FILE, for the name")
    return Path(told)


def _check_owner(description: Path) -> None:
    if not description.exists():
        return
    try:
        makers = json.loads(description.read_text(encoding="utf-8")).get("GeneratedBy", [])
    except (ValueError, AttributeError):
        makers = []
    if not any(isinstance(maker, dict) and maker.get("Name") == "mmtk" for maker in makers):
        raise InputError(
            f"'{description.parent}' is a data set that mmtk did not make; results go into one of their own, for "
            f"instance '{description.parent / 'derivatives' / 'mmtk'}'"
        )


def _description() -> dict[str, Any]:
    import mmtk

    return {
        "Name": "mmtk: registration of images with lesions",
        "BIDSVersion": VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "mmtk", "Version": mmtk.__version__}],
    }


def _sidecar(says: str, images: Mapping[str, Path], target: Path) -> dict[str, Any]:
    told: dict[str, Any] = {"Description": says, "Sources": [str(images["moving"]), str(images["fixed"])]}
    if "_space-" in target.name:
        told["SpatialReference"] = str(images["fixed"])
    return told


def _lay(source: Path, target: Path, link: bool) -> None:
    with replacing(target) as temporary:
        if link:
            try:
                os.link(source, temporary)
                return
            except OSError:  # another file system, or one without links
                pass
        shutil.copyfile(source, temporary)
