# %% [markdown]
# # Before and after surgery
#
# One person, two scans. On the first there is a tumor, and a surgeon has marked points to be spared. On the
# second the tumor is gone, and the brain has sunk into the cavity. Where are those points now? How far has which
# part moved? What is left of the tumor's rim?
#
# Nothing in the second scan corresponds to the tumor, and nothing in the first to the cavity. A program that
# matches intensities closes the one or stretches the other, whichever is cheaper; it is wrong just where one
# wants to know.
#
# This page is the script `examples/pre_post.py`. Run it with Python, or open it as a notebook (jupytext, VS
# Code).

# %% imports, and a terminal's command line tags=["hide-input"]
import os
import shlex
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from scipy.ndimage import distance_transform_edt

import mmtk
from mmtk.report import draw_grid, draw_plane, draw_points
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
# The person is made up, so that the truth is known. `after` is a brain with a resection cavity: it has collapsed
# from 14 mm of radius to 9, and the brain around it has shifted by a few millimeters. `before` is the same brain
# with a tumor of 14 mm in the same place, as the same `seed` draws it, and with nothing displaced.

# %%
sh(f"""mmtk sample tumor_brain --out after kind=resected deformation=4 \\
    spacing={spacing:g} seed={seed}""")
sh(f"""mmtk sample tumor_brain --out before kind=bright growth=14,14 deformation=0 \\
    noise=0 spacing={spacing:g} seed={seed}""")

# %% Before surgery with the tumor outlined, and after it with the cavity outlined tags=["hide-input"]
before, tumor, after, cavity = (
    mmtk.read_image(f"{day}/{name}.nii.gz")
    for day in ("before", "after")
    for name in ("moving", "mask")
)
figure, axes = plt.subplots(1, 4, figsize=(11, 3.2), layout="constrained")
for pair, plane in ((axes[:2], "axial"), (axes[2:], "coronal")):
    view = {"at": cavity.data, "plane": plane, "bar": 50}
    draw_plane(
        pair[0],
        before,
        before,
        title=f"before, {plane}",
        outlines=[(tumor, "#4fe0ff")],
        letters=True,
        **view,
    )
    draw_plane(
        pair[1], after, after, title=f"after, {plane}", outlines=[cavity], **view
    )
for panel in axes:  # all at one scale
    x, y = sum(panel.get_xlim()) / 2, sum(panel.get_ylim()) / 2
    panel.set(xlim=(x - 78, x + 78), ylim=(y + 92, y - 92))
plt.show()

# %% [markdown]
# ## The one command
#
# The scan that stays (`fixed`) is the one on which the plan was made; the later one is carried onto it. There is
# a mask on either side, and two things are said that the images do not show:
#
# - `subject=same`: one person before and after. A brain that shifts moves more smoothly than two people differ,
#   so a smoother kernel is used, with a finer one around the cavity.
# - `lesion=collapsed`: the cavity that the mask marks was larger; tissue has sunk into it.

# %%
sh("""mmtk run bundle=metamorph_brats moving=after/moving.nii.gz mask=after/mask.nii.gz \\
    fixed=before/moving.nii.gz fixed_mask=before/mask.nii.gz \\
    init=rigid subject=same lesion=collapsed --out result""")

# %% [markdown]
# ## What came out
#
# The same in Python, for the pictures:

# %%
days = {"moving": "after/moving.nii.gz", "fixed": "before/moving.nii.gz"}
masks = {"mask": "after/mask.nii.gz", "fixed_mask": "before/mask.nii.gz"}
told = {"subject": "same", "lesion": "collapsed", "init": "rigid"}
bundle = {"normalize": "histogram", "iterations": (12, 12, 16)}  # as this bundle says
result = mmtk.register(**days, **masks, **told, **bundle)

# %% The scan after surgery, carried onto the one before, and how far tissue has moved tags=["hide-input"]
fixed = result.prepared.fixed
seen = {"like": fixed, "at": tumor.data}
both = [result.warped_mask, tumor]
shift = np.linalg.norm(result.displacement, axis=0) * spacing * (fixed.data > 0.1)
figure, axes = plt.subplots(2, 3, figsize=(9, 6.9), layout="constrained")
scan = {**seen, "limits": (0, 1), "bar": 50}
draw_plane(axes[0, 0], fixed, **scan, title="before", outlines=both)
draw_plane(axes[0, 1], result.placed, **scan, title="after, placed rigidly")
draw_plane(axes[0, 2], result.deformed, **scan, title="after, deformed", outlines=both)
drawn = draw_plane(
    axes[1, 0],
    shift,
    **seen,
    title="how far tissue moved, mm",
    colors="lengths",
    outlines=both,
)
figure.colorbar(drawn, cax=axes[1, 0].inset_axes((1.0, 0.1, 0.04, 0.8)))
size = np.log2(np.maximum(result.jacobian, 1e-3))
signed = {**seen, "colors": "signed", "limits": (-2, 2)}
drawn = draw_plane(
    axes[1, 1], size, **signed, title="log2 of the change of volume", outlines=both
)
figure.colorbar(drawn, cax=axes[1, 1].inset_axes((1.0, 0.1, 0.04, 0.8)))
near = {**seen, "zoom": 80}
draw_plane(
    axes[1, 2],
    result.deformed,
    **near,
    title="the deformed grid, 5 mm",
    limits=(0, 3),
    outlines=both,
    bar=10,
)
draw_grid(axes[1, 2], result.displacement, **near, step=5)
plt.show()

# %% [markdown]
# Yellow is the cavity as the deformation carries it back to the day before; cyan is the mask of the tumor with
# its edema. The carried cavity should fill about the place that the tumor had without its edema: that is what was
# cut out. Blue in the map of volumes is what has less room now; the grid is stretched over the cavity and smooth
# elsewhere.
#
# ## Landmarks
#
# Twelve points around the tumor, set on the scan before surgery. Where they truly are afterwards is known here.

# %% choosing twelve points, and writing tables of them tags=["hide-input"]
truth = Truth.read("after")
away = distance_transform_edt(
    ~truth.fixed_mask, sampling=fixed.spacing
)  # mm from where the cavity was
around = np.argwhere((away > 2) & (away < 12) & truth.foreground & (tumor.data == 0))
chosen = np.random.default_rng(7).choice(around, 12, replace=False)
moved = chosen + truth.displacement[(slice(None), *chosen.T)].T


def write_table(name, space, voxels):
    """Write voxels as a table whose first line says where its points lie; return them in mm."""
    points = voxels @ fixed.affine[:3, :3].T + fixed.affine[:3, 3]
    rows = [
        f"{x:.3f},{y:.3f},{z:.3f},{number}"
        for number, (x, y, z) in enumerate(points, 1)
    ]
    Path(name).write_text(
        "\n".join([f"# space: {space}, RAS, mm", "x,y,z,label", *rows]) + "\n"
    )
    return points


planned = write_table("planned.csv", "fixed", chosen)
today = write_table("today.csv", "moving", moved)

# %%
print(*Path("planned.csv").read_text().splitlines()[:4], "...", sep="\n")

# %% [markdown]
# The first line says on which image the points lie, and so `mmtk apply` knows which way to carry them. `mmtk
# evaluate` says how far the carried ones are from their twins (a study has them from a second reader; we have the
# truth):

# %%
sh("mmtk apply transform=result points=planned.csv out=planned_after.csv")
sh("mmtk evaluate transform=result landmarks=today.csv fixed_landmarks=planned.csv")

# %% Landmarks around the cavity after surgery: true, carried, and as they were tags=["hide-input"]
found = result.transform.points(planned)
view = {"like": after, "at": cavity.data, "zoom": 80}
figure, axes = plt.subplots(1, 2, figsize=(8.6, 4.4), layout="constrained")
for panel, points, title in (
    (axes[0], planned, "as planned: the scan has changed"),
    (axes[1], found, "carried"),
):
    draw_plane(panel, after, **view, title=title, outlines=[cavity], bar=10)
    draw_points(
        panel,
        points,
        **view,
        to=today,
        color="#ff2bd6",
        label="point, and its way to the truth",
    )
    draw_points(
        panel, today, **view, color="#4fe0ff", marker="s", label="where it truly is"
    )
axes[1].legend(loc="lower right", fontsize=8, framealpha=0.6)
plt.show()

# %% [markdown]
# The points lie up to two centimeters before or behind the plane that is shown; what counts is the length of the
# lines.
#
# ## Was it right, and what did it hang on?
#
# The same pair again, each time with one thing said otherwise:


# %%
def again(**other):
    """The same registration with something said otherwise."""
    return mmtk.register(**days | masks | told | bundle | other)


tried = {
    "all that is known": result,
    "lesion=unknown": again(lesion="unknown"),
    "lesion=grew (wrong)": again(lesion="grew"),
    "subject=another": again(subject="another"),
    "no mask before surgery": again(fixed_mask=None),
    "no mask at all": again(mask=None, fixed_mask=None, lesion="unknown"),
}
errors = {}
for name, one in tried.items():
    errors[name] = error_against_truth(truth, one)
    off = np.linalg.norm(one.transform.points(planned) - today, axis=1)
    errors[name]["landmarks"] = float(np.median(off))

print(f"{'':24s} far, mm  near, mm  landmarks, mm  cavity carried back, ml")
for name, one in tried.items():
    row = "{far:7.2f}  {near:8.2f}  {landmarks:13.2f}".format(**errors[name])
    volume = one.metrics.get("lesion", {}).get("warped_volume_ml", float("nan"))
    print(f"{name:24s} {row}  {volume:23.1f}")
cut_out = truth.fixed_mask.sum() * spacing**3 / 1000
left = result.metrics["lesion"]["volume_ml"]
print(f"\nIn truth, {cut_out:.1f} ml were cut out; a cavity of {left:.1f} ml is left.")

# %% How far from the truth, for each thing that was said otherwise tags=["hide-input"]
view = {"at": truth.fixed_mask, "colors": "lengths", "limits": (0, 4), "bar": 50}
view |= {"outlines": [truth.fixed_mask]}
figure, axes = plt.subplots(2, 3, figsize=(9, 7), layout="constrained")
for panel, (name, one) in zip(axes.flat, tried.items(), strict=True):
    error = error_map(truth, one) * truth.foreground
    drawn = draw_plane(panel, error, fixed, **view, title=name)
figure.colorbar(
    drawn, ax=axes, shrink=0.6, label="error, mm (4 or more: white)", pad=0.01
)
plt.show()

# %% [markdown]
# *Near* is within 10 mm of the place of the cavity. The outline is that place on the scan before surgery: what
# was cut out.
#
# - **What the lesion did** counts most near it. A mask hides a cavity but gives it no reason to be any size; only
#   the statement makes it fill up again. The wrong one is worse than none.
# - **Both masks belong together.** Without the one before surgery the tumor's bright rim is matched with whatever
#   lies at the cavity's edge.
# - **The kernel** (`subject=same`) decides the error in the whole brain.
#
# ## When to distrust it
#
# A run is asked by its own report what a careful reader would ask:

# %%
for doubt in result.doubts:
    print(textwrap.fill(doubt, 86, initial_indent="- ", subsequent_indent="  "))

# %% [markdown]
# Here there are answers. The determinant is volume after surgery over volume before, and the cavity has lost most
# of its own: it must be small there. It would be a reason to stop if it were as small anywhere else, or if the
# cavity carried back were larger than what the surgeon has taken out: compare the last column with the tumor on
# the first scan. At the edge of these images there is air.
#
# - **Inside the outlines nothing is known.** There is no true place for tissue that was cut out. Points there are
#   carried by the smoothness of the deformation alone.
# - **The rim is a guess at best.** What tissue at the cavity's wall was before, only the model of collapse says.
# - **Bleeding, air, and a changed skull** in the later scan belong under the mask as well, as far as they are
#   seen.
#
# ## What to try next
#
# - `mmtk apply transform=result image=before/moving.nii.gz from=fixed to=moving out=plan_today.nii.gz` brings the
#   earlier scan onto today's: the same transform the other way round ([more](../transforms.md)).
# - Landmarks of two readers and `mmtk evaluate`, as above, are what the BraTS-Reg challenge scores: `mmtk
#   convert` writes its submissions ([more](../interchange.md)).
# - Two people instead of one: [a tumor onto a template](tumor.md).

# %% tags=["remove-cell"]
best = errors["all that is known"]
assert all(
    best["near"] < error["near"] for error in errors.values() if error is not best
)
assert errors["lesion=grew (wrong)"]["near"] > errors["lesion=unknown"]["near"], (
    "the wrong one is worse than none"
)
assert errors["no mask before surgery"]["near"] > 1.5 * best["near"], (
    "both masks belong together"
)
assert errors["subject=another"]["far"] > 1.3 * best["far"], (
    "the kernel decides the error in the whole brain"
)
same = [errors[name]["far"] for name in errors if name != "subject=another"]
assert max(same) < 1.3 * min(same)
assert best["landmarks"] < 0.5 * float(
    np.median(np.linalg.norm(planned - today, axis=1))
)
assert (
    cut_out
    > result.metrics["lesion"]["warped_volume_ml"]
    > 2 * result.metrics["lesion"]["volume_ml"]
)
assert result.metrics["deformation"]["folds"] == 0 and len(result.doubts) == 3
assert result.warped_mask[result.jacobian < 0.15].min() > 0, (
    "the determinant is small in the cavity alone"
)
assert np.allclose(
    mmtk.read_image("result/warped.nii.gz").data, result.warped, atol=1e-4
), "the command and the call agree"
