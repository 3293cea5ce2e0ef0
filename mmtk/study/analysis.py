"""What a study's numbers say: for each metric how the methods lie, and how they differ from the reference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmtk.config import nearest
from mmtk.errors import ConfigError
from mmtk.report.words import METRICS
from mmtk.study.benchmarks import Benchmark
from mmtk.study.results import Record, Results
from mmtk.study.statistics import FEWEST, Paired, Summary, compare, summarize

__all__ = ["Finding", "analyse", "doubts", "headline", "primary_of", "usual_of", "worst"]

#: Metrics of the headline unless a study names its own; of groups in which one stands for the others, the first.
HEADLINE = (
    "truth.outside_mm",
    "truth.near_mm",
    "truth.edges_mm",
    "landmarks.landmark_error_median_mm",
    "landmarks.landmark_error_mean_mm",
    "landmarks.robustness",
    "overlap.dice_mean",
    "overlap.hd95_mean_mm",
    "similarity.squared_error_outside",
    "deformation.folds",
    "deformation.sdlogj",
    "lesion.volume_kept",
    "disentanglement.appearance_energy_outside",
    "disentanglement.share_explained_by_shape",
    "cost.register_s",
    "cost.peak_memory_mb",
)

#: Of these the larger is the better; of ``NEITHER`` none; of all others the smaller.
HIGHER = {"correlation_outside", "dice_mean", "surface_dice_mean", "robustness", "jacobian_min"}
NEITHER = {
    "volume_kept", "share_explained_by_shape", "volume_ml", "warped_volume_ml", "mass_effect", "mass_effect_ml",
    "jacobian_max", "displacement_mean_mm", "displacement_max_mm", "labels", "landmarks", "labels_missing",
}  # fmt: skip

COST = {
    "register_s": ("registration, s", "wall time of the method itself, images read and placed"),
    "wall_s": ("time, s", "wall time of the process, from its start to the last file written"),
    "cpu_s": ("processor, s", "time of all threads, from the process's start to the last file written"),
    "peak_memory_mb": ("peak memory, MB", "of the whole process"),
}


@dataclass(frozen=True)
class Finding:
    """One metric.

    Attributes:
        name: ``group.metric``.
        better: -1 where less is better, 1 where more is, 0 where neither.
        values: By method, one a case.
        tests: By method, less the reference.
        aside: Methods that cannot be the best and are not tested, since they register nothing: identity, oracle.
    """

    name: str
    label: str
    meaning: str
    better: int
    values: Mapping[str, Sequence[float]]
    summaries: Mapping[str, Summary]
    tests: Mapping[str, Paired]
    aside: frozenset[str] = frozenset()

    @property
    def best(self) -> str | None:
        """The method with the best mean, of those that miss the fewest cases; None where two share it."""
        if not self.better:
            return None
        rivals = {method: s for method, s in self.summaries.items() if method not in self.aside}
        most = max((s.n for s in rivals.values()), default=0)
        means = {method: self.better * s.mean for method, s in rivals.items() if s.n and s.n == most}
        top = [method for method, mean in means.items() if mean == max(means.values())]
        return top[0] if len(top) == 1 and len(rivals) > 1 else None

    @property
    def decimals(self) -> int:
        """Digits behind the point that show two of a typical standard deviation."""
        spreads = sorted(s.sd for s in self.summaries.values() if s.sd > 0) or [
            abs(s.mean) / 10 for s in self.summaries.values() if abs(s.mean) > 0
        ]
        if not spreads:
            return 0
        return max(0, min(6, 1 - math.floor(math.log10(spreads[len(spreads) // 2]))))

    def text(self, value: float, sign: bool = False) -> str:
        """Return a value as tables show it; a dash for none."""
        if not math.isfinite(value):
            return "–"
        return f"{value:{'+' if sign else ''},.{self.decimals}f}".replace(",", "\u202f").replace("-", "−")

    def mean_sd(self, method: str) -> str:
        """``mean (sd)``"""
        summary = self.summaries[method]
        return f"{self.text(summary.mean)} ({self.text(summary.sd)})" if summary.n else "–"

    def median_iqr(self, method: str) -> str:
        """``median [q1, q3]``"""
        s = self.summaries[method]
        return f"{self.text(s.median)} [{self.text(s.q1)}, {self.text(s.q3)}]" if s.n else "–"


def headline(results: Results, wanted: Sequence[str] | None, usual: Sequence[str] = HEADLINE) -> list[str]:
    """Return the metrics that head the page.

    Args:
        wanted: What the study asks for; None: those of ``usual`` that the results have.

    Raises:
        ConfigError: One that was asked for is in no result.
    """
    known = results.metrics
    if wanted is not None:
        problems = [
            f"metrics={name}: is in no result{nearest(name, known) or '; there are ' + ', '.join(known)}"
            for name in wanted
            if name not in known
        ]
        if problems and known:
            raise ConfigError(problems)
        return [name for name in wanted if name in known]
    return [name for name in usual if name in known and not _empty(results, name)]


def _empty(results: Results, name: str) -> bool:
    return not any(math.isfinite(v) for values in results.values(name).values() for v in values)


def primary_of(results: Results, wanted: str | None, heading: Sequence[str]) -> str | None:
    """Return the metric by which cases are called worst: the one that was asked for, or the first of the headline."""
    if wanted is not None:
        return headline(results, [wanted])[0] if results.metrics else None
    return heading[0] if heading else None


def usual_of(benchmarks: Mapping[str, Benchmark]) -> Sequence[str]:
    """Return the columns that the benchmarks of a study ask for, each once; without any, those of every study."""
    cost = [
        name for name in dict.fromkeys(n for one in benchmarks.values() for n in one.metrics) if _is_cost(name)
    ]
    own = [name for one in benchmarks.values() for name in one.metrics if not _is_cost(name)]
    return [*dict.fromkeys(own), *cost] or HEADLINE


def _is_cost(name: str) -> bool:
    return name.startswith("cost.")


def analyse(
    results: Results,
    names: Sequence[str],
    seed: int | None = 0,
    benchmarks: Mapping[str, Benchmark] | None = None,
    aside: frozenset[str] = frozenset(),
) -> list[Finding]:
    """Return what is found of each metric.

    Args:
        seed: Of the bootstrap; None: no tests.
        benchmarks: Those that gave cases, by kind: they say what their own numbers mean.
        aside: Methods that register nothing.
    """
    own = {
        f"{kind}.{name}": measure
        for kind, benchmark in (benchmarks or {}).items()
        for name, measure in benchmark.measures.items()
    }
    found = []
    for name in names:
        plain = name.partition(".")[2]
        first, _, rest = plain.partition(".")
        label, meaning = COST.get(first) or METRICS.get(
            first.removesuffix("_before"), (first.replace("_", " "), "")
        )
        label += f" · {rest}" if rest else ""
        label += " · before" if first.endswith("_before") else ""
        if name in own:
            label, meaning, better = own[name].label, own[name].meaning, own[name].better
        elif first in HIGHER:
            better = 1
        else:
            better = 0 if first in NEITHER or first.endswith("_before") else -1
        values = results.values(name)
        held = {m: numbers for m, numbers in values.items() if m not in aside or m == results.reference}
        found.append(
            Finding(
                name=name,
                label=label,
                meaning=meaning,
                better=better,
                values=values,
                summaries={method: summarize(numbers) for method, numbers in values.items()},
                tests=compare(held, results.reference, seed=seed)
                if seed is not None and results.reference in values
                else {},
                aside=aside,
            )
        )
    return found


def worst(results: Results, finding: Finding) -> dict[str, Record]:
    """Return, by method, the run of its worst case; of several seeds the worst one."""
    found: dict[str, Record] = {}
    for record in results.records:
        value = record.metrics.get(finding.name, math.nan)
        if record.failed or not math.isfinite(value):
            continue
        held = found.get(record.method)
        if held is None or finding.better * value < finding.better * held.metrics[finding.name]:
            found[record.method] = record
    return found


def doubts(results: Results, findings: Sequence[Finding]) -> list[tuple[str, str]]:
    """Return what a careful reader would object to: rank (grave, doubt, note) and sentence."""
    told: list[tuple[str, str]] = []
    for method in results.methods:
        failed = [record for record in results.failures if record.method == method]
        if failed:
            count = sum(record.method == method for record in results.records)
            told.append(
                (
                    "grave",
                    f"{method} failed in {len(failed)} of {count} runs; those cases are left out of its rows",
                )
            )
    pairs = max((test.n for finding in findings for test in finding.tests.values()), default=0)
    if findings and 0 < pairs < FEWEST:
        told.append(
            ("doubt", f"With {pairs} cases no signed-rank test can reach p < 0.05, however large the difference; "
             f"{FEWEST} is the least.")
        )  # fmt: skip
    if len(results.methods) == 1:
        told.append(("note", "There is one method: nothing is compared."))
    return told
