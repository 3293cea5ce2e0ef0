"""How long a command takes that computes nothing: ``python -m benchmarks.startup``.

Each command is run ``--times`` times, one after the other; the median counts. What is read from disk is in the
cache from the first, uncounted run on.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from datetime import datetime, timezone
from os import getloadavg
from pathlib import Path

from benchmarks import store
from benchmarks.measure import environment, measure

CASE = "startup"

_BIN = Path(sys.executable).parent
_PYTHON = sys.executable

COMMANDS = {
    "python -c pass": [_PYTHON, "-c", "pass"],
    "mmtk --help": [str(_BIN / "mmtk"), "--help"],
    "mmtk plugins": [str(_BIN / "mmtk"), "plugins"],
    "mmtk bundles list": [str(_BIN / "mmtk"), "bundles", "list"],
    "mmtk run bundle=metamorph_brats mvoing=a.nii (refused)": [
        str(_BIN / "mmtk"), "run", "bundle=metamorph_brats", "mvoing=a.nii",
    ],
    "import mmtk": [_PYTHON, "-c", "import mmtk"],
    "import mmtk, touch mmtk.register": [_PYTHON, "-c", "import mmtk; mmtk.register"],
    "import torch": [_PYTHON, "-c", "import torch"],
    "import monai": [_PYTHON, "-c", "import monai"],
    "python -m monai.bundle --help": [_PYTHON, "-m", "monai.bundle", "--help"],
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--results", type=Path, default=store.RESULTS)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name, command in COMMANDS.items():
            runs = [
                measure(
                    command,
                    log=Path(folder) / "log.txt",
                    limit=120,
                    env=environment(asked.threads),
                    cwd=Path(folder),
                )
                for _ in range(asked.times + 1)
            ][1:]
            row = {
                "case": CASE, "subject": name, "method": "command", "times": asked.times, "code": runs[-1].code,
                "wall": statistics.median(run.wall for run in runs), "best": min(run.wall for run in runs),
                "cpu": statistics.median(run.cpu for run in runs), "rss_mb": max(run.rss_mb for run in runs),
                "load": round(getloadavg()[0], 2), "host": store.host(),
                "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            }  # fmt: skip
            store.append(CASE, row, asked.results)
            print(f"{name}: {row['wall']:.2f} s, {row['cpu']:.2f} CPU s, {row['rss_mb']:.0f} MB", flush=True)


if __name__ == "__main__":
    main()
