"""``mmtk bundles``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from mmtk.cli.completion import complete_bundle
from mmtk.cli.refusal import refusals

__all__ = ["bundles"]

bundles = typer.Typer(no_args_is_help=True, help="List, check, begin and trust bundles.")

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="A bundle's name or its folder.", autocompletion=complete_bundle)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@bundles.command("list")
def list_bundles(as_json: AsJson = False) -> None:
    """List what is installed and what lies on MMTK_BUNDLE_PATH."""
    from mmtk.bundle.search import search
    from mmtk.bundle.trust import standing
    from mmtk.plugins import installed

    with refusals():
        rows = [
            {"name": b.name, "trust": standing(b, installed()), "origin": b.origin, "folder": str(b.folder)}
            for b in search(installed())
        ]
        if as_json:
            typer.echo(json.dumps(rows, indent=2))
            return
        widths = [max((len(row[key]) for row in rows), default=0) for key in ("name", "trust", "origin")]
        for row in rows:
            cells = [f"{row[key]:{width}}" for key, width in zip(("name", "trust", "origin"), widths, strict=True)]
            typer.echo("  ".join([*cells, row["folder"]]))


@bundles.command()
def show(name: Name, as_json: AsJson = False) -> None:
    """Say what a bundle is for, where it came from, and what in it asks for trust."""
    from mmtk.bundle.recipe import read_metadata
    from mmtk.bundle.scan import scan
    from mmtk.bundle.search import find
    from mmtk.bundle.trust import digest, standing
    from mmtk.plugins import installed

    with refusals():
        found = find(name, installed())
        metadata = read_metadata(found.folder)
        findings = [str(finding) for finding in scan(found.folder, installed())]
        facts = {key: metadata.get(key) for key in ("version", "task", "description", "authors", "intended_use")}
        facts.update(
            origin=found.origin,
            folder=str(found.folder),
            trust=standing(found, installed()),
            digest=digest(found.folder),
        )
        if as_json:
            typer.echo(json.dumps({"name": found.name, **facts, "findings": findings}, indent=2))
            return
        typer.echo(found.name)
        for key, value in facts.items():
            # What a stranger wrote is shown without what would steer a terminal.
            typer.echo(f"  {key:12}  {''.join(c if c.isprintable() else ' ' for c in str(value))}")
        for finding in findings:
            typer.echo(f"  asks for trust: {finding}")


@bundles.command()
def check(
    name: Name,
    run: Annotated[
        bool, typer.Option("--run", help="Also run it on a small pair, by mmtk and by MONAI; minutes.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check a bundle: layout, metadata, versions, MONAI's properties, what asks for trust, weights. No network."""
    from mmtk.bundle.check import check as verdicts
    from mmtk.bundle.search import find
    from mmtk.plugins import installed

    with refusals():
        found = find(name, installed())
        every = []
        for verdict in verdicts(found, installed(), run=run):
            every.append(verdict)
            if not as_json:
                state = "skipped" if verdict.skipped else "ok" if verdict.ok else "wrong"
                typer.echo(f"{state:8}{verdict.name}{': ' if verdict.skipped else ''}{verdict.skipped}")
                for problem in verdict.problems:
                    typer.echo(f"          {problem}")
        if as_json:
            typer.echo(json.dumps([vars(verdict) for verdict in every], indent=2))
        raise typer.Exit(0 if all(verdict.ok for verdict in every) else 2)


@bundles.command()
def new(
    name: Annotated[
        str, typer.Argument(metavar="FOLDER", help="Folder of the new bundle; its name is the bundle's.")
    ],
    start: Annotated[str, typer.Option("--from", help="The bundle to begin from.")] = "metamorph_brats",
) -> None:
    """Begin a bundle of your own from one that is there."""
    from mmtk.bundle.new import new_bundle
    from mmtk.bundle.search import find
    from mmtk.bundle.trust import admit
    from mmtk.plugins import installed

    with refusals():
        begun = find(start, installed())
        admit(begun, installed())
        folder = new_bundle(begun, Path(name)).resolve()
        typer.echo(
            f"{folder}: edit configs/inference.json, fill in what is TODO, then `mmtk bundles check {folder}`"
        )


@bundles.command()
def unpack(
    archive: Annotated[Path, typer.Argument(help="A zip, tar or tar.gz.")],
    folder: Annotated[Path, typer.Argument(help="Folder for the bundle; new.")],
) -> None:
    """Unpack a bundle from anybody: within its folder and within bounds, or not at all."""
    from mmtk.bundle.archive import unpack as write

    with refusals():
        typer.echo(f"{write(archive, folder)}: see what is in it with `mmtk bundles show {folder.resolve()}`")


@bundles.command()
def trust(name: Name) -> None:
    """Let a bundle run its author's code, as long as not a byte of it changes."""
    from mmtk.bundle.scan import scan
    from mmtk.bundle.search import find
    from mmtk.bundle.trust import trust as record
    from mmtk.plugins import installed

    with refusals():
        found = find(name, installed())
        if found.installed:
            typer.echo(f"{found.name} came with {found.origin} and is trusted by being installed")
            return
        for finding in scan(found.folder, installed()):
            typer.echo(f"  lets through {finding}", err=True)
        typer.echo(f"trusted: {found.name} sha256:{record(found)}")


@bundles.command()
def untrust(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A bundle's name, folder or digest.")],
) -> None:
    """Trust a bundle no longer."""
    from mmtk.bundle.trust import untrust as forget

    with refusals():
        for digest in forget(name):
            typer.echo(f"no longer trusted: sha256:{digest}")
