"""What a process cost, as the kernel counted it: nothing inside the process is trusted for that.

The process that measures must stay small. Linux hands the peak memory of a parent on to its child, so a parent
that had loaded torch would be measured in place of the child; this module and all that starts processes here
import the standard library alone.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Usage", "environment", "measure"]

#: A run out of its CPU time is stopped; one that sleeps is stopped after so many times that long on the clock.
PATIENCE = 6.0


@dataclass(frozen=True)
class Usage:
    """Cost of one process and of the children that it waited for.

    Attributes:
        status: ``ok``, ``out of time`` or ``failed``.
        wall: Seconds from start to end.
        cpu: Seconds of user and system time, all threads.
        rss_mb: Peak resident memory, MiB.
        code: Exit code; negative: the signal that ended it.
    """

    status: str
    wall: float
    cpu: float
    rss_mb: float
    code: int


def environment(threads: int) -> dict[str, str]:
    """Return the environment of a measured process: ``threads`` for every library, passive waiting, no GPU."""
    names = ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "VECLIB_MAXIMUM")
    return {
        **os.environ,
        **{f"{name}_NUM_THREADS": str(threads) for name in names},
        "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": str(threads),
        "OMP_WAIT_POLICY": "passive",
        "GOMP_SPINCOUNT": "0",
        "ANTS_RANDOM_SEED": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def measure(
    command: Sequence[str],
    *,
    log: Path,
    limit: float,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Usage:
    """Run a command and return what it cost.

    Args:
        command: Program and arguments.
        log: File for what it prints.
        limit: CPU seconds after which it is stopped.
        env, cwd: As for :class:`subprocess.Popen`.
    """

    def bounded() -> None:
        whole = int(limit) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (whole, whole + 5))

    with open(log, "ab") as sink:
        begin = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=sink, stderr=sink, env=env, cwd=cwd, start_new_session=True, preexec_fn=bounded
        )
        stopped = False
        while True:
            pid, state, used = os.wait4(process.pid, os.WNOHANG)
            wall = time.perf_counter() - begin
            if pid:
                break
            if wall > PATIENCE * limit and not stopped:
                stopped = True
                os.killpg(process.pid, signal.SIGKILL)
            time.sleep(0.005 if wall < 5 else 0.05)
    code = os.waitstatus_to_exitcode(state)
    process.returncode = code
    cpu = used.ru_utime + used.ru_stime
    late = stopped or code == -signal.SIGXCPU or (code < 0 and cpu >= limit)
    status = "out of time" if late else ("ok" if code == 0 else "failed")
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return Usage(status, round(wall, 3), round(cpu, 3), round(used.ru_maxrss / scale, 1), code)
