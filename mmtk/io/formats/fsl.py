r"""FSL: matrices of FLIRT, fields of FNIRT and convertwarp.

FSL counts in a frame of its own: voxels times spacing, the first axis turned round where the affine has a positive
determinant, whatever sform and qform say besides. With ``W`` from the world into that frame,

    FLIRT's matrix   takes a *moving* point to a fixed one:          T = W_m^-1 M^-1 W_f
    FNIRT's field    is relative, d(x) = W_m T(x) - W_f x, or absolute, W_m T(x)

So neither means anything without both images. Coefficient files of FNIRT (``--cout``) are another thing: turn them
into fields by ``fnirtfileutils --in=COEF --ref=FIXED --out=FIELD --withaff``.
"""

from __future__ import annotations

import numpy as np

from mmtk.io.files import write_text
from mmtk.io.formats.compose import as_steps, displacement_on, only_matrix
from mmtk.io.formats.fields import FNIRT_COEFFICIENTS, FNIRT_FIELD, open_vectors, write_vectors
from mmtk.io.formats.matrix import bare_matrix, matrix_text
from mmtk.io.formats.request import Grid, Request, Steps
from mmtk.io.headers import open_image
from mmtk.io.transforms import AffineStep

__all__ = ["fsl_frame", "read_flirt", "read_fnirt", "write_flirt", "write_fnirt"]


def fsl_frame(grid: Grid) -> np.ndarray:
    """Return ``W``: 4x4, world (RAS, mm) to FSL's scaled voxels."""
    return _frame(grid.shape, grid.affine, _spacing(grid))


def _frame(shape: tuple[int, ...], affine: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    scaled = np.diag([*spacing, 1.0])
    if np.linalg.det(affine[:3, :3]) > 0:
        scaled[0] = [-spacing[0], 0, 0, (shape[0] - 1) * spacing[0]]
    return scaled @ np.linalg.inv(affine)


def _spacing(grid: Grid) -> np.ndarray:
    """Return the voxel sizes of the header, which FSL uses even where the affine says otherwise."""
    if grid.path is not None and grid.path.name.lower().endswith((".nii", ".nii.gz")):
        zooms = open_image(grid.path, grid.name).header.get_zooms()[:3]
        if len(zooms) == 3 and min(zooms) > 0 and not np.allclose(zooms, grid.spacing, rtol=1e-3):
            return np.array(zooms, dtype=np.float64)
    return np.array(grid.spacing)


def _images(request: Request) -> tuple[Grid, Grid]:
    request.need("fixed", "moving")
    request.need_three_axes()
    assert request.fixed is not None and request.moving is not None
    return request.fixed, request.moving


def read_flirt(request: Request) -> Steps:
    """Read the matrix that ``flirt -in MOVING -ref FIXED -omat FILE`` wrote."""
    fixed, moving = _images(request)
    matrix = bare_matrix(request)
    return (AffineStep(np.linalg.inv(fsl_frame(moving)) @ np.linalg.inv(matrix) @ fsl_frame(fixed)),)


def write_flirt(request: Request, steps: Steps) -> None:
    """Write a matrix for ``flirt -applyxfm -in MOVING -ref FIXED -init FILE``."""
    fixed, moving = _images(request)
    whole = only_matrix(request, steps)
    matrix = np.linalg.inv(fsl_frame(moving) @ whole @ np.linalg.inv(fsl_frame(fixed)))
    write_text(request.path, matrix_text(matrix))


def read_fnirt(request: Request) -> Steps:
    """Read a field, relative or absolute: which one is told by ``convention``, else by FSL's own rule.

    That rule: of the field and what is left of it without the voxels' own positions, the one that varies less is
    the displacement. It fails for absolute fields between images whose axes differ; that is noticed and refused.

    Raises:
        InputError: If it holds coefficients, an image is missing, or the rule cannot be trusted.
    """
    request.need("moving")
    request.need_three_axes()
    found = open_vectors(request)
    if found.intent in FNIRT_COEFFICIENTS:
        request.refuse(
            f"it holds spline coefficients (intent {found.intent}), not a field; turn it into one by "
            f"`fnirtfileutils --in={request.path.name} --ref=FIXED --out=FIELD --withaff`"
        )
    if found.five:
        request.refuse(f"its shape is {tuple(found.image.shape)}, but a field of FSL is (X, Y, Z, 3)")
    shape, affine = tuple(int(n) for n in found.image.shape[:3]), found.affine
    if request.fixed is not None and tuple(request.fixed.shape) != shape:
        request.refuse(f"its grid is {shape}, but the fixed image's is {tuple(request.fixed.shape)}; give its own")
    source = fsl_frame(request.fixed) if request.fixed is not None else _frame(
        shape, affine, np.array(found.image.header.get_zooms()[:3], dtype=np.float64)
    )  # fmt: skip
    assert request.moving is not None
    stored = found.vectors(request)
    own = _positions(shape, affine, source)
    if _absolute(request, stored, own):
        stored = stored - own
    return as_steps(stored, affine, fsl_frame(request.moving), source)


def _positions(shape: tuple[int, ...], affine: np.ndarray, frame: np.ndarray) -> np.ndarray:
    to_frame = frame @ affine
    voxels = np.indices(shape, dtype=np.float64)
    return np.tensordot(to_frame[:3, :3], voxels, axes=1) + to_frame[:3, 3].reshape(3, 1, 1, 1)


def _absolute(request: Request, stored: np.ndarray, own: np.ndarray) -> bool:
    """Tell whether a field holds positions rather than displacements; refuse to guess where it is not certain."""
    if request.convention not in (None, "relative", "absolute"):
        request.refuse(f"convention={request.convention}: a field of FSL is relative or absolute; say which one")
    if request.convention is not None:
        return request.convention == "absolute"
    left, whole = (float(part.std(axis=(1, 2, 3)).sum()) for part in (stored - own, stored))
    by_spread = left < whole
    # The other meaning would squeeze the image flat, or blow it up.
    by_volume = _change_of_volume(stored, own) < _change_of_volume(stored + own, own)
    if by_spread != by_volume:
        request.refuse(
            "whether it is relative or absolute cannot be told: FSL's own rule says "
            f"{'absolute' if by_spread else 'relative'}, but then it would not map the images onto one another; add "
            "convention=relative or convention=absolute"
        )
    return by_spread


def _change_of_volume(map_: np.ndarray, own: np.ndarray) -> float:
    """Return ``|log det|`` of the affine map that fits a field of positions best."""
    centered, target = (
        part.reshape(3, -1) - part.reshape(3, -1).mean(axis=1, keepdims=True) for part in (own, map_)
    )
    fitted = target @ centered.T @ np.linalg.inv(centered @ centered.T)
    return abs(float(np.log(max(abs(np.linalg.det(fitted)), 1e-30))))


def write_fnirt(request: Request, steps: Steps) -> None:
    """Write the whole transform as a relative field for ``applywarp --rel -w FILE``."""
    fixed, moving = _images(request)
    vectors = displacement_on(steps, fixed.shape, fixed.affine, fsl_frame(moving), fsl_frame(fixed))
    write_vectors(request, vectors, fixed.affine, FNIRT_FIELD, five=False)
