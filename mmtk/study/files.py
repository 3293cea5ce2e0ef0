"""Finds the files of a data set by how they are named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from mmtk.config import nearest
from mmtk.errors import ConfigError

__all__ = ["ENDS", "beside", "drawn", "existing", "named", "stems"]

ENDS = (".nii.gz", ".nii")

Item = TypeVar("Item")


def existing(folder: Path) -> None:
    """Refuse a folder that is not there.

    Raises:
        ConfigError: It is not.
    """
    if folder.is_dir():
        return
    known = (entry.name for entry in folder.parent.iterdir()) if folder.parent.is_dir() else ()
    if "$" in str(folder):
        raise ConfigError(f"folder={folder}: the variable in it is not set; set it, or write the folder itself")
    what = "is a file" if folder.exists() else "no such folder"
    raise ConfigError(f"folder={folder}: {what}{nearest(folder.name, known) or '; give the folder of the images'}")


def named(folder: Path, name: str) -> Path:
    """Return the NIfTI file called so, compressed or not."""
    return next((path for end in ENDS if (path := folder / f"{name}{end}").is_file()), folder / f"{name}{ENDS[0]}")


def stems(folder: Path, *ends: str) -> list[str]:
    """Return every NAME for which the folder holds a file ``NAME + end`` for each end, sorted.

    Raises:
        ConfigError: There is none.
    """
    existing(folder)
    names = [
        path.name[: -len(end + nifti)]
        for path in folder.iterdir()
        for end in ends[:1]
        for nifti in ENDS
        if path.name.endswith(end + nifti)
    ]
    whole = sorted(
        {name for name in names if name and all(named(folder, f"{name}{end}").is_file() for end in ends)}
    )
    if not whole:
        wanted = " and ".join(f"NAME{end}.nii.gz" for end in ends)
        raise ConfigError(f"folder={folder}: holds no {wanted}; give the folder that does")
    return whole


def drawn(found: list[Item], count: int | None, seed: int, folder: Path) -> list[Item]:
    """Return ``count`` of what was found, drawn by a seed, in their own order; all where there is no count.

    Raises:
        ConfigError: There are fewer.
    """
    if count is None:
        return found
    if count > len(found):
        raise ConfigError(f"count={count}: '{folder}' holds {len(found)}; ask for no more")
    import random

    chosen = set(random.Random(seed).sample(range(len(found)), count))
    return [item for index, item in enumerate(found) if index in chosen]


def beside(scan: Path, modality: str, what: str, ends: Sequence[str]) -> Path | None:
    """Return the file of the same scan that is called ``what`` in place of the modality, or None."""
    stem = scan.name.rpartition(f"_{modality}.")[0]
    return next((path for end in ends if (path := scan.parent / f"{stem}_{what}{end}").is_file()), None)
