"""What a run takes: seconds by stage, memory at most, and one sentence when memory gives out."""

from __future__ import annotations

import re
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mmtk.errors import ResourceError

__all__ = ["Clock", "memory_told", "peak_memory"]


@contextmanager
def memory_told(doing: str) -> Iterator[None]:
    """Turn the many ways in which memory runs out into one sentence."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        words = str(error).strip()
        if not (isinstance(error, (MemoryError, torch.OutOfMemoryError)) or _NO_MEMORY.search(words)):
            raise
        asked = _ASKED.search(words)
        raise ResourceError(
            f"memory ran out while {doing}{f' (asked for {asked[0]})' if asked else ''}: crop or downsample the "
            f"images, take coarser `levels`, or a machine, or `--device`, with more of it"
        ) from error


_NO_MEMORY = re.compile(r"allocate memory|not enough memory|out of memory", re.I)
_ASKED = re.compile(r"[\d.]+ ?(bytes|[KMGT]i?B)")


class Clock:
    """``with clock("stage")`` adds the seconds that the block took."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds, self.name, self.start = seconds, "", 0.0

    def __call__(self, name: str) -> Clock:
        self.name, self.start = name, time.perf_counter()
        return self

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self.seconds[self.name] = round(time.perf_counter() - self.start, 3)


def peak_memory() -> float:
    """Peak resident memory of this process in bytes; Linux counts it in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else peak * 1024)
