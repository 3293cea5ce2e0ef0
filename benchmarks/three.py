"""The linear + deformable CNN and the deep image prior: the columns of their papers' tables on what there is.

    python -m benchmarks.three pairs  --data SLICES --rows demons prior    # Laves et al., table 1
    python -m benchmarks.three hearts --data HEARTS --rows prior --names cine_n_02        # slices of hearts, Dice
    python -m benchmarks.three hearts --data HEARTS --rows lindef --weights FILE

``SLICES`` holds tumour_followup_01_visit_a.png and _b.png and the axial brain slices ants_r*slice.jpg; ``HEARTS`` is
that of ``benchmarks.hearts``, whose split and numbers these are. Every call adds the hearts and pairs that it measured
to ``results/three.jsonl``; the page shows the newest of each.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import store

__all__ = ["PAIRS", "ROWS", "render"]

#: Moving and fixed image of each pair.
PAIRS = {
    "glioma, two visits": ("tumour_followup_01_visit_a.png", "tumour_followup_01_visit_b.png"),
    "brains r16, r64": ("ants_r16slice.jpg", "ants_r64slice.jpg"),
    "brains r27, r64": ("ants_r27slice.jpg", "ants_r64slice.jpg"),
    "brains r30, r64": ("ants_r30slice.jpg", "ants_r64slice.jpg"),
}
#: Method and settings of each row.
ROWS: dict[str, dict[str, Any]] = {
    "identity": {"kind": "identity"},
    "demons": {"kind": "demons"},
    "prior": {"kind": "deep_image_prior"},
    "prior-fixed": {"kind": "deep_image_prior", "redraw": False},
    "prior-diffeomorphic": {"kind": "deep_image_prior", "diffeomorphic": True},
    "lindef": {"kind": "linear_deformable_cnn"},
    "lindef-deformable": {"kind": "linear_deformable_cnn"},
    "voxelmorph": {"kind": "voxelmorph"},
}
NAMES = {
    "identity": "before",
    "demons": "demons of ITK (SimpleITK, diffeomorphic)",
    "prior": "deep image prior, displacement",
    "prior-fixed": "the same, one noise for all steps",
    "prior-diffeomorphic": "the same, diffeomorphic",
    "lindef": "linear + deformable CNN",
    "lindef-deformable": "the same, without the linear part",
    "voxelmorph": "VoxelMorph",
}


def built(row: str, weights: Path | None) -> Any:
    """Return the method of a row."""
    from mmtk.plugins import installed

    settings = dict(ROWS[row])
    config: Any = installed().find("method", settings.pop("kind"))
    if weights is not None:
        settings["weights"] = str(weights)
    return config(**settings).build()


def pairs(data: Path, row: str) -> dict[str, dict[str, float]]:
    """Register the pairs of slices; affinely first, as the paper does."""
    import torch

    from mmtk.fields import folds, jacobian_determinant, warp
    from mmtk.prepare import prepare
    from mmtk_dip.ssim import ssim

    method, found = built(row, None), {}
    for name, (moving, fixed) in PAIRS.items():
        init = "none" if name.startswith("glioma") else "affine"
        known = prepare(
            moving=data / moving, fixed=data / fixed, init=init, normalize="robust", spacing=(1.0, 1.0)
        )
        begin = time.process_time()
        result = method.register(known.pair)
        spent = time.process_time() - begin
        u = result.displacement
        with torch.no_grad():
            determinant = jacobian_determinant(u)
            moved = warp(known.pair.moving, u)
            found[name] = {
                "ssim": float(ssim(moved, known.pair.fixed).mean()),
                "mae": float((moved - known.pair.fixed).abs().mean()),
                "determinant": float(determinant.mean()),
                "deviation": float(determinant.std()),
                "least": float(determinant.min()),
                "folds": float(folds(u)),
                "seconds": spent,
            }
    return found


def hearts(data: Path, row: str, weights: Path | None, names: list[str]) -> dict[str, dict[str, float]]:
    """Register the slices of hearts, those that are scored unless named."""
    from benchmarks.hearts import measured, names_in, split

    method = built(row, weights)
    return {name: measured(data, name, method) for name in names or split(names_in(data))["test"]}


def _newest(results: Path, subject: str) -> dict[str, dict[str, Mapping[str, float]]]:
    """Return the newest numbers of each row and each of its cases."""
    found: dict[str, dict[str, Mapping[str, float]]] = {}
    for line in store.rows("three", results):
        if line["subject"] == subject:
            found.setdefault(line["method"], {}).update(line["cases"])
    return found


_PAIRS_INTRO = """\
Laves et al. (2019), table 1: structural similarity and the determinant of the Jacobian. Theirs are 109 pairs of
the TCGA's gliomas, which are not at hand; here are two visits of one glioma patient (256 x 256) and three pairs of
healthy axial slices (256 x 256, affine first). Seconds are of the processor, for one pair. `ITK` in the paper is its
displacement field registration after an affine one; here it is the diffeomorphic demons of SimpleITK."""
_HEARTS_INTRO = """\
Slices of the hearts that `benchmarks.hearts` scores, end-diastole onto end-systole: the same split, numbers and
training slices as for the [CVAE](#hearts-codes-of-deformations). The prior is fitted to each slice by itself and saw no
other."""


def render(results: Path = store.RESULTS) -> str:
    """Return the sections for docs/benchmarks.md."""
    found = _newest(results, "pairs")
    lines = [_PAIRS_INTRO, ""]
    if found:
        lines += [
            "| row | pairs | SSIM | mean det | sd of det | least det | folds | CPU s |",
            "|---|---:|---:|---:|---:|---:|---:|---:|",
        ]
        for row in (row for row in NAMES if row in found):
            groups = {"glioma": [c for n, c in found[row].items() if n.startswith("glioma")],
                      "healthy": [c for n, c in found[row].items() if not n.startswith("glioma")]}  # fmt: skip
            for group, cases in groups.items():
                if cases:
                    lines.append(
                        f"| {NAMES[row]} | {group} ({len(cases)}) | {_mean(cases, 'ssim'):.3f} "
                        f"| {_mean(cases, 'determinant'):.3f} | {_mean(cases, 'deviation'):.3f} "
                        f"| {min(c['least'] for c in cases):.2f} "
                        f"| {sum(c['folds'] for c in cases):.0f} | {_mean(cases, 'seconds'):.1f} |"
                    )
        lines += [
            "| paper: ITK | 109 | 0.827 | 1.036 | 0.254 | | | |",
            "| paper: prior | 109 | 0.913 | 1.007 | 0.045 | | | |",
        ]
    else:
        lines.append("Not run yet.")
    found = _newest(results, "hearts")
    lines += ["", _HEARTS_INTRO, ""]
    if found:
        lines += [
            "| row | hearts | Dice | least Dice | RMSE | folded, % | HD95, mm | a slice, CPU s |",
            "|---|---:|---:|---:|---:|---:|---:|---:|",
        ]
        for row in (row for row in NAMES if row in found):
            cases = list(found[row].values())
            lines.append(
                f"| {NAMES[row]} | {len(cases)} | {_mean(cases, 'dice'):.3f} | {min(c['dice'] for c in cases):.3f} "
                f"| {_mean(cases, 'rmse'):.4f} | {_mean(cases, 'negative'):.3f} | {_mean(cases, 'hd95'):.2f} "
                f"| {_mean(cases, 'seconds'):.2f} |"
            )
    else:
        lines.append("Not run yet.")
    return "\n".join(lines) + "\n"


def _mean(cases: list[Mapping[str, float]], key: str) -> float:
    return statistics.fmean(case[key] for case in cases if key in case)


def main() -> None:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.three", description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["pairs", "hearts"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", nargs="*", default=["identity"], choices=list(ROWS))
    parser.add_argument("--weights", type=Path, help="of what is learned")
    parser.add_argument("--names", nargs="*", default=[], help="hearts; all that are scored")
    parser.add_argument("--results", type=Path, default=store.RESULTS)
    asked = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    for row in asked.rows:
        images = asked.data
        cases = pairs(images, row) if asked.what == "pairs" else hearts(images, row, asked.weights, asked.names)
        line = {
            "subject": asked.what, "method": row, "settings": ROWS[row], "cases": cases,
            "date": time.strftime("%Y-%m-%d"), "host": store.host(), "load": os.getloadavg()[0],
        }  # fmt: skip
        store.append("three", line, asked.results)
        print(row, {name: {k: round(v, 4) for k, v in c.items()} for name, c in cases.items()}, flush=True)


if __name__ == "__main__":
    main()
