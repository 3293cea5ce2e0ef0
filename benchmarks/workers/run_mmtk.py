"""``mmtk.register``, as a user of Python calls it."""

from common import Task

task = Task.read()

import torch  # noqa: E402

import mmtk  # noqa: E402
from mmtk.io import write_displacement  # noqa: E402

torch.set_num_threads(task.threads)
with task.call():
    result = mmtk.register(
        moving=task.moving, fixed=task.fixed, mask=task.mask, init=task.affine, device="cpu", **task.settings
    )
prepared = result.prepared
write_displacement(task.displacement, result.displacement, prepared.fixed, prepared.alignment.matrix)
task.done(
    "mmtk",
    "torch",
    stages=dict(result.seconds),
    outcome=result.outcome.name,
    evaluations=[level.evaluations for level in result.registration.levels],
    appearance_outside=result.metrics.get("disentanglement", {}).get("appearance_outside_mask"),
)
