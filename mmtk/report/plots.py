"""Pictures on axes of one's own, for a notebook or a paper: a plane of an image, the deformed grid, points.

    figure, (left, right) = plt.subplots(1, 2)
    seen = {"like": result.prepared.fixed, "at": result.warped_mask}
    draw_plane(left, result.warped, **seen, outlines=[result.warped_mask], bar=50)
    draw_grid(right, result.displacement, **seen)

Nothing is resampled. A plane is one of the grid's own, shown as :mod:`mmtk.report.planes` turns it: the patient's right
is on the left. Axes are in millimeters from the picture's upper left corner.

    data           (*space)        on the grid of ``like``
    displacement   (dim, *space)   voxels: where each voxel of that grid is sampled
    points         (n, dim)        world (RAS), mm
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from mmtk.errors import ConfigError, GridMismatch
from mmtk.io import Volume
from mmtk.io.space import as_numpy
from mmtk.report.draw import contour
from mmtk.report.panels import FIXED_LESION, LENGTHS, LESION, LINES, SIGNED, spread, window_of
from mmtk.report.planes import Plane, planes_through
from mmtk.report.views import content_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

__all__ = ["draw_grid", "draw_plane", "draw_points"]

Colors: TypeAlias = Literal["gray", "signed", "lengths"]
Outline: TypeAlias = "Any | tuple[Any, str]"

#: What the colors of maps are called, and how they run.
COLORS = {"gray": ("#000000", "#ffffff"), "signed": SIGNED, "lengths": LENGTHS}

#: Outlines take these in turn, unless they bring their own.
OUTLINES = (LESION, FIXED_LESION)


def draw_plane(
    axes: Axes,
    data: Any,
    like: Volume,
    *,
    at: Any = None,
    plane: str = "axial",
    zoom: float | None = None,
    title: str = "",
    colors: Colors = "gray",
    limits: tuple[float, float] | None = None,
    outlines: Sequence[Outline] = (),
    bar: float | None = None,
    letters: bool = False,
) -> AxesImage:
    """Draw one plane of an image or a map, and return what ``figure.colorbar`` asks for.

    Args:
        axes: Matplotlib's.
        data: ``(*space)``: an array, a tensor or a Volume.
        like: Volume on whose grid the data lie; the picture is cut to what it shows.
        at: Voxel that the plane goes through; or a mask ``(*space)``, for the plane that shows most of it. None: the
            middle.
        plane: ``axial``, ``coronal`` or ``sagittal``; of a 2-D image there is one.
        zoom: Side in mm of a square around ``at``; None: all that ``like`` shows.
        title: Above the picture.
        colors: ``gray``; ``signed``, black at 0, blue below and orange above; ``lengths``, from black at 0.
        limits: Values of the two ends of the colors; None: what suits the picture.
        outlines: Masks ``(*space)``, drawn where they are 1/2; ``(mask, color)`` for a color of your own.
        bar: Length in mm of a scale bar; None for none.
        letters: Say what lies on the left and on top, such as R and A.

    Raises:
        ConfigError: There is no such plane, or no such colors.
        GridMismatch: Data or an outline do not lie on the grid of ``like``.
    """
    from matplotlib.colors import LinearSegmentedColormap

    if colors not in COLORS:
        raise ConfigError(f"colors='{colors}': must be one of {', '.join(COLORS)}")
    shown = _plane(like, at, plane, zoom)
    picture = _taken(shown, data, like, "data")
    low, high = limits or _limits(picture, colors)
    width, height = _extent(shown, picture)
    image = axes.imshow(
        picture,
        cmap=LinearSegmentedColormap.from_list(colors, COLORS[colors]),
        vmin=low,
        vmax=high,
        extent=(0, width, height, 0),
        interpolation="bilinear",
    )
    for index, outline in enumerate(outlines):
        mask, color = outline if isinstance(outline, tuple) else (outline, OUTLINES[index % len(OUTLINES)])
        _lines(axes, shown, _taken(shown, mask, like, "outline"), [0.5], color, 1.5)
    _finish(axes, (width, height), title)
    if bar is not None:
        _bar(axes, bar, width, height)
    if letters and shown.letters:
        left, top = shown.letters[:2]
        for text, x, y in ((left, 0.03, 0.5), (top, 0.5, 0.95)):
            axes.text(x, y, text, transform=axes.transAxes, color="#98a2b3", ha="center", va="center", fontsize=9)
    return image


def draw_grid(
    axes: Axes,
    displacement: Any,
    like: Volume,
    *,
    at: Any = None,
    plane: str = "axial",
    zoom: float | None = None,
    step: float = 10.0,
    title: str = "",
    color: str = LINES,
) -> None:
    """Draw a square grid of the moving image as the deformation carries it onto the fixed one.

    Args:
        axes: Matplotlib's; with a picture of :func:`draw_plane` below, or without.
        displacement: ``(dim, *space)`` in voxels, as ``result.displacement``.
        like, at, plane, zoom, title: As for :func:`draw_plane`.
        step: Distance between the lines, mm.
        color: Of the lines.

    Raises:
        ConfigError: There is no such plane.
        GridMismatch: The displacement does not lie on the grid of ``like``.
    """
    shown = _plane(like, at, plane, zoom)
    u = as_numpy(displacement)
    if u.shape != (like.dim, *like.shape):
        raise GridMismatch("displacement", u.shape, like.name, (like.dim, *like.shape))
    for place in shown.places(shown.take(u)):
        levels = step * np.arange(np.floor(place.min() / step), place.max() / step)
        _lines(axes, shown, place, levels, color, 0.8)
    _finish(axes, _extent(shown, place), title)


def draw_points(
    axes: Axes,
    points: Any,
    like: Volume,
    *,
    at: Any = None,
    plane: str = "axial",
    zoom: float | None = None,
    to: Any = None,
    color: str = FIXED_LESION,
    marker: str = "o",
    label: str = "",
) -> None:
    """Draw points, seen along the plane's normal; those that are far from the plane are yours to leave out.

    Args:
        axes: Matplotlib's, with a picture of :func:`draw_plane`.
        points: ``(n, dim)``, world (RAS), mm.
        like, at, plane, zoom: As for :func:`draw_plane`.
        to: ``(n, dim)``: draw a line from each point to its partner.
        color, marker, label: As for Matplotlib's ``scatter``.

    Raises:
        ConfigError: There is no such plane.
    """
    shown = _plane(like, at, plane, zoom)
    x, y = _placed(shown, points, like)
    axes.scatter(
        x, y, s=28, facecolors="none", edgecolors=color, marker=marker, linewidths=1.4, label=label or None
    )
    if to is not None:
        far_x, far_y = _placed(shown, to, like)
        axes.plot([x, far_x], [y, far_y], color=color, linewidth=1.4)


def _plane(like: Volume, at: Any, name: str, zoom: float | None) -> Plane:
    """Return the plane, its box drawn around what ``like`` shows, or around ``at``."""
    center = _center(like, at)
    planes = {plane.name: plane for plane in planes_through(like, center)}
    if like.dim == 3 and name not in planes:
        raise ConfigError(f"plane='{name}': must be one of {', '.join(planes)}")
    plane = planes[name] if like.dim == 3 else planes["image"]
    if zoom is None:
        return plane.around(content_of(plane.take(like.data)))
    boxes = []
    for axis, flip, h in zip(plane.axes, plane.flips, plane.spacing, strict=True):
        n, half = like.shape[axis], max(1, round(zoom / h / 2))
        middle = n - 1 - center[axis] if flip else center[axis]
        first = min(max(middle - half, 0), max(n - 2 * half - 1, 0))
        boxes.append(slice(first, min(first + 2 * half + 1, n)))
    return replace(plane, box=(boxes[0], boxes[1]))


def _center(like: Volume, at: Any) -> tuple[int, ...]:
    if at is None:
        return tuple(n // 2 for n in like.shape)
    if np.ndim(at) == 1:
        return tuple(int(index) for index in at)
    mask = _on_grid(at, like, "at")
    areas = [mask.sum(axis=tuple(a for a in range(like.dim) if a != axis)) for axis in range(like.dim)]
    return tuple(int(area.argmax()) if area.any() else n // 2 for area, n in zip(areas, like.shape, strict=True))


def _on_grid(data: Any, like: Volume, name: str) -> np.ndarray:
    array = data.data if isinstance(data, Volume) else as_numpy(data)
    if array.shape != like.shape:
        raise GridMismatch(name, array.shape, like.name, like.shape)
    return np.asarray(array, dtype=np.float32)


def _taken(plane: Plane, data: Any, like: Volume, name: str) -> np.ndarray:
    return plane.take(_on_grid(data, like, name))


def _limits(picture: np.ndarray, colors: str) -> tuple[float, float]:
    if colors == "gray":
        return window_of([picture])
    most = spread([picture]) or 1.0
    return (-most, most) if colors == "signed" else (0.0, most)


def _extent(plane: Plane, picture: np.ndarray) -> tuple[float, float]:
    """Return width and height in mm."""
    rows, columns = picture.shape
    return columns * plane.spacing[1], rows * plane.spacing[0]


def _lines(
    axes: Axes, plane: Plane, values: np.ndarray, levels: list[float] | np.ndarray, color: str, width: float
) -> None:
    y, x = ((np.arange(n) + 0.5) * h for n, h in zip(values.shape, plane.spacing, strict=True))
    contour(axes, x, y, values, levels, color, width=width)


def _placed(plane: Plane, points: Any, like: Volume) -> tuple[np.ndarray, np.ndarray]:
    """Return where points lie on the picture, mm from its upper left corner: to the right, and down."""
    world = np.asarray(as_numpy(points), dtype=np.float64)
    inverse = np.linalg.inv(like.affine)
    voxels = world @ inverse[: like.dim, : like.dim].T + inverse[: like.dim, 3]
    places = []
    for axis, flip, h, box in zip(plane.axes, plane.flips, plane.spacing, plane.box, strict=True):
        index = like.shape[axis] - 1 - voxels[:, axis] if flip else voxels[:, axis]
        places.append((index - (box.start or 0) + 0.5) * h)
    return places[1], places[0]


def _finish(axes: Axes, extent: tuple[float, float], title: str) -> None:
    width, height = extent
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_aspect("equal")
    axes.set_axis_off()
    if title:
        axes.set_title(title, fontsize=10)


def _bar(axes: Axes, length: float, width: float, height: float) -> None:
    """Draw a scale bar at the lower left, light with a dark edge, so that it reads on any image."""
    from matplotlib.patheffects import withStroke

    edge = [withStroke(linewidth=3, foreground="black")]
    x, y = 0.05 * width, 0.95 * height
    axes.plot([x, x + length], [y, y], color="white", linewidth=2, solid_capstyle="butt", path_effects=edge)
    axes.text(
        x + length / 2, y - 0.02 * height, f"{length:g} mm",
        color="white", fontsize=8, ha="center", va="bottom", path_effects=edge,
    )  # fmt: skip
