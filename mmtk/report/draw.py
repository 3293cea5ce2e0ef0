"""Pictures as PNG, through matplotlib's figures and never through pyplot, which is slow to load.

Axes are in millimeters from the picture's upper left corner, so that voxels of any spacing have their true shape.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from mmtk.report.panels import FOLD, LINES, Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Sheet", "contour", "extent", "paint"]

#: Pixels an inch: only the ratio of lines to pictures depends on it.
DPI = 100

#: A voxel larger than this many pixels is shown as the square it is; smaller ones are smoothed.
VISIBLE_VOXEL = 4

#: Of PNG files: higher levels take twice the time for a few percent.
COMPRESSION = 4

#: At most so many folded voxels are marked; more would be one blot.
MOST_MARKS = 2000


def extent(picture: Picture) -> tuple[float, float]:
    """Return width and height in mm."""
    rows, columns = picture.colors.shape[:2]
    down, right = picture.view.plane.spacing
    return columns * right, rows * down


class Sheet:
    """A figure of one size, filled by its axes to the edge, on which one picture after another is drawn.

    To make axes costs as much as to draw on them, so pictures of one plane share a sheet.

    Args:
        first: A picture of the size that all have.
        pixels_per_mm: Scale.
    """

    def __init__(self, first: Picture, pixels_per_mm: float) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.pixels_per_mm = pixels_per_mm
        width, height = (max(2, round(length * pixels_per_mm)) / DPI for length in extent(first))
        self.canvas = FigureCanvasAgg(Figure(figsize=(width, height), dpi=DPI))
        self.axes = self.canvas.figure.add_axes((0, 0, 1, 1))

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.canvas.get_width_height()

    def png(self, picture: Picture) -> bytes:
        """Return the picture as PNG."""
        from PIL import Image

        paint(self.axes, picture, self.pixels_per_mm)
        self.canvas.draw()
        for drawn in (*self.axes.images, *self.axes.collections):
            drawn.remove()
        file = io.BytesIO()
        pixels = np.asarray(self.canvas.buffer_rgba())[..., :3]
        Image.fromarray(pixels).save(file, "PNG", compress_level=COMPRESSION)
        return file.getvalue()


def paint(axes: Axes, picture: Picture, pixels_per_mm: float) -> None:
    """Draw a picture on axes, whose size is left as it is."""
    width, height = extent(picture)
    rows, columns = picture.colors.shape[:2]
    coarse = min(picture.view.plane.spacing) * pixels_per_mm >= VISIBLE_VOXEL
    axes.set_axis_off()
    axes.imshow(
        picture.colors,
        extent=(0, width, height, 0),
        aspect="auto",
        interpolation="nearest" if coarse else "bilinear",
    )
    down, right = picture.view.plane.spacing
    x, y = (np.arange(columns) + 0.5) * right, (np.arange(rows) + 0.5) * down
    if picture.lines:
        for place in picture.view.places:
            levels = np.arange(np.floor(place.min() / picture.lines), place.max() / picture.lines)
            contour(axes, x, y, place, levels * picture.lines, LINES, "solid", 0.8)
    for outline in picture.outlines:
        contour(axes, x, y, outline.mask, [0.5], outline.color, outline.style)
    if picture.marks is not None and picture.marks.any():
        j, i = (index[:MOST_MARKS] for index in np.nonzero(picture.marks))
        axes.scatter(x[i], y[j], s=6, c=FOLD, marker="s", linewidths=0)
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)


def contour(
    axes: Axes,
    x: np.ndarray,
    y: np.ndarray,
    values: np.ndarray,
    levels: np.ndarray | list[float],
    color: str,
    style: str = "solid",
    width: float = 1.3,
) -> None:
    """Draw the levels that the values cross; matplotlib warns about the others."""
    crossed = [level for level in levels if values.min() < level < values.max()]
    if crossed and min(values.shape) > 1:
        axes.contour(x, y, values, levels=crossed, colors=color, linestyles=style, linewidths=width)
