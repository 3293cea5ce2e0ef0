"""The aims, each as a rule over the results: what was asked, what was measured, and whether that is enough.

A rule compares subject by subject, over those that all its methods were run on.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

__all__ = ["verdicts"]

Row = Mapping[str, Any]
Everything = Mapping[str, Sequence[Row]]

#: What a rule finds: a sentence, and whether the aim is met (None: not measured yet).
Finding = tuple[str, bool | None]

_UNKNOWN: Finding = ("not measured yet", None)
_SPLITS = ("mmtk-split", "mmtk-split-same", "mmtk-split-same-told")


def _table(rows: Iterable[Row], key: str) -> dict[str, dict[str, float]]:
    """Return ``method -> subject -> value``; ``key`` is of the scores or of the row itself."""
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["status"] == "ok" and "scores" in row:
            value = row["scores"].get(key, row.get(key))
            if value is not None:
                found.setdefault(row["method"], {})[row["subject"]] = value
    return found


def _common(*columns: Mapping[str, float]) -> list[str]:
    return sorted(set.intersection(*[set(column) for column in columns])) if columns else []


def _mean(column: Mapping[str, float], subjects: Iterable[str]) -> float:
    return statistics.fmean(column[s] for s in subjects)


def _tumor_outside(rows: Everything) -> Finding:
    found = rows["tumor-brain-1mm"]
    error, cpu = _table(found, "outside"), _table(found, "cpu")
    if "mmtk-split-same" not in error or "greedy-ncc" not in error:
        return _UNKNOWN
    subjects = _common(error["mmtk-split-same"], error["greedy-ncc"])
    if not subjects:
        return _UNKNOWN
    ours, theirs = (_mean(error[m], subjects) for m in ("mmtk-split-same", "greedy-ncc"))
    time = _mean(cpu["mmtk-split-same"], subjects) / _mean(cpu["greedy-ncc"], subjects)
    said = (
        f"split {ours:.2f} mm, greedy NCC {theirs:.2f} mm: {ours / theirs:.2f} of it, "
        f"in 1/{1 / time:.1f} of its CPU time"
    )
    return f"{said} (n = {len(subjects)})", ours / theirs <= 2 / 3 and time < 1 / 15


def _near(case: str) -> Callable[[Everything], Finding]:
    def rule(rows: Everything) -> Finding:
        near = _table(rows[case], "near")
        peers = [m for m in ("greedy-ncc", "greedy-ncc-mask", "ants-syn-cfm", "ants-syn-cfm-swapped") if m in near]
        ours = [m for m in (*_SPLITS, "mmtk-coupled", "mmtk-coupled-local") if m in near]
        if not ours or "greedy-ncc" not in peers:
            return _UNKNOWN
        # A method that was not run on some subjects would shrink the comparison of all others.
        whole = set(_common(*[near[m] for m in peers]))
        ours = [m for m in ours if whole <= set(near[m])] or ours
        subjects = _common(*[near[m] for m in (*peers, *ours)])
        if len({s.split("/")[0] for s in subjects}) < 3:
            return "not measured yet on all three kinds of lesion", None
        best = min(peers, key=lambda m: _mean(near[m], subjects))
        mine = min(ours, key=lambda m: _mean(near[m], subjects))
        a, b = _mean(near[mine], subjects), _mean(near[best], subjects)
        default = _mean(near["mmtk-split-same"], subjects) if "mmtk-split-same" in ours else float("nan")
        said = (
            f"best of ours `{mine}` {a:.2f} mm, split without a hint {default:.2f} mm; "
            f"best of theirs `{best}` {b:.2f} mm"
        )
        return f"{said} (n = {len(subjects)})", a <= b / 2

    return rule


def _dice(rows: Everything) -> Finding:
    dice, cpu = _table(rows["brains-2mm"], "dice"), _table(rows["brains-2mm"], "cpu")
    call = _table(rows["brains-2mm"], "call_seconds")
    ours = [m for m in dice if m.startswith("mmtk-split")]
    if "ants-only-long" not in dice or not ours:
        return _UNKNOWN
    base, parts, enough = dice["ants-only-long"], [], False
    for method in ours:
        subjects = _common(base, dice[method])
        if not subjects:
            continue
        gain = _mean(dice[method], subjects) - _mean(base, subjects)
        time = _mean(cpu[method], subjects) / _mean(cpu["ants-only-long"], subjects)
        clock = _mean(call[method], subjects) / _mean(call["ants-only-long"], subjects)
        parts.append(
            f"`{method}` {gain:+.3f} in {time:.2f} of the CPU time, {clock:.2f} on the clock (n = {len(subjects)})"
        )
        enough |= gain >= 0.05 and max(time, clock) <= 0.2 and len(subjects) >= 5
    return f"SyNOnly (100,70,50): {_mean(base, base):.3f}; {'; '.join(parts)}", enough


def _real(rows: Everything) -> Finding:
    error = _table(rows["tumor-real"], "outside")
    ants, run = error.get("ants-only"), error.get("mmtk-run")
    if not ants:
        return _UNKNOWN
    if not run:
        ours = ", ".join(f"`{m}` {v['01'] / 1e3:.1f}e3" for m, v in error.items() if m.startswith("mmtk"))
        return f"ANTs SyN {ants['01'] / 1e3:.1f}e3; {ours}; the whole command not measured yet", None
    row = next(r for r in rows["tumor-real"] if r["method"] == "mmtk-run")
    ours, theirs = run["01"] / 1e3, ants["01"] / 1e3
    said = (
        f"`mmtk run` {ours:.1f}e3, ANTs SyN {theirs:.1f}e3; {row['scores']['folds']} folds; {row['wall']:.0f} s "
        f"({row['cpu']:.0f} CPU s, load {max(row['load']):.1f}), {row['rss_mb'] / 1024:.1f} GB"
    )
    return said, ours < theirs and row["scores"]["folds"] == 0 and row["wall"] < 60 and row["rss_mb"] < 4096


def _appearance(rows: Everything) -> Finding:
    found = [r["appearance_outside"] for r in rows["tumor-real"] if r.get("appearance_outside") is not None]
    if not found:
        return _UNKNOWN
    return f"largest over {len(found)} runs: {max(found):g}", max(found) == 0


def _speed(method: str, seconds: float, gigabytes: float | None) -> Callable[[Everything], Finding]:
    def rule(rows: Everything) -> Finding:
        for row in rows["metamorphosis-192"]:
            if row["method"] == method and row["status"] == "ok":
                said = (
                    f"call {row['call_seconds']:.1f} s (the optimization {row['stages']['register']:.1f} s), "
                    f"{row['cpu']:.0f} CPU s, {row['rss_mb'] / 1024:.1f} GB, load {max(row['load']):.1f}"
                )
                enough = row["call_seconds"] < seconds
                return said, enough and (gigabytes is None or row["rss_mb"] / 1024 < gigabytes)
        return _UNKNOWN

    return rule


def _flat(rows: Everything) -> Finding:
    found = [r for r in rows["2d"] if r["method"] == "mmtk-split" and r["status"] == "ok"]
    if not found:
        return _UNKNOWN
    seconds = statistics.median(r["call_seconds"] for r in found)
    folds = sum(r["scores"]["folds"] for r in found)
    load = max(max(r["load"]) for r in found)
    return (
        f"{seconds:.2f} s, {folds:.0f} folds, load up to {load:.1f} (n = {len(found)})",
        seconds < 1 and folds == 0,
    )


def _letters(rows: Everything) -> Finding:
    tables = {key: _table(rows["c-shapes"], key) for key in ("normal", "near", "outside")}
    normal = tables["normal"]
    ours = [m for m in normal if m.startswith("mmtk")]
    peers = [m for m in normal if m.startswith(("greedy", "ants", "demons"))]
    if not ours or not peers:
        return _UNKNOWN
    subjects = [s for s in _common(*[normal[m] for m in (*ours, *peers)]) if not s.endswith("-wide")]
    if not subjects:
        return _UNKNOWN
    parts, won = [], []
    for key, name in (("normal", "across edges"), ("near", "near the cut")):
        mine, best = (min(ms, key=lambda m: _mean(tables[key][m], subjects)) for ms in (ours, peers))
        parts.append(
            f"{name}: `{mine}` {_mean(tables[key][mine], subjects):.2f} px, "
            f"`{best}` {_mean(tables[key][best], subjects):.2f} px"
        )
        won.append((mine, _mean(tables[key][mine], subjects) <= _mean(tables[key][best], subjects)))
    return f"{'; '.join(parts)} (n = {len(subjects)})", all(w for _, w in won) and len({m for m, _ in won}) == 1


def _wide(rows: Everything) -> Finding:
    near = _table(rows["c-shapes"], "near").get("mmtk-letter-split", {})
    normal = _table(rows["c-shapes"], "normal").get("mmtk-letter-split", {})
    subjects = [s for s in near if f"{s}-wide" in near]
    if not subjects:
        return _UNKNOWN
    costs = [
        statistics.fmean(column[f"{s}-wide"] for s in subjects) / statistics.fmean(column[s] for s in subjects) - 1
        for column in (normal, near)
    ]
    said = f"{100 * costs[0]:+.0f} % across edges, {100 * costs[1]:+.0f} % near the cut (n = {len(subjects)})"
    return said, max(costs) < 0.2


def _commands(rows: Everything) -> Finding:
    wanted = ("mmtk --help", "mmtk plugins", "mmtk run bundle=metamorph_brats mvoing=a.nii (refused)")
    found = {row["subject"]: row for row in rows["startup"] if row["subject"] in wanted}
    if len(found) < 3:
        return _UNKNOWN
    theirs = next((r for r in rows["startup"] if r["subject"].startswith("python -m monai.bundle")), None)
    said = ", ".join(f"{row['best']:.2f} s ({row['cpu']:.2f} CPU s)" for row in (found[name] for name in wanted))
    more = f"; `python -m monai.bundle --help` {theirs['best']:.2f} s" if theirs else ""
    return f"{said}, best of several, load {found[wanted[0]]['load']:.1f}{more}", all(
        row["best"] < 0.4 for row in found.values()
    )


def _folds(rows: Everything) -> Finding:
    ours = [r for found in rows.values() for r in found if r["method"].startswith("mmtk") and r.get("scores")]
    if not ours:
        return _UNKNOWN
    bad = [r for r in ours if r["scores"]["folds"] > 0]
    where = "; ".join(
        f"`{r['method']}` on {r['case']} {r['subject']}: {r['scores']['folds']:.0f}" for r in bad[:6]
    )
    return f"{len(bad)} of {len(ours)} runs of mmtk fold{': ' + where if bad else ''}", not bad


_AIMS: tuple[tuple[str, Callable[[Everything], Finding]], ...] = (
    (
        "Real tumor onto template: error outside the mask below ANTs SyN's, no folds, "
        "under 60 s and 4 GB to the last file",
        _real,
    ),
    ("Real tumor: appearance outside the carried mask exactly 0", _appearance),
    ("1 mm brain with tumor, error outside: two thirds of greedy's, in 1/15 of its CPU time", _tumor_outside),
    (
        "Within 10 mm of the lesion, three kinds, 1 mm: half of the best of greedy and SyN-CFM",
        _near("tumor-brain-1mm"),
    ),
    ("The same at 2 mm", _near("tumor-brain-2mm")),
    ("Pairs of people: mean Dice 0.05 above SyNOnly (100,70,50), in a fifth of its time", _dice),
    ("Cut C: best of all across visible edges and within 10 px of the cut", _letters),
    ("Cut C: a mask of twice the area costs less than 20 %", _wide),
    ("192 x 192 x 144, split: under 6 s and 2.5 GB on 2 cores", _speed("mmtk-split", 6, 2.5)),
    ("192 x 192 x 144, coupled, T = 15: under 10 min on 2 cores", _speed("mmtk-coupled", 600, None)),
    ("The same, coupled by white coefficients", _speed("mmtk-coupled-white", 600, None)),
    ("200 x 200: under 1 s after start-up, no folds", _flat),
    ("`mmtk --help`, `mmtk plugins`, a refused description: under 0.4 s", _commands),
    ("No folds in anything diffeomorphic", _folds),
)  # fmt: skip


def verdicts(everything: Everything) -> str:
    """Return the table of aims."""
    lines = ["| aim | measured | reached |", "|---|---|---|"]
    for aim, rule in _AIMS:
        said, met = rule(everything)
        lines.append(f"| {aim} | {said} | {'?' if met is None else 'yes' if met else 'no'} |")
    lines.append("| H200: split < 0.5 s, coupled < 10 s | no GPU was at hand; goals | ? |")
    return "\n".join([*lines, ""])
