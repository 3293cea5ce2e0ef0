"""The folder of a cohort as `mmtk cohort run` leaves it, as far as an atlas reads it: nothing is registered."""

import csv
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from mmtk.cohort.records import CaseRecord, mark, write_case
from mmtk.io import Volume, write_image, write_transform


def make_cohort(
    home: Path, template: np.ndarray, lesions: Mapping[str, np.ndarray], columns=None, masks=None
) -> Path:
    """Write a cohort whose maps are the identity.

    Args:
        lesions: By case, ``(*space)`` in [0, 1].
        columns: By case, the table's other columns.
        masks: By case, the masks as they were given, labels.
    """
    (home / "cases").mkdir(parents=True, exist_ok=True)
    grid = Volume(template, np.diag([2.0, 2.0, 2.0, 1.0]))
    fixed = home / "template.nii.gz"
    if not fixed.exists():
        write_image(fixed, template, grid)
    names = list(next(iter((columns or {}).values()), {}))
    with open(home / "cohort.csv", "w", newline="") as file:
        rows = csv.DictWriter(file, ["case", "moving", "mask", *names])
        rows.writeheader()
        rows.writerows({"case": name, "moving": "-", **(columns or {}).get(name, {})} for name in lesions)
    (home / "cohort.json").write_text(json.dumps({}))
    for name, lesion in lesions.items():
        folder = home / "cases" / name
        if folder.is_dir():
            continue
        folder.mkdir()
        write_image(folder / "warped_mask.nii.gz", lesion, grid)
        files = {"fixed": mark(fixed)}
        if masks is not None:
            write_image(home / f"{name}_mask.nii.gz", masks[name], grid, np.int16)
            files["mask"] = mark(home / f"{name}_mask.nii.gz")
            zero = np.zeros((template.ndim, *template.shape), dtype=np.float32)
            write_transform(folder / "transform.h5", zero, grid, np.eye(4))
        write_case(home / "cases" / f"{name}.json", CaseRecord(name, "done", "key", files=files))
    return home


def fail(home: Path, name: str, message: str) -> None:
    """Make a case one that failed."""
    write_case(home / "cases" / f"{name}.json", replace(CaseRecord(name, "failed", "key"), message=message))
