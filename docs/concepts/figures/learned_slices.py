"""Figures of learned.md on brain slices: mu and lambda with and without a mask, scores by epoch, there and back in time.

The folder of networks holds those of ``python -m benchmarks.slices --runs``; what it lacks is trained for one minute of
the processor, on the pairs of that benchmark.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from drawing import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PURPLE,
    RED,
    as_array,
    main,
    mesh,
    new,
    outline,
    panel,
    save,
    signed,
)
from torch import Tensor

sys.path.append(str(Path(__file__).parents[3]))  # the benchmarks, whose pairs and networks are shown

from benchmarks import slices, store
from mmtk.fields import compose, warp
from mmtk.integrators import Context
from mmtk.learned import Model
from mmtk.method import Pair
from mmtk.shooting import shoot
from mmtk.training.data import as_batch

#: The patient that is shown: number of the test pair.
SHOWN = 19


def draw(out: Path, small: bool, runs: Path) -> Mapping[str, Any]:
    """Draw the figures and return what they show in numbers."""
    item = slices.pairs("test", None)[SHOWN]
    return {
        **free(out, small, item), **swept(out, small, item), **epochs(out), **there_and_back(out, small, runs, item)
    }  # fmt: skip


def upright(image: Any) -> np.ndarray:
    """Return a slice ``(h, w)``, stored left to right and back to front, with the front above."""
    return np.rot90(as_array(image))


def near(image: Any) -> np.ndarray:
    """Return what lies about ventricles and lesion, with the front above."""
    return np.rot90(as_array(image)[14:76, 14:78])


# --- the weights of the energy (ISBI, figure 3; thesis, figure 5.7)


def free(out: Path, small: bool, item: Mapping[str, Tensor]) -> dict[str, Any]:
    """Draw shape and total for the mu of ISBI's figure 3."""
    values = (0.025,) if small else (0.015, 0.025, 0.035)
    changes = [{"mu": mu, "lam": 1e-6} for mu in values]
    titles = [f"μ = {mu:g}" for mu in values]
    return _sweep(out, "learned_slices_mu", small, item, [(changes, titles)])


def swept(out: Path, small: bool, item: Mapping[str, Tensor]) -> dict[str, Any]:
    """Draw shape and total for three mu and three lambda, as in the thesis's figure 5.7."""
    mus, lams = ((0.08,), (3e-5,)) if small else ((0.02, 0.04, 0.08), (3e-7, 3e-6, 3e-5))
    blocks = [
        ([{"mu": mu, "lam": 3e-6} for mu in mus], [f"μ = {mu:g}" for mu in mus]),
        ([{"mu": 0.04, "lam": lam} for lam in lams], [f"λ = {lam:g}" for lam in lams]),
    ]
    return _sweep(out, "learned_slices_sweep", small, item, blocks)


def _sweep(
    out: Path,
    name: str,
    small: bool,
    item: Mapping[str, Tensor],
    blocks: Sequence[tuple[list[dict[str, float]], list[str]]],
) -> dict[str, Any]:
    """Draw two rows, shape and total, for each block of settings: left without the mask, right with it."""
    grid, count = slices.pairs("test", None).grid(), len(blocks[0][0])
    ventricles = near(slices.Anatomy.of_template().ventricles)
    figure, axes = new(
        9.6,
        3.1 * len(blocks),
        2 * len(blocks),
        2 * count + 3,
        width_ratios=[1, 0.06, *[1] * count, 0.06, *[1] * count],
    )
    numbers: dict[str, Any] = {}
    for block, (changes, titles) in enumerate(blocks):
        rows = axes[2 * block : 2 * block + 2]
        panel(rows[0, 0], near(item["moving"]), "moving")
        outline(rows[0, 0], near(item["mask"]), ORANGE)
        panel(rows[1, 0], near(item["fixed"]), "fixed")
        outline(rows[1, 0], ventricles, GREEN)
        for axis in [*rows[:, 1], *rows[:, 2 + count]]:
            axis.set_axis_off()
        for masked in (False, True):
            for k, (change, title) in enumerate(zip(changes, titles, strict=True)):
                row = slices.Row("meta", "", change, masked=masked)
                displacement, total = _shot(row, item, grid, 3 if small else 40)
                shape = warp(item["moving"][None], displacement)
                column = 2 + k + masked * (count + 1)
                said = ("no mask" if not masked else "with the mask") if k == count // 2 and block == 0 else ""
                panel(rows[0, column], near(shape), f"{said}\n{title}" if block == 0 else title)
                panel(rows[1, column], near(total))
                for axis in rows[:, column]:
                    outline(axis, ventricles, GREEN)
                scores = slices.slice_scores(item, displacement, total, grid)
                away = (item["counterpart"][None] == 0).float()
                numbers[f"{'with the mask' if masked else 'no mask'}, {_words(change)}"] = {
                    "ssd": scores["ssd"], "shape outside": scores["outside"],
                    "total outside": float(grid.cell_volume * (away * (total - item["fixed"][None]).square()).sum()),
                    "error, mm": scores["error"], "ventricles": scores["ventricles"], "folds": scores["folds"],
                }  # fmt: skip
        for axis, word in zip(rows[:, 2], ("shape", "total"), strict=True):
            axis.text(-0.08, 0.5, word, transform=axis.transAxes, rotation=90, va="center", ha="center", color=INK)
    save(figure, out, name)
    return numbers


def _words(change: Mapping[str, float]) -> str:
    return f"mu = {change['mu']:g}, lambda = {change['lam']:g}"


def _shot(row: slices.Row, item: Mapping[str, Tensor], grid: Any, iterations: int) -> tuple[Tensor, Tensor]:
    """Optimize a pair by shooting; return displacement and total image."""
    method = slices.optimizer(row, iterations=(iterations // 2, iterations))
    mask = item["mask"][None] if row.masked else None
    found = method.register(Pair(item["moving"][None], item["fixed"][None], grid, mask))
    shape = warp(item["moving"][None], found.displacement)
    return found.displacement, shape if found.appearance is None else shape + found.appearance


# --- scores by epoch (thesis, figure 5.6)


def epochs(out: Path) -> dict[str, Any]:
    """Draw what ``benchmarks.slices`` scored between epochs, by epochs (as the thesis) and by time."""
    rows = {line["method"]: line for line in store.newest("slices")}
    lines = {"r": ("MetaMorph-R", BLUE), "g": ("MetaMorph-G", PURPLE), "vm": ("VoxelMorph", ORANGE)}
    figure, axes = new(9.0, 5.0, 2, 2)
    numbers: dict[str, Any] = {}
    for name, (label, color) in lines.items():
        curve = rows[name]["curve"] if name in rows else []
        for down, key in enumerate(("tissues", "outside")):
            for right, over in enumerate(("epoch", "cpu_minutes")):
                marker = "o-" if len(curve) < 30 else "-"
                axes[down, right].plot(
                    [c[over] for c in curve], [c[key] for c in curve], marker, color=color, label=label
                )
        if curve:
            numbers[f"{label}: epochs, tissues after one and at the end"] = [
                curve[-1]["epoch"], curve[1]["tissues"], curve[-1]["tissues"]
            ]  # fmt: skip
            numbers[f"{label}: squared error outside after one and at the end"] = [
                curve[1]["outside"], curve[-1]["outside"]
            ]  # fmt: skip
    for axis in axes.flat:
        axis.grid(True)
    for axis in axes[1]:
        axis.set_yscale("log")
        axis.set_yticks([30, 50, 100, 200, 400], ["30", "50", "100", "200", "400"])
        axis.minorticks_off()
    for axis in axes[:, 0]:
        axis.set_xscale("symlog", linthresh=1)
        axis.set_xlim(0, None)
        axis.set_xticks([0, 1, 2, 5, 10, 20, 50], ["0", "1", "2", "5", "10", "20", "50"])
        axis.xaxis.minorticks_off()
    axes[0, 0].set_title("pair for pair")
    axes[0, 1].set_title("minute for minute")
    axes[0, 0].set_ylabel("Dice of tissues")
    axes[1, 0].set_ylabel("squared error outside, mm²")
    axes[1, 0].set_xlabel(f"epochs of {slices.COUNTS['training']} pairs")
    axes[1, 1].set_xlabel("minutes of the processor")
    axes[0, 1].legend(fontsize=8, loc="lower right")
    save(figure, out, "learned_slices_epochs")
    return numbers


# --- there and back (thesis, figure 5.9)


def there_and_back(out: Path, small: bool, runs: Path, item: Mapping[str, Tensor]) -> dict[str, Any]:
    """Follow MetaMorph-R through time, and go back by the inverse steps."""
    model = _network(runs, small)
    forward = _followed(model, item)
    steps = len(forward) - 1
    # Images are pulled back by (Id + d v_t), lines are pushed by (Id - d v_t).
    home: list[Tensor] = [torch.zeros_like(forward[-1]["map"])]  # T to t, as a pull-back of the last image
    lines = [forward[-1]["inverse"]]  # the moving image's lines, carried to T and on to t
    for state in reversed(forward[:-1]):
        home.append(compose(home[-1], state["step"]))
        lines.append(compose(-state["step"], lines[-1]))
    home.reverse()
    lines.reverse()
    last = forward[-1]
    start, painted = item["moving"][None], last["painted"]
    times = [round(k * steps / 4) for k in range(5)]
    figure, axes = new(9.6, 3.9, 3, 9)
    for column, t in enumerate([*times, *times[-2::-1]]):
        back = column >= len(times)
        if back:
            added = warp(warp(forward[t]["painted"], last["map"]), home[t])
            image = warp(warp(start + forward[t]["painted"], last["map"]), home[t])
        else:
            added, image = forward[t]["added"], forward[t]["image"]
        panel(axes[0, column], upright(image), f"t = {t}")
        signed(axes[1, column], upright(added), largest=0.5)
        _grid(axes[2, column], lines[t] if back else forward[t]["inverse"])
    axes[0, 2].set_title(f"forward: MetaMorph-R\n\nt = {times[2]}")
    axes[0, 6].set_title(f"backward: the inverse steps\n\nt = {times[2]}")
    for axis, word in zip(axes[:, 0], ("image", "added", "lines"), strict=True):
        axis.text(-0.1, 0.5, word, transform=axis.transAxes, rotation=90, va="center", ha="center", color=INK)
    save(figure, out, "learned_slices_return")
    left = (lines[0].norm(dim=1), forward[-1]["inverse"].norm(dim=1))
    image = warp(warp(start, last["map"]), home[0])
    head = start > 0.05
    return {
        "there and back, px: mean, largest": [float(left[0].mean()), float(left[0].max())],
        "there, px: mean, largest": [float(left[1].mean()), float(left[1].max())],
        "image after the return, mean difference": float((image - start).abs()[head].mean()),
        "painted, sum of squares by time": [float(state["painted"].square().sum()) for state in forward],
        "painted at the end": float(painted.square().sum()),
    }


def _network(runs: Path, small: bool) -> Model:
    grid = slices.pairs("test", None).grid()
    if small:
        return slices.make_model(slices.ROWS["r"], grid)
    kept = runs / "r" / "model.pt"
    if kept.is_file():
        model = slices.make_model(slices.ROWS["r"], grid)
        model.load_state_dict(torch.load(kept, weights_only=True))
        return model
    return slices.trained("r", grid, cache=runs / "pairs", runs=runs, budget=1.0)[0]


@torch.no_grad()
def _followed(model: Any, item: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Return what is known of each time: image, what was added, maps, and the step that follows; pixels."""
    model.eval()
    batch = as_batch({name: value[None] for name, value in item.items()})
    integrator, momentum = model.begin(batch)
    context = Context(mask=batch.mask, fixed=batch.fixed, back=True, maps=True)
    begin = integrator.begin(model.equation, batch.moving, momentum, context)
    found = []
    for state in shoot(model.equation, integrator, begin, model.steps):
        velocity = model.equation.motion(state.image, state.momentum).velocity
        painted = state.carried.painted
        found.append({
            "image": state.image, "map": state.displacement, "inverse": state.inverse, "painted": painted,
            "added": warp(painted, state.displacement),
            "step": model.equation.maps.displacement(velocity) / model.steps,
        })  # fmt: skip
    return found


def _grid(axis: Any, inverse: Tensor) -> None:
    """Draw the lines of the moving image, carried along, front above."""
    down, right = as_array(inverse[0])
    turned = np.stack([np.rot90(-right), np.rot90(down)])  # rows of the picture run against the second axis
    axis.imshow(np.ones(turned.shape[1:]), cmap="gray", vmin=0, vmax=1)
    axis.set_axis_off()
    mesh(axis, turned, every=5, color=RED)


if __name__ == "__main__":
    main(draw, networks=True)
