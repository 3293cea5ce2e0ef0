"""What a file says about itself, checked before a voxel is read.

Everything that makes an image unusable and can be seen from its header is found here, so that a command line can
name all that is wrong in an instant. Three sources, one :class:`~mmtk.io.volume.Header`: what nibabel reads,
pictures (PNG, JPEG, TIFF), and bare arrays.

An image that says nothing about its position (a picture, an array) gets ITK's: first voxel at the origin, axes
along L, P (and S). So a PNG and the NIfTI file that ITK makes of it lie on one grid.
"""

from __future__ import annotations

import difflib
import math
import os
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mmtk.errors import InputError
from mmtk.io.pictures import is_picture, open_picture
from mmtk.io.space import LPS, plane_affine, shear, spacing_of
from mmtk.io.volume import Header, Storage

__all__ = ["array_header", "existing_file", "image_header", "open_image", "picture_header", "probe_image", "where"]

Spacing = float | Sequence[float] | None

#: More voxels than this are a damaged header, or a job for another program.
MOST_VOXELS = 2**31 - 1
#: No file unpacks to more than this many times its size by gzip's method.
DEFLATE = 1032
#: Voxels of other sizes, and origins farther away, in mm, are a damaged header.
SMALLEST, LARGEST, FARTHEST = 1e-6, 1e6, 1e7
MILLIMETERS = {"mm": 1.0, "meter": 1e3, "micron": 1e-3}


def probe_image(path: str | os.PathLike[str], *, name: str = "moving", spacing: Spacing = None) -> Header:
    """Return what the header of a file says, having read no voxel; torch is not needed.

    Args:
        path: The file.
        name: The role of the image, named in messages.
        spacing: mm, for a file that does not say where its voxels lie; others keep their own.

    Raises:
        InputError: If the header alone makes the image unusable.
    """
    file = existing_file(path, name)
    if is_picture(file):
        with open_picture(file, name) as picture:
            return picture_header(picture.size, picture.mode, file, name, spacing)
    return image_header(open_image(file, name), name, spacing)


def where(path: Path | None, kind: str = "array") -> str:
    """Return how messages call a source: its path in quotes, or "the given array"."""
    return f"'{path}'" if path is not None else f"the given {kind}"


def existing_file(path: str | os.PathLike[str], name: str) -> Path:
    """Return a path as :class:`~pathlib.Path` if there is a file with something in it.

    Raises:
        InputError: If it is missing, a folder, empty, or not to be read.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        raise InputError(
            f"{name}: '{file}' is a folder, but one image file is expected; give the file's own path "
            f"(a folder of DICOM slices is first turned into NIfTI, for instance by `dcm2niix`)"
        )
    if not file.exists():
        raise InputError(f"{name}: there is no file '{file}'; give the path of an existing one{_nearest(file)}")
    if not os.access(file, os.R_OK):
        raise InputError(f"{name}: '{file}' may not be read by you; change its permissions or copy it")
    if file.stat().st_size == 0:
        raise InputError(f"{name}: '{file}' is empty (0 bytes); copy or download it again")
    return file


def _nearest(file: Path) -> str:
    try:
        names = os.listdir(file.parent)
    except OSError:
        return f" (nor is there a folder '{file.parent}')"
    close = difflib.get_close_matches(file.name, names, 1)
    return f" (did you mean '{file.parent / close[0]}'?)" if close else ""


def open_image(file: Path, name: str) -> Any:
    """Return the nibabel image of a file, its voxels unread.

    Raises:
        InputError: If nibabel cannot make an image of it.
    """
    import nibabel
    from nibabel import imageglobals

    try:
        with imageglobals.LoggingOutputSuppressor():
            image = nibabel.load(file)
    except Exception as error:  # what a reader of forty formats raises on a damaged file is not to be listed
        with warnings.catch_warnings():  # some of them leave their file open; it is closed here
            warnings.simplefilter("ignore", ResourceWarning)
            traceback.clear_frames(error.__traceback__)
        raise InputError(
            f"{name}: '{file}' cannot be read as an image ({_first_line(error)}); it may be damaged or of another "
            f"format: mmtk reads NIfTI, MGH, Analyze and what else nibabel reads, and PNG, JPEG and TIFF in 2-D"
        ) from error
    return image


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]


def image_header(image: Any, name: str, spacing: Spacing = None) -> Header:
    """Return the header of a nibabel image.

    The affine is chosen as NIfTI demands: the sform where its code is above 0, else the qform where its is, else
    none. Meters and microns become mm.

    Raises:
        InputError: If the image cannot be used.
    """
    from nibabel.spatialimages import SpatialImage

    path = None if image.get_filename() is None else Path(image.get_filename())
    label = where(path, "nibabel image")
    if not isinstance(image, SpatialImage):
        raise InputError(f"{name}: {label} holds no grid of voxels ({type(image).__name__}); give an image")
    check_voxel_type(image.get_data_dtype(), name, label)
    shape, slice_axis = _spatial(image.shape, name, label)
    _check_length(image, name, path)
    affine, codes, notes = _stated_affine(image, label)
    storage = Storage(affine, *codes, np.dtype(image.get_data_dtype()), slice_axis)
    header = _placed(shape, storage, name, path, spacing, image.header.get_zooms())
    return replace(header, notes=(*notes, *header.notes))


def picture_header(size: tuple[int, int], mode: str, path: Path, name: str, spacing: Spacing = None) -> Header:
    """Return the header of a picture of ``size`` (width, height): axis i along the row, axis j down the column."""
    shape, _ = _spatial(size, name, where(path))
    dtype = {"F": np.float32, "I": np.int32, "1": np.bool_}.get(mode, np.uint16 if "16" in mode else np.uint8)
    storage = Storage(LPS, 0, 0, np.dtype(dtype))
    return _placed(shape, storage, name, path, 1.0 if spacing is None else spacing, ())


def array_header(array: np.ndarray, name: str, spacing: Spacing = None) -> Header:
    """Return the header of a bare array, whose axes are i, j(, k)."""
    label = where(None)
    check_voxel_type(array.dtype, name, label)
    if array.ndim == 3 and array.shape[-1] in (3, 4) and array.dtype == np.uint8 and min(array.shape[:2]) > 8:
        raise InputError(
            f"{name}: {label} has the shape {array.shape} of a color picture; turn it to gray first, "
            f"for instance by `array[..., :3].mean(-1)`"
        )
    shape, slice_axis = _spatial(array.shape, name, label)
    storage = Storage(LPS, 0, 0, array.dtype, slice_axis)
    return _placed(shape, storage, name, None, 1.0 if spacing is None else spacing, ())


def check_voxel_type(dtype: Any, name: str, label: str) -> None:
    """Refuse voxels that are not real numbers.

    Raises:
        InputError: Saying how to make real numbers of them.
    """
    kind = np.dtype(dtype)
    if kind.fields is not None:
        raise InputError(f"{name}: {label} holds colors ({kind}); turn it to gray first, by one number a voxel")
    if kind.kind == "c":
        raise InputError(f"{name}: {label} holds complex numbers ({kind}); give their magnitude or real part")
    if kind.kind not in "biuf":
        raise InputError(f"{name}: {label} holds {kind}, but real numbers are expected; convert it first")


def _spatial(shape: Sequence[int], name: str, label: str) -> tuple[tuple[int, ...], int | None]:
    """Return the two or three lengths above 1, and which axis of the stored three was a single slice."""
    full = tuple(int(n) for n in shape)
    sizes = list(full)
    while len(sizes) > 2 and sizes[-1] == 1:
        sizes.pop()
    if any(n < 1 for n in sizes) or not sizes:
        raise InputError(f"{name}: {label} has no voxels (shape {full}); give an image with something in it")
    if len(sizes) > 3:
        raise InputError(
            f"{name}: {label} has {len(sizes)} axes {full}, but one image of 2 or 3 axes is expected; "
            f"take one volume of it first, for instance by nibabel's `image.slicer[..., 0]`"
        )
    if math.prod(sizes) > MOST_VOXELS:
        raise InputError(
            f"{name}: {label} claims {math.prod(sizes):,} voxels {full}, but {MOST_VOXELS:,} are the most that "
            f"mmtk takes; its header is probably damaged, else crop or downsample it"
        )
    slice_axis = 2 if len(sizes) == 2 and len(full) > 2 else None
    if len(sizes) == 3 and 1 in sizes:
        slice_axis = sizes.index(1)
        sizes.pop(slice_axis)
    if len(sizes) < 2 or min(sizes) < 2:
        raise InputError(f"{name}: {label} is a line of voxels (shape {full}); give an image of 2 or 3 axes")
    return tuple(sizes), slice_axis


def _check_length(image: Any, name: str, path: Path | None) -> None:
    """Find a file that is too short for what its header says, before the memory for all of it is asked for.

    A compressed file is believed as far as any file of its size could be true; the rest is found when it is read.
    """
    import nibabel

    offset, file = getattr(image.dataobj, "offset", None), image.file_map["image"].filename
    if offset is None or file is None:
        return
    if isinstance(image, nibabel.Nifti1Image) and offset < image.header.sizeof_hdr:
        raise InputError(
            f"{name}: {where(path)} says that its voxels begin at byte {offset}, within its header of "
            f"{image.header.sizeof_hdr} bytes; the header is damaged, so copy or export the image again"
        )
    packed = Path(file).suffix.lower() in (".gz", ".mgz")
    if not packed and (
        Path(file).suffix.lower() in (".bz2", ".zst") or not isinstance(image, nibabel.AnalyzeImage)
    ):
        return  # NIfTI is an AnalyzeImage, too; other formats lay voxels as they like
    expected = offset + math.prod(image.shape) * np.dtype(image.get_data_dtype()).itemsize
    found = os.path.getsize(file) if os.path.exists(file) else 0
    if found * (DEFLATE if packed else 1) < expected:
        most = f" {'bytes, compressed,' if packed else 'bytes'} are there and {expected:,} are expected"
        raise InputError(
            f"{name}: the voxels of {where(path)} cannot be read: {found:,}{most}; the file is truncated, or its "
            f"header is damaged, so copy or download it again"
        )


def _stated_affine(image: Any, label: str) -> tuple[np.ndarray, tuple[int, int], tuple[str, ...]]:
    """Return the affine in mm, the codes of sform and qform (0, 0: it says nothing), and notes."""
    import nibabel

    header, notes = image.header, []
    affine = np.eye(4) if image.affine is None else np.array(image.affine, dtype=np.float64)
    if not isinstance(image, nibabel.Nifti1Pair):
        if isinstance(image, nibabel.AnalyzeImage):
            notes.append(f"{label} is in Analyze format, which leaves left and right open; taken as nibabel does.")
        return affine, (1, 1), tuple(notes)
    codes = int(header["sform_code"]), int(header["qform_code"])
    if codes[0] > 0 and codes[1] > 0:
        notes += _disagreement(header, affine, image.shape, label)
    try:
        unit = MILLIMETERS.get(header.get_xyzt_units()[0], 1.0)
    except KeyError:
        unit = 1.0
    if unit != 1.0:
        affine[:3] *= unit
        notes.append(f"{label} is not in mm; its affine is multiplied by {unit:g}.")
    return affine, codes, tuple(notes)


def _disagreement(header: Any, affine: np.ndarray, shape: Sequence[int], label: str) -> list[str]:
    """Return a note where the qform is not what the sform is."""
    try:
        with np.errstate(all="ignore"):
            apart = _apart(affine, header.get_qform(), shape)
    except ValueError:  # no rotation
        apart = math.nan
    if not math.isfinite(apart):
        return [f"the qform of {label} is damaged; its sform is used."]
    return (
        [f"sform and qform of {label} disagree by up to {apart:.3g} mm; the sform is used."] if apart > 0.1 else []
    )


def _apart(one: np.ndarray, other: np.ndarray, shape: Sequence[int]) -> float:
    """Return the largest distance between the corners of a grid under two affines, in mm."""
    ends = [(0, n - 1) for n in (*shape, 1, 1)[:3]]
    corners = np.array(np.meshgrid(*ends, indexing="ij")).reshape(3, -1)
    return float(np.abs((one - other)[:3, :3] @ corners + (one - other)[:3, 3:]).max())


def _placed(
    shape: tuple[int, ...],
    storage: Storage,
    name: str,
    path: Path | None,
    spacing: Spacing,
    zooms: Sequence[float],
) -> Header:
    """Return the header of an image on a usable grid: its own, or for want of one what ``spacing`` makes."""
    label, dim = where(path, "image"), len(shape)
    wanted = None if spacing is None else _checked_spacing(spacing, dim, name, label)
    trouble = _trouble(storage, dim)
    notes: list[str] = []
    storage = _with_normal(storage) if dim == 2 and not trouble else storage
    if trouble and wanted is None:
        guess = " x ".join(f"{z:.4g}" for z in zooms[:dim])
        raise InputError(
            f"{name}: {label} {trouble}; set its sform or qform by a program that knows how the image lies, or "
            f"give `spacing=` in mm (its header suggests {guess}) to lay its axes along left, posterior and "
            f"superior, as ITK does"
        )
    if trouble:
        assert wanted is not None
        storage = replace(storage, affine=_default_affine(wanted, storage.slice_axis), sform_code=0, qform_code=0)
    columns = _columns(storage)
    if dim == 3 and shear(columns) > 1e-3:
        notes.append(f"the axes of {label} are not at right angles; ITK-based programs cannot represent that.")
    tilt = np.abs(columns[2, :2]).max() / min(spacing_of(columns, 2))
    if dim == 2 and storage.located and tilt > 1e-3:
        notes.append(f"{label} is a slice tilted in space; it is treated as an image in a plane of its own.")
    return Header(shape, plane_affine(columns) if dim == 2 else columns, storage, name, path, tuple(notes))


def _columns(storage: Storage) -> np.ndarray:
    """Return the stored affine with the axis of a single slice last."""
    axis = storage.slice_axis
    if axis is None or axis == 2:
        return storage.affine
    return storage.affine[:, [a for a in range(3) if a != axis] + [axis, 3]]


def _with_normal(storage: Storage) -> Storage:
    """Return the storage of a slice with a unit normal where the file left that column of its affine empty."""
    columns = _columns(storage)
    unit = columns[:3, :2] / np.linalg.norm(columns[:3, :2], axis=0)
    normal = np.cross(unit[:, 0], unit[:, 1])
    if np.isfinite(columns[:3, 2]).all() and abs(normal @ columns[:3, 2]) > 1e-6:
        return storage
    affine = storage.affine.copy()
    affine[:3, 2 if storage.slice_axis is None else storage.slice_axis] = normal / np.linalg.norm(normal)
    return replace(storage, affine=affine)


def _default_affine(spacing: tuple[float, ...], slice_axis: int | None) -> np.ndarray:
    steps = list(spacing)
    if len(steps) == 2:
        steps.insert(2 if slice_axis is None else slice_axis, 1.0)
    return LPS @ np.diag([*steps, 1.0])


def _trouble(storage: Storage, dim: int) -> str | None:
    """Return what is wrong with the geometry of a file, as the end of a sentence, or None."""
    if not storage.located:
        return "does not say where its voxels lie (zero qform and sform)"
    axes = _columns(storage)[:3, :dim]
    if not np.isfinite(axes).all() or not np.isfinite(storage.affine[:3, 3]).all():
        return "has an affine with NaN or infinite entries"
    lengths = np.linalg.norm(axes, axis=0)
    if lengths.min() > 0 and not SMALLEST <= lengths.min() <= lengths.max() <= LARGEST:
        return f"has voxels of {' x '.join(f'{h:.3g}' for h in lengths)} mm"
    if np.abs(storage.affine[:3, 3]).max() > FARTHEST:
        return f"lies {np.abs(storage.affine[:3, 3]).max():.3g} mm from the origin"
    if not lengths.min() > 0 or np.linalg.svd(axes / lengths, compute_uv=False).min() < 1e-4:
        return "has a singular affine (its axes do not span the space)"
    return None


def _checked_spacing(spacing: Any, dim: int, name: str, label: str) -> tuple[float, ...]:
    try:
        steps = tuple(float(h) for h in np.atleast_1d(np.asarray(spacing, dtype=np.float64)))
    except (TypeError, ValueError):
        steps = ()
    if len(steps) == 1:
        steps *= dim
    if len(steps) != dim or not all(math.isfinite(h) and h > 0 for h in steps):
        raise InputError(
            f"{name}: `spacing` is {spacing!r}, but {label} needs one positive number of mm, or one for each of "
            f"its {dim} axes"
        )
    return steps
