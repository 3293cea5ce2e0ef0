"""Scans of several modalities: which file shows what, and which channels two patients share.

A channel is one modality of one patient. They are given as a list of files, or as the folder of a patient that is named
as BraTS names them (2018-2021: ``ID_t1.nii.gz``, ``ID_t1ce``, ``ID_t2``, ``ID_flair``, ``ID_seg``; since 2023:
``ID-t1n``, ``ID-t1c``, ``ID-t2w``, ``ID-t2f``, ``ID-seg``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

__all__ = ["KNOWN", "channel_names", "files_of", "is_list", "modality_of", "spread"]

#: What a modality is called in names of files.
KNOWN: dict[str, tuple[str, ...]] = {
    "t1": ("t1", "t1n", "t1w"),
    "t1ce": ("t1ce", "t1c", "t1gd"),
    "t2": ("t2", "t2w"),
    "flair": ("flair", "t2f"),
}
#: The lesion's labels.
LABELS = "seg"

_IMAGE = re.compile(r"(?P<stem>.+?)\.nii(\.gz)?$", re.IGNORECASE)
#: Given for a channel that one side lacks.
MISSING = "none"


def modality_of(path: Path | str | None) -> str | None:
    """Return the modality that the last word of a file's name says, or None."""
    if path is None or not (match := _IMAGE.match(Path(path).name)):
        return None
    word = re.split(r"[-_.]", match["stem"].lower())[-1]
    if word == LABELS:
        return LABELS
    return next((name for name, words in KNOWN.items() if word in words), None)


def files_of(folder: Path | str) -> dict[str, Path]:
    """Return the files of one patient by modality, ``seg`` among them if it is there.

    Raises:
        ValueError: If there is none, or two show the same; one sentence says what to do.
    """
    found: dict[str, Path] = {}
    for path in sorted(Path(folder).iterdir()):
        name = modality_of(path) if path.is_file() else None
        if name is None:
            continue
        if name in found:
            raise ValueError(
                f"'{folder}' has two files of {name}, '{found[name].name}' and '{path.name}': it holds more than one "
                f"visit; name the files, as in moving=A_t1.nii.gz,A_t1ce.nii.gz"
            )
        found[name] = path
    if not any(name in found for name in KNOWN):
        raise ValueError(
            f"'{folder}' is a folder without a file that is named as BraTS names them, such as ID_t1.nii.gz or "
            f"ID-t1n.nii.gz; an image file is needed, or such a folder"
        )
    return found


def is_list(given: Any) -> bool:
    """Whether ``moving=`` or ``fixed=`` is a list of images, and not one image."""
    return isinstance(given, (list, tuple)) and not all(
        isinstance(item, (int, float, list, tuple)) for item in given
    )


def spread(data: Mapping[str, Any]) -> dict[str, Any]:
    """Deal lists of files, and the folders of patients, out to channels.

    Args:
        data: Settings of a run: ``moving``, ``fixed`` and ``mask`` may be a file, files with commas between them
            (``none`` where that side lacks a channel), a list, or, the first two, a folder.

    Returns:
        The settings with one file under each of them, the first channel's, and the further ones under
        ``more_moving``, ``more_fixed`` and ``more_mask``, None where there is none.

    Raises:
        ValueError: If a folder cannot be read so, or the two have no channel in common.
    """
    settings = dict(data)
    sides: dict[str, list[Any] | dict[str, Path]] = {}
    for name in ("moving", "fixed"):
        try:
            side = _several(settings.get(name))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        if side is not None:
            sides[name] = side
    masks = _several(settings.get("mask"), folders=False)
    if not sides and masks is None:
        return settings
    if "mask" not in settings and isinstance(sides.get("moving"), dict) and LABELS in sides["moving"]:
        settings["mask"] = sides["moving"][LABELS]  # type: ignore[call-overload]
    pairs = _matched({name: sides.get(name, [settings.get(name)]) for name in ("moving", "fixed")})
    if masks is not None and len(masks) != len(pairs):
        raise ValueError(f"mask: {len(masks)} masks for {len(pairs)} channels; give one for all, or one for each")
    names = ("moving", "fixed") if masks is None else ("moving", "fixed", "mask")
    rows = [(*pair, mask)[: len(names)] for pair, mask in zip(pairs, masks or [None] * len(pairs), strict=True)]
    rows.sort(key=lambda row: None in row[:2])  # what both have goes first; otherwise as given
    if not rows or None in rows[0][:2]:
        raise ValueError("moving and fixed have no channel in common; give at least one of the same kind for both")
    for name, (first, *more) in zip(names, zip(*rows, strict=True), strict=True):
        settings[name] = first
        if more or len(rows) > 1:
            settings[f"more_{name}"] = tuple(more)
    return settings


def _several(given: Any, folders: bool = True) -> list[Any] | dict[str, Path] | None:
    """Return the channels that something names, or None if it is one image."""
    if is_list(given):
        return [_item(item) for item in given]
    if not isinstance(given, (str, Path)):
        return None
    path = Path(given).expanduser()
    if folders and path.is_dir():
        return files_of(path)
    if "," in str(given) and not path.exists():
        return [_item(word.strip()) for word in str(given).split(",")]
    return None


def _item(item: Any) -> Any:
    return None if isinstance(item, (str, Path)) and str(item).lower() == MISSING else item


def _matched(sides: Mapping[str, list[Any] | Mapping[str, Path]]) -> list[tuple[Any, Any]]:
    """Return pairs of moving and fixed channels."""
    moving, fixed = sides["moving"], sides["fixed"]
    if isinstance(moving, Mapping) or isinstance(fixed, Mapping):
        ours, theirs = _by_modality(moving, fixed), _by_modality(fixed, moving)
        return [(ours.get(m), theirs.get(m)) for m in KNOWN if m in ours or m in theirs]
    return list(zip_longest(moving, fixed))


def _by_modality(side: list[Any] | Mapping[str, Path], other: list[Any] | Mapping[str, Path]) -> Mapping[str, Any]:
    """Name the channels of a list that is registered with a folder: by their files, or else in the folder's order."""
    if isinstance(side, Mapping):
        return side
    names = [modality_of(item) if isinstance(item, (str, Path)) else None for item in side]
    present = [m for m in KNOWN if m in other]
    if all(names) and len(set(names)) == len(names):
        return {str(name): item for name, item in zip(names, side, strict=True)}
    if len(side) > len(present):
        raise ValueError(f"{len(side)} files for the {len(present)} modalities of the folder; give one for each")
    return dict(zip(present, side, strict=False))


def channel_names(files: Sequence[Path | str | None]) -> list[str]:
    """Name channels by what their files show: ``t1``, ``t1ce``, ...; else ``channel1``, ``channel2``, ..."""
    names = [modality_of(file) for file in files]
    known = [name if name in KNOWN and names.count(name) == 1 else None for name in names]
    return [name or f"channel{number}" for number, name in enumerate(known, 1)]
