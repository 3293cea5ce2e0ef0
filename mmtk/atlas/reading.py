"""What an atlas reads of the folder of a cohort: its table, its records, its one template, and lesions."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmtk.atlas.settings import AtlasConfig
from mmtk.cohort.records import CaseRecord, read_case
from mmtk.errors import ConfigError
from mmtk.io import Volume, read_image

__all__ = ["digest", "lesion_of", "records_of", "refuse_others", "regions_of", "rows_of", "template_of"]

#: The lesion where its mask, carried along, is above this.
LESION_FROM = 0.5


def rows_of(home: Path) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Return the rows of a cohort's table by case, and its columns."""
    table = home / "cohort.csv"
    if not (home / "cohort.json").is_file() or not table.is_file():
        raise ConfigError(f"'{home}' is no folder that `mmtk cohort run` has left; run the cohort first")
    with open(table, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = {row["case"]: row for row in reader}
    files = ("case", "moving", "fixed", "mask", "fixed_mask", "labels", "fixed_labels")
    return rows, [name for name in reader.fieldnames or () if name not in files]


def records_of(home: Path, rows: Mapping[str, Any]) -> tuple[dict[str, CaseRecord], dict[str, str]]:
    """Return the cases that can be added, and why the others cannot."""
    records, left_out = {}, {}
    for name in rows:
        record = read_case(home / "cases" / f"{name}.json")
        if record is None or record.status == "begun":
            left_out[name] = "has not been run"
        elif record.failed:
            left_out[name] = f"failed: {record.message}"
        elif not (home / "cases" / name / "warped_mask.nii.gz").is_file():
            left_out[name] = "has no lesion mask"
        else:
            records[name] = record
    if not records:
        first = next((f", such as {name}, which {why}" for name, why in left_out.items()), "")
        raise ConfigError(f"'{home}' has no case with a lesion in the template's space{first}")
    return records, left_out


def template_of(records: Mapping[str, CaseRecord]) -> Volume:
    marks = {name: record.files["fixed"] for name, record in records.items()}
    first, one = next(iter(marks.items()))
    for name, other in marks.items():
        if other.sha256 != one.sha256:
            raise ConfigError(
                f"case {name} was registered onto '{other.path}' but {first} onto '{one.path}'; an atlas needs one "
                f"template, so run the cohort with template=FILE"
            )
    return read_image(one.path, name="template")


def regions_of(path: Path, template: Volume) -> np.ndarray:
    from mmtk.io.space import voxel_to_voxel

    labels = read_image(path, name="regions")
    here = np.eye(4)
    if labels.shape != template.shape or not np.allclose(voxel_to_voxel(template, labels), here, atol=1e-3):
        raise ConfigError(
            f"regions={path}: lies on another grid than the template ({'x'.join(map(str, labels.shape))} voxels "
            f"against {'x'.join(map(str, template.shape))}); resample it onto the template with nearest neighbor first"
        )
    whole = np.rint(labels.data).astype(np.int64)
    if np.abs(whole - labels.data).max() > 1e-3 or whole.min() < 0:
        raise ConfigError(f"regions={path}: must hold whole numbers, 0 for what is no region")
    return whole


def digest(record: CaseRecord) -> str:
    """Say on what a case's lesion in the template's space depends."""
    return "-".join([record.key[:16], *(mark.sha256[:16] for _, mark in sorted(record.files.items()))])


def refuse_others(cases: Mapping[str, str], digests: Mapping[str, str]) -> None:
    """Refuse to go on with sums of cases that have gone or were run anew.

    Args:
        cases: Digest by name, of those that are in the sums.
        digests: The same of the cohort as it is now.
    """
    problems = []
    for name, digest in cases.items():
        if name not in digests:
            problems.append(f"case {name} is in the atlas but no longer in the cohort; add --rebuild")
        elif digests[name] != digest:
            problems.append(f"case {name} was run anew since it was added to the atlas; add --rebuild")
    if problems:
        raise ConfigError(problems)


def lesion_of(
    folder: Path, record: CaseRecord, template: Volume, config: AtlasConfig
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return where the lesion of a case is, and its tissues, on the template's grid."""
    from mmtk.io.images import load

    mask = load(folder / "warped_mask.nii.gz", name="mask")
    if mask.shape != template.shape:
        raise ConfigError(
            f"'{folder}': its mask does not lie on the template's grid; run the case anew with --retry"
        )
    lesion = mask.data > LESION_FROM
    if not config.tissues:
        return lesion, {}
    from mmtk.transforms import load_transform, resample

    if "mask" not in record.files:
        raise ConfigError(
            f"'{folder}': its mask was found and not given, so it has no tissues; leave tissues= out"
        )
    carried = resample(record.files["mask"].path, load_transform(folder), template, interpolation="nearest").data
    whole = np.rint(carried).reshape(template.shape)
    return lesion, {f"tissue_{label}": whole == label for label in config.tissues}
