"""antspyx. Settings: those of ``ants.registration``; ``swap`` registers the other way and inverts."""

import glob
import shutil

from common import Task

task = Task.read()

import ants  # noqa: E402

settings = dict(task.settings)
kind, swap = settings.pop("type"), settings.pop("swap", False)
if "reg_iterations" in settings:
    settings["reg_iterations"] = tuple(settings["reg_iterations"])
patient, template = ants.image_read(task.moving), ants.image_read(task.fixed)
if task.visible is not None:
    settings["mask" if swap else "moving_mask"] = ants.image_read(task.visible)
    settings["mask_all_stages"] = True
fixed, moving = (patient, template) if swap else (template, patient)
prefix = str(task.out / "ants_")
with task.call():
    found = ants.registration(
        fixed,
        moving,
        kind,
        initial_transform=[task.itk_inverse if swap else task.itk_affine],
        outprefix=prefix,
        **settings,
    )
names = sorted(glob.glob(prefix + "*"))
affine = [name for name in names if name.endswith("GenericAffine.mat")]
if swap:
    # Fixed to moving is the inverse of what was found: first the inverse warp, then the inverse affine.
    backward = [name for name in names if name.endswith("InverseWarp.nii.gz")]
    chain, inverted = [*affine, *backward], [True] * len(affine) + [False] * len(backward)
else:
    forward = [name for name in names if name.endswith("Warp.nii.gz") and "Inverse" not in name]
    chain, inverted = [*forward, *affine], [False] * (len(forward) + len(affine))
composed = ants.apply_transforms(
    template, patient, chain, whichtoinvert=inverted, compose=str(task.out / "whole_")
)
shutil.move(composed, task.displacement)
for name in names:
    shutil.os.remove(name)
task.done("antspyx")
