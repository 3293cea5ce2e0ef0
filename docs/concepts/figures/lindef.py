"""Figures of linear-deformable.md: a cumulative sum that folds, and a made-up person who breathes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from drawing import RED, main, mesh, new, panel, save

from mmtk.fields import folds, jacobian_determinant
from mmtk.samples import lungs
from mmtk_lindef.layers import integrated


def folding() -> torch.Tensor:
    """Return slopes ``(1, 2, 24, 24)``, all positive: beyond column 12 rows lag, beyond row 12 columns do."""
    slopes = torch.ones(1, 2, 24, 24)
    slopes[:, 0, 4:12, 12:] = 0.5
    slopes[:, 1, 12:, 4:12] = 0.5
    return slopes


def draw(out: Path, quick: bool) -> Mapping[str, Any]:
    figure, axes = new(6.6, 2.6, 1, 3)
    slopes = folding()
    displacement = integrated(slopes)
    determinant = jacobian_determinant(displacement)
    for place, axis in enumerate((0, 1)):
        panel(axes[0, place], slopes[:, axis], f"slopes along axis {'ij'[axis]}", low=0, high=2)
    panel(axes[0, 2], torch.full((24, 24), 0.97), "the map, and where it folds", low=0, high=1)
    mesh(axes[0, 2], displacement[0], every=1, color="#0072B2")
    at = (determinant[0, 0] <= 0).nonzero().T
    points = (at + displacement[0, :, at[0], at[1]]).numpy()
    axes[0, 2].plot(points[1], points[0], "o", color=RED)
    save(figure, out, "lindef_folds")

    person = next(lungs(dim=2, spacing=4 if quick else 2, seed=0))
    figure, axes = new(6.6, 2.5, 1, 3)
    u, turn = person.displacement, lambda image: np.flipud(image.T)
    panel(axes[0, 0], turn(person.moving), "inhalation (moving)")
    panel(axes[0, 1], turn(person.fixed), "exhalation (fixed)")
    panel(axes[0, 2], turn(person.moving), "where the fixed grid was")
    flipped = np.stack([-turn(u[1]), turn(u[0])])
    mesh(axes[0, 2], flipped, every=4 if quick else 8)
    save(figure, out, "lindef_lungs")
    return {
        "folds": folds(displacement),
        "least slope": float(slopes.min()),
        "least determinant": float(determinant.min()),
        "landmarks": len(person.landmarks[0]) if person.landmarks else 0,
    }


if __name__ == "__main__":
    main(draw)
