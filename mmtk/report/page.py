"""The page of a run: gathers what the other modules make and fills the template.

All text goes through the template's escaping; the only strings that do not are the pictures, in base64.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmtk.report.curves import HEIGHT, WIDTH, make_curves
from mmtk.report.doubts import doubts
from mmtk.report.draw import Sheet, extent
from mmtk.report.panels import FIXED_LESION, LESION, Bar, Panel, make_panels
from mmtk.report.planes import Plane, tilt
from mmtk.report.tables import flat, number, sections, tiles
from mmtk.report.views import Findings, look
from mmtk.report.words import FILES, STAGES

__all__ = ["make_page"]

#: The longest edge of a picture in pixels: about what a card shows, and as much again for sharp screens.
LONGEST = 380

#: Settings that name the inputs and are told elsewhere.
INPUTS = ("moving", "fixed", "mask", "fixed_mask", "labels", "fixed_labels")


@dataclass(frozen=True)
class Shot:
    """A picture on the page.

    Attributes:
        data: The PNG in base64.
        alt: What it shows, for who cannot see it.
        share: Its part of the card's width, so that all planes of a card have one scale.
        width, height: Pixels, so that the page does not jump while it loads.
        letters: What lies at its left, top, right and bottom.
        under: Index of the plane, for the picture that takes its place while it is pointed at.
    """

    data: str
    alt: str
    share: float
    width: int
    height: int
    letters: tuple[str, ...]
    under: int


@dataclass(frozen=True)
class Card:
    """A panel on the page."""

    name: str
    title: str
    caption: str
    bar: Bar | None
    blink: bool
    shots: list[Shot]


def make_page(result: Findings, record: Mapping[str, Any]) -> str:
    """Return the page as HTML; see :func:`mmtk.report.write_report`."""
    from jinja2 import Environment, FileSystemLoader

    views = look(result)
    templates = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=templates, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = number
    return environment.get_template("page.html").render(
        title=f"{_name(record, 'moving')} → {_name(record, 'fixed')}",
        moving=_name(record, "moving"),
        fixed=_name(record, "fixed"),
        method=_method(record),
        record=record,
        doubts=doubts(result),
        tiles=tiles(result.metrics, record),
        cards=_cards(make_panels(views)),
        planes=[_where(view.plane) for view in views],
        dim=result.prepared.fixed.dim,
        located=bool(views[0].plane.letters),
        tilt=tilt(result.prepared.fixed),
        through="lesion" if _has_lesion(result) else "volume",
        legend={"lesion": LESION, "fixed_lesion": FIXED_LESION},
        has_lesion=views[0].lesion is not None,
        has_fixed_lesion=views[0].fixed_lesion is not None,
        curves=make_curves(record.get("levels", ())),
        curve_size=(WIDTH, HEIGHT),
        sections=sections(result.metrics),
        command=record.get("command") or _call(record),
        language="sh" if record.get("command") else "python",
        inputs=record.get("inputs", {}),
        stages=[(k, STAGES.get(k, ""), v) for k, v in record.get("seconds", {}).items()],
        versions=record.get("versions", {}),
        affine=_matrix(record),
        settings=[(k, _short(v)) for k, v in flat(record.get("settings", {})) if k not in INPUTS],
        files=_files(record, result.prepared.fixed.dim),
        absent=record.get("absent", {}),
    )


def _cards(panels: Sequence[Panel]) -> list[Card]:
    sizes = [extent(picture) for picture in panels[0].pictures]
    scale = LONGEST / max(max(size) for size in sizes)
    whole = sum(width for width, _ in sizes)
    sheets = [Sheet(picture, scale) for picture in panels[0].pictures]

    def shot(panel: Panel, index: int) -> Shot:
        plane, (width, height) = panel.pictures[index].view.plane, sheets[index].size
        return Shot(
            data=base64.b64encode(sheets[index].png(panel.pictures[index])).decode("ascii"),
            alt=f"{panel.title}, {plane.name}",
            share=round(sizes[index][0] / whole, 4),
            width=width,
            height=height,
            letters=plane.letters,
            under=index,
        )

    return [
        Card(p.name, p.title, p.caption, p.bar, p.blink, [shot(p, i) for i in range(len(sheets))]) for p in panels
    ]


def _where(plane: Plane) -> str:
    if plane.across is None:
        return plane.name
    return f"{plane.name} {'ijk'[plane.across[0]]} = {plane.across[1]}"


def _has_lesion(result: Findings) -> bool:
    mask = result.images.mask
    return mask is not None and bool((mask > 0).any())


def _name(record: Mapping[str, Any], role: str) -> str:
    path = record.get("inputs", {}).get(role, {}).get("path")
    return Path(path).name if path else f"{role} image"


def _method(record: Mapping[str, Any]) -> str:
    method = record.get("settings", {}).get("method", "")
    return str(method.get("kind", "") if isinstance(method, Mapping) else method)


def _call(record: Mapping[str, Any]) -> str:
    """Return the Python call that repeats a run which no command line started."""
    paths = {k: v.get("path") for k, v in record.get("inputs", {}).items()}
    given = [f"{k}={path!r}" if path else f"{k}={k}" for k, path in paths.items()]
    settings = record.get("settings", {})
    known = ("method", "init", "normalize", "spacing")
    given += [f"{k}={settings[k]!r}" for k in known if settings.get(k) is not None]
    if "seed" in record:
        given.append(f"seed={record['seed']!r}")
    lines = "".join(f"    {part},\n" for part in given)
    return f"import mmtk\n\nmmtk.register(\n{lines})"


def _matrix(record: Mapping[str, Any]) -> dict[str, Any]:
    affine = dict(record.get("affine", {}))
    matrix = affine.get("matrix_ras_fixed_to_moving")
    if matrix is not None:
        rows = np.asarray(matrix, dtype=float)
        affine["matrix"] = "\n".join(" ".join(f"{value:10.4f}" for value in row) for row in rows)
    return affine


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _files(record: Mapping[str, Any], dim: int) -> list[tuple[str, str, str]]:
    """Return name, meaning and way to open of each file of the folder."""
    rows = []
    for name in record.get("files", ()):
        meaning, way = FILES.get(name, ("", ""))
        rows.append((name, meaning, way.format(dim=dim)))
    return rows
