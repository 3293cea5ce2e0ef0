"""Several modalities of one patient against each of them alone: synthetic brains with a lesion, truth known.

    python -m benchmarks.multimodal --seeds 0 1 2

Four scans (T1, T1ce, T2, FLAIR) of each patient at 2 mm, each with noise, bias and thick slices of its own, onto the
healthy brain in the same modality. All rows are the split method with the mask. Results go to
``results/multimodal.jsonl``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import mmtk
from benchmarks import store
from mmtk.io import Volume
from mmtk.samples import Sample, Truth, error_against_truth, tumor_brain

__all__ = ["KINDS", "ROWS", "patients", "registered", "render"]

KINDS = ("bright", "lookalike", "resected")
MODALITIES = ("t1", "t1ce", "t2", "flair")
#: As in a clinic: every scan has slices of 6 mm, T1 and T1ce axial, T2 coronal, FLAIR sagittal.
OPTIONS: dict[str, Any] = {
    "spacing": 2.0, "modalities": MODALITIES[1:], "noise": 0.03, "bias": 0.2, "thickness": 6.0,
}  # fmt: skip

#: Rows: which modalities, and how much each counts.
ROWS: dict[str, tuple[tuple[str, ...], float]] = {
    **{name: ((name,), 1.0) for name in MODALITIES},
    "all": (MODALITIES, 0.25),
    "all, summed": (MODALITIES, 1.0),
}


def patients(seeds: Sequence[int]) -> Iterator[tuple[str, Sample]]:
    """Yield name and sample of each patient."""
    for kind in KINDS:
        for seed in seeds:
            yield f"{kind}-{seed}", tumor_brain(kind=kind, seed=seed + 100, **OPTIONS)


def registered(sample: Sample, row: str) -> dict[str, Any]:
    """Register one row and return the errors in mm, folds and seconds."""
    names, weight = ROWS[row]
    volume = partial(Volume, affine=sample.affine)
    pairs = [(sample.moving, sample.fixed) if n == "t1" else sample.channels[n] for n in names]
    begin = time.process_time()
    found = mmtk.register(
        moving=[volume(moving) for moving, _ in pairs],
        fixed=[volume(fixed) for _, fixed in pairs],
        mask=volume(sample.mask.astype(np.float32)),
        init="none",
        subject="same",
        channel_weights=(weight,) * len(names),
    )
    errors = error_against_truth(Truth.of(sample), found.displacement)
    return {**errors, "folds": found.metrics["deformation"]["folds"], "cpu_s": time.process_time() - begin}


def render(results: Path = store.RESULTS) -> str:
    """Return the table for ``docs/benchmarks.md``."""
    rows = store.newest("multimodal", results)
    if not rows:
        return "Not run yet: `python -m benchmarks.multimodal`.\n"
    kinds = {kind: sorted({r["subject"] for r in rows if r["subject"].startswith(kind)}) for kind in KINDS}
    head = ["modalities", *(f"{kind}: outside / near, mm" for kind in KINDS), "mean outside", "folds", "CPU s"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name in ROWS:
        mine = [r for r in rows if r["method"] == name]
        if not mine:
            continue
        cells = [
            " / ".join(
                f"{statistics.mean(r[region] for r in mine if r['subject'] in subjects):.3f}"
                for region in ("outside", "near")
            )
            for subjects in kinds.values()
        ]
        outside = statistics.mean(r["outside"] for r in mine)
        folds, seconds = sum(r["folds"] for r in mine), statistics.median(r["cpu_s"] for r in mine)
        lines.append(f"| {name} | {' | '.join(cells)} | {outside:.3f} | {folds} | {seconds:.1f} |")
    count = len({r["subject"] for r in rows})
    settings = (
        f"slices of {OPTIONS['thickness']:g} mm (T1 and T1ce axial, T2 coronal, FLAIR sagittal), noise "
        f"{OPTIONS['noise']}, bias field {OPTIONS['bias']}, {OPTIONS['spacing']:g} mm"
    )
    return (
        f"{count} patients, {settings}. `outside` is the endpoint error where there is brain and no lesion, `near` "
        "within 10 mm of the lesion. `all` counts each of the four a quarter, so that the shape is as stiff as with "
        "one; `all, summed` counts each in full, as the thesis writes it.\n\n" + "\n".join(lines) + "\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    asked = parser.parse_args()
    done = {(r["subject"], r["method"]) for r in store.newest("multimodal")}
    for subject, sample in patients(asked.seeds):
        for row in asked.rows:
            if (subject, row) in done:
                continue
            found = registered(sample, row)
            store.append("multimodal", {"subject": subject, "method": row, **found, "host": store.host()})
            print(f"{subject} {row}: outside {found['outside']:.3f}, near {found['near']:.3f} mm, "
                  f"{found['folds']} folds, {found['cpu_s']:.1f} s", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
