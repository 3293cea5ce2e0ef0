"""Table 1 of Krebs et al. (2018), its cardiac half, on short-axis slices of 30 hearts: end-diastole onto end-systole.

    python -m benchmarks.hearts split --data FOLDER --runs DIR          # slices and lists, for `mmtk train`
    python -m benchmarks.hearts train --runs DIR --row cvae --budget 5  # minutes of the processor; goes on if stopped
    python -m benchmarks.hearts score --data FOLDER --runs DIR --row cvae [--weights FILE]    # into results/hearts.jsonl

``FOLDER`` holds NAME_ed.nii.gz, NAME_es.nii.gz and the cavities NAME_ed_lv.nii.gz, NAME_es_lv.nii.gz of each heart. The
split is by patient, within each group of the names, and fixed by a seed. Images are of 1 mm; networks work on 2 mm, as
in the paper, and what they answer is scored on the files' own grid. Nothing of the data is kept but numbers.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from torch import Tensor

from benchmarks import store
from mmtk.fields import folds, warp
from mmtk.learned import LearnedMethod
from mmtk.method import Method, Pair
from mmtk.metrics import surface_distances
from mmtk.prepare import prepare
from mmtk.result import Registration

__all__ = ["ROWS", "group_of", "render", "split"]

SEED = 0
#: Settings of `mmtk train` that all trained rows share.
COMMON = (
    "init=none", "normalize=robust", "reduce=2", "epochs=100000", "batch_size=16", "decay=cosine", "augment=large",
    "weight_decay=1e-4", "half=true", "validate_every=10", "rate=2e-3",
)  # fmt: skip
#: Method and settings of each row; what is learned has weights.
ROWS: dict[str, dict[str, Any]] = {
    "identity": {"kind": "identity"},
    "lcc_demons": {"kind": "lcc_demons"},
    "voxelmorph": {"kind": "voxelmorph", "lam": 0.02},
    "cvae": {"kind": "cvae"},
    "cvae_refined": {"kind": "cvae", "engine": "refine"},
}
TRAINED = {"cvae": ("method=cvae",), "voxelmorph": ("method=voxelmorph", "lambda=0.02")}
NAMES = {
    "identity": "before", "lcc_demons": "LCC-demons", "voxelmorph": "VoxelMorph", "cvae": "CVAE",
    "cvae_refined": "CVAE, refined (20 steps in the code)",
}  # fmt: skip


def group_of(name: str) -> str:
    """Return the group of a heart: ``cine_hf_ni_03`` is of ``hf_ni``."""
    return name.removeprefix("cine_").rsplit("_", 1)[0]


def split(names: Sequence[str], seed: int = SEED) -> dict[str, list[str]]:
    """Return hearts to train on, to choose the best epoch by, and to score.

    Of each group a third (rounded down) is scored. Of the rest of the two largest groups one each chooses the epoch.
    """
    rng = np.random.default_rng(seed)
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        groups.setdefault(group_of(name), []).append(name)
    parts: dict[str, list[str]] = {"training": [], "validation": [], "test": []}
    largest = sorted(groups, key=lambda g: (-len(groups[g]), g))[:2]
    for group, members in sorted(groups.items()):
        shuffled = [members[i] for i in rng.permutation(len(members))]
        count, chosen = len(members) // 3, int(group in largest)
        parts["test"] += shuffled[:count]
        parts["validation"] += shuffled[count : count + chosen]
        parts["training"] += shuffled[count + chosen :]
    return {part: sorted(found) for part, found in parts.items()}


def names_in(data: Path) -> list[str]:
    """Return the names of the hearts in a folder."""
    return sorted(path.name.removesuffix("_ed.nii.gz") for path in data.glob("*_ed.nii.gz"))


def write_slices(data: Path, runs: Path) -> Path:
    """Write the slices of training and validation hearts and ``pairs.csv`` for `mmtk train`; return the list.

    The validation's slices come last, as ``held_out`` counts them; their number is in ``held_out.txt``. The same of
    whole volumes is ``volumes.csv``.
    """
    parts = split(names_in(data))
    folder = runs / "slices"
    folder.mkdir(parents=True, exist_ok=True)
    columns = ("moving", "fixed", "labels", "fixed_labels")
    kinds = ("ed", "es", "ed_lv", "es_lv")
    rows: list[list[str]] = []
    volumes: list[list[str]] = []
    held_out = 0
    for part in ("training", "validation"):
        for name in parts[part]:
            images = {kind: nib.load(data / f"{name}_{kind}.nii.gz") for kind in kinds}
            volumes.append([str((data / f"{name}_{kind}.nii.gz").resolve()) for kind in kinds])
            depth = images["ed"].shape[2]
            held_out += depth * (part == "validation")
            for k in range(depth):
                paths = [folder / f"{name}_{k:02d}_{kind}.nii.gz" for kind in kinds]
                for path, image in zip(paths, images.values(), strict=True):
                    if not path.is_file():
                        nib.save(
                            nib.Nifti1Image(np.asarray(image.dataobj)[:, :, k], np.diag([1.0, 1, 8, 1])), path
                        )
                rows.append([os.path.relpath(path, runs) for path in paths])
    for name, lines in (("pairs.csv", rows), ("volumes.csv", volumes)):
        with open(runs / name, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([columns, *lines])
    (runs / "held_out.txt").write_text(f"{held_out}\n", encoding="utf-8")
    return runs / "pairs.csv"


def train(runs: Path, row: str, budget: float) -> None:
    """Train a row by `mmtk train`, from where it stopped."""
    held_out = (runs / "held_out.txt").read_text().strip()
    words = [sys.executable, "-m", "mmtk", "train", *TRAINED[row], *COMMON, f"data={runs / 'pairs.csv'}",
             f"held_out={held_out}", f"cpu_minutes={budget}", f"cache={runs / 'cache'}", "--resume",
             "--out", str(runs / row), "--seed", str(SEED)]  # fmt: skip
    subprocess.run(words, check=True)


def measured(data: Path, name: str, method: Method) -> dict[str, float]:
    """Register the slices of a heart one by one, as the paper does, and return its numbers."""
    files = {kind: nib.load(data / f"{name}_{kind}.nii.gz") for kind in ("ed", "es", "ed_lv", "es_lv")}
    voxels = {kind: np.asarray(image.dataobj, dtype=np.float32) for kind, image in files.items()}
    sums: dict[str, list[float]] = {}
    both = moved_in = fixed_in = 0.0
    for k in range(files["ed"].shape[2]):
        images = [nib.Nifti1Image(voxels[kind][:, :, k], np.diag([1.0, 1, 8, 1])) for kind in ("ed", "es")]
        known = prepare(moving=images[0], fixed=images[1], init="none", normalize="robust")
        begin = time.process_time()
        found = method.register(known.pair)
        spent = time.process_time() - begin
        u = found.displacement
        warped = warp(known.pair.moving, u)
        labels = [torch.from_numpy(voxels[kind][None, None, :, :, k] > 0) for kind in ("ed_lv", "es_lv")]
        moved = warp(labels[0].float(), u, "nearest") > 0.5
        both += float((moved & labels[1]).sum())
        moved_in += float(moved.sum())
        fixed_in += float(labels[1].sum())
        numbers = {
            "rmse": float((warped - known.pair.fixed).square().mean().sqrt()),
            "negative": 100 * folds(u) / u[0, 0].numel(),
            "seconds": spent,
        }
        v = velocity_of(found, method, known.pair)
        if v is not None:
            spacing = [
                h * n / m for h, n, m in zip(known.pair.grid.spacing, u.shape[2:], v.shape[1:], strict=True)
            ]
            slopes = torch.stack([torch.gradient(v, dim=a + 1)[0] / h for a, h in enumerate(spacing)])
            numbers["velocity"] = float(v.norm(dim=0).mean())
            numbers["slope"] = float(slopes.square().sum((0, 1)).sqrt().mean())
        if moved.any() and labels[1].any():
            distance = surface_distances(moved.int(), labels[1].int(), known.pair.grid.spacing, [1])
            numbers["hd95"] = distance[1][0]
        for key, value in numbers.items():
            sums.setdefault(key, []).append(value)
    means = {key: statistics.fmean(values) for key, values in sums.items()}
    return {**means, "dice": 2 * both / max(moved_in + fixed_in, 1), "slices": float(files["ed"].shape[2])}


@torch.no_grad()
def velocity_of(found: Registration, method: Method, pair: Pair) -> Tensor | None:
    """Return a stationary velocity ``(2, x, y)`` in mm per unit time on the grid that it lives on; None without one."""
    if "velocity" in found.shape:  # LCC-demons
        return found.shape["velocity"][0] * pair.grid.per_axis(found.shape["velocity"])[0]
    if not isinstance(method, LearnedMethod):
        return None
    _, batch, model = method.begin(pair)
    field = found.shape["path.0"]
    if method.kind == "cvae":
        field = model.decode(field, batch.moving)  # type: ignore[operator]
    return field[0] * model.grid.per_axis(field)[0]


def score(data: Path, row: str, weights: Path | None, count: int | None = None) -> None:
    """Register the hearts that are scored, and add the numbers to the results."""
    from mmtk.plugins import installed

    settings = dict(ROWS[row])
    config: Any = installed().find("method", settings.pop("kind"))
    if weights is not None:
        settings.pop("lam", None)
        settings["weights"] = str(weights)
    method = config(**settings).build()
    names = split(names_in(data))["test"][:count]
    torch.set_num_threads(1)
    every = {name: measured(data, name, method) for name in names}
    keys = next(iter(every.values())).keys()
    facts = method.weights.facts if isinstance(method, LearnedMethod) and method.weights else {}
    scores = {key: statistics.fmean(s[key] for s in every.values()) for key in keys}
    line = {
        "subject": "test", "method": row, "settings": ROWS[row], "date": time.strftime("%Y-%m-%d"),
        "host": store.host(), "load": os.getloadavg()[0], "hearts": every,
        "cpu_minutes": facts.get("cpu_minutes"), "epochs": facts.get("epochs"),
        "scores": scores,
    }  # fmt: skip
    if count is None:
        store.append("hearts", line)
    print(row, {key: round(value, 4) for key, value in scores.items()})


_INTRO = """\
Krebs et al. (2018), table 1, cardiac half, as far as it can be had: {count} hearts of the Sunnybrook data that nobody
was trained on (`benchmarks.hearts.split`, by patient and group, seed 0), end-diastole onto end-systole, slice by slice.
The label is the cavity of the left ventricle (the paper's blood pool). Networks work on 2 mm, as the paper's, and are
scored on the files' 1 mm. Trained rows saw the same {trained} slices of 20 hearts, turned, mirrored, shifted and scaled,
for seconds, where the paper had hours of a GPU: they tell what such a training brings, not what the methods can.
*RMSE* is of intensities in [0, 1], *v* the velocity (mm) and *Dv* its slope, both as means of lengths, since the paper
does not say its units; *HD95* is a mean over slices, *Dice* over hearts. VoxelMorph is mmtk's, with squares and a
stationary velocity; the paper's is not diffeomorphic. The paper's rows are as printed: other hearts, other slices."""

_PAPER = (
    ("paper: before", ".0495", "-", "-", "-", ".681", "18.7"),
    ("paper: LCC-demons", ".0374", "0.0", "9.87e-4", "1.3e-5", ".848", "16.8"),
    ("paper: VoxelMorph-2", ".0244", "3.5", "-", "-", ".772", "19.87"),
    ("paper: CVAE", ".0386", "0.0", "7.43e-4", "3.9e-5", ".819", "14.50"),
)


def render(results: Path = store.RESULTS) -> str:
    """Return the section for docs/benchmarks.md."""
    found = {line["method"]: line for line in store.newest("hearts", results)}
    if "identity" not in found:
        return "Not run yet.\n"
    lines = [
        *_INTRO.format(count=len(found["identity"]["hearts"]), trained=164).splitlines(), "",
        "| row | RMSE | folded, % | mean abs. v, mm | mean abs. Dv | Dice | least Dice | HD95, mm | trained, CPU min "
        "| a slice, CPU s |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]  # fmt: skip
    missing = []
    for row, label in NAMES.items():
        if row not in found:
            missing.append(label)
            continue
        s, hearts = found[row]["scores"], found[row]["hearts"]
        minutes = found[row].get("cpu_minutes")
        worst = min(heart["dice"] for heart in hearts.values())
        lines.append(
            f"| {label} | {s['rmse']:.4f} | {s['negative']:.2f} | "
            + " | ".join(f"{s[key]:.3f}" if key in s else "" for key in ("velocity", "slope"))
            + f" | {s['dice']:.3f} | {worst:.3f} | {s['hd95']:.2f} | {'' if minutes is None else minutes} "
            f"| {s['seconds']:.2f} |"
        )
    lines += [f"| {n} | {r} | {f} | {v} | {g} | {d} | | {h} | | |" for n, r, f, v, g, d, h in _PAPER]
    if missing:
        lines += ["", f"Not measured: {', '.join(missing)}."]
    groups = sorted({group_of(name) for name in found["identity"]["hearts"]})
    lines += ["", "Dice by group (two hearts each):", "", f"| row | {' | '.join(groups)} |"]
    lines.append("|---|" + "---:|" * len(groups))
    for row, label in NAMES.items():
        if row in found:
            hearts = found[row]["hearts"]
            cells = [statistics.fmean(h["dice"] for n, h in hearts.items() if group_of(n) == g) for g in groups]
            lines.append(f"| {label} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["split", "train", "score"])
    parser.add_argument("--data", type=Path, help="folder of the hearts")
    parser.add_argument("--runs", type=Path, help="folder of lists, slices and training runs")
    parser.add_argument("--row", default="cvae", choices=list(ROWS))
    parser.add_argument("--budget", type=float, default=5.0, help="minutes of the processor")
    parser.add_argument("--weights", type=Path, help="score these instead of the run's")
    parser.add_argument("--count", type=int, help="hearts to score, and keep no result; all")
    asked = parser.parse_args()
    if asked.what == "split":
        print(write_slices(asked.data, asked.runs))
    elif asked.what == "train":
        train(asked.runs, asked.row, asked.budget)
    else:
        weights = asked.weights
        kind = ROWS[asked.row]["kind"]
        if weights is None and kind in TRAINED:
            weights = asked.runs / kind / "model.safetensors"
        score(asked.data, asked.row, weights, asked.count)


if __name__ == "__main__":
    main()
