"""``python -m benchmarks.landmarks``: do landmarks land where ANTs puts them under the same transform?

ANTs registers one slice of its examples to another (SyN). Every voxel of the landmarks that come with the first slice
is a point, and so are their two centers. Both programs carry them by the same files, through ``mmtk apply`` as a user
would; what is noted is the largest distance, in mm.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel
import numpy as np

from mmtk.io import Points, read_points, write_points
from mmtk.transforms import Transform, load_transform
from mmtk.transforms.apply import apply

WORKER = Path(__file__).resolve().parent / "workers" / "run_landmarks.py"
LPS = np.array([-1.0, -1.0])


def landmarks(path: Path) -> np.ndarray:
    """Return every voxel of every landmark, then the center of each: ``(n, 2)``, RAS, mm."""
    image = nibabel.load(path)
    labels = np.asarray(image.dataobj)
    voxels = [np.argwhere(labels == value) for value in np.unique(labels[labels > 0])]
    nodes = np.concatenate([*voxels, [group.mean(axis=0) for group in voxels]])
    return nodes @ image.affine[:2, :2].T + image.affine[:2, 3]


def distances(data: Path, other: str, peers: str) -> dict[str, float]:
    """Register the first slice to another, and return the largest distance by what is compared."""
    fixed, moving = data / "ants_r16slice.jpg", data / f"ants_{other}slice.jpg"
    start = landmarks(data / "ants_r16sliceLM.nii.gz")
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        np.save(out / "start.npy", start * LPS)
        subprocess.run([peers, str(WORKER), str(fixed), str(moving), str(out / "start.npy"), str(out)], check=True)
        write_points(out / "start.csv", Points(start, "fixed"))
        files = f"{out / '1Warp.nii.gz'},{out / '0GenericAffine.mat'}"
        apply({"transform": files, "points": out / "start.csv", "out": out / "there.csv"})
        apply({"transform": files, "points": out / "there.csv", "out": out / "again.csv"})
        there, again = (read_points(out / f"{name}.csv").places for name in ("there", "again"))
        forward, back = (np.load(out / f"{name}.npy") * LPS for name in ("forward", "back"))
        affine = load_transform(out / "0GenericAffine.mat").inverse()
        inverse = load_transform(out / "1InverseWarp.nii.gz").renamed(points_from="fixed", points_to="end")
        stored = Transform.then(affine, inverse).points(forward)
    return {
        "how far the landmarks go": _largest(start, forward),
        "forward, mmtk to ANTs": _largest(there, forward),
        "back by ANTs' stored inverse, mmtk to ANTs": _largest(stored, back),
        "there and back, ANTs": _largest(back, start),
        "there and back, mmtk": _largest(again, start),
    }


def _largest(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(one - other, axis=1).max())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.landmarks", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/slices_2d"), help="folder of the slices")
    parser.add_argument("--peers-python", default=sys.executable, help="Python with antspyx")
    asked = parser.parse_args()
    for other in ("r27", "r30", "r64"):
        print(f"r16 to {other}")
        for name, distance in distances(asked.data, other, asked.peers_python).items():
            print(f"  {name}: {distance:.2g} mm")


if __name__ == "__main__":
    main()
