"""Transforms in the files of other programs.

    steps = read_steps("warp.nii.gz", format="fsl-field", moving="moving.nii.gz")
    write_steps("transform.h5", steps)

Between reading and writing a transform is what it is everywhere in mmtk: the steps that a point takes, first one first,
from the world (RAS, mm) of the fixed image to that of the moving one. ``FORMATS`` tells which formats there are and what
each can hold.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from mmtk.errors import InputError
from mmtk.io.formats.catalogue import FORMATS, Format, format_named, guess_read, guess_write
from mmtk.io.formats.itk import stored_dimension
from mmtk.io.formats.request import Image, Request, Steps
from mmtk.io.transforms import AffineStep, FieldStep

__all__ = ["FORMATS", "Format", "Steps", "format_of", "read_steps", "stored_dimension", "write_steps"]


def format_of(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    convention: str | None = None,
    writing: bool = False,
) -> Format:
    """Return the format of a file: the one that is named, else the one that it has by its name and content.

    Args:
        path: The file. One that is to be written need not exist.
        format: A name in ``FORMATS``, or a program's (``itk``, ``fsl``, ``afni``, ``freesurfer``).
        convention: See :func:`read_steps`.
        writing: Whether the file is to be written.

    Raises:
        InputError: If it cannot be told for certain, or cannot be written.
    """
    target = Path(path)
    if format is not None:
        chosen = format_named(format, target)
    else:
        chosen = guess_write(target) if writing else guess_read(target, convention)
    if (chosen.write if writing else chosen.read) is None:
        raise InputError(
            f"format={chosen.name}: is {'read' if writing else 'written'} only; choose another format"
        )
    return chosen


def read_steps(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    fixed: Image = None,
    moving: Image = None,
    convention: str | None = None,
) -> Steps:
    """Read a transform as the steps that a fixed point takes to the moving image, first one first.

    Args:
        path: The file; for ANTs also ``WARP,AFFINE`` in the order of antsApplyTransforms, or a prefix.
        format: A name in ``FORMATS``; None guesses, and refuses where that is not certain.
        fixed, moving: The images, as files, headers or volumes, for formats that need their grids.
        convention: Of a field that does not say it itself: ``ras-mm``, ``lps-mm`` or ``voxel``; of a field of FSL
            ``relative`` or ``absolute``.

    Returns:
        World (RAS, mm) to world.

    Raises:
        InputError: If the file cannot be read, or what its numbers mean cannot be told.
    """
    chosen = format_of(path, format=format, convention=convention)
    assert chosen.read is not None
    return chosen.read(Request.of(path, chosen.name, fixed, moving, convention))


def write_steps(
    path: str | os.PathLike[str],
    steps: Sequence[AffineStep | FieldStep],
    *,
    format: str | None = None,
    fixed: Image = None,
    moving: Image = None,
    dim: int = 3,
) -> Path:
    """Write a transform and return the path.

    A format that holds a chain gets every step as it is. One that holds a single matrix gets their product; one that
    holds a single field gets the whole map at the voxel centers of the fixed grid.

    Args:
        path: The file, or ANTs' prefix.
        steps: Of :func:`read_steps`.
        format: A name in ``FORMATS``; None takes it from the name.
        fixed, moving: The images, for formats that need their grids. Without ``fixed`` a field is written on the grid
            of the field that a point meets first.
        dim: 2 or 3, where neither a field nor an image tells it.

    Raises:
        InputError: If the format cannot hold the transform, or an image is missing; nothing is written.
    """
    chosen = format_of(path, format=format, writing=True)
    assert chosen.write is not None
    request = Request.of(path, chosen.name, fixed, moving, dim=dim)
    chosen.write(request, tuple(steps))
    return request.path
