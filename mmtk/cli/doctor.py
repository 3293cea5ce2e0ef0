"""``mmtk doctor``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mmtk.cli.refusal import refusals

__all__ = ["doctor"]

_MARKS = {"ok": " ", "note": "?", "bad": "!"}


def doctor(
    out: Annotated[Path, typer.Option(help="Where results are to go.")] = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look at this installation: versions, devices, memory, disk, plugins, bundles, and a registration in small.

    Lines with ? could be better, lines with ! must be mended; each says how. The exit code is 1 if any has a !.
    """
    from mmtk.doctor import examine
    from mmtk.plugins import installed

    with refusals():
        findings = []
        for finding in examine(installed(), out):
            findings.append(finding)
            if not as_json:
                typer.echo(f"{_MARKS[finding.status]} {finding.topic}: {finding.seen}")
                if finding.advice:
                    typer.echo(f"      {finding.advice}")
        if as_json:
            typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
        raise typer.Exit(1 if any(finding.status == "bad" for finding in findings) else 0)
