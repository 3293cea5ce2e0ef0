"""The page of a template: the average after each round, how sharp it is, how much cases differ, and the viewer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmtk.atlas.pictures import HEAT, Map, card, describe
from mmtk.io import Volume, read_image
from mmtk.io.images import load
from mmtk.report.layers import GRAY
from mmtk.report.page import niivue, template
from mmtk.report.planes import planes_through
from mmtk.report.scene import make_map_scene

__all__ = ["centered", "make_template_page"]


def make_template_page(out: Path, rounds: Sequence[Mapping[str, Any]]) -> str:
    """Return the page as HTML.

    Args:
        out: The template's folder, with its images.
        rounds: What ``round.json`` of each round holds.
    """
    image = read_image(out / "template.nii.gz", name="template")
    center = centered(image)
    planes = planes_through(image, center)
    last = rounds[-1]
    maps = list(_maps(out, last))
    low, high = np.percentile(image.data, (0.5, 99.5))
    first = load(out / "rounds" / "0" / "mean.nii.gz", name="affine").data
    affine = Map("affine", "Affine mean", "", first, float(low), float(high), GRAY)
    shown = [affine, *maps]
    scene = make_map_scene(image, {one.name: (one.data, one.least, one.most) for one in shown}, center)
    pictures = [
        card(
            load(out / "rounds" / str(one["round"]) / "mean.nii.gz", name="mean").data,
            None,
            planes,
            name="affine" if one["round"] == 0 else f"round{one['round']}",
            title="Affine mean" if one["round"] == 0 else f"Round {one['round']}",
            caption=f"Gradient {one['sharpness']['gradient']:.4f} per mm, drift {one['drift_mm']:.2f} mm.",
        )
        for one in rounds
    ]
    sharper = "What the next round would register to: the last mean, sharpened."
    pictures.append(card(image.data, None, planes, caption=sharper))
    pictures += [card(image.data, one, planes) for one in maps]
    return template("template.html", Path(__file__).parent).render(
        title=f"Template of {len(last['cases'])} cases",
        cases=last["cases"],
        left_out=last["left_out"],
        rounds=rounds,
        gain=_gain(rounds),
        cards=pictures,
        scene=describe(shown, scene, "affine"),
        stores=[] if scene is None else list(scene.stores.values()),
        stage_ratio=1.0 if scene is None else scene.ratio,
        niivue="" if scene is None else niivue(),
        no_grid=True,
        located=image.storage.located,
        dim=image.dim,
    )


def centered(image: Volume) -> list[int]:
    """Return the voxel nearest to the middle of what an image shows."""
    from mmtk.atlas.sharpness import content

    inside = np.argwhere(content(image.data))
    if not len(inside):
        return [n // 2 for n in image.shape]
    return [int(value) for value in np.rint(inside.mean(axis=0))]


def _maps(out: Path, last: Mapping[str, Any]) -> list[Map]:
    spread, weight = (load(out / f"{name}.nii.gz", name=name).data for name in ("spread", "weight"))
    cases = len(last["cases"])
    about = "Standard deviation of the cases' intensities, each on its own range from 0 to 1."
    few = np.maximum(cases - weight, 0)
    counted = (
        f"Of {cases} cases so many do not count: their lesion lies there, their scan ends, or they are far off."
    )
    return [
        Map("spread", "Spread", about, spread, 0.0, float(np.percentile(spread, 99.5)) or 1.0, HEAT),
        Map("uncounted", "Not counted", counted, few, 0.0, float(few.max()) or 1.0, HEAT),
    ]


def _gain(rounds: Sequence[Mapping[str, Any]]) -> float | None:
    """Return by how much the gradient of the last round exceeds that of the affine mean."""
    first = rounds[0]["sharpness"]["gradient"]
    return None if len(rounds) < 2 or not first else rounds[-1]["sharpness"]["gradient"] / first - 1
