"""Figure of deep-image-prior.md: what an untrained network finds, step by step, on a made-up person who breathes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from drawing import main, mesh, new, panel, save

from mmtk.fields import Grid, folds, jacobian_determinant, warp
from mmtk.method import Pair
from mmtk.samples import lungs
from mmtk_dip.plugin import DeepImagePriorConfig


def draw(out: Path, quick: bool) -> Mapping[str, Any]:
    person = next(lungs(dim=2, spacing=8 if quick else 4, seed=0))
    moving, fixed = (
        torch.from_numpy(np.flipud(image.T).copy())[None, None] for image in (person.moving, person.fixed)
    )
    pair = Pair(moving, fixed, Grid(tuple(fixed.shape[2:]), (4.0, 4.0)))
    figure, axes = new(7.2, 4.2, 2, 4)
    numbers: dict[str, Any] = {"before": float((moving - fixed).abs().mean())}
    panel(axes[0, 0], moving, "moving")
    panel(axes[1, 0], fixed, "fixed")
    every = 3 if quick else 5
    for place, steps in enumerate((5, 10, 15) if quick else (10, 40, 150), start=1):
        method = DeepImagePriorConfig(iterations=steps, tolerance=0.0, diffeomorphic=True).build()
        found = method.register(pair)
        determinant = jacobian_determinant(found.displacement)
        panel(axes[0, place], warp(moving, found.displacement), f"{steps} steps")
        mesh(axes[0, place], found.inverse[0], every=every)
        panel(axes[1, place], determinant, "determinant, 0 to 2", low=0, high=2, colors="RdBu_r")
        numbers[f"{steps} steps"] = {
            "mean absolute error": found.energies[-1],
            "least determinant": float(determinant.min()),
            "folds": folds(found.displacement),
        }
    save(figure, out, "prior")
    return numbers


if __name__ == "__main__":
    main(draw)
