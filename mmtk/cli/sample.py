"""``mmtk sample``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmtk.cli.refusal import refusals

__all__ = ["sample"]


def sample(
    name: Annotated[str, typer.Argument(metavar="NAME", help="tumor_brain or c_shapes.")],
    settings: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE...")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the files.")] = Path("sample"),
) -> None:
    """Make images whose true deformation is known."""
    with refusals():
        raise NotImplementedError
