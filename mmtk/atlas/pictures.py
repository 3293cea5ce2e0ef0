"""Images of a template and maps over them, for the pages of atlases: planes as pictures, volumes for the viewer."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmtk.report.layers import GRAY, MAP_OPACITY
from mmtk.report.planes import Plane
from mmtk.report.scene import Scene

__all__ = ["HEAT", "OUTLINE", "SIGNED", "Map", "Shot", "card", "describe"]

#: From transparent at 0 through magma, and from blue through transparent to red.
HEAT = ("#3b0f7000", "#8c2981ff", "#de4968ff", "#fe9f6dff", "#fcfdbfff")
SIGNED = ("#2166acff", "#67a9cfff", "#f7f7f700", "#ef8a62ff", "#b2182bff")

#: The longest edge of a picture, pixels.
LONGEST = 380

#: Color of an outline.
OUTLINE = "#5ad1a0"


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
class Shot:
    data: str
    share: float
    width: int
    height: int
    letters: tuple[str, ...]
    alt: str


def describe(shown: Sequence[Map], scene: Scene | None, upper: str) -> dict[str, Any]:
    """Return what the viewer's script reads, as :func:`mmtk.report.layers.describe` does for a run.

    Args:
        upper: Name of the map that lies over the template at first.
    """
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
            "colors": "gray" if one.colors is GRAY else "heat" if one.colors is HEAT else "signed",
            "opacity": 1.0 if one.colors is GRAY else MAP_OPACITY + 0.2,
            "scale": (one.least, one.most), "bar": one.colors, "ends": (f"{one.least:.2g}", f"{one.most:.2g}"),
            "outlines": [{"store": one.outline, "color": OUTLINE}] if one.outline in stores else [],
        })  # fmt: skip
    return {
        "layers": layers,
        "lower": "template",
        "upper": upper,
        "values": [{"store": one.name, "title": one.title} for one in shown if one.name in stores],
        "colors": {"gray": GRAY, "heat": HEAT, "signed": SIGNED},
        "gridStep": 1.0,
        **({"stores": []} if scene is None else scene.described()),
    }


def card(
    under: np.ndarray,
    one: Map | None,
    planes: Sequence[Plane],
    marked: np.ndarray | None = None,
    like: np.ndarray | None = None,
    **said: str,
) -> dict[str, Any]:
    """Return a card of the page: planes of an image, and a map over them.

    Args:
        under: The image, ``(*space)``.
        one: The map; None: the image alone.
        marked: What is outlined, ``(*space)``.
        like: The image whose range is black to white; None: the image itself.
        said: Name, title and caption of an image alone.
    """
    low, high = np.percentile(under if like is None else like, (0.5, 99.5))
    sizes = []
    for plane in planes:
        rows, columns = plane.take(under).shape
        sizes.append((rows * plane.spacing[0], columns * plane.spacing[1]))
    scale = LONGEST / max(max(size) for size in sizes)
    shots = []
    title = said.get("title", "Template") if one is None else one.title
    for plane, (high_mm, wide_mm) in zip(planes, sizes, strict=True):
        gray = np.clip((plane.take(under) - low) / ((high - low) or 1.0), 0, 1)
        picture = np.repeat(gray[..., None], 3, axis=-1)
        if one is not None:
            picture = _over(picture, plane.take(one.data), one)
        pixels = (max(2, round(wide_mm * scale)), max(2, round(high_mm * scale)))
        outline = None if marked is None else plane.take(marked)
        share = wide_mm / sum(size[1] for size in sizes)
        shots.append(Shot(_png(picture, pixels, outline), round(share, 4), *pixels, plane.letters, title))
    if one is None:
        told = {"name": "template", "title": "Template", "caption": "", **said}
        return {**told, "bar": None, "shots": shots, "lettered": True}
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
