"""The index of a cohort: many runs on one page, the worst first, each with the reasons.

What is doubtful about a run was found when its page was made and stands at the page's head; nothing is looked at twice.
A run without such a page gets one.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmtk.errors import MmtkError
from mmtk.report.doubts import Doubt
from mmtk.report.findings import read_record
from mmtk.report.page import input_name, template
from mmtk.report.tables import number, told

__all__ = ["Cell", "Entry", "make_index", "read_entries"]

#: The summary at the head of a page, and how much of the page is searched for it.
SUMMARY = re.compile(r'<script type="application/json" id="summary">(.*?)</script>', re.DOTALL)
HEAD = 1 << 18


@dataclass(frozen=True)
class Cell:
    """A number of the table: what is shown, and what it is sorted by (empty where it is not known)."""

    text: str
    value: str
    bad: bool = False


@dataclass(frozen=True)
class Entry:
    """A run in the list.

    Attributes:
        name: Its folder, as seen from the index.
        link: Its page, as a URL relative to the index; empty if it has none.
        thumb: The warped image as PNG in base64; may be empty.
        pair: Moving and fixed image.
        doubts: The reasons to look at it, the gravest first.
        cells: The numbers, one a column.
    """

    name: str
    link: str
    thumb: str
    pair: tuple[str, ...]
    doubts: tuple[Doubt, ...]
    cells: tuple[Cell, ...]

    @property
    def ill(self) -> tuple[int, int, float]:
        """How ill it is; the larger, the worse."""
        count = [sum(doubt.rank == rank for doubt in self.doubts) for rank in ("grave", "doubt")]
        likeness = self.cells[0].value
        return count[0], count[1], -float(likeness) if likeness else 2.0


def read_entries(folders: Sequence[Path], where: Path, failed: Mapping[Path, str] | None = None) -> list[Entry]:
    """Return the runs of folders, the worst first; one that cannot be read is the worst of all.

    Args:
        folders: Those that runs left.
        where: The folder of the index; names and links start there.
        failed: Of folders whose runs are known to have failed, why; nothing of them is read.
    """
    known = failed or {}
    return sorted(
        (_entry(folder, where, known.get(folder, "")) for folder in folders),
        key=lambda entry: entry.ill,
        reverse=True,
    )


def make_index(entries: Sequence[Entry]) -> str:
    """Return the page as HTML."""
    bad = [sum(any(d.rank == rank for d in e.doubts) for e in entries) for rank in ("grave", "doubt")]
    return template("index.html").render(entries=entries, columns=COLUMNS, grave=bad[0], doubtful=bad[1])


COLUMNS = (
    "correlation",
    "squared error",
    "folds",
    "smallest determinant",
    "largest displacement, mm",
    "lesion kept",
    "time, s",
)


def _entry(folder: Path, where: Path, failed: str = "") -> Entry:
    name = os.path.relpath(folder, where)
    if failed:
        return _bare(name, f"This run failed: {failed}")
    try:
        record, metrics = read_record(folder)
        summary = _summary(folder)
    except (MmtkError, OSError) as error:
        return _bare(name, f"This run cannot be shown: {error}")
    return Entry(
        name=name,
        link=os.path.relpath(folder / "report.html", where).replace(os.sep, "/"),
        thumb=summary["thumb"],
        pair=tuple(
            input_name(record, role).removesuffix(".gz").removesuffix(".nii") for role in ("moving", "fixed")
        ),
        doubts=tuple(Doubt(d["text"], d["rank"]) for d in summary["doubts"]),
        cells=_cells(metrics, record),
    )


def _bare(name: str, why: str) -> Entry:
    """Return a line without numbers."""
    return Entry(name, "", "", ("", ""), (Doubt(why, "grave"),), tuple(Cell("–", "") for _ in COLUMNS))


def _summary(folder: Path) -> dict[str, Any]:
    from mmtk.report import rebuild_report

    page = folder / "report.html"
    found = _read_summary(page)
    if found is None:
        rebuild_report(folder)
        found = _read_summary(page)
    assert found is not None
    return found


def _read_summary(page: Path) -> dict[str, Any] | None:
    if not page.is_file():
        return None
    with page.open(encoding="utf-8", errors="replace") as file:
        told = SUMMARY.search(file.read(HEAD))
    return None if told is None else json.loads(told[1])


def _cells(metrics: Mapping[str, Any], record: Mapping[str, Any]) -> tuple[Cell, ...]:
    before, after = (told(metrics, "similarity", "squared_error_outside" + end) for end in ("_before", ""))
    folds, kept = told(metrics, "deformation", "folds"), told(metrics, "lesion", "volume_kept")
    seconds = [s for s in record.get("seconds", {}).values() if isinstance(s, int | float)]
    change = None if not before or after is None else 100 * (after / before - 1)
    return (
        _cell(told(metrics, "similarity", "correlation_outside"), "{:.3f}"),
        _cell(change, "{:+.0f} %", bad=change is not None and change > 0),
        _cell(folds, "{:.0f}", bad=bool(folds)),
        _cell(told(metrics, "deformation", "jacobian_min")),
        _cell(told(metrics, "deformation", "displacement_max_mm"), "{:.1f}"),
        _cell(None if kept is None else 100 * kept, "{:.0f} %"),
        _cell(sum(seconds) if seconds else None, "{:.1f}"),
    )


def _cell(value: float | None, form: str = "", *, bad: bool = False) -> Cell:
    if value is None:
        return Cell("–", "")
    return Cell(form.format(value).replace("-", "−") if form else number(value), repr(value), bad)
