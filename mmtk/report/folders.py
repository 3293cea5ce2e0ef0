"""Which folders ``mmtk report`` is about; nothing of them is read yet."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from mmtk.errors import InputError

__all__ = ["gather"]


def gather(folders: Sequence[Path], index: Path | None = None) -> tuple[list[Path], Path | None]:
    """Return the folders of runs among and within some folders, and where the index of them goes.

    One folder of a run alone needs no index, unless it is asked for. A folder that is none stands for the runs that it
    holds. Files among several folders are passed over: ``cohort/*`` names the index of last time, too.

    Raises:
        InputError: If a folder neither is nor holds one that a run left, or the index would be in the way.
    """
    runs: list[Path] = []
    if any(folder.is_dir() for folder in folders):
        folders = [folder for folder in folders if not folder.is_file()]
    for folder in folders:
        if (folder / "run.json").is_file():
            runs.append(folder)
            continue
        within = sorted(found.parent for found in folder.glob("*/run.json")) if folder.is_dir() else []
        if not within and len(folders) > 1 and folder.is_dir():
            runs.append(folder)  # a run that did not end belongs on the list
        elif not within:
            raise InputError(f"'{folder}' neither is nor holds a folder that `mmtk run --out` has filled")
        runs.extend(within)
    runs = list(dict.fromkeys(runs))
    single = len(folders) == 1 and runs == list(folders)
    if index is None and not single:
        index = Path(os.path.commonpath([run.absolute().parent for run in runs])) / "index.html"
    if index is not None and index.is_dir():
        raise InputError(f"--out {index}: is a folder; name a file that ends in .html")
    return runs, index
