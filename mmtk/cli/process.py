"""What a process that registers images wants from its operating system, said before torch is loaded."""

from __future__ import annotations

import ctypes
import os
import sys

__all__ = ["settle"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of mallopt(3)
_LARGEST_TENSOR, _LARGEST_REST = 1 << 30, 1 << 29


def settle() -> None:
    """Let waiting threads sleep, and keep the memory of one tensor for the next.

    OpenMP reads its waiting policy once, when torch is loaded: threads that wait must sleep, or a machine that
    does anything else beside slows down by an order of magnitude. And glibc hands every large tensor back to the
    system when it is freed, to be paged in again for the next one: on a 1 mm brain a third of all the time.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    mallopt(_MMAP_THRESHOLD, _LARGEST_TENSOR)
    mallopt(_TRIM_THRESHOLD, _LARGEST_REST)
