"""The log of a training as TensorBoard's scalars, written by torch's own writer.

MONAI's ``TensorBoardStatsHandler`` writes what an engine's state holds. What is wanted is one scalar for each number of
``log.jsonl``, and one curve of a run that was stopped and goes on: epochs after the one that it goes on from are purged.

Reading this file loads neither torch nor tensorboard.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmtk.errors import ConfigError

__all__ = ["Board", "check_tensorboard"]


def check_tensorboard() -> None:
    """Refuse to write for a TensorBoard that is not installed.

    Raises:
        ConfigError: If it is not.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise ConfigError(
            "tensorboard=true: the package tensorboard is not installed; install it with `pip install 'mmtk[train]'`, "
            "or leave it out: log.jsonl holds the same numbers"
        )


class Board:
    """Writes lines of the log as scalars, one step an epoch.

    Args:
        folder: Where the event files go; those of earlier parts of the run stay.
        lines: What the log holds already.
    """

    def __init__(self, folder: Path, lines: Iterable[Mapping[str, Any]] = ()) -> None:
        from torch.utils.tensorboard import SummaryWriter

        before = list(lines)
        begun = any(folder.glob("events.*"))
        self.writer = SummaryWriter(str(folder), purge_step=_last(before) + 1 if begun else None)
        if not begun:
            for line in before:
                self.write(line)

    def write(self, line: Mapping[str, Any]) -> None:
        """Write an epoch."""
        for name, value in line.items():
            if name != "epoch":
                self.writer.add_scalar(name, value, line["epoch"])
        self.writer.flush()

    def close(self) -> None:
        """Close the file."""
        self.writer.close()


def _last(lines: list[Mapping[str, Any]]) -> int:
    return int(lines[-1]["epoch"]) if lines else 0
