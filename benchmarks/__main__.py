"""``python -m benchmarks CASE ...``: prepare, register, score and note down what is not noted yet."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import datetime, timezone
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from benchmarks import store
from benchmarks.cases import CASES, Case, Subject
from benchmarks.measure import environment, measure
from benchmarks.methods import METHODS, resolved

ROOT = Path(__file__).resolve().parent.parent
WORKERS = Path(__file__).resolve().parent / "workers"


def main() -> None:
    asked = _arguments()
    for name in asked.cases:
        case = CASES[name]
        for subject, method in _runs(case, asked):
            _one(case, subject, method, asked)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("cases", nargs="+", choices=list(CASES), metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--methods", nargs="*", default=["*"], help="names or patterns; default: the case's own")
    parser.add_argument("--also", nargs="*", default=[], help="further methods, which the case does not list")
    parser.add_argument("--subjects", nargs="*", default=["*"], help="names or patterns")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the real images")
    parser.add_argument("--peers-python", default=sys.executable, help="Python with mmtk[baselines]")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=float, help="CPU seconds a run; default: the case's own")
    parser.add_argument("--again", action="store_true", help="repeat what stands in the results")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "mmtk-benchmarks")
    parser.add_argument("--results", type=Path, default=store.RESULTS)
    parser.add_argument(
        "--by-method", action="store_true", help="all subjects of one method before the next method"
    )
    return parser.parse_args()


def _runs(case: Case, asked: argparse.Namespace) -> Iterator[tuple[Subject, str]]:
    subjects = [s for s in case.subjects if any(fnmatch(s.name, p) for p in asked.subjects)]
    methods = [m for m in case.methods if any(fnmatch(m, p) for p in asked.methods)] + asked.also
    pairs = [(s, m) for s in subjects for m in methods]
    yield from sorted(pairs, key=lambda pair: methods.index(pair[1])) if asked.by_method else pairs


def _one(case: Case, subject: Subject, name: str, asked: argparse.Namespace) -> None:
    method = METHODS[name]
    settings = resolved(method, subject.known)
    limit = asked.limit or case.limit
    same = store.digest(
        {"recipe": case.recipe, "options": dict(subject.options), "tool": method.tool, "settings": settings,
         "masked": method.masked, "threads": asked.threads}
    )  # fmt: skip
    if not asked.again and any(
        row["hash"] == same
        and row["subject"] == subject.name
        and row["method"] == name
        and row["status"] != "failed"
        for row in store.rows(case.name, asked.results)
    ):
        return
    inputs = _prepared(case, subject, asked)
    out = asked.scratch / "runs" / case.name / subject.name.replace("/", "-") / name
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    plan = {
        "inputs": str(inputs), "out": str(out), "settings": settings, "masked": method.masked,
        "threads": asked.threads,
    }  # fmt: skip
    (out / "task.json").write_text(json.dumps(plan))
    python = asked.peers_python if method.tool in ("ants", "greedy", "demons") else sys.executable
    before = os.getloadavg()[0]
    used = measure(
        [python, str(WORKERS / f"run_{method.tool}.py"), str(out / "task.json")],
        log=out / "log.txt", limit=limit, env=environment(asked.threads), cwd=out,
    )  # fmt: skip
    row: dict[str, Any] = {
        "case": case.name, "subject": subject.name, "method": name, "hash": same, "settings": settings,
        "masked": method.masked, "status": used.status, "wall": used.wall, "cpu": used.cpu, "rss_mb": used.rss_mb,
        "limit": limit, "threads": asked.threads, "load": [round(before, 2), round(os.getloadavg()[0], 2)],
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"), "host": store.host(),
        "source": _revision(),
    }  # fmt: skip
    if used.status == "ok":
        row.update(json.loads((out / "call.json").read_text()))
        row["scores"] = _scored(case, inputs, out / "displacement.nii.gz")
        (out / "displacement.nii.gz").unlink()
    elif used.status == "failed":
        row["log"] = (out / "log.txt").read_text(errors="replace")[-600:]
    store.append(case.name, row, asked.results)
    shown = {key: value for key, value in row.get("scores", {}).items()}
    print(
        case.name, subject.name, name, used.status, f"{used.wall:.1f} s, {used.cpu:.1f} CPU s", shown, flush=True
    )


def _prepared(case: Case, subject: Subject, asked: argparse.Namespace) -> Path:
    key = store.digest({"recipe": case.recipe, **subject.options})
    folder: Path = asked.scratch / "inputs" / f"{case.recipe}-{key}"
    if not (folder / "prepared").exists():
        words = [case.recipe, json.dumps(dict(subject.options)), str(asked.data.resolve()), str(folder)]
        _quietly([sys.executable, "-m", "benchmarks.prepare", *words], asked.threads)
    return folder


def _scored(case: Case, inputs: Path, displacement: Path) -> dict[str, float]:
    words = [case.score, str(inputs), str(displacement)]
    scores: dict[str, float] = json.loads(_quietly([sys.executable, "-m", "benchmarks.score", *words], 2))
    return scores


def _quietly(command: list[str], threads: int) -> str:
    done = subprocess.run(command, cwd=ROOT, env=environment(threads), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    return done.stdout


def _revision() -> str:
    words = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    return subprocess.run(words, capture_output=True, text=True).stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
