"""The files that the pages take for the reader's own: small, but brains with a lesion.

python given.py FOLDER
"""

import json
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
from nibabel.orientations import axcodes2ornt
from scipy import ndimage

from mmtk.bundle.recipe import shipped_bundle
from mmtk.io import Volume, write_displacement
from mmtk.samples import tumor_brain
from mmtk.samples.sample import Sample

SPACING = 8.0


def image(sample: Sample, data: np.ndarray, dtype: type = np.float32) -> nibabel.Nifti1Image:
    made = nibabel.Nifti1Image(np.asarray(data).astype(dtype), sample.affine)
    made.header.set_xyzt_units("mm")
    return made


def pair(sample: Sample, folder: Path, moving: str, fixed: str, mask: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    nibabel.save(image(sample, sample.moving), folder / moving)
    nibabel.save(image(sample, sample.mask, np.uint8), folder / mask)
    if fixed:
        nibabel.save(image(sample, sample.fixed), folder / fixed)


def turned(scan: nibabel.Nifti1Image) -> nibabel.Nifti1Image:
    """The same scan as a scanner may have stored it: axes in another order, and the head tilted in the world."""
    stored = scan.as_reoriented(axcodes2ornt(("P", "S", "R")))
    c, s = np.cos(0.2), np.sin(0.2)
    tilt = np.array([[1, 0, 0, 3], [0, c, -s, -12], [0, s, c, 7], [0, 0, 0, 1]])
    return nibabel.Nifti1Image(np.asarray(stored.dataobj), tilt @ stored.affine)


def slicer_markups(places: np.ndarray) -> dict:
    """A markup file as 3D Slicer writes it: LPS, and not a word about the image."""
    points = [
        {"id": str(n), "label": f"F-{n}", "position": [float(a) for a in place * (-1, -1, 1)]}
        for n, place in enumerate(places, 1)
    ]
    markup = {"type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": "mm", "controlPoints": points}
    return {"markups": [markup]}


def fiducials(places: np.ndarray) -> str:
    """The older form of the same."""
    head = (
        "# Markups fiducial file version = 5.0\n# CoordinateSystem = LPS\n"
        "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
    )
    rows = [f"{n},{-x:.3f},{-y:.3f},{z:.3f},0,0,0,1,1,1,0,F-{n},," for n, (x, y, z) in enumerate(places, 1)]
    return head + "\n".join(rows) + "\n"


def main(out: Path) -> None:
    case = tumor_brain(spacing=SPACING)
    pair(case, out, "patient_t1.nii.gz", "template.nii.gz", "tumor.nii.gz")
    nibabel.save(image(case, case.labels_moving, np.uint8), out / "patient_labels.nii.gz")
    nibabel.save(image(case, case.labels_fixed, np.uint8), out / "template_labels.nii.gz")
    nibabel.save(image(case, case.labels_moving, np.uint8), out / "patient_seg.nii.gz")
    nibabel.save(image(case, ndimage.gaussian_filter(case.mask.astype(float), 0.5)), out / "probability.nii.gz")
    bright = np.where(case.moving > 0.1, 1.2 - case.moving, 0)
    for name in ("patient_t2", "patient_flair"):
        nibabel.save(image(case, bright), out / f"{name}.nii.gz")

    operated = tumor_brain(spacing=SPACING, kind="resected", seed=1)
    pair(operated, out, "after.nii.gz", "before.nii.gz", "cavity.nii.gz")

    nibabel.save(turned(image(case, case.moving)), out / "scan.nii.gz")
    nibabel.save(turned(image(case, case.mask, np.uint8)), out / "scan_tumor.nii.gz")

    noise = np.random.default_rng(0)
    for number in (1, 2):
        subject = replace(case, moving=np.maximum(case.moving + noise.normal(0, 0.02, case.moving.shape), 0))
        pair(subject, out / "scans" / f"sub-{number:02d}", "t1.nii.gz", "", "tumor.nii.gz")

    # Points of the moving image, in world mm (RAS), within the head.
    voxels = np.argwhere(case.moving > 0.3)[::400][:4]
    places = nibabel.affines.apply_affine(case.affine, voxels)
    rows = [",".join(f"{x:.2f}" for x in place) + f",point {n}" for n, place in enumerate(places, 1)]
    (out / "landmarks.csv").write_text("# space: moving, RAS, mm\nx,y,z,label\n" + "\n".join(rows) + "\n")
    (out / "landmarks.mrk.json").write_text(json.dumps(slicer_markups(places), indent=1))
    (out / "landmarks.fcsv").write_text(fiducials(places))

    # A field that does not say what its numbers are, and a true one.
    bare = np.zeros((*case.fixed.shape, 3), np.float32)
    nibabel.save(nibabel.Nifti1Image(bare + 0.5, case.affine), out / "field.nii.gz")
    truth = Volume(case.fixed, case.affine, name="fixed")
    write_displacement(out / "true_field.nii.gz", case.displacement, truth)

    # A bundle from somebody who would like to run a program.
    with tempfile.TemporaryDirectory() as place:
        theirs = shutil.copytree(shipped_bundle("lddmm"), Path(place) / "theirs")
        recipe = theirs / "configs" / "inference.json"
        config = json.loads(recipe.read_text())
        config["initialize"].insert(0, "$import subprocess")
        recipe.write_text(json.dumps(config, indent=4))
        shutil.make_archive(str(out / "theirs"), "zip", theirs)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
