"""What a study leaves beside its numbers: ``report.html``, ``tables.md``, ``tables.tex``, ``statistics.csv``."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmtk.errors import MmtkError
from mmtk.io import write_text
from mmtk.study.analysis import Finding, analyse, doubts, headline, primary_of, usual_of, worst
from mmtk.study.benchmarks import Published
from mmtk.study.description import Study
from mmtk.study.plots import accuracy_against_time, boxes, differences
from mmtk.study.results import Record, Results
from mmtk.study.tables import TESTED, as_latex, as_markdown, beside_markdown, by_group, statistics_csv, test_cells

__all__ = ["write_page"]

#: The longest edge of a picture of a worst case, pixels.
LONGEST = 1500

#: Columns for each group of cases: its name, how many cases it has, findings without tests.
Groups = list[tuple[str, int, list[Finding]]]

#: Time that accuracy is drawn against.
TIME = "cost.register_s"


@dataclass(frozen=True)
class Shot:
    """A worst case on the page; ``data`` is a JPEG in base64, empty if the run's folder cannot be read."""

    method: str
    case: str
    seed: int
    value: str
    link: str
    data: str
    width: int
    height: int


def write_page(study: Study, records: Sequence[Record], out: Path) -> Path:
    """Write page and tables of a study that was carried out, and return the page.

    Args:
        records: All of it.
        out: The study's folder.

    Raises:
        ConfigError: A metric that the study names is in no result.
    """
    results = Results(records, study.reference)
    benchmarks = study.benchmarks
    heading = headline(results, study.config.metrics, usual_of(benchmarks))
    primary = primary_of(results, study.config.primary, heading)
    names = list(dict.fromkeys([*([primary] if primary else []), *heading, *results.metrics]))
    aside = frozenset(e.label for e in study.entries if not e.recipe.method.capabilities.registers)
    findings = {f.name: f for f in analyse(results, names, study.config.bootstrap_seed, benchmarks, aside)}
    main = [findings[name] for name in dict.fromkeys([*([primary] if primary else []), *heading])]
    others = [findings[name] for name in results.metrics if findings[name] not in main]
    about = f"{study.title}: {_summary(study, results)}"
    beside = beside_markdown(absent_of(study), published_of(study))
    groups = _groups(results, main, study, out)
    write_text(out / "tables.md", as_markdown(main, study.reference, about) + by_group(groups) + beside)
    write_text(out / "tables.tex", as_latex(main, study.reference, about))
    write_text(out / "statistics.csv", statistics_csv(list(findings.values()), study.reference))
    shots = [] if primary is None else _shots(results, findings[primary], out)
    return write_text(out / "report.html", _page(study, results, main, others, shots, groups, out))


def _summary(study: Study, results: Results) -> str:
    counts = ((len(results.methods), "method"), (len(results.cases), "case"), (len(study.config.seeds), "seed"))
    told = ", ".join(f"{count} {word}{'' if count == 1 else 's'}" for count, word in counts)
    absent = f"; not run: {', '.join(entry.label for entry in study.absent)}" if study.absent else ""
    failed = f"; {len(results.failures)} of {len(results.records)} runs failed" if results.failures else ""
    return f"{told}; reference: {study.reference}{failed}{absent}"


def _page(
    study: Study,
    results: Results,
    main: list[Finding],
    others: list[Finding],
    shots: list[Shot],
    groups: Groups,
    out: Path,
) -> str:
    from jinja2 import Environment, FileSystemLoader

    import mmtk.report

    folders = FileSystemLoader([Path(__file__).parent, Path(mmtk.report.__file__).parent])
    environment = Environment(loader=folders, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    account: Mapping[str, Any] = json.loads((out / "study.json").read_text(encoding="utf-8"))
    time = next((f for f in (*main, *others) if f.name == TIME), None)
    scatter = "" if time is None or not main or main[0] is time else accuracy_against_time(main[0], time)
    details = [
        (
            f,
            boxes(f, results.cases),
            differences(f, study.reference, results.cases) if f.tests else "",
            [test_cells(f, method) for method in f.tests],
        )
        for f in main
    ]
    jobs = study.config.jobs or max(1, (os.cpu_count() or 1) // study.config.threads)
    return environment.get_template("page.html").render(
        title=study.title,
        summary=_summary(study, results),
        doubts=doubts(results, main),
        methods=results.methods,
        reference=study.reference,
        compared=len(main[0].tests) if main else 0,
        seeds=len(study.config.seeds),
        threads=study.config.threads,
        jobs=jobs,
        findings=main,
        others=others,
        details=details,
        tested=TESTED,
        scatter=scatter,
        groups=groups,
        primary=main[0] if main else None,
        worst=shots,
        failures=[(record, _log_link(record, out)) for record in results.failures],
        absent=absent_of(study),
        published=published_of(study),
        notes=_notes(study),
        command=account.get("command"),
        study=json.dumps(account["study"], indent=2, ensure_ascii=False),
        bootstrap_seed=study.config.bootstrap_seed,
        versions={**account["versions"], "processor": account["machine"]["processor"]},
    )


def _groups(results: Results, main: Sequence[Finding], study: Study, out: Path) -> Groups:
    """Return the columns of the page for each group of cases, where there are several: group, cases, findings."""
    account = json.loads((out / "study.json").read_text(encoding="utf-8"))
    group_of = {case["name"]: case.get("group", "") for case in account["cases"]}
    names = list(dict.fromkeys(group_of.get(case, "") for case in results.cases))
    if len(names) < 2:
        return []
    found = []
    for name in names:
        part = Results([r for r in results.records if group_of.get(r.case, "") == name], results.reference)
        columns = [f.name for f in main]
        findings = analyse(part, columns, None, study.benchmarks, main[0].aside if main else frozenset())
        found.append((name or "others", len(part.cases), findings))
    return found


def absent_of(study: Study) -> list[tuple[str, str]]:
    """Return the methods that could not run here, each with the reason."""
    return [(entry.label, entry.missing) for entry in study.absent]


def published_of(study: Study) -> list[Published]:
    """Return the tables of others that the study's benchmarks bring along."""
    return [table for benchmark in study.benchmarks.values() for table in benchmark.published]


def _log_link(record: Record, out: Path) -> str:
    """Return where a run's log lies, from the page; empty if it is gone."""
    log = record.folder.with_name(f"{record.folder.name}.log")
    return os.path.relpath(log, out.resolve()).replace(os.sep, "/") if log.is_file() else ""


def _notes(study: Study) -> list[str]:
    notes = [note for benchmark in study.benchmarks.values() for note in benchmark.notes]
    blind = [entry.label for entry in study.entries if not entry.masked]
    if blind:
        notes.append(f"Not given the lesions' masks: {', '.join(blind)}.")
    told = [entry.label for entry in study.entries if entry.told]
    if told:
        notes.append(f"Told what is known of each case, such as whether the lesion grew: {', '.join(told)}.")
    return notes


def _shots(results: Results, finding: Finding, out: Path) -> list[Shot]:
    if not finding.better:
        return []
    found = worst(results, finding)
    return [_shot(found[method], finding, out) for method in results.methods if method in found]


def _shot(record: Record, finding: Finding, out: Path) -> Shot:
    from PIL import Image

    from mmtk.report.findings import read_findings
    from mmtk.report.overview import make_overview

    data, size = "", (0, 0)
    try:
        found, _ = read_findings(record.folder)
        picture = Image.open(io.BytesIO(make_overview(found))).convert("RGB")
        picture.thumbnail((LONGEST, LONGEST))
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=88)
        data, size = base64.b64encode(file.getvalue()).decode("ascii"), picture.size
    except (MmtkError, OSError):
        pass  # the folder was thinned out since; the numbers stand
    return Shot(
        record.method,
        record.case,
        record.seed,
        finding.text(record.metrics[finding.name]),
        os.path.relpath(record.folder / "report.html", out.resolve()).replace(os.sep, "/"),
        data,
        *size,
    )
