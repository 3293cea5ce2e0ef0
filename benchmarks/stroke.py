"""A frequency atlas of stroke lesions placed in healthy brains: does it give back the frequency that was put in?

    python -m benchmarks.stroke --data ../shared/data --scratch DIR

Thirteen lesions of patients, twelve of which lie in MNI space, the other one brought there by an affine placement of its
patient's T2. Each is carried into another brain of ``brains_2mm``, through the registration of that brain, healthy, to
the MNI template at 2 mm, and painted into its T1: dark, or for every fourth case bright, with a soft edge and noise,
seeded. What is known is where each lesion lies in the template before it is carried. Then, as a user would: `mmtk cohort
run`, `mmtk atlas build`. The row joins ``results/atlas.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks import store
from benchmarks.atlas import prepare
from benchmarks.measure import environment
from mmtk.io import Volume, read_image, write_image
from mmtk.transforms import load_transform, resample

__all__ = ["halved", "painted"]

#: Every so manieth lesion is bright, as if it had bled.
BRIGHT_EVERY = 4
#: Settings of the registrations, with and without lesions.
SETTINGS = ("method=metamorphosis", "levels=8,4", "iterations=6,6")


def halved(image: Volume) -> Volume:
    """Return a volume at twice its spacing, each voxel the mean of eight."""
    shape = tuple(n // 2 for n in image.shape)
    cut = image.data[tuple(slice(0, 2 * n) for n in shape)]
    data = cut.reshape(*(part for n in shape for part in (n, 2))).mean(axis=(1, 3, 5))
    affine = image.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ np.full(3, 0.5)
    affine[:3, :3] *= 2
    return Volume(data, affine, name=image.name)


def painted(brain: np.ndarray, lesion: np.ndarray, *, bright: bool, seed: int) -> np.ndarray:
    """Return a brain with a lesion painted into it.

    Args:
        brain: T1 without its head, 0 outside.
        lesion: True where it is.
        bright: Brighter than white matter instead of nearly as dark as fluid.
        seed: Of intensity and noise.
    """
    from scipy.ndimage import gaussian_filter

    draw = np.random.default_rng(seed)
    tissue = np.percentile(brain[brain > 0], 90)
    level = tissue * (draw.uniform(1.1, 1.3) if bright else draw.uniform(0.25, 0.45))
    texture = level + 0.06 * tissue * gaussian_filter(draw.standard_normal(brain.shape), 0.7)
    share = gaussian_filter(lesion.astype(float), 0.7) * lesion
    return np.where(brain > 0, np.maximum((1 - share) * brain + share * texture, 0), 0)


def known(data: Path, scratch: Path, template: Path) -> dict[str, np.ndarray]:
    """Return the lesions on the template's grid, inside its brain."""
    import mmtk

    grid = read_image(template, name="template")
    found = {}
    for file in sorted((data / "stroke").glob("soop_lesion_*.nii.gz")):
        mask = resample(file, mmtk.Transform(()), grid, interpolation="linear", antialias=True).data
        found[file.name.split("_")[2].split(".")[0]] = (mask > 0.5) & (grid.data > 0)
    placed = mmtk.register(
        moving=data / "stroke" / "stroke_01_t2.nii.gz", fixed=template, method="identity", init="affine"
    )
    mask = resample(data / "stroke" / "stroke_01_lesion.nii.gz", placed.transform, grid, antialias=True).data
    found["stroke01"] = (mask > 0.5) & (grid.data > 0)
    np.savez_compressed(scratch / "known.npz", **found)
    return found


def command(*words: str) -> None:
    """Run mmtk with one thread."""
    subprocess.run([sys.executable, "-m", "mmtk", *words], check=True, env=environment(1))


def make(data: Path, scratch: Path) -> Path:
    """Make template, brains with lesions and their table, and return the table."""
    template = scratch / "mni_2mm.nii.gz"
    if not template.is_file():
        whole = halved(read_image(data / "template" / "mni152_09a_t1.nii.gz", name="template"))
        write_image(template, whole.data, whole)
    lesions = known(data, scratch, template)
    rows = prepare(data, scratch).read_text().splitlines()[1 : len(lesions) + 1]
    healthy = scratch / "healthy.csv"
    healthy.write_text("\n".join(["case,moving", *rows]) + "\n")
    command("cohort", "run", str(healthy), *SETTINGS, f"template={template}", "--out", str(scratch / "healthy"))
    folder = scratch / "painted"
    folder.mkdir(exist_ok=True)
    lines = ["case,moving,mask,side,kind,volume_ml"]
    for number, (row, (name, lesion)) in enumerate(zip(rows, lesions.items(), strict=True)):
        case, path = row.split(",")
        brain, grid = read_image(Path(path), name="moving"), read_image(template, name="template")
        there = Volume(lesion.astype(np.float32), grid.affine, name="mask")
        through = load_transform(scratch / "healthy" / "cases" / case)
        mask = resample(there, through, brain, space="fixed").data
        mask = (mask > 0.5) & (brain.data > 0)
        bright = number % BRIGHT_EVERY == BRIGHT_EVERY - 1
        scan = painted(brain.data, mask, bright=bright, seed=number)
        write_image(folder / f"{name}.nii.gz", scan, brain)
        write_image(folder / f"{name}_mask.nii.gz", mask, brain, np.uint8)
        volume = lesion.sum() * float(np.prod(grid.spacing)) / 1000
        lines.append(
            f"{name},{folder / name}.nii.gz,{folder / name}_mask.nii.gz,{_side(lesion, grid)},"
            f"{'bright' if bright else 'dark'},{volume:.1f}"
        )
    table = scratch / "stroke.csv"
    table.write_text("\n".join(lines) + "\n")
    return table


def _side(lesion: np.ndarray, grid: Volume) -> str:
    """Return on which side of the template most of a lesion is."""
    middle = np.argwhere(lesion).mean(axis=0)
    return "right" if grid.affine[0, :3] @ middle + grid.affine[0, 3] > 0 else "left"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--scratch", type=Path, required=True)
    asked = parser.parse_args()
    scratch, data = asked.scratch.resolve(), asked.data.resolve()
    scratch.mkdir(parents=True, exist_ok=True)
    table = make(data, scratch)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    cohort, out = scratch / "cohort", scratch / "atlas"
    words = [*SETTINGS, f"template={scratch / 'mni_2mm.nii.gz'}"]
    command("cohort", "run", str(table), *words, "--out", str(cohort))
    command("atlas", "build", str(cohort), "by=side", "--out", str(out))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    account = json.loads((out / "atlas.json").read_text())
    with np.load(scratch / "known.npz") as kept:
        truth = np.mean([kept[name] for name in account["cases"]], axis=0)
    found = read_image(out / "probability.nii.gz", name="probability").data
    ever = (truth > 0) | (found > 0)
    row = {
        "subject": "stroke",
        "method": "stroke",
        "cases": len(account["cases"]),
        "left_out": len(account["left_out"]),
        "voxels": int(ever.sum()),
        "correlation": float(np.corrcoef(truth[ever], found[ever])[0, 1]),
        "correlation_all": float(np.corrcoef(truth.ravel(), found.ravel())[0, 1]),
        "bias": float((found - truth)[ever].mean()),
        "mean": float(truth[ever].mean()),
        "volume_ratio": float(found.sum() / truth.sum()),
        "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "load": os.getloadavg()[0],
        "settings": SETTINGS,
        "host": store.host(),
    }
    store.append("atlas", row)
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
