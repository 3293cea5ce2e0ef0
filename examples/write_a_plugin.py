# %% [markdown]
# # Writing a plugin
#
# mmtk does what its parts do, and a part of yours is as good as one of its own: it is chosen by name, checked,
# listed, documented and run in the same way. This page makes one from nothing. It begins with a problem that the
# default does not solve, tries a formula in a notebook, turns it into a package, lets the *contract* find two
# things that we had not seen, and installs it.
#
# This page is the script `examples/write_a_plugin.py`. Run it with Python, or open it as a notebook (jupytext, VS
# Code). Its packages are built by hatchling: `pip install hatchling pytest`.

# %% imports, and a terminal's command line tags=["hide-input"]
import inspect
import itertools
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F

import mmtk
from mmtk.report import draw_plane
from mmtk.samples import Truth, error_against_truth, error_map
from mmtk.similarity import SquaredDifference


def sh(line, *, last=None, right=0):
    """Run a line as a terminal does, and show its last lines; in a notebook: !mmtk ..."""
    print("$", line)
    words = [sys.executable, "-m", *shlex.split(line.replace("\\\n", " "))]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True)
    if done.returncode != right:
        raise RuntimeError(f"exit code {done.returncode}: {done.stdout}")
    print(*done.stdout.rstrip().splitlines()[-last if last else None :], "", sep="\n")


def source_of(one):
    """The lines of a class: from the script, or from the cells that a notebook keeps."""
    try:
        return inspect.getsource(one)
    except (OSError, TypeError):
        cells = reversed(globals()["In"])
        return next(cell for cell in cells if f"class {one.__name__}" in cell) + "\n"


strangers = next(
    p
    for p in (Path("plugins"), Path("examples/plugins"))
    if (p / "mmtk-example-parts").is_dir()
).resolve()
os.chdir(tempfile.mkdtemp())  # a new folder for what this page writes
os.environ["COLUMNS"] = "86"
plt.style.use("dark_background")

# %% which patient tags=["parameters"]
seed = 1

# %% [markdown]
# ## The problem
#
# The patient was scanned with another sequence: what is dark on the template is bright here. It is a slice, so
# that everything on this page takes a second; nothing that follows would be different in three dimensions.

# %%
sh(f"mmtk sample tumor_brain --out case dim=2 contrast=other seed={seed}")

# %% A patient with a T2-like contrast and a tumor, and the template with that of a T1 tags=["hide-input"]
patient, template, lesion = (
    mmtk.read_image(f"case/{name}.nii.gz") for name in ("moving", "fixed", "mask")
)
figure, axes = plt.subplots(1, 2, figsize=(6, 3.4), layout="constrained")
draw_plane(axes[0], patient, template, title="the patient", outlines=[lesion], bar=50)
draw_plane(axes[1], template, template, title="the template", bar=50)
plt.show()

# %% [markdown]
# The default compares intensities, in small windows, up to brightness and contrast. A contrast that is reversed
# is out of its reach. What it does then looks like work, and is worse than nothing:

# %%
case = {name: f"case/{name}.nii.gz" for name in ("moving", "fixed", "mask")}
case |= {"lesion": "grew", "init": "none"}
truth = Truth.read("case")
nothing = error_against_truth(truth, np.zeros_like(truth.displacement))
default = mmtk.register(**case)
error = error_against_truth(truth, default)
print(
    f"error far from the lesion {error['far']:.1f} mm, near it {error['near']:.1f} mm"
)
print(f"before the registration: {nothing['far']:.1f} mm and {nothing['near']:.1f} mm")
print("what its report asks:")
for doubt in default.doubts:
    print(textwrap.fill(doubt, 86, initial_indent="- ", subsequent_indent="  "))

# %% [markdown]
# ## A formula
#
# Where two tissues meet there is an edge in every sequence. Which side is brighter differs; how the edge *runs*
# does not. With the gradient $g$ of an image, the matrix
#
# $$ E = \frac{g \, g^\top}{|g|^2 + \varepsilon^2} $$
#
# has that direction and no sign: it is the same for $g$ and $-g$, and nearly 0 where the image is flat. For two
# edges with unit normals $n$ and $m$ half the squared distance of their matrices is $1 - \langle n, m \rangle^2$,
# so that comparing $E$ by squares compares directions (an old idea, known as normalized gradient fields).
#
# mmtk has squares already. A similarity has two stages: `prepare` is what is done to one image alone, once,
# before it is warped; `compare` is what happens at every step. So we only say how to prepare:


# %%
class Edges(SquaredDifference):
    """Squared differences of the directions of edges, whichever side is bright."""

    def __init__(self, *, eps: float = 0.1):
        super().__init__()
        self.eps = eps

    def prepare(self, image, weight=None, scale=1, spacing=None):
        slopes = torch.stack(torch.gradient(image, dim=tuple(range(2, image.ndim))))
        square = slopes.square().sum(0) + self.eps**2
        return torch.cat([a * b / square for a in slopes for b in slopes], dim=1)


# %% [markdown]
# ## Try it where it stands
#
# Wherever a part has a name, it may be given as `module:Class`. A notebook is the module `__main__`; for a file
# beside you it would be `my_file:Edges`, also on the command line.

# %%
tried = {
    "local_ssd, the default": default,
    "mi, which mmtk has, too": mmtk.register(**case, similarity="mi"),
    "our Edges": mmtk.register(**case, similarity="__main__:Edges"),
}

# %% The patient deformed by three similarities, and how far from the truth tags=["hide-input"]
figure, axes = plt.subplots(2, 3, figsize=(8.6, 6.9), layout="constrained")
view = {"colors": "lengths", "limits": (0, 8), "outlines": [truth.fixed_mask]}
for column, (name, one) in zip(axes.T, tried.items(), strict=True):
    outline = {"outlines": [one.warped_mask]}
    draw_plane(column[0], one.deformed, template, title=name, bar=50, **outline)
    distance = error_map(truth, one) * truth.foreground
    drawn = draw_plane(column[1], distance, template, **view)
figure.colorbar(drawn, ax=axes[1], shrink=0.8, label="error, mm", pad=0.01)
plt.show()

# %% [markdown]
# The default has torn the brain apart. Five lines have mended that.
#
# ## Make it a package
#
# `mmtk plugins new` writes a package around a part that works, with its test, settings and CI:

# %%
sh("mmtk plugins new edge-directions --kind similarity")
package = Path("edge-directions")
print(*sorted(str(path) for path in package.rglob("*") if path.is_file()), sep="\n")

# %% [markdown]
# Three files are ours to change: the part, its description, and its own test. The part is the class above, whose
# text `source_of` takes from where it stands:

# %%
PART = package / "src/edge_directions/edge_directions.py"
HEAD = '''\
"""The similarity itself."""

import itertools

import torch
import torch.nn.functional as F
from mmtk.similarity import SquaredDifference


'''
PART.write_text(HEAD + source_of(Edges).replace("class Edges", "class EdgeDirections"))

# %% [markdown]
# The description says what a user may set, and imports no torch, so that listing stays fast. What is not said
# here cannot be set:

# %%
DESCRIPTION = '''\
"""What this package offers to mmtk. Importing it must load neither torch nor monai."""

from typing import Literal

from mmtk import ComponentConfig, hookimpl
from pydantic import Field

#: The version of mmtk's hooks that this was written for.
requires_api = "1"


class EdgeDirectionsConfig(ComponentConfig):
    """Directions in which edges run: for images of different contrast."""

    target = "edge_directions.edge_directions:EdgeDirections"
    kind: Literal["edge_directions"] = "edge_directions"
    eps: float = Field(
        default=0.1, gt=0, description="intensity per voxel; weaker edges count as flat"
    )


@hookimpl
def mmtk_similarities() -> list[type[ComponentConfig]]:
    return [EdgeDirectionsConfig]
'''
(package / "src/edge_directions/plugin.py").write_text(DESCRIPTION)

# %% [markdown]
# And the test. The contract is the class `SimilarityContract`, some twenty laws that hold for every similarity.
# What no contract can know is the formula, so we add its closed forms:

# %%
TEST = '''\
import pytest
import torch
from mmtk.testing import SimilarityContract

from edge_directions.plugin import EdgeDirectionsConfig


class TestEdgeDirections(SimilarityContract):
    """Every law of a similarity: gradient, minimum, mask, orientation, memory, ..."""

    @pytest.fixture
    def part(self):
        return EdgeDirectionsConfig()


def test_the_sign_of_an_edge_does_not_matter_and_its_direction_does():
    similarity = EdgeDirectionsConfig(eps=1e-3).build()
    down = torch.arange(6.0).view(1, 1, 6, 1).expand(1, 1, 6, 5)
    across = torch.arange(5.0).view(1, 1, 1, 5).expand(1, 1, 6, 5)
    assert similarity(7 - 3 * down, down).item() == pytest.approx(0, abs=1e-4)
    assert similarity(across, down).item() == pytest.approx(6 * 5, rel=1e-4)
'''
(package / "tests/test_edge_directions.py").write_text(TEST)

# %% [markdown]
# You would now say `pip install -e "edge-directions[dev]"`. This page leaves your environment as it was, and
# installs into a folder of its own instead:

# %%
os.environ["PYTHONPATH"] = os.pathsep.join(
    str(Path(p).resolve()) for p in (package / "src", "parts")
)
sh("pip install -q --no-deps --no-build-isolation --target parts ./edge-directions")
sh("pytest -q --tb=no -p no:cacheprovider edge-directions", last=4, right=1)

# %% [markdown]
# ## What the contract found
#
# - **Voxels of weight zero matter.** Next to the mask our gradient looks under it: the tumor, which must not
#   lead, does. The notebook did not show it, and no picture would have.
# - **It holds many images at once**: $d^2$ channels for each image, in $d$ dimensions.
#
# The first is a mistake, and is mended: a slope is taken between two voxels that are both seen, and on one side
# where only one neighbor is. On the way we take care of two more things that `prepare` is told and had not used:
# voxels that are longer along one axis (`spacing`), and a moving image that is kept finer than the fixed one
# (`scale`).


# %%
class EdgeDirections(SquaredDifference):
    """Squared differences of the directions of edges, whichever side is bright.

    Args:
        eps: Slope, in intensity per voxel of the finest axis, below which an image
            counts as flat; > 0.
    """

    def __init__(self, *, eps: float = 0.1, reduction="sum"):
        super().__init__(reduction=reduction)
        self.eps = eps

    def prepare(self, image, weight=None, scale=1, spacing=None):
        """Return ``g g^T / (|g|^2 + eps^2)``, ``(B, C d (d + 1) / 2, *space)``.

        Of two entries that are equal one is left, times the root of two.
        """
        dim = image.ndim - 2
        sizes = [1.0] * dim if spacing is None else list(spacing)
        scales = [scale] * dim if isinstance(scale, int) else list(scale)
        finest = min(k * size for k, size in zip(scales, sizes, strict=True))
        seen = torch.ones_like(image[:, :1])
        if weight is not None:
            seen = (weight > 0).to(image)
        image = torch.where(seen > 0, image, 0)
        slopes = [self.slope(image, seen, a) * finest / sizes[a] for a in range(dim)]
        square = sum(slope.square() for slope in slopes) + self.eps**2
        parts = []
        for a, b in itertools.combinations_with_replacement(range(dim), 2):
            share = 1 if a == b else 2**0.5
            parts.append(share * slopes[a] * slopes[b] / square)
        return torch.cat(parts, dim=1)

    @staticmethod
    def slope(image, seen, axis):
        """Return the mean difference to the neighbors, as far as they are seen."""
        n, where = image.shape[axis + 2], axis + 2
        known = seen.narrow(where, 0, n - 1) * seen.narrow(where, 1, n - 1)
        steps = torch.diff(image, dim=where) * known
        side = [0, 0] * (image.ndim - 3 - axis)
        before, after = [*side, 1, 0], [*side, 0, 1]
        total = F.pad(steps, before) + F.pad(steps, after)
        count = F.pad(known, before) + F.pad(known, after)
        return total / count.clamp_min(1)


# %% [markdown]
# The second is what the idea costs, though half of it went with the symmetry. A limit that must be exceeded is
# said in the description, where everybody can read it:

# %%
PART.write_text(HEAD + source_of(EdgeDirections))
NAME = '    kind: Literal["edge_directions"] = "edge_directions"\n'
LIMITS = '    limits = {"memory": 90}  # six channels of either image\n'
(package / "src/edge_directions/plugin.py").write_text(
    DESCRIPTION.replace(NAME, LIMITS + NAME)
)
sh("pytest -q --tb=no -p no:cacheprovider edge-directions", last=1)

# %% [markdown]
# `mmtk plugins check edge-directions` holds an installed package to the same laws, anybody's.
#
# ## Use it
#
# Nothing is registered anywhere. The package is installed, so it is there, for everyone who installs it:

# %%
sh("mmtk plugins --kind similarity")
sh("mmtk show edge_directions")

# %%
images = """moving=case/moving.nii.gz fixed=case/fixed.nii.gz \\
    mask=case/mask.nii.gz init=none"""
sh(f"""mmtk run bundle=metamorph_brats similarity=edge_directions similarity.eps=0.1 \\
    lesion=grew --out result {images}""", last=6)  # fmt: skip

# %% [markdown]
# ## A stranger's package
#
# `examples/plugins` holds a complete one, as somebody writes it who has never changed a line of mmtk: the
# similarity MIND-SSC, the integrator RK4, a regularizer, and a whole method after ConvexAdam. It is installed
# like any other, and then its parts stand beside ours:

# %%
shutil.copytree(strangers / "mmtk-example-parts", "mmtk-example-parts")
os.environ["PYTHONPATH"] += os.pathsep + str(Path("others").resolve())
sh("pip install -q --no-deps --no-build-isolation --target others ./mmtk-example-parts")
sh("mmtk show rk4")

# %% [markdown]
# Its similarity and its method are made for our problem, too. The same pair, by name alone:

# %%
sh(f"""mmtk run bundle=metamorph_brats similarity=mind_ssc \\
    lesion=grew --out by_mind_ssc {images}""", last=1)  # fmt: skip
sh(f"mmtk run method=convexadam --out by_convexadam {images}", last=1)

# %%
everyone = {"before": nothing}
everyone |= {name: error_against_truth(truth, one) for name, one in tried.items()}
for name, folder in (
    ("edge_directions, installed", "result"),
    ("mind_ssc, a stranger's", "by_mind_ssc"),
    ("convexadam, a stranger's method", "by_convexadam"),
):
    measured = json.loads(Path(folder, "metrics.json").read_text())["truth"]
    everyone[name] = {"far": measured["far_mm"], "near": measured["near_mm"]}
print(f"{'':34s} far, mm  near, mm")
for name, error in everyone.items():
    print(f"{name:34s} {error['far']:7.2f}  {error['near']:8.2f}")

# %% [markdown]
# ## How to read this, and when to distrust it
#
# What the contract found was no pedantry: compare *our Edges* with what was installed. Beyond that, one slice of
# one made-up patient says that the parts work, and that a default can fail. It does not say which similarity is
# best: near the lesion and far from it they rank differently, even here. Before you believe in a part of yours,
#
# - let the contract pass. It is about mathematics, so it does not tire, and it holds on every machine;
# - give it cases of your own, with several seeds and kinds (`mmtk sample`), and images where the truth is labels
#   or landmarks (`mmtk evaluate`);
# - look at how it *fails*: a constant image, another contrast, a mask of half the brain.
#
# ## What to try next
#
# - `--kind integrator`, `regularizer`, `method`, `metric`, `segmenter`, `loss`, `command`, `bundle`: `mmtk
#   plugins new` writes each of them, and [the page on plugins](../plugins.md) says what a class of each kind has
#   to do.
# - Read `examples/plugins/mmtk-example-parts`: its README tells how it came about, part by part.
# - All laws, family by family: [contracts](../contracts.md).

# %% tags=["remove-cell"]
default, ours = (
    everyone["local_ssd, the default"],
    everyone["edge_directions, installed"],
)
assert default["far"] > nothing["far"] and default["near"] > nothing["near"], (
    "the default has torn the brain apart"
)
for name, error in everyone.items():
    if name not in ("before", "local_ssd, the default"):
        assert (
            error["far"] < 0.25 * nothing["far"]
            and error["near"] < 0.5 * nothing["near"]
        ), f"{name} works"
mutual = everyone["mi, which mmtk has, too"]
assert mutual["far"] < ours["far"] and mutual["near"] > ours["near"], (
    "they rank differently"
)
assert ours["near"] < 0.75 * everyone["our Edges"]["near"], "the mended mistake was one"
assert Path("result/report.html").is_file()
