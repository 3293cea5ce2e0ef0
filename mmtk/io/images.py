"""Reading images from anything that holds one, and writing results as the image came.

Checks come in the order of what they cost: the path, the header, the voxels. None of them needs torch.
"""

from __future__ import annotations

import gzip
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mmtk.errors import GridMismatch, InputError
from mmtk.io.files import write_bytes
from mmtk.io.headers import (
    Spacing,
    array_header,
    existing_file,
    image_header,
    open_image,
    picture_header,
    where,
)
from mmtk.io.memory import check_memory
from mmtk.io.pictures import gray, is_picture, open_picture
from mmtk.io.space import as_numpy, shear
from mmtk.io.volume import Header, Volume

__all__ = ["load", "read_image", "write_image"]

LONGEST_NIFTI1_AXIS = 32767
PACKED = (".gz", ".mgz")
#: Bytes that are unpacked behind the last voxel to come to the checksum.
BEYOND = 1 << 16


def read_image(source: Any, *, name: str = "moving", spacing: Spacing = None) -> Volume:
    """Read one image of one channel.

    Args:
        source: A path; a nibabel image; an array or tensor ``(*space)``; a :class:`Volume`. Trailing axes of
            length 1 are dropped, and three axes with a single slice are a 2-D image. PNG, JPEG and TIFF are 2-D.
        name: The role of the image, named in messages: ``moving``, ``fixed``.
        spacing: mm, one number or one for each axis, for a source that does not say where its voxels lie
            (1 mm for arrays and pictures if None). Ignored, with a note, for one that does.

    Raises:
        InputError: If it cannot be used; one sentence says what was seen, what was expected and what to do.
    """
    volume = load(source, name=name, spacing=spacing)
    low, high = check_finite(volume)
    if low == high:
        raise InputError(
            f"{name}: every voxel of {where(volume.path, 'image')} is {low:g}, and a constant image cannot be "
            f"registered; check that it is the right file and was exported well"
        )
    if (
        spacing is not None
        and not isinstance(source, Volume)
        and not np.allclose(spacing, volume.spacing, rtol=1e-3)
    ):
        note = f"{where(volume.path, 'image')} says its own spacing; `spacing` is not used for it."
        return replace(volume, notes=(*volume.notes, note))
    return volume


def load(source: Any, *, name: str, spacing: Spacing = None) -> Volume:
    """Read an image without asking what its voxels are worth; masks have rules of their own.

    Raises:
        InputError: If there is no image to be had.
    """
    if isinstance(source, Volume):
        return replace(source, name=name)
    if isinstance(source, (str, os.PathLike)):
        file = existing_file(source, name)
        return (
            _picture(file, name, spacing)
            if is_picture(file)
            else _image(open_image(file, name), name, spacing, file)
        )
    if hasattr(source, "dataobj"):
        return _image(source, name, spacing)
    array = as_numpy(source)
    return _volume(array_header(array, name, spacing), array)


def check_finite(volume: Volume) -> tuple[float, float]:
    """Return the least and the greatest voxel.

    Raises:
        InputError: If a voxel is NaN or infinite; they are counted.
    """
    low, high = float(volume.data.min()), float(volume.data.max())  # either is NaN where a voxel is
    if np.isfinite(low) and np.isfinite(high):
        return low, high
    nan, wrong = int(np.isnan(volume.data).sum()), int((~np.isfinite(volume.data)).sum())
    raise InputError(
        f"{volume.name}: {where(volume.path, 'image')} has {nan:,} NaN and {wrong - nan:,} infinite voxels, but "
        f"every voxel must be a number; replace them first, for instance by `numpy.nan_to_num`"
    )


def _image(image: Any, name: str, spacing: Spacing, file: Path | None = None) -> Volume:
    header = image_header(image, name, spacing)
    if header.path is not None:
        # As the file has them, twice where it is compressed, as float32, and once more in C order.
        copies = 2 if header.path.suffix.lower() in PACKED else 1
        check_memory(
            math.prod(header.shape) * (copies * header.storage.dtype.itemsize + 8),
            f"{name}: to read the {math.prod(header.shape):,} voxels of {where(header.path)}",
            "crop or downsample it, or read it on a machine with more",
        )
    try:
        whole = image if file is None else _unpacked(image, file)
        with np.errstate(over="ignore"):  # what is beyond float32's range becomes infinite and is counted as such
            voxels = whole.get_fdata(caching="unchanged", dtype=np.float32)
    except Exception as error:  # gzip, zlib, mmap and nibabel each have their own way of finding the end too early
        raise InputError(
            f"{name}: the voxels of {where(header.path, 'nibabel image')} cannot be read "
            f"({(str(error).strip() or type(error).__name__).splitlines()[0][:160]}); "
            f"the file is truncated or damaged, so copy or download it again"
        ) from error
    return _volume(header, voxels)


def _unpacked(image: Any, file: Path) -> Any:
    """Return the image of a gzipped file, unpacked as far as its header says, its checksum compared.

    nibabel stops before the checksum, and so takes a file with wrong bits for a good one.
    """
    from nibabel import imageglobals

    offset = getattr(image.dataobj, "offset", None)
    if offset is None or file.suffix.lower() not in PACKED:
        return image
    count = offset + math.prod(image.shape) * np.dtype(image.get_data_dtype()).itemsize
    with gzip.open(file) as packed:
        data = packed.read(count)
        try:
            packed.read(BEYOND)
        except gzip.BadGzipFile as error:
            if not str(error).startswith("Not a gzipped file"):  # something else behind it, which is nobody's harm
                raise
    with imageglobals.LoggingOutputSuppressor():  # it has said already what is odd about the header
        return type(image).from_bytes(data)


def _picture(file: Path, name: str, spacing: Spacing) -> Volume:
    with open_picture(file, name) as picture:
        header = picture_header(picture.size, picture.mode, file, name, spacing)
        pixels, notes = gray(picture, file, name)
    return _volume(replace(header, notes=(*header.notes, *notes)), pixels)


def _volume(header: Header, voxels: np.ndarray) -> Volume:
    with np.errstate(over="ignore"):
        data = np.ascontiguousarray(voxels.reshape(header.shape, order="A"), dtype=np.float32)
    return Volume(data, header.affine, header.storage, header.name, header.path, header.notes)


def write_image(
    path: str | os.PathLike[str],
    data: Any,
    like: Volume | Header,
    dtype: Any = np.float32,
    *,
    description: str = "mmtk",
) -> Path:
    """Write voxels on the grid of an image, as NIfTI, and return the path.

    Affine, sform and qform codes and the number of axes are those of ``like``'s file; both forms, where set,
    tell the affine that was used. The file appears whole or not at all.

    Args:
        path: Ends in ``.nii`` or ``.nii.gz``.
        data: ``(*space)``, or with leading axes of length 1; array or tensor.
        like: The volume whose grid the data lies on.
        dtype: Type of the voxels in the file; values are rounded and clipped to a type of whole numbers.

    Raises:
        GridMismatch: If ``data`` does not lie on the grid of ``like``.
        InputError: If the name ends otherwise.
    """
    target = nifti_path(path)
    voxels = as_numpy(data)
    while voxels.ndim > like.dim and voxels.shape[0] == 1:
        voxels = voxels[0]
    if voxels.shape != like.shape:
        raise GridMismatch("data", voxels.shape, like.name, like.shape)
    kind = np.dtype(dtype)
    if kind.kind in "iu":
        limits = np.iinfo(kind)
        voxels = np.clip(np.rint(voxels), limits.min, limits.max)
    storage = like.storage
    if storage.slice_axis is not None:
        voxels = np.expand_dims(voxels, storage.slice_axis)
    codes = (storage.sform_code, storage.qform_code) if storage.located else (1, 1)
    image = nifti(voxels.astype(kind, copy=False), storage.affine, codes)
    image.header["descrip"] = description
    return write_bytes(target, image.to_bytes())


def nifti_path(path: str | os.PathLike[str]) -> Path:
    """Return the path if it names a NIfTI file.

    Raises:
        InputError: If it does not.
    """
    if not str(path).lower().endswith((".nii", ".nii.gz")):
        raise InputError(f"'{path}' does not end in .nii or .nii.gz; results are written as NIfTI, so name it so")
    return Path(path)


def nifti(voxels: np.ndarray, affine: np.ndarray, codes: tuple[int, int]) -> Any:
    """Return a nibabel image in mm, with the affine in sform and qform as far as their codes say.

    A qform cannot hold a sheared affine; there it is left out.
    """
    import nibabel

    form = nibabel.Nifti2Image if max(voxels.shape) > LONGEST_NIFTI1_AXIS else nibabel.Nifti1Image
    sform, qform = codes
    if shear(affine) > 1e-3:
        sform, qform = max(sform, 1), 0
    image = form(voxels, affine)
    image.set_sform(affine, sform)
    image.set_qform(affine, qform)
    image.header.set_xyzt_units("mm")
    return image
