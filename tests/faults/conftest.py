"""A small pair of pictures, and the command as a process of its own."""

import os
import subprocess
import sys

import numpy as np
import pytest

from mmtk.io import Volume, write_image

#: Quick, and yet of three levels.
SHORT = ("bundle=metamorph_brats", "init=none", "levels=8,4,2", "iterations=3,3,3", "--device", "cpu")


@pytest.fixture
def pair(tmp_path):
    """The words ``key=value`` for two 2-D blobs and a lesion, as a command takes them."""
    space = np.stack(np.meshgrid(np.linspace(-1, 1, 40), np.linspace(-1, 1, 36), indexing="ij"))
    bent = space + 0.1 * np.cos(2 * space[::-1])
    lesion = ((bent + 0.25) ** 2).sum(0) < 0.04
    words = []
    for name, voxels in (
        ("moving", np.exp(-4 * (bent**2).sum(0)) + lesion),
        ("fixed", np.exp(-4 * (space**2).sum(0))),
        ("mask", lesion),
    ):
        data = voxels.astype(np.float32)
        write_image(tmp_path / f"{name}.nii.gz", data, Volume(data, np.diag([2.0, 2.0, 1.0, 1.0])))
        words.append(f"{name}={tmp_path / name}.nii.gz")
    return words


@pytest.fixture
def start(tmp_path):
    """Start ``mmtk run`` as a process; it is ended with the test."""
    begun = []

    def begin(*words, before=""):
        # A shell without job control starts what runs behind it deaf to Ctrl-C, and its children inherit that.
        hears = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
        code = f"import sys; {hears}; {before}\nfrom mmtk.cli import main\nmain()"
        command = [sys.executable, "-c", code, "run", *SHORT, *map(str, words)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        begun.append(process)
        return process

    yield begin
    for process in begun:
        if process.poll() is None:
            process.kill()
        process.communicate()
