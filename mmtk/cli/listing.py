"""``mmtk plugins``; ``new`` and ``check`` below it are for those who write them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmtk.cli.authoring import check, new
from mmtk.cli.completion import complete_kind
from mmtk.cli.refusal import refusals

if TYPE_CHECKING:
    from mmtk.plugins import Catalogue

__all__ = ["plugins"]

plugins = typer.Typer(invoke_without_command=True, no_args_is_help=False, rich_markup_mode=None)
plugins.command()(new)
plugins.command()(check)


@plugins.callback()
def listing(
    context: typer.Context,
    kind: Annotated[
        str | None,
        typer.Option(
            help="Only one kind: method, similarity, integrator, ... or bundle.", autocompletion=complete_kind
        ),
    ] = None,
    broken: Annotated[
        bool, typer.Option("--broken", help="Only plugins that could not be loaded; exit code 1 if there are any.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List what is installed: methods, their parts, and bundles."""
    from mmtk.errors import ConfigError
    from mmtk.plugins import Catalogue, installed

    with refusals():
        if context.invoked_subcommand is not None:
            if kind is not None or broken or as_json:
                name = context.invoked_subcommand
                raise ConfigError(f"options of `mmtk plugins {name}` are written after its name")
            return
        if broken and kind is not None:
            raise ConfigError(
                "--broken, --kind: a plugin that is broken has no parts of any kind; give one of them"
            )
        catalogue = installed()
        if broken:
            catalogue = Catalogue(tuple(catalogue.broken))
        parts = _parts(catalogue, kind)
        empty = "no plugin is broken" if broken else "nothing is installed"
        table = (
            json.dumps(_everything(catalogue, parts), indent=2) if as_json else _table(catalogue, parts) or empty
        )
        typer.echo(table)
        raise typer.Exit(1 if broken and catalogue.plugins else 0)


def _parts(catalogue: Catalogue, kind: str | None) -> list[dict[str, Any]]:
    from mmtk.config import nearest
    from mmtk.errors import ConfigError
    from mmtk.plugins import FAMILIES

    kinds = (*FAMILIES, "bundle")
    if kind is not None and kind not in kinds:
        raise ConfigError(f"--kind {kind}: must be one of {', '.join(kinds)}{nearest(kind, kinds)}")
    rows = [
        {
            "kind": offer.family,
            "name": offer.name,
            "summary": offer.config.summary,
            "plugin": offer.plugin,
            "distribution": offer.distribution,
            "capabilities": vars(offer.config.capabilities),
        }
        for offer in catalogue.offers()
    ]
    return [row for row in [*rows, *_bundles(catalogue)] if kind in (None, row["kind"])]


def _bundles(catalogue: Catalogue) -> list[dict[str, Any]]:
    from mmtk.bundle import read_metadata

    return [
        {
            "kind": "bundle",
            "name": folder.name,
            "summary": str(read_metadata(folder).get("description", "")).split(". ")[0].rstrip("."),
            "plugin": plugin.name,
            "distribution": plugin.distribution,
            "folder": str(folder),
        }
        for plugin in catalogue.plugins
        for folder in sorted(plugin.bundles)
    ]


def _everything(catalogue: Catalogue, parts: list[dict[str, Any]]) -> dict[str, Any]:
    records = [
        {key: getattr(plugin, key) for key in ("name", "distribution", "version", "status", "error")}
        for plugin in catalogue.plugins
    ]
    return {"plugins": records, "parts": parts}


def _table(catalogue: Catalogue, parts: list[dict[str, Any]]) -> str:
    width = max((len(row["name"]) for row in parts), default=0)
    lines, kind = [], None
    for row in parts:
        if row["kind"] != kind:
            kind = row["kind"]
            lines += ["", kind]
        lines.append(f"  {row['name']:{width}}  {row['summary']}")
    for plugin in catalogue.plugins:
        if plugin.status != "ok":
            why = f": {plugin.error}" if plugin.error else ""
            lines += ["", f"{plugin.status}  {plugin.name} ({plugin.distribution} {plugin.version}){why}"]
    return "\n".join(lines[1:])
