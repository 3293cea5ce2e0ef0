# %% [markdown]
# # A tumor onto a template
#
# A patient's brain holds something that the template does not: a tumor. Ask a program to make the two images
# equal, and it will: it squeezes the tumor until it passes for healthy tissue, and drags the surroundings along.
# The picture looks right, and every measurement that follows (a volume, an atlas label, a place of activation) is
# off where it matters.
#
# mmtk is told where the lesion is, and finds two things that it keeps apart: a deformation (*shape*), led by what
# can be compared, and a change of intensities (*appearance*), allowed under the lesion mask alone.
#
# This page is the script `examples/tumor.py`. Run it with Python, or open it as a notebook (jupytext, VS Code).

# %% imports, and a terminal's command line tags=["hide-input"]
import os
import shlex
import subprocess
import sys
import tempfile
import textwrap

import matplotlib.pyplot as plt
import numpy as np

import mmtk
from mmtk.report import draw_grid, draw_plane
from mmtk.samples import Truth, error_against_truth, error_map


def sh(line):
    """Run a line as a terminal does; in a notebook, `!mmtk ...` is the same."""
    print("$", line)
    words = [sys.executable, "-m", *shlex.split(line.replace("\\\n", " "))]
    print(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout)


os.chdir(tempfile.mkdtemp())  # a new folder for what this page writes
plt.style.use("dark_background")

# %% the size of the images tags=["parameters"]
spacing, seed = 2.0, 1  # mm; 1.0 is the size of a real scan, and takes longer

# %% [markdown]
# ## The problem
#
# So that we can say afterwards how wrong we were, the patient is made up: the healthy brain, bent by a smooth
# deformation, with a tumor that has grown and pushed its surroundings aside. Deformation and tumor come from
# other formulas than those mmtk registers with, and they are stored beside the images.

# %%
sh(f"mmtk sample tumor_brain --out case kind=bright spacing={spacing:g} seed={seed}")

# %% The patient, with the lesion mask outlined, beside the template tags=["hide-input"]
patient, template, lesion = (
    mmtk.read_image(f"case/{name}.nii.gz") for name in ("moving", "fixed", "mask")
)
figure, axes = plt.subplots(1, 4, figsize=(11, 3.2), layout="constrained")
for pair, plane in ((axes[:2], "axial"), (axes[2:], "coronal")):
    view = {"at": lesion.data, "plane": plane, "bar": 50}
    draw_plane(
        pair[0],
        patient,
        patient,
        title=f"the patient, {plane}",
        outlines=[lesion],
        letters=True,
        **view,
    )
    draw_plane(pair[1], template, template, title=f"the template, {plane}", **view)
for panel in axes:  # all at one scale
    x, y = sum(panel.get_xlim()) / 2, sum(panel.get_ylim()) / 2
    panel.set(xlim=(x - 78, x + 78), ylim=(y + 92, y - 92))
plt.show()

# %% [markdown]
# Pictures are turned as radiologists turn them: the patient's right (R) is on the left. The mask covers the tumor
# and the edema around it, as a segmentation tool or a hand with ITK-SNAP would draw it.
#
# ## The one command
#
# `lesion=grew` says what no image of a single day can say: this lesion pushed its surroundings away.

# %%
sh("""mmtk run bundle=metamorph_brats moving=case/moving.nii.gz fixed=case/fixed.nii.gz \\
    mask=case/mask.nii.gz lesion=grew --out result""")

# %% [markdown]
# That is all. The folder `result` holds the images, transforms that ANTs, ITK-SNAP and 3D Slicer read, the
# numbers above, and `report.html`, the page to open first. In Python it is one call. A bundle is a description
# with a name, and this one says two things otherwise than Python's defaults (`mmtk run ... --dry-run` prints all
# that it says):

# %%
pair = {"moving": "case/moving.nii.gz", "fixed": "case/fixed.nii.gz"}
bundle = {"normalize": "histogram", "iterations": (12, 12, 16)}
result = mmtk.register(**pair, mask="case/mask.nii.gz", lesion="grew", **bundle)
print(result)

# %% [markdown]
# ## What came out

# %% Template, patient and results in one axial plane tags=["hide-input"]
fixed = result.prepared.fixed
seen = {"like": fixed, "at": result.warped_mask}
outline = {"outlines": [result.warped_mask]}
figure, axes = plt.subplots(2, 3, figsize=(9, 6.9), layout="constrained")
scans = {
    "the template": fixed, "the patient, affine alone": result.placed, "warped: shape and appearance": result.warped,
    "deformed: shape only": result.deformed,
}  # fmt: skip
for panel, (title, scan) in zip(axes.flat, scans.items(), strict=False):
    draw_plane(
        panel,
        scan,
        **seen,
        title=title,
        limits=(0, 1),
        bar=50,
        **({} if "alone" in title else outline),
    )
added = draw_plane(
    axes[1, 1],
    result.appearance,
    **seen,
    title="appearance: intensity added",
    colors="signed",
    **outline,
)
figure.colorbar(added, cax=axes[1, 1].inset_axes((0.85, 0.1, 0.04, 0.8)))
draw_plane(
    axes[1, 2],
    result.deformed,
    **seen,
    title="the deformed grid, 10 mm",
    limits=(0, 3),
    **outline,
)
draw_grid(axes[1, 2], result.displacement, **seen, step=10)
plt.show()

# %% [markdown]
# The outline is the lesion mask, carried along. Read the panels in this order:
#
# - **Deformed** is the patient's own intensities, moved and nothing else. Away from the outline it must look like
#   the template: ventricles, gyri, the midline. The tumor is still there, and smaller: `lesion=grew` let it
#   shrink back.
# - **Appearance** is what no deformation could do, and is exactly 0 outside the outline. Inside, it should look
#   like the lesion's negative. Anatomy in it (a rim of cortex, half a ventricle) means that the shape has failed
#   there.
# - **Warped** is the sum of the two: the patient as if healthy. It always looks good inside the outline, since
#   that is painted. Never judge a registration by it there.
# - **The grid** should bend smoothly, and more tightly around the lesion than elsewhere.
#
# ## How to read the numbers
#
# The command has printed them all; [the page on metrics](../metrics.md) defines each one. These say most:

# %%
for group, name in (
    ("similarity", "squared_error_outside_before"),
    ("similarity", "squared_error_outside"),
    ("deformation", "folds"),
    ("deformation", "jacobian_min"),
    ("disentanglement", "appearance_outside_mask"),
    ("lesion", "volume_kept"),
):
    print(f"{group + '.' + name:42s} {result.metrics[group][name]:10.3f}")

# %% [markdown]
# - `squared_error_outside` against its `_before`: what the deformation did for the part that can be compared.
# - `folds` must be 0, and `jacobian_min` well above it: tissue that is squeezed to nothing was not matched but
#   hidden.
# - `appearance_outside_mask` must be 0: a method that paints outside the lesion cheats.
# - `volume_kept` is the lesion's volume on the template over its volume in the patient. A mass that grew from a
#   smaller one should keep less than 1.
#
# ## Was it right?
#
# On your data nobody can say. Here the true deformation is known. We ask four times: without a mask; with the
# mask; with the mask and the right statement about the lesion's past; and with a wrong one.

# %%
mask = {"mask": "case/mask.nii.gz"}
wrong = {"lesion": "collapsed"}
tried = {
    "no mask": mmtk.register(**pair, **bundle),
    "the mask": mmtk.register(**pair, **mask, **bundle),
    "the mask, lesion=grew": result,
    "the mask, lesion=collapsed (wrong)": mmtk.register(
        **pair, **mask, **wrong, **bundle
    ),
}
truth = Truth.read("case")
errors = {name: error_against_truth(truth, one) for name, one in tried.items()}
print(f"{'':36s} far, mm  near, mm  volume kept  least determinant")
for name, one in tried.items():
    kept = one.metrics.get("lesion", {}).get("volume_kept", float("nan"))
    least = one.metrics["deformation"]["jacobian_min"]
    row = f"{name:36s} {errors[name]['far']:7.2f}  {errors[name]['near']:8.2f}"
    print(f"{row}  {kept:11.2f}  {least:17.2f}")

# %% How far each of the four is from the truth, in millimeters tags=["hide-input"]
view = {"at": truth.fixed_mask, "colors": "lengths", "limits": (0, 4), "bar": 50}
view |= {"outlines": [truth.fixed_mask]}
figure, axes = plt.subplots(1, 4, figsize=(11, 3.5), layout="constrained")
for panel, (name, one) in zip(axes, tried.items(), strict=True):
    title = name.replace(", ", "\n") + ("" if "," in name else "\n")
    distance = error_map(truth, one) * truth.foreground
    drawn = draw_plane(panel, distance, fixed, **view, title=title)
figure.colorbar(
    drawn, ax=axes, shrink=0.8, label="error, mm (4 or more: white)", pad=0.01
)
plt.show()

# %% [markdown]
# *Near* is within 10 mm of the lesion, *far* the rest of the brain. Far from the lesion the four hardly differ,
# so a picture of the whole brain does not tell them apart. Near it, each thing that mmtk was told helps, and the
# wrong statement does more harm than all the others together. Inside the outline an error means little: what is
# there in the patient has no counterpart in the template.
#
# ## When to distrust it
#
# The wrong statement could be seen without the truth. Its tumor did not shrink on the way back but grew, at the
# cost of tissue squeezed to almost nothing. The report of such a run opens with what a careful reader would ask:

# %%
for name in ("the mask, lesion=grew", "the mask, lesion=collapsed (wrong)"):
    print(name)
    for doubt in tried[name].doubts:
        print(textwrap.indent(textwrap.fill(doubt, 82), "    "))

# %% [markdown]
# The good run was asked one thing as well, and has an answer: at the edge of these images there is air. Look
# twice, too, when
#
# - **the mask is wrong.** Edema that was left out is compared with healthy tissue and pulled at; healthy tissue
#   under the mask leads nothing. Rather too large than too small, but the larger, the less is seen near the
#   lesion.
# - **you do not know what the lesion did.** Then leave `lesion` out: `unknown` is the default, and better than a
#   guess. An infiltrating tumor, which replaces tissue without pushing, has no mass effect to undo.
# - **the affine placement failed.** Everything after it is lost. The report shows it, and says so where it can
#   tell.
# - **the two images have different contrast.** [Writing a plugin](write_a_plugin.md) shows that case.
#
# ## What to try next
#
# - Carry what you have drawn on the patient: `mmtk apply transform=result labels=seg.nii.gz
#   out=seg_on_template.nii.gz`, or points, or another contrast ([more](../transforms.md)).
# - One person before and after surgery is another problem, with [a page of its own](pre_post.md).
# - What a model of shape and appearance can and cannot know is easiest to see on [a letter with a cut](cut_c.md).

# %% tags=["remove-cell"]
assert np.allclose(
    mmtk.read_image("result/warped.nii.gz").data, result.warped, atol=1e-4
), "the command and the call agree"
far = [error["far"] for error in errors.values()]
near = [error["near"] for error in errors.values()]
assert max(far[:3]) < 1.05 * min(far[:3]), "far from the lesion the four hardly differ"
assert near[2] < near[1] < near[0], "each thing that mmtk was told helps"
assert near[3] > sum(near[:3]), (
    "the wrong statement does more harm than all others together"
)
wrong = tried["the mask, lesion=collapsed (wrong)"]
assert (
    wrong.metrics["lesion"]["volume_kept"] > 1 > result.metrics["lesion"]["volume_kept"]
)
assert (
    wrong.metrics["deformation"]["jacobian_min"]
    < 0.1
    < result.metrics["deformation"]["jacobian_min"]
)
assert (
    result.metrics["deformation"]["folds"]
    == 0
    == result.metrics["disentanglement"]["appearance_outside_mask"]
)
assert len(wrong.doubts) > len(result.doubts), "the report of such a run asks"
