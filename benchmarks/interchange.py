"""``python -m benchmarks.interchange``: do other programs read our transforms as we mean them, and we theirs?

For each format and each of five awkward pairs of grids a smooth transform is written by mmtk and applied by the program
that owns the format, at every voxel center of the fixed image; and where the program writes, its file is read by mmtk.
What is noted is the largest distance to where the transform is defined to take the point, in mm. The outcome becomes a
table in ``docs/interchange.md``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import warnings
from collections import defaultdict
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from mmtk.errors import InputError
from mmtk.io import AffineStep, FieldStep, Volume, transform_points, write_image
from mmtk.io.formats import FORMATS, Steps, read_steps, write_steps

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "interchange.md"
WORKER = Path(__file__).resolve().parent / "workers" / "run_interchange.py"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"

Found = dict[tuple[str, str], float]


@dataclass(frozen=True, eq=False)
class Case:
    """A pair of grids, and a transform from the fixed one to the moving one.

    Attributes:
        name: Of the column.
        fixed, moving: Volumes of noise.
        matrix: 4x4, world, RAS, mm.
        field: On the fixed grid; a point takes it before the matrix.
    """

    name: str
    fixed: Volume
    moving: Volume
    matrix: np.ndarray
    field: FieldStep

    @property
    def affine(self) -> Steps:
        return (AffineStep(self.matrix),)

    @property
    def chain(self) -> Steps:
        return (self.field, *self.affine)

    @property
    def points(self) -> np.ndarray:
        """Every voxel center of the fixed image: ``(n, 3)``, RAS, mm."""
        voxels = np.indices(self.fixed.shape).reshape(3, -1).T
        return voxels @ self.fixed.affine[:3, :3].T + self.fixed.affine[:3, 3]


def turned(x: float, y: float, z: float) -> np.ndarray:
    """Return a rotation about the three axes, radians."""
    turn = np.eye(3)
    for axis, angle in enumerate((x, y, z)):
        a, b = ((1, 2), (2, 0), (0, 1))[axis]
        step = np.eye(3)
        step[a, a] = step[b, b] = np.cos(angle)
        step[b, a] = np.sin(angle)
        step[a, b] = -step[b, a]
        turn = step @ turn
    return turn


def smooth(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Return noise, smoothed over three voxels, between -1 and 1."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 3, mode="nearest")
    return (noise / np.abs(noise).max()).astype(np.float32)


def cases() -> list[Case]:
    """Return the five pairs: fixed shape and axes, moving shape and axes, and where their middles lie."""
    permuted = np.array([[0.0, 0.0, 1.5], [-1.2, 0.0, 0.0], [0.0, 1.8, 0.0]])
    return [
        _case("oblique", turned(0.3, -0.2, 0.4) @ np.diag([1.5, 1.0, 2.5]), turned(-0.1, 0.2, 0.1) * 1.4, (30, -50, 20)),
        _case("anisotropic", np.diag([-0.5, -0.9, 7.0]), np.diag([-1.1, 1.3, 4.0]), (3, 14, -8)),
        _case("flipped", np.diag([-1.5, 1.0, 2.5]), np.diag([1.6, 1.3, -2.0]), (12, -9, 15)),
        _case("permuted", permuted[:, [2, 0, 1]] * [1, -1, 1], permuted, (11, -8, 16)),
        _case("far off", np.diag([0.1, -0.1, 0.1]), np.diag([-7.0, 7.0, 7.0]), (910, -1380, 640), moving=(9, 8, 7)),
    ]  # fmt: skip


def _case(
    name: str,
    axes: np.ndarray,
    other: np.ndarray,
    middle: tuple[float, ...],
    moving: tuple[int, int, int] = (26, 25, 22),
) -> Case:
    at, there = np.array(middle), np.add(middle, (1.0, -2.0, 0.5))
    fixed, target = _volume("fixed", (20, 18, 14), axes, at), _volume("moving", moving, other, there)
    matrix = np.eye(4)
    matrix[:3, :3] = turned(0.1, 0.05, -0.08) @ np.diag([1.05, 0.97, 1.02])
    # About the middle of the image, so that a far origin moves nothing away.
    matrix[:3, 3] = there - matrix[:3, :3] @ at
    size = 2 * min(fixed.spacing)
    vectors = np.stack([size * smooth(fixed.shape, seed) for seed in (2, 3, 4)])
    return Case(name, fixed, target, matrix, FieldStep(vectors, fixed.affine))


def _volume(name: str, shape: tuple[int, int, int], axes: np.ndarray, middle: np.ndarray) -> Volume:
    affine = np.eye(4)
    affine[:3, :3] = axes
    affine[:3, 3] = middle - axes @ ((np.array(shape) - 1) / 2)
    # What a NIfTI file can hold of it, so that all start from the same numbers.
    return Volume(smooth(shape, 1), affine.astype(np.float32).astype(np.float64), name=name)


def measure(case: Case, folder: Path, peers: str) -> tuple[Found, Found, dict[str, str]]:
    """Return distances by (format, program), the same for nitransforms, and the versions of the programs."""
    folder.mkdir()
    images = {
        volume.name: write_image(folder / f"{volume.name}.nii.gz", volume.data, volume)
        for volume in (case.fixed, case.moving)
    }
    _coordinates(case, folder)
    for name, steps, format in (
        ("chain.h5", case.chain, "itk-h5"),
        ("affine.tfm", case.affine, "itk-text"),
        ("affine.mat", case.affine, "itk-mat"),
        ("field.nii.gz", case.chain, "itk-field"),
        ("ants", case.chain, "ants"),
        ("matrix.txt", case.affine, "matrix"),
        ("flirt.mat", case.affine, "fsl-flirt"),
        ("fnirt.nii.gz", case.chain, "fsl-field"),
        ("affine.lta", case.affine, "freesurfer-lta"),
        ("disp_0001_0002.nii.gz", case.chain, "learn2reg"),
        ("affine.1D", case.affine, "afni-1d"),
        ("chain.x5", case.chain, "x5"),
    ):
        write_steps(folder / name, steps, format=format, **images)
    np.save(folder / "points.npy", case.points)
    done = subprocess.run([peers, str(WORKER), str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{peers} failed on '{case.name}':\n{done.stderr}")
    found: Found = {}
    with np.load(folder / "moved.npz") as moved:
        for key in moved:
            name, program = key.split(":")
            if program == "images":
                _note(found, "ants", "ANTs", _image_distance(case, moved[key]))
            else:
                _note(found, name, program, _distance(moved[key], _truth(case, name)))
    _by_itk(case, folder, found)
    _learn2reg(case, folder, found)
    _theirs(case, folder, images, found)
    return found, _nitransforms(case, folder, images), json.loads((folder / "versions.json").read_text())


def _truth(case: Case, format: str) -> np.ndarray:
    steps = case.affine if FORMATS[format].holds == "affine" else case.chain
    return transform_points(steps, case.points)


def _note(found: Found, format: str, program: str, distance: float) -> None:
    found[format, program] = max(distance, found.get((format, program), 0.0))


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(one - other, axis=1).max())


def _coordinates(case: Case, folder: Path) -> None:
    """Write images whose intensity is a coordinate: whatever a program samples there, it tells where it was."""
    to = case.moving
    voxels = np.indices(to.shape).reshape(3, -1).T
    offset = voxels @ to.affine[:3, :3].T + to.affine[:3, 3] - _middle(to)
    for axis, values in zip("xyz", offset.T, strict=True):
        write_image(folder / f"moving_{axis}.nii.gz", values.reshape(to.shape), to)


def _middle(volume: Volume) -> np.ndarray:
    """A point near the image, from which coordinates are counted: float32 has seven digits."""
    return volume.affine[:3, :3] @ ((np.array(volume.shape) - 1) / 2) + volume.affine[:3, 3]


def _inside(case: Case, truth: np.ndarray) -> np.ndarray:
    back = np.linalg.inv(case.moving.affine)
    voxels = truth @ back[:3, :3].T + back[:3, 3]
    return ((voxels > 0.01) & (voxels < np.array(case.moving.shape) - 1.01)).all(axis=1)


def _image_distance(case: Case, sampled: np.ndarray) -> float:
    truth = _truth(case, "ants")
    inside = _inside(case, truth)
    assert inside.mean() > 0.2, (case.name, inside.mean())
    return _distance(sampled[inside] + _middle(case.moving), truth[inside])


def _by_itk(case: Case, folder: Path, found: Found) -> None:
    """SimpleITK: points through every file of ITK's, and an image through the composite; and its files, read."""
    import SimpleITK as sitk

    lps = np.array([-1.0, -1.0, 1.0])
    field = sitk.DisplacementFieldTransform(sitk.ReadImage(str(folder / "field.nii.gz"), sitk.sitkVectorFloat64))
    files = {"itk-h5": "chain.h5", "itk-text": "affine.tfm", "itk-mat": "affine.mat"}
    transforms = {name: sitk.ReadTransform(str(folder / file)) for name, file in files.items()}
    for name, transform in {**transforms, "itk-field": field}.items():
        moved = np.array([transform.TransformPoint(point) for point in (case.points * lps).tolist()]) * lps
        _note(found, name, "ITK", _distance(moved, _truth(case, name)))
    fixed = sitk.ReadImage(str(folder / "fixed.nii.gz"))
    sampled = [
        sitk.GetArrayFromImage(
            sitk.Resample(
                sitk.ReadImage(str(folder / f"moving_{axis}.nii.gz")),
                fixed,
                transforms["itk-h5"],
                sitk.sitkLinear,
                1e6,
                sitk.sitkFloat64,
            )
        ).T.reshape(-1)
        for axis in "xyz"
    ]
    _note(found, "itk-h5", "ITK", _image_distance(case, np.stack(sampled, axis=1)))
    theirs = folder / "theirs"
    longer = sitk.CompositeTransform([transforms["itk-mat"], transforms["itk-mat"], field])
    for name, transform, steps in (
        ("itk-h5", transforms["itk-h5"], case.chain),
        ("itk-h5", field, case.chain),
        ("itk-h5", longer, (*case.chain, *case.affine, *case.affine)),  # the field holds the whole chain
        ("itk-text", transforms["itk-text"], case.affine),
        ("itk-mat", transforms["itk-mat"], case.affine),
    ):
        file = theirs / f"itk{FORMATS[name].extensions[0]}"
        sitk.WriteTransform(transform, str(file))
        moved = transform_points(read_steps(file), case.points)
        _note(found, name, "ITK", _distance(moved, transform_points(steps, case.points)))
    sitk.WriteImage(field.GetDisplacementField(), str(theirs / "itk.nii.gz"))
    moved = transform_points(read_steps(theirs / "itk.nii.gz"), case.points)
    _note(found, "itk-field", "ITK", _distance(moved, _truth(case, "itk-field")))


def _learn2reg(case: Case, folder: Path, found: Found) -> None:
    """The challenge's own rule: ``map_coordinates(moving, identity + displacement)``, here of voxel numbers."""
    import nibabel

    stored = nibabel.load(folder / "disp_0001_0002.nii.gz").get_fdata()
    at = np.indices(case.fixed.shape) + np.moveaxis(stored, -1, 0)
    voxels = np.indices(case.moving.shape, dtype=np.float64)
    sampled = np.stack([map_coordinates(axis, at, order=1, cval=np.nan).ravel() for axis in voxels], axis=1)
    moved = sampled @ case.moving.affine[:3, :3].T + case.moving.affine[:3, 3]
    truth = _truth(case, "learn2reg")
    inside = _inside(case, truth)
    _note(found, "learn2reg", "its rule", _distance(moved[inside], truth[inside]))


def _theirs(case: Case, folder: Path, images: dict[str, Path], found: Found) -> None:
    """Read what the peers wrote."""
    theirs = folder / "theirs"
    for format, program, file in (
        ("itk-field", "ANTs", "field.nii.gz"),
        ("itk-mat", "ANTs", "affine.mat"),
        ("fsl-flirt", "fslpy", "flirt.mat"),
        ("fsl-field", "fslpy", "fnirt_absolute.nii.gz"),
        ("freesurfer-lta", "surfa", "voxels.lta"),
    ):
        if (theirs / file).exists():
            stated = "absolute" if "absolute" in file else None
            steps = read_steps(theirs / file, format=format, convention=stated, **images)
            _note(found, format, program, _distance(transform_points(steps, case.points), _truth(case, format)))


def _nitransforms(case: Case, folder: Path, images: dict[str, Path]) -> Found:
    """Everything that nitransforms reads or writes, whether it is right or not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nitransforms import io, linear, manip, nonlinear

        found: Found = {}
        reference, moving = str(images["fixed"]), str(images["moving"])
        points = case.points
        for format, file, fmt in (
            ("itk-text", "affine.tfm", "itk"),
            ("itk-mat", "affine.mat", "itk"),
            ("fsl-flirt", "flirt.mat", "fsl"),
            ("freesurfer-lta", "affine.lta", "lta"),
            ("afni-1d", "affine.1D", "afni"),
        ):
            read = linear.Affine.from_filename(folder / file, fmt=fmt, reference=reference, moving=moving)
            _note(found, format, "reads", _distance(read.map(points), _truth(case, format)))
            back = folder / f"nitransforms_{file}"
            linear.Affine(case.matrix, reference=reference).to_filename(str(back), fmt=fmt, moving=moving)
            try:
                # nitransforms exchanges the two grids in an LTA, which read_steps does not let pass.
                given = {} if fmt == "lta" else images
                steps = read_steps(back, format=format, **given)
                _note(found, format, "writes", _distance(transform_points(steps, points), _truth(case, format)))
            except InputError:
                found[format, "writes"] = np.nan
        for format, file, fmt in (("itk-field", "field.nii.gz", "itk"), ("fsl-field", "fnirt.nii.gz", "fsl")):
            read = nonlinear.DenseFieldTransform.from_filename(folder / file, fmt=fmt)
            _note(found, format, "reads", _distance(_at_centers(read, case), _truth(case, format)))
        try:
            write_steps(folder / "qwarp.nii.gz", case.chain, format="afni-field", **images)
            read = nonlinear.DenseFieldTransform(
                io.afni.AFNIDisplacementsField.from_filename(folder / "qwarp.nii.gz")
            )
            _note(found, "afni-field", "reads", _distance(_at_centers(read, case), _truth(case, "afni-field")))
        except InputError:
            found["afni-field", "reads"] = np.nan
        chain = manip.TransformChain.from_filename(folder / "chain.x5", fmt="X5")
        moved = chain.transforms[1].map(_at_centers(chain.transforms[0], case))
        _note(found, "x5", "reads", _distance(moved, _truth(case, "x5")))
        dense = nonlinear.DenseFieldTransform(
            np.moveaxis(case.field.vectors, 0, -1), is_deltas=True, reference=reference
        )
        whole = manip.TransformChain([dense, linear.Affine(case.matrix, reference=reference)])
        whole.to_filename(str(folder / "nitransforms.x5"), fmt="X5")
        moved = transform_points(read_steps(folder / "nitransforms.x5"), points)
        _note(found, "x5", "writes", _distance(moved, _truth(case, "x5")))
    return found


def _at_centers(field: Any, case: Case) -> np.ndarray:
    """A field at its own voxel centers. ``map`` would look them up by float32 coordinates, which far off are coarse."""
    return np.asarray(field._field, dtype=np.float64).reshape(-1, 3)


#: Which program's answer stands in the table, the first that was there.
OWNERS = {
    "itk-h5": ("ITK", "ANTs"),
    "itk-text": ("ITK", "ANTs"),
    "itk-mat": ("ITK", "ANTs"),
    "itk-field": ("ITK", "ANTs"),
    "ants": ("ANTs",),
    "fsl-flirt": ("fslpy",),
    "fsl-field": ("fslpy",),
    "freesurfer-lta": ("surfa",),
    "learn2reg": ("its rule",),
}
#: Where nitransforms stands in, by its reading of our files; its own have too few digits, see the second table.
STAND_IN = ("afni-1d", "afni-field", "x5")


def tables(measured: list[tuple[Case, Found, Found]]) -> str:
    """Return what was measured as two tables."""
    names = [case.name for case, _, _ in measured]
    head = f"| format | program | {' | '.join(names)} |\n|---|---|{'---|' * len(names)}\n"
    rows = []
    for format, programs in OWNERS.items():
        for program in programs:
            rows.append(_row(format, program, [found.get((format, program)) for _, found, _ in measured]))
    for format in STAND_IN:
        rows.append(_row(format, "nitransforms, standing in", [nit[format, "reads"] for _, _, nit in measured]))
    second = defaultdict(list)
    for _, _, nit in measured:
        for (format, way), distance in nit.items():
            second[format, way].append(distance)
    others = [_row(format, way, list(values)) for (format, way), values in sorted(second.items())]
    return (
        f"{head}{''.join(rows)}\n"
        "The same of nitransforms, for every format that it knows: *reads* is nitransforms on a file of ours, *writes* "
        "a file of its own, read by mmtk.\n\n"
        f"{head.replace('program', 'nitransforms', 1)}{''.join(others)}"
    )


def _row(format: str, program: str, values: list[float | None]) -> str:
    def cell(value: float | None) -> str:
        if value is None:
            return "not here"
        return "refused" if np.isnan(value) else f"{value:.1e}" if value >= 1e-9 else "< 1e-9"

    return f"| `{format}` | {program} | {' | '.join(cell(value) for value in values)} |\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.interchange", description=__doc__)
    parser.add_argument("--peers-python", default=sys.executable, help="Python with antspyx, fslpy and surfa")
    parser.add_argument("--page", type=Path, default=PAGE)
    asked = parser.parse_args()
    measured, versions = [], {}
    with tempfile.TemporaryDirectory() as scratch:
        for case in cases():
            found, nit, versions = measure(case, Path(scratch) / case.name.replace(" ", "_"), asked.peers_python)
            measured.append((case, found, nit))
    for package in ("SimpleITK", "nitransforms"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    told = ", ".join(f"{name} {number}" for name, number in sorted(versions.items(), key=lambda v: v[0].lower()))
    text = asked.page.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    body = f"{BEGIN}\nMeasured with {told}.\n\n{tables(measured)}{END}"
    asked.page.write_text(before + body + after, encoding="utf-8")
    print(body)


if __name__ == "__main__":
    main()
