"""Starts one process, waits for it, and says what it cost. Run as a script; the standard library alone.

    python launcher.py USAGE LOG SECONDS COMMAND...

The process that starts another must be small: Linux hands the peak memory of a parent on to its child, so that one
that has loaded torch would be measured in its place. And it must not outlive the study: when its standard input ends,
whoever held the other end has gone, and the process is stopped.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
import time

#: The environment's variable that tells a process when it was started, by the system's monotonic clock.
STARTED = "MMTK_STUDY_STARTED"

#: Seconds after which a process is looked at less often.
CALM = 10.0


def main(usage: str, log: str, seconds: float, command: list[str]) -> None:
    """Run ``command`` for at most ``seconds`` and write what it cost to ``usage``."""
    begin = time.monotonic()
    with open(log, "wb") as sink:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            env={**os.environ, STARTED: repr(begin)},
            start_new_session=True,
        )
    late = False
    while True:
        pid, state, usage_of = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        waited = time.monotonic() - begin
        if not late and waited > seconds:
            late = True
            os.killpg(process.pid, signal.SIGKILL)
        if select.select([sys.stdin], [], [], 0.01 if waited < CALM else 0.1)[0] and not os.read(0, 1024):
            os.killpg(process.pid, signal.SIGKILL)
            os.waitpid(process.pid, 0)
            return
    write_usage(usage, state, late, begin, used(usage_of))


def used(usage: resource.struct_rusage) -> dict[str, float]:
    """Return what the kernel says that a process has used."""
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return {
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 3),
        "peak_memory_mb": round(usage.ru_maxrss / scale, 1),
    }


def write_usage(path: str, state: int, late: bool, begin: float, cost: dict[str, float]) -> None:
    """Write how a process has ended, whole or not at all.

    Args:
        state: As ``wait`` gives it.
        late: It was stopped for the time it took.
        begin: When it was started, by the monotonic clock.
    """
    told = {
        "code": os.waitstatus_to_exitcode(state),
        "late": late,
        "wall_s": round(time.monotonic() - begin, 3),
        **cost,
    }
    partial = f"{path}.partial"
    with open(partial, "w", encoding="utf-8") as file:
        json.dump(told, file)
    os.replace(partial, path)


def cost_so_far(started: float) -> dict[str, float]:
    """Return what this process and those that it waited for have cost, as the kernel counts."""
    own, others = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return {
        "wall_s": round(time.monotonic() - started, 3),
        "cpu_s": round(own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime, 3),
        "peak_memory_mb": round(max(own.ru_maxrss, others.ru_maxrss) / scale, 1),
    }


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4:])
