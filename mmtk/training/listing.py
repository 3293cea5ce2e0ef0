"""Which files are to be trained on: a folder of pairs, a table of them, or many images and one template.

    folder/     NAME/moving.nii.gz, NAME/fixed.nii.gz, NAME/mask.nii.gz: one folder a pair, as `mmtk sample` leaves them;
                also NAME/labels_moving.nii.gz and NAME/labels_fixed.nii.gz, and of further modalities
                NAME/moving_t1ce.nii.gz and NAME/fixed_t1ce.nii.gz (t1, t2, flair likewise)
    pairs.csv   columns moving, fixed, mask, labels, fixed_labels (all but moving may be missing or empty); paths from
                the table's folder; several modalities stand in one cell of moving and fixed each, with commas between

Reading this file loads neither torch nor numpy.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from mmtk.errors import ConfigError
from mmtk.modalities import KNOWN

__all__ = ["PairFiles", "list_pairs"]


@dataclass(frozen=True)
class PairFiles:
    """The files of one pair; label maps serve to score alone, and come both or not at all."""

    moving: Path
    fixed: Path
    mask: Path | None = None
    labels: Path | None = None
    fixed_labels: Path | None = None
    more_moving: tuple[Path, ...] = ()
    more_fixed: tuple[Path, ...] = ()

    def every(self) -> list[Path]:
        """Return all files."""
        named = (self.moving, self.fixed, self.mask, self.labels, self.fixed_labels)
        return [path for path in (*named, *self.more_moving, *self.more_fixed) if path is not None]


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
    problems: list[str] = []
    pairs: list[PairFiles] = []
    for name, row in rows:
        moving, fixed = row.get("moving", ()), row.get("fixed", () if template is None else (template,))
        if not moving or not fixed:
            missing = "fixed image; give one, or template=FILE" if moving else "moving"
            problems.append(f"data={data}: {name} has no {missing}")
            continue
        if len(moving) != len(fixed) or (pairs and len(moving) != 1 + len(pairs[0].more_moving)):
            theirs = (
                "" if len(moving) != len(fixed) else f", but those before {1 + len(pairs[0].more_moving)} each"
            )
            problems.append(
                f"data={data}: {name} has {len(moving)} moving and {len(fixed)} fixed modalities{theirs}; give as many "
                f"of both, and the same for all pairs"
            )
            continue
        single = {key: paths[0] for key, paths in row.items() if key in ("mask", "labels", "fixed_labels")}
        files = PairFiles(moving[0], fixed[0], **single, more_moving=moving[1:], more_fixed=fixed[1:])
        problems += [f"data={data}: {name}: no such file '{path}'" for path in files.every() if not path.is_file()]
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


Row = dict[str, tuple[Path, ...]]


def _folder_rows(data: Path) -> list[tuple[str, Row]]:
    def image(folder: Path, stem: str) -> tuple[Path, ...]:
        named = [p for p in sorted(folder.glob(f"{stem}.*")) if p.name.endswith((".nii", ".nii.gz", ".png"))]
        return tuple(named[:1])

    def found(folder: Path) -> Row:
        row = {name: image(folder, stem) for name, stem in _COLUMNS.items()}
        for modality in KNOWN:
            both = [image(folder, f"{side}_{modality}") for side in ("moving", "fixed")]
            if all(both):  # what one side alone has is no channel of the pair
                row["moving"], row["fixed"] = row["moving"] + both[0], row["fixed"] + both[1]
        return {name: paths for name, paths in row.items() if paths}

    folders = sorted(path for path in data.iterdir() if path.is_dir() and found(path))
    return [(folder.name, found(folder)) for folder in folders]


def _table_rows(data: Path) -> list[tuple[str, Row]]:
    with data.open(newline="", encoding="utf-8-sig") as file:
        table = csv.DictReader(file)
        unknown = sorted(set(table.fieldnames or ()) - set(_COLUMNS))
        if unknown or "moving" not in (table.fieldnames or ()):
            raise ConfigError(
                f"data={data}: the columns are {', '.join(table.fieldnames or ()) or 'missing'}; they must be moving, "
                f"and fixed, mask, labels and fixed_labels if there are any"
            )
        return [
            (f"row {number}", {key: _placed(value, key, data.parent) for key, value in row.items() if value})
            for number, row in enumerate(table, start=1)
        ]


def _placed(cell: str, key: str, home: Path) -> tuple[Path, ...]:
    names = [part.strip() for part in cell.split(",")] if key in ("moving", "fixed") else [cell]
    return tuple(home / Path(name).expanduser() for name in names if name)
