"""Distances in millimeters: of displacements to the truth, of landmarks, of two maps from being inverse.

    u   (B, dim, *space)   displacement in voxels of the map ``x -> x + u(x)``

Numbers are those of the whole batch.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mmtk.fields import Grid, compose, identity
from mmtk.types import Displacement, Image, Mask

__all__ = [
    "InverseConsistencyError", "LandmarkErrors", "endpoint_error", "endpoint_errors", "inverse_consistency_error",
    "landmark_errors",
]  # fmt: skip


def endpoint_errors(u: Displacement, truth: Displacement, grid: Grid) -> Image:
    """Return the distance in mm between where two displacements lead from each voxel, ``(B, 1, *space)``.

    Args:
        u, truth: ``(B, dim, *space)``, voxels of ``grid``.
        grid: For the spacing.
    """
    return torch.linalg.vector_norm((u - truth) * grid.per_axis(u), dim=1, keepdim=True)


def endpoint_error(u: Displacement, truth: Displacement, grid: Grid, where: Mask | None = None) -> float:
    """Return the mean of :func:`endpoint_errors` in mm, weighted by ``where``.

    Args:
        u, truth: ``(B, dim, *space)``, voxels of ``grid``.
        grid: For the spacing.
        where: Weight of each voxel, ``(B, 1, *space)`` or bool; 1 everywhere if None. NaN if nothing has weight.
    """
    errors = endpoint_errors(u, truth, grid).double()
    if where is None:
        return float(errors.mean())
    where = where.expand_as(errors)
    total = float(where.double().sum())
    return float((errors * where).where(where > 0, 0).sum()) / total if total else math.nan


class InverseConsistencyError(NamedTuple):
    """Distances in mm between each voxel and where there and back lead it.

    Attributes:
        mean: Over the voxels that do not leave the grid on the way; NaN if all do.
        max: Over the same.
    """

    mean: float
    max: float


def inverse_consistency_error(u: Displacement, inverse: Displacement, grid: Grid) -> InverseConsistencyError:
    """Return the mean and greatest ``|x - (id + u)((id + inverse)(x))|`` in mm, sampled linearly.

    Voxels that ``id + inverse`` leads out of the grid are left out: nothing is known of the way back.

    Args:
        u, inverse: ``(B, dim, *space)``, voxels of ``grid``.
        grid: For the spacing.
    """
    there = identity(grid.shape, dtype=u.dtype, device=u.device) + inverse
    last = torch.tensor(grid.shape, dtype=u.dtype, device=u.device).view(1, -1, *[1] * grid.dim) - 1
    stays = ((there >= 0) & (there <= last)).all(1)
    errors = torch.linalg.vector_norm(compose(u, inverse) * grid.per_axis(u), dim=1)[stays].double()
    if not len(errors):
        return InverseConsistencyError(math.nan, math.nan)
    return InverseConsistencyError(float(errors.mean()), float(errors.max()))


class LandmarkErrors(NamedTuple):
    """Distances in mm between landmarks and their partners.

    Attributes:
        median: Over landmarks.
        mean: Over landmarks.
        max: Over landmarks.
        robustness: Share of the landmarks that are nearer to their partners than before registration.
        axes: Mean size of the error along each axis, ``dim`` numbers.
    """

    median: float
    mean: float
    max: float
    robustness: float
    axes: tuple[float, ...]


def landmark_errors(found: Tensor, truth: Tensor, before: Tensor) -> LandmarkErrors:
    """Return the errors of landmarks; the median of an even number is the mean of the two in the middle.

    Args:
        found: Where registration leads the landmarks, ``(n, dim)``, mm. A place that is NaN (where the map has none)
            counts as infinitely far, and not as nearer than before.
        truth: Where they belong.
        before: Where they were taken to be before registration.

    Raises:
        ValueError: If there are no landmarks, or the shapes differ.
    """
    if found.shape != truth.shape or before.shape != truth.shape or not len(truth):
        shapes = tuple(found.shape), tuple(truth.shape), tuple(before.shape)
        raise ValueError(f"landmarks must be three arrays of one shape (n, dim), n at least 1, not {shapes}")
    away = (found - truth).abs().double()
    errors = torch.linalg.vector_norm(away, dim=1)
    initial = torch.linalg.vector_norm(before - truth, dim=1).double()
    errors = errors.nan_to_num(nan=math.inf, posinf=math.inf)
    low, high = (errors.kthvalue(k).values for k in ((len(errors) + 1) // 2, len(errors) // 2 + 1))
    return LandmarkErrors(
        float((low + high) / 2),
        float(errors.mean()),
        float(errors.max()),
        float((errors < initial).double().mean()),
        tuple(float(mean) for mean in away.nan_to_num(nan=math.inf, posinf=math.inf).mean(0)),
    )
