"""Write the inputs of one subject into a folder: the same files, affine and mask for every tool.

    fixed.nii.gz  moving.nii.gz               what is registered
    mask.nii.gz  visible.nii.gz               the lesion on the moving image, and one minus it
    affine.txt  affine.tfm  affine_inverse.tfm   fixed to moving, 4x4 in RAS mm; as ITK has it; the inverse
    truth.npz  sample.npz  labels_*.nii.gz    for the score alone

Run as ``python -m benchmarks.prepare RECIPE OPTIONS.json DATA FOLDER``, in a process of its own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from mmtk.io import Volume, read_image, write_image

__all__ = ["RECIPES", "write_affine"]

#: Written last: a folder without it is not finished.
FINISHED = "prepared"


def write_affine(folder: Path, matrix: np.ndarray, dim: int) -> None:
    """Write a fixed-to-moving matrix (4x4, RAS, mm) in all forms that the tools read."""
    np.savetxt(folder / "affine.txt", matrix, fmt="%.17g")
    lps = np.diag([-1.0, -1.0, 1.0, 1.0])
    for name, one in (("affine", matrix), ("affine_inverse", np.linalg.inv(matrix))):
        itk = lps @ one @ lps
        numbers = [*itk[:dim, :dim].ravel(), *itk[:dim, 3]]
        lines = [
            "#Insight Transform File V1.0",
            "#Transform 0",
            f"Transform: AffineTransform_double_{dim}_{dim}",
            "Parameters: " + " ".join(f"{n:.17g}" for n in numbers),
            "FixedParameters: " + " ".join(["0"] * dim),
        ]
        (folder / f"{name}.tfm").write_text("\n".join(lines) + "\n")


def _write(folder: Path, fixed: Volume, moving: Volume, mask: np.ndarray | None, matrix: np.ndarray) -> None:
    write_image(folder / "fixed.nii.gz", fixed.data, fixed, "float32")
    write_image(folder / "moving.nii.gz", moving.data, moving, "float32")
    if mask is not None:
        write_image(folder / "mask.nii.gz", mask > 0, moving, "uint8")
        write_image(folder / "visible.nii.gz", mask == 0, moving, "uint8")
    write_affine(folder, matrix, fixed.dim)


def _affine(fixed: Volume, moving: Volume, mask: np.ndarray | None = None) -> np.ndarray:
    """Return an affine by a third party, so that no competitor starts from its own: SimpleITK, mutual information."""
    import SimpleITK as sitk

    def image(data: np.ndarray, volume: Volume) -> sitk.Image:
        made = sitk.GetImageFromArray(np.ascontiguousarray(data.transpose()))
        lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine
        made.SetSpacing(volume.spacing)
        made.SetOrigin(lps[:3, 3].tolist())
        made.SetDirection((lps[:3, :3] / np.array(volume.spacing)).ravel().tolist())
        return made

    target, source = image(fixed.data, fixed), image(moving.data, moving)

    def improved(start: sitk.Transform) -> tuple[float, sitk.Transform]:
        method = sitk.ImageRegistrationMethod()
        method.SetMetricAsMattesMutualInformation(48)
        method.SetMetricSamplingStrategy(method.REGULAR)
        method.SetMetricSamplingPercentage(0.2)
        if mask is not None:
            method.SetMetricMovingMask(image((mask == 0).astype(np.uint8), moving))
        method.SetShrinkFactorsPerLevel([4, 2])
        method.SetSmoothingSigmasPerLevel([4, 2])
        method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
        method.SetInterpolator(sitk.sitkLinear)
        method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-3, 150, relaxationFactor=0.6)
        method.SetOptimizerScalesFromPhysicalShift()
        method.SetInitialTransform(start, inPlace=True)
        method.Execute(target, source)
        return method.GetMetricValue(), start

    def affine(rigid: sitk.Euler3DTransform) -> sitk.AffineTransform:
        free = sitk.AffineTransform(3)
        free.SetCenter(rigid.GetCenter())
        free.SetMatrix(rigid.GetMatrix())
        free.SetTranslation(rigid.GetTranslation())
        return free

    # One start alone was seen to end far off: twice, with and without a rigid stage, and the better one counts.
    moments = sitk.CenteredTransformInitializerFilter.MOMENTS
    first = sitk.Euler3DTransform(
        sitk.CenteredTransformInitializer(target, source, sitk.Euler3DTransform(), moments)
    )
    rigid = improved(sitk.Euler3DTransform(first))[1]
    _, heads = min((improved(affine(start)) for start in (first, rigid)), key=lambda found: found[0])
    itk = np.eye(4)
    itk[:3, :3] = np.array(heads.GetMatrix()).reshape(3, 3)
    itk[:3, 3] = heads.TransformPoint((0.0, 0.0, 0.0))
    lps = np.diag([-1.0, -1.0, 1.0, 1.0])
    return lps @ itk @ lps


def _save_sample(folder: Path, sample: Any) -> None:
    """A sample starts from the identity: both images lie on one grid, and its truth has no affine."""
    from mmtk.samples.truth import TRUTH_FILE, Truth

    truth = Truth.of(sample)
    np.savez_compressed(
        folder / TRUTH_FILE, displacement=truth.displacement, fixed_mask=truth.fixed_mask,
        foreground=truth.foreground, affine=truth.affine,
    )  # fmt: skip
    fixed, moving = Volume(sample.fixed, sample.affine), Volume(sample.moving, sample.affine)
    _write(folder, fixed, moving, sample.mask, np.eye(4))


def tumor_brain(folder: Path, options: Mapping[str, Any], data: Path) -> None:
    """A synthetic lesion in the embedded brain."""
    from mmtk.samples import tumor_brain as make

    _save_sample(folder, make(**options))


def slice(folder: Path, options: Mapping[str, Any], data: Path) -> None:
    """An axial slice of a synthetic tumor, on 200 x 200 pixels."""
    from mmtk.samples import tumor_brain as make

    sample = make(dim=2, kind="bright", **options)
    _save_sample(folder, _padded(sample, (200, 200)))


def _padded(sample: Any, shape: tuple[int, ...]) -> Any:
    from dataclasses import replace

    before = [(n - m) // 2 for n, m in zip(shape, sample.fixed.shape, strict=True)]
    around = [(b, n - m - b) for b, n, m in zip(before, shape, sample.fixed.shape, strict=True)]
    affine = sample.affine.copy()
    affine[:3, 3] -= affine[:3, : len(shape)] @ before
    fields = {
        name: np.pad(getattr(sample, name), around)
        for name in ("moving", "fixed", "mask", "fixed_mask", "appearance")
    }
    displacement = np.pad(sample.displacement, [(0, 0), *around], mode="edge")
    return replace(
        sample, displacement=displacement, affine=affine, labels_moving=None, labels_fixed=None, **fields
    )


def letter(folder: Path, options: Mapping[str, Any], data: Path) -> None:
    """The ``number``-th letter C of a seed."""
    from mmtk.samples import c_shapes

    number, area = options["number"], options["mask_area"]
    drawn = c_shapes(number + 1, seed=options["seed"], mask_area=area)
    sample = next(islice(drawn, number, None))
    arrays = {name: getattr(sample, name) for name in _SAMPLE_ARRAYS}
    np.savez_compressed(folder / "sample.npz", **arrays)
    fixed, moving = Volume(sample.fixed, sample.affine), Volume(sample.moving, sample.affine)
    _write(folder, fixed, moving, sample.mask, np.eye(4))


_SAMPLE_ARRAYS = (
    "moving", "fixed", "mask", "fixed_mask", "displacement", "inverse_displacement", "appearance", "affine",
)  # fmt: skip


def cube(folder: Path, options: Mapping[str, Any], data: Path) -> None:
    """A synthetic tumor stretched onto ``size`` voxels a side of 192 / size mm, so that cost alone changes."""
    from scipy.ndimage import zoom

    from mmtk.samples import tumor_brain as make

    size = options["size"]
    sample = make(kind="bright", spacing=2.0, seed=options["seed"])
    factors = [size / n for n in sample.fixed.shape]
    fixed, moving = (zoom(image, factors, order=1) for image in (sample.fixed, sample.moving))
    mask = zoom(sample.mask.astype(np.float32), factors, order=1) > 0.5
    affine = np.diag([192 / size] * 3 + [1.0])
    _write(folder, Volume(fixed, affine), Volume(moving, affine), mask, np.eye(4))


def tumor_real(folder: Path, options: Mapping[str, Any], data: Path) -> None:
    """A patient, histogram matched to the template by SimpleITK, and the template."""
    _write(folder, *_patient(options["case"], data))


def cropped_tumor(folder: Path, options: Mapping[str, Any], data: Path) -> None:
    """The same pair on a smaller grid around the heads."""
    fixed, moving, mask, matrix = _patient(options["case"], data)
    shape = tuple(options["shape"])
    head = np.argwhere((fixed.data > 0) | (moving.data > 0))
    middle = (head.min(0) + head.max(0)) // 2
    start = [int(np.clip(m - n // 2, 0, full - n)) for m, n, full in zip(middle, shape, fixed.shape, strict=True)]
    box = tuple(np.s_[s : s + n] for s, n in zip(start, shape, strict=True))

    def cut(volume: Volume) -> Volume:
        affine = volume.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ start
        return Volume(volume.data[box], affine)

    _write(folder, cut(fixed), cut(moving), mask[box], matrix)


def _patient(case: str, data: Path) -> tuple[Volume, Volume, np.ndarray, np.ndarray]:
    import SimpleITK as sitk

    paths = data / "template/brats_space_t1_brain.nii.gz", data / f"tumour_3d/{case}_t1.nii.gz"
    template, patient = (sitk.ReadImage(str(path), sitk.sitkFloat32) for path in paths)
    matched = sitk.GetArrayFromImage(sitk.HistogramMatching(patient, template, 1024, 7, True)).transpose(2, 1, 0)
    fixed, moving = (read_image(path) for path in paths)
    top = float(fixed.data.max())
    fixed, moving = Volume(fixed.data / top, fixed.affine), Volume(matched / top, moving.affine)
    mask = read_image(data / f"tumour_3d/{case}_seg.nii.gz").data > 0
    return fixed, moving, mask, _affine(fixed, moving, mask)


def people(folder: Path, options: Mapping[str, Any], data: Path) -> None:
    """Two healthy heads, both cut to what is labeled as brain."""
    volumes = {}
    for side in ("moving", "fixed"):
        labels = read_image(data / f"brains_2mm/{options[side]}_labels.nii.gz")
        image = read_image(data / f"brains_2mm/{options[side]}_t1.nii.gz")
        write_image(folder / f"labels_{side}.nii.gz", labels.data, labels, "uint8")
        volumes[side] = Volume(np.where(labels.data > 0, image.data, 0), image.affine)
    fixed, moving = volumes["fixed"], volumes["moving"]
    _write(folder, fixed, moving, None, _affine(fixed, moving))


RECIPES: Mapping[str, Callable[[Path, Mapping[str, Any], Path], None]] = {
    recipe.__name__: recipe for recipe in (tumor_brain, slice, letter, cube, tumor_real, cropped_tumor, people)
}


def main() -> None:
    recipe, options, data, folder = sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])
    folder.mkdir(parents=True, exist_ok=True)
    RECIPES[recipe](folder, options, data)
    (folder / FINISHED).touch()


if __name__ == "__main__":
    main()
