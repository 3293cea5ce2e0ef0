"""ANTs registers two slices and carries points between them, by its own transforms; needs no mmtk.

``run_landmarks.py FIXED MOVING POINTS.npy OUT``: the points (LPS, mm) lie on the fixed image. Leaves the transforms as
``0GenericAffine.mat``, ``1Warp.nii.gz`` and ``1InverseWarp.nii.gz``, and where ANTs takes the points: ``forward.npy``
on the moving image, ``back.npy`` from there to the fixed one again, by its stored inverse.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import ants
import numpy as np
import pandas


def main() -> None:
    fixed, moving, points, out = map(Path, sys.argv[1:])
    images = [ants.image_read(str(path), pixeltype="float") for path in (fixed, moving)]
    found = ants.registration(*images, type_of_transform="SyN", random_seed=1)
    warp, affine = found["fwdtransforms"]
    inverse = next(path for path in found["invtransforms"] if path.endswith("1InverseWarp.nii.gz"))
    for path, name in ((affine, "0GenericAffine.mat"), (warp, "1Warp.nii.gz"), (inverse, "1InverseWarp.nii.gz")):
        shutil.copy(path, out / name)
    start = pandas.DataFrame(np.load(points), columns=["x", "y"])
    there = ants.apply_transforms_to_points(2, start, [warp, affine])
    back = ants.apply_transforms_to_points(2, there, [affine, inverse], whichtoinvert=[True, False])
    for name, frame in (("forward", there), ("back", back)):
        np.save(out / f"{name}.npy", frame[["x", "y"]].to_numpy())


if __name__ == "__main__":
    main()
