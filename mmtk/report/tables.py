"""Numbers in words and rows: the headline, the metrics, the settings.

``metrics`` is a mapping of numbers, or of mappings of numbers, to any depth. Nothing is assumed to be there: what
is known is explained, what is not is shown as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mmtk.report.words import METRICS, SECTIONS

__all__ = ["Row", "Section", "Tile", "as_table", "flat", "number", "sections", "tiles", "told"]

BEFORE = "_before"

#: What is left out of a name where there is no lesion.
OUTSIDE = " outside the lesion"


@dataclass(frozen=True)
class Row:
    """One metric; ``before`` is the affine alone, empty where it is not told."""

    label: str
    meaning: str
    value: str
    before: str = ""


@dataclass(frozen=True)
class Section:
    """A group of metrics."""

    title: str
    rows: list[Row]

    @property
    def compared(self) -> bool:
        """Whether any of them is told for the affine alone, too."""
        return any(row.before for row in self.rows)


@dataclass(frozen=True)
class Tile:
    """One number of the headline; ``bad`` where it asks for attention."""

    label: str
    value: str
    note: str = ""
    bad: bool = False


def number(value: Any) -> str:
    """Return a number as a reader wants it: four digits, thousands set apart, a dash for no value."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    whole = isinstance(value, int) or abs(value) >= 1000
    text = f"{value:,.0f}".replace(",", "\u202f") if whole else f"{value:.4g}"
    return text.replace("-", "−")


def flat(values: Mapping[Any, Any], joint: str = ".") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested mappings with their joined names."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}{joint}{name}", leaf) for name, leaf in flat(value, joint))
        else:
            yield str(key), value


def told(metrics: Mapping[str, Any], *path: str) -> float | None:
    """Return a finite number of nested mappings, or None where it is not."""
    value: Any = metrics
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known else None


def sections(metrics: Mapping[str, Any]) -> list[Section]:
    """Return the metrics by group, the known groups first; numbers without a group come last."""
    groups = {k: v for k, v in metrics.items() if isinstance(v, Mapping)}
    order = [k for k in SECTIONS if k in groups] + [k for k in groups if k not in SECTIONS]
    lesion = "lesion" in groups
    found = [Section(SECTIONS.get(key, _plain(key)), _rows(groups[key], lesion)) for key in order]
    found.append(Section("Further", _rows({k: v for k, v in metrics.items() if k not in groups}, lesion)))
    return [section for section in found if section.rows]


def as_table(metrics: Mapping[str, Any]) -> str:
    """Return the metrics as text, a line each: its name, the number, what it was before, its meaning in a phrase."""
    lines: list[str] = []
    for section in sections(metrics):
        rows = [
            (row.label, row.value, f"(before: {row.before})" if row.before else "", row.meaning)
            for row in section.rows
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines += ["", section.title]
        for row in rows:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=False) if width)
            lines.append("  ".join(["", *cells, row[3]]).rstrip())
    return "\n".join(lines[1:])


def _rows(group: Mapping[str, Any], lesion: bool) -> list[Row]:
    leaves = dict(flat(group, " · "))
    rows = []
    for key, value in leaves.items():
        if key.endswith(BEFORE) and key.removesuffix(BEFORE) in leaves:
            continue
        before = number(leaves[key + BEFORE]) if key + BEFORE in leaves else ""
        label, meaning = _explained(key)
        rows.append(Row(label if lesion else label.replace(OUTSIDE, ""), meaning, number(value), before))
    return rows


def _explained(key: str) -> tuple[str, str]:
    first, *rest = key.split(" · ")
    plain = first.removesuffix(BEFORE)
    label, meaning = METRICS.get(plain, (_plain(plain), ""))
    affine = ["affine alone"] if plain != first else []
    return " · ".join([label, *map(_plain, rest), *affine]), meaning


def _plain(key: object) -> str:
    return str(key).replace("_", " ")


def tiles(metrics: Mapping[str, Any], record: Mapping[str, Any]) -> list[Tile]:
    """Return the headline: the few numbers that say whether to look further."""
    found = [_mismatch(metrics), _correlation(metrics), _folds(metrics), _motion(metrics), _lesion(metrics)]
    return [tile for tile in [*found, _time(record)] if tile is not None]


def _mismatch(metrics: Mapping[str, Any]) -> Tile | None:
    before, after = (told(metrics, "similarity", "squared_error_outside" + x) for x in (BEFORE, ""))
    if not before or after is None:
        return None
    change = 100 * (after / before - 1)
    value = f"{'−' if change <= 0 else '+'}{abs(change):.0f} %"
    return Tile("squared error" + _outside(metrics), value, f"{number(before)} → {number(after)}", change > 0)


def _correlation(metrics: Mapping[str, Any]) -> Tile | None:
    before, after = (told(metrics, "similarity", "correlation_outside" + x) for x in (BEFORE, ""))
    if after is None:
        return None
    note = "" if before is None else f"before: {before:.3f}"
    return Tile("correlation" + _outside(metrics), f"{after:.3f}".replace("-", "−"), note)


def _outside(metrics: Mapping[str, Any]) -> str:
    return OUTSIDE if "lesion" in metrics else ""


def _folds(metrics: Mapping[str, Any]) -> Tile | None:
    folds, least = told(metrics, "deformation", "folds"), told(metrics, "deformation", "jacobian_min")
    if folds is None:
        return None
    note = "" if least is None else f"smallest determinant {number(least)}"
    return Tile("folds", number(int(folds)), note, folds > 0)


def _motion(metrics: Mapping[str, Any]) -> Tile | None:
    most, mean = (told(metrics, "deformation", f"displacement_{x}_mm") for x in ("max", "mean"))
    if most is None:
        return None
    return Tile("largest displacement", f"{most:.1f} mm", "" if mean is None else f"mean {mean:.2f} mm")


def _lesion(metrics: Mapping[str, Any]) -> Tile | None:
    kept, volume = told(metrics, "lesion", "volume_kept"), told(metrics, "lesion", "volume_ml")
    if kept is None:
        return None
    return Tile("lesion volume kept", f"{100 * kept:.0f} %", "" if volume is None else f"of {number(volume)} ml")


def _time(record: Mapping[str, Any]) -> Tile | None:
    seconds = [s for s in record.get("seconds", {}).values() if isinstance(s, int | float)]
    if not seconds:
        return None
    peak = record.get("peak_memory_mb")
    note = "" if peak is None else f"peak memory {peak / 1000:.1f} GB"
    return Tile("time", f"{sum(seconds):.1f} s", note)
