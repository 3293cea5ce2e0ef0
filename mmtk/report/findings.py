"""What the page shows of a run: one shape for a result in memory and for a folder that a run left.

The page is made from :class:`Findings` alone. A live result already holds everything; a folder holds what was
written, and names the images that it was made from. Those are looked for where they were, and used only if they are
still the same files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from mmtk.errors import GridMismatch, InputError
from mmtk.intensity import Normalizer, pair_normalizers
from mmtk.io import (
    FieldStep,
    Volume,
    read_image,
    read_mask,
    read_transform,
    sha256,
    to_voxels,
    voxel_to_voxel,
)
from mmtk.io.images import load
from mmtk.outputs import Warped
from mmtk.prepare import Prepared
from mmtk.result import Outcome, Registration

__all__ = ["Findings", "Live", "findings_of", "read_findings", "read_record"]

#: Files without which there is nothing to show.
NEEDED = ("warped.nii.gz", "deformed.nii.gz", "jacobian.nii.gz", "transform.h5")

#: What the page does without, if an image that the run read is gone.
WITHOUT = {
    "fixed": "the fixed image and the differences from it",
    "moving": "the moving image before the deformation",
    "mask": "the lesion before the deformation",
    "fixed_mask": "the lesion of the fixed image",
}


class Live(Protocol):
    """The part of a result in memory that the page shows; :class:`mmtk.registration.Result` has it."""

    @property
    def images(self) -> Warped: ...
    @property
    def registration(self) -> Registration: ...
    @property
    def prepared(self) -> Prepared: ...
    @property
    def metrics(self) -> Mapping[str, Any]: ...
    @property
    def notes(self) -> tuple[str, ...]: ...
    @property
    def settings(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True, eq=False)
class Findings:
    """A run as the page shows it; tensors are ``(*space)`` on the native fixed grid.

    Attributes:
        space: A volume on the fixed grid, for where its voxels lie; its data are not shown.
        fixed, moving, mask, fixed_mask: The images that the run read; None for one that there was not, or is gone.
        matrix: The affine placement, 4x4, world mm, fixed to moving.
        placement, placement_note: Its kind, and what its search had to say.
        fixed_scale, moving_scale: Maps to the common intensity scale; None if an image is gone.
        warped, deformed: Intensities in the moving image's unit.
        appearance: Intensity change; None without.
        lesion: The warped lesion mask, in [0, 1]; None without one.
        jacobian: Determinant of the whole map, affine included.
        displacement: ``(dim, *space)``, voxels; the affine acts after it.
        outcome: Why the optimization stopped.
        metrics, notes, settings: As in ``metrics.json`` and ``run.json``.
        gone: A sentence for each image that was not found again.
        uncertainty: Of a mask that a segmenter found, on the moving grid, in [0, 1]; None for a mask that was given.
    """

    space: Volume
    fixed: Volume | None
    moving: Volume | None
    mask: Volume | None
    fixed_mask: Volume | None
    matrix: np.ndarray
    placement: str
    placement_note: str
    fixed_scale: Normalizer | None
    moving_scale: Normalizer | None
    warped: Tensor
    deformed: Tensor
    appearance: Tensor | None
    lesion: Tensor | None
    jacobian: Tensor
    displacement: Tensor
    outcome: Outcome
    metrics: Mapping[str, Any]
    notes: tuple[str, ...]
    settings: Mapping[str, Any]
    gone: tuple[str, ...] = field(default=())
    uncertainty: Volume | None = None

    @property
    def voxel_map(self) -> np.ndarray:
        """The placement as a matrix from fixed to moving voxels, 4x4."""
        assert self.moving is not None
        return voxel_to_voxel(self.space, self.moving, self.matrix)

    @property
    def scaling(self) -> float:
        """How many times larger the affine makes a volume."""
        return abs(float(np.linalg.det(self.matrix[:3, :3])))


def findings_of(result: Live | Findings) -> Findings:
    """Return what the page shows of a result in memory."""
    if isinstance(result, Findings):
        return result
    prepared, images, found = result.prepared, result.images, result.registration
    looked = getattr(result, "looked_for", None)
    return Findings(
        space=prepared.fixed,
        fixed=prepared.fixed,
        moving=prepared.moving,
        mask=prepared.mask,
        fixed_mask=prepared.fixed_mask,
        matrix=prepared.alignment.matrix,
        placement=prepared.alignment.kind,
        placement_note=prepared.alignment.note,
        fixed_scale=prepared.fixed_scale,
        moving_scale=prepared.moving_scale,
        warped=images.warped,
        deformed=images.deformed,
        appearance=images.appearance,
        lesion=images.mask,
        jacobian=images.jacobian,
        displacement=found.displacement[0],
        outcome=found.outcome,
        metrics=result.metrics,
        notes=tuple(result.notes),
        settings=result.settings,
        uncertainty=None if looked is None else looked.uncertainty,
    )


def read_record(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what ``run.json`` and ``metrics.json`` of a run's folder hold.

    Raises:
        InputError: If the folder is none that a run left.
    """
    if not folder.is_dir():
        raise InputError(f"'{folder}' is no folder; name one that `mmtk run --out` has filled")
    return _json(folder / "run.json"), _json(folder / "metrics.json")


def _json(path: Path) -> dict[str, Any]:
    advice = (
        f"'{path.parent}' is not a folder that `mmtk run --out` has filled, or its run did not end; run it again"
    )
    if not path.is_file():
        raise InputError(f"'{path}' is missing: {advice}")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(f"'{path}' cannot be read as JSON ({error}): {advice}") from error
    if not isinstance(value, dict):
        raise InputError(f"'{path}' holds no JSON object: {advice}")
    return value


def read_findings(folder: Path) -> tuple[Findings, dict[str, Any]]:
    """Return what the page shows of the run that left a folder, and its ``run.json``.

    Raises:
        InputError: If the folder is none that a run left, or files of it are missing or damaged.
        GridMismatch: If its files do not lie on one grid.
    """
    record, metrics = read_record(folder)
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"'{folder}' has no {', '.join(missing)}: the page shows them; run it again with the command of its run.json"
        )
    space = load(folder / "warped.nii.gz", name="warped")
    gone: list[str] = []
    again = _Again(folder, record, gone)
    moving, fixed = again.image("moving"), again.image("fixed")
    mask, fixed_mask = again.mask("mask", moving), again.mask("fixed_mask", fixed)
    uncertainty = None
    if mask is None and moving is not None and "mask.nii.gz" in record.get("files", ()):
        mask, uncertainty = _found_mask(folder, moving)
    scales: tuple[Normalizer | None, Normalizer | None] = (None, None)
    if moving is not None and fixed is not None:
        scales = pair_normalizers(
            moving.data,
            fixed.data,
            None if mask is None else mask.data,
            None if fixed_mask is None else fixed_mask.data,
            how=record.get("settings", {}).get("normalize", "robust"),
        )
    affine = record.get("affine", {})
    files = record.get("files", ())

    def tensor(name: str) -> Tensor:
        volume = space if name == "warped.nii.gz" else load(folder / name, name=name)
        if volume.shape != space.shape:
            raise GridMismatch(name, volume.shape, "warped.nii.gz", space.shape)
        return torch.from_numpy(volume.data)

    found = Findings(
        space=space,
        fixed=fixed,
        moving=moving,
        mask=mask,
        fixed_mask=fixed_mask,
        matrix=np.array(affine.get("matrix_ras_fixed_to_moving", np.eye(4)), dtype=np.float64),
        placement=str(affine.get("kind", "")),
        placement_note=str(affine.get("note") or ""),
        moving_scale=scales[0],
        fixed_scale=scales[1],
        warped=tensor("warped.nii.gz"),
        deformed=tensor("deformed.nii.gz"),
        appearance=tensor("appearance.nii.gz") if "appearance.nii.gz" in files else None,
        lesion=tensor("warped_mask.nii.gz") if "warped_mask.nii.gz" in files else None,
        jacobian=tensor("jacobian.nii.gz"),
        displacement=torch.from_numpy(_displacement(folder / "transform.h5", space)),
        outcome=_outcome(record),
        metrics=metrics,
        notes=tuple(record.get("notes", ())),
        settings=record.get("settings", {}),
        gone=tuple(gone),
        uncertainty=uncertainty,
    )
    return found, record


def _found_mask(folder: Path, moving: Volume) -> tuple[Volume | None, Volume | None]:
    """Return the mask that a run found itself, and its uncertainty, where they are still there."""
    volumes = []
    for name in ("mask.nii.gz", "mask_uncertainty.nii.gz"):
        volume = load(folder / name, name="mask") if (folder / name).is_file() else None
        volumes.append(volume if volume is not None and volume.shape == moving.shape else None)
    return volumes[0], volumes[1]


def _displacement(path: Path, space: Volume) -> np.ndarray:
    """Return the deformation of ``transform.h5`` in voxels, ``(dim, *space)``; the affine beside it is left out."""
    fields = [step for step in read_transform(path) if isinstance(step, FieldStep)]
    if len(fields) != 1 or fields[0].vectors.shape[1:] != space.shape:
        raise InputError(
            f"'{path}' holds no single displacement field on the grid of warped.nii.gz; run again, or bring back the "
            f"file that the run wrote"
        )
    return to_voxels(fields[0].vectors, space.affine)


def _outcome(record: Mapping[str, Any]) -> Outcome:
    name = record.get("outcome", {}).get("name", "")
    return Outcome[name] if name in Outcome.__members__ else Outcome.CONVERGED


class _Again:
    """Reads the images that a run has read, where they are still the same."""

    def __init__(self, folder: Path, record: Mapping[str, Any], gone: list[str]) -> None:
        self.folder, self.inputs, self.gone = folder, record.get("inputs", {}), gone
        self.spacing = record.get("settings", {}).get("spacing")

    def image(self, role: str) -> Volume | None:
        return self._read(role, lambda path: read_image(path, name=role, spacing=self.spacing))

    def mask(self, role: str, image: Volume | None) -> Volume | None:
        if image is None:
            return None
        return self._read(role, lambda path: read_mask(path, like=image, name=role))

    def _read(self, role: str, read: Callable[[Path], Volume]) -> Volume | None:
        if role not in self.inputs:
            return None
        path, why = self._find(self.inputs[role])
        if path is not None:
            try:
                return read(path)
            except InputError as error:
                why = str(error)
        self.gone.append(f"The page does without {WITHOUT[role]}: {why}.")
        return None

    def _find(self, told: Mapping[str, Any]) -> tuple[Path | None, str]:
        if not told.get("path"):
            return None, "it was given as an array and not as a file"
        there = [path for path in self._places(Path(told["path"])) if path.is_file()]
        for path in there:
            if sha256(path) == told.get("sha256"):
                return path, ""
        if there:
            return None, f"'{there[0]}' is not the file that the run read; it has changed since"
        return None, f"'{told['path']}' is not there any more"

    def _places(self, path: Path) -> Iterator[Path]:
        """Yield where a file may be: where it was, or where it would be had the folder been moved with it."""
        yield path
        yield self.folder / path.name
        yield self.folder.parent / path.name
        if not path.is_absolute():
            yield self.folder.parent / path
