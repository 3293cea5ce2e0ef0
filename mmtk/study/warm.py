"""A process that has loaded what every run needs, and forks one process for each.

    python -m mmtk.study.warm [MODULE...]

Starting Python and importing torch takes longer than many runs. Here it is done once; a run is then a child of its own,
which a crash, a limit of time or the memory that runs out ends alone. Jobs come as lines of JSON on the standard input,

    {"spec": JOB.json, "usage": USAGE, "log": LOG, "seconds": S}

and a line ``done`` answers each on the standard output, when what the child cost stands in ``USAGE``. When the standard
input ends, whoever held the other end has gone, and the child is stopped.

Nothing here may start a thread before it forks: torch and its libraries do so at their first work, not when imported.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mmtk.study.launcher import CALM, used, write_usage

__all__ = ["main"]

#: What a run imports sooner or later, whatever its method; a method's own modules are the run's affair.
MODULES = (
    "h5py",
    "jinja2",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "PIL.Image",
    "safetensors.torch",
    "scipy.ndimage",
    "mmtk.evaluation.measuring",
    "mmtk.integrators",
    "mmtk.optimize",
    "mmtk.registration",
    "mmtk.regularizers",
    "mmtk.report.page",
    "mmtk.similarity",
    "mmtk.study.worker",
)


def main(modules: Sequence[str] = ()) -> None:
    """Serve jobs until the standard input ends.

    Args:
        modules: What else to load beforehand.
    """
    _load(modules)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    rest = b""
    while True:
        line, found, rest = rest.partition(b"\n")
        if not found:
            more = os.read(0, 1 << 16)
            if not more:
                return
            rest = line + more
            continue
        job = json.loads(line)
        if not _carry_out(job):
            return
        answers.write("done\n")
        answers.flush()


def _load(modules: Sequence[str] = ()) -> None:
    """Import what a run, its numbers and its page need."""
    for module in (*MODULES, *modules):
        importlib.import_module(module)
    from mmtk.plugins import installed

    installed()
    gc.collect()
    gc.freeze()  # children share these pages as long as nobody counts through them


def _carry_out(job: dict[str, object]) -> bool:
    """Run one job in a child and write what it cost; return False if whoever asked has gone."""
    begin = time.monotonic()
    child = os.fork()
    if child == 0:
        _become_run(str(job["spec"]), str(job["log"]), begin)
    late = False
    limit = float(str(job["seconds"]))
    while True:
        pid, state, usage = os.wait4(child, os.WNOHANG)
        if pid:
            break
        waited = time.monotonic() - begin
        if not late and waited > limit:
            late = True
            _stop(child)
        # Nothing is sent while a job runs: what can be read is the end.
        if select.select([0], [], [], 0.01 if waited < CALM else 0.1)[0]:
            _stop(child)
            os.waitpid(child, 0)
            return False
    write_usage(str(job["usage"]), state, late, begin, used(usage))
    return True


def _stop(child: int) -> None:
    """End a child and all that it has started."""
    for end in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError):  # it has no group yet, or has just ended
            end(child, signal.SIGKILL)


def _become_run(spec: str, log: str, begin: float) -> None:
    """Be the run: a group of its own, its words in its log. Does not return."""
    code = 1
    try:
        os.setsid()
        _end_with_parent()
        null, sink = os.open(os.devnull, os.O_RDONLY), os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        for taken, end in ((null, 0), (sink, 1), (sink, 2)):
            os.dup2(taken, end)
        from mmtk.study import worker

        worker.main(Path(spec), begin)
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def _end_with_parent() -> None:
    """Ask the kernel to end this process when its parent does, whatever ended that."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


if __name__ == "__main__":
    main(sys.argv[1:])
