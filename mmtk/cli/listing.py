"""``mmtk plugins``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmtk.cli.refusal import refusals

if TYPE_CHECKING:
    from mmtk.plugins import Catalogue

__all__ = ["plugins"]


def plugins(
    kind: Annotated[
        str | None, typer.Option(help="Only one kind: method, similarity, integrator, ... or bundle.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List what is installed: methods, their parts, and bundles."""
    from mmtk.plugins import installed

    with refusals():
        catalogue = installed()
        parts = _parts(catalogue, kind)
        typer.echo(json.dumps(_everything(catalogue, parts), indent=2) if as_json else _table(catalogue, parts))


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
    return "\n".join(lines[1:]) or "nothing is installed"
