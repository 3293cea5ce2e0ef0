"""A frequency atlas of stroke lesions placed in healthy brains: does it give back the frequency that was put in?

    python -m benchmarks.atlas  --data ../shared/data --scratch DIR
    python -m benchmarks.stroke --data ../shared/data --scratch DIR

Thirteen lesions of patients, twelve of which lie in MNI space, the other one brought there by an affine placement of
its patient's T2. They go on to the template of 24 brains through a registration of the MNI template, and from there each
into another of these brains, through that brain's own registration, and are painted into its T1: dark, or every fourth
bright, with a soft edge and noise, seeded. What is known is where each lesion lies in the template. Then, as a user
would: `mmtk cohort run` of the painted brains, `mmtk atlas build`. The row joins ``results/atlas.jsonl``.
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
from benchmarks.atlas import SETTINGS
from benchmarks.measure import environment
from mmtk.io import Volume, read_image, write_image
from mmtk.transforms import load_transform, resample

__all__ = ["halved", "painted"]

#: Every so manieth lesion is bright, as if it had bled.
BRIGHT_EVERY = 4


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


def known(data: Path, template: Path) -> dict[str, np.ndarray]:
    """Return the lesions on the template's grid, inside its brain."""
    import mmtk
    from mmtk.atlas.sharpness import content
    from mmtk.transforms import Transform

    grid = read_image(template, name="template")
    mni = halved(read_image(data / "template" / "mni152_09a_t1.nii.gz", name="moving"))
    told = {key: tuple(map(float, value.split(","))) for key, value in (w.split("=") for w in SETTINGS[1:])}
    told["iterations"] = tuple(map(int, told["iterations"]))
    onto = mmtk.register(moving=mni, fixed=grid, method="metamorphosis", **told).transform
    files = {f.name.split("_")[2].split(".")[0]: (f, Transform(())) for f in (data / "stroke").glob("soop_*")}
    scan = data / "stroke" / "stroke_01_t2.nii.gz"
    placed = mmtk.register(moving=scan, fixed=mni, method="identity", init="affine").transform
    files["stroke01"] = (data / "stroke" / "stroke_01_lesion.nii.gz", placed)
    inside = content(grid.data)
    found = {}
    for name, (file, to_mni) in sorted(files.items()):
        there = resample(file, to_mni, mni, antialias=True).data
        mask = resample(Volume(there, mni.affine, name="mask"), onto, grid).data
        found[name] = (mask > 0.5) & inside
    return found


def command(*words: str) -> None:
    """Run mmtk with one thread."""
    subprocess.run([sys.executable, "-m", "mmtk", *words], check=True, env=environment(1))


def make(scratch: Path, lesions: dict[str, np.ndarray], template: Path, healthy: Path) -> Path:
    """Paint each lesion into another brain, and return the table of them.

    Args:
        lesions: On the grid of ``template``.
        healthy: Folders of the runs that registered the brains to it.
    """
    brains = [row.split(",") for row in (scratch / "brains.csv").read_text().splitlines()[1:]]
    folder = scratch / "painted"
    folder.mkdir(exist_ok=True)
    grid = read_image(template, name="template")
    lines = ["case,moving,mask,side,kind,volume_ml"]
    for number, ((name, lesion), (case, path)) in enumerate(zip(lesions.items(), brains, strict=False)):
        brain = read_image(Path(path), name="moving")
        there = Volume(lesion.astype(np.float32), grid.affine, name="mask")
        mask = resample(there, load_transform(healthy / case), brain, space="fixed").data
        mask = (mask > 0.5) & (brain.data > 0)
        bright = number % BRIGHT_EVERY == BRIGHT_EVERY - 1
        write_image(folder / f"{name}.nii.gz", painted(brain.data, mask, bright=bright, seed=number), brain)
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
    """Return on which side of the template's brain most of a lesion is."""
    middle, brain = np.argwhere(lesion).mean(axis=0), np.argwhere(grid.data > 0.1).mean(axis=0)
    return "right" if grid.affine[0, :3] @ (middle - brain) > 0 else "left"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--scratch", type=Path, required=True)
    asked = parser.parse_args()
    scratch, data = asked.scratch.resolve(), asked.data.resolve()
    scratch.mkdir(parents=True, exist_ok=True)
    home = scratch / "template" / "rounds"
    last = sum(path.is_dir() for path in home.iterdir()) - 1
    template = home / str(last - 1) / "template.nii.gz"
    lesions = known(data, template)
    table = make(scratch, lesions, template, home / str(last) / "cohort" / "cases")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    cohort, out = scratch / "stroke", scratch / "stroke_atlas"
    command("cohort", "run", str(table), *SETTINGS, f"template={template}", "--out", str(cohort))
    command("atlas", "build", str(cohort), "by=side", "--out", str(out))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    account = json.loads((out / "atlas.json").read_text())
    truth = np.mean([lesions[name] for name in account["cases"]], axis=0)
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
