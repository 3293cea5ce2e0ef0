"""The numbers of one run, for ``metrics.json``: plain floats, grouped, NaN where a number has no meaning.

Squared errors are sums over voxels of the fixed grid of squared differences in normalized intensity (both images about
in [0, 1]), inside and outside the warped lesion mask; ``before`` is the affine placement alone.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from mmtk import io
from mmtk.fields import identity, sample
from mmtk.metrics import dice, lesion_volume_kept
from mmtk.outputs import Warped
from mmtk.prepare import Prepared, affine_points, tensor
from mmtk.result import Registration

__all__ = ["measure"]


def measure(
    prepared: Prepared, found: Registration, images: Warped, fixed_labels: io.Volume | None = None
) -> dict[str, Any]:
    """Return the metrics of a run.

    Args:
        prepared: The pair.
        found: What the method found.
        images: What was warped.
        fixed_labels: Label map of the fixed image; with ``images.labels``, overlaps are reported.
    """
    u = found.displacement
    fixed, scale = prepared.pair.fixed, prepared.moving_scale
    start = affine_points(identity(found.grid.shape, dtype=u.dtype, device=u.device), prepared.voxel_map)
    moving = tensor(prepared.moving, u.device)
    before = scale.apply(sample(moving, start))
    deformed, warped = scale.apply(images.deformed)[None, None], scale.apply(images.warped)[None, None]
    lesion = None if images.mask is None else images.mask[None, None]
    outside = torch.ones_like(fixed) if lesion is None else (lesion <= 0).to(fixed)
    error = _squared(deformed, fixed)
    report: dict[str, Any] = {
        "similarity": {
            "squared_error_outside_before": _total(_squared(before, fixed) * outside),
            "squared_error_outside": _total(error * outside),
            "correlation_outside_before": _correlation(before, fixed, outside),
            "correlation_outside": _correlation(deformed, fixed, outside),
        },
        "deformation": _deformation(prepared, found, images),
    }
    if lesion is not None and prepared.mask is not None:
        mask = tensor(prepared.mask, u.device)
        inside = 1 - outside
        report["similarity"]["squared_error_inside"] = _total(_squared(warped, fixed) * inside)
        report["similarity"]["squared_error_inside_shape_only"] = _total(error * inside)
        report["lesion"] = {
            "volume_ml": _total(mask) * prepared.mask.grid.cell_volume / 1000,
            "warped_volume_ml": _total(lesion) * found.grid.cell_volume / 1000,
            "volume_kept": lesion_volume_kept(mask, lesion, prepared.mask.grid, found.grid),
        }
    if images.appearance is not None:
        change = images.appearance[None, None]
        moved, painted = _total(_squared(deformed, before)), _total(_squared(warped, deformed))
        report["disentanglement"] = {
            "appearance_outside_mask": 0.0 if lesion is None else float((change * outside).abs().max()),
            "share_explained_by_shape": moved / (moved + painted) if moved + painted else math.nan,
        }
    if images.labels is not None and fixed_labels is not None:
        report["overlap"] = _overlap(prepared, images.labels, fixed_labels)
    return report


def _squared(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square_()


def _total(field: Tensor) -> float:
    """Sum in double precision, without a copy in double precision."""
    return float(field.sum(dtype=torch.float64))


def _deformation(prepared: Prepared, found: Registration, images: Warped) -> dict[str, float]:
    u, grid = found.displacement, found.grid
    placed = abs(float(torch.linalg.det(torch.as_tensor(prepared.alignment.matrix[:3, :3]))))
    determinant = images.jacobian / placed
    length = torch.linalg.vector_norm(u * grid.per_axis(u), dim=1)
    mean, worst = _inverse_consistency(found)
    logs = determinant.clamp_min(1e-9).log()
    return {
        "folds": int((determinant <= 0).sum()),
        "jacobian_min": float(determinant.min()),
        "jacobian_max": float(determinant.max()),
        "sdlogj": float(logs.std(correction=0)),
        "displacement_mean_mm": float(length.mean()),
        "displacement_max_mm": float(length.max()),
        "inverse_consistency_mean_mm": mean,
        "inverse_consistency_max_mm": worst,
    }


def _inverse_consistency(found: Registration) -> tuple[float, float]:
    """Return mean and maximum of ``|x - (id + u)((id + w)(x))|`` in mm at every second voxel that stays inside."""
    grid = found.grid
    every = (slice(None), slice(None), *[slice(None, None, 2)] * grid.dim)
    w = found.inverse[every]
    points = identity(grid.shape, dtype=w.dtype, device=w.device)[every] + w
    last = torch.tensor(grid.shape, dtype=w.dtype, device=w.device).view(1, -1, *[1] * grid.dim) - 1
    stays = ((points >= 0) & (points <= last)).all(1)
    error = torch.linalg.vector_norm((w + sample(found.displacement, points)) * grid.per_axis(w), dim=1)[stays]
    return (float(error.mean()), float(error.max())) if len(error) else (math.nan, math.nan)


def _overlap(prepared: Prepared, labels: Tensor, fixed_labels: io.Volume) -> dict[str, float]:
    to_labels = io.voxel_to_voxel(prepared.fixed, fixed_labels)
    points = affine_points(identity(tuple(labels.shape), device=labels.device), to_labels)
    target = sample(tensor(fixed_labels, labels.device), points, "nearest", "zeros")[0, 0]
    scores = [s for s in dice(labels, target).values() if not math.isnan(s)]
    return {"dice_mean": sum(scores) / len(scores) if scores else math.nan, "labels": len(scores)}


def _correlation(a: Tensor, b: Tensor, weight: Tensor) -> float:
    count = _total(weight)
    a = (a - _total(a * weight) / count).mul_(weight)
    b = (b - _total(b * weight) / count).mul_(weight)
    return _total(a * b) / math.sqrt(_total(a.square()) * _total(b.square()) or math.nan)
