"""``mmtk compare``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmtk.cli.refusal import INTERRUPTED, refusals

if TYPE_CHECKING:
    from mmtk.study.description import Study
    from mmtk.study.results import Record

__all__ = ["compare"]


def compare(
    context: typer.Context,
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[STUDY.yaml] KEY=VALUE...",
            help="A study's file, or methods=a,b cases=FOLDER; what is typed counts before what the file says.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the study; one that was begun goes on.")] = Path("study"),
    retry: Annotated[bool, typer.Option("--retry", help="Run again what failed.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check, show what would run, and stop.")] = False,
) -> None:
    """Compare methods on the same cases: every number, honest statistics, one page.

    For instance: mmtk compare methods=metamorphosis,lddmm cases=pairs reference=lddmm --out study

    Keys: methods, cases (a folder of cases, a .csv, a benchmark), seeds, reference, metrics, primary, title, jobs,
    threads, memory (GB), minutes (of a run), device, bootstrap_seed. The same command goes on after the last finished
    run of a study that was stopped.
    """
    from mmtk.plugins import installed

    with refusals():
        from mmtk.study.description import read_study

        options = ["--help"]
        options += [name for parameter in context.command.params for name in parameter.opts if "--" in name]
        study = read_study(settings or [], installed(), options)
        if dry_run:
            import yaml

            typer.echo(yaml.safe_dump(study.data(), sort_keys=False, default_flow_style=None).rstrip())
            return
        _carry_out(study, out, retry)


def _carry_out(study: Study, out: Path, retry: bool) -> None:
    from mmtk.study.page import write_page
    from mmtk.study.runner import carry_out

    command = shlex.join(["mmtk", *sys.argv[1:]])
    try:
        records = carry_out(study, out, retry=retry, tell=_tell, command=command)
    except KeyboardInterrupt:
        typer.echo("stopped; the same command goes on after the last finished run", err=True)
        raise typer.Exit(INTERRUPTED) from None
    page = write_page(study, records, out)
    for entry in study.absent:
        typer.echo(f"{entry.label} is not run: {entry.missing}", err=True)
    failed = sum(record.failed for record in records)
    if failed:
        typer.echo(
            f"{failed} of {len(records)} runs failed; the page says why, and --retry runs them again", err=True
        )
    typer.echo(f"{len(records)} runs; the numbers: {out / 'results.csv'}\nThe page: {page}")


def _tell(done: int, total: int, record: Record, found: bool) -> None:
    """A line for each run that ends; those found complete are not repeated one by one."""
    if found:
        return
    how = f"failed: {record.message}" if record.failed else f"{record.metrics.get('cost.wall_s', 0.0):.1f} s"
    typer.echo(f"{done}/{total}  {record.method}  {record.case}  seed {record.seed}: {how}", err=True)
