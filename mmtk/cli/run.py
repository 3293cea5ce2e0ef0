"""``mmtk run``."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmtk.cli.completion import complete_setting
from mmtk.cli.refusal import INTERRUPTED, refusals

if TYPE_CHECKING:
    from mmtk.bundle.plan import Plan
    from mmtk.config import RunConfig
    from mmtk.registration import Result

__all__ = ["run"]


def run(
    context: typer.Context,
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE...",
            help="bundle=, moving=, fixed=, mask=, and any setting of the method.",
            autocompletion=complete_setting,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("out"),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything that is drawn.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write into a folder that is not empty.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last finished level of a run that was stopped.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check, show what would run, and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    bids: Annotated[
        bool, typer.Option("--bids", help="Give the results BIDS names as well, in OUT/bids.")
    ] = False,
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
            _carry_out(plan, device, seed, overwrite, resume, as_json, bids)


def _carry_out(
    plan: Plan, device: str, seed: int, overwrite: bool, resume: bool, as_json: bool, bids: bool
) -> None:
    from mmtk.cli.progress import progress_bar
    from mmtk.io.bids import write_bids_beside
    from mmtk.registration import run as carry_out

    if plan.sample:
        typer.echo(f"No images were given: running on the sample '{plan.sample}'.", err=True)
    config = plan.ready(seed)
    if bids:
        _check_bids(config, plan.out)
    try:
        with progress_bar() as progress:
            result = carry_out(
                config,
                plan.out,
                device=device,
                seed=seed,
                overwrite=overwrite or plan.sample is not None,
                resume=resume,
                progress=progress,
                command=shlex.join(["mmtk", *sys.argv[1:]]),
            )
    except KeyboardInterrupt:
        told = (
            f"stopped; '{plan.out}' is as it was, and the same with --resume goes on after the last finished level"
        )
        typer.echo(told, err=True)
        raise typer.Exit(INTERRUPTED) from None
    if bids:
        write_bids_beside(plan.out)
    typer.echo(_as_json(result, plan.out) if as_json else _summary(result, plan.out))
    raise typer.Exit(0 if result.outcome.ok else 1)


def _check_bids(config: RunConfig, out: Path) -> None:
    """Say what is wrong with the names before anything is computed, and where they can be chosen, which is not here.

    Raises:
        InputError: If BIDS can have no names made of the images' own.
    """
    from mmtk.errors import InputError
    from mmtk.io.bids import names_for

    try:
        names_for(config.moving, config.fixed)
    except InputError as error:
        told = (
            f"--bids: names come from the files alone; to choose them, leave --bids out, and after the run say "
            f"`mmtk convert {shlex.quote(str(out))} out=FOLDER format=bids` with these keys"
        )
        raise InputError([*error.problems, told]) from error


def _as_json(result: Result, out: Path) -> str:
    # The file's numbers, in which NaN has become null.
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    report = {"out": str(out), "outcome": result.outcome.name, "notes": result.notes, "seconds": result.seconds}
    return json.dumps({**report, "metrics": metrics}, indent=2)


def _summary(result: Result, out: Path) -> str:
    lines = [f"note: {note}" for note in result.notes]
    lines += [
        f"  {group}.{name} = {value:.5g}" if isinstance(value, float) else f"  {group}.{name} = {value}"
        for group, values in result.metrics.items()
        for name, value in values.items()
    ]
    seconds = sum(result.seconds.values())
    return "\n".join([*lines, f"{result.outcome.value} ({seconds:.1f} s)", f"The report: {out / 'report.html'}"])
