"""What the programs that own a format make of files that mmtk wrote, and files of their own; needs no mmtk.

``run_interchange.py FOLDER``: reads what lies in the folder, carries ``points.npy`` (fixed points, RAS, mm) by each
program that is installed, and leaves ``moved.npz``, ``theirs/`` and ``versions.json``.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

LPS = np.array([-1.0, -1.0, 1.0])


def ants_points(folder: Path, points: np.ndarray, moved: dict[str, Any]) -> None:
    import ants
    import pandas

    frame = pandas.DataFrame(points * LPS, columns=["x", "y", "z"])
    warp, affine = str(folder / "ants1Warp.nii.gz"), str(folder / "ants0GenericAffine.mat")
    for name, files in {
        "ants": [warp, affine],
        "itk-h5": [str(folder / "chain.h5")],
        "itk-mat": [str(folder / "affine.mat")],
        "itk-text": [str(folder / "affine.tfm")],
        "itk-field": [str(folder / "field.nii.gz")],
    }.items():
        moved[f"{name}:ANTs"] = ants.apply_transforms_to_points(3, frame, files)[["x", "y", "z"]].to_numpy() * LPS
    fixed = ants.image_read(str(folder / "fixed.nii.gz"))
    pulled = []
    for axis in "xyz":
        image = ants.image_read(str(folder / f"moving_{axis}.nii.gz"))
        warped = ants.apply_transforms(fixed, image, [warp, affine], interpolator="linear", defaultvalue=1e6)
        pulled.append(warped.numpy().reshape(-1))
    moved["ants:images"] = np.stack(pulled, axis=1)
    theirs = folder / "theirs"
    field = ants.apply_transforms(fixed, fixed, [warp, affine], compose=str(theirs / "composed"))
    Path(field).rename(theirs / "field.nii.gz")
    ants.write_transform(ants.read_transform(affine), str(theirs / "affine.mat"))


def fsl_points(folder: Path, points: np.ndarray, moved: dict[str, Any]) -> None:
    from fsl.data.image import Image
    from fsl.transform import affine as algebra
    from fsl.transform import fnirt, nonlinear
    from fsl.transform.flirt import fromFlirt, readFlirt, toFlirt, writeFlirt

    fixed, moving = (Image(str(folder / f"{name}.nii.gz")) for name in ("fixed", "moving"))
    # FLIRT: moving to fixed; ours, fixed to moving.
    world = fromFlirt(readFlirt(str(folder / "flirt.mat")), moving, fixed, "world", "world")
    moved["fsl-flirt:fslpy"] = algebra.transform(points, algebra.invert(world))
    truth = np.loadtxt(folder / "matrix.txt")
    writeFlirt(toFlirt(np.linalg.inv(truth), moving, fixed, "world", "world"), str(folder / "theirs/flirt.mat"))
    field = fnirt.readFnirt(str(folder / "fnirt.nii.gz"), moving, fixed)
    moved["fsl-field:fslpy"] = field.transform(points, "world", "world")
    absolute = nonlinear.convertDeformationType(field, "absolute")
    nonlinear.DeformationField(absolute, moving, fixed, header=field.header).save(
        str(folder / "theirs/fnirt_absolute.nii.gz")
    )


def freesurfer_points(folder: Path, points: np.ndarray, moved: dict[str, Any]) -> None:
    import surfa

    read = surfa.load_affine(str(folder / "affine.lta"))
    # Through the voxels, so that the grids in the file are put to the test as well.
    voxels = read.convert(space="vox").matrix
    fixed, moving = (nibabel.load(folder / f"{name}.nii.gz").affine for name in ("fixed", "moving"))
    back = moving @ np.linalg.inv(voxels) @ np.linalg.inv(fixed)
    moved["freesurfer-lta:surfa"] = points @ back[:3, :3].T + back[:3, 3]
    read.convert(space="vox").save(str(folder / "theirs/voxels.lta"))


def main() -> None:
    folder = Path(sys.argv[1])
    points = np.load(folder / "points.npy")
    (folder / "theirs").mkdir(exist_ok=True)
    moved: dict[str, Any] = {}
    versions: dict[str, str] = {}
    for package, job in (("antspyx", ants_points), ("fslpy", fsl_points), ("surfa", freesurfer_points)):
        try:
            versions[package] = version(package)
        except ImportError:
            continue
        job(folder, points, moved)
    np.savez(folder / "moved.npz", **moved)
    (folder / "versions.json").write_text(json.dumps(versions))


if __name__ == "__main__":
    main()
