"""What a comparison of methods on the same cases may claim.

Cases are the unit: the values of a method are one a case (a case's seeds are averaged before they come here, since
repetitions of one case are not further cases). A method is held against the reference on the cases that both have;
the others are left out and counted. Lower, higher, better and worse are no words of this file: a difference is
``method - reference``.

    values    (n,)     one a case, in the order of the cases; NaN: the run failed, or the number has no meaning there

The tests are scipy's. What is added is the exact distribution of Wilcoxon's statistic where differences tie, which
scipy only approximates, Holm's step-down and the rank-biserial correlation.

References:
    F. Wilcoxon, "Individual comparisons by ranking methods", Biometrics Bulletin 1 (1945) 80-83.
    S. Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6 (1979) 65-70.
    D. S. Kerby, "The simple difference formula", Comprehensive Psychology 3 (2014) 11.IT.3.1.
    B. Efron, "Better bootstrap confidence intervals", J. Amer. Statist. Assoc. 82 (1987) 171-185.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

__all__ = [
    "Interval", "Paired", "Summary", "bootstrap_interval", "compare", "holm", "paired", "rank_biserial", "summarize",
    "wilcoxon",
]  # fmt: skip

#: The largest number of differences whose distribution is counted out; beyond it the normal one is near enough.
EXACT = 50

#: Fewer differences than this cannot reach p < 0.05, however they lie: 2 / 2^5 > 0.05.
FEWEST = 6

DRAWS, LEVEL = 9999, 0.95

Interval = tuple[float, float]


@dataclass(frozen=True)
class Summary:
    """How the values of one method lie.

    Attributes:
        n: Values that are there.
        missing: Cases without one.
        sd: With ``n - 1``; NaN for one value.
        q1, q3: The quartiles, interpolated linearly.
    """

    n: int
    missing: int
    mean: float
    sd: float
    median: float
    q1: float
    q3: float


@dataclass(frozen=True)
class Paired:
    """A method against the reference, on the cases that both have.

    Attributes:
        n: Pairs.
        left_out: Cases that one of the two lacks.
        zeros: Pairs without a difference; the test does not count them.
        statistic: Wilcoxon's, the smaller of the two sums of ranks; NaN without a pair.
        p: Two-sided; 1 if there is no difference in any pair, NaN without a pair.
        p_holm: Corrected for the other methods held against the same reference.
        effect: Matched-pairs rank-biserial correlation, in [-1, 1]; above 0 if the method's values are larger.
        mean, median: Of the differences.
        mean_interval, median_interval: Bootstrap confidence intervals; NaN for fewer than two pairs.
    """

    n: int
    left_out: int
    zeros: int
    statistic: float
    p: float
    p_holm: float
    effect: float
    mean: float
    mean_interval: Interval
    median: float
    median_interval: Interval


def summarize(values: Sequence[float] | np.ndarray) -> Summary:
    """Return mean, standard deviation, median and quartiles of the finite values."""
    every = np.asarray(values, dtype=float)
    there = every[np.isfinite(every)]
    n, missing = len(there), len(every) - len(there)
    if not n:
        return Summary(0, missing, *[math.nan] * 5)
    q1, median, q3 = (float(q) for q in np.quantile(there, (0.25, 0.5, 0.75)))
    sd = float(there.std(ddof=1)) if n > 1 else math.nan
    return Summary(n, missing, float(there.mean()), sd, median, q1, q3)


def compare(
    values: Mapping[str, Sequence[float] | np.ndarray], reference: str, *, seed: int = 0, draws: int = DRAWS
) -> dict[str, Paired]:
    """Hold every method against the reference and correct the p-values for their number.

    Args:
        values: By method, one a case, all in one order.
        reference: One of the methods.
        seed: Of the bootstrap. A method's interval depends on it and on the name alone, not on who else is there.
        draws: Of the bootstrap.

    Returns:
        One result for each method but the reference.
    """
    base = values[reference]
    others = [name for name in values if name != reference]
    # The name's checksum, since Python's own hash of text differs from process to process.
    found = {
        name: paired(values[name], base, seed=zlib.crc32(name.encode()) + seed, draws=draws) for name in others
    }
    corrected = holm([found[name].p for name in others])
    return {name: replace(found[name], p_holm=p) for name, p in zip(others, corrected, strict=True)}


def paired(
    method: Sequence[float] | np.ndarray,
    reference: Sequence[float] | np.ndarray,
    *,
    seed: int = 0,
    draws: int = DRAWS,
    level: float = LEVEL,
) -> Paired:
    """Return how a method differs from a reference; its ``p_holm`` is that of a single comparison, ``p``."""
    ours, theirs = (np.asarray(side, dtype=float) for side in (method, reference))
    if ours.shape != theirs.shape:
        raise ValueError(f"{len(ours)} values against {len(theirs)}; give one for each case, NaN where it failed")
    both = np.isfinite(ours) & np.isfinite(theirs)
    off = ours[both] - theirs[both]
    statistic, p = wilcoxon(off)
    mean, median = (float(f(off)) if len(off) else math.nan for f in (np.mean, np.median))
    return Paired(
        n=len(off),
        left_out=int((~both).sum()),
        zeros=int((off == 0).sum()),
        statistic=statistic,
        p=p,
        p_holm=p,
        effect=rank_biserial(off),
        mean=mean,
        mean_interval=bootstrap_interval(off, "mean", seed=seed, draws=draws, level=level),
        median=median,
        median_interval=bootstrap_interval(off, "median", seed=seed, draws=draws, level=level),
    )


def wilcoxon(differences: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Return the signed-rank statistic and its two-sided p-value.

    Differences of 0 are left out, as Wilcoxon did. Up to :data:`EXACT` others the distribution is exact, with ties,
    too; beyond, normal with corrections for ties and continuity.

    Returns:
        The smaller sum of ranks, and p. ``(0, 1)`` where all differences are 0, NaN where there are none.
    """
    every = np.asarray(differences, dtype=float)
    some = every[every != 0]
    if not len(some):
        return (0.0, 1.0) if len(every) else (math.nan, math.nan)
    if len(some) > EXACT:
        found = stats.wilcoxon(some, correction=True, method="approx")
    elif len(np.unique(np.abs(some))) == len(some):
        found = stats.wilcoxon(some, method="exact")
    else:
        return _exact_with_ties(some)
    return float(found.statistic), float(found.pvalue)


def _exact_with_ties(some: np.ndarray) -> tuple[float, float]:
    """Count how many of the ``2^n`` choices of signs give a sum of ranks as small as the one seen."""
    ranks = np.rint(2 * stats.rankdata(np.abs(some))).astype(int)  # doubled: middle ranks are halves
    least = int(min(ranks[some > 0].sum(), ranks[some < 0].sum()))
    share = np.zeros(ranks.sum() + 1)
    share[0] = 1.0
    for rank in ranks:
        share[rank:] = (share[rank:] + share[: len(share) - rank]) / 2
        share[:rank] /= 2
    return least / 2, float(min(1.0, 2 * share[: least + 1].sum()))


def rank_biserial(differences: Sequence[float] | np.ndarray) -> float:
    """Return the share of ranks that speak for larger values, less the share that speaks against.

    Returns:
        In [-1, 1]; 0 where all differences are 0, NaN where there are none.
    """
    every = np.asarray(differences, dtype=float)
    some = every[every != 0]
    if not len(some):
        return 0.0 if len(every) else math.nan
    ranks = stats.rankdata(np.abs(some))
    return float((np.sign(some) * ranks).sum() / ranks.sum())


def bootstrap_interval(
    differences: Sequence[float] | np.ndarray,
    of: str = "mean",
    *,
    seed: int = 0,
    draws: int = DRAWS,
    level: float = LEVEL,
) -> Interval:
    """Return a confidence interval of the mean or the median of differences.

    Bias-corrected and accelerated for the mean; by percentiles for the median, whose jackknife, on which the
    acceleration rests, takes two values only.

    Returns:
        Two numbers that are one where all differences are; NaN for fewer than two.
    """
    off = np.asarray(differences, dtype=float)
    if len(off) < 2:
        return math.nan, math.nan
    if np.ptp(off) == 0:
        return float(off[0]), float(off[0])
    statistic, method = {"mean": (np.mean, "BCa"), "median": (np.median, "percentile")}[of]
    found = stats.bootstrap(
        (off,),
        statistic,
        n_resamples=draws,
        confidence_level=level,
        method=method,
        vectorized=True,
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def holm(p: Sequence[float]) -> list[float]:
    """Return p-values corrected by Holm's step-down; NaN, a comparison that could not be made, does not count."""
    known = sorted((value, index) for index, value in enumerate(p) if not math.isnan(value))
    corrected = [math.nan] * len(p)
    least = 0.0
    for step, (value, index) in enumerate(known):
        least = max(least, min(1.0, (len(known) - step) * value))
        corrected[index] = least
    return corrected
