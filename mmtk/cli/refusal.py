"""How a command says no: one line a problem on the error stream, an exit code, no traceback.

2      the input or the description is wrong; nothing was computed
1      something gave out on the way: memory, disk, a device, a plugin
130    Ctrl-C
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

__all__ = ["INTERRUPTED", "refusals"]

#: Exit code of a process that Ctrl-C ended, as shells count.
INTERRUPTED = 130


@contextmanager
def refusals() -> Iterator[None]:
    """Turn what mmtk raises on purpose, and what a system refuses, into lines and an exit code."""
    from mmtk.errors import ConfigError, MmtkError

    try:
        yield
    except MmtkError as error:
        refused = isinstance(error, ConfigError)
        for problem in error.problems if isinstance(error, ConfigError) else [str(error)]:
            typer.echo(f"error: {problem}", err=True)
        raise typer.Exit(2 if refused else 1) from None
    except BrokenPipeError:  # whoever read our output has gone; click knows what to do
        raise
    except OSError as error:
        where = f"'{error.filename}': " if error.filename else ""
        typer.echo(f"error: {where}{error.strerror or error}; check the disk and your permissions there", err=True)
        raise typer.Exit(1) from None
    except MemoryError as error:
        asked = f" ({error})" if str(error) else ""
        typer.echo(f"error: memory ran out{asked}; crop or downsample the images", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.echo("stopped", err=True)
        raise typer.Exit(INTERRUPTED) from None
