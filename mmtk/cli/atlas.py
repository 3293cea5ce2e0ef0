"""``mmtk atlas``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from mmtk.cli.completion import complete_setting
from mmtk.cli.refusal import INTERRUPTED, refusals

__all__ = ["atlas"]

atlas = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Where lesions are over a cohort; its mean image.",
)


@atlas.callback()
def root() -> None:
    """Maps of lesions over a whole cohort, and its mean image."""


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


@atlas.command(context_settings={"ignore_unknown_options": True})
def template(
    context: typer.Context,
    table: Annotated[
        Path, typer.Argument(metavar="COHORT.csv", help="A row a case: case, moving, mask, ...; no fixed image.")
    ],
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE...",
            help="rounds=, template= (to begin with), bundle=, workers=, and any setting of the method.",
            autocompletion=complete_setting,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the template; one that was begun goes on.")] = Path(
        "template"
    ),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything that is drawn.")] = 0,
    retry: Annotated[bool, typer.Option("--retry", help="Run again what failed.")] = False,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Begin anew.")] = False,
) -> None:
    """Make the mean image of a cohort, unbiased in shape, and the map of every case onto it.

    For instance: mmtk atlas template patients.csv rounds=3 bundle=metamorph_brats workers=4 --out template

    Keys: rounds, sharpen, length and nodes (of shapes), keep; template (the image to begin with; else the first scan
    without a mask); where to run and how to register as of `mmtk cohort run`. The same command goes on after what is
    done; cases that have joined the table are added to the last round.
    """
    from mmtk.plugins import installed

    with refusals():
        from mmtk.atlas.settings import split_template_config
        from mmtk.atlas.template import build_template, plan_template
        from mmtk.cli.cohort import display
        from mmtk.errors import ConfigError

        options = [name for parameter in context.command.params for name in parameter.opts if "--" in name]
        if table.suffix.lower() != ".csv":
            raise ConfigError(f"{table}: must be a table that ends in .csv; write it before the settings")
        config, others = split_template_config(settings or [], options)
        plan = plan_template(table, others, config, installed(), device=device, seed=seed, options=options)
        command = shlex.join(["mmtk", *sys.argv[1:]])
        try:
            with display() as tell:
                found = build_template(
                    plan,
                    out,
                    retry=retry,
                    rebuild=rebuild,
                    tell=tell,
                    say=lambda sentence: typer.echo(sentence, err=True),
                    command=command,
                )
        except KeyboardInterrupt:
            typer.echo("stopped; the same command goes on after the last finished case", err=True)
            raise typer.Exit(INTERRUPTED) from None
        for name, why in found.left_out.items():
            typer.echo(f"left out: {name}: {why}", err=True)
        typer.echo(
            f"{len(found.cases)} cases, {found.added} added; the template: {out / 'template.nii.gz'}\n"
            f"The page: {out / 'template.html'}"
        )
        raise typer.Exit(1 if found.left_out else 0)


@atlas.command(context_settings={"ignore_unknown_options": True})
def modes(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that `mmtk atlas template` left.")],
    settings: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="modes=, sd=.")] = None,
) -> None:
    """Find how the shapes and the appearance of a template's cases vary: principal modes, and each case's scores.

    For instance: mmtk atlas modes template modes=5

    Keys: modes (how many are written), sd (standard deviations to either side on the page).
    """
    with refusals():
        from mmtk.atlas.settings import read_modes_config
        from mmtk.atlas.variation import find_modes

        options = [name for parameter in context.command.params for name in parameter.opts if "--" in name]
        found = find_modes(folder, read_modes_config(settings or [], options))
        shares = [
            f"{kind} {100 * part.explained[: len(part.basis)].sum():.0f} %"
            for kind, part in (("shape", found.shape), ("appearance", found.appearance))
        ]
        typer.echo(
            f"{found.config.modes} modes of {len(found.cases)} cases explain: {', '.join(shares)}; the files: "
            f"{folder / 'modes'}\nThe page: {folder / 'modes.html'}"
        )
