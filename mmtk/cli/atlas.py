"""``mmtk atlas``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmtk.cli.refusal import refusals

__all__ = ["atlas"]

atlas = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Maps over a whole cohort.")


@atlas.callback()
def root() -> None:
    """Maps over a whole cohort, in the space of its template."""


@atlas.command(context_settings={"ignore_unknown_options": True})
def build(
    context: typer.Context,
    cohort: Annotated[
        Path, typer.Argument(metavar="COHORT", help="Folder that `mmtk cohort run` left, or cohort.csv in it.")
    ],
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE...", help="by=, tissues=, regions=, confidence=, permutations=, seed=."),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder of the atlas; one that was built before gets new cases.")
    ] = Path("atlas"),
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Read every case again.")] = False,
) -> None:
    """Map how often lesions are where, with limits, by column and by region.

    For instance: mmtk atlas build cohort by=age,sex regions=regions.nii.gz --out atlas

    Keys: by (columns of the table), tissues (labels of the masks), regions (label map on the template), confidence,
    permutations, seed. A cohort that has grown is added to the same atlas by the same command.
    """
    with refusals():
        from mmtk.atlas.build import build_atlas
        from mmtk.atlas.settings import read_atlas_config

        options = [name for parameter in context.command.params for name in parameter.opts if "--" in name]
        found = build_atlas(cohort, out, read_atlas_config(settings or [], options), rebuild=rebuild)
        for name, why in found.left_out.items():
            typer.echo(f"left out: {name} {why}", err=True)
        typer.echo(
            f"{found.cases} cases, {found.added} of them new; the maps: {out}\nThe page: {out / 'atlas.html'}"
        )
