"""Carries a cohort out: what is done stays, what was begun goes on, and what fails is named.

OUT/cohort.json          what was asked for, and how many cases came to what
OUT/cohort.csv           the table, paths made absolute: `mmtk atlas build` reads it
OUT/cases/CASE/          see :mod:`mmtk.cohort.records`
OUT/results.csv          a row a case
OUT/index.html           every case, the worst first
"""

from __future__ import annotations

import csv
import io as textio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmtk.cohort.cluster import GPU, connect, ready
from mmtk.cohort.description import FILES, Cohort, CohortCase, digest
from mmtk.cohort.records import CaseRecord, read_case, write_case, write_table
from mmtk.cohort.work import carry_out_case
from mmtk.errors import ConfigError, MmtkError
from mmtk.io import held, holds_something, sha256, write_json, write_text
from mmtk.study.runner import versions, weights_of

__all__ = ["Tell", "carry_out", "refuse_folder"]

#: Called when a case has ended, or was found done: ``tell(done, total, record, found)``.
Tell = Callable[[int, int, CaseRecord, bool], None]


@dataclass(frozen=True)
class _Known:
    """What the folder says of a case: its record, if it counts, and what has changed since it was made."""

    record: CaseRecord | None
    changed: str = ""


def refuse_folder(out: Path) -> None:
    """Refuse a folder that holds something else than a cohort.

    Raises:
        ConfigError: It does.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: is a file; give a folder")
    if holds_something(out, beside={".lock"}) and not (out / "cohort.json").is_file():
        raise ConfigError(f"--out {out}: the folder is not empty and holds no cohort; give another one")


def carry_out(
    cohort: Cohort,
    out: Path,
    *,
    retry: bool = False,
    tell: Tell = lambda *_: None,
    command: str | None = None,
) -> list[CaseRecord]:
    """Run what is not done yet and return all records, in the table's order.

    Args:
        cohort: Checked.
        out: Its folder: new, empty, or one that a cohort was begun in.
        retry: Run again what failed, and what was done with other settings or files.
        tell: Called after each case.
        command: What the user typed, for ``cohort.json`` and each ``run.json``.

    Raises:
        ConfigError: If the folder or the cluster cannot be used, or a case was done with other settings or files and
            ``retry`` is not set; nothing was run.
    """
    refuse_folder(out)
    ready(cohort.place)
    out = out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    with held(out, "another `mmtk cohort run`"):
        read = {name: sha256(path) for name, path in weights_of(cohort.recipe).items()}
        key = digest({**cohort.settings, "read": read}, versions())
        known = {case.name: _look(cohort, case, _record(out, case), key) for case in cohort.cases}
        changed = [f"case {name}: {one.changed}" for name, one in known.items() if one.changed]
        if changed and not retry:
            advice = "add --retry to run it anew, or name another --out"
            raise ConfigError([f"{told}; {advice}" for told in changed])
        begin = time.time()
        write_text(out / "cohort.csv", _table(cohort))
        write_json(out / "cohort.json", {**cohort.data(), "command": command, "versions": versions()})
        waiting = []
        done = 0
        for case in cohort.cases:
            record = known[case.name].record
            if record is None or (retry and record.failed):
                waiting.append(case)
                continue
            done += 1
            tell(done, len(cohort.cases), record, True)
        if waiting:
            _run_all(cohort, waiting, out, key, tell, done, command)
        records = [_with_about(read_case(_record(out, case)), case) for case in cohort.cases]
        _account(cohort, out, records, command, time.time() - begin)
    return records


def _record(out: Path, case: CohortCase) -> Path:
    return out / "cases" / f"{case.name}.json"


def _look(cohort: Cohort, case: CohortCase, path: Path, key: str) -> _Known:
    """Say whether a case need not be run, or must not be without being asked for."""
    record = read_case(path)
    if record is None or record.status == "begun":
        return _Known(None)
    if record.status == "done" and not (path.with_suffix("") / "run.json").is_file():
        return _Known(None)
    if record.key != key:
        differing = [name for name in {**cohort.settings, **record.settings} if not _same(name, cohort, record)]
        if "method" in differing:
            ours, theirs = (dict(s.get("method", {})) for s in (cohort.settings, record.settings))
            differing += [f"method.{k}" for k in {**ours, **theirs} if ours.get(k) != theirs.get(k)]
            differing.remove("method")
        told = ", ".join(differing) or "weights, or the versions of mmtk, torch or a plugin"
        return _Known(None, f"was run with other settings ({told})")
    missing = set(case.files) ^ set(record.files)
    if missing:
        return _Known(None, f"was run with other files ({', '.join(sorted(missing))})")
    for name, file in case.files.items():
        if not record.files[name].same(file):
            return _Known(None, f"was run with another {name}: '{file}' has changed since")
    return _Known(record)


def _same(name: str, cohort: Cohort, record: CaseRecord) -> bool:
    return bool(cohort.settings.get(name) == record.settings.get(name))


def _with_about(record: CaseRecord | None, case: CohortCase) -> CaseRecord:
    """Return a record with the table's columns as they stand now: they change no result."""
    from dataclasses import replace

    assert record is not None
    return replace(record, about=dict(case.about))


def _run_all(
    cohort: Cohort,
    waiting: Sequence[CohortCase],
    out: Path,
    key: str,
    tell: Tell,
    done: int,
    command: str | None,
) -> None:
    """Hand every case to the cluster and write down what becomes of it."""
    from distributed import as_completed

    cases = {case.name: case for case in waiting}
    with connect(cohort.place) as client:
        futures = {
            client.submit(
                carry_out_case,
                _job(cohort, case, out, key, command),
                key=f"case-{case.name}",
                pure=False,
                retries=cohort.place.retries,
                resources={GPU: 1} if cohort.place.gpus else None,
            ): case.name
            for case in waiting
        }
        names = {future.key: name for future, name in futures.items()}
        completed = as_completed(list(futures))
        futures.clear()
        for future in completed:
            case = cases[names[future.key]]
            if future.status != "finished":
                _blame(cohort, case, out, key, future)
            record = read_case(_record(out, case))
            assert record is not None
            done += 1
            tell(done, len(cohort.cases), record, False)
            future.release()


def _blame(cohort: Cohort, case: CohortCase, out: Path, key: str, future: Any) -> None:
    """Write the record of a case whose process was ended, or that raised every time that it was tried."""
    from distributed import KilledWorker

    error = future.exception()
    times = cohort.place.retries + 1
    if isinstance(error, KilledWorker):
        limit = cohort.place.memory
        allowed = f"more than memory={limit:g} GB" if limit else "more memory than the worker may"
        message = (
            f"its process was ended {times} times, which is what happens to one that takes {allowed}; give each "
            f"worker more, or crop or downsample the images"
        )
    else:
        words = " ".join(str(error).split())
        named = words if isinstance(error, MmtkError) else f"{type(error).__name__}: {words}"
        message = f"{named} (tried {times} times)"
    begun = read_case(_record(out, case))
    files = {} if begun is None else begun.files
    write_case(
        _record(out, case),
        CaseRecord(
            case.name, "failed", key, message=message, settings=cohort.settings, files=files, about=case.about
        ),
    )


def _job(cohort: Cohort, case: CohortCase, out: Path, key: str, command: str | None) -> dict[str, Any]:
    return {
        "case": case.name,
        "out": str(out / "cases" / case.name),
        "key": key,
        "settings": dict(cohort.settings),
        "given": dict(case.given),
        "files": {name: str(path) for name, path in case.files.items()},
        "about": dict(case.about),
        "typed": list(cohort.typed),
        "device": cohort.device,
        "seed": cohort.seed,
        "command": command,
    }


def _account(
    cohort: Cohort, out: Path, records: Sequence[CaseRecord], command: str | None, seconds: float
) -> None:
    """Write the table, the index and the account."""
    from mmtk.report import write_index

    write_table(out / "results.csv", records, cohort.columns)
    failed = {out / "cases" / r.case: r.message for r in records if r.failed and not r.outcome}
    write_index(out / "index.html", [out / "cases" / r.case for r in records], failed)
    account = {
        **cohort.data(),
        "command": command,
        "versions": versions(),
        "seconds": round(seconds, 1),
        "done": sum(not record.failed for record in records),
        "failed": {record.case: record.message for record in records if record.failed},
    }
    write_json(out / "cohort.json", account)


def _table(cohort: Cohort) -> str:
    """Return the cohort's table with absolute paths."""
    used = [name for name in FILES if any(name in case.given for case in cohort.cases)]
    table = textio.StringIO()
    rows = csv.DictWriter(table, ["case", *used, *cohort.columns], restval="", lineterminator="\n")
    rows.writeheader()
    rows.writerows({"case": case.name, **case.given, **case.about} for case in cohort.cases)
    return table.getvalue()
