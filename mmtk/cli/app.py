"""The commands of ``mmtk``, each in a file of its own.

These files import what they need inside the command: ``mmtk --help`` waits for typer alone.
"""

from __future__ import annotations

from typing import Annotated

import typer

from mmtk import __version__
from mmtk.cli.apply import apply
from mmtk.cli.atlas import atlas
from mmtk.cli.benchmarks import benchmarks
from mmtk.cli.bundles import bundles
from mmtk.cli.cohort import cohort
from mmtk.cli.compare import compare
from mmtk.cli.convert import convert
from mmtk.cli.doctor import doctor
from mmtk.cli.evaluate import evaluate
from mmtk.cli.extra import extra
from mmtk.cli.listing import plugins
from mmtk.cli.report import report
from mmtk.cli.run import run
from mmtk.cli.sample import sample
from mmtk.cli.segment import segment
from mmtk.cli.show import show
from mmtk.cli.train import train

__all__ = ["OPTIONS", "app"]

#: Options that need no command.
OPTIONS = ("--version", "--help", "-h", "--install-completion", "--show-completion")

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mmtk {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Register images that do not have the same topology: shape and appearance, kept apart."""


# Options that typer does not know are passed on: a slip such as --mu 3 is answered by our own advice.
_FREE = {"ignore_unknown_options": True}

app.command(context_settings=_FREE)(run)
app.command(context_settings=_FREE)(segment)
app.command(context_settings=_FREE)(apply)
app.command(context_settings=_FREE)(evaluate)
app.command(context_settings=_FREE)(train)
app.command(context_settings=_FREE)(compare)
app.add_typer(cohort, name="cohort")
app.add_typer(atlas, name="atlas")
app.command()(benchmarks)
app.command()(report)
app.add_typer(plugins, name="plugins")
app.add_typer(bundles, name="bundles")
app.command()(show)
app.command()(doctor)
app.command(context_settings=_FREE)(sample)
app.command(context_settings=_FREE)(convert)
app.command(name="x", context_settings={**_FREE, "help_option_names": []})(extra)
