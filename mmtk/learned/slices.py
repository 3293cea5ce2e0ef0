"""Volumes by networks that know slices: one by one along the third axis, and put together again."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmtk.fields import Grid
from mmtk.method import Pair
from mmtk.result import LevelReport, Registration

__all__ = ["by_slices"]


def by_slices(pair: Pair, register: Callable[[Pair], Registration]) -> Registration:
    """Register each slice of a volume by itself; nothing moves across slices.

    Args:
        pair: 3-D; its third axis goes through the slices.
        register: Of a 2-D pair. What it leaves in ``shape`` becomes ``(slices, ...)``.
    """
    found = [register(_slice(pair, k)) for k in range(pair.grid.shape[2])]
    reports = [one.levels[-1] for one in found]
    steps = max(len(report.energies) for report in reports)
    depth = pair.grid.spacing[2]
    energies = tuple(
        depth * math.fsum(report.energies[min(step, len(report.energies) - 1)] for report in reports)
        for step in range(steps)
    )
    failed = [report.outcome for report in reports if not report.outcome.ok]
    appearances = [one.appearance for one in found if one.appearance is not None]
    return Registration(
        grid=pair.grid,
        displacement=_stacked([one.displacement for one in found]),
        inverse=_stacked([one.inverse for one in found]),
        appearance=torch.stack(appearances, dim=-1) if len(appearances) == len(found) else None,
        shape={name: torch.cat([one.shape[name] for one in found]) for name in found[0].shape},
        levels=(
            LevelReport(
                reports[0].size,
                energies,
                max(report.evaluations for report in reports),
                math.fsum(report.seconds for report in reports),
                failed[0] if failed else reports[0].outcome,
            ),
        ),
        notes=(
            *dict.fromkeys(note for one in found for note in one.notes),
            "registered slice by slice: nothing moves across slices",
        ),
    )


def _slice(pair: Pair, k: int) -> Pair:
    images: dict[str, Any] = {
        name: None if (image := getattr(pair, name)) is None else image[..., k]
        for name in ("moving", "fixed", "mask", "fixed_mask", "inside")
    }
    there = np.eye(4)
    there[2, 3] = k
    affine = None if pair.affine is None else pair.affine @ there
    return replace(pair, **images, grid=Grid(pair.grid.shape[:2], pair.grid.spacing[:2]), affine=affine)


def _stacked(fields: list[Tensor]) -> Tensor:
    """Return displacements of slices as one of the volume, with nothing along its third axis."""
    within = torch.stack(fields, dim=-1)
    return torch.cat([within, torch.zeros_like(within[:, :1])], dim=1)
