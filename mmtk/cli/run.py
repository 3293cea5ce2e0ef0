"""``mmtk run``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmtk.cli.refusal import refusals

if TYPE_CHECKING:
    from mmtk.bundle.plan import Plan

__all__ = ["run"]


def run(
    context: typer.Context,
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE...", help="bundle=, moving=, fixed=, mask=, and any setting of the method."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("out"),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything that is drawn.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write into a folder that is not empty.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check, show what would run, and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Carry the moving image onto the fixed one.

    For instance: mmtk run bundle=metamorph_brats moving=patient.nii.gz fixed=template.nii.gz mask=tumor.nii.gz

    Without images a bundle runs on the sample that comes with mmtk. `mmtk show NAME` lists all settings.
    """
    from mmtk.bundle.plan import make_plan
    from mmtk.plugins import installed

    with refusals():
        options = ["--help", "--version"]
        options += [name for parameter in context.command.params for name in parameter.opts if "--" in name]
        plan = make_plan(
            settings or [],
            out=out,
            overwrite=overwrite,
            device=device,
            catalogue=installed(),
            options=options,
        )
        if dry_run:
            typer.echo(plan.as_json() if as_json else plan.as_yaml())
        else:
            _carry_out(plan, device, seed, as_json)


def _carry_out(plan: Plan, device: str, seed: int, as_json: bool) -> None:
    raise NotImplementedError
