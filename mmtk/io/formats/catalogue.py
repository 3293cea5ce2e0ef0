"""Every format that is read or written, and which one a file is in.

What a file is, is guessed from its name and from what is in it. Where two formats look alike, nobody guesses: four lines
of four numbers may be FLIRT's or greedy's, a field without intent anybody's, and the sentence says what to add.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mmtk.config import nearest
from mmtk.errors import InputError
from mmtk.io.formats import afni, fields, freesurfer, fsl, itk, learn2reg, matrix, x5
from mmtk.io.formats.request import Request, Steps
from mmtk.io.headers import existing_file
from mmtk.io.transforms import DISPLACEMENT, VECTOR

__all__ = ["FORMATS", "Format", "format_named", "guess_read", "guess_write"]

Reader = Callable[[Request], Steps]
Writer = Callable[[Request, Steps], None]


@dataclass(frozen=True)
class Format:
    """One way to store a transform.

    Attributes:
        name: What ``format=`` takes.
        summary: What it is and who reads it, in a phrase.
        extensions: Of its files, the first one the usual; empty where a name is a prefix.
        holds: ``affine`` (one matrix), ``field`` (one displacement field), or ``chain`` (any number of both).
        images: Those of ``fixed`` and ``moving`` without whose grid its numbers mean nothing.
        read, write: The functions; None where it is not done.
    """

    name: str
    summary: str
    extensions: tuple[str, ...]
    holds: str
    images: tuple[str, ...] = ()
    read: Reader | None = None
    write: Writer | None = None


#: How a format is named, in Python and on the command line.
_HOW = "format=, in `mmtk convert` input_format="
_BOTH = ("fixed", "moving")
_NIFTI = (".nii.gz", ".nii")

FORMATS: dict[str, Format] = {
    one.name: one
    for one in (
        Format("itk-h5", "ITK composite: ANTs, 3D Slicer, SimpleITK", (".h5", ".hdf5"), "chain",
               read=itk.read_itk, write=itk.write_composite_file),
        Format("itk-text", "ITK matrix as text: ANTs, 3D Slicer, ITK-SNAP", (".tfm", ".txt"), "affine",
               read=itk.read_itk, write=itk.write_text_file),
        Format("itk-mat", "ITK matrix as Matlab 4: ANTs' 0GenericAffine", (".mat",), "affine",
               read=itk.read_itk, write=itk.write_matlab),
        Format("itk-field", "ITK displacement field, intent 1007, LPS mm", _NIFTI, "field",
               read=fields.read_itk_field, write=fields.write_itk_field),
        Format("ants", "the pair PREFIX1Warp.nii.gz, PREFIX0GenericAffine.mat, or a list WARP,AFFINE", (), "chain",
               read=itk.read_ants, write=itk.write_ants),
        Format("field", "a displacement field whose convention= is stated: ras-mm, lps-mm or voxel", _NIFTI, "field",
               read=fields.read_stated_field),
        Format("matrix", "a bare 4x4 matrix, RAS mm: greedy, c3d_affine_tool", (".txt", ".mat"), "affine",
               read=matrix.read_matrix, write=matrix.write_matrix),
        Format("fsl-flirt", "matrix of FLIRT", (".mat",), "affine", _BOTH, fsl.read_flirt, fsl.write_flirt),
        Format("fsl-field", "field of FNIRT or convertwarp", _NIFTI, "field", _BOTH, fsl.read_fnirt, fsl.write_fnirt),
        Format("freesurfer-lta", "LTA of FreeSurfer", (".lta",), "affine", _BOTH,
               freesurfer.read_lta, freesurfer.write_lta),
        Format("afni-1d", "matrix of AFNI's 3dAllineate", (".1D",), "affine", _BOTH, afni.read_1d, afni.write_1d),
        Format("afni-field", "field of AFNI's 3dQwarp", _NIFTI, "field", _BOTH, afni.read_qwarp, afni.write_qwarp),
        Format("x5", "X5, the draft of BIDS: nitransforms", (".x5",), "chain", read=x5.read_x5, write=x5.write_x5),
        Format("learn2reg", "Learn2Reg displacement disp_FFFF_MMMM, in voxels", (".nii.gz", ".nii", ".npz"), "field",
               _BOTH, learn2reg.read_learn2reg, learn2reg.write_learn2reg),
    )
}  # fmt: skip

#: A program's name stands for those of its formats that fit the extension.
_FAMILIES = {
    "itk": ("itk-h5", "itk-text", "itk-mat", "itk-field"),
    "fsl": ("fsl-flirt", "fsl-field"),
    "afni": ("afni-1d", "afni-field"),
    "freesurfer": ("freesurfer-lta",),
    "lta": ("freesurfer-lta",),
}


def format_named(name: str, path: Path) -> Format:
    """Return a format by its name, or by the name of a program and the extension of a file.

    Raises:
        InputError: If there is none.
    """
    if name in FORMATS:
        return FORMATS[name]
    for member in _FAMILIES.get(name, ()):
        if _extension(path, FORMATS[member]):
            return FORMATS[member]
    if name in _FAMILIES:
        endings = ", ".join(ending for member in _FAMILIES[name] for ending in FORMATS[member].extensions)
        raise InputError(f"format={name}: '{path.name}' has none of its extensions ({endings}); name it so")
    known = [*FORMATS, *_FAMILIES]
    raise InputError(f"format={name}: no such format{nearest(name, known)}; there are {', '.join(FORMATS)}")


def _extension(path: Path, format: Format) -> bool:
    return path.name.lower().endswith(tuple(ending.lower() for ending in format.extensions))


def guess_write(path: Path) -> Format:
    """Return the format that a new file is to be written in, by its name.

    Raises:
        InputError: If the name does not tell.
    """
    if learn2reg.named_for_learn2reg(path):
        return FORMATS["learn2reg"]
    for name in ("itk-h5", "itk-text", "itk-mat", "itk-field", "freesurfer-lta", "afni-1d", "x5"):
        if _extension(path, FORMATS[name]):
            return FORMATS[name]
    raise InputError(f"'{path}': its name does not tell a format; add format=, one of {', '.join(FORMATS)}")


def guess_read(path: Path, convention: str | None = None) -> Format:
    """Return the format that a file is in.

    Args:
        path: The file, or what stands for ANTs' pair of files.
        convention: Of a displacement field, if it is stated.

    Raises:
        InputError: If there is no such file, or what it is cannot be told for certain.
    """
    if not path.exists() and itk.ants_files(path):
        return FORMATS["ants"]
    file = existing_file(path, "transform")
    name = file.name.lower()
    if name.endswith((".m3z", ".mgz", ".mgh")):
        raise InputError(
            f"'{file}' is a warp of FreeSurfer, which is not read; turn it into an ITK field by "
            f"`mri_warp_convert --inm3z {file.name} --outitk FIELD.nii.gz`"
        )
    if name.endswith(_NIFTI):
        return _guess_field(file, convention)
    if name.endswith(".npz"):
        return FORMATS["learn2reg"]
    with open(file, "rb") as content:
        head = content.read(4096)
    if head.startswith(b"\x89HDF"):
        return FORMATS["x5" if _is_x5(file) else "itk-h5"]
    if b"Insight Transform" in head:
        return FORMATS["itk-text"]
    if b"\0" in head:
        if name.endswith(".mat"):
            return FORMATS["itk-mat"]
        raise InputError(
            f"'{file}' is a binary file of an unknown kind; name its format ({_HOW}): {', '.join(FORMATS)}"
        )
    return _guess_text(file)


def _guess_text(file: Path) -> Format:
    text = file.read_text(encoding="utf-8", errors="replace")
    if "volume info" in text and "nxforms" in text:
        return FORMATS["freesurfer-lta"]
    if file.name.lower().endswith(".1d"):
        return FORMATS["afni-1d"]
    if matrix.looks_like_a_matrix(text):
        raise InputError(
            f"'{file}' is a 4x4 matrix, and nothing in it tells whose; name its format ({_HOW}): fsl-flirt (with "
            f"fixed= and moving=) if FLIRT wrote it, or matrix if it is in mm, RAS, fixed to moving (greedy, c3d)"
        )
    raise InputError(f"'{file}' is no transform that mmtk knows; name its format ({_HOW}): {', '.join(FORMATS)}")


def _is_x5(file: Path) -> bool:
    import h5py

    try:
        with h5py.File(file) as content:
            return content.attrs.get("Format") in ("X5", b"X5")
    except OSError:  # damaged: let the reader of ITK's files say so
        return False


def _guess_field(file: Path, convention: str | None) -> Format:
    request = Request(file, "displacement field")
    found = fields.open_vectors(request)
    if convention in fields.CONVENTIONS:
        return FORMATS["field"]
    if convention in ("relative", "absolute"):
        return FORMATS["fsl-field"]
    if convention is not None:
        conventions = ", ".join((*fields.CONVENTIONS, "relative", "absolute"))
        raise InputError(f"convention={convention}: no such convention; there are {conventions}")
    if found.intent == fields.FNIRT_FIELD or found.intent in fields.FNIRT_COEFFICIENTS:
        return FORMATS["fsl-field"]
    if found.five and found.intent in (VECTOR, DISPLACEMENT):
        return FORMATS["itk-field"]
    if found.afni:
        return FORMATS["afni-field"]
    if not found.five and learn2reg.named_for_learn2reg(file):
        return FORMATS["learn2reg"]
    request.refuse(
        f"a field of shape {tuple(found.image.shape)} and intent {found.intent} does not say what its numbers are; "
        f"add convention=ras-mm, lps-mm or voxel, or name its format ({_HOW}) if fsl, afni or learn2reg wrote it"
    )
