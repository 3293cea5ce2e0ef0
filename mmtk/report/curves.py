"""Energies as small line charts, one a level of the pyramid: levels do not share a scale.

The charts are drawn by the page itself (SVG), so that they follow its colors and stay sharp in print. Coordinates
are in units of the drawing, x to the right and y down.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmtk.report.tables import number

__all__ = ["HEIGHT", "WIDTH", "Curve", "make_curves"]

WIDTH, HEIGHT, EDGE = 240, 96, 6

#: Longer runs are drawn through about so many of their points.
MOST_POINTS = 300


@dataclass(frozen=True)
class Curve:
    """One level: a title, the line, and what its ends are.

    Attributes:
        title: Where in the pyramid.
        note: How it went.
        points: ``x,y`` pairs as SVG has them; empty if no energy is finite.
        last: x and y of the last point.
        start, end: The first and the last energy, in words.
    """

    title: str
    note: str
    points: str
    last: tuple[float, float]
    start: str
    end: str


def make_curves(levels: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """Return a chart for each level of ``run.json``."""
    return [_curve(level, i + 1, len(levels)) for i, level in enumerate(levels)]


def _curve(level: Mapping[str, Any], index: int, count: int) -> Curve:
    energies = [float(e) for e in level.get("energies", ()) if e is not None and math.isfinite(e)]
    size, seconds = level.get("size_mm"), level.get("seconds")
    title = f"level {index} of {count}" + ("" if size is None else f" · {number(size)} mm")
    parts = [f"{level['evaluations']} evaluations"] if "evaluations" in level else []
    parts += [] if seconds is None else [f"{seconds:.1f} s"]
    parts += [str(level["outcome"]).lower()] if "outcome" in level else []
    points = _points(energies)
    return Curve(
        title=title,
        note=" · ".join(parts),
        points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points),
        last=points[-1] if points else (0.0, 0.0),
        start=number(energies[0]) if energies else "–",
        end=number(energies[-1]) if energies else "–",
    )


def _points(energies: Sequence[float]) -> list[tuple[float, float]]:
    if not energies:
        return []
    stride = max(1, len(energies) // MOST_POINTS)
    kept = sorted({*range(0, len(energies), stride), len(energies) - 1})
    low, high = min(energies), max(energies)
    across, down = WIDTH - 2 * EDGE, HEIGHT - 2 * EDGE
    return [
        (
            EDGE + across * i / max(len(energies) - 1, 1),
            EDGE + down * ((high - energies[i]) / (high - low) if high > low else 0.5),
        )
        for i in kept
    ]
