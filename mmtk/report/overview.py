"""A result in one picture: the main panels side by side, for a README, a slide or a paper."""

from __future__ import annotations

import io

from mmtk.report.draw import extent, paint
from mmtk.report.findings import Findings, Live
from mmtk.report.panels import Panel, make_panels
from mmtk.report.views import look

__all__ = ["make_overview"]

#: The panels of the row and what stands under them; those that a result does not have are left out.
ROW = {
    "fixed": ("fixed", "stays as it is"),
    "moving": ("moving", "affine alone"),
    "warped": ("warped", "shape and appearance"),
    "deformed": ("shape only", "intensities untouched"),
    "appearance": ("appearance", "intensity added"),
    "grid": ("deformed grid", "a line every {step:g} mm"),
}

#: Inches: height of a panel, gap between panels, margin, and room for the words below.
PANEL, GAP, MARGIN, WORDS = 2.4, 0.06, 0.14, 0.56
DPI = 200
GROUND, INK, SOFT = "#000000", "#f2f4f8", "#98a2b3"


def make_overview(result: Live | Findings) -> bytes:
    """Return the picture as PNG; see :func:`mmtk.report.write_overview`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    views = look(result, ("axial",))
    made = {panel.name: panel for panel in make_panels(views)}
    panels = [made[name] for name in ROW if name in made]
    across, down = extent(panels[0].pictures[0])
    width, count = PANEL * across / down, len(panels)
    size = (2 * MARGIN + count * width + (count - 1) * GAP, MARGIN + PANEL + WORDS)
    figure = Figure(figsize=size, dpi=DPI, facecolor=GROUND)
    canvas = FigureCanvasAgg(figure)
    for index, panel in enumerate(panels):
        left = MARGIN + index * (width + GAP)
        box = (left / size[0], WORDS / size[1], width / size[0], PANEL / size[1])
        paint(figure.add_axes(box), panel.pictures[0], PANEL * DPI / down)
        title, note = _words(panel)
        middle = (left + width / 2) / size[0]
        figure.text(middle, 0.36 / size[1], title, color=INK, fontsize=10, ha="center", va="center", weight="bold")
        figure.text(middle, 0.17 / size[1], note, color=SOFT, fontsize=7.5, ha="center", va="center")
    file = io.BytesIO()
    canvas.print_png(file)
    return file.getvalue()


def _words(panel: Panel) -> tuple[str, str]:
    title, note = ROW[panel.name]
    if panel.name == "warped" and panel.title != "Warped":
        note = "shape alone"
    if panel.name == "moving" and panel.pictures[0].outlines:
        note += ", lesion outlined"
    return title, note.format(step=panel.pictures[0].lines)
