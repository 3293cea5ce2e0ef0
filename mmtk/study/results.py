"""The results of a study: records of runs, a tidy table, and arrays for statistics.

``results.csv`` has one row a case, method, seed and metric:

    case, method, seed    the run
    group, metric         as in ``metrics.json``; ``cost`` holds what depends on the machine
    value                 empty where the number has no meaning
    message               of a failed run, why

Every run has the row ``run, failed``: 0, or 1 for a run that failed, which has no other but its cost.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmtk.io import write_text

__all__ = ["HEADER", "Record", "Results", "read_record", "write_csv"]

HEADER = ("case", "method", "seed", "group", "metric", "value", "message")


@dataclass(frozen=True)
class Record:
    """How one run went.

    Attributes:
        key: Of all that the run depends on.
        message: Why it failed; empty if it did not.
        metrics: By group and name, flat: ``{"truth.outside_mm": 0.4}``; NaN where one has no meaning.
        notes: What the run wants a user to read.
        folder: Of the run.
    """

    case: str
    method: str
    seed: int
    key: str
    failed: bool
    message: str
    metrics: Mapping[str, float]
    notes: tuple[str, ...]
    folder: Path


def read_record(path: Path) -> Record:
    """Return the record in a file.

    Raises:
        OSError, ValueError, KeyError: It is not there, or is none.
    """
    told = json.loads(path.read_text(encoding="utf-8"))
    return Record(
        case=told["case"],
        method=told["method"],
        seed=told["seed"],
        key=told["key"],
        failed=told["status"] != "done",
        message=told["message"],
        metrics=_numbers(told["metrics"]),
        notes=tuple(told["notes"]),
        folder=path.with_suffix(""),
    )


def _numbers(metrics: Mapping[str, Any], above: str = "") -> dict[str, float]:
    found: dict[str, float] = {}
    for key, value in metrics.items():
        if isinstance(value, Mapping):
            found |= _numbers(value, f"{above}{key}.")
        elif value is None or isinstance(value, int | float):
            found[f"{above}{key}"] = math.nan if value is None else float(value)
    return found


def write_csv(path: Path, records: Sequence[Record]) -> Path:
    """Write the table, runs in the order given."""
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(HEADER)
    for record in records:
        about = (record.case, record.method, record.seed)
        rows.writerow([*about, "run", "failed", int(record.failed), record.message])
        for name, value in record.metrics.items():
            group, _, metric = name.partition(".")
            rows.writerow([*about, group, metric, "" if math.isnan(value) else _text(value), ""])
    return write_text(path, table.getvalue())


def _text(value: float) -> str:
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)


@dataclass(frozen=True)
class Results:
    """All records of a study, by what statistics ask for.

    Attributes:
        methods, cases: In the study's order.
        reference: The method that the others are held against.
    """

    records: Sequence[Record]
    reference: str
    methods: tuple[str, ...] = field(init=False)
    cases: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "methods", tuple(dict.fromkeys(record.method for record in self.records)))
        object.__setattr__(self, "cases", tuple(dict.fromkeys(record.case for record in self.records)))

    @property
    def metrics(self) -> list[str]:
        """Every metric that any run has, in the order of its first run."""
        return list(dict.fromkeys(name for record in self.records for name in record.metrics))

    @property
    def failures(self) -> list[Record]:
        """The runs that failed."""
        return [record for record in self.records if record.failed]

    def values(self, metric: str) -> dict[str, list[float]]:
        """Return the metric by method, one value a case: the mean over its seeds.

        NaN where a seed failed or has none: a mean over the seeds that went well would flatter the method.
        """
        found: dict[tuple[str, str], list[float]] = {}
        for record in self.records:
            # What a failed run has cost is no cost of a result.
            value = math.nan if record.failed else record.metrics.get(metric, math.nan)
            found.setdefault((record.method, record.case), []).append(value)
        return {method: [_mean(found.get((method, case), [])) for case in self.cases] for method in self.methods}


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
