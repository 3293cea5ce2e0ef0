"""Masks, made to lie on the grid of their image and to hold numbers in [0, 1].

Files that are given as masks hold labels, probabilities, 0 and 255, or a lesion drawn on another series of the
same patient. Each is taken for what it most likely is, and the volume's ``notes`` say what was done.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from mmtk.errors import InputError
from mmtk.io.headers import where
from mmtk.io.images import check_finite, load
from mmtk.io.space import as_numpy, spacing_of, voxel_to_voxel
from mmtk.io.volume import Volume

__all__ = ["read_mask"]

#: Grids whose voxels lie nearer to each other than this, in voxels, are one grid.
SAME_GRID = 1e-3
#: A probability may miss [0, 1] by this much, as interpolation leaves it; it is clipped.
SLACK = 0.05
#: What is as small as this is single precision's, and not worth a note.
ROUNDING = 1e-5
#: A mask that leaves uncovered less than this share of what is not background leaves nothing to register by. (A
#: brain mask leaves up to 4 % of its own brain, where a filter has blurred the rim.)
LEAST_UNCOVERED = 0.05
LOSSY = (".jpg", ".jpeg")


def read_mask(source: Any, *, like: Volume, name: str = "mask") -> Volume:
    """Read a mask onto the grid of its image.

    Numbers in [0, 1] stay as they are. A map of labels (whole numbers others than 0 and 1) becomes 1 wherever it
    is not 0. A mask on another grid is resampled linearly, after averaging where its own grid is the finer,
    so that a small lesion thins out but does not vanish; one without a position in space (an array, a picture, a
    header that does not say) must have the shape of its image, and is laid on it voxel by voxel.

    Args:
        source: A path, a nibabel image, an array or a :class:`Volume`.
        like: The image that the mask belongs to.
        name: The role of the mask, named in messages.

    Returns:
        The mask on the grid of ``like``, in [0, 1]; its ``notes`` say what was changed.

    Raises:
        InputError: If it cannot be read, has NaN, is empty, covers everything, or lies elsewhere.
    """
    mask = load(source, name=name, spacing=_fallback(source))
    if mask.dim != like.dim:
        raise InputError(
            f"{name}: {_label(mask)} is {mask.dim}-D but {like.name} is {like.dim}-D; give a mask of that image"
        )
    mask = _probabilities(mask)
    if not mask.data.any():
        raise InputError(
            f"{name}: {_label(mask)} is empty (every voxel is 0); mark the lesion in it, or leave out `{name}=`"
        )
    mask = _onto(mask, like)
    _check_cover(mask, like)
    return mask


def _label(mask: Volume) -> str:
    return where(mask.path, "mask")


def _fallback(source: Any) -> float | None:
    """Return the spacing by which a mask without geometry is read: any, since it will take that of its image."""
    return None if isinstance(source, Volume) else 1.0


def _probabilities(mask: Volume) -> Volume:
    """Return the mask with values in [0, 1]."""
    low, high = check_finite(mask)
    data = mask.data
    if mask.path is not None and mask.path.suffix.lower() in LOSSY:
        note = f"{_label(mask)} is compressed with loss; values above half of its greatest count."
        return _with(mask, data > high / 2, note)
    if low >= 0 and high <= 1:
        return mask
    if (data == np.rint(data)).all():
        labels = np.unique(data)
        seen = ", ".join(f"{v:g}" for v in labels[:8]) + (", ..." if len(labels) > 8 else "")
        return _with(mask, data != 0, f"{_label(mask)} holds the labels {seen}; any but 0 counts as lesion.")
    if low >= -SLACK and high <= 1 + SLACK:
        note = f"{_label(mask)} runs from {low:.3g} to {high:.3g}; it is clipped to [0, 1]."
        clipped = np.clip(data, 0, 1)
        return _with(mask, clipped, note) if max(-low, high - 1) > ROUNDING else replace(mask, data=clipped)
    raise InputError(
        f"{mask.name}: {_label(mask)} holds fractions from {low:.3g} to {high:.3g}, but labels (whole numbers) or "
        f"probabilities in [0, 1] are expected; threshold it, or divide it by its greatest value"
    )


def _with(mask: Volume, data: np.ndarray, note: str) -> Volume:
    return replace(mask, data=data, notes=(*mask.notes, note))


def _onto(mask: Volume, like: Volume) -> Volume:
    """Return the mask on the grid of its image."""
    if mask.shape == like.shape and (not mask.storage.located or _same_grid(mask, like)):
        return _settled(mask, like, mask.data)
    if mask.storage.located and like.storage.located:
        return _resampled(mask, like)
    if mask.shape == like.shape:
        note = f"{like.name} has no position in space, so {_label(mask)} is laid on it voxel by voxel."
        return _settled(mask, like, mask.data, note)
    lost = _label(mask) if not mask.storage.located else like.name
    raise InputError(
        f"{mask.name}: {_label(mask)} has the shape {mask.shape} but {like.name} has {like.shape}, and as {lost} "
        f"has no position in space it cannot be resampled; give a mask of the same shape, or files whose headers "
        f"say where they lie"
    )


def _settled(mask: Volume, like: Volume, data: np.ndarray, *notes: str) -> Volume:
    storage = replace(like.storage, dtype=mask.storage.dtype)
    return Volume(data, like.affine, storage, mask.name, mask.path, (*mask.notes, *notes))


def _same_grid(mask: Volume, like: Volume) -> bool:
    difference = voxel_to_voxel(like, mask) - np.eye(4)
    dim = like.dim
    far = np.abs(difference[:dim, :dim]) @ (np.array(like.shape) - 1) + np.abs(difference[:dim, 3])
    return bool(far.max() < SAME_GRID)


def _resampled(mask: Volume, like: Volume) -> Volume:
    from scipy import ndimage

    dim = like.dim
    to_mask = voxel_to_voxel(like, mask)[:dim]
    data = mask.data
    # One voxel of the image may span several of the mask: average first, or a small lesion falls between samples.
    span = np.minimum(np.linalg.norm(to_mask[:, :dim], axis=1), 2 * max(mask.shape))
    if span.max() > 1.01:
        data = ndimage.gaussian_filter(data, 0.5 * np.sqrt(np.maximum(span**2 - 1, 0)), mode="nearest", truncate=3)
    data = ndimage.affine_transform(
        data, to_mask[:, :dim], to_mask[:, 3], like.shape, np.float32, order=1, mode="constant"
    )
    np.clip(data, 0, 1, out=data)
    before, after = _measure(mask.data, mask), _measure(data, like)
    if not after > 1e-3 * before:
        raise InputError(
            f"{mask.name}: {_label(mask)} does not overlap {like.name} in space: its lesion lies around "
            f"{_center(mask)} mm, {like.name} spans {_extent(like)}; give a mask drawn on that image, or bring it "
            f"into that image's space"
        )
    unit = "ml" if dim == 3 else "cm^2"
    rest = "; the rest lies outside" if after < 0.9 * before else ""
    note = (
        f"{_label(mask)} lies on another grid (shape {mask.shape}) and was resampled onto {like.name} (shape "
        f"{like.shape}): {before:.3g} {unit} of lesion before, {after:.3g} {unit} after{rest}."
    )
    return _settled(mask, like, data, note)


def _measure(data: np.ndarray, on: Volume) -> float:
    """Return the volume of a mask in ml, or its area in cm^2."""
    return float(data.sum(dtype=np.float64)) * float(np.prod(spacing_of(on.affine, on.dim))) / 10**on.dim


def _center(mask: Volume) -> str:
    voxel = np.array([axis.mean() for axis in np.nonzero(mask.data)])
    point = mask.affine[: mask.dim, : mask.dim] @ voxel + mask.affine[: mask.dim, 3]
    return "(" + ", ".join(f"{x:.0f}" for x in point) + ")"


def _extent(image: Volume) -> str:
    ends = np.meshgrid(*[(0, n - 1) for n in image.shape], indexing="ij")
    corners = image.affine[: image.dim, : image.dim] @ np.reshape(ends, (image.dim, -1))
    corners = corners + image.affine[: image.dim, 3:]
    spans = zip("xyz", corners.min(axis=1), corners.max(axis=1), strict=False)
    return ", ".join(f"{x} {low:.0f} to {high:.0f}" for x, low, high in spans)


def _check_cover(mask: Volume, like: Volume) -> None:
    """Refuse a mask that leaves nothing to compare but background."""
    uncovered = mask.data < 0.5
    image = as_numpy(like.data)
    foreground = image != _background(image)
    kept = int(np.count_nonzero(uncovered & foreground))
    if kept <= LEAST_UNCOVERED * int(np.count_nonzero(foreground)):
        raise InputError(
            f"{mask.name}: {_label(mask)} covers all of {like.name}, so nothing is left to compare; it must mark "
            f"the lesion alone (is it a brain mask, or 1 and 0 the wrong way round?)"
        )


def _background(image: np.ndarray) -> float:
    """Return the value that most of the image's faces have, if most have one; else one that no voxel has."""
    faces = np.concatenate([np.take(image, end, axis).ravel() for axis in range(image.ndim) for end in (0, -1)])
    middle = np.median(faces)
    return float(middle) if (faces == middle).mean() > 0.5 else float("nan")
