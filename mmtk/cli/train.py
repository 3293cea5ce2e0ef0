"""``mmtk train``."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmtk.cli.completion import complete_setting
from mmtk.cli.refusal import INTERRUPTED, refusals

if TYPE_CHECKING:
    from mmtk.training.config import TrainConfig, Training

__all__ = ["train"]


def train(
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE...",
            help="bundle=, method= or task=, data=, epochs=, and any setting of the method or the task.",
            autocompletion=complete_setting,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the weights and the log.")] = Path("training"),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights, orders and synthetic pairs.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after the last epoch of a stopped run.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check, show what would run, and stop.")] = False,
) -> None:
    """Train a learned method, or a segmenter, and leave weights that `weights=OUT/model.safetensors` takes.

    For instance: mmtk train method=metamorph_r data=c_shapes count=500 reduce=2 epochs=10 --out letters

    A student of a teacher that sees more: mmtk train task=distillation modalities=t1 teacher=kdnet_teacher --out student

    Several GPUs or processes: torchrun --nproc_per_node=2 -m mmtk train ...
    """
    from mmtk.plugins import installed

    with refusals():
        from mmtk.bundle.training_plan import make_training_plan

        config = make_training_plan(settings or [], out=out, resume=resume, device=device, catalogue=installed())
        if dry_run:
            import yaml

            text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, default_flow_style=None)
            typer.echo(text.rstrip())
            return
        _carry_out(config, out, device, seed, resume)


def _carry_out(config: object, out: Path, device: str, seed: int, resume: bool) -> None:
    from mmtk.cli.progress import training_display
    from mmtk.registration import pick_device
    from mmtk.training.config import TrainConfig, Training

    assert isinstance(config, TrainConfig | Training)
    run, registers = _runner(config), isinstance(config, TrainConfig)
    first = int(os.environ.get("RANK", 0)) == 0  # of several processes, the one that tells
    try:
        with training_display(None if first else False) as watch:
            record = run(out, device=pick_device(device), seed=seed, resume=resume, watch=watch)
    except FloatingPointError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.echo("stopped; the same with --resume goes on after the last finished epoch", err=True)
        raise typer.Exit(INTERRUPTED) from None
    if not first:
        return
    typer.echo(
        f"{record['epochs']} epochs, {record['pairs']} {'pairs' if registers else 'items'}, {record['cpu_minutes']} "
        f"minutes of the processor; best validation {'energy' if registers else 'loss'} "
        f"{record['best_validation']:.5g}{' per mm' if registers else ''}\nThe weights: {out / 'model.safetensors'}"
    )


def _runner(config: TrainConfig | Training) -> Callable[..., dict[str, Any]]:
    """Return what carries a description out."""
    from mmtk.config import load_target
    from mmtk.training.config import Training

    if isinstance(config, Training):
        return partial(load_target(config.target), config)
    from mmtk.training.run import run

    return partial(run, config)
