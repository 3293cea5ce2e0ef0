"""``mmtk sample``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmtk.cli.refusal import refusals

__all__ = ["sample"]


def sample(
    name: Annotated[str, typer.Argument(metavar="NAME", help="tumor_brain, brains, c_shapes or gliomas.")],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="Such as kind=resected seed=3.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the files; new or empty.")] = Path("sample"),
) -> None:
    """Make images whose truth is known: pairs with their deformation, or heads with a labeled glioma.

    For instance: mmtk sample tumor_brain --out tumor kind=lookalike spacing=2
    """
    from mmtk.errors import ConfigError
    from mmtk.samples import make
    from mmtk.settings import mapping, read_settings

    with refusals():
        options, problems = mapping(*read_settings(settings or [], ["--out", "--help"]))
        if problems:
            raise ConfigError(problems)
        typer.echo(f"The sample: {make(name, out, options)}")
