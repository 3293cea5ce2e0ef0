"""``mmtk x distillation``: how trained networks differ, as a table and a picture.

similarity    SVCCA between networks at each layer (thesis, fig. 3.9)
zeroed        Dice with each layer set to zero (tables 3.5 and 3.6)
sizes         Dice and its gain over the baseline against the number of heads trained on (fig. 3.11)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmtk.cli.refusal import refusals

if TYPE_CHECKING:
    from mmtk_kd.data import Heads

__all__ = ["app"]

app = typer.Typer(add_completion=False, help=__doc__.split("\n")[0], no_args_is_help=True)

Weights = Annotated[list[str], typer.Argument(metavar="WEIGHTS...", help="Files of weights, or bundles.")]
Data = Annotated[
    str, typer.Option(help="gliomas: synthetic heads with grown lesions; or a folder as BraTS lays it out.")
]
Count = Annotated[int, typer.Option(min=1, help="Heads at most.")]
Out = Annotated[Path, typer.Option(help="Folder for the table and the picture.")]


def _heads(data: str, count: int, spacing: Sequence[float]) -> Heads:
    from mmtk_kd.data import BratsHeads, SyntheticHeads, list_brats

    if data == "gliomas":
        return SyntheticHeads({"spacing": spacing[0], "lesion": "grown"}, count=count, seed=1000)
    return BratsHeads(list_brats(Path(data).expanduser())[:count], reduce=max(1, round(spacing[0])))


def _loaded(weights: Sequence[str]) -> list[tuple[Any, Any, list[int]]]:
    """Return the networks, their descriptions and the modalities that each sees."""
    from mmtk_kd.data import MODALITIES
    from mmtk_kd.training import load_network

    loaded = [load_network(given) for given in weights]
    return [(network, told, [MODALITIES.index(m) for m in told.modalities]) for network, told in loaded]


def _names(weights: Sequence[str]) -> list[str]:
    """Return short names: of ``run/model.safetensors`` the run's; as given, if these are not all different."""
    paths = [Path(given) for given in weights]
    short = [(p.parent.name if p.stem == "model" else p.stem) if p.suffix else str(p) for p in paths]
    return short if len(set(short)) == len(short) else list(weights)


def _table(head: str, rows: Mapping[str, Mapping[str, float]], out: Path, name: str) -> None:
    columns = list(next(iter(rows.values())))
    lines = [f"| {head} | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    lines += [f"| {key} | " + " | ".join(f"{row[c]:.3f}" for c in columns) + " |" for key, row in rows.items()]
    text = "\n".join(lines) + "\n"
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.md").write_text(text, encoding="utf-8")
    typer.echo(text + f"\nThe table: {out / f'{name}.md'}\nThe picture: {out / f'{name}.png'}")


@app.command()
def similarity(weights: Weights, data: Data = "gliomas", count: Count = 10, out: Out = Path("similarity")) -> None:
    """Compare every two networks at each layer by SVCCA; they need one patch size.

    For instance: mmtk x distillation similarity kdnet_teacher kdnet_student:t1ce baseline/model.safetensors
    """
    with refusals():
        from mmtk.errors import ConfigError
        from mmtk_kd import analysis

        if len(weights) < 2:
            raise ConfigError("WEIGHTS: one network cannot be compared; give two or more")
        loaded = _loaded(weights)
        first = loaded[0][1]
        networks = {name: (net, seen) for name, (net, _, seen) in zip(_names(weights), loaded, strict=True)}
        found = analysis.similarity(networks, _heads(data, count, first.spacing), first.patch)
        analysis.draw_similarity(found, out / "similarity.png")
        _table("networks", {" and ".join(pair): each for pair, each in found.items()}, out, "similarity")


@app.command()
def zeroed(
    weights: Annotated[str, typer.Argument(help="A file of weights, or a bundle.")],
    data: Data = "gliomas",
    count: Count = 10,
    out: Out = Path("zeroed"),
) -> None:
    """Score a network with each layer set to zero in turn: what does the layer add?"""
    with refusals():
        from mmtk_kd import analysis

        ((network, told, seen),) = _loaded([weights])
        found = analysis.zeroed_scores(network, told, _heads(data, count, told.spacing), seen)
        analysis.draw_zeroed(found, out / "zeroed.png")
        _table("zeroed layer", found, out, "zeroed")


@app.command()
def sizes(weights: Weights, data: Data = "gliomas", count: Count = 10, out: Out = Path("sizes")) -> None:
    """Score networks by strategy and number of heads, which their weights tell, against the baseline of that number."""
    with refusals():
        import numpy as np

        from mmtk.errors import ConfigError
        from mmtk_kd import analysis
        from mmtk_kd.scoring import judge

        dice: dict[tuple[str, int], dict[str, float]] = {}
        for given, (network, told, seen) in zip(weights, _loaded(weights), strict=True):
            config = told.facts.get("config") or {}
            if not {"strategy", "count"} <= set(config):
                raise ConfigError(f"{given}: does not say how it was trained; give weights of mmtk train")
            scores = judge(network, told, _heads(data, count, told.spacing), seen, False)
            dice[str(config["strategy"]), int(config["count"])] = {
                r: float(np.mean([s[f"dice_{r.lower()}"] for s in scores])) for r in ("ET", "TC", "WT")
            }
        gains: dict[str, dict[str, dict[int, float]]] = {}
        for (strategy, size), each in dice.items():
            if strategy != "baseline" and ("baseline", size) in dice:
                for region, value in each.items():
                    gain = 100 * (value - dice["baseline", size][region])
                    gains.setdefault(region, {}).setdefault(strategy, {})[size] = gain
        if not gains:
            raise ConfigError(
                "WEIGHTS: nothing to compare; give a baseline and a strategy of the same number of heads"
            )
        analysis.draw_sizes(gains, out / "sizes.png")
        _table(
            "network", {f"{strategy}, {size} heads": each for (strategy, size), each in dice.items()}, out, "sizes"
        )
