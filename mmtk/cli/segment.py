"""``mmtk segment``."""

from __future__ import annotations

import json
import shlex
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from mmtk.cli.completion import complete_segment
from mmtk.cli.refusal import refusals

if TYPE_CHECKING:
    from pathlib import Path

    from mmtk.masking.finding import FoundMask

__all__ = ["segment"]


def segment(
    context: typer.Context,
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE...",
            help="bundle= or segmenter=, image= (or t1=, t1ce=, t2=, flair=), out=.",
            autocompletion=complete_segment,
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check, show what would run, and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Find the lesion of a scan, and write its mask on the scan's own grid.

    For instance: mmtk segment segmenter=inconsistency image=patient_t1.nii.gz out=lesion.nii.gz

    Beside the mask: OUT_probability, OUT_uncertainty, where regions are known OUT_ET, OUT_TC, OUT_WT and OUT_labels, and
    OUT.json, which says how it was made. Keys: image, t1, t1ce, t2, flair, template (auto, none or FILE), out, level,
    enhancing, init, spacing, and any setting of the segmenter. `mmtk show NAME` lists them.
    """
    from mmtk.bundle.segment_plan import plan_segmentation
    from mmtk.plugins import installed

    with refusals():
        options = ["--help"]
        options += [name for parameter in context.command.params for name in parameter.opts if "--" in name]
        config = plan_segmentation(settings or [], catalogue=installed(), overwrite=overwrite, options=options)
        if dry_run:
            import yaml

            data = config.model_dump(mode="json", exclude={"normalize"})
            typer.echo(json.dumps(data, indent=2) if as_json else yaml.safe_dump(data, sort_keys=False).rstrip())
            return
        from mmtk.masking.finding import segment as carry_out
        from mmtk.registration import pick_device

        command = shlex.join(["mmtk", *sys.argv[1:]])
        found, files = carry_out(config, device=str(pick_device(device)), overwrite=overwrite, command=command)
        typer.echo(_as_json(found, files) if as_json else _summary(found, files))


def _as_json(found: FoundMask, files: list[Path]) -> str:
    return json.dumps({**found.numbers(), "notes": found.notes, "files": [str(file) for file in files]}, indent=2)


def _summary(found: FoundMask, files: list[Path]) -> str:
    unit = "ml" if found.mask.dim == 3 else "cm^2"
    lines = [f"note: {note}" for note in found.notes]
    if found.empty:
        lines.append(f"{found.segmenter} found no lesion: the mask is empty.")
    else:
        doubt = found.numbers()["uncertain_ml"]
        lines.append(
            f"{found.segmenter} found {found.volume_ml():.3g} {unit} of lesion, and is in doubt about {doubt:.3g} "
            f"{unit} ({found.seconds:.1f} s)"
        )
        lines += [
            f"  {name}: {float((map_.data >= 0.5).sum()) * _cell(found):.3g} {unit}"
            for name, map_ in found.regions.items()
        ]
    return "\n".join([*lines, f"The mask: {files[0]}"])


def _cell(found: FoundMask) -> float:
    from math import prod

    return prod(found.mask.spacing) / 10**found.mask.dim
