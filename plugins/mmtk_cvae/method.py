"""The diffeomorphic CVAE as a method; weights of slices register volumes, too, slice by slice."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmtk.fields import Grid
from mmtk.learned import LearnedMethod, Model
from mmtk.method import Pair, Progress, silent
from mmtk.result import LevelReport, Registration
from mmtk_cvae.network import DiffeomorphicCVAE

__all__ = ["CVAEMethod", "planes"]


class CVAEMethod(LearnedMethod):
    """Runs the diffeomorphic CVAE (Krebs et al., 2018).

    Weights of 2-D images register a volume slice by slice, along its third axis; nothing moves across slices.
    """

    kind = "cvae"

    def make(self, grid: Grid, settings: dict[str, Any]) -> Model:
        return DiffeomorphicCVAE(grid, **settings)

    def register(self, pair: Pair, progress: Progress = silent) -> Registration:
        if not self.slices(pair):
            return super().register(pair, progress)
        return _stacked(pair, [super(CVAEMethod, self).register(plane, progress) for plane in planes(pair)])

    def slices(self, pair: Pair) -> bool:
        """Whether the weights are for the slices of a pair."""
        return self.weights is not None and self.weights.grid.dim == 2 and pair.grid.dim == 3


def planes(pair: Pair) -> list[Pair]:
    """Return the slices of a volume along its third axis, each where it lies."""
    grid = Grid(pair.grid.shape[:2], pair.grid.spacing[:2])
    names = ("moving", "fixed", "mask", "fixed_mask", "inside")
    found = []
    for k in range(pair.grid.shape[2]):
        cut: dict[str, Any] = {name: None if (t := getattr(pair, name)) is None else t[..., k] for name in names}
        shift = np.eye(4)
        shift[2, 3] = k
        found.append(replace(pair, **cut, grid=grid, affine=None if pair.affine is None else pair.affine @ shift))
    return found


def _stacked(pair: Pair, found: list[Registration]) -> Registration:
    """Return the registrations of all slices as one of the volume; codes are ``(slices, latent)``."""

    def whole(fields: list[Tensor]) -> Tensor:
        flat = torch.stack(fields, dim=-1)
        return torch.cat([flat, torch.zeros_like(flat[:, :1])], dim=1)

    reports = [each.levels[-1] for each in found]
    worst = next((report.outcome for report in reports if not report.outcome.ok), reports[0].outcome)
    longest = max(len(report.energies) for report in reports)
    depth = pair.grid.spacing[2]
    energies = [
        depth * math.fsum(report.energies[min(i, len(report.energies) - 1)] for report in reports)
        for i in range(longest)
    ]
    changes = [each.appearance for each in found if each.appearance is not None]
    notes = dict.fromkeys(note for each in found for note in each.notes)
    return Registration(
        grid=pair.grid,
        displacement=whole([each.displacement for each in found]),
        inverse=whole([each.inverse for each in found]),
        appearance=torch.stack(changes, dim=-1) if len(changes) == len(found) else None,
        shape={name: torch.cat([each.shape[name] for each in found]) for name in found[0].shape},
        levels=(
            LevelReport(
                size=reports[0].size,
                energies=tuple(energies),
                evaluations=max(report.evaluations for report in reports),
                seconds=math.fsum(report.seconds for report in reports),
                outcome=worst,
            ),
        ),
        notes=(*notes, "registered slice by slice: nothing moves across slices"),
    )
