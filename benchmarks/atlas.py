"""A template of 24 brains against their affine mean: is it sharper, and do labels agree better in its space?

    python -m benchmarks.atlas --data ../shared/data --scratch DIR

The brains of ``brains_2mm``, cut to what is labeled as brain, begin with the first of them. Both images are plain means,
unsharpened, by the same command: ``mmtk atlas template rounds=0`` is the affine mean, and ``--rounds`` go on from it.
Labels are carried by nearest neighbor through each case's whole map. Results go to ``results/atlas.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import store
from benchmarks.measure import environment

__all__ = ["agreement", "render", "sharp"]

#: As typed, for the rounds that deform.
SETTINGS = ("method=metamorphosis", "levels=8,4", "iterations=6,6")
ROUNDS = 3
ROWS = {"affine": "affine mean", "template": "template"}


def prepare(data: Path, scratch: Path) -> Path:
    """Write the brains without their heads and the table of them, and return the table."""
    from mmtk.io import read_image, write_image

    lines = ["case,moving"]
    for file in sorted((data / "brains_2mm").glob("*_t1.nii.gz")):
        name = file.name.removesuffix("_t1.nii.gz")
        brain = scratch / "brains" / f"{name}.nii.gz"
        if not brain.is_file():
            image = read_image(file, name="t1")
            labels = read_image(file.with_name(f"{name}_labels.nii.gz"), name="labels")
            write_image(brain, np.where(labels.data > 0, image.data, 0), image)
        lines.append(f"{name},{brain}")
    table = scratch / "brains.csv"
    table.write_text("\n".join(lines) + "\n")
    return table


def carried(data: Path, out: Path) -> tuple[list[str], np.ndarray]:
    """Return names and label maps of the cases on the template's grid, ``(cases, *space)``."""
    from mmtk.io import probe_image
    from mmtk.transforms import load_transform, resample

    cases: Mapping[str, str] = json.loads((out / "template.json").read_text())["cases"]
    grid = probe_image(out / "mean.nii.gz", name="template")
    maps = []
    for name, folder in cases.items():
        through = load_transform(out / "drift.h5", out / folder)
        labels = data / "brains_2mm" / f"{name}_labels.nii.gz"
        maps.append(resample(labels, through, grid, interpolation="nearest").data.astype(np.uint8))
    return list(cases), np.stack(maps)


def agreement(maps: np.ndarray) -> dict[str, float]:
    """Return the mean Dice of all pairs, and of each case with the majority vote of the others.

    Args:
        maps: ``(cases, voxels)``, 0 where there is no label. Dice is the mean over the labels that either has.
    """
    count, top = len(maps), int(maps.max()) + 1
    volumes = np.stack([np.bincount(one, minlength=top) for one in maps]).astype(float)
    pairs = []
    for i in range(count):
        for j in range(i):
            both = np.bincount(maps[i][maps[i] == maps[j]], minlength=top)
            pairs.append(_dice(both, volumes[i], volumes[j]))
    votes = np.zeros((top, maps.shape[1]), dtype=np.uint8)
    voxels = np.arange(maps.shape[1])
    for one in maps:
        votes[one, voxels] += 1
    left_out = []
    for one, volume in zip(maps, volumes, strict=True):
        votes[one, voxels] -= 1
        vote = votes.argmax(axis=0).astype(np.uint8)
        votes[one, voxels] += 1
        both = np.bincount(one[one == vote], minlength=top)
        left_out.append(_dice(both, volume, np.bincount(vote, minlength=top)))
    return {
        "pairs": float(np.mean(pairs)),
        "vote": float(np.mean(left_out)),
        "vote_least": float(np.min(left_out)),
    }


def _dice(both: np.ndarray, one: np.ndarray, other: np.ndarray) -> float:
    there = (one + other > 0) & (np.arange(len(one)) > 0)
    return float((2 * both[there] / (one + other)[there]).mean())


def sharp(out: Path, labels: np.ndarray) -> dict[str, float]:
    """Return how sharp the plain mean is where most cases have brain."""
    from mmtk.atlas.sharpness import sharpness
    from mmtk.io import read_image

    mean = read_image(out / "mean.nii.gz", name="mean")
    return sharpness(mean.data, mean.spacing, (labels > 0).mean(axis=0) > 0.5)


def built(table: Path, out: Path, rounds: int) -> tuple[float, float]:
    """Run the command and return CPU seconds and seconds on the clock."""
    words = [sys.executable, "-m", "mmtk", "atlas", "template", str(table), f"rounds={rounds}", *SETTINGS]
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run([*words, "--out", str(out)], check=True, env=environment(1))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, time.monotonic() - begin


def measured(data: Path, out: Path, method: str) -> dict[str, Any]:
    """Return a row of numbers of a template that stands in a folder."""
    names, maps = carried(data, out)
    flat = maps.reshape(len(maps), -1)
    flat = flat[:, (flat > 0).any(axis=0)]
    account = json.loads((out / "template.json").read_text())
    return {
        "subject": "brains_2mm",
        "method": method,
        "cases": len(names),
        "left_out": len(account["left_out"]),
        "sharpness": sharp(out, maps),
        "dice": agreement(flat),
        "rounds": [
            {key: one[key] for key in ("round", "sharpness", "drift_mm", "stretch", "spread")}
            for one in account["rounds"]
        ],
    }


def render(results: Path = store.RESULTS) -> str:
    """Return the tables for ``docs/benchmarks.md``."""
    found = {row["method"]: row for row in store.newest("atlas", results)}
    parts = [_template(found)] if all(name in found for name in ROWS) else []
    if "stroke" in found:
        parts.append(_stroke(found["stroke"]))
    return "\n".join(parts) or "Not run yet: `python -m benchmarks.atlas`.\n"


def _template(found: Mapping[str, Any]) -> str:
    lines = [
        "| image | gradient, 1/mm | fine detail | entropy, bits | spread | Dice of pairs | Dice with the vote | CPU s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, title in ROWS.items():
        row = found[name]
        sharpness, dice = row["sharpness"], row["dice"]
        title = f"{title}, {len(row['rounds']) - 1} rounds" if name == "template" else title
        lines.append(
            f"| {title} | {sharpness['gradient']:.4f} | {sharpness['fine']:.4f} | {sharpness['entropy']:.3f} | "
            f"{row['rounds'][-1]['spread']:.4f} | {dice['pairs']:.3f} | {dice['vote']:.3f} | {row['cpu_s']:.0f} |"
        )
    drift = ", ".join(f"{one['drift_mm']:.2f}" for one in found["template"]["rounds"][1:])
    return (
        f"The template of {found['template']['cases']} brains of 2 mm (`{' '.join(SETTINGS)}`, one worker, one thread) "
        "against their affine mean; both are plain means. Gradient, fine detail (finer than 2 mm) and entropy inside "
        "the brain are on one scale of contrast (`mmtk/atlas/sharpness.py`). Dice is of 148 labels, carried by nearest "
        "neighbor: of all pairs, and of each case with the majority of the others. CPU seconds are of all rounds up to "
        f"there. The mean shape that each round took off: {drift} mm.\n\n" + "\n".join(lines) + "\n"
    )


def _stroke(row: Mapping[str, Any]) -> str:
    return (
        f"Frequency atlas of {row['cases']} stroke lesions painted into brains of 2 mm, on this template (`python -m "
        f"benchmarks.stroke`): correlation of the recovered frequency with the known one {row['correlation_all']:.3f} "
        f"over all voxels, {row['correlation']:.3f} over the {row['voxels']:,} where either is above 0; bias "
        f"{row['bias']:+.4f} there (mean frequency {row['mean']:.4f}), lesion volume {row['volume_ratio']:.2f} of what "
        f"was put in. With {row['cases']} cases most voxels are lesion in none or one, so that edges weigh much. "
        f"{row['left_out']} cases left out, {row['cpu_s']:.0f} CPU s.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    asked = parser.parse_args()
    scratch, data = asked.scratch.resolve(), asked.data.resolve()
    scratch.mkdir(parents=True, exist_ok=True)
    table, out, cpu = prepare(data, scratch), scratch / "template", 0.0
    for method, rounds in (("affine", 0), ("template", asked.rounds)):
        seconds, wall = built(table, out, rounds)
        cpu += seconds
        row = {**measured(data, out, method), "cpu_s": cpu, "wall_s": wall, "load": os.getloadavg()[0]}
        store.append("atlas", {**row, "settings": SETTINGS, "host": store.host()})
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
