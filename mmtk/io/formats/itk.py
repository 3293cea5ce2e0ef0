"""Transforms of ITK, ANTs, 3D Slicer, ITK-SNAP: composites, single matrices, and the pair of files that ANTs leaves.

.h5           any chain of matrices and fields; ANTs reads it, too
.tfm, .txt    one matrix as text           .mat    one matrix as Matlab 4, ANTs' ``0GenericAffine.mat``
A,B,...       files in the order of ``antsApplyTransforms -t A -t B``, which is the order in which a fixed point
              takes them (images, pulled, seem to take them the other way round). ``[A,1]`` is a matrix inverted
PREFIX        what stands before ``1Warp.nii.gz`` and ``0GenericAffine.mat``
"""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np

from mmtk.io.affines import matrix_parameters, stored_transforms
from mmtk.io.files import write_bytes, write_text
from mmtk.io.formats.compose import dimension, displacement_on, grid_of, only_matrix, right_angled
from mmtk.io.formats.fields import read_itk_field, write_vectors
from mmtk.io.formats.request import Request, Steps
from mmtk.io.headers import existing_file
from mmtk.io.space import LPS
from mmtk.io.transforms import VECTOR, AffineStep, FieldStep, read_transform, write_composite

__all__ = [
    "ants_files",
    "read_ants",
    "read_itk",
    "stored_dimension",
    "write_ants",
    "write_composite_file",
    "write_matlab",
    "write_text_file",
]

_WARP, _AFFINE = "1Warp.nii.gz", "0GenericAffine.mat"


def read_itk(request: Request) -> Steps:
    """Read a file of ITK's own: ``.h5``, ``.tfm``, ``.txt``, ``.mat``.

    Raises:
        InputError: If it holds something that is neither linear nor a displacement field.
    """
    return read_transform(request.path)


def stored_dimension(path: Path) -> int:
    """Return 2 or 3: the dimension of the transforms in a file of ITK's.

    Raises:
        InputError: If it cannot be read.
    """
    stored = stored_transforms(existing_file(path, "transform"), "transform")
    flat = all(
        (len(one.parameters) == 6 and len(one.fixed) == 2) or "2D" in one.kind or len(one.fixed) == 10
        or (len(one.parameters) == 2 and one.kind == "TranslationTransform")
        for one in stored
    )  # fmt: skip
    return 2 if flat else 3


def write_composite_file(request: Request, steps: Steps) -> None:
    """Write any chain as a composite; nothing is resampled."""
    for step in steps:
        if isinstance(step, FieldStep):
            right_angled(request, step.affine, "displacement")
    write_composite(request.path, steps, dim=_dim(request, steps))


def write_text_file(request: Request, steps: Steps) -> None:
    """Write one matrix as text."""
    matrix, dim = only_matrix(request, steps), _dim(request, steps)
    parameters, center = _numbers(matrix_parameters(LPS @ matrix @ LPS, dim)), _numbers(np.zeros(dim))
    write_text(
        request.path,
        f"#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_{dim}_{dim}\n"
        f"Parameters: {parameters}\nFixedParameters: {center}\n",
    )


def _numbers(values: np.ndarray) -> str:
    return " ".join(f"{value:.17g}" for value in values)


def write_matlab(request: Request, steps: Steps) -> None:
    """Write one matrix as ITK's Matlab file, with ANTs' names."""
    from scipy.io import savemat

    matrix, dim = only_matrix(request, steps), _dim(request, steps)
    content = io.BytesIO()
    parameters = matrix_parameters(LPS @ matrix @ LPS, dim)[:, None]
    savemat(content, {f"AffineTransform_double_{dim}_{dim}": parameters, "fixed": np.zeros((dim, 1))}, format="4")
    write_bytes(request.path, content.getvalue())


def _dim(request: Request, steps: Steps) -> int:
    if (told := dimension(steps)) is not None:
        return told
    return request.fixed.dim if request.fixed is not None else request.dim


def ants_files(path: Path) -> list[tuple[Path, bool]]:
    """Return the files that a list or a prefix stands for, each with whether it is to be inverted; or none."""
    text = str(path)
    if "," in text and not path.exists():
        words = re.findall(r"\[([^\[\],]+),([01])\]|([^\[\],]+)", text)
        return [(Path(one or other), flag == "1") for one, flag, other in words]
    pair = [Path(text + name) for name in (_WARP, _AFFINE)]
    return [(file, False) for file in pair if file.exists()]


def read_ants(request: Request) -> Steps:
    """Read a list of files in the order of ``antsApplyTransforms``, or the pair behind a prefix.

    Raises:
        InputError: If there is no such file, or a field is to be inverted.
    """
    files = ants_files(request.path)
    if not files:
        request.refuse(
            f"there is neither '{request.path}{_WARP}' nor '{request.path}{_AFFINE}'; give the prefix that "
            f"antsRegistration was given, or the files as WARP,AFFINE in the order of antsApplyTransforms"
        )
    steps: list[AffineStep | FieldStep] = []
    for file, inverted in files:
        one = Request(file, request.format)
        found = read_itk_field(one) if file.name.endswith((".nii", ".nii.gz")) else read_itk(one)
        if inverted:
            found = (AffineStep(np.linalg.inv(only_matrix(one, found))),)
        steps += found
    return tuple(steps)


def write_ants(request: Request, steps: Steps) -> None:
    """Write ``PREFIX1Warp.nii.gz`` and ``PREFIX0GenericAffine.mat``: a fixed point takes the warp, then the matrix.

    A chain of another form becomes one warp, composed on the fixed grid, and no matrix.
    """
    first = steps[0] if steps else None
    fields = [step for step in steps if isinstance(step, FieldStep)]
    warp, matrix = Path(f"{request.path}{_WARP}"), Path(f"{request.path}{_AFFINE}")
    if fields:
        onto = request.fixed
        alone = len(fields) == 1 and isinstance(first, FieldStep) and (onto is None or _same_grid(first, onto))
        shape, affine = grid_of(request, steps)
        right_angled(request, affine, "fixed")
        part, rest = (steps[:1], steps[1:]) if alone else (steps, ())
        vectors = displacement_on(part, shape, affine, LPS, LPS)
        write_vectors(Request(warp, request.format), vectors, affine, VECTOR, five=True)
        steps = rest
    if steps or not fields:
        write_matlab(Request(matrix, request.format, request.fixed, dim=_dim(request, (*fields, *steps))), steps)


def _same_grid(step: FieldStep, grid: object) -> bool:
    shape, affine = grid.shape, grid.affine  # type: ignore[attr-defined]
    return tuple(step.vectors.shape[1:]) == tuple(shape) and bool(np.allclose(step.affine, affine, atol=1e-4))
