"""Tables for a paper, in Markdown and LaTeX, and the tests as a CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence

from mmtk.study.analysis import Finding
from mmtk.study.benchmarks import Published
from mmtk.study.statistics import Paired

__all__ = ["as_latex", "as_markdown", "beside_markdown", "p_text", "statistics_csv", "test_cells"]

TESTED = (
    "method",
    "pairs",
    "left out",
    "mean difference [95 %]",
    "median difference [95 %]",
    "p",
    "p (Holm)",
    "effect",
)


def p_text(p: float) -> str:
    """Return a p-value as papers print it."""
    if math.isnan(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def test_cells(finding: Finding, method: str) -> tuple[str, ...]:
    """Return the row of a method's test, in the order of ``TESTED``."""
    test: Paired = finding.tests[method]

    def spread(middle: float, interval: tuple[float, float]) -> str:
        if math.isnan(middle):
            return "–"
        low, high = (finding.text(end, sign=True) for end in interval)
        return f"{finding.text(middle, sign=True)} [{low}, {high}]"

    return (
        method,
        str(test.n),
        str(test.left_out),
        spread(test.mean, test.mean_interval),
        spread(test.median, test.median_interval),
        p_text(test.p),
        p_text(test.p_holm),
        "–" if math.isnan(test.effect) else f"{test.effect:+.2f}".replace("-", "−"),
    )


def as_markdown(findings: Sequence[Finding], reference: str, about: str) -> str:
    """Return all tables: means, medians, and each metric's tests."""
    if not findings:
        return f"{about}\n\nNo run gave a number.\n"
    methods = list(findings[0].values)
    head = ["method", *(finding.label for finding in findings)]
    lines = [about, ""]
    for title, cell in (
        ("Mean (standard deviation)", Finding.mean_sd),
        ("Median [quartiles]", Finding.median_iqr),
    ):
        rows = []
        for method in methods:
            cells = []
            for finding in findings:
                text = cell(finding, method)
                bold = finding.best == method and cell is Finding.mean_sd
                cells.append(f"**{text}**" if bold else text)
            rows.append([method, *cells])
        lines += [f"## {title}", "", *_markdown(head, rows), ""]
    for finding in findings:
        if finding.tests:
            rows = [list(test_cells(finding, method)) for method in finding.tests]
            lines += [f"## {finding.label}: against {reference}", "", *_markdown(list(TESTED), rows), ""]
    return "\n".join(lines)


def by_group(groups: Sequence[tuple[str, int, Sequence[Finding]]]) -> str:
    """Return a table of means for each group of cases."""
    lines = []
    for name, count, findings in groups:
        if findings:
            rows = [[m, *(_bold(f.mean_sd(m), f.best == m) for f in findings)] for m in findings[0].values]
            lines += ["", f"## {name}, {count} case{'s' * (count != 1)}: mean (standard deviation)", ""]
            lines += _markdown(["method", *(finding.label for finding in findings)], rows)
    return "\n".join([*lines, ""]) if lines else ""


def _bold(text: str, wanted: bool) -> str:
    return f"**{text}**" if wanted else text


def beside_markdown(absent: Sequence[tuple[str, str]], published: Sequence[Published]) -> str:
    """Return what was not run: methods whose library is missing, and the tables of others."""
    lines = ["", "## Not run here", "", *(f"- {label}: {why}" for label, why in absent)] if absent else []
    for table in published:
        lines += ["", f"## Published, not run here: {table.title}", "", f"{table.source}. {table.remark}", ""]
        lines += _markdown(["method", *table.columns], [list(row) for row in table.rows])
    return "\n".join([*lines, ""]) if lines else ""


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (head, *rows)]
    rule = "| --- |" + " ---: |" * (len(head) - 1)
    made = [f"| {' | '.join(row)} |" for row in cells]
    return [made[0], rule, *made[1:]]


def as_latex(findings: Sequence[Finding], reference: str, about: str) -> str:
    """Return the same tables for ``booktabs``."""
    if not findings:
        return f"% {about}\n% No run gave a number.\n"
    methods = list(findings[0].values)
    parts = [f"% {about}", "% \\usepackage{booktabs}", ""]
    for title, cell in (
        ("Mean (standard deviation)", Finding.mean_sd),
        ("Median [quartiles]", Finding.median_iqr),
    ):
        rows = []
        for method in methods:
            cells = []
            for finding in findings:
                text = _latex(cell(finding, method))
                bold = finding.best == method and cell is Finding.mean_sd
                cells.append(f"\\textbf{{{text}}}" if bold else text)
            rows.append([_latex(method), *cells])
        parts.append(_tabular(["method", *(_latex(finding.label) for finding in findings)], rows, title))
    for finding in findings:
        if finding.tests:
            rows = [[_latex(text) for text in test_cells(finding, method)] for method in finding.tests]
            title = _latex(f"{finding.label}: against {reference}, two-sided Wilcoxon signed-rank test")
            parts.append(_tabular([_latex(text) for text in TESTED], rows, title))
    return "\n".join(parts)


def _tabular(head: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> str:
    lines = [" & ".join(row) + r" \\" for row in (head, *rows)]
    body = "\n    ".join([r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"])
    return (
        f"\\begin{{table}}\n  \\caption{{{title}.}}\n  \\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}\n    {body}\n"
        f"  \\end{{tabular}}\n\\end{{table}}\n"
    )


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "−": "$-$", "\u202f": r"\,", "–": "--", "<": "$<$",
    "·": r"$\cdot$", "³": "$^3$", "²": "$^2$",
}  # fmt: skip


def _latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)


def statistics_csv(findings: Sequence[Finding], reference: str) -> str:
    """Return every test of every metric, unrounded."""
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow([
        "metric", "method", "reference", "pairs", "left_out", "zeros", "statistic", "p", "p_holm", "effect", "mean",
        "mean_low", "mean_high", "median", "median_low", "median_high",
    ])  # fmt: skip
    for finding in findings:
        for method, test in finding.tests.items():
            numbers = [
                test.statistic,
                test.p,
                test.p_holm,
                test.effect,
                test.mean,
                *test.mean_interval,
                test.median,
            ]
            told = ["" if math.isnan(value) else repr(value) for value in [*numbers, *test.median_interval]]
            rows.writerow([finding.name, method, reference, test.n, test.left_out, test.zeros, *told])
    return table.getvalue()
