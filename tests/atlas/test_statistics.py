"""Limits, permutation tests and sums, against scipy and plain numpy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, chi2_contingency, false_discovery_control, pearsonr

from mmtk.atlas.statistics import column_of, permutation_test, pick_columns, wilson
from mmtk.atlas.sums import Sums
from mmtk.errors import ConfigError


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.5, 0.999))
def test_limits_are_those_of_scipy(counts, confidence):
    count, cases = counts
    lower, upper = wilson(np.array([count]), cases, confidence)
    known = binomtest(count, cases).proportion_ci(confidence, method="wilson")
    assert lower[0] == pytest.approx(known.low, abs=1e-12) and upper[0] == pytest.approx(known.high, abs=1e-12)
    assert 0 <= lower[0] <= count / cases <= upper[0] <= 1


def test_statistics_are_those_of_scipy():
    draw = np.random.default_rng(0)
    lesions = (draw.random((30, 6)) < 0.4).astype(float)
    words = column_of("sex", list(draw.choice(["f", "m", "x"], 30)))
    found = permutation_test(words, [lesions], permutations=19)
    for voxel in range(6):
        table = [[((words.values == g) & (lesions[:, voxel] == y)).sum() for y in (0, 1)] for g in range(3)]
        assert found.statistic[voxel] == pytest.approx(chi2_contingency(table, correction=False).statistic)
    ages = column_of("age", [f"{age:.3f}" for age in draw.random(30)])
    found = permutation_test(ages, [lesions], permutations=19)
    for voxel in range(6):
        assert found.statistic[voxel] == pytest.approx(
            30 * pearsonr(ages.values, lesions[:, voxel]).statistic ** 2
        )


def test_blocks_change_nothing_and_the_false_discoveries_are_scipys():
    draw = np.random.default_rng(1)
    lesions = (draw.random((20, 50)) < 0.3).astype(np.uint8)
    lesions[0], lesions[1] = 1, 0
    column = column_of("outcome", ["dead", "alive"] * 10)
    whole = permutation_test(column, [lesions], permutations=199, seed=3)
    parts = permutation_test(column, np.array_split(lesions, 7, axis=1), permutations=199, seed=3)
    for name in ("statistic", "p", "p_family", "p_false"):
        assert np.array_equal(getattr(whole, name), getattr(parts, name))
    assert np.array_equal(whole.p_false, false_discovery_control(whole.p))
    assert (whole.p_family >= whole.p).all() and whole.p.min() >= 1 / 200
    other = permutation_test(column, [lesions], permutations=199, seed=4)
    assert not np.array_equal(whole.p, other.p)


def test_under_the_null_p_is_uniform_and_the_family_is_kept():
    draw = np.random.default_rng(2)
    trials = 400
    p, family = [], []
    for trial in range(trials):
        lesions = (draw.random((40, 20)) < 0.4).astype(float)
        column = column_of("age", [f"{x:.6f}" for x in draw.random(40)])
        found = permutation_test(column, [lesions], permutations=99, seed=trial)
        p.append(found.p[0])
        family.append(found.p_family.min())
    for level in (0.05, 0.1, 0.25, 0.5, 0.75):
        # A band that a right test leaves once in 10,000 times.
        low, high = binom.interval(1 - 1e-4, trials, level)
        assert low <= (np.array(p) <= level).sum() <= high
        assert low <= (np.array(family) <= level).sum() <= high


def test_an_effect_is_found():
    draw = np.random.default_rng(5)
    group = np.arange(60) % 2
    lesions = (draw.random((60, 100)) < 0.3).astype(float)
    lesions[:, 7] = draw.random(60) < np.where(group, 0.9, 0.1)
    column = column_of("sex", ["fm"[g] for g in group])
    found = permutation_test(column, [lesions], permutations=1999)
    assert found.p_family[7] == 1 / 2000 and found.p_false[7] < 0.1
    assert (found.p_family < 0.05).sum() <= 2


@pytest.mark.parametrize(
    ("cells", "told"),
    [
        (["a", "a"], "all cases have the same"),
        (["", ""], "every cell is empty"),
        ([f"id{n}" for n in range(20)], "at most 12"),
    ],
)
def test_a_column_without_a_comparison_is_one_sentence(cells, told):
    with pytest.raises(ConfigError, match=told):
        column_of("x", cells)


def test_numbers_with_few_values_are_groups_and_empty_cells_are_left_out():
    grade = column_of("grade", ["2", "4", "", "2"])
    assert grade.groups == ("2", "4") and list(grade.values) == [0, 1, 0] and list(grade.known) == [1, 1, 0, 1]
    assert column_of("age", [str(n) for n in range(8)]).groups == ()
    with pytest.raises(ConfigError, match="did you mean 'age'"):
        pick_columns("agee", ["age", "sex"])


def test_sums_are_those_of_numpy_and_a_patient_joins_later(tmp_path):
    draw = np.random.default_rng(0)
    lesions = draw.random((7, 5, 6, 3)) < 0.3
    whole = Sums.open(tmp_path, (5, 6, 3), ("lesion", "tissue_1"))
    for n in range(4):
        whole.add(f"p{n}", "d", lesions[n], {"tissue_1": ~lesions[n]})
    whole.save()
    whole.add("lost", "d", lesions[6], {"tissue_1": ~lesions[6]})  # and then the process was killed
    later = Sums.open(tmp_path, (5, 6, 3), ("lesion", "tissue_1"))
    assert list(later.cases) == ["p0", "p1", "p2", "p3"]
    for n in (4, 5):
        later.add(f"p{n}", "d", lesions[n], {"tissue_1": ~lesions[n]})
    assert np.array_equal(later.counts[0], lesions[:6].sum(axis=0))
    assert np.array_equal(later.counts[1], (~lesions[:6]).sum(axis=0))
    assert np.array_equal(np.stack([lesion for _, lesion in later.rows()]), lesions[:6])
    kept = draw.random((5, 6, 3)) < 0.5
    blocks = list(later.blocks(kept, most=9 * 6 * 10))
    assert max(len(voxels) for voxels, _ in blocks) == 10
    assert np.array_equal(np.concatenate([b for _, b in blocks], axis=1), lesions[:6][:, kept])
    with pytest.raises(ConfigError, match="holds an atlas of 5x6x3 voxels"):
        Sums.open(tmp_path, (5, 6, 4), ("lesion", "tissue_1"))
