"""A cohort of synthetic tumor brains on one machine, and the atlas of it: speed, memory, kills, what is recovered.

    python -m benchmarks.cohorts make   --folder DIR --cases 100
    python -m benchmarks.cohorts scale  --folder DIR --cases 8 16 32     # 1 and 2 workers, on a quiet machine
    python -m benchmarks.cohorts whole  --folder DIR                     # all cases, 2 workers, killed twice on the way
    python -m benchmarks.cohorts atlas  --folder DIR

Every patient is the embedded brain at 2 mm, bent, with a lesion that has grown; the template is that brain. So the known
frequency of lesions is the mean of where each began. Results go to ``results/cohorts.jsonl``.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from benchmarks import store

__all__ = ["render"]

OPTIONS: dict[str, Any] = {"kind": "bright", "spacing": 2.0}
#: One person before and after would be too easy a setting; but the anatomy is one, and the lesions have grown.
SETTINGS = ("method=metamorphosis", "subject=same", "lesion=grew", "init=none", "threads=1")


def make(folder: Path, cases: int) -> None:
    """Write patients that are not there yet, the template and the table."""
    from mmtk.samples import tumor_brain

    folder.mkdir(parents=True, exist_ok=True)
    ages = np.random.default_rng(0).integers(20, 80, cases)
    lines = ["case,moving,mask,age"]
    for seed in range(cases):
        name = f"patient-{seed:03d}"
        place = folder / name
        lines.append(f"{name},{name}/t1.nii.gz,{name}/tumor.nii.gz,{ages[seed]}")
        if (place / "began.nii.gz").is_file():
            continue
        sample = tumor_brain(seed=seed, **OPTIONS)
        place.mkdir(exist_ok=True)
        images = {"t1": sample.moving, "tumor": sample.mask, "began": sample.fixed_mask}
        if seed == 0:
            nib.save(nib.Nifti1Image(sample.fixed, sample.affine), folder / "template.nii.gz")
        for what, image in images.items():
            data = image.astype(np.float32 if what == "t1" else np.uint8)
            nib.save(nib.Nifti1Image(data, sample.affine), place / f"{what}.nii.gz")
    (folder / "cohort.csv").write_text("\n".join(lines) + "\n")


def _command(table: Path, out: Path, workers: int) -> list[str]:
    words = [str(table), f"template={table.parent / 'template.nii.gz'}", *SETTINGS, f"workers={workers}"]
    return [sys.executable, "-m", "mmtk", "cohort", "run", *words, "--out", str(out)]


def _records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((out / "cases").glob("*.json"))]


def _costs(out: Path, since: float) -> dict[str, Any]:
    """Return what cases that ended after ``since`` took, in the order in which they ended."""
    files = sorted((out / "cases").glob("*.json"), key=lambda path: path.stat().st_mtime)
    told = [json.loads(path.read_text()) for path in files if path.stat().st_mtime > since]
    return {
        "case_s": [round(one["cost"]["seconds"], 2) for one in told if one["status"] == "done"],
        "peak_mb": [round(one["cost"]["peak_memory_mb"]) for one in told if one["status"] == "done"],
    }


def scale(folder: Path, counts: Sequence[int]) -> None:
    """Run the first cases with one and with two workers, one thread each."""
    head, *rows = (folder / "cohort.csv").read_text().splitlines()
    for count in counts:
        for workers in (1, 2):
            table = folder / f"first-{count}.csv"
            table.write_text("\n".join([head, *rows[:count]]) + "\n")
            out = folder / f"scale-{count}-{workers}"
            begin, clock = time.time(), time.monotonic()
            subprocess.run(_command(table, out, workers), check=True, stdout=subprocess.DEVNULL)
            wall = time.monotonic() - clock
            row = {"subject": f"{count} cases", "method": f"{workers} workers", "wall_s": round(wall, 2)}
            store.append("cohorts", {**row, **_costs(out, begin), "host": store.host()})
            print(f"{count} cases, {workers} workers: {wall:.1f} s", flush=True)


def whole(folder: Path) -> None:
    """Run all, with two workers. After a third a worker is killed, after two thirds the command and all workers."""
    out, table = folder / "whole", folder / "cohort.csv"
    total = sum(1 for _ in csv.DictReader(table.open()))
    begin, clock = time.time(), time.monotonic()
    first = subprocess.Popen(_command(table, out, 2), stdout=subprocess.DEVNULL, start_new_session=True)
    _wait(out, total // 3, first)
    worker = _workers(first.pid)[0]
    os.kill(worker, signal.SIGKILL)
    _wait(out, 2 * total // 3, first)
    before = {path.name: path.stat().st_mtime_ns for path in _done(out)}
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    for left in _workers(first.pid):
        os.kill(left, signal.SIGKILL)
    code = subprocess.run(_command(table, out, 2), stdout=subprocess.DEVNULL).returncode
    kept = sum(path.stat().st_mtime_ns == before.get(path.name) for path in _done(out))
    row = {
        "subject": "all", "method": "killed twice", "wall_s": round(time.monotonic() - clock, 2), "code": code,
        "cases": total, "done": len(_done(out)), "done_before_the_kill": len(before), "kept": kept,
    }  # fmt: skip
    store.append("cohorts", {**row, **_costs(out, begin), "host": store.host()})
    print({key: value for key, value in row.items()}, flush=True)


def _done(out: Path) -> list[Path]:
    files = (out / "cases").glob("*.json")
    return [path for path in files if json.loads(path.read_text())["status"] == "done"]


def _wait(out: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    while len(_done(out)) < count:
        if process.poll() is not None:
            raise SystemExit(f"the cohort ended with code {process.returncode} before {count} cases were done")
        time.sleep(0.5)


def _workers(session: int) -> list[int]:
    """Return the processes of a session that compute: those with the most memory, without its leader."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == session:
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session:
            found.append((int(fields[21]), int(entry.name)))
    return [pid for _, pid in sorted(found, reverse=True)]


def atlas(folder: Path) -> None:
    """Build the atlas of all cases and compare it with where the lesions began."""
    import resource

    out = folder / "atlas"
    words = [str(folder / "whole"), "by=age", "--out", str(out)]
    clock = time.monotonic()
    subprocess.run([sys.executable, "-m", "mmtk", "atlas", "build", *words], check=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**10
    found = np.asarray(nib.load(out / "probability.nii.gz").dataobj, float)
    places = sorted(folder.glob("patient-*/began.nii.gz"))
    known = np.mean([np.asarray(nib.load(path).dataobj, float) for path in places], axis=0)
    patients = np.mean(
        [np.asarray(nib.load(path.with_name("tumor.nii.gz")).dataobj, float) for path in places], axis=0
    )
    anywhere = (known > 0) | (found > 0)
    row = {
        "subject": "all", "method": "atlas", "wall_s": round(time.monotonic() - clock, 2), "peak_mb": round(peak),
        "cases": len(places),
        "correlation": float(np.corrcoef(known.ravel(), found.ravel())[0, 1]),
        "correlation_where_either": float(np.corrcoef(known[anywhere], found[anywhere])[0, 1]),
        "correlation_without_registration": float(np.corrcoef(known.ravel(), patients.ravel())[0, 1]),
        "bias": float((found - known)[anywhere].mean()),
        "volume_ratio": float(found.sum() / known.sum()),
        "volume_ratio_without_registration": float(patients.sum() / known.sum()),
        "largest_known": float(known.max()), "largest_found": float(found.max()),
    }  # fmt: skip
    store.append("cohorts", {**row, "host": store.host()})
    print(json.dumps(row, indent=1), flush=True)


def render(results: Path = store.RESULTS) -> str:
    """Return the tables for ``docs/benchmarks.md``."""
    rows = {(row["subject"], row["method"]): row for row in store.newest("cohorts", results)}
    counts = sorted({int(s.split()[0]) for s, m in rows if m.endswith("workers")})
    if not counts:
        return "Not run yet: `python -m benchmarks.cohorts`.\n"
    lines = [
        "Synthetic tumor brains of 2 mm onto one template, one thread a worker. Seconds are those of the whole command, "
        "start and index included.",
        "",
        "| cases | 1 worker, s | 2 workers, s | speed of 2 | a case, s | peak of a worker, MB: first / last case |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for count in counts:
        one, two = (rows[f"{count} cases", f"{n} workers"] for n in (1, 2))
        case = float(np.median(two["case_s"]))
        lines.append(
            f"| {count} | {one['wall_s']:.0f} | {two['wall_s']:.0f} | {one['wall_s'] / two['wall_s']:.2f} | {case:.1f} "
            f"| {two['peak_mb'][0]} / {two['peak_mb'][-1]} |"
        )
    if whole := rows.get(("all", "killed twice")):
        lines += ["", _whole(whole)]
    if found := rows.get(("all", "atlas")):
        lines += ["", _atlas(found)]
    return "\n".join(lines) + "\n"


def _whole(row: dict[str, Any]) -> str:
    peaks, kept = row["peak_mb"], f"{row['kept']} of {row['done_before_the_kill']}"
    tenth = max(1, len(peaks) // 10)
    return (
        f"All {row['cases']} with 2 workers: a worker was killed after a third, the command with all workers after two "
        f"thirds, and the command given again. It ended with code {row['code']}, {row['done']} cases done; {kept} that "
        f"were done before the second kill were not run again. Largest memory of a worker over the first tenth of the "
        f"cases {max(peaks[:tenth])} MB, over the last {max(peaks[-tenth:])} MB."
    )


def _atlas(row: dict[str, Any]) -> str:
    return (
        f"The atlas of {row['cases']} cases took {row['wall_s']:.0f} s and {row['peak_mb']} MB. Frequency of lesions "
        f"against where they began: correlation {row['correlation']:.3f} over the template "
        f"({row['correlation_where_either']:.3f} where either has a lesion; as the masks lie in the patients "
        f"{row['correlation_without_registration']:.3f}). Mean bias where either has one {row['bias']:+.4f}; volume of "
        f"all lesions {row['volume_ratio']:.2f} of the known ({row['volume_ratio_without_registration']:.2f} in the "
        f"patients)."
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cohorts", description=__doc__.split("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("what", choices=["make", "scale", "whole", "atlas"])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--cases", type=int, nargs="+", default=None)
    asked = parser.parse_args()
    folder = asked.folder.resolve()
    if asked.what == "make":
        make(folder, (asked.cases or [100])[0])
    elif asked.what == "scale":
        scale(folder, asked.cases or [8, 16, 32])
    else:
        {"whole": whole, "atlas": atlas}[asked.what](folder)


if __name__ == "__main__":
    main()
