"""Results as lines of JSON: one run a line, the newest of equal runs counts."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["RESULTS", "append", "digest", "host", "newest", "rows"]

#: Where the lines lie, one file a case.
RESULTS = Path(__file__).parent / "results"


def digest(settings: Mapping[str, Any]) -> str:
    """Return twelve characters that stand for the settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def rows(case: str, folder: Path = RESULTS) -> Iterator[dict[str, Any]]:
    """Yield the runs of a case, oldest first."""
    file = folder / f"{case}.jsonl"
    if file.is_file():
        yield from (json.loads(line) for line in file.read_text().splitlines() if line.strip())


def newest(case: str, folder: Path = RESULTS) -> list[dict[str, Any]]:
    """Return the last run of every subject and method."""
    last = {(row["subject"], row["method"]): row for row in rows(case, folder)}
    return list(last.values())


def append(case: str, row: Mapping[str, Any], folder: Path = RESULTS) -> None:
    """Add a run."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{case}.jsonl", "a") as file:
        file.write(json.dumps(row) + "\n")


def host() -> dict[str, Any]:
    """Return what a reader has to know of this machine."""
    model = platform.processor() or platform.machine()
    cpuinfo, meminfo = Path("/proc/cpuinfo"), Path("/proc/meminfo")
    if cpuinfo.is_file():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line
        ]
        model = names[0] if names else model
    memory = None
    if meminfo.is_file():
        memory = round(int(meminfo.read_text().split()[1]) / 2**20)
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": memory,
        "system": platform.system(),
        "python": platform.python_version(),
    }
