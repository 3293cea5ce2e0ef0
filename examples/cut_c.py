# %% [markdown]
# # The cut C, every integrator
#
# A white letter C on black, cut in two, has to become a whole one. No deformation can do that: it moves what is
# there and makes nothing new. A deformation that is asked to do it nonetheless stretches the two stumps until
# they meet. Metamorphosis may do two things, move and paint, and this is the smallest picture on which one can
# see which of the two it did where.
#
# It is also where the *integrators* differ: the schemes that carry image and momentum through time. A letter has
# edges, and edges show what is lost on the way.
#
# This page is the script `examples/cut_c.py`. Run it with Python, or open it as a notebook (jupytext, VS Code).

# %% imports tags=["hide-input"]
import time

import matplotlib.pyplot as plt
import numpy as np
import torch

import mmtk
from mmtk.equations import Metamorphosis
from mmtk.fields import Gaussian, Grid
from mmtk.integrators import (
    Context,
    Eulerian,
    Lagrangian,
    Particles,
    SemiLagrangian,
    Sharp,
)
from mmtk.io import Volume
from mmtk.report import draw_grid, draw_plane
from mmtk.samples import c_shapes, shape_scores
from mmtk.shooting import shoot_energy

plt.style.use("dark_background")

# %% the size of the letter, the number of iterations, and the numbers of time steps tags=["parameters"]
size, iterations, many_steps = 128, 60, (3, 5, 10, 20, 40, 80)

# %% [markdown]
# ## The problem
#
# The sample follows algorithm 5.2 of Maillard's thesis: the whole letter is cut by a rectangle and then carried
# by the flow of a random momentum. So the true deformation is known, and so is what was cut out. `mmtk sample
# c_shapes --out letters count=10` writes such pairs into folders; in Python they are made in memory:

# %%
letter = next(c_shapes(1, seed=2, size=size, amplitude=600.0))
print(f"the mask of the cut covers {letter.mask.sum()} of {letter.mask.size} pixels")

# %% The letter that is carried, with the mask of its cut, and the one that stays tags=["hide-input"]
upright = np.array(
    [[0, -1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
)  # rows run down, as in a picture
view = {"like": Volume(letter.fixed, upright), "zoom": 0.83 * size}
seen = {**view, "limits": (0, 1), "bar": 20}
figure, axes = plt.subplots(1, 3, figsize=(9, 3.3), layout="constrained")
draw_plane(
    axes[0],
    letter.moving,
    **seen,
    title="moving: deformed and cut",
    outlines=[letter.mask],
)
draw_plane(axes[1], letter.fixed, **seen, title="fixed: whole")
true_shape = letter.fixed - letter.appearance
draw_plane(
    axes[2],
    true_shape,
    **seen,
    title="the true shape: cut, where it was cut",
    outlines=[letter.fixed_mask],
)
draw_grid(axes[2], letter.displacement, **view, step=10)
plt.show()

# %% [markdown]
# ## The one command
#
# `mmtk run bundle=metamorphosis moving=... fixed=... mask=... integrator=sharp` is the coupled model as published:
# one momentum drives the deformation, and paints under the mask. `integrator=` chooses who carries it. For a
# letter, whose pixels we call millimeters, everything is finer than in a head, so the kernel is narrow and one
# level is enough. In Python, for all five:

# %%
model = {
    "momentum": "coupled", "shape": "momentum", "mu": 0.1, "lambda": 1e-4, "sigma": (6.0,),
    "similarity": "ssd", "levels": (1.0,), "iterations": (iterations,), "steps": 10,
    "init": "none", "normalize": "none",
}  # fmt: skip
pair = {"moving": letter.moving, "fixed": letter.fixed, "mask": letter.mask}
found, seconds = {}, {}
for name in ("eulerian", "semi_lagrangian", "sharp", "lagrangian", "particles"):
    start = time.process_time()
    found[name] = mmtk.register(**pair, **model, integrator=name)
    seconds[name] = time.process_time() - start

# %% [markdown]
# `mmtk show sharp` tells what is behind a name. In short:
#
# | integrator | what it resamples | cost of T steps |
# |---|---|---|
# | `eulerian` | nothing: differences on the grid | T |
# | `semi_lagrangian` | image and momentum, once a step | T |
# | `sharp` | the first image and every residual, once each, through composed maps | T² / 2 |
# | `lagrangian` | what is given at the start, by the closed form of the flow | T |
# | `particles` | nothing between start and end: the flow lives on the nodes of a lattice | T, small |
#
# ## What came out

# %% What each integrator makes of the pair: with appearance, shape alone, error of the map tags=["hide-input"]
figure, axes = plt.subplots(3, 5, figsize=(11, 6.9), layout="constrained")
for column, (name, one) in zip(axes.T, found.items(), strict=True):
    outline = {"outlines": [one.warped_mask]}
    draw_plane(column[0], one.warped, **seen, title=name, **outline)
    draw_plane(column[1], one.deformed, **seen, **outline)
    draw_grid(column[1], one.displacement, **view, step=8)
    error = np.hypot(*(one.displacement - letter.displacement))
    drawn = draw_plane(
        column[2],
        error,
        **view,
        colors="lengths",
        limits=(0, 4),
        outlines=[letter.fixed > 0.5],
    )
for panel, words in zip(
    axes[:, 0], ("shape and appearance", "shape alone", "error of the map"), strict=True
):
    panel.text(
        -0.06,
        0.5,
        words,
        transform=panel.transAxes,
        rotation=90,
        va="center",
        ha="right",
        fontsize=10,
    )
figure.colorbar(drawn, ax=axes[2], shrink=0.8, label="pixels", pad=0.01)
plt.show()

# %%
maps = {"before": np.zeros_like(letter.displacement)}
maps |= {name: one.displacement for name, one in found.items()}
print(f"{'':16s} across edges  near the cut  in the cut    s  error outside")
for name, displacement in maps.items():
    score = shape_scores(letter, displacement)
    lengths = f"{score['normal']:12.2f}  {score['near']:12.2f}  {score['in_cut']:10.2f}"
    print(f"{name:16s} {lengths}  {score['s']:3.0f}  {score['outside']:13.1f}")

print(f"\n{'':16s} folds  appearance outside  shape's share  energy  processor")
for name, one in found.items():
    kept_apart = one.metrics["disentanglement"]
    share, leak = kept_apart["share_explained_by_shape"], kept_apart["appearance_leak"]
    folds, energy = one.metrics["deformation"]["folds"], one.registration.energies[-1]
    row = f"{name:16s} {folds:5d}  {leak:18.2f}  {share:13.2f}  {energy:6.1f}"
    print(f"{row}  {seconds[name]:7.1f} s")

# %% [markdown]
# Columns one to three are distances to the true deformation in pixels. Along the stroke a letter is uniform, and
# no method can know how far a point slid there; so the error counts *across* the visible edges. `s` is the
# thesis's disentanglement: the whole distance of the map from the truth, in the cut and in the black as well.
# *Error outside* is that of the shape-only image where nothing was painted; *shape's share* is the part of all
# changes that the deformation made, the rest was painted ([all definitions](../metrics.md)).
#
# - All five paint the cut and move the rest, and none folds or paints elsewhere. That is the model's doing.
# - `sharp`, `lagrangian` and `particles` agree, and put the edges where they belong. That is the equations'
#   doing: the three solve the same ones without resampling what has edges.
# - `semi_lagrangian` blurs a little at each step, and the optimizer moves edges to make up for it.
# - `eulerian` cannot follow an edge in so few steps at all. What was found is what could be reached without
#   blowing up.
# - In the cut the error is large for everyone, and differs by luck: there is nothing to see there.
#
# ## How many time steps?
#
# The momentum that `lagrangian` found, shot once more by each scheme with more and more steps. As the truth
# serves `lagrangian` of second order with twice the most steps: a scheme of the same family, so do not read small
# differences between `sharp` and `lagrangian` as a verdict.

# %%
solved = found["lagrangian"]
momentum = torch.zeros(1, 1, size, size)
# A registration looks at the box of the image that is worth comparing.
momentum[(..., *solved.prepared.pair.box)] = solved.registration.shape["momentum"]
image, mask = (
    torch.tensor(a)[None, None].float() for a in (letter.moving, letter.mask)
)
grid = Grid((size, size), (1.0, 1.0))
equation = Metamorphosis.from_kernel(Gaussian(6.0), grid, mu=0.1, stride=3.0)
context = Context(mask=mask)


@torch.no_grad()
def shot(integrator, steps):
    """The image at the end of the path."""
    end = shoot_energy(equation, integrator, image, momentum, steps, context)
    return end.image[0, 0].double().numpy()


reference = shot(Lagrangian(order=2), 2 * max(many_steps))
schemes = {
    "eulerian": Eulerian(), "semi_lagrangian": SemiLagrangian(), "sharp": Sharp(),
    "lagrangian": Lagrangian(), "particles": Particles(),
}  # fmt: skip
errors = {}
for name, scheme in schemes.items():
    off = [shot(scheme, steps) - reference for steps in many_steps]
    errors[name] = [float(np.sqrt(np.mean(one**2))) for one in off]

print(f"{'steps':16s}" + "".join(f"{steps:9d}" for steps in many_steps))
for name, row in errors.items():
    cells = [f"{error:9.4f}" if error < 1 else "  blew up" for error in row]
    print(f"{name:16s}" + "".join(cells))

# %% The error of the image against the number of time steps tags=["hide-input"]
figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
colors = dict(
    zip(schemes, ("#fa8174", "#fdb462", "#8dd3c7", "#81b1d2", "#bc82bd"), strict=True)
)
for name, row in errors.items():
    there = [
        (steps, error)
        for steps, error in zip(many_steps, row, strict=True)
        if error < 1
    ]
    if there:
        axes.loglog(*zip(*there, strict=True), "o-", color=colors[name], linewidth=2)
        label = {
            "xytext": (8, {"eulerian": 5, "semi_lagrangian": -5}.get(name, 0)),
            "color": colors[name],
        }
        axes.annotate(name, there[-1], **label, textcoords="offset points", va="center")
slope = 0.3 * errors["lagrangian"][0] * many_steps[0] / np.array(many_steps)
axes.loglog(many_steps, slope, ":", color="#98a2b3")
label = {"xytext": (8, 0), "textcoords": "offset points", "va": "center"}
axes.annotate("order 1", (many_steps[-1], slope[-1]), **label, color="#98a2b3")
axes.set(
    xlabel="time steps",
    ylabel="error of the image (root mean square)",
    xlim=(2.7, many_steps[-1] * 2.4),
)
axes.set_xticks(many_steps, [str(steps) for steps in many_steps])
axes.minorticks_off()
axes.spines[["top", "right"]].set_visible(False)
plt.show()

# %% [markdown]
# - `eulerian` blows up unless its steps are small beside a pixel over the speed.
# - `semi_lagrangian` gets *worse* with more steps. Each one interpolates, and interpolation blurs: few steps err
#   in time, many in space, and there is no number that mends both.
# - `lagrangian` falls with the steps, as a scheme of first order should. So does `sharp`, at a price that grows
#   with the square of their number, until only the interpolation of its maps is left.
# - `particles` soon stops falling, at its own answer: it takes the momentum along a jagged edge for as smooth as
#   the kernel sees it. That is another discretization, not a worse one; the registrations above say so. The finer
#   the image beside the kernel, the nearer the two.
#
# ## When to distrust it
#
# - **The energy is no error.** It compares images, and a painted cut always fits. A method that is free to paint
#   everything has no energy left and no shape.
# - **A map that was shortened.** Where a path folds, mmtk mends it, or follows less of it and says so in
#   `result.notes`. The energy that was reported before is then not that of the map that you get. Ask for a larger
#   `lambda`.
# - **Momentum on several levels.** The optimizer of a scalar momentum gains little from coarse levels on a
#   letter, since an edge has no coarse momentum. White coefficients do not have this trouble.
#
# ## What to try next
#
# The default of mmtk keeps shape and appearance as two unknowns, and the shape as white coefficients of a
# velocity. No integrator is needed, and it is much faster:

# %%
fast = model | {"momentum": "split", "shape": "white"}
fast |= {"levels": (4.0, 2.0, 1.0), "iterations": (20, 20, 20)}
start = time.process_time()
split = mmtk.register(**pair, **fast)
passed = time.process_time() - start
score = shape_scores(letter, split.displacement)
print(f"across edges  {score['normal']:.2f} pixels")
print(f"near the cut  {score['near']:.2f} pixels")
print(f"in the cut    {score['in_cut']:.2f} pixels")
print(f"processor     {passed:.1f} s")

# %% [markdown]
# - Cut the *fixed* image instead: `c_shapes(cut="target")`, the problem of the ISBI 2022 paper.
# - Give a mask of twice the area: `c_shapes(mask_area=2.0)`. Less is seen near the cut, and the error there
#   grows.
# - A scheme of your own, as a class: [writing a plugin](write_a_plugin.md).
# - Ten letters, with greedy, ANTs and demons: [benchmarks](../benchmarks.md).

# %% tags=["remove-cell"]
scores = {name: shape_scores(letter, one.displacement) for name, one in found.items()}
sharps = ("sharp", "lagrangian", "particles")
assert all(
    one.metrics["deformation"]["folds"] == 0 and not one.registration.notes
    for one in found.values()
)
assert all(
    one.metrics["disentanglement"]["appearance_leak"] == 0 for one in found.values()
)
assert all(
    one.warped[letter.fixed_mask & (letter.fixed > 0.9)].mean() > 0.8
    for one in found.values()
), "all paint the cut"
across = {name: score["normal"] for name, score in scores.items()}
assert max(across[name] for name in sharps) < 1.2 * min(
    across[name] for name in sharps
), "the three agree"
assert (
    across["eulerian"]
    > across["semi_lagrangian"]
    > 1.2 * max(across[name] for name in sharps)
)
assert min(score["in_cut"] for score in scores.values()) > 5 * min(across.values()), (
    "in the cut there is nothing to see"
)
assert not errors["eulerian"][2] < 1, "eulerian blows up"
assert errors["semi_lagrangian"][-1] > 1.5 * min(errors["semi_lagrangian"]), (
    "worse with more steps"
)
for name in ("sharp", "lagrangian"):
    assert all(a > b for a, b in zip(errors[name], errors[name][1:], strict=False)), (
        "fall with the steps"
    )
assert errors["particles"][-1] > 0.9 * errors["particles"][2], "soon stops falling"
assert shape_scores(letter, split.displacement)["normal"] < 1.2 * across["lagrangian"]
