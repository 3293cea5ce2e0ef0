"""Write ``docs/benchmarks.md`` and its picture from the results: ``python -m benchmarks.page``.

Scores are means over subjects, costs are medians. A method that is missing for some subjects says for how many it
stands, and what was not measured at all is listed: a gap is not a zero.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import (
    atlas,
    cohorts,
    distillation,
    hearts,
    learned,
    letters,
    masks,
    multimodal,
    shipped,
    slices,
    store,
    studies,
    three,
)
from benchmarks.cases import CASES
from benchmarks.methods import METHODS
from benchmarks.targets import verdicts

__all__ = ["render"]

#: Written by hand, when the results ask for an explanation.
NOTES = Path(__file__).resolve().parent / "notes.md"
DOCS = Path(__file__).resolve().parent.parent / "docs"

Row = Mapping[str, Any]

#: Columns of scores: header, name of the score, format, how subjects are put together.
_MEAN, _SUM, _LEAST = statistics.fmean, sum, min
Column = tuple[str, str, str, Callable[[Iterable[float]], float]]
_FOLDS: list[Column] = [("folds", "folds", "{:.0f}", _SUM), ("least det", "jacobian_min", "{:.2f}", _LEAST)]
_TRUTH: list[Column] = [
    ("outside, mm", "outside", "{:.2f}", _MEAN),
    ("near, mm", "near", "{:.2f}", _MEAN),
    ("far, mm", "far", "{:.2f}", _MEAN),
    ("inside, mm", "inside", "{:.2f}", _MEAN),
]
COLUMNS: dict[str, list[Column]] = {
    "truth": [*_TRUTH, *_FOLDS],
    "truth_2d": [*_TRUTH, *_FOLDS],
    "overlap": [("mean Dice", "dice", "{:.3f}", _MEAN), *_FOLDS],
    "carried": [
        ("squared error outside", "outside", "{:.0f}", _MEAN),
        ("lesion, ml", "lesion_ml", "{:.1f}", _MEAN),
        *_FOLDS,
    ],
    "letter": [
        ("across edges, px", "normal", "{:.2f}", _MEAN),
        ("near the cut, px", "near", "{:.2f}", _MEAN),
        ("in the cut, px", "in_cut", "{:.2f}", _MEAN),
        ("squared error outside", "outside", "{:.1f}", _MEAN),
        ("total", "total", "{:.0f}", _MEAN),
        ("folds", "folds", "{:.0f}", _SUM),
    ],
    "nothing": _FOLDS,
}

#: CPU seconds are given as multiples of this method's.
REFERENCE = {
    "tumor-real": "ants-only", "brains-2mm": "ants-only-long", "tumor-brain-2mm": "greedy-ncc",
    "tumor-brain-1mm": "greedy-ncc", "c-shapes": "greedy-ssd", "2d": "ants-syn",
}  # fmt: skip

_INTRO = """# Benchmarks

Written by `python -m benchmarks.page` from `benchmarks/results/`; do not edit. To measure again:
`python -m benchmarks CASE --data DIR --peers-python PYTHON`.

Every run is a process of its own with {threads} threads, measured from outside. **CPU s** are user and system
seconds of the whole process, imports and files included, of all threads; **call s** are seconds on the clock of
the registration call alone, **wall s** those of the whole process; **MB** is the peak resident memory. Every tool
gets the same files, the same affine (by SimpleITK and mutual information; the samples start from the identity) and,
where its row says so, the same lesion mask; every displacement is read back from the ITK file that the tool wrote and
scored by the same code. Settings were chosen on other subjects than those scored. Times are medians over subjects,
scores are means, folds are sums.
"""


def render(results: Path = store.RESULTS) -> str:
    """Return the page."""
    everything = {name: store.newest(name, results) for name in [*CASES, "startup"]}
    parts = [_machine(everything), "## What was to be reached\n", verdicts(everything)]
    if NOTES.is_file():
        parts += ["## What fell short, and what was seen on the way\n", NOTES.read_text()]
    for name in CASES:
        parts += [f"## {CASES[name].title}\n", f"Case `{name}`.", "", _case(name, everything[name])]
    parts += ["## Letters, learned and optimized\n", letters.render(results)]
    parts += ["## Brain slices, learned and optimized\n", slices.render(results)]
    parts += ["## Hearts: codes of deformations\n", hearts.render(results)]
    parts += ["## Linear + deformable, and the untrained prior\n", three.render(results)]
    parts += ["## Several modalities at once\n", multimodal.render(results)]
    parts += ["## A cohort of tumor brains\n", cohorts.render(results)]
    parts += ["## A template of 24 brains\n", atlas.render(results)]
    parts += ["## Weights that come with mmtk\n", shipped.render(results)]
    parts += ["## Masks that nobody drew\n", masks.render(results)]
    parts += ["## What a learned registration costs\n", learned.render(results)]
    parts += ["## Distillation on synthetic heads\n", distillation.render(results)]
    parts += ["## Studies by `mmtk compare`\n", studies.render(results)]
    parts += ["## Commands that compute nothing\n", _startup(everything["startup"]), _missing(everything)]
    return "\n".join(parts).rstrip() + "\n"


def _machine(everything: Mapping[str, Sequence[Row]]) -> str:
    rows = [row for found in everything.values() for row in found]
    intro = _INTRO.format(threads=rows[0].get("threads", 2) if rows else 2)
    if not rows:
        return intro
    hosts = sorted({_host(row["host"]) for row in rows})
    versions: dict[str, set[str]] = {}
    for row in rows:
        for name, version in row.get("versions", {}).items():
            versions.setdefault(name, set()).add(version)
    dates = sorted(row["date"][:10] for row in rows)
    loads = [max(row["load"]) if isinstance(row["load"], list) else row["load"] for row in rows]
    busy = sum(load > 2.5 for load in loads)
    lines = [
        intro,
        f"- Machine: {'; '.join(hosts)}. No GPU was used.",
        f"- Dates: {dates[0]} to {dates[-1]}.",
        "- Versions: " + ", ".join(f"{n} {'/'.join(sorted(v))}" for n, v in sorted(versions.items())) + ".",
        f"- Load average over the runs: {min(loads):.1f} to {max(loads):.1f}; {busy} of {len(loads)} runs were "
        "made while others used the machine (above 2.5). Their seconds on the clock are too long, up to several "
        "times, and their CPU seconds are inflated as well: compare CPU seconds, and ratios rather than seconds.",
        "",
    ]
    return "\n".join(lines)


def _host(host: Row) -> str:
    return (
        f"{host['cpu']}, {host['cores']} cores, {host['memory_gb']} GB, {host['system']}, Python {host['python']}"
    )


def _case(name: str, rows: Sequence[Row]) -> str:
    if not rows:
        return "Not measured yet.\n"
    if name == "size":
        return _sizes(rows)
    columns = COLUMNS[CASES[name].score]
    groups = _groups(name, rows)
    tables = []
    for title, members in groups:
        if title:
            tables.append(f"**{title}**\n")
        tables.append(_table(name, members, columns))
    return "\n".join(tables)


def _groups(name: str, rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    if name == "c-shapes":
        wide = [row for row in rows if row["subject"].endswith("-wide")]
        close = [row for row in rows if not row["subject"].endswith("-wide")]
        return [("mask that just covers the cut", close), ("mask of twice its area", wide)]
    if name.startswith("tumor-brain"):
        kinds = list(dict.fromkeys(row["subject"].split("/")[0] for row in rows))
        if len(kinds) > 1:
            by_kind = [(kind, [r for r in rows if r["subject"].startswith(f"{kind}/")]) for kind in kinds]
            return [("all lesions", list(rows)), *by_kind]
    return [("", list(rows))]


def _table(case: str, rows: Sequence[Row], columns: Sequence[Column]) -> str:
    heads = ["method", "n", *[head for head, *_ in columns], "call s", "CPU s", "CPU ratio", "MB"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "|".join(["---"] + ["---:"] * (len(heads) - 1)) + "|"]
    reference = _median(_good(rows, REFERENCE.get(case, "")), "cpu")
    order = {name: place for place, name in enumerate(METHODS)}
    for method in sorted({row["method"] for row in rows}, key=lambda m: order.get(m, 999)):
        good = _good(rows, method)
        label = METHODS[method].label.replace("lesion={lesion}", "lesion=grew/collapsed")
        count = _count(rows, method, good)
        if not good:
            lines.append(f"| {label} | {count} |" + " |" * (len(heads) - 2))
            continue
        scores = [shape.format(put([row["scores"][key] for row in good])) for _, key, shape, put in columns]
        call, cpu = _median(good, "call_seconds"), _median(good, "cpu")
        ratio = f"{cpu / reference:.2f}" if reference and cpu else ""
        cost = [f"{call:.1f}", f"{cpu:.1f}", ratio, f"{max(row['rss_mb'] for row in good):.0f}"]
        if method == "start":
            cost = ["", "", "", ""]
        lines.append("| " + " | ".join([label, count, *scores, *cost]) + " |")
    return "\n".join([*lines, ""])


def _good(rows: Iterable[Row], method: str) -> list[Row]:
    return [row for row in rows if row["method"] == method and row["status"] == "ok" and "scores" in row]


def _count(rows: Sequence[Row], method: str, good: Sequence[Row]) -> str:
    bad = [row for row in rows if row["method"] == method and row["status"] != "ok"]
    notes = [
        f"{row['status']} ({row['limit']:.0f} CPU s)" if row["status"] == "out of time" else row["status"]
        for row in bad
    ]
    return " + ".join(([str(len(good))] if good else []) + [f"{notes.count(n)} {n}" for n in dict.fromkeys(notes)])


def _median(rows: Sequence[Row], key: str) -> float:
    found = [row[key] for row in rows if row.get(key) is not None]
    return statistics.median(found) if found else 0.0


def _sizes(rows: Sequence[Row]) -> str:
    lines = ["| n | method | wall s | CPU s | call s | MB |", "|---:|---|---:|---:|---:|---:|"]
    for row in sorted(rows, key=lambda r: (r["method"], int(r["subject"]))):
        head = f"| {row['subject']} | {METHODS[row['method']].label} |"
        if row["status"] == "ok":
            lines.append(
                f"{head} {row['wall']:.1f} | {row['cpu']:.1f} | {row['call_seconds']:.1f} | {row['rss_mb']:.0f} |"
            )
        else:
            lines.append(f"{head} {row['status']} | | | |")
    return "\n".join([*lines, "", "![Cost against size](images/cost_vs_size.png)", ""])


def _startup(rows: Sequence[Row]) -> str:
    if not rows:
        return "Not measured yet.\n"
    lines = ["| command | median s | best s | CPU s | MB | load |", "|---|---:|---:|---:|---:|---:|"]
    for row in rows:
        lines.append(
            f"| `{row['subject']}` | {row['wall']:.2f} | {row['best']:.2f} | {row['cpu']:.2f} "
            f"| {row['rss_mb']:.0f} | {row['load']:.1f} |"
        )
    return "\n".join([*lines, ""])


def _missing(everything: Mapping[str, Sequence[Row]]) -> str:
    lines = []
    for name, case in CASES.items():
        found = {(row["subject"], row["method"]) for row in everything[name]}
        lacking = {m: sum((s.name, m) not in found for s in case.subjects) for m in case.methods}
        absent = [f"{METHODS[m].label} ({n})" for m, n in lacking.items() if n]
        if len(found) == 0:
            lines.append(f"- `{name}`: not measured yet.")
        elif absent:
            lines.append(f"- `{name}`, of {len(case.subjects)} subjects: " + "; ".join(absent) + ".")
    if not everything["startup"]:
        lines.append("- `startup`: not measured yet.")
    if not lines:
        return ""
    return "\n".join(["## Not measured\n", "In brackets: the number of subjects that lack.", "", *lines, ""])


def picture(rows: Sequence[Row], path: Path) -> None:
    """Draw seconds and peak memory against the side of the image."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (seconds, memory) = plt.subplots(1, 2, figsize=(9, 3.6), constrained_layout=True)
    for method in dict.fromkeys(row["method"] for row in rows):
        good = sorted(
            (r for r in rows if r["method"] == method and r["status"] == "ok"), key=lambda r: int(r["subject"])
        )
        sides = [int(row["subject"]) for row in good]
        seconds.plot(sides, [row["cpu"] for row in good], "o-", label=METHODS[method].label)
        memory.plot(sides, [row["rss_mb"] / 1024 for row in good], "o-", label=METHODS[method].label)
    for axes, title in ((seconds, "CPU seconds of the process"), (memory, "peak memory, GB")):
        axes.set(xlabel="voxels a side", title=title, xscale="log", yscale="log")
        ticks = sorted({int(row["subject"]) for row in rows})
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        low, high = axes.get_ylim()
        marks = [mark for mark in (0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500) if low <= mark <= high]
        axes.set_yticks(marks, [str(mark) for mark in marks])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    seconds.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description=__doc__)
    parser.add_argument("--results", type=Path, default=store.RESULTS)
    parser.add_argument("--docs", type=Path, default=DOCS)
    asked = parser.parse_args()
    sizes = store.newest("size", asked.results)
    asked.docs.mkdir(parents=True, exist_ok=True)
    if sizes:
        picture(sizes, asked.docs / "images" / "cost_vs_size.png")
    (asked.docs / "benchmarks.md").write_text(render(asked.results))


if __name__ == "__main__":
    main()
