"""The page of a frequency atlas: its maps in the viewer of a run's page, regions as a table, what to be careful of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmtk.atlas.pictures import HEAT, OUTLINE, SIGNED, Map, card, describe
from mmtk.report.page import niivue, template
from mmtk.report.planes import planes_through
from mmtk.report.scene import make_map_scene

if TYPE_CHECKING:
    from mmtk.atlas.groups import ByColumn, Found

__all__ = ["make_page"]

#: What is called significant.
ALPHA = 0.05


def make_page(found: Found) -> str:
    """Return the page as HTML."""
    shown = list(_maps(found))
    center = np.unravel_index(int(np.argmax(found.probability)), found.template.shape)
    planes = planes_through(found.template, [int(index) for index in center])
    outlines = {
        f"significant_{n}": _significant(by) for n, by in enumerate(found.columns) if len(by.test.p_family)
    }
    volumes = {one.name: (one.data, one.least, one.most) for one in shown}
    volumes |= {name: (data, 0.0, 1.0) for name, data in outlines.items()}
    scene = make_map_scene(found.template, volumes, [int(index) for index in center])
    cards = [
        card(found.template.data, None, planes),
        *(card(found.template.data, one, planes, outlines.get(one.outline)) for one in shown),
    ]
    return template("atlas.html", Path(__file__).parent).render(
        title=f"Lesions of {found.cases} cases",
        cases=found.cases,
        template=found.template.path,
        settings=found.config,
        cards=cards,
        scene=describe(shown, scene, "probability"),
        stores=[] if scene is None else list(scene.stores.values()),
        stage_ratio=1.0 if scene is None else scene.ratio,
        niivue="" if scene is None else niivue(),
        no_grid=True,
        located=found.template.storage.located,
        dim=found.template.dim,
        greatest=float(found.probability.max()),
        ever=int((found.sums.counts[0] > 0).sum()),
        left_out=found.left_out,
        columns=[_told(by) for by in found.columns],
        tests=[by.column.name for by in found.columns],
        regions=[_row(found, number) for number in range(len(found.regions))],
        outline=OUTLINE,
    )


def _maps(found: Found) -> Iterator[Map]:
    cases, confidence = found.cases, f"{100 * found.config.confidence:g} %"
    most = float(found.probability.max()) or 1.0

    def heat(name: str, title: str, caption: str, data: np.ndarray) -> Map:
        return Map(name, title, caption, np.asarray(data, dtype=np.float32), 0.0, most, HEAT)

    yield heat("probability", "Probability", f"Share of the {cases} cases with a lesion there.", found.probability)
    yield heat("lower", "Lower limit", f"Wilson's limit of {confidence}.", found.lower)
    yield Map("upper", "Upper limit", f"Wilson's limit of {confidence}.", found.upper, 0.0, 1.0, HEAT)
    for number, layer in enumerate(found.sums.layers[1:], 1):
        title = layer.replace("tissue_", "Tissue ")
        yield heat(layer, title, "Share of the cases with this label.", found.sums.counts[number] / cases)
    for number, by in enumerate(found.columns):
        outline = f"significant_{number}"
        shares = [count / size for count, size in zip(by.counts, by.column.sizes, strict=True)]
        edge = max((float(share.max()) for share in shares), default=0.0) or 1.0
        for group, (word, size) in enumerate(zip(by.column.groups, by.column.sizes, strict=True)):
            caption = f"Share of the {size} cases whose {by.column.name} is {word}."
            share = shares[group].astype(np.float32)
            yield Map(
                f"by_{number}_{group}", f"{by.column.name} = {word}", caption, share, 0.0, edge, HEAT, outline
            )
        if by.r is not None:
            edge = float(np.abs(by.r).max()) or 1.0
            caption = f"Correlation of {by.column.name} with a lesion there, over {len(by.column.values)} cases."
            yield Map(f"by_{number}", f"{by.column.name}: r", caption, by.r, -edge, edge, SIGNED, outline)


def _significant(by: ByColumn) -> np.ndarray:
    full = np.zeros(by.tested.shape, dtype=np.float32)
    full[by.tested] = by.test.p_family < ALPHA
    return full


def _told(by: ByColumn) -> dict[str, Any]:
    column, test = by.column, by.test
    what = (
        ", ".join(f"{word}: {size}" for word, size in zip(column.groups, column.sizes, strict=True))
        if column.groups
        else f"{column.values.min():g} to {column.values.max():g}"
    )
    return {
        "name": column.name,
        "what": what,
        "missing": int((~column.known).sum()),
        "tested": len(test.p),
        "family": int((test.p_family < ALPHA).sum()),
        "least_family": None if not len(test.p) else float(test.p_family.min()),
        "false": int((test.p_false < ALPHA).sum()),
    }


def _row(found: Found, number: int) -> dict[str, Any]:
    region = found.regions[number]
    p = []
    for by in found.columns:
        there = by.regions is not None and region.number in by.region_numbers
        p.append(
            float(by.regions.p_false[by.region_numbers.index(region.number)]) if there and by.regions else None
        )
    return {"region": region, "share": region.touched / max(found.cases, 1), "p": p}
