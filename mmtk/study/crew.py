"""The processes that a study's runs are started from.

On Linux they are warm: each has loaded torch and the like once, and forks a process for each run
(:mod:`mmtk.study.warm`). Elsewhere, where a process that has loaded so much must not fork, and where a warm one has
died, every run starts from nothing (:mod:`mmtk.study.launcher`). Either way a run is a process of its own.
"""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from mmtk.study import launcher

__all__ = ["Crew", "Order", "Started"]


@dataclass(frozen=True)
class Order:
    """What a run is told, where what it cost and what it prints go, and after how many seconds it is stopped."""

    spec: Path
    usage: Path
    log: Path
    seconds: float


class Started(Protocol):
    """A run that was started."""

    @property
    def code(self) -> int:
        """How its process ended, where nothing else says so."""

    def ended(self) -> bool:
        """Whether it has."""


@dataclass
class Crew:
    """Starts runs.

    Attributes:
        environment: Of every process.
        lock: Descriptor that all of them hold: the study's folder stays taken until the last has ended.
        modules: What most runs load beyond what every run does.
        warm: Whether processes are kept to fork from.
    """

    environment: Mapping[str, str]
    lock: int
    modules: Sequence[str] = ()
    warm: bool = sys.platform == "linux"
    _idle: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _all: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, order: Order) -> Started:
        """Start a run, from a process that waits for one, or else from a new one."""
        if not self.warm:
            return self.start_cold(order)
        while self._idle:
            process = self._idle.pop()
            if process.poll() is None:
                break
        else:
            process = self._open([sys.executable, "-m", "mmtk.study.warm", *self.modules], stdout=subprocess.PIPE)
        return _Warm(self, order, process)

    def start_cold(self, order: Order) -> Started:
        """Start a run from nothing."""
        words = [
            sys.executable,
            "-I",
            "-S",
            launcher.__file__,
            str(order.usage),
            str(order.log),
            repr(order.seconds),
        ]
        words += [sys.executable, "-m", "mmtk.study.worker", str(order.spec)]
        return _Cold(self._open(words, stdout=subprocess.DEVNULL))

    def free(self, process: subprocess.Popen[bytes]) -> None:
        """Keep a warm process for the next run."""
        self._idle.append(process)

    def stop(self) -> None:
        """End all processes, and the runs that they have started."""
        for process in self._all:
            assert process.stdin is not None
            process.stdin.close()
        for process in self._all:
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        self._all, self._idle = [], []

    def _open(self, words: list[str], stdout: int) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=subprocess.DEVNULL,
            env=dict(self.environment),
            start_new_session=True,
            pass_fds=() if self.lock < 0 else (self.lock,),
            bufsize=0,
        )
        self._all.append(process)
        return process


@dataclass
class _Cold:
    process: subprocess.Popen[bytes]

    @property
    def code(self) -> int:
        return self.process.returncode

    def ended(self) -> bool:
        if self.process.poll() is None:
            return False
        assert self.process.stdin is not None
        self.process.stdin.close()
        return True


class _Warm:
    def __init__(self, crew: Crew, order: Order, process: subprocess.Popen[bytes]) -> None:
        self.crew, self.order, self.process = crew, order, process
        self.instead: Started | None = None
        told = {"spec": order.spec, "usage": order.usage, "log": order.log, "seconds": order.seconds}
        line = json.dumps({key: str(value) for key, value in told.items()}) + "\n"
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `ended` sees that it has gone
            process.stdin.write(line.encode())

    @property
    def code(self) -> int:
        return 1 if self.instead is None else self.instead.code

    def ended(self) -> bool:
        if self.instead is not None:
            return self.instead.ended()
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], 0)[0]:
            return False
        if self.process.stdout.readline():
            self.crew.free(self.process)
            return True
        # It has died, which is not the run's fault: the run starts from nothing, and its record says how it went.
        self.crew.warm = False
        self.instead = self.crew.start_cold(self.order)
        return False
