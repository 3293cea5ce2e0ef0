"""ISBI 2022, table 1, on synthetic slices: patients with a lesion onto the MNI152 slice, learned and optimized.

    python -m benchmarks.slices --rows 'r*' vm --cache DIR --runs DIR --budget 5

Every row sees the same slices of 2 mm, every trained row has the same budget of the processor's time, and all are scored
on 40 pairs of another seed. Between epochs a network is scored on the validation pairs (thesis, figure 5.6). A run that
was stopped goes on from its last epoch. Results go to ``results/slices.jsonl``; the weights stay in ``--runs``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from benchmarks import store
from mmtk.fields import Grid, folds, warp
from mmtk.integrators import Lagrangian
from mmtk.learned import Model
from mmtk.method import Method, Pair
from mmtk.similarity import SquaredDifference
from mmtk.training.data import SyntheticPairs, as_batch
from mmtk.training.engine import train
from mmtk.training.plan import Plan

__all__ = ["OPTIONS", "ROWS", "Anatomy", "Row", "make_model", "pairs", "slice_scores"]

#: Pairs to train on, to choose the best epoch by, and to score; their seeds.
COUNTS, SEEDS = {"training": 240, "validation": 20, "test": 40}, {"training": 0, "validation": 2, "test": 1}

#: Of :func:`mmtk.samples.brains`: every patient has a lesion, and intensities that a sum of squares can compare.
OPTIONS: dict[str, Any] = {
    "dim": 2, "spacing": 2.0, "lesions": ("bright", "lookalike", "resected"), "deformation": (2.0, 14.0),
    "radius": (6.0, 18.0), "noise": (0.0, 0.03), "bias": (0.0, 0.1), "gamma": (0.95, 1.05),
}  # fmt: skip

#: The energy of the paper (its section 3); the kernel's width is the thesis's for brains (5.3.4).
ENERGY: dict[str, Any] = {"sigma": (8.0,), "lam": 1e-6, "mu": 0.015, "steps": 20}

#: CSF deeper under the brain's surface than this, mm, in connected components larger than this, mm²: the ventricles.
DEEP, LARGE = 30.0, 100


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        kind: ``r``, ``g``, ``vm``: which network is trained; ``opt``: the network trained on each pair alone; ``meta``:
            an optimization; ``start``, ``truth``: no registration, and the true map.
        label: As the page names it.
        settings: What differs from :data:`ENERGY`.
        masked: Whether the method is given the mask.
        paper: SSD, Dice and time in the paper's table 1; empty if it has no such row.
        count: Test pairs that are scored.
    """

    kind: str
    label: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    masked: bool = True
    paper: tuple[str, ...] = ()
    count: int = COUNTS["test"]

    @property
    def trained(self) -> bool:
        """Whether it has weights of its own."""
        return self.kind in ("r", "g", "vm")


ROWS: dict[str, Row] = {
    "start": Row("start", "before"),
    "cfm": Row(
        "meta", "CFM, optimized", {"mu": 0.0, "momentum": "split"}, paper=("167 ± 68", "69.1 ± 22.4", "55"), count=20
    ),
    "vm": Row("vm", "VoxelMorph", {"lam": 0.02}, masked=False, paper=("187 ± 73", "63.4 ± 22.6", "0.01")),
    "r-free": Row(
        "r", "MetaMorph-R, no local regularization, learned", masked=False, paper=("220 ± 20", "65.4 ± 20.7", "0.15")
    ),
    "r": Row(
        "r", "MetaMorph-R, local regularization, learned", paper=("161 ± 16", "69.8 ± 15.2", "0.16")
    ),
    "r-optimized": Row(
        "opt", "MetaMorph-R, local regularization, optimized", paper=("135 ± 45", "71.9 ± 19.5", "59"), count=5
    ),
    "g": Row("g", "MetaMorph-G, local regularization, learned"),
    "meta": Row("meta", "metamorphosis by shooting, optimized", count=20),
    "split": Row("meta", "split metamorphosis (`metamorph_brats`), optimized", {"shape": "white"}),
    "truth": Row("truth", "the true map"),
}  # fmt: skip

#: Steps of Adam that ``r-optimized`` takes on each pair.
ADAM_STEPS = 150


def make_model(row: Row, grid: Grid) -> Model:
    """Return the untrained network of a row."""
    from mmtk_metamorph.networks import MetaMorphG, MetaMorphR
    from mmtk_voxelmorph.network import VoxelMorph

    torch.manual_seed(0)
    squares = SquaredDifference(reduction="none")
    if row.kind == "vm":
        return VoxelMorph(grid, similarity=squares, half=True, **row.settings)
    energy = {**ENERGY, **row.settings}
    if row.kind == "g":
        return MetaMorphG(grid, similarity=squares, integrator=Lagrangian(), half=True, checkpoint=False, **energy)
    return MetaMorphR(grid, similarity=squares, hidden=32, half=True, checkpoint=False, **energy)


def pairs(part: str, cache: Path | None) -> SyntheticPairs:
    """Return the pairs of one part: ``training``, ``validation`` or ``test``."""
    return SyntheticPairs(
        "brains", OPTIONS, count=COUNTS[part], seed=SEEDS[part], truth=part != "training", cache=cache
    )


class _InMemory(Dataset[Any]):
    """Pairs kept in memory, without their mask if nobody is to see it."""

    def __init__(self, items: Dataset[Any], masked: bool) -> None:
        hidden = () if masked else ("mask",)
        every = [items[i] for i in range(len(items))]  # type: ignore[arg-type]
        self.items = [{name: value for name, value in item.items() if name not in hidden} for item in every]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


@dataclass(frozen=True, eq=False)
class Anatomy:
    """What the fixed slice shows, ``(1, n, h, w)`` shares of each pixel in [0, 1].

    Attributes:
        tissues: Air, CSF, grey matter, white matter.
        ventricles: CSF more than :data:`DEEP` mm under the surface, in components of more than :data:`LARGE` mm².
    """

    tissues: Tensor
    ventricles: Tensor

    @classmethod
    @cache
    def of_template(cls) -> Anatomy:
        """Return that of the slice which every pair is registered onto."""
        import numpy as np
        from scipy.ndimage import distance_transform_edt, label

        from mmtk.samples.brain import embedded_brain

        labels = embedded_brain().slice(20.0).labels
        assert labels is not None
        deep = (labels == 1) & (distance_transform_edt(labels > 0) > DEEP)  # 1 mm a pixel
        parts, count = label(deep)
        sizes = np.bincount(parts.ravel(), minlength=count + 1)
        ventricles = (sizes[parts] > LARGE) & deep
        shares = np.stack([*(labels == k for k in range(4)), ventricles]).astype(np.float32)
        small = torch.nn.functional.avg_pool2d(torch.from_numpy(shares)[None], round(OPTIONS["spacing"]))
        return cls(small[:, :4], small[:, 4:])


def slice_scores(item: Mapping[str, Tensor], displacement: Tensor, warped: Tensor, grid: Grid) -> dict[str, float]:
    """Score one registration.

    Args:
        item: Of :class:`SyntheticPairs`, with the truth.
        displacement: ``(1, 2, h, w)``, voxels: the pull-back.
        warped: ``(1, 1, h, w)``, shape and appearance.

    Returns:
        ``ssd``: ``||I_T - J||^2``, intensities in [0, 1], mm². ``outside``: the same of the shape-only image, away from
        the lesion's place. ``ventricles``, ``tissues``: Dice of the moving image's, which the true map gives it,
        deformed by shape alone, with the fixed one's; of tissues the mean of CSF, grey and white matter. ``error``: mean
        distance from the true map, mm, in the brain away from the lesion's place. ``folds``: pixels.
    """
    moving, fixed = item["moving"][None], item["fixed"][None]
    anatomy, inverse = Anatomy.of_template(), item["inverse"][None]
    away = (item["counterpart"][None] == 0).float()
    cells = grid.cell_volume

    def deformed(shares: Tensor) -> Tensor:
        return warp(warp(shares, inverse), displacement)

    off = grid.per_axis(displacement) * (displacement - item["displacement"][None])
    head = away * (anatomy.tissues[:, :1] < 0.5)
    found, true = deformed(anatomy.tissues).argmax(1), anatomy.tissues.argmax(1)
    overlaps = [_dice(found == k, true == k) for k in (1, 2, 3)]
    return {
        "ssd": float(cells * (warped - fixed).square().sum()),
        "outside": float(cells * (away * (warp(moving, displacement) - fixed).square()).sum()),
        "ventricles": _dice(deformed(anatomy.ventricles) > 0.5, anatomy.ventricles > 0.5),
        "tissues": statistics.fmean(overlaps),
        "error": float((off.norm(dim=1, keepdim=True) * head).sum() / head.sum()),
        "folds": float(folds(displacement)),
    }


def _dice(one: Tensor, other: Tensor) -> float:
    return 2 * float((one & other).sum()) / max(1, int(one.sum() + other.sum()))


def optimizer(row: Row, iterations: tuple[int, int] = (20, 40)) -> Method:
    """Return the method that optimizes each pair of a row; shooting takes so many steps at 4 and at 2 mm."""
    from mmtk_core.plugin import SquaredDifferenceConfig
    from mmtk_metamorph.plugin import MetaMorphRConfig
    from mmtk_metamorphosis.plugin import MetamorphosisConfig

    if row.kind == "opt":
        given = {**ENERGY, **row.settings}
        given["lambda"] = given.pop("lam")
        return _built(
            MetaMorphRConfig, engine="optimize", iterations=ADAM_STEPS, learning_rate=1e-3, half=True, **given
        )
    if row.settings.get("shape") == "white":
        return _built(
            MetamorphosisConfig, iterations=(12, 12, 16)
        )  # bundle metamorph_brats, whose defaults these are
    given = {"shape": "momentum", "momentum": "coupled", **ENERGY, **row.settings}
    given["lambda"] = given.pop("lam")
    return _built(
        MetamorphosisConfig,
        similarity=SquaredDifferenceConfig(),
        levels=(4.0, 2.0),
        iterations=iterations,
        checkpoint=False,
        **given,
    )


def _built(config: Any, **settings: Any) -> Method:
    from mmtk.plugins import installed

    method: Method = config.model_validate(settings, context={"catalogue": installed()}).build()
    return method


def register(row: Row, item: Mapping[str, Tensor], grid: Grid, model: Model | None) -> tuple[Tensor, Tensor]:
    """Return displacement ``(1, 2, h, w)`` and total image ``(1, 1, h, w)`` of one pair by a row's method."""
    shown = item if row.masked else {name: value for name, value in item.items() if name != "mask"}
    batch = as_batch({name: value[None] for name, value in shown.items()})
    if row.kind in ("start", "truth"):
        displacement = item["displacement"][None] * (row.kind == "truth")
        return displacement, warp(batch.moving, displacement)
    if not row.trained:
        found = optimizer(row).register(Pair(batch.moving, batch.fixed, grid, batch.mask))
        deformed = warp(batch.moving, found.displacement)
        return found.displacement, deformed if found.appearance is None else deformed + found.appearance
    assert model is not None
    model.eval()
    with torch.no_grad():
        prediction = model(batch)
    return prediction.displacement, prediction.warped


def score(row: Row, items: Sequence[Mapping[str, Tensor]], grid: Grid, model: Model | None) -> dict[str, Any]:
    """Register every pair and return mean and standard deviation of each score, and the processor's time for one."""
    every, spent = [], 0.0
    for item in items:
        begin = time.process_time()
        found = register(row, item, grid, model)
        spent += time.process_time() - begin
        every.append(slice_scores(item, *found, grid))
    scores = {name: statistics.fmean(s[name] for s in every) for name in every[0]}
    spread = {name: statistics.stdev(s[name] for s in every) for name in every[0]}
    return {"scores": scores, "spread": spread, "cpu_seconds": round(spent / len(items), 4), "pairs": len(items)}


def trained(
    name: str, grid: Grid, *, cache: Path, runs: Path, budget: float
) -> tuple[Model, dict[str, Any], list[dict[str, float]]]:
    """Return a row's network with the best weights of its budget, what the training was, and its scores by epoch."""
    row, out = ROWS[name], runs / name
    model = make_model(row, grid)
    training, validation = (_InMemory(pairs(part, cache), row.masked) for part in ("training", "validation"))
    known = pairs("validation", cache)
    scored = [known[i] for i in range(len(known))]
    kept = out / "curve.json"
    curve = json.loads(kept.read_text()) if kept.is_file() else [_epoch(0, 0.0, row, scored, grid, model)]
    done: dict[str, Any] = {"cpu_minutes": 0.0}
    file = out / "training.json"
    if file.is_file():
        done = json.loads(file.read_text())
    while done["cpu_minutes"] < budget:
        plan = Plan(epochs=int(done.get("epochs", 0)) + 1, batch_size=4, learning_rate=1e-3, cpu_minutes=budget)
        done = train(model, plan, training, validation, out, resume=True)
        curve.append(_epoch(done["epochs"], done["cpu_minutes"], row, scored, grid, model))
        kept.write_text(json.dumps(curve))
    model.load_state_dict(torch.load(out / "model.pt", weights_only=True))
    return model, done, curve


def _epoch(
    epoch: int, minutes: float, row: Row, items: Sequence[Mapping[str, Tensor]], grid: Grid, model: Model
) -> dict[str, float]:
    scores = score(row, items, grid, model)["scores"]
    return {
        "epoch": epoch,
        "cpu_minutes": minutes,
        "tissues": round(scores["tissues"], 4),
        "outside": round(scores["outside"], 2),
    }


_TABLE = """\
Table 1 of Maillard et al., ISBI 2022, on 40 patients that nobody trained on: slices of `mmtk sample brains`, 84 x 100
pixels of 2 mm, each with a lesion (bright tumor, one as grey as cortex, or a cavity) and its mass effect, onto the slice
of the MNI152 template; mean ± standard deviation. As in the paper T = 20, lambda = 1e-6, mu = 0.015, networks by Adam at
1e-3; sigma = 8 mm is the thesis's, VoxelMorph's lambda 0.02 ours; shooting descends by L-BFGS. *SSD* is of shape and
appearance, intensities in [0, 1], times mm². *Ventricles* is the Dice, in percent, of the lateral ventricles deformed
**by shape alone**: those of the template are the two connected components of its CSF more than 30 mm under the surface
that are larger than 1 cm², those of a patient are what the true map makes of them, where the paper segments with a
U-Net; even the true map does not reach 100, as pixels are resampled twice. *Error* is the mean distance from the true
map in the brain away from the lesion, *folds* are pixels with a determinant that is not positive, *time* is the
processor's for one pair, on one core of a busy machine. Trained rows had the budget that they name, on {training} pairs:
all of them are **under-trained**. The paper's figures stand beside ours; its patients are others and so is the scale of
its SSD, so that only the order can be compared."""


def render(results: Path = store.RESULTS) -> str:
    """Return the table for docs/benchmarks.md; rows that were not run say so."""
    lines = [
        *_TABLE.format(training=COUNTS["training"]).splitlines(),
        "",
        "| method | trained, CPU min | SSD | ventricles | time, s | error, mm | folds | paper: SSD | Dice | time, s |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    found = {line["method"]: line for line in store.newest("slices", results)}
    for name, row in ROWS.items():
        paper = " | ".join(row.paper or ("", "", ""))
        line = found.get(name)
        if line is None:
            lines.append(f"| {row.label} | not run yet | | | | | | {paper} |")
            continue
        minutes = line["training"].get("cpu_minutes")
        spent = "" if minutes is None else f"{minutes:.0f}, {line['training']['epochs']} epochs"
        cells = [_cell(line, key, scale, digits) for key, scale, digits in (("ssd", 1, 0), ("ventricles", 100, 1))]
        late = [_cell(line, key, 1, digits) for key, digits in (("error", 2), ("folds", 1))]
        seconds = "" if row.kind in ("start", "truth") else f"{line['cpu_seconds']:.2f}"
        few = "" if line["pairs"] == COUNTS["test"] else f", {line['pairs']} patients"
        lines.append(
            f"| {row.label}{few} | {spent} | {' | '.join(cells)} | {seconds} | {' | '.join(late)} | {paper} |"
        )
    notes = NOTES.read_text().splitlines() if NOTES.is_file() and found else []
    return "\n".join([*lines, "", *notes, ""])


#: Written by hand: what the rows say of the paper's claims.
NOTES = Path(__file__).resolve().parent / "slices.md"


def _cell(line: Mapping[str, Any], key: str, scale: float, digits: int) -> str:
    return f"{scale * line['scores'][key]:.{digits}f} ± {scale * line['spread'][key]:.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slices", description=__doc__)
    parser.add_argument("--rows", nargs="*", default=["*"], help=f"names or patterns of {', '.join(ROWS)}")
    scratch = Path(tempfile.gettempdir()) / "mmtk-slices"
    parser.add_argument("--cache", type=Path, default=scratch / "pairs", help="folder that keeps the pairs")
    parser.add_argument("--runs", type=Path, default=scratch / "runs", help="folder that keeps the training runs")
    parser.add_argument("--budget", type=float, default=5.0, help="minutes of the processor for each trained row")
    parser.add_argument("--pairs", type=int, default=COUNTS["test"], help="score at most so many")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=store.RESULTS)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    test = pairs("test", asked.cache)
    grid = test.grid()
    for name, row in ROWS.items():
        if not any(fnmatch(name, pattern) for pattern in asked.rows):
            continue
        model: Model | None = None
        training: dict[str, Any] = {}
        curve: list[dict[str, float]] = []
        if row.trained:
            model, training, curve = trained(name, grid, cache=asked.cache, runs=asked.runs, budget=asked.budget)
        items = [test[i] for i in range(min(asked.pairs, row.count))]
        result = score(row, items, grid, model)
        line = {"method": name, "subject": "brain-slices", "budget": asked.budget, "training": training, **result}
        store.append("slices", {**line, "curve": curve}, asked.results)
        print(name, {k: round(v, 3) for k, v in result["scores"].items()}, result["cpu_seconds"], flush=True)


if __name__ == "__main__":
    main()
