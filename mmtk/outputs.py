"""From what a method found to images on the native fixed grid, and to the files of a run.

Every output image is sampled once, from the native moving image through the whole transform. Intensities are in the
moving image's own unit: the appearance, found on the common scale, goes back through the inverse of that scale.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmtk import io
from mmtk.fields import identity, jacobian_determinant, sample
from mmtk.prepare import Prepared, affine_points, tensor
from mmtk.result import Registration

__all__ = ["Warped", "WarpedChannel", "warp_native", "write_outputs"]


@dataclass(frozen=True, eq=False)
class WarpedChannel:
    """What a further channel becomes; see :class:`Warped`. A channel that was only carried has no appearance."""

    warped: Tensor
    deformed: Tensor
    appearance: Tensor | None


@dataclass(frozen=True, eq=False)
class Warped:
    """The images that a registration makes, ``(*space)`` of the native fixed grid.

    Attributes:
        warped: Shape and appearance, in the moving image's unit.
        deformed: Shape only.
        appearance: ``warped - deformed``, exactly 0 where the warped mask is 0; None without appearance.
        mask: The lesion mask carried along, in [0, 1]; None without one.
        labels: The label map carried along by nearest neighbor; None without one.
        jacobian: Determinant of the whole map in world mm, affine included: below 1 where the map from fixed to
            moving compresses.
        channels: The further channels by name.
    """

    warped: Tensor
    deformed: Tensor
    appearance: Tensor | None
    mask: Tensor | None
    labels: Tensor | None
    jacobian: Tensor
    channels: Mapping[str, WarpedChannel] = field(default_factory=dict)


def warp_native(prepared: Prepared, found: Registration, labels: io.Volume | None = None) -> Warped:
    """Sample everything once through affine and displacement together."""
    u = found.displacement
    carried = None if labels is None else _carry(labels, prepared, u)
    change = None if found.appearance is None else found.appearance[:, :1]
    first, mask = _channel(prepared, u, change)
    channels = {}
    for channel in prepared.channels:
        painted = found.appearance is not None and channel.index is not None
        change = found.appearance[:, channel.index, None] if painted else None  # type: ignore[index]
        channels[channel.name] = _channel(prepared.of(channel), u, change)[0]
    placed = abs(float(np.linalg.det(prepared.alignment.matrix[:3, :3])))
    return Warped(
        warped=first.warped,
        deformed=first.deformed,
        appearance=first.appearance,
        mask=mask,
        labels=carried,
        jacobian=jacobian_determinant(u)[0, 0] * placed,
        channels=channels,
    )


def _channel(prepared: Prepared, u: Tensor, change: Tensor | None) -> tuple[WarpedChannel, Tensor | None]:
    """Sample one channel and its mask."""
    points = affine_points(identity(tuple(u.shape[2:]), dtype=u.dtype, device=u.device) + u, prepared.voxel_map)
    deformed = sample(tensor(prepared.moving, u.device), points)
    mask = None if prepared.mask is None else sample(tensor(prepared.mask, u.device), points, padding="zeros")
    warped, appearance = deformed, None
    if change is not None:
        warped = _painted(prepared, deformed, mask, change)
        appearance = (warped - deformed)[0, 0]
    return WarpedChannel(warped[0, 0], deformed[0, 0], appearance), None if mask is None else mask[0, 0]


def _carry(labels: io.Volume, prepared: Prepared, u: Tensor) -> Tensor:
    """Carry a label map, which may lie on another grid than the moving image, by nearest neighbor."""
    to_labels = io.voxel_to_voxel(prepared.fixed, labels, prepared.alignment.matrix)
    points = affine_points(identity(tuple(u.shape[2:]), dtype=u.dtype, device=u.device) + u, to_labels)
    return sample(tensor(labels, u.device), points, "nearest", "zeros")[0, 0]


def _painted(prepared: Prepared, deformed: Tensor, mask: Tensor | None, change: Tensor) -> Tensor:
    """Add an appearance found on the common scale; where the mask is 0 nothing is touched, not even rounded."""
    scale = prepared.moving_scale
    total = scale.invert(scale.apply(deformed) + change)
    return total if mask is None else torch.where(mask > 0, total, deformed)


def write_outputs(
    out: Path,
    prepared: Prepared,
    found: Registration,
    images: Warped,
    settings: Mapping[str, Any],
    wrote: Callable[[str], None] = lambda name: None,
) -> list[str]:
    """Write images and transforms into an existing folder and return the names of the files.

    Every file is written under a temporary name and renamed when complete.
    """
    fixed, matrix = prepared.fixed, prepared.alignment.matrix
    u, back = found.displacement[0].cpu().numpy(), found.inverse[0].cpu().numpy()
    jobs: list[tuple[str, Callable[[Path], Any]]] = []

    def image(name: str, data: Tensor | None, dtype: Any = np.float32) -> None:
        if data is not None:
            array = data.cpu().numpy()
            jobs.append((name, lambda path: io.write_image(path, array, fixed, dtype=dtype)))

    image("warped.nii.gz", images.warped)
    image("deformed.nii.gz", images.deformed)
    image("appearance.nii.gz", images.appearance)
    image("warped_mask.nii.gz", images.mask)
    image("warped_labels.nii.gz", images.labels, np.int32)
    image("jacobian.nii.gz", images.jacobian)
    for name, channel in images.channels.items():
        for what in ("warped", "deformed", "appearance"):
            image(f"{what}_{name}.nii.gz", getattr(channel, what))
    jobs += [
        ("displacement.nii.gz", lambda path: io.write_displacement(path, u, fixed, matrix)),
        ("transform.h5", lambda path: io.write_transform(path, u, fixed, matrix)),
        ("inverse_transform.h5", lambda path: io.write_inverse_transform(path, back, fixed, matrix)),
        ("shape.safetensors", lambda path: write_shape(path, found, settings)),
    ]
    for name, job in jobs:
        job(out / name)
        wrote(name)
    return [name for name, _ in jobs]


def write_shape(path: Path, found: Registration, settings: Mapping[str, Any]) -> None:
    """Write the coefficients of the deformation, with the settings that give them their meaning."""
    from safetensors.torch import save

    tensors = {name: value.detach().cpu().contiguous() for name, value in found.shape.items()}
    notes = {
        "format": "mmtk.shape.1",
        "grid": json.dumps({"shape": found.grid.shape, "spacing": found.grid.spacing}),
        "settings": json.dumps(settings, default=str),
    }
    io.write_bytes(path, save(tensors, notes))
