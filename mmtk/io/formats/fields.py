"""Displacement fields as NIfTI: what a file holds, before anybody says what it means.

    layout    (X, Y, Z, 1, 3)   ITK, ANTs, AFNI; in 2-D (X, Y, 1, 1, 2)
              (X, Y, Z, 3)      FSL, Learn2Reg, and most networks
    intent    1007  a vector: LPS mm, as ITK writes and reads it
              1006  a displacement: RAS mm, as the standard has it and ITK since 5.4 reads it
              2006  a field of FNIRT; 2007 to 2009 and 2016 to 2018 its coefficients
              0     nothing is said

A file that does not say what its numbers are is read only together with a ``convention``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mmtk.io.files import write_bytes
from mmtk.io.formats.compose import as_steps, displacement_on, grid_of, right_angled
from mmtk.io.formats.request import Request, Steps
from mmtk.io.headers import existing_file, open_image
from mmtk.io.images import nifti
from mmtk.io.space import LPS
from mmtk.io.transforms import DISPLACEMENT, VECTOR

__all__ = [
    "AFNI_EXTENSION",
    "CONVENTIONS",
    "FNIRT_COEFFICIENTS",
    "FNIRT_FIELD",
    "VectorImage",
    "open_vectors",
    "read_itk_field",
    "read_stated_field",
    "write_itk_field",
    "write_vectors",
]

FNIRT_FIELD = 2006
FNIRT_COEFFICIENTS = {2007, 2008, 2009, 2016, 2017, 2018}
AFNI_EXTENSION = 4

#: What ``convention=`` may say about a field that does not say it itself.
CONVENTIONS = ("ras-mm", "lps-mm", "voxel")


@dataclass(frozen=True, eq=False)
class VectorImage:
    """A NIfTI file that holds one vector a voxel, not yet read.

    Attributes:
        image: Of nibabel.
        intent: The code of the header.
        five: Whether the layout is (X, Y, Z, 1, 3).
        afni: Whether AFNI left its own header in the file.
    """

    image: Any
    intent: int
    five: bool
    afni: bool

    @property
    def dim(self) -> int:
        """Components of a vector, 2 or 3."""
        return int(self.image.shape[-1])

    @property
    def affine(self) -> np.ndarray:
        """4x4, voxel to world, RAS, mm."""
        return np.array(self.image.affine, dtype=np.float64)

    def vectors(self, request: Request) -> np.ndarray:
        """Return the numbers as they are: ``(dim, *space)``, float32.

        Raises:
            InputError: If they cannot be read, or are not all finite.
        """
        try:
            data = self.image.get_fdata(caching="unchanged", dtype=np.float32)
        except Exception as error:  # gzip, zlib, mmap and nibabel each have their own way of finding the end early
            first = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
            request.refuse(f"its voxels cannot be read ({first}); it is probably truncated, so copy it again")
        dim = self.dim
        field = np.moveaxis(data.reshape(*data.shape[:dim], dim), -1, 0)
        wrong = int((~np.isfinite(field)).sum())
        if wrong:
            request.refuse(f"{wrong:,} of its numbers are NaN or infinite; write it again")
        return np.ascontiguousarray(field)


def open_vectors(request: Request) -> VectorImage:
    """Return the field of a file, its voxels unread.

    Raises:
        InputError: If it does not hold one vector a voxel.
    """
    image = open_image(existing_file(request.path, "transform"), "transform")
    header, shape = image.header, tuple(int(n) for n in image.shape)
    intent = int(header["intent_code"]) if "intent_code" in header else 0
    codes = [extension.get_code() for extension in getattr(header, "extensions", ())]
    five = len(shape) == 5 and shape[3] == 1 and (shape[4] == 3 or (shape[4] == 2 and shape[2] == 1))
    if not five and not (len(shape) == 4 and shape[3] == 3):
        request.refuse(
            f"its shape is {shape}, but a displacement field is (X, Y, Z, 1, 3) or (X, Y, Z, 3), one vector a voxel"
        )
    return VectorImage(image, intent, five, AFNI_EXTENSION in codes)


def read_itk_field(request: Request) -> Steps:
    """Read a field whose intent says what it is: 1007 (LPS, mm) or 1006 (RAS, mm).

    Raises:
        InputError: If it does not say it.
    """
    found = open_vectors(request)
    if not found.five or found.intent not in (VECTOR, DISPLACEMENT):
        request.refuse(
            f"a field of ITK is (X, Y, Z, 1, 3) with intent 1007, but this is {tuple(found.image.shape)} with "
            f"intent {found.intent}; add convention=lps-mm, ras-mm or voxel to say what its numbers are"
        )
    frame = LPS if found.intent == VECTOR else None
    return as_steps(found.vectors(request), found.affine, frame, frame)


def read_stated_field(request: Request) -> Steps:
    """Read a field of any layout by the convention that the user states: ras-mm, lps-mm or voxel.

    Voxels are those of the field's own grid, along its array axes.

    Raises:
        InputError: If no convention is stated, or an unknown one.
    """
    if request.convention not in CONVENTIONS:
        request.refuse(
            f"convention={request.convention}: a field is in one of {', '.join(CONVENTIONS)}; say which one it is"
        )
    found = open_vectors(request)
    frames = {"ras-mm": None, "lps-mm": LPS, "voxel": np.linalg.inv(found.affine)}
    frame = frames[request.convention]
    return as_steps(found.vectors(request), found.affine, frame, frame)


def write_itk_field(request: Request, steps: Steps) -> None:
    """Write the whole transform as one field with intent 1007: LPS, mm, on the fixed grid.

    Raises:
        InputError: If nothing tells the grid, or ITK cannot represent it.
    """
    shape, affine = grid_of(request, steps)
    right_angled(request, affine, "fixed")
    write_vectors(request, displacement_on(steps, shape, affine, LPS, LPS), affine, VECTOR, five=True)


def write_vectors(request: Request, vectors: np.ndarray, affine: np.ndarray, intent: int, *, five: bool) -> None:
    """Write ``(dim, *space)`` as float32 NIfTI in one of the two layouts."""
    dim = len(vectors)
    space = (*vectors.shape[1:], 1, 1)[:4] if five else vectors.shape[1:]
    image = nifti(np.moveaxis(vectors, 0, -1).reshape(*space, dim), affine, (1, 1))
    image.header.set_intent(intent, allow_unknown=True)
    image.header["descrip"] = "mmtk: fixed to moving"
    write_bytes(request.path, image.to_bytes())
