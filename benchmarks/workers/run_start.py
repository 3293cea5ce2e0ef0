"""No registration: the affine that all methods start from, as a displacement field."""

from common import Task

task = Task.read()

import numpy as np  # noqa: E402

from mmtk.io import read_affine, read_image, write_displacement  # noqa: E402

fixed = read_image(task.fixed, name="fixed")
with task.call():
    still = np.zeros((fixed.dim, *fixed.shape), np.float32)
write_displacement(task.displacement, still, fixed, read_affine(task.affine))
task.done()
