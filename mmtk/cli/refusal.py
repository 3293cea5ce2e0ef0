"""How a command says no: one line a problem on the error stream, an exit code, no traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

__all__ = ["refusals"]


@contextmanager
def refusals() -> Iterator[None]:
    """Turn what mmtk raises on purpose into lines and an exit code: 2 if nothing was computed, else 1."""
    from mmtk.errors import ConfigError, MmtkError

    try:
        yield
    except MmtkError as error:
        refused = isinstance(error, ConfigError)
        for problem in error.problems if isinstance(error, ConfigError) else [str(error)]:
            typer.echo(f"error: {problem}", err=True)
        raise typer.Exit(2 if refused else 1) from None
