"""Plots of a comparison as SVG, drawn by the page itself: they follow its colors and stay sharp in print.

Coordinates are in units of the drawing, x to the right and y down. Methods are rows, from top to bottom in the study's
order; a point is a case, and says its name when it is pointed at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from mmtk.report.tables import number
from mmtk.study.analysis import Finding

__all__ = ["accuracy_against_time", "boxes", "differences"]

#: Values that span more than this factor are drawn on a logarithmic axis.
WIDE = 50.0

WIDTH, ROW, TOP, BOTTOM, RIGHT = 620, 30, 6, 36, 16


class _Scale:
    """From values to places, on a line or on a logarithmic one."""

    def __init__(
        self, values: Sequence[float], start: float, end: float, *, log: bool = False, zero: bool = False
    ):
        there = [v for v in values if math.isfinite(v) and (v > 0 or not log)] or [1.0]
        low, high = min(there), max(there)
        if zero:
            low, high = min(low, 0.0), max(high, 0.0)
        if log:
            low, high = math.log10(low), math.log10(high)
        room = (high - low) * 0.05 or abs(low) * 0.1 or 0.5
        self.low, self.high, self.start, self.end, self.log = low - room, high + room, start, end, log

    def __call__(self, value: float) -> float:
        at = math.log10(value) if self.log else value
        return self.start + (self.end - self.start) * (at - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        if self.log:
            powers = range(math.floor(self.low), math.ceil(self.high) + 1)
            every = [m * 10.0**p for p in powers for m in (1, 2, 5)]
            seen = [v for v in every if self.low <= math.log10(v) <= self.high]
            if len(seen) > 7:
                return [v for v in seen if f"{v:e}"[0] == "1"]
            if len(seen) > 1:
                return seen
        low, high = (10**end if self.log else end for end in (self.low, self.high))
        rough = (high - low) / 5
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= rough)
        return [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _margin(names: Sequence[str]) -> float:
    return 20 + 7.1 * min(26, max(map(len, names), default=0))


def _short(name: str) -> str:
    return escape(name if len(name) <= 26 else f"{name[:25]}…")


def _frame(scale: _Scale, height: float, label: str) -> list[str]:
    """Grid lines, their numbers, and what they are."""
    parts = []
    for tick in scale.ticks():
        x = scale(tick)
        parts.append(f'<path class="grid" d="M{x:.1f} {TOP}V{height - BOTTOM}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{height - BOTTOM + 14}">{number(round(tick, 12))}</text>')
    parts.append(
        f'<text class="axis-name" x="{(scale.start + scale.end) / 2:.0f}" y="{height - 5}">{escape(label)}</text>'
    )
    return parts


def _svg(height: float, parts: Sequence[str], title: str) -> str:
    inside = "".join(parts)
    return f'<svg class="plot" viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">{inside}</svg>'


def _points(
    values: Sequence[float], cases: Sequence[str], scale: _Scale, middle: float, finding: Finding
) -> list[str]:
    """A dot for each case, spread in a fixed pattern so that equal ones can be told apart."""
    return [
        f'<circle class="dot" cx="{scale(value):.1f}" cy="{middle + 8 * ((index * 0.618034) % 1 - 0.5):.1f}" r="2.6">'
        f"<title>{escape(case)}: {finding.text(value)}</title></circle>"
        for index, (value, case) in enumerate(zip(values, cases, strict=True))
        if math.isfinite(value)
    ]


def boxes(finding: Finding, cases: Sequence[str]) -> str:
    """Return a box for each method: quartiles, median, whiskers to the farthest case within 1.5 IQR, and all cases."""
    methods = list(finding.values)
    height = TOP + ROW * len(methods) + BOTTOM
    scale = _Scale([v for values in finding.values.values() for v in values], _margin(methods), WIDTH - RIGHT)
    parts = _frame(scale, height, finding.label)
    for row, method in enumerate(methods):
        middle = TOP + ROW * (row + 0.5)
        parts.append(f'<text class="row" x="{scale.start - 10:.0f}" y="{middle + 4:.1f}">{_short(method)}</text>')
        s = finding.summaries[method]
        if not s.n:
            parts.append(f'<text class="none" x="{scale.start + 8:.0f}" y="{middle + 4:.1f}">no result</text>')
            continue
        reach = 1.5 * (s.q3 - s.q1)
        inner = [v for v in finding.values[method] if s.q1 - reach <= v <= s.q3 + reach]
        low, high = min(inner, default=s.q1), max(inner, default=s.q3)
        parts.append(f'<path class="whisker" d="M{scale(low):.1f} {middle}H{scale(high):.1f}"/>')
        wide = max(scale(s.q3) - scale(s.q1), 0.5)
        parts.append(
            f'<rect class="box" x="{scale(s.q1):.1f}" y="{middle - 8}" width="{wide:.1f}" height="16"/>'
            f'<path class="median" d="M{scale(s.median):.1f} {middle - 8}v16"/>'
        )
        parts += _points(finding.values[method], cases, scale, middle, finding)
    return _svg(height, parts, f"{finding.label}: a box for each method")


def differences(finding: Finding, reference: str, cases: Sequence[str]) -> str:
    """Return each case's difference from the reference, their mean and its bootstrap interval."""
    methods = list(finding.tests)
    height = TOP + ROW * len(methods) + BOTTOM
    base = finding.values[reference]
    off = {m: [a - b for a, b in zip(finding.values[m], base, strict=True)] for m in methods}
    ends = [end for test in finding.tests.values() for end in test.mean_interval]
    scale = _Scale(
        [*(v for values in off.values() for v in values), *ends], _margin(methods), WIDTH - RIGHT, zero=True
    )
    parts = _frame(scale, height, f"{finding.label}: less that of {reference}")
    parts.append(f'<path class="zero" d="M{scale(0):.1f} {TOP}V{height - BOTTOM}"/>')
    for row, method in enumerate(methods):
        middle = TOP + ROW * (row + 0.5)
        test = finding.tests[method]
        parts.append(f'<text class="row" x="{scale.start - 10:.0f}" y="{middle + 4:.1f}">{_short(method)}</text>')
        if not test.n:
            parts.append(f'<text class="none" x="{scale.start + 8:.0f}" y="{middle + 4:.1f}">no pair</text>')
            continue
        parts += _points(off[method], cases, scale, middle, finding)
        low, high = test.mean_interval
        clear = finding.better != 0 and test.p_holm < 0.05
        kind = "" if not clear else " better" if finding.better * test.effect > 0 else " worse"
        if math.isfinite(low):
            parts.append(f'<path class="interval{kind}" d="M{scale(low):.1f} {middle}H{scale(high):.1f}"/>')
        parts.append(f'<circle class="mean{kind}" cx="{scale(test.mean):.1f}" cy="{middle}" r="5"/>')
    return _svg(height, parts, f"{finding.label}: differences from {reference}")


def accuracy_against_time(finding: Finding, time: Finding) -> str:
    """Return a point for each method that registers: medians over the cases, lines from quartile to quartile."""
    methods = [
        m
        for m in finding.values
        if finding.summaries[m].n and time.summaries[m].median > 0 and m not in finding.aside
    ]
    height = 330
    left = 70
    across = _Scale(
        [v for m in methods for v in (time.summaries[m].q1, time.summaries[m].q3)], left, WIDTH - RIGHT, log=True
    )
    spans = [v for m in methods for v in (finding.summaries[m].q1, finding.summaries[m].q3)]
    wide = bool(spans) and min(spans) > 0 and max(spans) > WIDE * min(spans)
    down = _Scale(spans, height - BOTTOM, TOP + 10, log=wide)
    parts = _frame(across, height, f"{time.label} (median, logarithmic)")
    for tick in down.ticks():
        y = down(tick)
        parts.append(f'<path class="grid" d="M{left} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="row tick" x="{left - 6}" y="{y + 4:.1f}">{number(round(tick, 12))}</text>')
    parts.append(
        f'<text class="axis-name" transform="translate(14 {(TOP + height - BOTTOM) / 2:.0f}) rotate(-90)">'
        f"{escape(finding.label)} (median{', logarithmic' if wide else ''})</text>"
    )
    taken: list[tuple[float, float]] = []
    for method in sorted(methods, key=lambda m: down(finding.summaries[m].median)):
        here, cost = finding.summaries[method], time.summaries[method]
        x, y = across(cost.median), down(here.median)
        parts.append(f'<path class="whisker" d="M{x:.1f} {down(here.q1):.1f}V{down(here.q3):.1f}"/>')
        parts.append(
            f'<path class="whisker" d="M{across(max(cost.q1, 1e-9)):.1f} {y:.1f}H{across(cost.q3):.1f}"/>'
        )
        parts.append(f'<circle class="mean" cx="{x:.1f}" cy="{y:.1f}" r="5"/>')
        beyond = x > WIDTH - 150
        at = y - 8
        while any(abs(at - other) < 13 and abs(x - place) < 150 for place, other in taken):
            at += 13
        taken.append((x, at))
        side = 'class="row halo"' if beyond else 'class="name halo"'
        parts.append(f'<text {side} x="{x - 9 if beyond else x + 9:.1f}" y="{at:.1f}">{_short(method)}</text>')
    return _svg(height, parts, f"{finding.label} against {time.label}")
