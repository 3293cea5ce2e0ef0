"""Pictures as 2-D images: PNG, JPEG and TIFF, through pillow.

Axis i runs along a row (the column number), axis j down the picture, which is ITK's order too: a PNG and the
NIfTI file that ITK makes of it are one array here. Nothing is flipped, and the rotation that a camera notes
(EXIF) is not applied; dots per inch are no spacing.

Colors become gray by their luma, 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601), in floating point; transparency
is dropped. Gray values are taken as they are, 8 or 16 bits, whole or floating.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmtk.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

__all__ = ["gray", "is_picture", "open_picture"]

SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff"}
GRAY = {"1", "L", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"}
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def is_picture(file: Path) -> bool:
    """Whether a file is read as a picture, by its suffix."""
    return file.suffix.lower() in SUFFIXES


@contextmanager
def open_picture(file: Path, name: str) -> Iterator[Picture]:
    """Lend a pillow image of one page, its pixels unread.

    Raises:
        InputError: If it is no picture, or has several pages.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pillow's advice on large pictures; too large ones are refused below
            picture = Image.open(file)
    except Exception as error:  # pillow's readers raise what they like on a damaged file
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise InputError(
            f"{name}: '{file}' cannot be read as a picture ({reason}); it is damaged, too large, or not what its "
            f"suffix says, so save it again as PNG, JPEG or TIFF, gray"
        ) from error
    with picture:
        pages = getattr(picture, "n_frames", 1)
        if pages > 1:
            raise InputError(
                f"{name}: '{file}' has {pages} pages, but a picture is one 2-D image; save the page you want, or "
                f"the whole as NIfTI if the pages are slices of a volume"
            )
        yield picture


def gray(picture: Picture, file: Path, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the pixels ``(width, height)``, float32, and notes on what was done to colors.

    Raises:
        InputError: If the pixels cannot be decoded.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture.load()
            if picture.mode in GRAY:
                return np.asarray(picture, dtype=np.float32).T, ()
            colors = np.asarray(picture.convert("RGB"), dtype=np.float32)
    except Exception as error:
        raise InputError(
            f"{name}: the pixels of '{file}' cannot be read ({error}); the file is probably truncated, so copy or "
            f"download it again"
        ) from error
    if (colors == colors[..., :1]).all():
        return colors[..., 0].T, ()
    return (colors @ LUMA).T, (f"'{file}' is in color; its luma (ITU-R BT.601) is used.",)
