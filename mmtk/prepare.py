"""From files to a pair of tensors: read, check, place affinely, bring to one intensity scale.

Everything here happens once, before the method. The native images are kept: what a run writes is sampled from
them, once, through the whole transform. The placed moving image exists only to be optimized with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmtk.align import Alignment, align
from mmtk.errors import InputError
from mmtk.fields import identity, sample
from mmtk.intensity import Normalizer, Scaling, pair_normalizers
from mmtk.io import Volume, read_image, read_mask, voxel_to_voxel
from mmtk.method import Pair
from mmtk.modalities import channel_names

__all__ = ["Channel", "Prepared", "affine_points", "place", "prepare"]

#: A face of the moving image with more tissue than this on it is taken for cut off: what lies beyond is unknown.
CUT_FACE = 0.005
#: From this share of the fixed image on it is said how much of it the moving one does not show.
UNSEEN = 0.005


@dataclass(frozen=True, eq=False)
class Channel:
    """A channel beside the first: another modality of the same two patients, placed as the first one is.

    Attributes:
        name: Such as ``t1ce``, in names of files and metrics.
        moving: Native volume, on a grid of its own.
        fixed: On the grid of the first fixed image; None if that side lacks the channel, which is then only carried.
        mask: The lesion on the channel's moving grid.
        moving_scale, fixed_scale: As of :class:`Prepared`.
        index: Which channel of the pair it is; None where it is only carried.
    """

    name: str
    moving: Volume
    fixed: Volume | None
    mask: Volume | None
    moving_scale: Normalizer
    fixed_scale: Normalizer
    index: int | None


@dataclass(frozen=True, eq=False)
class Prepared:
    """A pair ready to be registered, and all that is needed to write its results.

    Attributes:
        moving, fixed, mask, fixed_mask: Native volumes; the masks lie on the grid of their image.
        alignment: The affine placement, world mm, fixed to moving.
        moving_scale, fixed_scale: Invertible maps to the common intensity scale.
        pair: The tensors that the method sees.
        notes: Sentences for the user.
        channels: What there is beside the first channel, which all of the above are of.
        name: Of the first channel; empty if it is the only one.
    """

    moving: Volume
    fixed: Volume
    mask: Volume | None
    fixed_mask: Volume | None
    alignment: Alignment
    moving_scale: Normalizer
    fixed_scale: Normalizer
    pair: Pair
    notes: tuple[str, ...] = field(default=())
    channels: tuple[Channel, ...] = ()
    name: str = ""

    def of(self, channel: Channel) -> Prepared:
        """Return the same for another channel, as if it were the only one."""
        return replace(
            self,
            moving=channel.moving,
            fixed=channel.fixed or self.fixed,
            mask=channel.mask,
            moving_scale=channel.moving_scale,
            fixed_scale=channel.fixed_scale,
            channels=(),
        )

    @property
    def voxel_map(self) -> np.ndarray:
        """The placement as a matrix from fixed to moving voxels, 4x4."""
        return voxel_to_voxel(self.fixed, self.moving, self.alignment.matrix)


def prepare(
    *,
    moving: Any,
    fixed: Any,
    mask: Any = None,
    fixed_mask: Any = None,
    init: str = "affine",
    normalize: Scaling = "robust",
    spacing: tuple[float, ...] | None = None,
    device: torch.device | str = "cpu",
    more_moving: Sequence[Any] = (),
    more_fixed: Sequence[Any] = (),
    more_mask: Sequence[Any] = (),
) -> Prepared:
    """Read two images and their masks and bring them onto one grid and one intensity scale.

    Args:
        moving, fixed: A path, a nibabel image, an array or a :class:`~mmtk.io.Volume`.
        mask: Lesion on the moving image, likewise; any non-zero voxel counts.
        fixed_mask: Lesion on the fixed image.
        init: ``none``, ``center``, ``rigid``, ``affine``, or the path of a transform file.
        normalize: ``robust``, ``histogram`` or ``none``.
        spacing: mm per pixel for images whose file does not say.
        device: Where the tensors go.
        more_moving, more_fixed: The further channels, one for one; None where a side lacks it. Scans of one
            patient lie in one space, on grids that may differ. The first channel is what places them.
        more_mask: The lesion in each of them; the first one's if there are none.

    Raises:
        InputError: If an image or a mask cannot be used; the message says what to do.
    """
    source = read_image(moving, name="moving", spacing=spacing)
    target = read_image(fixed, name="fixed", spacing=spacing)
    if source.dim != target.dim:
        raise InputError(
            f"moving is {source.dim}-D but fixed is {target.dim}-D; give two images of the same dimension"
        )
    notes: list[str] = []
    lesion = None if mask is None else read_mask(mask, like=source, name="mask")
    other = None if fixed_mask is None else read_mask(fixed_mask, like=target, name="fixed_mask")
    for volume in (source, target, lesion, other):
        notes.extend(() if volume is None else volume.notes)
    placement = align(source, target, kind=init, moving_mask=lesion, fixed_mask=other, device=device)
    if placement.note:
        notes.append(placement.note)
    moving_scale, fixed_scale = pair_normalizers(
        source.data,
        target.data,
        None if lesion is None else lesion.data,
        None if other is None else other.data,
        how=normalize,
    )
    pair = _pair(source, target, lesion, other, placement.matrix, moving_scale, fixed_scale, device)
    sides = list(zip(more_moving, more_fixed, strict=True))
    names = channel_names([_file(moving), *(_file(ours) or _file(theirs) for ours, theirs in sides)])
    channels: list[Channel] = []
    for number, (name, (ours, theirs)) in enumerate(zip(names[1:], sides, strict=True)):
        if ours is None:
            notes.append(f"{name}: only the fixed side has it, so it was not used")
            continue
        drawn = more_mask[number] if more_mask and more_mask[number] is not None else mask
        count = 1 + sum(channel.index is not None for channel in channels)
        channels.append(_channel(name, ours, theirs, drawn, target, other, lesion, normalize, spacing, count))
        if theirs is None:
            notes.append(f"{name}: only the moving side has it, so it was carried, not compared")
    pair = _with_channels(pair, channels, target, placement.matrix, device, own_masks=bool(more_mask))
    notes.extend(_unseen(pair))
    return Prepared(
        source, target, lesion, other, placement, moving_scale, fixed_scale, pair, tuple(notes), tuple(channels),
        names[0] if channels else "",
    )  # fmt: skip


def _file(source: Any) -> Path | None:
    path = source.path if isinstance(source, Volume) else source
    return Path(path) if isinstance(path, (str, Path)) else None


def _channel(
    name: str,
    moving: Any,
    fixed: Any,
    mask: Any,
    target: Volume,
    other: Volume | None,
    lesion: Volume | None,
    normalize: Scaling,
    spacing: tuple[float, ...] | None,
    index: int,
) -> Channel:
    """Read one further channel, bring its fixed image onto the first one's grid, and find both scales."""
    source = read_image(moving, name=f"moving ({name})", spacing=spacing)
    if source.dim != target.dim:
        raise InputError(
            f"moving ({name}) is {source.dim}-D but fixed is {target.dim}-D; give channels of one dimension"
        )
    drawn = lesion if mask is None else read_mask(mask, like=source, name=f"mask ({name})")
    if fixed is None:
        own, _ = pair_normalizers(
            source.data, source.data, None if drawn is None else drawn.data, None, how="none"
        )
        return Channel(name, source, None, drawn, own, own, None)
    there = read_image(fixed, name=f"fixed ({name})", spacing=spacing)
    if there.shape != target.shape or not np.allclose(there.affine, target.affine, atol=1e-4):
        placed = place(tensor(there), voxel_to_voxel(target, there), tuple(target.shape))
        there = replace(there, data=placed[0, 0].numpy(), affine=target.affine, storage=target.storage)
    scales = pair_normalizers(
        source.data,
        there.data,
        None if drawn is None else drawn.data,
        None if other is None else other.data,
        how=normalize,
    )
    return Channel(name, source, there, drawn, *scales, index)


def _with_channels(
    pair: Pair,
    channels: Sequence[Channel],
    target: Volume,
    matrix: np.ndarray,
    device: torch.device | str,
    *,
    own_masks: bool,
) -> Pair:
    """Add the channels that both sides have."""
    compared = [channel for channel in channels if channel.fixed is not None]
    if not compared:
        return pair
    moving, fixed, masks = [pair.moving], [pair.fixed], [pair.mask]
    shape = tuple(target.shape)
    for channel in compared:
        assert channel.fixed is not None
        there = voxel_to_voxel(target, channel.moving, matrix)
        moving.append(place(channel.moving_scale.apply(tensor(channel.moving, device)), there, shape))
        fixed.append(channel.fixed_scale.apply(tensor(channel.fixed, device)))
        if own_masks and channel.mask is not None:
            masks.append(place(tensor(channel.mask, device), there, shape).clamp(0, 1))
    several = [mask for mask in masks if mask is not None]
    return replace(
        pair,
        moving=torch.cat(moving, 1),
        fixed=torch.cat(fixed, 1),
        mask=torch.cat(several, 1) if several else None,
    )


def tensor(volume: Volume, device: torch.device | str = "cpu") -> Tensor:
    """Return a volume as ``(1, C, *space)``, float32."""
    data = torch.from_numpy(np.ascontiguousarray(volume.data, dtype=np.float32)).to(device)
    return data[None, None] if data.ndim == volume.dim else data[None]


def affine_points(points: Tensor, matrix: np.ndarray) -> Tensor:
    """Return ``matrix @ points``: ``(B, dim, *out)`` voxel coordinates through a 4x4 matrix."""
    dim = points.shape[1]
    linear = torch.as_tensor(matrix[:dim, :dim], dtype=points.dtype, device=points.device)
    offset = torch.as_tensor(matrix[:dim, 3], dtype=points.dtype, device=points.device)
    moved = torch.tensordot(linear, points.movedim(1, 0), dims=1).movedim(0, 1)
    return moved + offset.view(1, dim, *[1] * (points.ndim - 2))


def place(image: Tensor, matrix: np.ndarray, shape: tuple[int, ...]) -> Tensor:
    """Return an image resampled onto another grid through a voxel-to-voxel matrix, ``(1, C, *shape)``.

    A grid coarser than the image would alias; its fine detail is smoothed away first.
    """
    dim = len(shape)
    if tuple(image.shape[2:]) == tuple(shape) and np.allclose(matrix, np.eye(4), atol=1e-6):
        return image
    points = affine_points(identity(shape, dtype=image.dtype, device=image.device), matrix)
    return sample(_antialias(image, matrix[:dim, :dim]), points)


def _antialias(image: Tensor, linear: np.ndarray) -> Tensor:
    from mmtk.optimize import Axis, smooth_and_sample

    # How many moving voxels one step along the fixed axes crosses, for each axis of the moving image.
    steps = np.abs(linear).max(axis=1)
    sigma = [0.4 * s if s > 1.3 else 0.0 for s in steps]
    if not any(sigma):
        return image
    return smooth_and_sample(image, [Axis(0, 1, n) for n in image.shape[2:]], sigma)


def _pair(
    source: Volume,
    target: Volume,
    lesion: Volume | None,
    other: Volume | None,
    matrix: np.ndarray,
    moving_scale: Normalizer,
    fixed_scale: Normalizer,
    device: torch.device | str,
) -> Pair:
    shape = tuple(target.shape)
    to_moving = voxel_to_voxel(target, source, matrix)
    moving = tensor(source, device)
    return Pair(
        moving=place(moving_scale.apply(moving), to_moving, shape),
        fixed=fixed_scale.apply(tensor(target, device)),
        grid=target.grid,
        mask=None if lesion is None else place(tensor(lesion, device), to_moving, shape).clamp(0, 1),
        fixed_mask=None if other is None else tensor(other, device),
        inside=_inside(moving, to_moving, shape),
        affine=target.affine,
    )


def _unseen(pair: Pair) -> list[str]:
    """Say how much of the fixed image the moving one does not show."""
    if pair.inside is None:
        return []
    content = pair.fixed[:, :1] != pair.fixed[(slice(0, 1), slice(0, 1), *[slice(0, 1)] * pair.grid.dim)]
    share = float((content & (pair.inside == 0)).sum() / content.sum().clamp_min(1))
    if share < UNSEEN:
        return []
    return [
        f"{share:.0%} of the fixed image lies outside the moving image's field of view: there nothing was compared, and "
        f"warped and deformed repeat the moving image's border"
    ]


def _inside(moving: Tensor, matrix: np.ndarray, shape: tuple[int, ...]) -> Tensor | None:
    """Return 1 where the moving image has data, 0 beyond a face where its content is cut off; None if all 1."""
    dim = len(shape)
    background = moving[(0, 0, *[0] * dim)]
    points = affine_points(identity(shape, dtype=moving.dtype, device=moving.device), matrix)
    seen: Tensor | None = None
    for axis, n in enumerate(moving.shape[2:]):
        for face, beyond in ((0, points[:, axis] < -0.5), (n - 1, points[:, axis] > n - 0.5)):
            plane = moving.select(axis + 2, face)
            if float((plane != background).float().mean()) > CUT_FACE and bool(beyond.any()):
                seen = torch.ones_like(points[:, :1]) if seen is None else seen
                seen[beyond[:, None]] = 0
    return seen
