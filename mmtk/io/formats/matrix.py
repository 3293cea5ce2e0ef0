"""A bare 4x4 matrix in a text file: RAS, mm, fixed point to moving point, as greedy and c3d_affine_tool write it.

Nothing in such a file says what it is, and FSL writes its own, which mean something else, in the same form. So it is
read by name only.
"""

from __future__ import annotations

import numpy as np

from mmtk.io.files import write_text
from mmtk.io.formats.compose import only_matrix
from mmtk.io.formats.request import Request, Steps
from mmtk.io.headers import existing_file
from mmtk.io.transforms import AffineStep

__all__ = ["looks_like_a_matrix", "matrix_text", "numbers_of", "read_matrix", "write_matrix"]


def numbers_of(text: str) -> list[list[float]] | None:
    """Return the rows of a text of numbers, comments left out, or None if there is anything else."""
    rows = [line.split("#")[0].replace(",", " ").split() for line in text.splitlines()]
    try:
        return [[float(word) for word in row] for row in rows if row]
    except ValueError:
        return None


def looks_like_a_matrix(text: str) -> bool:
    """Tell whether a text is four lines of four numbers."""
    rows = numbers_of(text)
    return rows is not None and [len(row) for row in rows] == [4, 4, 4, 4]


def text_of(request: Request) -> str:
    """Return what is in a text file.

    Raises:
        InputError: If it is no text.
    """
    try:
        return existing_file(request.path, "transform").read_text(encoding="utf-8")
    except UnicodeDecodeError:
        request.refuse("it is not a text file; name the format it has by format=")


def bare_matrix(request: Request) -> np.ndarray:
    """Return the four lines of four numbers in a file.

    Raises:
        InputError: If there are not, or the matrix is none of points.
    """
    rows = numbers_of(text_of(request))
    matrix = np.array(rows) if rows is not None and [len(row) for row in rows] == [4, 4, 4, 4] else None
    if matrix is None or not np.allclose(matrix[3], [0, 0, 0, 1]):
        request.refuse("a matrix is four lines of four numbers, the last of them 0 0 0 1; this is not")
    if not np.isfinite(matrix).all() or not abs(np.linalg.det(matrix)) > 1e-12:
        request.refuse("the matrix is singular or not finite; write the transform again")
    return matrix


def matrix_text(matrix: np.ndarray) -> str:
    """Return four lines of four numbers, to the last bit."""
    return "".join("  ".join(f"{value:.17g}" for value in row) + "\n" for row in matrix)


def read_matrix(request: Request) -> Steps:
    """Read a matrix: RAS, mm, fixed point to moving point."""
    return (AffineStep(bare_matrix(request)),)


def write_matrix(request: Request, steps: Steps) -> None:
    """Write a matrix: RAS, mm, fixed point to moving point."""
    write_text(request.path, matrix_text(only_matrix(request, steps)))
