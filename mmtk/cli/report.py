"""``mmtk report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmtk.cli.refusal import refusals

__all__ = ["report"]


def report(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Folders that `mmtk run` left, or one that holds such.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="The index of several runs; index.html in the folder that holds all.")
    ] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Make the page of each run again, too, before the index.")
    ] = False,
) -> None:
    """Make the page of a run again, or an index of many runs, the worst first.

    For instance: mmtk report result, or: mmtk report cohort/*
    """
    from mmtk.report import rebuild_report, write_index
    from mmtk.report.folders import gather

    with refusals():
        runs, index = gather(folders, out)
        if rebuild or index is None:
            for folder in runs:
                typer.echo(f"The report: {rebuild_report(folder)}")
        if index is not None:
            names = write_index(index, runs)
            count = "1 run" if len(names) == 1 else f"{len(names)} runs"
            typer.echo(f"The index: {index} ({count}, the worst first: {names[0]})")
