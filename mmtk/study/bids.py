"""Cases of a BIDS data set: a session onto another, or every scan onto a template.

    sub-01/ses-pre/anat/sub-01_ses-pre_T1w.nii.gz                            an image
    derivatives/*/sub-01/ses-pre/anat/sub-01_ses-pre_label-lesion_mask.nii.gz  its lesion (or desc-lesion, or _roi)
    derivatives/*/sub-01/ses-pre/anat/sub-01_ses-pre_dseg.nii.gz               its labels

Lesions and labels may lie beside the image, too; they are those of the image's own space. Two sessions a subject and
nothing said: the first is carried onto the second.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from mmtk.config import nearest
from mmtk.errors import ConfigError
from mmtk.study.cases import Case

__all__ = ["BidsConfig", "from_bids", "is_bids"]

NIFTI = (".nii.gz", ".nii")

#: Entities of a derivative that say what it is, and not which image it belongs to.
OWN = {"label", "desc", "space", "seg", "atlas"}


class BidsConfig(BaseModel):
    """Which images of a data set are registered onto which."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bids: Path = Field(description="folder of the data set")
    suffix: str = Field(default="T1w", description="kind of the images, as their names end")
    moving: str = Field(default="", description="entities of the moving images, such as ses-pre or ses-pre_run-1")
    fixed: str = Field(
        default="", description="entities of the fixed images, or the file of a template; empty: the other session"
    )
    fixed_labels: Path | None = Field(default=None, description="label map of the template")
    subjects: tuple[str, ...] = Field(default=(), description="only these, without sub-; empty: all")

    @field_validator("subjects", mode="before")
    @classmethod
    def _one_or_several(cls, raw: Any) -> Any:
        several = raw.split(",") if isinstance(raw, str) else [raw] if isinstance(raw, int) else raw
        return [str(one).removeprefix("sub-") for one in several]

    @property
    def template(self) -> Path | None:
        """The fixed image, where it is one for all."""
        return Path(self.fixed) if self.fixed.endswith(NIFTI) else None

    def placed(self, home: Path) -> BidsConfig:
        """Return the same with paths from ``home`` on."""
        changes: dict[str, Any] = {"bids": (home / self.bids.expanduser()).resolve()}
        if self.template is not None:
            changes["fixed"] = str((home / self.template.expanduser()).resolve())
        if self.fixed_labels is not None:
            changes["fixed_labels"] = (home / self.fixed_labels.expanduser()).resolve()
        return self.model_copy(update=changes)


@dataclass(frozen=True)
class _File:
    path: Path
    entities: Mapping[str, str]
    suffix: str

    def has(self, wanted: Mapping[str, str]) -> bool:
        return all(self.entities.get(key) == value for key, value in wanted.items())


def is_bids(folder: Path) -> bool:
    """Whether a folder is a BIDS data set: says so, or has the folders of one."""
    return (folder / "dataset_description.json").is_file() or any(
        place.is_dir() for pattern in ("sub-*/anat", "sub-*/ses-*/anat") for place in folder.glob(pattern)
    )


def from_bids(config: BidsConfig) -> list[Case]:
    """Return the cases, by subject.

    Raises:
        ConfigError: With a sentence for each subject that leaves open what is registered onto what.
    """
    root = config.bids
    if not root.is_dir():
        raise ConfigError(f"bids={root}: no such folder; give that of the data set")
    files = _files(root)
    images = [
        f for f in files if f.suffix == config.suffix and "derivatives" not in f.path.relative_to(root).parts
    ]
    if not images:
        known = sorted({f.suffix for f in files if f.path.parent.name == "anat"})
        raise ConfigError(
            f"bids={root}: holds no sub-*/anat/*_{config.suffix}.nii.gz"
            f"{nearest(config.suffix, known) or '; there are ' + (', '.join(known) or 'no images')}"
        )
    subjects = sorted({image.entities["sub"] for image in images})
    problems = [
        f"subjects={wanted}: '{root}' holds no such subject{nearest(wanted, subjects)}"
        for wanted in config.subjects
        if wanted not in subjects
    ]
    template = config.template
    if template is not None and not template.is_file():
        problems.append(f"fixed={template}: no such file; name the image of the template")
    if config.fixed_labels is not None and not config.fixed_labels.is_file():
        problems.append(f"fixed_labels={config.fixed_labels}: no such file; name the template's label map")
    moving = _wanted(config.moving, "moving", problems)
    fixed = {} if template is not None else _wanted(config.fixed, "fixed", problems)
    cases: list[Case] = []
    for subject in config.subjects or subjects:
        own = [image for image in images if image.entities["sub"] == subject]
        if template is not None:
            cases += [_case(image, None, config, files) for image in own if image.has(moving)]
            continue
        try:
            cases.append(_case(*_pair(subject, own, moving, fixed), config, files))
        except ConfigError as error:
            problems += error.problems
    if not cases and not problems:
        problems.append(f"moving={config.moving}: no image of '{root}' has these entities")
    if problems:
        raise ConfigError(problems)
    return cases


def _pair(
    subject: str, own: Sequence[_File], moving: Mapping[str, str], fixed: Mapping[str, str]
) -> tuple[_File, _File]:
    there = ", ".join(image.path.name for image in own)
    if not moving and not fixed:
        if len(own) == 2 and own[0].entities.get("ses") != own[1].entities.get("ses"):
            return own[0], own[1]
        raise ConfigError(
            f"sub-{subject}: has {there}; say which is registered onto which, by moving: ses-LABEL and fixed: "
            "ses-LABEL, or fixed: TEMPLATE.nii.gz"
        )
    chosen = []
    for key, wanted in (("moving", moving), ("fixed", fixed)):
        found = [image for image in own if image.has(wanted)] if wanted else [i for i in own if i not in chosen]
        if len(found) != 1:
            told = f"{len(found)} images" if found else "no image"
            raise ConfigError(f"sub-{subject}: {told} of {there} can be the {key} one; give {key}: more entities")
        chosen += found
    return chosen[0], chosen[1]


def _case(image: _File, onto: _File | None, config: BidsConfig, files: Sequence[_File]) -> Case:
    labels = _companion(image, files, _is_labels)
    target = config.template if onto is None else onto.path
    theirs = config.fixed_labels if onto is None else _companion(onto, files, _is_labels)
    assert target is not None
    both = labels is not None and theirs is not None
    name = f"sub-{image.entities['sub']}"
    if onto is None:
        name = _stem(image.path).rpartition("_")[0]
    return Case(
        name,
        moving=image.path,
        fixed=target,
        mask=_companion(image, files, _is_lesion),
        fixed_mask=None if onto is None else _companion(onto, files, _is_lesion),
        labels=labels if both else None,
        fixed_labels=theirs if both else None,
    )


def _is_lesion(file: _File) -> bool:
    said = {file.entities.get("label", "").lower(), file.entities.get("desc", "").lower()}
    return file.suffix in ("mask", "roi") and bool(said & {"lesion", "tumor", "tumour"})


def _is_labels(file: _File) -> bool:
    return file.suffix == "dseg"


def _companion(image: _File, files: Sequence[_File], fits: Any) -> Path | None:
    """Return what belongs to an image: the same subject and session, no other entity at odds, the image's own space.

    Raises:
        ConfigError: There are several.
    """
    found = [
        file.path
        for file in files
        if fits(file)
        and file.entities.get("ses") == image.entities.get("ses")
        and file.entities["sub"] == image.entities["sub"]
        and file.entities.get("space", "orig") in ("orig", image.suffix)
        and all(image.entities.get(key) == value for key, value in file.entities.items() if key not in OWN)
    ]
    if len(found) > 1:
        told = " and ".join(f"'{path}'" for path in found)
        raise ConfigError(f"{image.path.name}: {told} both belong to it; keep one of them")
    return found[0] if found else None


def _wanted(text: str, key: str, problems: list[str]) -> dict[str, str]:
    """Read ``ses-pre_run-1``."""
    found = dict(re.findall(r"(?:^|_)([a-z]+)-([A-Za-z0-9]+)", text))
    if text and "_".join(f"{entity}-{value}" for entity, value in found.items()) != text:
        what = "entities such as ses-pre" + (", or a NIfTI file" if key == "fixed" else "")
        problems.append(f"{key}={text}: must be {what}")
    return found


def _files(root: Path) -> list[_File]:
    """Every NIfTI file of a subject, of the data set and of its derivatives."""
    patterns = [
        f"{above}sub-*/{session}{kind}/*.nii*"
        for above in ("", "derivatives/*/")
        for session in ("", "ses-*/")
        for kind in ("anat", "dwi")
    ]
    found = []
    for path in sorted({path for pattern in patterns for path in root.glob(pattern)}):
        stem = _stem(path)
        entities = dict(re.findall(r"(?:^|_)([a-zA-Z]+)-([A-Za-z0-9+]+)", stem))
        if "sub" in entities:
            found.append(_File(path, entities, stem.rpartition("_")[2]))
    return found


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii")
