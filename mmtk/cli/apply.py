"""``mmtk apply``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from mmtk.cli.refusal import refusals

__all__ = ["apply"]


def apply(
    context: typer.Context,
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE...", help="transform=, out=, and one of image=, labels=, points=."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file out= if it exists.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False,
) -> None:
    """Carry an image, a label map or points through a transform.

    For instance: mmtk apply transform=out image=patient_flair.nii.gz out=flair_on_template.nii.gz

    Points say in their first line where they lie ("# space: moving, RAS, mm") and go to the other image. An image
    goes from moving to fixed; with from=fixed to=moving it goes back. Keys: transform (the folder of a run, or files,
    nearest to the fixed image first), image, labels, points, out, reference, from, to, space, interpolation
    (linear, cubic, sinc, nearest, labels), outside, antialias, reorient, format, convention.
    """
    from mmtk.settings import mapping, read_settings

    with refusals():
        options = ["--help"]
        options += [name for parameter in context.command.params for name in parameter.opts if "--" in name]
        said, problems = mapping(*read_settings(settings or [], options))
        from mmtk.transforms.apply import apply as carry_out

        done = carry_out(said, problems=problems, overwrite=overwrite)
        if as_json:
            report = {"out": str(done.out), "from": done.start, "to": done.end}
            typer.echo(json.dumps({**report, "notes": done.notes, "seconds": done.seconds}, indent=2))
            return
        for note in done.notes:
            typer.echo(f"note: {note}", err=True)
        typer.echo(f"From {done.start} to {done.end}: {done.out}")
