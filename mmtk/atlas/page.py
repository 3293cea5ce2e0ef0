"""The page of an atlas: its maps in the viewer of a run's page, the regions as a table, and what to be careful of."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmtk.report.layers import GRAY, MAP_OPACITY
from mmtk.report.page import niivue, template
from mmtk.report.planes import Plane, planes_through
from mmtk.report.scene import Scene, make_map_scene

if TYPE_CHECKING:
    from mmtk.atlas.build import ByColumn, Found

__all__ = ["make_page"]

#: From transparent at 0 through magma, and from blue through transparent to red.
HEAT = ("#3b0f7000", "#8c2981ff", "#de4968ff", "#fe9f6dff", "#fcfdbfff")
SIGNED = ("#2166acff", "#67a9cfff", "#f7f7f700", "#ef8a62ff", "#b2182bff")

#: The longest edge of a picture, pixels.
LONGEST = 380

#: What is called significant, and the color of its outline.
ALPHA, OUTLINE = 0.05, "#5ad1a0"


@dataclass(frozen=True)
class Map:
    """A map to be shown: of what, between which values, in which colors."""

    name: str
    title: str
    caption: str
    data: np.ndarray
    least: float
    most: float
    colors: Sequence[str]
    outline: str = ""


@dataclass(frozen=True)
class _Shot:
    data: str
    share: float
    width: int
    height: int
    letters: tuple[str, ...]


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
    cards = [_card(found, None, planes), *(_card(found, one, planes, outlines.get(one.outline)) for one in shown)]
    return template("atlas.html", Path(__file__).parent).render(
        title=f"Lesions of {found.cases} cases",
        cases=found.cases,
        template=found.template.path,
        settings=found.config,
        cards=cards,
        scene=_describe(shown, scene),
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


def _describe(shown: Sequence[Map], scene: Scene | None) -> dict[str, Any]:
    """Return what the viewer's script reads, as :func:`mmtk.report.layers.describe` does for a run."""
    stores = {} if scene is None else scene.stores
    gray = (0.0, 1.0)
    if scene is not None:
        scan = stores["deformed"]
        gray = (scan.lowest, scan.lowest + 255 * scan.step)
    common: dict[str, Any] = {
        "still": True,
        "scan": "deformed" if stores else None,
        "window": gray,
        "outlines": [],
    }
    layers: list[dict[str, Any]] = [
        {**common, "name": "template", "title": "Template", "map": None, "colors": "gray", "opacity": 1.0,
         "scale": gray, "bar": GRAY, "ends": ("", "")}
    ]  # fmt: skip
    for one in shown:
        layers.append({
            **common, "name": one.name, "title": one.title, "map": one.name if stores else None,
            "colors": "heat" if one.colors is HEAT else "signed", "opacity": MAP_OPACITY + 0.2,
            "scale": (one.least, one.most), "bar": one.colors, "ends": (f"{one.least:.2g}", f"{one.most:.2g}"),
            "outlines": [{"store": one.outline, "color": OUTLINE}] if one.outline in stores else [],
        })  # fmt: skip
    volumes: dict[str, Any] = {}
    if scene is not None:
        volumes = {
            "spacing": scene.spacing,
            "center": scene.start,
            "affine": scene.affine.tolist(),
            "located": scene.located,
            "fieldSpacing": scene.field_spacing,
        }
    return {
        "layers": layers,
        "lower": "template",
        "upper": "probability",
        "stores": [
            {"name": s.name, "onto": s.onto, "lowest": s.lowest, "step": s.step, "shape": s.shape}
            for s in stores.values()
        ],
        "values": [{"store": one.name, "title": one.title} for one in shown if one.name in stores],
        "colors": {"gray": GRAY, "heat": HEAT, "signed": SIGNED},
        "gridStep": 1.0,
        **volumes,
    }


def _card(
    found: Found, one: Map | None, planes: Sequence[Plane], marked: np.ndarray | None = None
) -> dict[str, Any]:
    """Return a card of the page: the template's planes, and the map over them."""
    low, high = np.percentile(found.template.data, (0.5, 99.5))
    sizes = []
    for plane in planes:
        rows, columns = plane.take(found.template.data).shape
        sizes.append((rows * plane.spacing[0], columns * plane.spacing[1]))
    scale = LONGEST / max(max(size) for size in sizes)
    shots = []
    for plane, (high_mm, wide_mm) in zip(planes, sizes, strict=True):
        gray = np.clip((plane.take(found.template.data) - low) / ((high - low) or 1.0), 0, 1)
        picture = np.repeat(gray[..., None], 3, axis=-1)
        if one is not None:
            picture = _over(picture, plane.take(one.data), one)
        pixels = (max(2, round(wide_mm * scale)), max(2, round(high_mm * scale)))
        outline = None if marked is None else plane.take(marked)
        share = wide_mm / sum(size[1] for size in sizes)
        shots.append(_Shot(_png(picture, pixels, outline), round(share, 4), *pixels, plane.letters))
    if one is None:
        return {"name": "template", "title": "Template", "caption": "", "bar": None, "shots": shots}
    bar = {"least": f"{one.least:.2g}", "most": f"{one.most:.2g}", "colors": one.colors}
    return {"name": one.name, "title": one.title, "caption": one.caption, "bar": bar, "shots": shots}


def _over(picture: np.ndarray, values: np.ndarray, one: Map) -> np.ndarray:
    """Lay a map over a picture, ``(rows, columns, 3)`` in [0, 1]."""
    stops = np.array([[int(color[n : n + 2], 16) / 255 for n in (1, 3, 5, 7)] for color in one.colors])
    place = np.clip((values - one.least) / ((one.most - one.least) or 1.0), 0, 1)
    at = np.linspace(0, 1, len(stops))
    colors = np.stack([np.interp(place, at, stops[:, channel]) for channel in range(4)], axis=-1)
    alpha = colors[..., 3:] * (MAP_OPACITY + 0.2)
    return np.asarray((1 - alpha) * picture + alpha * colors[..., :3])


def _png(picture: np.ndarray, pixels: tuple[int, int], outline: np.ndarray | None) -> str:
    from PIL import Image

    image = Image.fromarray(np.rint(255 * picture).astype(np.uint8)).resize(pixels, Image.Resampling.NEAREST)
    if outline is not None and outline.any():
        area = Image.fromarray((255 * (outline > 0)).astype(np.uint8)).resize(pixels, Image.Resampling.NEAREST)
        inside = np.asarray(area) > 0
        edge = inside & ~_shrunk(inside)
        colored = np.array(image)
        colored[edge] = [int(OUTLINE[n : n + 2], 16) for n in (1, 3, 5)]
        image = Image.fromarray(colored)
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")


def _shrunk(inside: np.ndarray) -> np.ndarray:
    from scipy.ndimage import binary_erosion

    return np.asarray(binary_erosion(inside, iterations=2))


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
