"""Numbers as a table, as JSON and as CSV."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmtk.errors import MmtkError
from mmtk.io import write_json, write_text

__all__ = ["Evaluation", "as_json_text", "as_text", "check_out", "write_numbers"]

OUT_SUFFIXES = (".json", ".csv")


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        metrics: Numbers by group and name, as in ``metrics.json``; NaN where one has no meaning.
        notes: Sentences that a user should read.
        seconds: How long it took.
    """

    metrics: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    seconds: float = 0.0


def as_text(found: Evaluation) -> str:
    """Return a table: each number, what it was before, and its meaning in a phrase."""
    from mmtk.report.tables import as_table

    return as_table(found.metrics)


def as_json_text(found: Evaluation) -> str:
    """Return the numbers as JSON, NaN and infinity as null."""
    return json.dumps(_nulled(_whole(found)), indent=2, ensure_ascii=False, allow_nan=False)


def check_out(out: Path, overwrite: bool) -> list[str]:
    """Return a sentence for each reason why numbers cannot be written to a file."""
    if out.suffix.lower() not in OUT_SUFFIXES:
        return [f"--out {out}: must end in {' or '.join(OUT_SUFFIXES)}"]
    if out.is_dir():
        return [f"--out {out}: is a folder; name a file in it"]
    if out.exists() and not overwrite:
        return [f"--out {out}: exists already; name another file, or add --overwrite"]
    above = next(parent for parent in out.absolute().parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        return [f"--out {out}: nothing can be written into '{above}'; name another place"]
    return []


def write_numbers(out: Path, found: Evaluation) -> Path:
    """Write the numbers as JSON, or as a table ``group,name,value,meaning`` if the name ends in ``.csv``.

    Raises:
        MmtkError: If the file cannot be written.
    """
    from mmtk.report.tables import flat
    from mmtk.report.words import METRICS

    try:
        if out.suffix.lower() == ".json":
            return write_json(out, _whole(found))
        table = io.StringIO()
        rows = csv.writer(table, lineterminator="\n")
        rows.writerow(["group", "name", "value", "meaning"])
        for group, values in found.metrics.items():
            for name, value in flat(values):
                first = name.partition(".")[0].removesuffix("_before")
                rows.writerow([group, name, value, METRICS.get(first, ("", ""))[1]])
        return write_text(out, table.getvalue())
    except OSError as error:
        raise MmtkError(
            f"--out {out}: cannot be written ({error.strerror or error}); make room or name another folder"
        ) from error


def _whole(found: Evaluation) -> dict[str, Any]:
    return {"metrics": found.metrics, "notes": found.notes, "seconds": found.seconds}


def _nulled(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _nulled(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
