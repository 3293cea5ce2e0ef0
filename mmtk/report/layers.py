"""What the viewer offers to choose from, as plain data for the page's script.

A layer is a scan, or a scan with a map over it, with the outlines that belong to it: the lesion lies elsewhere in the
moving image than in the warped one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmtk.report.findings import Findings
from mmtk.report.panels import FIXED_LESION, LESION, SIGNED, Panel
from mmtk.report.scene import Scene

__all__ = ["describe"]

GRAY, MASK = ("#000000", "#ffffff"), (f"{LESION}00", LESION)

#: How much of a map covers the scan under it.
MAP_OPACITY, MASK_OPACITY = 0.65, 0.5

#: The volumes of each layer: the scan, and the map over it.
VOLUMES = {
    "fixed": ("fixed", None),
    "moving": ("moving", None),
    "deformed": ("deformed", None),
    "warped": ("warped", None),
    "appearance": ("deformed", "appearance"),
    "jacobian": ("deformed", "growth"),
    "mask": ("warped", "lesion"),
}

#: What is told of the voxel under the crosshair.
VALUES = {
    "fixed": "fixed",
    "moving": "moving",
    "deformed": "shape only",
    "warped": "warped",
    "appearance": "appearance",
    "growth": "log2 Jacobian",
    "lesion": "lesion",
}


def describe(found: Findings, panels: Sequence[Panel], scene: Scene | None) -> dict[str, Any]:
    """Return what the script reads; the volumes themselves stand beside it.

    Args:
        found: What the page shows.
        panels: The still pictures, which give titles and scales.
        scene: The volumes; None for a page of pictures alone.
    """
    stores = {} if scene is None else scene.stores
    layers = [_layer(panel, panels, stores) for panel in panels]
    if "lesion" in stores:
        layers.append(_mask(panels, stores))
    names = [layer["name"] for layer in layers]
    return {
        "layers": layers,
        "lower": "fixed" if "fixed" in names else "deformed" if "deformed" in names else names[0],
        "upper": "warped",
        "values": [{"store": name, "title": title} for name, title in VALUES.items() if name in stores],
        "colors": {"gray": GRAY, "signed": SIGNED, "mask": MASK},
        "gridStep": max((picture.lines for panel in panels for picture in panel.pictures), default=0.0),
        **({"stores": []} if scene is None else scene.described()),
    }


def _layer(panel: Panel, panels: Sequence[Panel], stores: dict[str, Any]) -> dict[str, Any]:
    scan, map_ = VOLUMES.get(panel.name, (None, None))
    if scan == "warped" and scan not in stores:
        scan = "deformed"  # without appearance the two are one
    there = scan in stores and (map_ is None or map_ in stores)
    return {
        "name": panel.name,
        "title": panel.title,
        "still": True,
        "scan": scan if there else None,
        "map": map_ if there else None,
        "colors": "signed",
        "opacity": MAP_OPACITY,
        "window": _window(panel if map_ is None else None, panels),
        "scale": panel.scale,
        "bar": GRAY if panel.bar is None and panel.scale else () if panel.bar is None else panel.bar.colors,
        "ends": _ends(panel),
        "outlines": _outlines(panel.name),
    }


def _mask(panels: Sequence[Panel], stores: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "mask",
        "title": "Lesion mask",
        "still": False,
        "scan": "warped" if "warped" in stores else "deformed",
        "map": "lesion",
        "colors": "mask",
        "opacity": MASK_OPACITY,
        "window": _window(None, panels),
        "scale": (0.5, 1),
        "bar": (),
        "ends": ("", ""),
        "outlines": _outlines("mask"),
    }


def _window(panel: Panel | None, panels: Sequence[Panel]) -> tuple[float, float]:
    """Return the gray window of a scan, or of the warped image under a map."""
    shown = panel or next(p for p in panels if p.name == "warped")
    return shown.scale or (0.0, 1.0)


def _ends(panel: Panel) -> tuple[str, str]:
    if panel.bar is not None:
        return panel.bar.least, panel.bar.most
    return ("", "") if panel.scale is None else (f"{panel.scale[0]:.3g}", f"{panel.scale[1]:.3g}")


def _outlines(name: str) -> list[dict[str, str]]:
    lesion = "lesion_before" if name == "moving" else "lesion"
    return [{"store": lesion, "color": LESION}, {"store": "fixed_lesion", "color": FIXED_LESION}]
