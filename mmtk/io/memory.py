"""How much memory there is, and whether a job fits, asked before a voxel is read.

A container's limit is not in what the machine says of itself, and a process that goes beyond it is killed without a
word. So three limits are read: the machine's free memory, the control group's, and the process's own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from mmtk.errors import InputError

__all__ = ["available_memory", "check_memory", "check_run_memory", "gigabytes", "run_memory"]

#: What a run takes, in bytes: for itself, and for each voxel of the two images. Measured on three sizes from 64^3 to
#: 160 x 192 x 160 with the default method and a mask; others take more rather than less.
ITSELF, MOVING_VOXEL, FIXED_VOXEL = 3e8, 40, 180

_PROC, _GROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def available_memory() -> int:
    """Return how many bytes this process may still take, as far as the system tells."""
    return min([_machine(), *_groups(), *_process()])


def check_memory(need: float, what: str, advice: str) -> None:
    """Refuse a job that cannot fit.

    Args:
        need: Bytes.
        what: The job, as a message begins.
        advice: What to do instead.

    Raises:
        InputError: With what is needed and what is there.
    """
    have = available_memory()
    if need > have:
        raise InputError(
            f"{what} needs about {gigabytes(need)} of memory, and {gigabytes(have)} are free; {advice}"
        )


def check_run_memory(moving: int, fixed: int) -> None:
    """Refuse to register images that cannot fit, given their numbers of voxels.

    Raises:
        InputError: With what is needed and what is there.
    """
    check_memory(
        run_memory(moving, fixed),
        f"fixed: to register {moving:,} voxels onto {fixed:,}",
        "crop or downsample the fixed image, whose size counts most, or take a machine with more",
    )


def run_memory(moving: int, fixed: int) -> float:
    """Return how many bytes it takes to register images, given their numbers of voxels."""
    return ITSELF + MOVING_VOXEL * moving + FIXED_VOXEL * fixed


def gigabytes(count: float) -> str:
    """Return bytes as people read them."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"


def _machine() -> int:
    with suppress(OSError, ValueError, IndexError):
        lines = (line.split() for line in (_PROC / "meminfo").read_text().splitlines())
        return 1024 * sum(int(words[1]) for words in lines if words[0] in ("MemAvailable:", "SwapFree:"))
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _groups() -> Iterator[int]:
    """Yield what the control groups of this process, and those above them, leave free."""
    with suppress(OSError):
        for line in (_PROC / "self" / "cgroup").read_text().splitlines():
            _, kind, path = line.split(":", 2)
            if kind and "memory" not in kind.split(","):
                continue
            root = _GROUPS / "memory" if kind else _GROUPS
            names = (
                ("memory.limit_in_bytes", "memory.usage_in_bytes") if kind else ("memory.max", "memory.current")
            )
            group = root / path.lstrip("/")
            for folder in (group, *group.parents):
                if folder == _GROUPS.parent or not folder.is_relative_to(root):
                    break
                with suppress(OSError, ValueError):
                    limit, used = (int((folder / name).read_text()) for name in names)  # "max" is no number
                    yield max(0, limit - used + _cached(folder))


def _cached(folder: Path) -> int:
    """Return the bytes of files that the group holds only because nobody needed the room."""
    with suppress(OSError, ValueError):
        for line in (folder / "memory.stat").read_text().splitlines():
            name, _, count = line.partition(" ")
            if name in ("inactive_file", "total_inactive_file"):
                return int(count)
    return 0


def _process() -> Iterator[int]:
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return
    with suppress(OSError, ValueError, IndexError):
        used = int((_PROC / "self" / "statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        yield max(0, limit - used)
