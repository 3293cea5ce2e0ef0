"""A progress bar that knows levels: level, iteration, energy, time left. Shown on a terminal only."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmtk.method import Progress
    from mmtk.training.engine import Progress as TrainingProgress

__all__ = ["progress_bar", "training_bar"]


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Give a function to be called as ``progress(level, levels, iteration, iterations, energy)``."""
    if not sys.stderr.isatty():
        yield lambda level, levels, iteration, iterations, energy: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[energy]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading and placing", total=None, energy="")

        def show(level: int, levels: int, iteration: int, iterations: int, energy: float) -> None:
            bar.update(
                task,
                description=f"level {level + 1}/{levels}, iteration {iteration}/{iterations}",
                completed=level + iteration / max(iterations, 1),
                total=levels,
                energy=f"energy {energy:.5g}",
            )

        yield show


@contextmanager
def training_bar(epochs: int) -> Iterator[TrainingProgress]:
    """Give a function to be called as ``progress(epoch, iteration, iterations, energy)``."""
    if not sys.stderr.isatty():
        yield lambda epoch, iteration, iterations, energy: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[energy]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("making the pairs", total=None, energy="")
        mean = 0.0

        def show(epoch: int, iteration: int, iterations: int, energy: float) -> None:
            nonlocal mean
            mean = energy if mean == 0 else 0.95 * mean + 0.05 * energy
            bar.update(
                task,
                description=f"epoch {epoch}/{epochs}, step {iteration}/{iterations}",
                completed=epoch - 1 + iteration / max(iterations, 1),
                total=epochs,
                energy=f"energy {mean:.5g}",
            )

        yield show
