"""``mmtk plugins new`` and ``mmtk plugins check``: for those who write plugins."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmtk.cli.completion import complete_bundle, complete_plugin, complete_plugin_kind
from mmtk.cli.refusal import refusals

if TYPE_CHECKING:
    from mmtk.plugins import PluginRecord

__all__ = ["check", "new"]


def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the package, such as my-similarity.")],
    kind: Annotated[
        str,
        typer.Option(
            help="similarity, regularizer, integrator, method, segmenter, metric, loss, command or bundle.",
            autocompletion=complete_plugin_kind,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder in which the package's own is made.")] = Path("."),
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="The bundle to begin from, for --kind bundle; metamorph_brats if none is named.",
            autocompletion=complete_bundle,
        ),
    ] = None,
) -> None:
    """Write a package with a plugin: code, test, README, CI.

    For instance: mmtk plugins new my-similarity --kind similarity
    """
    from mmtk.bundle.package import new_package
    from mmtk.plugins import installed

    with refusals():
        place = new_package(name, kind, out, installed(), start=start)
        typer.echo(
            f"{place}\n\nNext:\n  cd {place}\n  pip install -e '.[dev]'\n  pytest\n  mmtk plugins check {name}"
        )


def check(
    name: Annotated[
        str,
        typer.Argument(
            metavar="DIST", help="An installed distribution, or a plugin.", autocompletion=complete_plugin
        ),
    ],
) -> None:
    """Hold an installed plugin to all that mmtk asks of it: how it loads, and the laws of its parts."""
    from mmtk.plugins import installed
    from mmtk.plugins.checking import check_plugins, find_plugins

    with refusals():
        catalogue = installed()
        plugins = find_plugins(name, catalogue)
        good = True
        for found in check_plugins(plugins, catalogue):
            good &= not found.problem
            typer.echo(f"wrong  {found.about}: {found.problem}" if found.problem else f"ok     {found.about}")
        good &= _laws(plugins)
        raise typer.Exit(0 if good else 1)


def _laws(plugins: list[PluginRecord]) -> bool:
    """Run the contract of every part and bundle in a process of its own; kinds without laws are passed over."""
    if importlib.util.find_spec("pytest") is None:
        typer.echo("left out  the laws of the parts: pytest is not installed; `pip install pytest`")
        return True
    from mmtk.testing import CONTRACTS

    every = [offer for plugin in plugins for offer in plugin.offers if offer.family in CONTRACTS]
    for offer in (offer for offer in every if offer.config.capabilities.learned):
        typer.echo(
            f"left out  the laws of {offer.family} {offer.name}: it is learned, and has no weights by itself"
        )
    offers = [offer for offer in every if not offer.config.capabilities.learned]
    bundles = [folder for plugin in plugins for folder in plugin.bundles]
    if not offers and not bundles:
        return True
    counts = [(len(offers), "part"), (len(bundles), "bundle")]
    told = " and ".join(f"{count} {what}{'s' * (count > 1)}" for count, what in counts if count)
    typer.echo(f"The laws of {told}:")
    lines = ["import pytest", "from mmtk.plugins import installed", "from mmtk.testing import *", ""]
    for number, offer in enumerate(offers):
        lines += [
            f"class Test_{number}_{offer.family}_{offer.name}(CONTRACTS[{offer.family!r}]):",
            "    @pytest.fixture",
            "    def part(self):",
            f"        config = installed().find({offer.family!r}, {f'{offer.plugin}:{offer.name}'!r})",
            "        return config.model_validate({}, context={'catalogue': installed()})",
            "",
        ]
    for number, folder in enumerate(bundles):
        lines += [
            f"class Test_{number}_bundle_{folder.name}(BundleContract):",
            "    @pytest.fixture",
            "    def bundle(self):",
            f"        return {str(folder)!r}",
            "",
        ]
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "test_laws.py"
        file.write_text("\n".join(lines), encoding="utf-8")
        # Settings of its own: those of whatever project lies around must not matter.
        ini = Path(place) / "pytest.ini"
        ini.write_text("[pytest]\n", encoding="utf-8")
        words = ["-q", "--no-header", "-p", "no:cacheprovider", "-c", str(ini), str(file)]
        return subprocess.run([sys.executable, "-m", "pytest", *words], check=False).returncode == 0
