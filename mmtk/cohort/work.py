"""One case, carried out in whatever process is told to. It is handed plain data, and answers with plain data.

Files are read and written by path: every machine that works sees the same folders.
"""

from __future__ import annotations

import json
import platform
import time
from pathlib import Path
from typing import Any

from mmtk.cohort.records import CaseRecord, mark, read_case, write_case
from mmtk.config import RunConfig
from mmtk.errors import ConfigError

__all__ = ["carry_out_case"]


def carry_out_case(job: dict[str, Any]) -> str:
    """Register one case and return the status of its record.

    What is wrong with an input is a result: a failed record. What gave out on the way, memory, disk or a plugin, is
    raised, for the scheduler to try again.

    Args:
        job: ``case``, ``out`` (its folder), ``key``, ``settings``, ``given``, ``files``, ``about``, ``typed``,
            ``device``, ``seed``, ``command``.
    """
    begin = time.monotonic()
    out = Path(job["out"])
    path = out.with_name(f"{out.name}.json")
    before = read_case(path)
    files = {name: mark(Path(file)) for name, file in job["files"].items()}
    record = CaseRecord(
        job["case"], "begun", job["key"], settings=job["settings"], files=files, about=job["about"]
    )
    same = before is not None and before.status == "begun" and before.key == record.key
    same = (
        same
        and before is not None
        and {n: f.sha256 for n, f in before.files.items()} == {n: f.sha256 for n, f in files.items()}
    )
    write_case(path, record)
    try:
        told = _register(job, out, resume=same)
    except ConfigError as error:
        told = {"status": "failed", "message": "; ".join(error.problems)}
    seconds = round(time.monotonic() - begin, 3)
    cost = {"seconds": seconds, "peak_memory_mb": told.pop("peak", None), "machine": platform.node()}
    from dataclasses import replace

    write_case(path, replace(record, **told, cost=cost))
    return str(told["status"])


def _register(job: dict[str, Any], out: Path, resume: bool) -> dict[str, Any]:
    from mmtk.plugins import installed
    from mmtk.registration import run

    settings = {name: value for name, value in job["settings"].items() if name not in ("seed", "device")}
    catalogue = installed().following([*job["typed"], settings])
    config = RunConfig.model_validate({**settings, **job["given"]}, context={"catalogue": catalogue})
    config.method.ready()
    result = run(
        config,
        out,
        device=job["device"],
        seed=job["seed"],
        overwrite=True,
        resume=resume,
        command=job["command"],
    )
    account = json.loads((out / "run.json").read_text(encoding="utf-8"))
    ok = result.outcome.ok
    return {
        "status": "done" if ok else "failed",
        "message": "" if ok else result.outcome.value,
        "outcome": result.outcome.name,
        "metrics": json.loads((out / "metrics.json").read_text(encoding="utf-8")),
        "notes": tuple(result.notes),
        "peak": account["peak_memory_mb"],
    }
