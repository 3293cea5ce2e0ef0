"""``mmtk benchmarks``."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from mmtk.cli.refusal import refusals

__all__ = ["benchmarks"]


def benchmarks(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Only this one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the benchmarks of mmtk compare, with their settings.

    For instance: mmtk compare methods=metamorphosis,lddmm cases=c_shapes, or cases="brains folder=DIR count=5"
    """
    from mmtk.config import nearest
    from mmtk.errors import ConfigError
    from mmtk.plugins import installed

    with refusals():
        catalogue = installed()
        rows = [_row(plugin, config) for plugin in catalogue.plugins for config in plugin.benchmarks]
        if name is not None and name not in catalogue.benchmarks:
            hint = nearest(name, catalogue.benchmarks) or "; there are " + ", ".join(catalogue.benchmarks)
            raise ConfigError(f"no benchmark is called '{name}'{hint}")
        rows = [row for row in rows if name in (None, row["name"])]
        typer.echo(json.dumps(rows, indent=2) if as_json else "\n\n".join(_text(row) for row in rows))


def _row(plugin: Any, config: Any) -> dict[str, Any]:
    from mmtk.plugins.words import accepted, as_typed, unit

    settings = [
        {
            "name": field.alias or key,
            "default": as_typed(field.get_default(call_default_factory=True)) if not field.is_required() else None,
            "type": accepted(field),
            "unit": unit(field),
            "description": field.description or "",
        }
        for key, field in config.model_fields.items()
        if key != "kind"
    ]
    return {
        "name": config.name(),
        "summary": config.summary,
        "plugin": plugin.name,
        "distribution": plugin.distribution,
        "settings": settings,
    }


def _text(row: dict[str, Any]) -> str:
    table = [
        (s["name"], "must be given" if s["default"] is None else s["default"], s["type"], s["description"])
        for s in row["settings"]
    ]
    widths = [max((len(line[column]) for line in table), default=0) for column in range(3)]
    lines = [
        "  " + "  ".join([*(f"{w:{n}}" for w, n in zip(line, widths, strict=False)), line[3]]) for line in table
    ]
    return "\n".join([f"{row['name']}: {row['summary']}", *lines])
