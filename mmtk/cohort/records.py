"""What is left of each case beside its folder, and the table of all.

    OUT/cases/CASE/          the folder of the run, as `mmtk run` leaves it
    OUT/cases/CASE.json      its record: begun, done or failed, and of what settings and files

A record carries sizes, times and digests of the files that were read. A file of the same size and time is taken for the
same; one that was touched is read again and compared by its digest.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mmtk.io import sha256, write_json, write_text

__all__ = ["CaseRecord", "FileMark", "mark", "read_case", "write_case", "write_table"]


@dataclass(frozen=True)
class FileMark:
    """A file as it was read."""

    path: str
    size: int
    mtime_ns: int
    sha256: str

    def same(self, path: Path) -> bool:
        """Whether a file, wherever it lies, has what this one had."""
        state = path.stat()
        if state.st_size != self.size:
            return False
        return state.st_mtime_ns == self.mtime_ns or sha256(path) == self.sha256


def mark(path: Path) -> FileMark:
    """Read a file for its mark."""
    state = path.stat()
    return FileMark(str(path), state.st_size, state.st_mtime_ns, sha256(path))


@dataclass(frozen=True)
class CaseRecord:
    """How one case went.

    Attributes:
        status: ``begun``, ``done`` or ``failed``.
        key: Digest of the settings, see :func:`mmtk.cohort.description.digest`.
        message: Why it failed; empty if it did not.
        about: The table's other columns.
        metrics: As in ``metrics.json``, by group.
        cost: Seconds in all, peak memory of the process, MB, and the name of its machine.
    """

    case: str
    status: str
    key: str
    message: str = ""
    outcome: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, FileMark] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    cost: Mapping[str, Any] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether it came to no result."""
        return self.status == "failed"


def read_case(path: Path) -> CaseRecord | None:
    """Return the record in a file, or None where there is none that can be read."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        files = {name: FileMark(**value) for name, value in told.pop("files").items()}
        return CaseRecord(**{**told, "files": files, "notes": tuple(told["notes"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_case(path: Path, record: CaseRecord) -> Path:
    """Write a record, whole or not at all."""
    return write_json(path, asdict(record))


def write_table(path: Path, records: Sequence[CaseRecord], columns: Sequence[str]) -> Path:
    """Write ``results.csv``: a row a case, in the cohort's order.

    ``case, status, message, outcome``, the table's own columns, the metrics as ``group.name``, and what it cost.
    """
    rows = [
        {
            "case": record.case,
            "status": record.status,
            "message": record.message,
            "outcome": record.outcome,
            **{column: record.about.get(column, "") for column in columns},
            **_flat(record.metrics),
            **{f"cost.{name}": value for name, value in record.cost.items()},
        }
        for record in records
    ]
    head = dict.fromkeys(["case", "status", "message", "outcome", *columns])
    metrics = dict.fromkeys(name for row in rows for name in row if name not in head)
    names = sorted(metrics, key=lambda name: name.startswith("cost."))
    table = io.StringIO()
    writer = csv.DictWriter(table, [*head, *names], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return write_text(path, table.getvalue())


def _flat(metrics: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in metrics.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{above}{key}.")
        elif isinstance(value, int | float) and math.isfinite(value):
            found[f"{above}{key}"] = value
    return found
