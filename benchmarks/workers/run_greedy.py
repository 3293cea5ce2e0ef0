"""picsl-greedy. Settings: ``metric`` (``SSD``, or ``NCC`` with one radius for all axes) and ``iterations``."""

import numpy as np
from common import Task

task = Task.read()

import nibabel as nib  # noqa: E402
from picsl_greedy import Greedy2D, Greedy3D  # noqa: E402

fixed = nib.load(task.fixed)
dim = len(fixed.shape)
metric, *radius = task.settings["metric"].split()
window = " " + "x".join(radius * dim) if radius else ""
warp = str(task.out / "warp.nii.gz")
words = [
    f"-d {dim} -i {task.fixed} {task.moving} -m {metric}{window} -n {task.settings['iterations']}",
    # Stored to a tenth of a voxel unless told not to.
    f"-it {task.affine} -wp 0 -threads {task.threads} -o {warp}",
]
if dim == 2:
    matrix = np.loadtxt(task.affine)
    np.savetxt(task.out / "affine.txt", matrix[np.ix_([0, 1, 3], [0, 1, 3])])
    words[1] = words[1].replace(task.affine, str(task.out / "affine.txt"))
if task.mask is not None:
    words.append(f"-mm {task.visible}")
greedy = (Greedy2D if dim == 2 else Greedy3D)()
with task.call():
    greedy.execute(" ".join(words))

# x -> A(x + w(x)): greedy keeps the affine apart. Vectors are LPS, mm.
stored = nib.load(warp)
vectors = stored.get_fdata(dtype=np.float32).reshape(*fixed.shape, dim) * np.array([-1, -1, 1][:dim], np.float32)
world, grid = np.loadtxt(task.affine), fixed.affine
if dim == 2:
    grid = stored.affine
index = np.stack(np.meshgrid(*[np.arange(n, dtype=np.float32) for n in fixed.shape], indexing="ij"), -1)
points = index @ grid[:dim, :dim].T.astype(np.float32) + grid[:dim, 3].astype(np.float32)
moved = (points + vectors) @ world[:dim, :dim].T.astype(np.float32) + world[:dim, 3].astype(np.float32)
total = (moved - points) * np.array([-1, -1, 1][:dim], np.float32)
image = nib.Nifti1Image(total.reshape(*(*fixed.shape, 1, 1)[:4], dim), stored.affine, stored.header)
image.header.set_intent(1007)
nib.save(image, task.displacement)
task.done("picsl-greedy")
