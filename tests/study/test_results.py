"""From records to tables: what is averaged, left out, called best, and drawn."""

import csv
import math
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmtk.errors import ConfigError
from mmtk.study.analysis import HEADLINE, analyse, doubts, headline, usual_of, worst
from mmtk.study.benchmarks import Benchmark, Measure
from mmtk.study.plots import _Scale, accuracy_against_time, boxes, differences
from mmtk.study.results import Record, Results, write_csv
from mmtk.study.tables import as_latex, as_markdown, statistics_csv


def record(method: str, case: str, value: float | None, seed: int = 0, **more: float) -> Record:
    failed = value is None
    metrics = (
        {"cost.register_s": 2.0, **more} if failed else {"truth.outside_mm": value, "cost.register_s": 1.0, **more}
    )
    return Record(case, method, seed, "key", failed, "memory ran out" if failed else "", metrics, (), Path(case))


@pytest.fixture
def results() -> Results:
    ours = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    records = [record("a", f"c{i}", x) for i, x in enumerate(ours)]
    records += [record("b_1", f"c{i}", x + 1 + i / 10 if i else None) for i, x in enumerate(ours)]
    return Results(records, "a")


def test_a_failed_case_is_left_out_of_the_pairs_and_counted(results):
    (finding,) = analyse(results, ["truth.outside_mm"])
    test = finding.tests["b_1"]
    assert (test.n, test.left_out, test.effect) == (6, 1, 1.0)
    assert test.p == pytest.approx(2 / 2**6)
    assert (finding.summaries["b_1"].n, finding.summaries["b_1"].missing) == (6, 1)
    assert finding.best == "a"
    ((rank, sentence),) = doubts(results, [finding])
    assert rank == "grave" and sentence.startswith("b_1 failed in 1 of 7 runs")


def test_seeds_are_averaged_and_no_further_cases():
    records = [
        record("a", "c", 1.0, 0),
        record("a", "c", 3.0, 1),
        record("a", "d", 1.0, 0),
        record("a", "d", None, 1),
    ]
    values = Results(records, "a").values("truth.outside_mm")["a"]
    assert values[0] == 2.0 and math.isnan(values[1])  # one seed that failed: the case failed


def test_the_worst_case_is_the_largest_error_and_the_smallest_overlap():
    records = [
        record("a", "c", 1.0, **{"overlap.dice_mean": 0.9}),
        record("a", "d", 3.0, **{"overlap.dice_mean": 0.8}),
    ]
    results = Results([*records, record("a", "e", None)], "a")
    for finding in analyse(results, ["truth.outside_mm", "overlap.dice_mean"]):
        assert worst(results, finding)["a"].case == "d"


def test_a_metric_that_no_run_has_is_refused(results):
    assert headline(results, None) == ["truth.outside_mm", "cost.register_s"]
    with pytest.raises(
        ConfigError, match=r"metrics=truth.outsid_mm: is in no result; did you mean 'truth.outside_mm'"
    ):
        headline(results, ["truth.outsid_mm"])


def test_with_too_few_cases_it_is_said_that_nothing_can_be_shown():
    results = Results([record(m, c, 1.0) for m in "ab" for c in "cde"], "a")
    told = doubts(results, analyse(results, ["truth.outside_mm"]))
    assert told == [("doubt", told[0][1])] and "With 3 cases no signed-rank test can reach p < 0.05" in told[0][1]


def test_the_table_is_tidy(results, tmp_path):
    text = write_csv(tmp_path / "r.csv", results.records).read_text()
    rows = list(csv.DictReader(text.splitlines()))
    assert len({(r["case"], r["method"], r["seed"], r["group"], r["metric"]) for r in rows}) == len(rows)
    failed = [r for r in rows if r["metric"] == "failed" and r["value"] == "1"]
    assert [(r["case"], r["method"], r["message"]) for r in failed] == [("c0", "b_1", "memory ran out")]
    assert {r["value"] for r in rows if r["metric"] == "outside_mm" and r["method"] == "a"} == set("1234567")


def test_tables_for_a_paper(results):
    findings = analyse(results, ["truth.outside_mm", "cost.register_s"])
    markdown = as_markdown(findings, "a", "about")
    assert "| a | **4.0 (2.2)** | **1.00 (0.00)** |" in markdown
    assert "| a | 4.0 [2.5, 5.5] |" in markdown
    assert re.search(
        r"\| b_1 \| 6 \| 1 \| \+1.[34] \[\+1.\d, \+1.\d\] \|.*\| 0.031 \| 0.031 \| \+1.00 \|", markdown
    )
    latex = as_latex(findings, "a", "about")
    assert r"\textbf{4.0 (2.2)}" in latex and r"b\_1 &" in latex
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 4
    rows = list(csv.DictReader(statistics_csv(findings, "a").splitlines()))
    assert rows[0]["p"] == repr(2 / 2**6) and rows[0]["left_out"] == "1"


def test_plots_are_whole_and_name_every_case(results):
    finding, time = analyse(results, ["truth.outside_mm", "cost.register_s"])
    for plot in (boxes(finding, results.cases), differences(finding, "a", results.cases)):
        tree = ElementTree.fromstring(plot)
        titles = [element.text for element in tree.iter("title")]
        assert sum(title.startswith("c3:") for title in titles) == (2 if "a box" in plot else 1)
        assert not any(word in plot for word in ("nan", "inf"))
    # By the corrected test the other one is worse: p = 0.031, and less is better.
    assert 'class="mean worse"' in differences(finding, "a", results.cases)
    assert len(list(ElementTree.fromstring(accuracy_against_time(finding, time)).iter("circle"))) == 2


def test_names_are_text_wherever_they_go():
    records = [record(m, f"c{i}", 1.0 + i) for m in ("a", "b&c") for i in range(3)]
    finding, time = analyse(Results(records, "a"), ["truth.outside_mm", "cost.register_s"])
    for plot in (boxes(finding, "xyz"), differences(finding, "a", "xyz"), accuracy_against_time(finding, time)):
        assert "b&c" in "".join(ElementTree.fromstring(plot).itertext())


def test_errors_of_different_sizes_are_drawn_on_a_logarithmic_axis():
    for large, log in ((90.0, False), (900.0, True)):
        records = [record(m, f"c{i}", x) for m, x in (("a", 2.0), ("b", large)) for i in range(3)]
        finding, time = analyse(Results(records, "a"), ["truth.outside_mm", "cost.register_s"])
        assert ("(median, logarithmic)" in accuracy_against_time(finding, time).partition("rotate")[2]) == log


def test_rows_that_register_nothing_are_neither_the_best_nor_tested():
    records = [record(m, f"c{i}", x + i) for m, x in (("a", 2.0), ("b", 3.0), ("oracle", 0.0)) for i in range(7)]
    (finding, time) = analyse(
        Results(records, "a"), ["truth.outside_mm", "cost.register_s"], aside=frozenset({"oracle"})
    )
    assert finding.best == "a" and list(finding.tests) == ["b"]
    assert finding.tests["b"].p_holm == finding.tests["b"].p, "there is one comparison"
    assert ">oracle<" in boxes(finding, [f"c{i}" for i in range(7)])
    assert ">oracle<" not in accuracy_against_time(finding, time)
    # As a reference it is held against.
    (finding,) = analyse(Results(records, "oracle"), ["truth.outside_mm"], aside=frozenset({"oracle"}))
    assert list(finding.tests) == ["a", "b"] and finding.best == "a"


def test_benchmarks_say_which_columns_there_are_and_what_their_own_numbers_mean():
    class Mine(Benchmark):
        metrics = ("cost.register_s", "mine.glue", "truth.outside_mm", "landmarks.robustness")
        measures = {"glue": Measure("glue, %", "how much of it sticks", 1)}

        def cases(self, folder):
            return []

    class Other(Mine):
        metrics = ("similarity.correlation_outside", "truth.outside_mm")
        measures = {}

    both = {"mine": Mine(), "other": Other()}
    usual = usual_of(both)
    assert usual == [
        "mine.glue", "truth.outside_mm", "landmarks.robustness", "similarity.correlation_outside", "cost.register_s",
    ]  # fmt: skip
    more = {"mine.glue": 4.0, "similarity.correlation_outside": 0.5}
    results = Results([record(m, c, 1.0, **more) for m in "ab" for c in "cde"], "a")
    assert headline(results, None, usual) == [name for name in usual if name != "landmarks.robustness"]
    assert headline(results, ["truth.outside_mm"], usual) == ["truth.outside_mm"], "what a study says counts first"
    (glue,) = analyse(results, ["mine.glue"], benchmarks=both)
    assert (glue.label, glue.better) == ("glue, %", 1)
    assert usual_of({}) == HEADLINE


@given(st.floats(1e-4, 1e4), st.floats(1.001, 1e5))
def test_an_axis_has_two_numbers_at_least_and_none_beyond_its_ends(least, factor):
    for log in (False, True):
        scale = _Scale([least, least * factor], 0, 600, log=log)
        ticks = scale.ticks()
        assert len(ticks) >= 2 and all(-1e-6 <= scale(tick) <= 600 + 1e-6 for tick in ticks), (log, ticks)
