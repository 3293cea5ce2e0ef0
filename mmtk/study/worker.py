"""One method on one case with one seed: ``python -m mmtk.study.worker JOB.json``.

The job names the files, the method as plain data, and where the run's folder and its record go. Whatever happens, a
record says it, unless the process itself is ended.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmtk.config import ComponentConfig, load_target
from mmtk.errors import ConfigError, MmtkError
from mmtk.study.launcher import STARTED, cost_so_far

if TYPE_CHECKING:
    from mmtk.plugins import Catalogue

__all__ = ["main"]


def main(path: Path, started: float | None = None) -> None:
    """Carry out the job in a file and leave its record.

    Args:
        started: When the run began, by the monotonic clock; None: as the environment says.
    """
    from mmtk.io import write_json

    job = json.loads(path.read_text(encoding="utf-8"))
    started = float(os.environ.get(STARTED, time.monotonic())) if started is None else started
    record: dict[str, Any] = {"status": "failed", "message": "", "metrics": {}, "notes": []}
    try:
        record |= _carry_out(job, started)
    except MmtkError as error:
        record["message"] = "; ".join(error.problems) if isinstance(error, ConfigError) else str(error)
    except MemoryError:
        record["message"] = "memory ran out; crop or downsample the images"
    except Exception as error:
        traceback.print_exc()
        record["message"] = f"{type(error).__name__}: {' '.join(str(error).split())}"
    if record["status"] == "failed":
        print(record["message"], file=sys.stderr)
        record["metrics"] = {"cost": cost_so_far(started)}
    write_json(Path(job["record"]), {**job["about"], **record})


def _carry_out(job: dict[str, Any], started: float) -> dict[str, Any]:
    from mmtk.config import RunConfig
    from mmtk.evaluation import evaluate
    from mmtk.plugins import installed
    from mmtk.registration import run
    from mmtk.study.oracle import with_oracle

    catalogue = with_oracle(installed().following(job["typed"]))
    config = RunConfig.model_validate({**job["recipe"], **job["files"]}, context={"catalogue": catalogue})
    out = Path(job["out"])
    _load(config.method)
    result = run(
        config, out, device=job["device"], seed=job["about"]["seed"], overwrite=True, command=job["command"]
    )
    cost = cost_so_far(started)
    found = evaluate({"run": str(out), **job["evaluate"]})
    metrics = {
        **{group: values for group, values in found.metrics.items() if group != "cost"},
        "cost": {"register_s": result.seconds["register"], **cost},
    }
    if job["measured"]:
        metrics[job["measured"]["benchmark"]] = _measured(job, catalogue, out)
    notes = list(dict.fromkeys([*result.notes, *found.notes]))
    ok = result.outcome.ok
    return {
        "status": "done" if ok else "failed",
        "message": "" if ok else result.outcome.value,
        "outcome": result.outcome.name,
        "metrics": metrics,
        "notes": notes,
    }


def _load(method: ComponentConfig) -> None:
    """Import what a method needs, so that its time is not that of an import."""
    method.ready()
    load_target(method.target)
    for module in method.needs:
        importlib.import_module(module)


def _measured(job: dict[str, Any], catalogue: Catalogue, out: Path) -> dict[str, float | None]:
    """Return what the case's benchmark measures itself; None for what has no meaning."""
    from mmtk.study.cases import from_data

    settings = dict(job["measured"])
    model = catalogue.benchmarks[settings.pop("benchmark")][0]
    benchmark = model.model_validate(settings).build()
    found = benchmark.measure(from_data(job["case"]), out)
    return {name: float(value) if math.isfinite(value) else None for name, value in found.items()}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
