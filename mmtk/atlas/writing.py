"""The files of a frequency atlas: maps, the table of regions, what went into it, and the page."""

from __future__ import annotations

import csv
import io as textio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mmtk.atlas.groups import Found
from mmtk.io import write_image, write_json, write_text

__all__ = ["account", "maps", "placed", "write_atlas"]


def write_atlas(found: Found, out: Path) -> None:
    """Write every file of an atlas."""
    from mmtk.atlas.page import make_page

    for name, data, dtype in maps(found):
        write_image(out / f"{name}.nii.gz", data, found.template, dtype)
    if found.regions:
        write_text(out / "regions.csv", _regions_csv(found))
    write_json(out / "atlas.json", account(found))
    write_text(out / "atlas.html", make_page(found))


def maps(found: Found) -> Iterator[tuple[str, np.ndarray, Any]]:
    """Yield name, voxels and type of every map of an atlas."""
    yield "count", found.sums.counts[0], np.int32
    yield "probability", found.probability, np.float32
    yield "lower", found.lower, np.float32
    yield "upper", found.upper, np.float32
    for number, layer in enumerate(found.sums.layers[1:], 1):
        yield f"{layer}_count", found.sums.counts[number], np.int32
        yield f"{layer}_probability", found.sums.counts[number] / found.cases, np.float32
    for by in found.columns:
        stem = f"by_{_word(by.column.name)}"
        for group, count, size in zip(by.column.groups, by.counts, by.column.sizes, strict=True):
            yield f"{stem}_{_word(group)}_count", count, np.int32
            yield f"{stem}_{_word(group)}_probability", count / size, np.float32
        if by.r is not None:
            yield f"{stem}_r", by.r, np.float32
        for what, values, beyond in (
            ("statistic", by.test.statistic, 0.0),
            ("p", by.test.p, 1.0),
            ("p_family", by.test.p_family, 1.0),
            ("p_false", by.test.p_false, 1.0),
        ):
            yield f"{stem}_{what}", placed(by.tested, values, beyond), np.float32


def placed(tested: np.ndarray, values: np.ndarray, beyond: float) -> np.ndarray:
    """Return the numbers of tested voxels on the grid, ``beyond`` everywhere else."""
    full = np.full(tested.shape, beyond, dtype=np.float32)
    full[tested] = values
    return full


def _word(text: str) -> str:
    return "".join(c if c.isalnum() or c in ".+-" else "-" for c in text)


def account(found: Found) -> dict[str, Any]:
    """Return what ``atlas.json`` holds."""
    return {
        "template": str(found.template.path),
        "cases": list(found.sums.cases),
        "left_out": dict(found.left_out),
        "settings": found.config.model_dump(mode="json"),
        "columns": [
            {
                "column": by.column.name,
                "groups": dict(zip(by.column.groups, by.column.sizes, strict=True)),
                "cases": len(by.column.values),
                "tested_voxels": int(by.tested.sum()),
                "least_p_family": float(by.test.p_family.min()) if len(by.test.p_family) else None,
                "voxels_p_family_below_0.05": int((by.test.p_family < 0.05).sum()),
                "voxels_p_false_below_0.05": int((by.test.p_false < 0.05).sum()),
            }
            for by in found.columns
        ],
    }


def _regions_csv(found: Found) -> str:
    table = textio.StringIO()
    tests = [
        f"{by.column.name}.{what}" for by in found.columns for what in ("statistic", "p", "p_family", "p_false")
    ]
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["region", "volume", "touched", "cases", "probability", "lower", "upper", "mean_lesion", *tests])
    for region in found.regions:
        cells: list[Any] = []
        for by in found.columns:
            test = by.regions
            place = by.region_numbers.index(region.number) if region.number in by.region_numbers else None
            for what in ("statistic", "p", "p_family", "p_false"):
                cells.append("" if place is None or test is None else f"{getattr(test, what)[place]:.6g}")
        share = region.touched / found.cases
        numbers = (share, region.lower, region.upper, region.lesion)
        told = [f"{value:.6g}" for value in numbers]
        rows.writerow([region.number, f"{region.volume:.6g}", region.touched, found.cases, *told, *cells])
    return table.getvalue()
