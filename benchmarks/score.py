"""Score a displacement, whatever tool found it: read as ITK writes it, judged by NumPy and SciPy.

    u       (dim, *space)   the whole map, affine included, in voxels of the fixed grid: x -> x + u(x)

Run as ``python -m benchmarks.score SCORE INPUTS DISPLACEMENT``; prints one line of JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from mmtk.errors import GridMismatch
from mmtk.io import Volume, read_displacement, read_image, to_voxels, to_world

__all__ = ["SCORES", "carry", "determinants", "read_map"]


def read_map(path: Path, fixed: Volume) -> np.ndarray:
    """Return ``u`` from an ITK displacement field on the grid of ``fixed``.

    Raises:
        GridMismatch: The field lies on another grid.
    """
    field = read_displacement(path)
    if field.vectors.shape[1:] != fixed.shape or not np.allclose(field.affine, fixed.affine, atol=1e-3):
        raise GridMismatch("displacement", field.vectors.shape, fixed.name, (fixed.dim, *fixed.shape))
    return to_voxels(field.vectors, fixed.affine)


def determinants(u: np.ndarray) -> np.ndarray:
    """Return the Jacobian determinant of ``x + u(x)`` by central differences, one-sided at the border."""
    dim = len(u)
    slopes = [[np.gradient(u[a], axis=b) + (a == b) for b in range(dim)] for a in range(dim)]
    if dim == 2:
        return slopes[0][0] * slopes[1][1] - slopes[0][1] * slopes[1][0]
    (a, b, c), (d, e, f), (g, h, i) = slopes
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)


def carry(image: np.ndarray, affine: np.ndarray, u: np.ndarray, fixed: Volume, order: int = 1) -> np.ndarray:
    """Return an image of the moving space where the map takes the fixed voxels; 0 beyond its border."""
    from scipy.ndimage import map_coordinates

    dim = fixed.dim
    there = np.linalg.solve(affine, fixed.affine)
    points = np.indices(fixed.shape, dtype=np.float32) + u
    where = np.tensordot(there[:dim, :dim].astype(np.float32), points, axes=1)
    where += there[:dim, 3].astype(np.float32).reshape(-1, *[1] * dim)
    return map_coordinates(image, where, order=order, mode="constant", cval=0.0)


def _regularity(u: np.ndarray) -> dict[str, float]:
    found = determinants(u.astype(np.float64))
    return {
        "folds": int((~(found > 0)).sum()),
        "jacobian_min": float(found.min()),
        "jacobian_max": float(found.max()),
    }


def truth(inputs: Path, displacement: Path) -> dict[str, float]:
    """Endpoint errors in mm, see :func:`mmtk.samples.error_against_truth`."""
    from mmtk.samples import error_against_truth
    from mmtk.samples.truth import Truth

    with np.load(inputs / "truth.npz") as stored:
        known = Truth(stored["displacement"], stored["fixed_mask"], stored["foreground"], stored["affine"])
    fixed = Volume(known.fixed_mask, known.affine, name="fixed")
    u = read_map(displacement, fixed)
    return {**error_against_truth(known, u), **_regularity(u)}


def truth_2d(inputs: Path, displacement: Path) -> dict[str, float]:
    """The same for a slice."""
    return truth(inputs, displacement)


def letter(inputs: Path, displacement: Path) -> dict[str, float]:
    """See :func:`mmtk.samples.shape_scores`."""
    from mmtk.samples import Sample, shape_scores

    with np.load(inputs / "sample.npz") as stored:
        sample = Sample(**{name: stored[name] for name in stored.files})
    u = read_map(displacement, Volume(sample.fixed, sample.affine, name="fixed"))
    return {**shape_scores(sample, u), "jacobian_min": float(determinants(u.astype(np.float64)).min())}


def overlap(inputs: Path, displacement: Path) -> dict[str, float]:
    """Mean Dice over all labels of either map, labels carried by the nearest voxel."""
    fixed, moving = (read_image(inputs / f"labels_{side}.nii.gz", name=side) for side in ("fixed", "moving"))
    u = read_map(displacement, fixed)
    ours = carry(moving.data, moving.affine, u, fixed, order=0).astype(np.int64)
    theirs = fixed.data.astype(np.int64)
    size = int(max(ours.max(), theirs.max())) + 1
    both = np.bincount(ours[ours == theirs], minlength=size)[1:]
    either = (np.bincount(ours.ravel(), minlength=size) + np.bincount(theirs.ravel(), minlength=size))[1:]
    found = either > 0
    return {"dice": float((2 * both[found] / either[found]).mean()), "labels": int(found.sum()), **_regularity(u)}


def carried(inputs: Path, displacement: Path) -> dict[str, float]:
    """Squared error of the shape-only image where the lesion mask, carried by the same map, does not reach.

    Intensities are those of the inputs: scaled by the template's maximum.
    """
    fixed, moving, mask = (read_image(inputs / f"{n}.nii.gz", name=n) for n in ("fixed", "moving", "mask"))
    u = read_map(displacement, fixed)
    squares = (carry(moving.data, moving.affine, u, fixed).astype(np.float64) - fixed.data) ** 2
    lesion = carry(mask.data, mask.affine, u, fixed)
    cell = float(np.prod(fixed.spacing)) / 1000
    return {
        "outside": float(squares[lesion <= 0].sum()),
        "outside_half": float(squares[lesion < 0.5].sum()),
        "lesion_ml": float(lesion.sum()) * cell,
        **_regularity(u),
    }


def nothing(inputs: Path, displacement: Path) -> dict[str, float]:
    """For cases that only cost: whether the map folds."""
    fixed = read_image(inputs / "fixed.nii.gz", name="fixed")
    u = read_map(displacement, fixed)
    return {**_regularity(u), "displacement_mm": float(np.sqrt((to_world(u, fixed.affine) ** 2).sum(0)).mean())}


SCORES: Mapping[str, Callable[[Path, Path], dict[str, float]]] = {
    score.__name__: score for score in (truth, truth_2d, letter, overlap, carried, nothing)
}


def main() -> None:
    name, inputs, displacement = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    print(json.dumps({key: round(value, 6) for key, value in SCORES[name](inputs, displacement).items()}))


if __name__ == "__main__":
    main()
