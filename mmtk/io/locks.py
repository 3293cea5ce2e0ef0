"""One command at a time writes to an output folder."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmtk.errors import ConfigError

__all__ = ["held"]

#: How long a command waits for one in the same folder that is just being ended, seconds.
PATIENCE = 10.0


@contextmanager
def held(out: Path, other: str) -> Iterator[int]:
    """Hold an output folder while it is written to: two commands in one would take each other's work for theirs.

    Yields the handle of the lock, which goes with the process and with those that inherit it.

    Args:
        out: There.
        other: What else may hold it, for the sentence: ``"another comparison"``.

    Raises:
        ConfigError: It is held, and not let go of within ``PATIENCE`` seconds.
    """
    lock = os.open(out / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    end = time.monotonic() + PATIENCE
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise ConfigError(
                        f"--out {out}: {other} is writing to it; wait until it has ended, or name another folder"
                    ) from None
                time.sleep(0.1)
        yield lock
    finally:
        os.close(lock)
