"""Progress of what takes long: a registration's levels, a training's epochs; bars on a terminal only."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmtk.method import Progress
    from mmtk.training.plan import Status, Watch

__all__ = ["StepNumbers", "epoch_line", "progress_bar", "training_display"]


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
def training_display(terminal: bool | None = None) -> Iterator[Watch]:
    """Give a function that shows where a training stands: a line an epoch, and on a terminal a bar below them.

    Args:
        terminal: Whether the error stream, where everything goes, is a terminal; None: look.
    """
    if not (sys.stderr.isatty() if terminal is None else terminal):

        def tell(status: Status) -> None:
            if status.line is not None:
                print(epoch_line(status), file=sys.stderr, flush=True)

        yield tell
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TaskProgressColumn(),
        TextColumn("{task.fields[numbers]}"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True, force_terminal=terminal)
    # Steps of large volumes take many seconds: what is left is judged by the last ten minutes.
    with Progress(*columns, console=console, transient=True, speed_estimate_period=600) as bar:
        task = bar.add_task("making the pairs", total=None, numbers="")
        numbers = StepNumbers()

        def show(status: Status) -> None:
            if status.line is not None:
                bar.console.print(epoch_line(status), highlight=False)
                return
            bar.update(
                task,
                description=f"epoch {status.epoch}/{status.epochs}, step {status.iteration}/{status.iterations}",
                completed=status.done,
                total=1.0,
                numbers=numbers(status),
            )

        yield show


class StepNumbers:
    """What a bar says of a step: the energy, smoothed over some twenty steps, the best validation, and the speed.

    The speed is the epoch's, validation left out, by the clock on the wall.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self._mean: float | None = None
        self._epoch, self._pairs, self._begin = 0, 0, clock()

    def __call__(self, status: Status) -> str:
        self._mean = status.energy if self._mean is None else 0.95 * self._mean + 0.05 * status.energy
        words = [f"energy {self._mean:.4g}"]
        if math.isfinite(status.best):
            words.append(f"best {status.best:.4g}")
        if status.epoch != self._epoch:  # the first step began before it was told of, so it is not counted
            self._epoch, self._pairs, self._begin = status.epoch, status.pairs, self.clock()
        elif self.clock() > self._begin:
            words.append(f"{(status.pairs - self._pairs) / (self.clock() - self._begin):.3g} pairs/s")
        return ", ".join(words)


def epoch_line(status: Status) -> str:
    """Return what is said of an epoch that ended: the numbers of its line in ``log.jsonl``."""
    line = dict(status.line or {})
    energy, validation = line.pop("energy"), line.pop("validation", None)
    words = [f"epoch {line.pop('epoch')}/{status.epochs}: energy {energy:.5g}"]
    if validation is not None:
        words.append(
            f"validation {validation:.5g} ({'the best' if validation <= status.best else f'best {status.best:.5g}'})"
        )
    spent, pairs, rate = (line.pop(name) for name in ("cpu_minutes", "pairs", "rate"))
    words += [f"{name} {value:.4g}" for name, value in line.items()]
    budget = "" if status.budget is None else f" of {status.budget:g}"
    words += [f"rate {rate:.3g}", f"{pairs} pairs", f"{spent:.3g}{budget} CPU min"]
    return ", ".join(words)
