"""The panels of the page: what is shown of each view, in which colors and on which scale.

Maps of signed numbers have a color scale symmetric about 0 that is black there, so that they read on the same dark
ground as the scans: blue below 0, orange above. All planes of a panel share one scale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from mmtk.report.views import View

__all__ = ["Bar", "Outline", "Panel", "Picture", "make_panels", "spread", "window_of"]

Signed = Callable[[View], np.ndarray]

LESION, FIXED_LESION, FOLD, LINES = "#ffd23f", "#4fe0ff", "#ff2bd6", "#8fd3ff"

#: Colors of signed maps from least to most, and of lengths from 0; evenly spaced.
SIGNED = ("#d8efff", "#57aef2", "#1b5aa0", "#0a1f3a", "#000000", "#3d1a06", "#a8501a", "#f39a4a", "#ffeedb")
LENGTHS = ("#000000", "#1d1147", "#51127c", "#b73779", "#fc8961", "#fcfdbf")

#: Distances between the lines of the deformed grid, mm, and about how many lines there are along the longer side.
STEPS, LINES_ACROSS = (1, 2, 5, 10, 20, 50, 100, 200, 500), 24

#: A signed map never shows less than this full scale, so that noise is not blown up.
LEAST_DIFFERENCE, LEAST_GROWTH, MOST_GROWTH, LEAST_LENGTH = 0.1, 0.5, 3.0, 0.5

#: How bright the anatomy is under a map that leaves most of it black.
DIM = 0.35


@dataclass(frozen=True, eq=False)
class Outline:
    """The edge of a mask, drawn where the mask is 1/2."""

    mask: np.ndarray
    color: str
    style: str = "solid"


@dataclass(frozen=True, eq=False)
class Picture:
    """One plane, ready to be drawn.

    Attributes:
        view: The view it shows.
        colors: ``(rows, columns, 3)`` in [0, 1].
        outlines: Edges of masks.
        marks: Voxels to mark, ``(rows, columns)`` of booleans.
        lines: Distance in mm between the lines of the deformed grid; 0 for none.
    """

    view: View
    colors: np.ndarray
    outlines: tuple[Outline, ...] = ()
    marks: np.ndarray | None = None
    lines: float = 0.0


@dataclass(frozen=True)
class Bar:
    """A color scale: its ends, in words, and its colors from least to most."""

    least: str
    most: str
    colors: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Panel:
    """One quantity in every plane.

    Attributes:
        name: Short, for links and tests.
        title: What a reader sees.
        caption: What it shows, in a sentence or two.
        pictures: One a view.
        bar: The color scale; None for gray images.
        scale: The values of the two ends of its colors, gray ones too; None where colors mean no number.
        blink: Whether pointing at the picture shows the fixed image instead.
    """

    name: str
    title: str
    caption: str
    pictures: list[Picture]
    bar: Bar | None = None
    blink: bool = field(default=False)
    scale: tuple[float, float] | None = None


def make_panels(views: Sequence[View]) -> list[Panel]:
    """Return the panels of the page in their order; without appearance there are two fewer."""
    source = window_of([p for v in views for p in (v.moving, v.warped) if p is not None])
    panels = []
    if views[0].fixed is not None:
        window = window_of([_there(v.fixed) for v in views])
        panels.append(
            _scan("fixed", "Fixed", "The image that stays.", views, lambda v: _there(v.fixed), window),
        )
    if views[0].moving is not None:
        caption = "The image that is carried, placed by the affine alone."
        panels.append(_scan("moving", "Moving", caption, views, lambda v: _there(v.moving), source))
    title = "Warped" if _appears(views) else "Warped, shape only"
    caption = "Carried onto the fixed image" + (", shape and appearance." if _appears(views) else ".")
    panels.append(_scan("warped", title, caption, views, lambda v: v.warped, source))
    if _appears(views):
        caption = "Deformed; every intensity is its own."
        panels.append(_scan("deformed", "Shape only", caption, views, lambda v: v.deformed, source))
    if views[0].doubt is not None and views[0].moving is not None:
        panels.append(_doubts(views, source))
    return panels + _differences(views) + _maps(views, source)


def _doubts(views: Sequence[View], source: tuple[float, float]) -> Panel:
    """The mask that a segmenter found, on the moving image, and where it is in doubt."""
    pictures = []
    for v in views:
        doubt = np.clip(_there(v.doubt), 0, 1)
        shown = _colored(doubt, LENGTHS)
        colors = np.clip((1 - doubt[..., None]) * _gray(_there(v.moving), source) + doubt[..., None] * shown, 0, 1)
        pictures.append(Picture(v, colors, _outlines(v, before=True)))
    caption = "What the segmenter found on the moving image, and where it is in doubt; nobody has drawn this mask."
    return Panel("mask", "Mask, as found", caption, pictures, Bar("sure", "in doubt", LENGTHS), scale=(0.0, 1.0))


def _there(picture: np.ndarray | None) -> np.ndarray:
    assert picture is not None
    return picture


def _appears(views: Sequence[View]) -> bool:
    return views[0].appearance is not None


def _scan(
    name: str,
    title: str,
    caption: str,
    views: Sequence[View],
    of: Signed,
    window: tuple[float, float],
) -> Panel:
    pictures = [
        Picture(v, _gray(of(v), window), _outlines(v, before=name == "moving", fixed=name == "fixed"))
        for v in views
    ]
    blink = name != "fixed" and views[0].fixed is not None
    return Panel(name, title, caption, pictures, blink=blink, scale=window)


def _differences(views: Sequence[View]) -> list[Panel]:
    if views[0].before is None:
        return []
    most = max(LEAST_DIFFERENCE, spread([_there(p) for v in views for p in (v.before, v.after)]))
    unit = "in normalized intensity; both panels share the scale"
    return [
        _signed("before", "Fixed − moving", f"Before, {unit}.", views, lambda v: _there(v.before), most),
        _signed("after", "Fixed − warped", f"After, {unit}.", views, lambda v: _there(v.after), most),
    ]


def _maps(views: Sequence[View], source: tuple[float, float]) -> list[Panel]:
    panels = []
    if _appears(views):
        most = spread([_there(v.appearance) for v in views]) or 1.0
        panels.append(
            _signed(
                "appearance",
                "Appearance",
                "Intensity added to the deformed image, in the moving image's unit.",
                views,
                lambda v: _there(v.appearance),
                most,
                under=source,
            )
        )
    growth = min(max(LEAST_GROWTH, spread([v.growth for v in views])), MOST_GROWTH)
    panels.append(
        _signed(
            "jacobian",
            "log2 Jacobian of the deformation",
            "Orange: tissue shrunk to fit; blue: stretched. 1 is a factor of two.",
            views,
            lambda v: v.growth,
            growth,
            marked=True,
        )
    )
    return [*panels, _grid(views, source), _lengths(views)]


def _signed(
    name: str,
    title: str,
    caption: str,
    views: Sequence[View],
    of: Signed,
    most: float,
    *,
    under: tuple[float, float] | None = None,
    marked: bool = False,
) -> Panel:
    pictures = []
    for v in views:
        colors = _colored(of(v) / most / 2 + 0.5, SIGNED)
        if under is not None:
            colors = np.clip(colors + DIM * _gray(v.deformed, under), 0, 1)
        pictures.append(Picture(v, colors, _outlines(v, before=name == "before"), v.folds if marked else None))
    return Panel(name, title, caption, pictures, Bar(f"−{most:.3g}", f"+{most:.3g}", SIGNED), scale=(-most, most))


def _grid(views: Sequence[View], source: tuple[float, float]) -> Panel:
    extent = max(n * h for v in views for n, h in zip(v.warped.shape, v.plane.spacing, strict=True))
    step = min((s for s in STEPS if extent / s <= LINES_ACROSS), default=STEPS[-1])
    pictures = [
        Picture(v, DIM * _gray(v.deformed, source), _outlines(v), v.folds, lines=float(step)) for v in views
    ]
    caption = f"A square grid drawn on the moving image, a line every {step} mm, carried along."
    return Panel("grid", "Deformed grid", caption, pictures)


def _lengths(views: Sequence[View]) -> Panel:
    most = max(LEAST_LENGTH, max(float(v.length.max()) for v in views))
    pictures = [Picture(v, _colored(v.length / most, LENGTHS), _outlines(v)) for v in views]
    caption = "How far the deformation reaches for each voxel, mm; affine left out."
    return Panel("displacement", "Displacement", caption, pictures, Bar("0", f"{most:.3g} mm", LENGTHS))


def _outlines(view: View, *, before: bool = False, fixed: bool = False) -> tuple[Outline, ...]:
    """Return the lesion's edge where it lies in this panel, and on the fixed image the edge of its own mask."""
    lesion = view.lesion_before if before else view.lesion
    outlines = [] if lesion is None else [Outline(lesion, LESION, "dashed" if fixed else "solid")]
    if view.fixed_lesion is not None:
        outlines.append(Outline(view.fixed_lesion, FIXED_LESION, "solid" if fixed else "dashed"))
    return tuple(outlines)


def window_of(pictures: Sequence[np.ndarray]) -> tuple[float, float]:
    """Return the intensities shown black and white: a dark background is black, the brightest content white."""
    content = np.concatenate([p[p != p[0, 0]] for p in pictures])
    background = min(float(p[0, 0]) for p in pictures)
    if not len(content):
        return background, background + 1
    low, high = (float(end) for end in np.percentile(content, (0.5, 99.7)))
    if background < float(np.median(content)):
        low = background
    return low, high if high > low else low + 1


def spread(pictures: Sequence[np.ndarray]) -> float:
    """Return the full scale of a signed map: what all but the strongest of its non-zero values reach."""
    sizes = np.abs(np.concatenate([p.ravel() for p in pictures]))
    sizes = sizes[sizes > 0]
    return float(np.percentile(sizes, 99.5)) if len(sizes) else 0.0


def _gray(picture: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    low, high = window
    level = np.clip((picture - low) / (high - low), 0, 1)
    return np.repeat(level[..., None], 3, axis=-1)


def _colored(share: np.ndarray, stops: Sequence[str]) -> np.ndarray:
    """Return the colors of numbers in [0, 1], linear between evenly spaced stops."""
    table = np.array([[int(stop[i : i + 2], 16) / 255 for i in (1, 3, 5)] for stop in stops])
    at = np.linspace(0, 1, len(stops))
    return np.stack([np.interp(share, at, table[:, channel]) for channel in range(3)], axis=-1)
