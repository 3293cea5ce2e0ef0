"""``mmtk convert``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from mmtk.cli.refusal import refusals

__all__ = ["convert"]


def convert(
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="A... [B] [KEY=VALUE...]",
            help="What to convert and where to: a file or a run's folder, and a file; or runs and out=FOLDER.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Turn a transform into another program's format.

    For instance: mmtk convert result warp.nii.gz format=fsl, or mmtk convert flirt.mat init.tfm input_format=fsl
    fixed=fixed.nii.gz moving=moving.nii.gz

    Several runs: mmtk convert run1 run2 out=submission format=learn2reg; format=bids and brats-reg write folders, too.

    The formats are guessed from names and contents, and asked for where that is not certain: format= (written),
    input_format= (read), convention=ras-mm|lps-mm|voxel|relative|absolute.
    """
    from mmtk.errors import ConfigError
    from mmtk.io.convert import convert as carry_out
    from mmtk.settings import mapping, read_settings

    with refusals():
        places = [word for word in words or [] if "=" not in word and not word.startswith("-")]
        options = ["--help", *(name for parameter in context.command.params for name in parameter.opts)]
        typed, problems = read_settings([word for word in words or [] if word not in places], options)
        settings, problems = mapping(typed, problems)
        out = settings.pop("out", None) or (places.pop() if len(places) > 1 else None)
        if not places:
            problems.append("nothing to convert: give a transform file or a run's folder")
        if out is None:
            problems.append("nowhere to write to: give a second file, or out=")
        if problems:
            raise ConfigError(problems)
        done = carry_out(places, Path(str(out)), settings, overwrite=overwrite)
        if as_json:
            report = {"files": [str(file) for file in done.files], "format": done.format, "notes": [*done.notes]}
            typer.echo(json.dumps(report, indent=2))
        else:
            typer.echo("\n".join([*(f"note: {note}" for note in done.notes), *(f"{file}" for file in done.files)]))
