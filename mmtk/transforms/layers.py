"""Images of one or many layers on one grid: scalar images, label maps, series, vector images.

    (X, Y, Z)          one layer
    (X, Y, Z, T)       a series, such as a functional or diffusion scan: a layer for each time
    (X, Y, Z, 1, C)    a vector image, such as a displacement field: a layer for each component

Voxels keep the type in which the file has them where that is whole numbers, so that a label above 2^24 is still
itself; anything else becomes float32. Where NIfTI scales its numbers they are scaled.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mmtk.errors import InputError
from mmtk.io import Header, Volume, write_bytes, write_image
from mmtk.io.headers import array_header, existing_file, image_header, open_image, where
from mmtk.io.images import load, nifti, nifti_path
from mmtk.io.pictures import is_picture
from mmtk.io.space import as_numpy

__all__ = ["Layers", "read_layers", "write_layers"]

#: NIfTI's codes for vectors: ITK's, in LPS, and the standard's for displacements, in RAS.
VECTOR, DISPLACEMENT = 1007, 1006
_SECONDS = {"msec": 1e-3, "usec": 1e-6}


@dataclass(frozen=True, eq=False)
class Layers:
    """Images that share a grid.

    Attributes:
        header: The grid, the role of the image, its file.
        source: What the voxels are read from when they are asked for.
        tail: Lengths of the axes after those of space: ``()``, ``(T,)`` or ``(1, C)``.
        intent: NIfTI's code for what the numbers mean, 0 if it says nothing.
        step: Seconds from layer to layer of a series, 0 if unknown.
    """

    header: Header
    source: Any
    tail: tuple[int, ...] = ()
    intent: int = 0
    step: float = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along each axis of space."""
        return self.header.shape

    @property
    def affine(self) -> np.ndarray:
        """4x4, voxel to world."""
        return self.header.affine

    @property
    def count(self) -> int:
        """How many layers there are."""
        return int(np.prod(self.tail, dtype=int))

    @property
    def frame(self) -> str | None:
        """``"LPS"`` or ``"RAS"`` if the layers are the components of vectors in space; else None."""
        if self.count != len(self.shape):
            return None
        return {VECTOR: "LPS", DISPLACEMENT: "RAS"}.get(self.intent)

    @cached_property
    def data(self) -> np.ndarray:
        """All voxels, ``(count, *space)``.

        Raises:
            InputError: If they cannot be read.
        """
        header = self.header
        try:
            voxels = _voxels(self.source)
        except (
            Exception
        ) as error:  # gzip, zlib, mmap and nibabel each have their own way of finding the end too early
            raise InputError(
                f"{header.name}: the voxels of {where(header.path, 'image')} cannot be read "
                f"({(str(error).strip() or type(error).__name__).splitlines()[0][:160]}); the file is probably "
                f"truncated, so copy or download it again"
            ) from error
        stacked = voxels.reshape(*header.shape, self.count, order="F")
        return np.ascontiguousarray(np.moveaxis(stacked, -1, 0))


def read_layers(source: Any, *, name: str = "image") -> Layers:
    """Open an image; its voxels are read when they are asked for.

    Args:
        source: A path, a nibabel image, an array ``(*space)`` or a :class:`~mmtk.io.Volume`.
        name: The role of the image, named in messages.

    Raises:
        InputError: If it is no image, or has axes that mean nothing here.
    """
    if isinstance(source, (str, os.PathLike)):
        file = existing_file(source, name)
        source = load(file, name=name) if is_picture(file) else open_image(file, name)
    if isinstance(source, Volume):
        header = Header(source.shape, source.affine, source.storage, name, source.path, source.notes)
        return Layers(header, source)
    if not hasattr(source, "dataobj"):
        array = as_numpy(source)
        return Layers(array_header(array, name), array)
    return _opened(source, name)


def _opened(image: Any, name: str) -> Layers:
    filename = image.get_filename() if hasattr(image, "get_filename") else None
    tail: tuple[int, ...] = tuple(int(n) for n in image.shape[3:])
    if len(tail) > 2 and any(n > 1 for n in tail[2:]):
        raise InputError(
            f"{name}: {where(None if filename is None else Path(filename), 'nibabel image')} has {image.ndim} axes "
            f"{tuple(image.shape)}, but a series (X, Y, Z, T) or a vector image (X, Y, Z, 1, C) is the most that "
            f"can be carried; save its parts one by one"
        )
    if 0 in tail:
        raise InputError(
            f"{name}: the image has no voxels (shape {tuple(image.shape)}); give one with something in it"
        )
    tail = tail[:2]
    if all(n == 1 for n in tail):
        return Layers(image_header(image, name), image)
    header = image_header(image.slicer[(..., *[0] * (image.ndim - 3))], name)
    stated = getattr(image, "header", {})
    intent = int(stated["intent_code"]) if "intent_code" in stated else 0
    zooms: tuple[float, ...] = stated.get_zooms() if hasattr(stated, "get_zooms") else ()
    unit = _SECONDS.get(stated.get_xyzt_units()[1], 1.0) if hasattr(stated, "get_xyzt_units") else 1.0
    step = float(zooms[3]) * unit if len(zooms) > 3 and image.shape[3] > 1 else 0.0
    path = None if filename is None else Path(filename)
    return Layers(replace(header, path=path), image, tail, intent, step)


def _voxels(source: Any) -> np.ndarray:
    if isinstance(source, Volume):
        return source.data
    if not hasattr(source, "dataobj"):
        return _plain(source)
    stored = source.dataobj
    scaled = (getattr(stored, "slope", 1.0), getattr(stored, "inter", 0.0)) != (1.0, 0.0)
    if np.dtype(source.get_data_dtype()).kind in "biu" and not scaled:
        return _plain(np.asanyarray(stored))
    with np.errstate(over="ignore"):
        return source.get_fdata(caching="unchanged", dtype=np.float32)


def _plain(voxels: np.ndarray) -> np.ndarray:
    """Return voxels in a type of this machine: whole numbers as they are, others as float32."""
    if voxels.dtype.kind == "b":
        return voxels.astype(np.uint8)
    return voxels.astype(voxels.dtype.newbyteorder("=") if voxels.dtype.kind in "iu" else np.float32, copy=False)


def write_layers(path: str | os.PathLike[str], data: np.ndarray, like: Layers, on: Header) -> Path:
    """Write ``(count, *space)`` as NIfTI on a grid, with the further axes and the intent of ``like``.

    Raises:
        InputError: If the name does not end in .nii or .nii.gz.
    """
    target = nifti_path(path)
    data = _storable(data)
    if not like.tail:
        return write_image(target, data[0], on, data.dtype)
    storage = on.storage
    spatial = np.moveaxis(data, 0, -1)
    axis = storage.slice_axis if storage.slice_axis is not None else 2
    spatial = np.expand_dims(spatial, axis) if len(on.shape) == 2 else spatial
    codes = (storage.sform_code, storage.qform_code) if storage.located else (1, 1)
    image = nifti(spatial.reshape(*spatial.shape[:3], *like.tail, order="F"), storage.affine, codes)
    image.header.set_intent(like.intent, allow_unknown=True)
    if like.step:
        image.header.set_zooms((*image.header.get_zooms()[:3], like.step, *[1.0] * (len(like.tail) - 1)))
        image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = "mmtk"
    return write_bytes(target, image.to_bytes())


def _storable(data: np.ndarray) -> np.ndarray:
    """Return voxels in a type that other programs read: 64-bit whole numbers, where they fit, as 32 bits."""
    if data.dtype not in (np.int64, np.uint64):
        return data
    limits = np.iinfo(np.int32)
    fits = data.size == 0 or (data.min() >= limits.min and data.max() <= limits.max)
    return data.astype(np.int32) if fits else data.astype(np.float64)
