"""How the weights that come with mmtk serve, on pairs that nobody trained on and on a real slice.

    python -m benchmarks.shipped [--bundles metamorph_r ...] [--real FOLDER]

``slices``: 2-D patients with a lesion onto the MNI152 slice, 2 mm (``mmtk sample brains dim=2``). ``letters``: the test
pairs of :mod:`benchmarks.letters`, with the weights' variant of that name. ``real``: a slice of a patient with a glioma
and its mask onto the same template, affinely placed as a run does it; nothing is known of its truth.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import letters, store
from mmtk.fields import folds, warp
from mmtk.method import Method, Pair
from mmtk.training.data import SyntheticPairs

__all__ = ["BUNDLES", "render"]

BUNDLES = ("metamorph_r", "metamorph_g", "voxelmorph", "voxelmorph_cfm", "metamorphic_autoencoder")
#: Whose one set of weights is for letters. It lets intensities change anywhere, and so is given no mask.
ENCODER = "metamorphic_autoencoder"
ENGINES = ("network", "refine")
NAMES = {
    "start": "before", "split": "split metamorphosis, optimized (`metamorph_brats`)", "metamorph_r": "MetaMorph-R",
    "metamorph_g": "MetaMorph-G", "voxelmorph": "VoxelMorph", "voxelmorph_cfm": "VoxelMorph, cost masked",
    "metamorphic_autoencoder": "metamorphic auto-encoder, no mask",
}  # fmt: skip

#: Of the test slices; the seed is none that weights were trained or chosen with.
SLICES: dict[str, Any] = {
    "dim": 2,
    "deformation": [2, 14],
    "radius": [6, 20],
    "lesions": "bright,lookalike,resected",
}
SEED, COUNT = 90, 50
#: Refined pairs: each takes some seconds.
REFINED = 15


def method_of(name: str, engine: str, variant: str = "") -> Method:
    """Return a bundle's method with its weights; ``split`` is the flagship's own, on 2 mm."""
    from mmtk.config import ComponentConfig
    from mmtk.plugins import installed

    catalogue = installed()
    config: Any
    if name == "split":
        config = catalogue.find("method", "metamorphosis")
        return config(levels=(8.0, 4.0, 2.0), iterations=(12, 12, 16)).build()  # type: ignore[no-any-return]
    kind = name.removesuffix("_cfm")
    config = catalogue.find("method", kind)
    built: ComponentConfig = config(weights=f"{name}:{variant}" if variant else name, engine=engine)
    return built.build()  # type: ignore[no-any-return]


def scores(
    item: dict[str, torch.Tensor], pair: Pair, method: Method | None, *, blind: bool = False
) -> dict[str, float]:
    """Register a pair and score it: integrals in mm, errors in mm outside the lesion; blind: without its mask."""
    grid = pair.grid
    begin = time.process_time()
    if method is None:
        displacement, appearance = torch.zeros(1, grid.dim, *grid.shape), None
    else:
        found = method.register(replace(pair, mask=None) if blind else pair)
        displacement, appearance = found.displacement, found.appearance
    spent = time.process_time() - begin
    deformed = warp(pair.moving, displacement)
    warped = deformed if appearance is None else deformed + appearance
    lesion, head = item["counterpart"][None] > 0, pair.fixed > 0.05
    assert pair.mask is not None
    seen = ~lesion & ~(warp(pair.mask, displacement) > 0)
    off = (displacement - item["displacement"][None]) * grid.per_axis(displacement)
    error = off.square().sum(1, keepdim=True).sqrt()
    cells = grid.cell_volume
    return {
        "total": float(cells * (warped - pair.fixed).square().sum()),
        "outside": float(cells * (seen * (deformed - pair.fixed).square()).sum()),
        "error": float(error[head & ~lesion].mean()),
        "folds": float(folds(displacement)),
        "cpu_seconds": spent,
    }


def _score(subject: str, name: str, engine: str, asked: argparse.Namespace) -> dict[str, Any]:
    variant, data = "", SyntheticPairs("brains", SLICES, count=COUNT, seed=SEED, truth=True, cache=asked.cache)
    if subject == "letters":
        variant, data = "" if name == ENCODER else "letters", letters.pairs("test", asked.cache)
    method = None if name == "start" else method_of(name, engine, variant)
    every = []
    for index in range(min(asked.pairs, REFINED) if engine == "refine" else asked.pairs):
        item = data[index]
        pair = Pair(
            item["moving"][None], item["fixed"][None], data.grid(), item["mask"][None], affine=data.affine()
        )
        every.append(scores(item, pair, method, blind=name == ENCODER))
    return {
        "scores": {key: statistics.fmean(s[key] for s in every) for key in every[0]},
        "spread": {key: statistics.stdev(s[key] for s in every) for key in every[0]},
        "pairs": len(every),
    }


def _real(name: str, engine: str, folder: Path) -> dict[str, Any]:
    """Run a bundle on the real slice, as a user would."""
    import mmtk
    from mmtk.bundle.recipe import shipped_bundle, template_of

    pair: dict[str, Any] = {
        "moving": folder / "tumour_slice_01_t1.png",
        "mask": folder / "tumour_slice_01_seg.png",
        "fixed": template_of(shipped_bundle("metamorph_r")),
        "normalize": "histogram",
    }
    if name in ("split", "start"):
        result = mmtk.register(**pair, iterations=(12, 12, 16))
    else:
        result = mmtk.register(**pair, method=name.removesuffix("_cfm"), weights=name, engine=engine)
    likeness, shape = result.metrics["similarity"], result.metrics["deformation"]
    if name == "start":
        return {"scores": {"outside": likeness["squared_error_outside_before"], "folds": 0}, "pairs": 1}
    return {"scores": {"outside": likeness["squared_error_outside"], "folds": shape["folds"]}, "pairs": 1}


_TABLE = """\
The weights in the bundles, on {count} pairs of each kind that nobody trained on (2 mm; integrals in mm, mean and
standard deviation), and on one real slice. *Total* is the squared error with appearance, *outside* that of the shape
alone away from the lesion, *error* the distance from the true map outside it. Refined: the first {refined} pairs, 20
evaluations from the network's answer, by its own energy, which is not the error. MetaMorph-R knows this template; the
others were trained on slices at any height, bent on both sides. The letters' weights had 5 minutes of one processor
core (MetaMorph-R: 11), the slices' 8 to 10."""


def render(results: Path = store.RESULTS) -> str:
    """Return the tables for docs/benchmarks.md."""
    found = {(line["subject"], line["method"]): line for line in store.newest("shipped", results)}
    lines = [
        *_TABLE.format(count=COUNT, refined=REFINED).splitlines(),
        "",
        "| weights | engine | slices: total | outside | error, mm | folds | a pair, CPU s | letters: total | error, mm "
        "| folds | real slice: outside | folds |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name in ("start", *BUNDLES, "split"):
        for engine in ENGINES if name in BUNDLES else ("",):
            cells = []
            for subject, keys in (
                ("slices", ("total", "outside", "error", "folds", "cpu_seconds")),
                ("letters", ("total", "error", "folds")),
                ("real", ("outside", "folds")),
            ):
                line = found.get((subject, f"{name} {engine}".strip()))
                for key in keys:
                    if line is None:
                        cells.append("")
                        continue
                    digits = {"error": 2, "cpu_seconds": 2, "folds": 1}.get(key, 1)
                    spread = f" ({line['spread'][key]:.{digits}f})" if key in ("total", "error") else ""
                    cells.append(f"{line['scores'][key]:.{digits}f}{spread}")
            lines.append(f"| {NAMES[name]} | {engine} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shipped", description=__doc__)
    parser.add_argument("--bundles", nargs="*", default=["start", *BUNDLES, "split"])
    parser.add_argument("--subjects", nargs="*", default=["slices", "letters"])
    parser.add_argument("--real", type=Path, help="folder with tumour_slice_01_t1.png and its _seg.png")
    parser.add_argument("--pairs", type=int, default=COUNT)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "mmtk-shipped")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=store.RESULTS)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    for name in asked.bundles:
        for engine in ENGINES if name in BUNDLES else ("",):
            for subject in (*asked.subjects, *(("real",) if asked.real else ())):
                if subject == "letters" and name == "split":
                    continue  # its settings are for brains; benchmarks.letters has a row of its own
                if subject != "letters" and name == ENCODER:
                    continue
                found = (
                    _real(name, engine, asked.real) if subject == "real" else _score(subject, name, engine, asked)
                )
                row = {"method": f"{name} {engine}".strip(), "subject": subject, **found}
                store.append("shipped", row, asked.results)
                print(subject, row["method"], {k: round(v, 2) for k, v in found["scores"].items()}, flush=True)


if __name__ == "__main__":
    main()
