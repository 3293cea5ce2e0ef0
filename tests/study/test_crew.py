"""Processes that runs are forked from: a crash, a limit or a kill costs one run, and nothing outlives the study."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from mmtk.study import warm
from mmtk.study.crew import Crew, Order

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="runs are forked on Linux alone")

#: A stand-in for `mmtk.study.warm` that has loaded nothing and whose runs are code: quick, and able to crash.
HOST = """
import sys, types
from pathlib import Path
from mmtk.study import warm
worker = types.ModuleType("mmtk.study.worker")
worker.main = lambda path, begin: exec(Path(path).read_text())
sys.modules["mmtk.study.worker"] = worker
import mmtk.study
mmtk.study.worker = worker
warm.MODULES = ()
warm.main()
"""


@pytest.fixture
def crew(tmp_path, monkeypatch):
    crew = Crew({**os.environ, "OMP_NUM_THREADS": "1"}, -1, warm=True)
    open_ = crew._open

    def opened(words, stdout):
        return open_([sys.executable, "-c", HOST] if "mmtk.study.warm" in words else words, stdout)

    monkeypatch.setattr(crew, "_open", opened)
    yield crew
    crew.stop()


def order(tmp_path: Path, code: str, name: str = "run", seconds: float = float("inf")) -> Order:
    spec = tmp_path / f"{name}.py"
    spec.write_text(code)
    return Order(spec, tmp_path / f"{name}.usage", tmp_path / f"{name}.log", seconds)


def finished(started) -> None:
    end = time.monotonic() + 60
    while not started.ended():
        assert time.monotonic() < end
        time.sleep(0.01)


def cost(order: Order) -> dict:
    return json.loads(order.usage.read_text())


def test_a_run_is_a_process_of_its_own_and_says_what_it_cost(crew, tmp_path):
    code = "import os\nx = bytearray(80 << 20)\nfor i in range(2_000_000): pass\nprint(os.getpid(), os.getppid())"
    orders = [order(tmp_path, code, name) for name in ("a", "b")]
    for one in orders:
        finished(crew.start(one))
    pids = [one.log.read_text().split() for one in orders]
    assert pids[0][0] != pids[1][0] and pids[0][1] == pids[1][1], "one process is kept, and each run is its child"
    assert len(crew._all) == 1
    for one in orders:
        told = cost(one)
        assert (told["code"], told["late"]) == (0, False)
        assert told["peak_memory_mb"] > 80 and 0 < told["cpu_s"] < 30 and told["wall_s"] > 0


@pytest.mark.parametrize(
    ("code", "ended", "said"),
    [
        ("import os; os.abort()", -signal.SIGABRT, ""),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, ""),
        ("raise SystemExit(3)", 3, ""),
        ("print('before'); raise ValueError('no such thing')", 1, "ValueError: no such thing"),
    ],
)
def test_a_crash_costs_its_run_alone(crew, tmp_path, code, ended, said):
    bad, good = order(tmp_path, code, "bad"), order(tmp_path, "print('well')", "good")
    finished(crew.start(bad))
    finished(crew.start(good))
    assert cost(bad)["code"] == ended and said in bad.log.read_text()
    assert cost(good)["code"] == 0 and good.log.read_text() == "well\n"
    assert len(crew._all) == 1 and crew.warm


def test_a_run_that_takes_too_long_is_stopped_with_what_it_started(crew, tmp_path):
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)'])\n"
        "print(child.pid, flush=True)\ntime.sleep(99)"
    )
    late = order(tmp_path, code, seconds=1.0)
    finished(crew.start(late))
    assert cost(late)["late"] and cost(late)["code"] == -signal.SIGKILL
    assert _gone(int(late.log.read_text()))


def test_a_run_does_not_outlive_the_study(crew, tmp_path):
    one = order(tmp_path, "import os, time; print(os.getpid(), flush=True); time.sleep(99)")
    crew.start(one)
    pid = _pid_in(one.log)
    crew._all[0].stdin.close()  # as the system does when the study is killed
    assert _gone(pid) and not one.usage.exists()


def test_where_the_process_that_runs_come_from_was_killed_they_start_from_nothing(crew, tmp_path):
    one = order(tmp_path, "import os, time; print(os.getpid(), flush=True); time.sleep(99)")
    started = crew.start(one)
    pid = _pid_in(one.log)
    crew._all[0].kill()
    finished(started)  # by mmtk.study.worker, which this is no job for
    assert _gone(pid), "its child goes with it"
    assert cost(one)["code"] == 1 and not crew.warm and len(crew._all) == 2


def test_what_is_loaded_beforehand_starts_no_thread():
    """A process with threads must not fork."""
    code = (
        "from mmtk.study import warm\nwarm._load(['monai.metrics'])\n"
        "from pathlib import Path\nprint(Path('/proc/self/status').read_text().split('Threads:')[1].split()[0])"
    )
    import subprocess

    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert told.stdout.strip() == "1"
    assert "mmtk.registration" in warm.MODULES


def _pid_in(log: Path) -> int:
    end = time.monotonic() + 60
    while not log.is_file() or not log.read_text().strip():
        assert time.monotonic() < end
        time.sleep(0.01)
    return int(log.read_text())


def _gone(pid: int) -> bool:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":  # ended; whoever is to collect it has not yet
            return True
        time.sleep(0.02)
    return False
