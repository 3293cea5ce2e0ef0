"""``mmtk run``: the command itself, from the shell's prompt to the last file.

The worker becomes the command's parent only; what is measured is the command, which it waits for.
"""

import subprocess
import sys
from pathlib import Path

from common import Task

task = Task.read()
out = task.out / "run"
options = {"bundle": "metamorph_brats", **task.settings}
words = [f"moving={task.moving}", f"fixed={task.fixed}", f"mask={task.mask}"]
words += [f"{key}={value}" for key, value in options.items()]
command = Path(sys.executable).parent / "mmtk"
with task.call():
    subprocess.run([str(command), "run", *words, "--out", str(out), "--overwrite"], check=True)
(out / "displacement.nii.gz").replace(task.displacement)
task.done("mmtk", "torch", files=sorted(path.name for path in out.iterdir()))
