"""The numbers of one run, for ``metrics.json``: plain floats, grouped, NaN where a number has no meaning.

Squared errors are sums over voxels of the fixed grid of squared differences in normalized intensity (both images about
in [0, 1]), inside and outside the warped lesion mask; ``before`` is the affine placement alone.

Images are compared in the box that holds all that is not background, and the background beyond it is one product: of
a head without its skull that is a third of the voxels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmtk import io
from mmtk.fields import Grid, identity, sample
from mmtk.metrics import (
    Moments,
    dice,
    lesion_volume_kept,
    log_deviation,
    mass_effect,
    nondiffeomorphic_volume,
    squared_error,
    total,
)
from mmtk.outputs import Warped
from mmtk.prepare import Channel, Prepared, affine_points, tensor
from mmtk.result import Registration

__all__ = ["Compared", "deformation", "disentanglement", "lesion", "measure", "overlap", "similarity"]

Box = tuple[slice, ...]


@dataclass(frozen=True, eq=False)
class Compared:
    """Images on one grid and one intensity scale, cut to the box beyond which all are background.

    Attributes:
        fixed: ``(*box)``.
        images: By name: ``before`` (placed, not deformed), ``deformed`` (shape only), ``warped``; ``warped`` is always
            there.
        mask: The lesion on this grid, ``(*box)``, in [0, 1]; None without one.
        beyond: Voxels outside of the box.
        background: What the images, ``fixed`` too, are beyond.
    """

    fixed: Tensor
    images: Mapping[str, Tensor]
    mask: Tensor | None = None
    beyond: int = 0
    background: Mapping[str, float] = field(default_factory=dict)

    @property
    def outside(self) -> Tensor | None:
        """1 where the mask is 0, else 0."""
        return None if self.mask is None else (self.mask <= 0).to(self.fixed)

    @property
    def shape_only(self) -> str:
        """The name of the image whose intensities were not changed, as far as it is known."""
        return "deformed" if "deformed" in self.images else "warped"

    def error(self, one: str, other: str, weight: Tensor | None = None) -> float:
        """Return the squared error of two images over the whole grid, or of a region within the box."""
        a, b = self._of(one), self._of(other)
        if weight is not None:
            return squared_error(a, b, weight)
        return squared_error(a, b) + self.error_beyond(one, other)

    def error_beyond(self, one: str, other: str) -> float:
        """Return the squared error of two images outside of the box."""
        return self.beyond * (self.background[one] - self.background[other]) ** 2 if self.beyond else 0.0

    def correlation(self, one: str, other: str, weight: Tensor | None) -> float:
        """Return the correlation of two images over the whole grid, weighted in the box and 1 beyond it."""
        moments = Moments.of(self._of(one), self._of(other), weight)
        if self.beyond:
            moments += Moments.constant(self.background[one], self.background[other], self.beyond)
        return moments.correlation

    def _of(self, name: str) -> Tensor:
        return self.fixed if name == "fixed" else self.images[name]


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
    compared = _compared(prepared, found.grid, images)
    placed = abs(float(np.linalg.det(prepared.alignment.matrix[:3, :3])))
    report: dict[str, Any] = {
        "similarity": similarity(compared),
        "deformation": deformation(found.displacement, images.jacobian / placed, found.grid),
    }
    mean, worst = _inverse_consistency(found)
    report["deformation"] |= {"inverse_consistency_mean_mm": mean, "inverse_consistency_max_mm": worst}
    if images.mask is not None and prepared.mask is not None:
        mask = tensor(prepared.mask, images.mask.device)[0, 0]
        report["lesion"] = {
            "volume_ml": total(mask) * prepared.mask.grid.cell_volume / 1000,
            "warped_volume_ml": total(images.mask) * found.grid.cell_volume / 1000,
            "volume_kept": lesion_volume_kept(mask, images.mask, prepared.mask.grid, found.grid),
            **lesion(images.jacobian / placed, images.mask, tensor(prepared.fixed, mask.device)[0, 0], found.grid),
        }
    if images.appearance is not None:
        report["disentanglement"] = disentanglement(compared, found.grid)
    for channel in prepared.channels:
        if channel.fixed is not None:
            report[f"channel_{channel.name}"] = _of_channel(prepared, found, images, channel)
    if images.labels is not None and fixed_labels is not None:
        report["overlap"] = _overlap(prepared, images.labels, fixed_labels)
    return report


def _of_channel(prepared: Prepared, found: Registration, images: Warped, channel: Channel) -> dict[str, float]:
    """Return similarity and disentanglement of a further channel."""
    own = images.channels[channel.name]
    view = replace(images, warped=own.warped, deformed=own.deformed, appearance=own.appearance, channels={})
    compared = _compared(prepared.of(channel), found.grid, view)
    numbers = similarity(compared)
    return numbers if own.appearance is None else {**numbers, **disentanglement(compared, found.grid)}


def similarity(compared: Compared) -> dict[str, float]:
    """Return squared error and correlation with the fixed image, outside and inside the lesion."""
    outside, shape = compared.outside, compared.shape_only
    report = {}
    for end, name in (("_before", "before"), ("", shape)):
        if name in compared.images:
            error = compared.error(name, "fixed", outside)
            beyond = 0.0 if outside is None else compared.error_beyond(name, "fixed")
            report[f"squared_error_outside{end}"] = error + beyond
            report[f"correlation_outside{end}"] = compared.correlation(name, "fixed", outside)
    if outside is not None:
        report["squared_error_inside"] = compared.error("warped", "fixed", 1 - outside)
        if shape != "warped":
            report["squared_error_inside_shape_only"] = compared.error(shape, "fixed", 1 - outside)
    return report


def disentanglement(compared: Compared, grid: Grid) -> dict[str, float]:
    """Return whether shape and appearance were kept apart; ``deformed`` must be among the images.

    Outside of the mask is where it is 0: a voxel that the lesion covers in part may change.
    """
    outside = compared.outside
    change = compared.images["warped"] - compared.images["deformed"]
    report = {"appearance_outside_mask": 0.0}
    if outside is not None:
        squares = change.square_()
        everywhere = total(squares)
        leaked = squares.mul_(outside)
        energy = total(leaked)
        report["appearance_outside_mask"] = math.sqrt(float(leaked.max()))
        report["appearance_energy_outside"] = energy * grid.cell_volume
        report["appearance_leak"] = energy / everywhere if everywhere else math.nan
    if "before" in compared.images:
        moved, painted = (compared.error(*pair) for pair in (("deformed", "before"), ("warped", "deformed")))
        report["share_explained_by_shape"] = moved / (moved + painted) if moved + painted else math.nan
    return report


def lesion(determinant: Tensor, mask: Tensor, fixed: Tensor, grid: Grid) -> dict[str, float]:
    """Return what the lesion did to its surroundings, where the fixed image is not background.

    Args:
        determinant: Of the deformation, affine left out, ``(*space)``.
        mask: The lesion on the fixed grid, ``(*space)``, in [0, 1].
        fixed: The fixed image, ``(*space)``; its first voxel is background.
        grid: Of all three.
    """
    head = fixed != fixed[(0,) * fixed.ndim]
    compression, volume = mass_effect(determinant, mask, grid.spacing, where=head)
    return {"mass_effect": compression, "mass_effect_ml": volume / 1000}


def deformation(u: Tensor, determinant: Tensor, grid: Grid) -> dict[str, float]:
    """Return how far and how evenly a deformation moves.

    Args:
        u: ``(1, dim, *space)``, voxels.
        determinant: Of ``x -> x + u(x)``, ``(*space)``.
        grid: Of both.
    """
    least, most = (float(value) for value in determinant.aminmax())
    squares = sum((u[0, axis] * h).square_() for axis, h in enumerate(grid.spacing))
    assert isinstance(squares, Tensor)
    farthest = math.sqrt(float(squares.max()))
    inner = determinant[(slice(2, -2),) * grid.dim]
    return {
        "folds": 0 if least > 0 else int((~(determinant > 0)).sum()),
        "nondiffeomorphic_volume": nondiffeomorphic_volume(u, grid),
        "jacobian_min": least,
        "jacobian_max": most,
        "sdlogj": log_deviation(determinant),
        "sdlogj_learn2reg": log_deviation(inner + 3),
        "displacement_mean_mm": total(squares.sqrt_()) / grid.size,
        "displacement_max_mm": farthest,
    }


def overlap(labels: Tensor, target: Tensor) -> dict[str, float]:
    """Return the mean Dice of two label maps of one grid, and over how many labels."""
    scores = [s for s in dice(labels, target).values() if not math.isnan(s)]
    return {"dice_mean": sum(scores) / len(scores) if scores else math.nan, "labels": len(scores)}


def _compared(prepared: Prepared, grid: Grid, images: Warped) -> Compared:
    """Cut the images of a run to what is not background, and sample the affinely placed one there."""
    device, scale = images.warped.device, prepared.moving_scale
    fixed, moving = tensor(prepared.fixed, device)[0, 0], tensor(prepared.moving, device)
    ours, theirs = moving.flatten()[0], fixed.flatten()[0]
    parts = [_box(fixed != theirs), _box(images.deformed != ours), _reach(moving[0, 0], prepared.voxel_map, grid)]
    parts += [_box(field != 0) for field in (images.mask, images.appearance) if field is not None]
    box = _union(parts, grid.shape)
    start = identity(tuple(s.stop - s.start for s in box), dtype=moving.dtype, device=device)
    first = np.eye(4)
    first[: grid.dim, 3] = [s.start for s in box]
    before = sample(moving, affine_points(start, prepared.voxel_map @ first))[0, 0]
    # A map of intensities may be exact nowhere: the background goes through the same one.
    background = float(scale.apply(ours[None]))
    return Compared(
        fixed=prepared.fixed_scale.apply(fixed[box]),
        images={
            "before": scale.apply(before),
            "deformed": scale.apply(images.deformed[box]),
            "warped": scale.apply(images.warped[box]),
        },
        mask=None if images.mask is None else images.mask[box],
        beyond=grid.size - before.numel(),
        background={
            "fixed": float(prepared.fixed_scale.apply(theirs[None])),
            **dict.fromkeys(("before", "deformed", "warped"), background),
        },
    )


def _box(seen: Tensor) -> Box | None:
    """Return the box of what is True, or None if nothing is."""
    box = []
    for axis in range(seen.ndim):
        others = [a for a in range(seen.ndim) if a != axis]
        at = seen.any(dim=others[-1]).any(dim=others[0]) if len(others) == 2 else seen.any(dim=others[0])
        where = at.nonzero().flatten()
        if not len(where):
            return None
        box.append(slice(int(where[0]), int(where[-1]) + 1))
    return tuple(box)


def _reach(image: Tensor, matrix: np.ndarray, grid: Grid) -> Box | None:
    """Return the box of the fixed grid that an image's content, placed affinely, lies in.

    Content that touches a face of the image goes on beyond it, as its border does: that may be anywhere.
    """
    content = _box(image != image.flatten()[0])
    if content is None:
        return None
    if any(s.start == 0 or s.stop == n for s, n in zip(content, image.shape, strict=True)):
        return tuple(slice(0, n) for n in grid.shape)
    corners = np.ones((2**grid.dim, 4))
    corners[:, : grid.dim] = list(itertools.product(*((s.start - 1, s.stop) for s in content)))
    corners[:, grid.dim : 3] = 0
    placed = (corners @ np.linalg.inv(matrix).T)[:, : grid.dim]
    low, high = np.floor(placed.min(0)).astype(int), np.ceil(placed.max(0)).astype(int) + 1
    clipped = [(min(max(a, 0), n), min(max(b, 0), n)) for a, b, n in zip(low, high, grid.shape, strict=True)]
    return None if any(a == b for a, b in clipped) else tuple(slice(int(a), int(b)) for a, b in clipped)


def _union(boxes: Iterable[Box | None], shape: tuple[int, ...]) -> Box:
    known = [box for box in boxes if box is not None]
    if not known:
        return tuple(slice(0, n) for n in shape)
    return tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*known, strict=True))


def _inverse_consistency(found: Registration) -> tuple[float, float]:
    """Return mean and maximum of ``|x - (id + u)((id + w)(x))|`` in mm at every second voxel that stays inside."""
    grid = found.grid
    every = (slice(None), slice(None), *[slice(None, None, 2)] * grid.dim)
    w = found.inverse[every]
    points = identity(grid.shape, dtype=w.dtype, device=w.device)[every] + w
    last = torch.tensor(grid.shape, dtype=w.dtype, device=w.device).view(1, -1, *[1] * grid.dim) - 1
    stays = ((points >= 0) & (points <= last)).all(1)
    off = (w + sample(found.displacement, points)).mul_(grid.per_axis(w))
    error = off.square_().sum(1).sqrt_()[stays]
    return (float(error.mean()), float(error.max())) if len(error) else (math.nan, math.nan)


def _overlap(prepared: Prepared, labels: Tensor, fixed_labels: io.Volume) -> dict[str, float]:
    to_labels = io.voxel_to_voxel(prepared.fixed, fixed_labels)
    points = affine_points(identity(tuple(labels.shape), device=labels.device), to_labels)
    return overlap(labels, sample(tensor(fixed_labels, labels.device), points, "nearest", "zeros")[0, 0])
