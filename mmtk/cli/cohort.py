"""``mmtk cohort``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmtk.cli.completion import complete_setting
from mmtk.cli.refusal import INTERRUPTED, refusals

if TYPE_CHECKING:
    from mmtk.cohort import CaseRecord, Cohort
    from mmtk.cohort.runner import Tell

__all__ = ["cohort"]

cohort = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Register many patients, on one machine or many."
)

#: Cases that the table on a terminal shows at a time.
SHOWN = 12


@cohort.command(context_settings={"ignore_unknown_options": True})
def run(
    context: typer.Context,
    table: Annotated[Path, typer.Argument(metavar="COHORT.csv", help="A row a case: case, moving, mask, ...")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE...",
            help="bundle=, template=, workers=, threads=, memory=, and any setting of the method.",
            autocompletion=complete_setting,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the cohort; one that was begun goes on.")] = Path("cohort"),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything that is drawn.")] = 0,
    retry: Annotated[
        bool,
        typer.Option("--retry", help="Run again what failed, and what was done with other settings or files."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check, show what would run, and stop.")] = False,
) -> None:
    """Register every case of a table, each into a folder of its own, and list them, the worst first.

    For instance: mmtk cohort run patients.csv bundle=metamorph_brats template=template.nii.gz workers=4 --out cohort

    Where: scheduler= (local, slurm or tcp://HOST:PORT), workers, threads and memory (GB) of each, gpus, retries; for
    SLURM queue, account and walltime. The same command goes on after what is done.
    """
    from mmtk.plugins import installed

    with refusals():
        from mmtk.cohort.description import read_cohort
        from mmtk.errors import ConfigError

        options = [name for parameter in context.command.params for name in parameter.opts if "--" in name]
        if table.suffix.lower() != ".csv":
            raise ConfigError(f"{table}: must be a table that ends in .csv; write it before the settings")
        found = read_cohort(table, settings or [], installed(), device=device, seed=seed, options=options)
        if dry_run:
            _show(found)
            return
        _carry_out(found, out, retry)


@cohort.command()
def table(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder of patients' folders.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE...", help="layout=brats-reg or brats; modalities=t1ce,flair, the leading one first."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The table; it must not be there yet.")] = Path("cohort.csv"),
) -> None:
    """Write the table of a cohort whose files are named as BraTS or BraTS-Reg names them.

    For instance: mmtk cohort table BraTSReg_Training_Data layout=brats-reg modalities=t1ce,flair --out cohort.csv
    """
    with refusals():
        from mmtk.cohort.tables import make_table
        from mmtk.errors import ConfigError
        from mmtk.io import write_text
        from mmtk.settings import read_settings

        given, problems = read_settings(settings or [], ["--out"])
        known = {"layout": "brats", "modalities": "t1ce"}
        problems += [
            f"{s.key}: there is no such setting; known are {', '.join(known)}" for s in given if s.key not in known
        ]
        if problems:
            raise ConfigError(problems)
        asked = known | {s.key: str(s.value) for s in given}
        if out.suffix.lower() != ".csv":
            raise ConfigError(f"--out {out}: must be a table that ends in .csv")
        if out.exists():
            raise ConfigError(f"--out {out}: is there already; name another table, or move it away")
        modalities = [name.strip() for name in asked["modalities"].split(",") if name.strip()]
        text = make_table(folder, asked["layout"], modalities)
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, text)
    typer.echo(f"{text.count(chr(10)) - 1} cases: {out}")


def _show(found: Cohort) -> None:
    import yaml

    typer.echo(yaml.safe_dump(found.data(), sort_keys=False, default_flow_style=None).rstrip())
    if found.place.scheduler == "slurm":
        from mmtk.cohort.cluster import job_script, ready

        ready(found.place)
        typer.echo(f"\n# Each of {found.place.workers} jobs:\n{job_script(found.place).rstrip()}")


def _carry_out(found: Cohort, out: Path, retry: bool) -> None:
    from mmtk.cohort.runner import carry_out

    command = shlex.join(["mmtk", *sys.argv[1:]])
    try:
        with display() as tell:
            records = carry_out(found, out, retry=retry, tell=tell, command=command)
    except KeyboardInterrupt:
        typer.echo("stopped; the same command goes on after the last finished case", err=True)
        raise typer.Exit(INTERRUPTED) from None
    failed = [record for record in records if record.failed]
    for record in failed:
        typer.echo(f"failed: {record.case}: {record.message}", err=True)
    if failed:
        typer.echo(f"{len(failed)} of {len(records)} cases failed; --retry runs them again", err=True)
    typer.echo(f"{len(records)} cases; the numbers: {out / 'results.csv'}\nThe index: {out / 'index.html'}")
    raise typer.Exit(1 if failed else 0)


@contextmanager
def display(terminal: bool | None = None) -> Iterator[Tell]:
    """Give a function that tells of each case: lines, and on a terminal a table of the latest with a bar.

    Args:
        terminal: Whether the error stream is one; None: look.
    """
    if not (sys.stderr.isatty() if terminal is None else terminal):

        def line(done: int, total: int, record: CaseRecord, found: bool) -> None:
            if not found:
                typer.echo(f"{done}/{total}  {record.case}: {_how(record)}", err=True)

        yield line
        return
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
    from rich.table import Table

    latest: list[CaseRecord] = []
    count = {"failed": 0, "found": 0}
    bar = Progress(BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    task = bar.add_task("", total=None)

    def shown() -> Group:
        table = Table("case", "machine", "seconds", "how it went", box=None)
        for record in latest[-SHOWN:]:
            cost = record.cost
            seconds = f"{cost['seconds']:.1f}" if cost.get("seconds") else ""
            table.add_row(record.case, str(cost.get("machine") or ""), seconds, record.message or record.outcome)
        return Group(table, f"{count['found']} done before, {count['failed']} failed", bar)

    with Live(shown(), console=Console(stderr=True, force_terminal=terminal), refresh_per_second=2) as live:

        def row(done: int, total: int, record: CaseRecord, found: bool) -> None:
            count["found"] += found
            count["failed"] += record.failed
            if not found:
                latest.append(record)
            bar.update(task, completed=done, total=total)
            live.update(shown())

        yield row


def _how(record: CaseRecord) -> str:
    return f"failed: {record.message}" if record.failed else f"{record.cost.get('seconds', 0.0):.1f} s"
