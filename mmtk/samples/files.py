"""What a sample leaves in its folder.

moving.nii.gz fixed.nii.gz mask.nii.gz    what is registered
moving_t2.nii.gz fixed_t2.nii.gz          the same of further modalities, where there are any
fixed_mask.nii.gz                         the fixed positions that correspond to the lesion
labels_moving.nii.gz labels_fixed.nii.gz  where there are labels
landmarks_moving.csv landmarks_fixed.csv  where there are landmarks
truth_displacement.nii.gz                 what a registration has to find: fixed to moving, as ITK reads it
truth_appearance.nii.gz                   what has to be added to the shape-only image to undo the lesion
truth.npz                                 the same displacement in voxels, for mmtk to score against
sample.json                               what was asked, what was drawn, what the files are
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmtk.errors import ConfigError
from mmtk.samples.brain import DATA
from mmtk.samples.sample import Sample
from mmtk.samples.truth import TRUTH_FILE, Truth, pack, unpack

_FILES = {
    "moving.nii.gz": "image to be registered, with the lesion (or, where the target is cut, without it)",
    "fixed.nii.gz": "image to register it onto",
    "mask.nii.gz": "lesion on the moving image",
    "fixed_mask.nii.gz": "fixed positions that correspond to the lesion",
    "labels_moving.nii.gz": "labels of the moving image; the highest is the lesion's core",
    "labels_fixed.nii.gz": "labels of the fixed image",
    "truth_displacement.nii.gz": "true displacement from fixed to moving points, LPS mm, as ITK and ANTs read it",
    "truth_appearance.nii.gz": "on the fixed grid, what undoes the lesion when added to the true shape-only image",
    "landmarks_moving.csv": "landmarks on the moving image, RAS mm",
    "landmarks_fixed.csv": "the same places on the fixed image",
    TRUTH_FILE: "the same in voxels of the fixed grid, axis order i,j,k, packed: mmtk.samples.Truth.read(folder)",
}


def save(sample: Sample, folder: str | Path) -> Path:
    """Write a sample into a new folder and return it.

    Raises:
        ConfigError: The folder exists and is not empty. Nothing is written then.
    """
    from mmtk.io import Points, Volume, write_displacement, write_image, write_json, write_points

    target = Path(folder)
    refuse_full(target)
    target.mkdir(parents=True, exist_ok=True)
    like = Volume(sample.fixed, sample.affine, name="fixed")
    packed = pack(sample.displacement)
    images: dict[str, tuple[Any, str]] = {
        "moving.nii.gz": (sample.moving, "float32"),
        "fixed.nii.gz": (sample.fixed, "float32"),
        "mask.nii.gz": (sample.mask, "uint8"),
        "fixed_mask.nii.gz": (sample.fixed_mask, "uint8"),
        "truth_appearance.nii.gz": (sample.appearance, "float32"),
    }
    for name, (moving, fixed) in sample.channels.items():
        images |= {f"moving_{name}.nii.gz": (moving, "float32"), f"fixed_{name}.nii.gz": (fixed, "float32")}
    for side, labels in (("moving", sample.labels_moving), ("fixed", sample.labels_fixed)):
        if labels is not None:
            images[f"labels_{side}.nii.gz"] = (labels, str(labels.dtype))
    if not sample.mask.any() and sample.landmarks is not None:  # nobody is ill in a way that a mask could show
        del images["mask.nii.gz"], images["fixed_mask.nii.gz"], images["truth_appearance.nii.gz"]
    for name, (voxels, dtype) in images.items():
        write_image(target / name, voxels, like, dtype)
    write_displacement(target / "truth_displacement.nii.gz", unpack(packed), like)
    _write_truth(target / TRUTH_FILE, Truth.of(sample), packed)
    written = {*images, "truth_displacement.nii.gz", TRUTH_FILE}
    for side, places in zip(("moving", "fixed"), sample.landmarks or (), strict=False):
        write_points(target / f"landmarks_{side}.csv", Points(places, side))
        written.add(f"landmarks_{side}.csv")
    told = _FILES | {
        f"{side}_{name}.nii.gz": f"{name} of the {side} image"
        for name in sample.channels
        for side in ("moving", "fixed")
    }
    if sample.facts.get("notice"):
        (target / "LICENSE.MNI.txt").write_bytes((DATA / "LICENSE.MNI.txt").read_bytes())
    write_json(
        target / "sample.json",
        {**sample.facts, "files": {name: what for name, what in told.items() if name in written}},
    )
    return target


def refuse_full(folder: Path) -> None:
    """Refuse a folder that holds something already.

    Raises:
        ConfigError: It does, or it is a file.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"'{folder}' exists and is not empty. Choose another folder, or remove it first.")


def _write_truth(path: Path, truth: Truth, packed: Any) -> None:
    import io

    import numpy as np

    from mmtk.io import write_bytes

    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        displacement=packed,
        fixed_mask=truth.fixed_mask.astype(np.uint8),
        foreground=truth.foreground.astype(np.uint8),
        affine=truth.affine,
    )
    write_bytes(path, buffer.getbuffer())
