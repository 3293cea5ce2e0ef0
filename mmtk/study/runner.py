"""Carries a study out: every method on every case with every seed, each in a process of its own.

    OUT/study.json                        all that repeats it; `mmtk compare OUT/study.json` does
    OUT/cases/                            cases that a benchmark has made
    OUT/runs/METHOD/CASE_seedN/           the folder of a run, as `mmtk run` leaves it
    OUT/runs/METHOD/CASE_seedN.json       its record: numbers, cost, or why it failed
    OUT/runs/METHOD/CASE_seedN.log        what it printed
    OUT/results.csv                       one row a case, method, seed and metric

A record appears when its run is complete, and carries the key of all that the run depends on. So a study that was
killed goes on where it stopped, one to which a method is added runs that method alone, and one whose settings or images
have changed runs again what they concern.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import os
import platform
import shlex
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mmtk
from mmtk.config import Recipe, RunConfig
from mmtk.errors import ConfigError
from mmtk.io import available_memory, held, holds_something, run_memory, sha256, write_json
from mmtk.plugins import installed
from mmtk.study.bids import from_bids
from mmtk.study.cases import Case, as_data, check_cases, from_csv, from_folder
from mmtk.study.crew import Crew, Order, Started
from mmtk.study.description import Entry, Source, Study
from mmtk.study.oracle import ORACLE
from mmtk.study.results import Record, read_record, write_csv

__all__ = ["Job", "Tell", "carry_out", "gather_cases", "refuse_folder", "versions", "weights_of"]

#: Called when a run has ended, or was found complete: ``tell(done, total, record, found)``.
Tell = Callable[[int, int, Record, bool], None]


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        key: Digest of all that its numbers depend on.
        need: Estimate of its memory, bytes.
    """

    case: Case
    entry: Entry
    seed: int
    out: Path
    key: str
    need: float

    @property
    def record(self) -> Path:
        """The file that says how it went."""
        return self.out.with_name(f"{self.out.name}.json")


@dataclass
class _Running:
    job: Job
    run: Started
    spec: Path
    usage: Path


def refuse_folder(out: Path) -> None:
    """Refuse a folder that holds something else than a study.

    Raises:
        ConfigError: It does.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: is a file; give a folder")
    if holds_something(out, beside={".lock"}) and not (out / "study.json").is_file():
        raise ConfigError(f"--out {out}: the folder is not empty and holds no study; give another one")


def gather_cases(study: Study, out: Path) -> list[Case]:
    """Return the cases of all sources, checked; what a benchmark makes goes into ``out/cases``.

    Raises:
        ConfigError: With everything that is wrong with their files.
    """
    cases: list[Case] = []
    problems: list[str] = []
    for source in study.sources:
        try:
            cases += _cases_of(source, out)
        except ConfigError as error:
            problems += error.problems
    checked, wrong = check_cases(cases)
    if problems or wrong:
        raise ConfigError(problems + wrong)
    return checked


def _cases_of(source: Source, out: Path) -> Sequence[Case]:
    if source.benchmark is not None:
        folder = out / "cases" / source.folder_name
        folder.mkdir(parents=True, exist_ok=True)
        benchmark = source.benchmark.build()
        made: Sequence[Case] = benchmark.cases(folder)
        return [replace(case, measured=source.data()) for case in made] if benchmark.measures else made
    if source.bids is not None:
        return from_bids(source.bids)
    assert source.path is not None
    return from_folder(source.path) if source.path.is_dir() else from_csv(source.path)


def carry_out(
    study: Study, out: Path, *, retry: bool = False, tell: Tell = lambda *_: None, command: str | None = None
) -> list[Record]:
    """Run what is not done yet and return all records, in the study's order.

    Args:
        study: Checked.
        out: Its folder: new, empty, or one that the study was begun in.
        retry: Run again what failed.
        tell: Called after each run.
        command: What the user typed, for ``study.json``.

    Raises:
        ConfigError: If the folder or a case's files cannot be used; nothing was run.
    """
    refuse_folder(out)
    if not any(source.benchmark for source in study.sources):
        gather_cases(study, out)  # nothing to be made: what is wrong is said before the folder is
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    with held(out, "another comparison") as lock:
        cases = gather_cases(study, out)
        begin = time.time()
        jobs = _jobs(study, cases, out)
        write_json(out / "study.json", _account(study, cases, command, None))
        _run_all(study, jobs, retry, tell, lock)
        records = [read_record(job.record) for job in jobs]
        write_csv(out / "results.csv", records)
        write_json(out / "study.json", _account(study, cases, command, time.time() - begin))
    return records


def _jobs(study: Study, cases: Sequence[Case], out: Path) -> list[Job]:
    lacking = [
        f"case {case.name}: has no {name}, which {entry.label} asks for; it has {', '.join(case.channels) or 'no more'}"
        for case in cases
        for entry in study.present
        for name in entry.modalities
        if name not in case.channels
    ]
    if lacking:
        raise ConfigError(lacking)
    digests: dict[Path, str] = {}
    jobs = []
    for case in cases:
        for entry in study.present:
            for seed in study.config.seeds:
                jobs.append(
                    Job(
                        case,
                        entry,
                        seed,
                        out / "runs" / entry.label / f"{case.name}_seed{seed}",
                        _key(study, case, entry, seed, digests),
                        (1 + len(entry.modalities)) * run_memory(*case.voxels),
                    )
                )
    return jobs


def _key(study: Study, case: Case, entry: Entry, seed: int, digests: dict[Path, str]) -> str:
    files = {}
    scans = {f"{side}_{m}": case.channels[m][side] for m in entry.modalities for side in (0, 1)}
    for name, path in {**case.files, **scans, **weights_of(entry.recipe)}.items():
        file = path / "truth.npz" if path.is_dir() else path
        if file not in digests:
            digests[file] = sha256(file)
        files[name] = digests[file]
    about = {
        "recipe": {key: value for key, value in entry.data().items() if key != "name"},
        "files": files,
        "seed": seed,
        "device": study.config.device,
        "threads": study.config.threads,
        "versions": versions(),
        **({"measured": case.measured} if case.measured else {}),
        **({"known": case.known} if entry.told else {}),
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()


def weights_of(recipe: Recipe) -> dict[str, Path]:
    """Return the files that a recipe's method reads: weights, in a bundle or not, and a transform to begin with."""
    named = {"weights": getattr(recipe.method, "weights", None), "init": recipe.init}
    found = {}
    for name, value in named.items():
        bundle, _, variant = str(value).partition(":")
        inside = [f / "models" / f"{variant or 'model'}.safetensors" for f in installed().bundles.get(bundle, [])]
        file = next((path for path in (Path(str(value)), *inside) if value and path.is_file()), None)
        if file is not None:
            found[name] = file
    return found


def versions() -> dict[str, str]:
    """Return the versions that results depend on: mmtk, torch and every plugin."""
    plugins = {plugin.distribution: plugin.version for plugin in installed().plugins}
    return {"mmtk": mmtk.__version__, "torch": importlib.metadata.version("torch"), **plugins}


# --- the processes


def _run_all(study: Study, jobs: Sequence[Job], retry: bool, tell: Tell, lock: int) -> None:
    """Keep as many runs going as there are cores and memory for."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    most = study.config.jobs or max(1, cores // study.config.threads)
    memory = available_memory() if study.config.memory is None else study.config.memory * 1e9
    waiting: list[Job] = []
    done = 0
    for job in jobs:
        record = _known(job, retry)
        for path in _passing(job):  # of one that was killed
            path.unlink(missing_ok=True)
        if record is None:
            waiting.append(job)
        else:
            done += 1
            tell(done, len(jobs), record, True)
    running: list[_Running] = []
    # MONAI, which takes longer to load than torch, measures overlaps of labels and has the networks.
    by_monai = any(job.case.fixed_labels or job.entry.recipe.method.capabilities.learned for job in waiting)
    crew = Crew(_environment(study), lock, ("monai.networks.nets",) if by_monai else ())
    try:
        while waiting or running:
            while waiting and len(running) < most:
                taken = sum(one.job.need for one in running)
                fits = next((job for job in waiting if taken + job.need <= memory), None)
                if fits is None and running:
                    break
                # One that does not fit goes alone, and its record says how it went.
                chosen = fits or waiting[0]
                waiting.remove(chosen)
                running.append(_start(study, chosen, crew))
            time.sleep(0.02)
            for one in [one for one in running if one.run.ended()]:
                running.remove(one)
                done += 1
                tell(done, len(jobs), _finish(one), False)
    finally:
        crew.stop()
        for one in running:
            _tidy(one)


def _known(job: Job, retry: bool) -> Record | None:
    """Return the record of a run that need not be done again."""
    try:
        record = read_record(job.record)
    except (OSError, ValueError, KeyError):
        return None
    if record.key != job.key or (record.failed and retry):
        return None
    return record if record.failed or (job.out / "run.json").is_file() else None


def _start(study: Study, job: Job, crew: Crew) -> _Running:
    home = job.out.parent
    home.mkdir(parents=True, exist_ok=True)
    job.record.unlink(missing_ok=True)
    spec, usage = _passing(job)
    usage.unlink(missing_ok=True)
    write_json(spec, _spec(study, job))
    limit = math.inf if study.config.minutes is None else 60 * study.config.minutes
    return _Running(job, crew.start(Order(spec, usage, _log(job), limit)), spec, usage)


def _passing(job: Job) -> tuple[Path, Path]:
    """The files that a run has only while it runs: what it is told, and what it cost."""
    job_file, usage = (job.out.with_name(f".{job.out.name}.{what}") for what in ("job", "usage"))
    return job_file, usage


def _log(job: Job) -> Path:
    return job.out.with_name(f"{job.out.name}.log")


def _environment(study: Study) -> dict[str, str]:
    """``threads`` for every library, waiting threads asleep, the memory of one tensor kept for the next."""
    names = ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "VECLIB_MAXIMUM")
    threads = str(study.config.threads)
    return {
        **os.environ,
        **{f"{name}_NUM_THREADS": threads for name in names},
        "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": threads,
        "OMP_WAIT_POLICY": "passive",
        "GOMP_SPINCOUNT": "0",
        "MALLOC_MMAP_THRESHOLD_": str(1 << 29),
        "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    }


def _spec(study: Study, job: Job) -> dict[str, Any]:
    case, entry = job.case, job.entry
    images = {name: str(path) for name, path in case.files.items() if name in RunConfig.model_fields}
    for side, name in enumerate(("moving", "fixed")) if entry.modalities else ():
        images[name] = ",".join([images[name], *(str(case.channels[m][side]) for m in entry.modalities)])
    if not entry.masked:
        images.pop("mask", None)
        images.pop("fixed_mask", None)
    beside = case.truth is not None and case.truth.is_dir() and case.truth.resolve() == case.fixed.parent.resolve()
    truth = {} if case.truth is None or beside else {"truth": str(case.truth)}
    points = {name: str(case.files[name]) for name in ("landmarks", "fixed_landmarks") if name in case.files}
    labels = {"fixed_labels": str(case.fixed_labels)} if case.fixed_labels else {}
    recipe = {
        key: value for key, value in entry.data().items() if key not in ("name", "masked", "told", "modalities")
    }
    if entry.told:
        recipe["method"] = {**recipe["method"], **(case.known or {})}
    if recipe["method"]["kind"] == ORACLE and case.truth is not None:
        recipe["method"] = {**recipe["method"], "truth": str(case.truth)}
    words = [f"{key}={value}" for key, value in images.items()]
    return {
        "about": {"case": case.name, "method": entry.label, "seed": job.seed, "key": job.key},
        "recipe": recipe,
        "typed": [recipe],
        "files": images,
        "evaluate": {**labels, **points, **truth},
        "case": as_data(case),
        "measured": case.measured,
        "device": study.config.device,
        "out": str(job.out),
        "record": str(job.record),
        "command": _command(recipe, words, job),
    }


def _command(recipe: Mapping[str, Any], files: Sequence[str], job: Job) -> str:
    """Return the same run as a command of its own."""
    method = recipe["method"]
    changed = [f"{key}={_word(value)}" for key, value in method.items() if key != "kind" and value is not None]
    placed = [f"{key}={_word(recipe[key])}" for key in ("init", "normalize", "spacing") if key in recipe]
    end = ["--seed", str(job.seed), "--out", str(job.out)]
    return shlex.join(["mmtk", "run", f"method={method['kind']}", *files, *placed, *changed, *end])


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _finish(one: _Running) -> Record:
    """Return the record of a run that has ended; make one if it could not."""
    job = one.job
    try:
        used = json.loads(one.usage.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        used = {"code": one.run.code, "late": False}
    if not job.record.is_file():
        cost = {key: used[key] for key in ("wall_s", "cpu_s", "peak_memory_mb") if key in used}
        about = {"case": job.case.name, "method": job.entry.label, "seed": job.seed, "key": job.key}
        told = {"status": "failed", "message": _why(one, used), "metrics": {"cost": cost}, "notes": []}
        write_json(job.record, {**about, **told})
    _tidy(one)
    return read_record(job.record)


def _why(one: _Running, used: Mapping[str, Any]) -> str:
    if used["late"]:
        return f"stopped after {used['wall_s'] / 60:.3g} minutes; give it more with minutes="
    if used["code"] < 0:
        name = signal.Signals(-used["code"]).name
        killed = "; the system does so when memory runs out" if name == "SIGKILL" else ""
        return f"the process was ended by {name}{killed}"
    lines = _log(one.job).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"the process ended with code {used['code']}: {lines[-1] if lines else 'it said nothing'}"


def _tidy(one: _Running) -> None:
    for path in (one.spec, one.usage):
        path.unlink(missing_ok=True)


# --- the account


def _account(study: Study, cases: Sequence[Case], command: str | None, seconds: float | None) -> dict[str, Any]:
    """What ``study.json`` holds."""
    return {
        "study": study.data(),
        "command": command,
        "seconds": None if seconds is None else round(seconds, 1),
        "cases": [as_data(case) for case in cases],
        "versions": {**versions(), "python": platform.python_version(), "platform": platform.platform()},
        "machine": {"cores": os.cpu_count(), "processor": _processor()},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
