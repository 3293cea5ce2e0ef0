"""The page of modes: the mean some standard deviations to either side along each, and what they explain."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmtk.atlas.modes import Modes
from mmtk.atlas.pictures import SIGNED, Map, card
from mmtk.atlas.template_page import centered
from mmtk.report.page import template
from mmtk.report.planes import planes_through

if TYPE_CHECKING:
    from mmtk.atlas.variation import Variation

__all__ = ["make_modes_page"]

#: Modes that the table lists.
LISTED = 12


def make_modes_page(found: Variation) -> str:
    """Return the page as HTML."""
    planes = planes_through(found.mean, centered(found.mean))
    sd = found.config.sd

    def pair(kind: str, number: int, below: np.ndarray, above: np.ndarray) -> list[dict[str, Any]]:
        change = (above - below) / (2 * sd)
        edge = float(np.abs(change).max()) or 1.0
        title = f"{kind.capitalize()} {number + 1}"
        shots = []
        for image, side, sign in ((below, "below", "−"), (above, "above", "+")):
            name, words = f"{kind}{number}{side}", f"{title}, {sign}{sd:g} sd"
            shots.append(card(image, None, planes, like=found.mean.data, name=name, title=words, caption=""))
        about = "Change of intensity for one standard deviation."
        one = Map(f"{kind}{number}change", f"{title}: change", about, change, -edge, edge, SIGNED)
        return [*shots, card(found.mean.data, one, planes)]

    shapes = [
        pair("shape", n, found.deformed(n, -sd), found.deformed(n, sd)) for n in range(len(found.shape.basis))
    ]
    appearances = [
        pair("appearance", n, found.painted(n, -sd), found.painted(n, sd))
        for n in range(len(found.appearance.basis))
    ]
    return template("modes.html", Path(__file__).parent).render(
        title=f"Modes of {len(found.cases)} cases",
        cases=len(found.cases),
        length=found.last.length,
        sd=sd,
        dim=found.mean.dim,
        kinds=[
            {"name": "Shape", "rows": shapes, "table": _table(found.shape), "of": found.shape},
            {"name": "Appearance", "rows": appearances, "table": _table(found.appearance), "of": found.appearance},
        ],
    )


def _table(modes: Modes) -> list[tuple[int, float, float]]:
    together = np.cumsum(modes.explained)
    return [
        (n + 1, float(share), float(whole))
        for n, (share, whole) in enumerate(zip(modes.explained[:LISTED], together, strict=False))
    ]
