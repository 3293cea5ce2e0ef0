"""Masks that nobody drew: how good they are, and what a registration with them is worth.

    python -m benchmarks.masks [--seeds 1 2] [--real FOLDER]

``tumor_brain``: the sample of three kinds at 2 mm, whose true deformation is known, registered by the default method
with no mask, the true one, and the one that ``mask=auto`` finds. ``real``: a patient with a glioma against the template,
for the overlap with what experts drew; nothing is known of its deformation.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import store

__all__ = ["render"]

KINDS = ("bright", "lookalike", "resected")
#: Settings were chosen on seeds 4 and 5.
SEEDS = (1, 2)
ROWS = {
    "none": "no mask",
    "true": "true mask",
    "true-told": "true mask, `lesion=grew` where it did",
    "auto": "`mask=auto`",
}
FILE = "masks"


def overlap(one: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """Return Dice, sensitivity and precision of a mask against another one."""
    both = float((one & other).sum())
    return {
        "dice": 2 * both / max(float(one.sum() + other.sum()), 1.0),
        "sensitivity": both / max(float(other.sum()), 1.0),
        "precision": both / max(float(one.sum()), 1.0),
    }


def sample_case(
    kind: str, seed: int, done: Container[tuple[str, str]], rows: Iterable[str] = tuple(ROWS)
) -> Iterator[dict[str, Any]]:
    """Register a sample in every way that is not done yet, and yield a row for each."""
    import mmtk
    from mmtk.io import Volume
    from mmtk.samples import tumor_brain
    from mmtk.samples.truth import error_against_truth

    sample = tumor_brain(kind=kind, spacing=2.0, seed=seed)
    moving, fixed, true = (
        Volume(np.asarray(data, np.float32), sample.affine, name=name)
        for data, name in ((sample.moving, "moving"), (sample.fixed, "fixed"), (sample.mask, "mask"))
    )
    for name in rows:
        if (f"{kind}/{seed}", name) in done:
            continue
        start = time.process_time()
        settings: dict[str, Any] = {}
        mask: Any = {"none": None, "auto": "auto"}.get(name, true)
        if name == "true-told":
            if kind == "resected":
                continue
            settings["lesion"] = "grew"
        result = mmtk.register(moving=moving, fixed=fixed, mask=mask, init="none", device="cpu", **settings)
        errors = error_against_truth(sample, result)
        row: dict[str, Any] = {
            "subject": f"{kind}/{seed}",
            "method": name,
            "cpu": round(time.process_time() - start, 1),
            "scores": {key: round(value, 4) for key, value in errors.items()},
        }
        if name == "auto":
            looked = result.looked_for
            assert looked is not None
            row["mask"] = {
                **overlap(looked.mask.data >= 0.5, sample.mask > 0),
                "history": looked.history,
                "volume_ml": looked.volume_ml(),
            }
        yield row


def real_case(folder: Path, segmenter: str) -> dict[str, Any]:
    """Score a segmenter against the reference of a patient, and against five algorithms beside it."""
    from mmtk.io import read_image
    from mmtk.masking.finding import find_mask
    from mmtk.plugins import installed

    start = time.process_time()
    case = folder / "tumour_3d" / "tumour_mri_01"
    scan = read_image(f"{case}_t1.nii.gz", name="t1")
    template = read_image(folder / "template" / "brats_space_t1_brain.nii.gz", name="template")
    found = find_mask([scan], installed().find("segmenter", segmenter)(kind=segmenter), reference=template)
    mask = found.mask.data >= 0.5
    against = {}
    for name in ("seg", *(f"seg_alg{n}" for n in range(1, 6))):
        labels = read_image(f"{case}_{name}.nii.gz", name=name).data
        against[name] = {
            "WT": overlap(mask, labels > 0)["dice"],
            "TC": overlap(mask, np.isin(labels, (1, 3, 4)))["dice"],
        }
    seg = read_image(f"{case}_seg.nii.gz", name="seg").data > 0
    return {
        "subject": "tumour_mri_01",
        "method": segmenter,
        "cpu": round(time.process_time() - start, 1),
        "mask": {**overlap(mask, seg), "volume_ml": found.volume_ml(), "against": against},
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.masks", description=__doc__)
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS))
    parser.add_argument("--kinds", nargs="*", default=list(KINDS))
    parser.add_argument("--rows", nargs="*", default=list(ROWS))
    parser.add_argument("--real", type=Path, help="folder of the real images")
    asked = parser.parse_args()
    done = {(row["subject"], row["method"]) for row in store.rows(FILE)}
    for seed in asked.seeds:
        for kind in asked.kinds:
            for row in sample_case(kind, seed, done, asked.rows):
                store.append(FILE, {**row, "host": store.host()})
                print(row, flush=True)
    for segmenter in ("outlier", "inconsistency") if asked.real else ():
        if ("tumour_mri_01", segmenter) in done:
            continue
        row = real_case(asked.real, segmenter)
        store.append(FILE, {**row, "host": store.host()})
        print(row, flush=True)


def render(results: Path = store.RESULTS) -> str:
    """Return the tables."""
    rows = store.newest(FILE, results)
    if not rows:
        return "Not measured yet.\n"
    by = {(row["subject"], row["method"]): row for row in rows}
    subjects = sorted({subject for subject, _ in by if "/" in subject})
    lines = [
        "Registered by the default method, `init=none`, one thread; errors are means over seeds, in mm: outside of the",
        "lesion, and within 10 mm of it. Settings of the segmenter were chosen on other seeds.\n",
        f"| mask | {' | '.join(f'{kind}: outside, near' for kind in KINDS)} | CPU s |",
        f"|---|{'---|' * (len(KINDS) + 1)}",
    ]
    for name, title in ROWS.items():
        there = [by[s, name] for s in subjects if (s, name) in by]
        cells = [_errors(by, subjects, kind, name) for kind in KINDS]
        cpu = f"{statistics.median(row['cpu'] for row in there):.0f}" if there else "-"
        lines.append(f"| {title} | {' | '.join(cells)} | {cpu} |")
    lines += ["", *_verdicts(by, subjects), "", *_masks(by, subjects), "", *_real(rows)]
    return "\n".join(lines) + "\n"


def _errors(by: Mapping[Any, Any], subjects: list[str], kind: str, name: str) -> str:
    scores = [by[s, name]["scores"] for s in subjects if s.startswith(f"{kind}/") and (s, name) in by]
    if not scores:
        return "-"
    return ", ".join(f"{statistics.fmean(s[key] for s in scores):.2f}" for key in ("outside", "near"))


def _verdicts(by: Mapping[Any, Any], subjects: list[str]) -> list[str]:
    """Say whether what was to be reached is."""
    pairs = [
        (by[s, "auto"]["scores"], by[s, "true"]["scores"])
        for s in subjects
        if (s, "auto") in by and (s, "true") in by
    ]
    if not pairs:
        return []
    worst = max(a["outside"] / t["outside"] - 1 for a, t in pairs)
    told = [
        f"Outside of the lesion, `mask=auto` errs by at most {worst:+.1%} of what the true mask does, over {len(pairs)} "
        f"samples (to reach: within 10 %)."
    ]
    for kind in ("lookalike", "resected"):
        near = [
            (by[s, "auto"]["scores"]["near"], by[s, "none"]["scores"]["near"])
            for s in subjects
            if s.startswith(f"{kind}/") and (s, "auto") in by and (s, "none") in by
        ]
        if not near:
            continue
        better = sum(a < n for a, n in near)
        means = [statistics.fmean(column) for column in zip(*near, strict=True)]
        told.append(
            f"Within 10 mm of {kind} lesions it is {means[0]:.2f} mm against {means[1]:.2f} mm without a mask, better "
            f"in {better} of {len(near)} (to reach: better)."
        )
    return [" ".join(told)]


def _masks(by: Mapping[Any, Any], subjects: list[str]) -> list[str]:
    lines = ["| what `mask=auto` found | Dice | sensitivity | precision | took it for |", "|---|---|---|---|---|"]
    for kind in KINDS:
        found = [by[s, "auto"]["mask"] for s in subjects if s.startswith(f"{kind}/") and (s, "auto") in by]
        if found:
            numbers = [statistics.fmean(m[key] for m in found) for key in ("dice", "sensitivity", "precision")]
            histories = ", ".join(sorted({m["history"] for m in found}))
            lines.append(
                f"| {kind} (n = {len(found)}) | {' | '.join(f'{n:.2f}' for n in numbers)} | {histories} |"
            )
    return lines


def _real(rows: list[dict[str, Any]]) -> list[str]:
    real = [row for row in rows if row["subject"] == "tumour_mri_01"]
    if not real:
        return []
    names = list(real[0]["mask"]["against"])
    lines = [
        "A real glioma (T1 alone, against the BraTS template, affine): Dice of the whole tumor with the reference `seg`",
        "and with the answers of five algorithms.\n",
        f"| segmenter | ml | sensitivity | precision | {' | '.join(names)} | CPU s |",
        f"|---|---|---|---|{'---|' * (len(names) + 1)}",
    ]
    if not any(row["mask"]["volume_ml"] for row in real):
        lines.insert(
            2, "None of them found anything: the tumor hardly shows in T1, and the template is another person.\n"
        )
    for row in real:
        mask = row["mask"]
        dice = " | ".join(f"{mask['against'][name]['WT']:.2f}" for name in names)
        lines.append(
            f"| `{row['method']}` | {mask['volume_ml']:.0f} | {mask['sensitivity']:.2f} | {mask['precision']:.2f} | "
            f"{dice} | {row['cpu']:.0f} |"
        )
    return lines


if __name__ == "__main__":
    main()
