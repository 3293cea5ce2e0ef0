"""``mmtk evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmtk.cli.refusal import refusals

__all__ = ["evaluate"]


def evaluate(
    context: typer.Context,
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE...",
            help="run=, or fixed= warped=, labels= fixed_labels=, landmarks= fixed_landmarks=, displacement=.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File for the numbers: .json or .csv.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file --out if it exists.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """Measure a registration, of mmtk or of any other tool.

    For instance: mmtk evaluate run=out, or mmtk evaluate displacement=1Warp.nii.gz fixed=fixed.nii.gz
    warped=warped.nii.gz mask=lesion_on_fixed.nii.gz

    Keys: run; fixed, warped, deformed (shape only), placed (affine only), mask; labels, fixed_labels, tolerance;
    landmarks, fixed_landmarks, transform, space; displacement, inverse, truth, near, format, convention; normalize.
    """
    from mmtk.settings import mapping, read_settings

    with refusals():
        options = ["--help"]
        options += [name for parameter in context.command.params for name in parameter.opts if "--" in name]
        said, problems = mapping(*read_settings(settings or [], options))
        from mmtk.evaluation import as_json_text, as_text, check_out, evaluate, write_numbers

        problems += [] if out is None else check_out(out, overwrite)
        found = evaluate(said, problems=problems)
        if out is not None:
            write_numbers(out, found)
        if as_json:
            typer.echo(as_json_text(found))
            return
        for note in found.notes:
            typer.echo(f"note: {note}", err=True)
        typer.echo(as_text(found))
