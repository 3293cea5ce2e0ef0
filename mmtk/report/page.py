"""The page of a run: gathers what the other modules make and fills the template.

All text goes through the template's escaping; what does not are our own style and scripts, and pictures, volumes and
the viewer's library in base64.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmtk.report.curves import HEIGHT, WIDTH, make_curves
from mmtk.report.doubts import doubts
from mmtk.report.draw import Sheet, extent
from mmtk.report.findings import Findings, Live, findings_of
from mmtk.report.layers import describe
from mmtk.report.panels import FIXED_LESION, LESION, Bar, Panel, make_panels
from mmtk.report.planes import Plane, tilt
from mmtk.report.scene import MOST_BYTES, make_scene
from mmtk.report.tables import flat, number, sections, tiles
from mmtk.report.views import lesion_center, look
from mmtk.report.words import FILES, STAGES

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = ["input_name", "make_page", "niivue", "template"]

#: The longest edge of a picture in pixels: about what a card shows, and as much again for sharp screens.
LONGEST = 380

#: Most bytes of a page, and what of them is kept for the viewer's library, the text and the fixed image's second copy.
LARGEST, LIBRARY = 15_000_000, 2_500_000

#: The longest edge of the small picture for an index.
THUMB = 140

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


def make_page(result: Live | Findings, record: Mapping[str, Any]) -> str:
    """Return the page as HTML; see :func:`mmtk.report.write_report`."""
    found = findings_of(result)
    views = look(found)
    panels = make_panels(views)
    cards, asked = _cards(panels), doubts(found)
    pictures = sum(len(shot.data) for card in cards for shot in card.shots)
    room = min(MOST_BYTES, (LARGEST - LIBRARY - pictures) * 3 // 4)  # base64 makes four bytes of three
    scene = make_scene(found, lesion_center(found), room)
    # How long the page itself takes is known only after it is made.
    seconds = {stage: s for stage, s in record.get("seconds", {}).items() if stage != "report"}
    return template("page.html").render(
        title=f"{input_name(record, 'moving')} → {input_name(record, 'fixed')}",
        moving=input_name(record, "moving"),
        fixed=input_name(record, "fixed"),
        method=_method(record),
        record=record,
        doubts=asked,
        summary={"doubts": [asdict(doubt) for doubt in asked], "thumb": _thumb(cards)},
        tiles=tiles(found.metrics, {**record, "seconds": seconds}),
        scene=describe(found, panels, scene),
        stores=[] if scene is None else list(scene.stores.values()),
        stage_ratio=1.0 if scene is None else scene.ratio,
        niivue="" if scene is None else niivue(),
        cards=cards,
        planes=[_where(view.plane) for view in views],
        dim=found.space.dim,
        located=bool(views[0].plane.letters),
        tilt=tilt(found.space),
        through="lesion" if found.lesion is not None and bool((found.lesion > 0).any()) else "volume",
        legend={"lesion": LESION, "fixed_lesion": FIXED_LESION},
        has_lesion=views[0].lesion is not None,
        has_fixed_lesion=views[0].fixed_lesion is not None,
        curves=make_curves(record.get("levels", ())),
        curve_size=(WIDTH, HEIGHT),
        sections=sections(found.metrics),
        command=record.get("command") or _call(record),
        language="sh" if record.get("command") else "python",
        inputs=record.get("inputs", {}),
        stages=[(k, STAGES.get(k, ""), v) for k, v in seconds.items()],
        versions=record.get("versions", {}),
        affine=_matrix(record),
        settings=[(k, _short(v)) for k, v in flat(record.get("settings", {})) if k not in INPUTS],
        files=_files(record, found.space.dim),
        absent=record.get("absent", {}),
    )


def template(name: str, beside: Path | None = None) -> Template:
    """Return a template of this folder, or of one ``beside`` it; whatever it is filled with is escaped."""
    from jinja2 import Environment, FileSystemLoader

    here = Path(__file__).parent
    folder = FileSystemLoader([here] if beside is None else [beside, here])
    environment = Environment(loader=folder, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = number
    return environment.get_template(name)


def niivue() -> str:
    """Return the viewer's library, gzipped, in base64."""
    code = (Path(__file__).parent / "niivue" / "niivue.umd.js").read_bytes()
    return base64.b64encode(gzip.compress(code, 6, mtime=0)).decode("ascii")


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


def _thumb(cards: Sequence[Card]) -> str:
    """Return the first picture of the warped image, small, as PNG in base64."""
    from PIL import Image

    (shot,) = [card.shots[0] for card in cards if card.name == "warped"]
    picture = Image.open(io.BytesIO(base64.b64decode(shot.data)))
    picture.thumbnail((THUMB, THUMB))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")


def _where(plane: Plane) -> str:
    if plane.across is None:
        return plane.name
    return f"{plane.name} {'ijk'[plane.across[0]]} = {plane.across[1]}"


def input_name(record: Mapping[str, Any], role: str) -> str:
    """Return the file name of an input of a run."""
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
