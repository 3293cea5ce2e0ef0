"""A process that has torch and mmtk loaded, and does in a fork of itself what it is asked to: a command, or a page.

    python stage.py SOCKET

It computes nothing itself, so that its forks may: a pool of threads that is running does not survive a fork.
"""

import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

PRELOADED = (
    "torch", "numpy", "scipy.ndimage", "scipy.interpolate", "scipy.spatial", "nibabel", "h5py", "safetensors.torch",
    "matplotlib.figure", "matplotlib.backends.backend_agg", "jinja2",
    "mmtk.cli", "mmtk.cli.app", "mmtk.registration", "mmtk.bundle.plan", "mmtk.report.page", "mmtk.report.index",
    "mmtk.evaluation.measuring", "mmtk.transforms.apply", "mmtk.io.convert", "mmtk.samples.tumor", "mmtk.samples.brain",
    "mmtk_core.plugin", "mmtk_metamorphosis.plugin", "mmtk_metamorphosis.method",
)  # fmt: skip


def serve(place: str) -> None:
    server = socket.socket(socket.AF_UNIX)
    server.bind(place)
    server.listen(64)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("ready", flush=True)
    for name in PRELOADED:
        importlib.import_module(name)
    gc.freeze()
    while True:
        connection, _ = server.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            server.close()
            answer(connection)
        connection.close()


def answer(connection: socket.socket) -> None:
    """In the fork: take over the caller's streams, folder and environment, do it, and tell the exit code."""
    head, streams, _, _ = socket.recv_fds(connection, 8, 3)
    text = b""
    while len(text) < int(head):
        text += connection.recv(1 << 16)
    said = json.loads(text)
    for own, given in enumerate(streams):
        os.dup2(given, own)
    os.chdir(said["cwd"])
    os.environ.clear()
    os.environ.update(said["env"])
    sys.argv = said["argv"]
    sys.path[:0] = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    importlib.invalidate_caches()
    code = 1
    try:
        code = page(*sys.argv[1:]) if sys.argv[0] == "mmtk-page" else command()
    except BaseException:
        traceback.print_exc()
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    connection.sendall(code.to_bytes(1, "big"))
    os._exit(0)


def command() -> int:
    """What the console script of mmtk does."""
    from mmtk.cli import main

    try:
        main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


def page(script: str, told: str) -> int:
    """Do the blocks of a page in order; stop at the first that fails."""
    said = json.loads(Path(script).read_text())
    sys.path.insert(0, "")
    space = {"__name__": "__main__"}
    with open(told, "w") as file:
        for act in said["acts"]:
            for name in act["runs"]:
                if not Path(name).exists():
                    Path(name).parent.mkdir(exist_ok=True)
                    runs = Path(said["finished"])
                    own = runs / name if (runs / name).exists() else runs / "result"
                    subprocess.run(["cp", "-r", own, name], check=True)
            failed, out = one(act, said["page"], space)
            print(json.dumps({"line": act["line"], "failed": failed, "out": out}), file=file, flush=True)
            if failed:
                return 1
    return 0


def one(act: dict, page: str, space: dict) -> tuple[str, str]:
    """Do one block; return what went wrong, and what it printed on both streams."""
    if act["do"] == "write":
        Path(act["file"]).parent.mkdir(parents=True, exist_ok=True)
        Path(act["file"]).write_text(act["text"])
        return "", ""
    kept = [os.dup(1), os.dup(2)]
    failed = ""
    with tempfile.TemporaryFile("w+") as printed:
        for stream in (1, 2):
            os.dup2(printed.fileno(), stream)
        try:
            if act["do"] == "shell":
                code = subprocess.run(["bash", "-euo", "pipefail", "-c", act["text"]]).returncode
                if code != act["code"]:
                    failed = f"ended with code {code}, not {act['code']}"
            else:
                exec(compile("\n" * act["line"] + act["text"], page, "exec"), space)
        except BaseException:
            failed = traceback.format_exc(limit=-4)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for stream, own in zip((1, 2), kept, strict=True):
                os.dup2(own, stream)
                os.close(own)
        printed.seek(0)
        return failed, printed.read()


if __name__ == "__main__":
    serve(sys.argv[1])
