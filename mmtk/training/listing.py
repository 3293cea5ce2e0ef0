"""Which files are to be trained on: a folder of pairs, a table of them, or many images and one template.

    folder/     NAME/moving.nii.gz, NAME/fixed.nii.gz, NAME/mask.nii.gz: one folder a pair, as `mmtk sample` leaves them;
                also NAME/labels_moving.nii.gz and NAME/labels_fixed.nii.gz
    pairs.csv   columns moving, fixed, mask, labels, fixed_labels (all but moving may be missing or empty); paths from
                the table's folder

Reading this file loads neither torch nor numpy.
"""

from __future__ import annotations

import csv
from dataclasses import astuple, dataclass
from pathlib import Path

from mmtk.errors import ConfigError

__all__ = ["PairFiles", "list_pairs"]


@dataclass(frozen=True)
class PairFiles:
    """The files of one pair; label maps serve to score alone, and come both or not at all."""

    moving: Path
    fixed: Path
    mask: Path | None = None
    labels: Path | None = None
    fixed_labels: Path | None = None


#: Columns of a table, and the files of a pair's folder that stand for them.
_COLUMNS = {
    "moving": "moving",
    "fixed": "fixed",
    "mask": "mask",
    "labels": "labels_moving",
    "fixed_labels": "labels_fixed",
}


def list_pairs(data: Path, template: Path | None = None) -> list[PairFiles]:
    """Return the pairs that a folder or a table names, in a fixed order.

    Args:
        data: Folder or ``.csv``.
        template: The fixed image of every pair that names none.

    Raises:
        ConfigError: One sentence for each thing that is wrong: files that are missing, columns, no pair at all.
    """
    if data.is_dir():
        rows = _folder_rows(data)
    elif data.is_file() and data.suffix.lower() == ".csv":
        rows = _table_rows(data)
    else:
        raise ConfigError(
            f"data={data}: neither a sample (c_shapes, brains, tumor_brain), a folder of pairs, nor a .csv with the "
            f"columns moving, fixed, mask"
        )
    problems, pairs = [], []
    for name, row in rows:
        fixed = row.get("fixed") or template
        if row.get("moving") is None or fixed is None:
            missing = "moving" if row.get("moving") is None else "fixed image; give one, or template=FILE"
            problems.append(f"data={data}: {name} has no {missing}")
            continue
        files = PairFiles(row["moving"], fixed, row.get("mask"), row.get("labels"), row.get("fixed_labels"))
        problems += [
            f"data={data}: {name}: no such file '{path}'"
            for path in astuple(files)
            if path is not None and not path.is_file()
        ]
        if (files.labels is None) != (files.fixed_labels is None):
            problems.append(f"data={data}: {name}: one label map scores nothing; give both images' or neither's")
        pairs.append(files)
    if not pairs and not problems:
        problems.append(
            f"data={data}: holds no pair; each is a folder with moving.nii.gz, fixed.nii.gz, mask.nii.gz"
        )
    if problems:
        raise ConfigError(problems)
    return pairs


def _folder_rows(data: Path) -> list[tuple[str, dict[str, Path]]]:
    def found(folder: Path) -> dict[str, Path]:
        named = {
            name: [p for p in sorted(folder.glob(f"{file}.*")) if p.name.endswith((".nii", ".nii.gz", ".png"))]
            for name, file in _COLUMNS.items()
        }
        return {name: paths[0] for name, paths in named.items() if paths}

    folders = sorted(path for path in data.iterdir() if path.is_dir() and found(path))
    return [(folder.name, found(folder)) for folder in folders]


def _table_rows(data: Path) -> list[tuple[str, dict[str, Path]]]:
    with data.open(newline="", encoding="utf-8-sig") as file:
        table = csv.DictReader(file)
        unknown = sorted(set(table.fieldnames or ()) - set(_COLUMNS))
        if unknown or "moving" not in (table.fieldnames or ()):
            raise ConfigError(
                f"data={data}: the columns are {', '.join(table.fieldnames or ()) or 'missing'}; they must be moving, "
                f"and fixed, mask, labels and fixed_labels if there are any"
            )
        return [
            (f"row {number}", {key: data.parent / Path(value).expanduser() for key, value in row.items() if value})
            for number, row in enumerate(table, start=1)
        ]
