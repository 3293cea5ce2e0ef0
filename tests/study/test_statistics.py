"""The statistics against scipy on fixed numbers, against counting, and on noise that holds nothing."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mmtk.study.statistics import (
    bootstrap_interval,
    compare,
    holm,
    paired,
    rank_biserial,
    summarize,
    wilcoxon,
)

OURS = [1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30]
THEIRS = [0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29]


def counted(off: np.ndarray) -> float:
    """The two-sided p-value by going through every choice of signs."""
    off = off[off != 0]
    ranks = stats.rankdata(abs(off))
    seen = min(ranks[off > 0].sum(), ranks[off < 0].sum())
    sums = [np.dot(signs, ranks) for signs in itertools.product((0, 1), repeat=len(off))]
    return min(1.0, 2 * np.mean([total <= seen + 1e-9 for total in sums]))


def test_wilcoxon_is_scipys_on_fixed_numbers():
    found = paired(OURS, THEIRS)
    # Depression scores of Hollander & Wolfe (1973), table 3.1: V = 40, exact p = 0.0390625.
    assert (found.statistic, found.p) == (5.0, pytest.approx(0.0390625))
    known = stats.wilcoxon(np.subtract(OURS, THEIRS), method="exact")
    assert (found.statistic, found.p) == (known.statistic, known.pvalue)
    assert found.effect == pytest.approx((40 - 5) / 45)


def test_beyond_what_is_counted_out_it_is_scipys_approximation():
    off = np.random.default_rng(0).normal(0.2, 1, 120)
    known = stats.wilcoxon(off, correction=True, method="approx")
    assert wilcoxon(off) == (known.statistic, known.pvalue)


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
def test_with_ties_and_zeros_the_p_value_is_the_counted_one(differences):
    off = np.array(differences, float)
    expected = counted(off) if off.any() else 1.0
    assert wilcoxon(off)[1] == pytest.approx(expected)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30))
def test_what_changes_sign_changes_the_effect_and_nothing_else(differences):
    off = np.array(differences)
    assert rank_biserial(-off) == pytest.approx(-rank_biserial(off))
    assert -1 <= rank_biserial(off) <= 1
    assert wilcoxon(-off) == pytest.approx(wilcoxon(off))


def test_methods_with_equal_results_do_not_differ():
    found = compare({"a": OURS, "b": OURS, "c": THEIRS}, "a", draws=200)
    same = found["b"]
    assert (same.n, same.zeros, same.p, same.p_holm, same.effect) == (9, 9, 1.0, 1.0, 0.0)
    assert same.mean_interval == same.median_interval == (0.0, 0.0)
    assert found["c"].p_holm == pytest.approx(2 * found["c"].p)


def test_cases_that_one_of_the_two_lacks_are_left_out_and_counted():
    ours = [math.nan, *OURS, 2.0]
    theirs = [1.0, *THEIRS, math.nan]
    found = paired(ours, theirs, draws=200)
    whole = paired(OURS, THEIRS, draws=200)
    assert (found.n, found.left_out, found.p, found.mean) == (9, 2, whole.p, whole.mean)


def test_without_a_single_pair_there_is_nothing_to_say():
    found = compare({"a": [1.0, 2.0], "b": [math.nan, math.nan], "c": [2.0, 3.0]}, "a", draws=50)
    assert found["b"].n == 0 and math.isnan(found["b"].p) and math.isnan(found["b"].p_holm)
    assert found["c"].p_holm == found["c"].p  # what could not be compared is not corrected for
    with pytest.raises(ValueError, match="one for each case"):
        paired([1.0], [1.0, 2.0])


def test_holm_on_fixed_numbers():
    # R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_raises_p_values_keeps_their_order_and_stays_below_bonferroni(p):
    corrected = holm(p)
    assert all(a <= b <= 1 and b <= max(a, min(1, len(p) * a)) for a, b in zip(p, corrected, strict=True))
    order = np.argsort(p, kind="stable")
    assert (np.diff(np.array(corrected)[order]) >= 0).all()


def test_summary_on_fixed_numbers():
    found = summarize([1.0, 2.0, 3.0, 4.0, math.nan])
    assert (found.n, found.missing, found.mean, found.median, found.q1, found.q3) == (4, 1, 2.5, 2.5, 1.75, 3.25)
    assert found.sd == pytest.approx(math.sqrt(5 / 3))
    assert summarize([]).n == 0 and math.isnan(summarize([2.0]).sd)


def test_the_bootstrap_is_seeded_and_does_not_depend_on_who_else_is_compared():
    three = {"a": OURS, "b": THEIRS, "c": list(reversed(OURS))}
    alone = {"a": OURS, "b": THEIRS}
    one, other = compare(three, "a", seed=3, draws=500)["b"], compare(alone, "a", seed=3, draws=500)["b"]
    assert one.mean_interval == other.mean_interval and one.median_interval == other.median_interval
    assert compare(alone, "a", seed=4, draws=500)["b"].mean_interval != one.mean_interval


def test_the_interval_of_the_mean_covers_it_as_often_as_it_says():
    noise = np.random.default_rng(1)
    draws = 400
    hits = 0
    for index in range(draws):
        low, high = bootstrap_interval(noise.normal(1.0, 2.0, 30), seed=index, draws=300)
        hits += low <= 1.0 <= high
    # BCa is a little short at n = 30: 93 to 94 % for a nominal 95 %.
    assert stats.binomtest(hits, draws, 0.935).pvalue > 1e-3


@pytest.mark.parametrize("n", [12, 30, 60])
def test_on_exchangeable_noise_one_test_in_twenty_is_wrong(n):
    """Both methods draw from one skewed distribution, with a common part for each case, as real results have."""
    noise = np.random.default_rng(n)
    draws = 1000
    case = noise.exponential(2.0, (draws, n))
    ours, theirs = (case + noise.exponential(1.0, (draws, n)) for _ in range(2))
    wrong = sum(wilcoxon(off)[1] <= 0.05 for off in ours - theirs)
    # The statistic is discrete: the level that can be reached lies just below 5 %.
    assert stats.binomtest(wrong, draws, 0.048).pvalue > 1e-3, wrong


def test_on_exchangeable_noise_holm_keeps_the_whole_family_at_five_percent():
    noise = np.random.default_rng(5)
    draws, n, methods = 400, 20, 4
    values = noise.normal(size=(draws, methods + 1, n)) + noise.normal(0, 2, (draws, 1, n))
    wrong = 0
    for drawn in values:
        p = [wilcoxon(drawn[i] - drawn[0])[1] for i in range(1, methods + 1)]
        wrong += min(holm(p)) <= 0.05
    # Comparisons with one reference hang together, so that fewer than 5 % are wrong; far fewer would be a mistake, too.
    assert stats.binomtest(wrong, draws, 0.05, alternative="greater").pvalue > 1e-3
    assert wrong > 0.02 * draws
