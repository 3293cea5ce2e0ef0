"""The folder of a run: which files are in it, and ``run.json``, the account from which it can be repeated."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import mmtk
from mmtk import io
from mmtk.errors import ConfigError
from mmtk.modalities import KNOWN
from mmtk.outputs import write_outputs
from mmtk.resources import Clock, memory_told, peak_memory

if TYPE_CHECKING:
    from mmtk.registration import Result

__all__ = ["FILES", "check_folder", "save", "write"]


def check_folder(out: Path, overwrite: bool) -> None:
    """Refuse an output folder that holds something, or that is a file.

    Raises:
        ConfigError: With what to do.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: is a file; name a folder")
    if io.holds_something(out) and not overwrite:
        raise ConfigError(f"--out {out}: the folder is not empty; name another, or add --overwrite")


def save(result: Result, out: Path, *, overwrite: bool = False, seed: int = 0, command: str | None = None) -> Path:
    """Write every file of a run into a folder, all of them or none.

    With ``overwrite`` the files of an older run are replaced when all new ones are there; files and folders of others
    in it stay.

    Raises:
        ConfigError: If the folder holds something and ``overwrite`` is not set, or may not be written to.
        ResourceError: If the disk gave out; the folder is as it was.
    """
    check_folder(out, overwrite)
    with io.making(out, ours=FILES, record="run.json", overwrite=overwrite) as place:
        write(result, place, seed, command)
    return out


def write(result: Result, place: io.Making, seed: int, command: str | None) -> None:
    """Write every file of a run into a folder in the making, and give it its name."""
    from mmtk.report import write_report

    seconds = dict(result.seconds)
    clock = Clock(seconds)
    with place.writing() as folder, memory_told("writing the results"):
        with clock("write"):
            names = write_outputs(folder, result.prepared, result.registration, result.images, result.settings)
            names += _write_mask(folder, result)
            io.write_json(folder / "metrics.json", result.metrics)
        record = _record(result, seconds, seed, command, names)
        with clock("report"):
            write_report(folder / "report.html", result, record)
        record["seconds"] = seconds
        io.write_json(folder / "run.json", record)
    place.publish()


def _write_mask(folder: Path, result: Result) -> list[str]:
    """Write the mask that a segmenter found, on the moving image's grid, and its uncertainty."""
    looked = result.looked_for
    if looked is None:
        return []
    for name, volume in (("mask", looked.mask), ("mask_uncertainty", looked.uncertainty)):
        io.write_image(folder / f"{name}.nii.gz", volume.data, looked.mask)
    return ["mask.nii.gz", "mask_uncertainty.nii.gz"]


#: Everything that a run may leave. What an earlier run left and this one did not make is removed on overwriting.
FILES = frozenset({
    "warped.nii.gz", "deformed.nii.gz", "appearance.nii.gz", "warped_mask.nii.gz", "warped_labels.nii.gz",
    "jacobian.nii.gz", "displacement.nii.gz", "transform.h5", "inverse_transform.h5", "shape.safetensors",
    "metrics.json", "run.json", "report.html", "mask.nii.gz", "mask_uncertainty.nii.gz",
    *(
        f"{image}_{channel}.nii.gz"
        for image in ("warped", "deformed", "appearance")
        for channel in (*KNOWN, *(f"channel{number}" for number in range(2, 33)))
    ),
})  # fmt: skip


def _no_mask(result: Result) -> str:
    return "there is no lesion mask" if result.looked_for is None else "no lesion was found"


def _record(
    result: Result, seconds: Mapping[str, float], seed: int, command: str | None, names: list[str]
) -> dict[str, Any]:
    """What ``run.json`` holds: enough to repeat the run, and what is missing and why."""
    prepared, found = result.prepared, result.registration
    inputs = {}
    images = {name: getattr(prepared, name) for name in ("moving", "fixed", "mask", "fixed_mask")}
    for channel in prepared.channels:
        images |= {f"moving ({channel.name})": channel.moving, f"fixed ({channel.name})": channel.fixed}
    for name, volume in {**images, **result.label_maps}.items():
        if volume is not None:
            path = volume.path
            inputs[name] = {
                "path": None if path is None else str(path),
                "sha256": None if path is None else io.sha256(path),
                "shape": volume.shape,
                "spacing": volume.spacing,
            }
    if result.looked_for is not None:
        inputs.pop("mask", None)
    absent = {}
    if result.images.appearance is None:
        absent["appearance.nii.gz"] = (
            _no_mask(result) if prepared.mask is None else "the method changes no intensities"
        )
    if prepared.mask is None:
        absent["warped_mask.nii.gz"] = _no_mask(result)
    return {
        "command": command,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "settings": result.settings,
        "inputs": inputs,
        "mask": None if result.looked_for is None else result.looked_for.numbers(),
        "seed": seed,
        "device": str(found.displacement.device),
        "versions": {
            "mmtk": mmtk.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "platform": platform.platform(),
        },
        "affine": {
            "kind": prepared.alignment.kind,
            "matrix_ras_fixed_to_moving": prepared.alignment.matrix,
            "note": prepared.alignment.note,
        },
        "outcome": {"name": found.outcome.name, "says": found.outcome.value},
        "levels": [
            {
                "size_mm": level.size,
                "evaluations": level.evaluations,
                "seconds": round(level.seconds, 3),
                "outcome": level.outcome.name,
                "energies": level.energies,
            }
            for level in found.levels
        ],
        "notes": result.notes,
        "files": [*names, "metrics.json", "run.json", "report.html"],
        "absent": absent,
        "seconds": dict(seconds),
        "peak_memory_mb": round(peak_memory() / 2**20),
    }
