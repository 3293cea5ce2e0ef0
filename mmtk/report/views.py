"""What a registration looks like in a few planes.

The planes are cut out first, and everything else is done to them alone: no volume is copied or resampled.

    (rows, columns)    every array of a view, turned as its plane says
    fixed, moving      native intensities; moving is sampled once, through the affine alone
    difference         fixed minus the other, on the common scale of the registration
    growth             log2 of the deformation's determinant, affine left out: above 0 where the moving tissue is
                       shrunk to fit, below 0 where it is stretched
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from mmtk.fields import sample
from mmtk.intensity import Normalizer
from mmtk.io import Volume
from mmtk.outputs import Warped
from mmtk.prepare import Prepared, affine_points, tensor
from mmtk.report.planes import Plane, planes_through
from mmtk.result import Registration

__all__ = ["Findings", "View", "lesion_center", "look"]

#: What differs from the background by more than this share of the picture's range is content.
CONTENT = 0.02

#: Determinants below this are shown as this; folds are marked besides.
LEAST_DETERMINANT = 1e-3


class Findings(Protocol):
    """The part of a result that the page shows; :class:`mmtk.registration.Result` has it."""

    @property
    def images(self) -> Warped: ...
    @property
    def registration(self) -> Registration: ...
    @property
    def prepared(self) -> Prepared: ...
    @property
    def metrics(self) -> Mapping[str, Any]: ...
    @property
    def seconds(self) -> Mapping[str, float]: ...
    @property
    def notes(self) -> tuple[str, ...]: ...
    @property
    def settings(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True, eq=False)
class View:
    """One plane of everything; arrays are ``(rows, columns)``, float32.

    Attributes:
        plane: Where it lies and what of it is shown.
        fixed, moving, warped, deformed: Intensities.
        appearance: Intensity change; None without.
        before, after: Fixed minus moving and fixed minus warped, on the common scale.
        growth: log2 of the determinant of the deformation.
        folds: Where the determinant is at or below 0.
        length: Length of the displacement, mm.
        places: ``(2, rows, columns)``: row and column coordinate, mm, of where each voxel is sampled.
        lesion_before, lesion: The lesion mask, affinely placed and warped; None without one.
        fixed_lesion: The mask of the fixed side; None without one.
    """

    plane: Plane
    fixed: np.ndarray
    moving: np.ndarray
    warped: np.ndarray
    deformed: np.ndarray
    appearance: np.ndarray | None
    before: np.ndarray
    after: np.ndarray
    growth: np.ndarray
    folds: np.ndarray
    length: np.ndarray
    places: np.ndarray
    lesion_before: np.ndarray | None
    lesion: np.ndarray | None
    fixed_lesion: np.ndarray | None


def look(result: Findings, names: tuple[str, ...] = ()) -> list[View]:
    """Return the planes through the lesion's center, or through the volume's without a lesion.

    Args:
        result: What to look at.
        names: Only these planes; all by default. A 2-D image has one, whatever its name.
    """
    fixed = result.prepared.fixed
    planes = planes_through(fixed, lesion_center(result))
    return [_view(result, p) for p in planes if not names or p.name in names or p.across is None]


def lesion_center(result: Findings) -> tuple[int, ...]:
    """Return the voxel at the warped lesion's center of mass, or the middle voxel of the grid.

    Where that voxel is no lesion (two lesions, a crescent), each plane goes where most of the lesion is.
    """
    shape = result.prepared.fixed.shape
    mask = result.images.mask
    if mask is None or not bool((mask > 0).any()):
        return tuple(n // 2 for n in shape)
    areas = [mask.sum(dim=[a for a in range(len(shape)) if a != axis]).double() for axis in range(len(shape))]
    centers = [float((a * torch.arange(len(a), device=a.device)).sum() / a.sum()) for a in areas]
    center = tuple(round(c) for c in centers)
    return center if float(mask[center]) > 0.5 else tuple(int(a.argmax()) for a in areas)


def _view(result: Findings, plane: Plane) -> View:
    images, prepared, found = result.images, result.prepared, result.registration
    moving = _placed(prepared.moving, prepared, plane)
    plane = plane.around(_content(plane.take(prepared.fixed.data)) | _content(moving))
    moving = moving[plane.box]
    fixed, warped = plane.take(prepared.fixed.data), plane.take(images.warped)
    target = _scaled(prepared.fixed_scale, fixed)
    placed = abs(float(np.linalg.det(prepared.alignment.matrix[:3, :3])))
    determinant = plane.take(images.jacobian) / placed
    displacement = plane.take(found.displacement[0])
    spacing = np.array(prepared.fixed.spacing, dtype=np.float32).reshape(-1, 1, 1)
    return View(
        plane=plane,
        fixed=fixed,
        moving=moving,
        warped=warped,
        deformed=plane.take(images.deformed),
        appearance=None if images.appearance is None else plane.take(images.appearance),
        before=target - _scaled(prepared.moving_scale, moving),
        after=target - _scaled(prepared.moving_scale, warped),
        growth=np.log2(np.maximum(determinant, LEAST_DETERMINANT)),
        folds=determinant <= 0,
        length=np.linalg.norm(displacement * spacing, axis=0),
        places=_places(plane, displacement),
        lesion_before=None if prepared.mask is None else _placed(prepared.mask, prepared, plane)[plane.box],
        lesion=None if images.mask is None else plane.take(images.mask),
        fixed_lesion=None if prepared.fixed_mask is None else plane.take(prepared.fixed_mask.data),
    )


def _placed(volume: Volume, prepared: Prepared, plane: Plane) -> np.ndarray:
    """Return an image of the moving side through the affine alone, on the whole plane."""
    points = affine_points(torch.from_numpy(plane.points(prepared.fixed.shape)), prepared.voxel_map)
    is_mask = volume is prepared.mask
    seen = sample(tensor(volume), points, padding="zeros" if is_mask else "border")[0, 0]
    return plane.slab().take(seen)


def _scaled(scale: Normalizer, picture: np.ndarray) -> np.ndarray:
    return scale.apply(torch.from_numpy(picture)).numpy()


def _content(picture: np.ndarray) -> np.ndarray:
    """Return where a picture differs from its background, the value of its first corner."""
    away = np.abs(picture - picture[0, 0])
    return away > CONTENT * away.max()


def _places(plane: Plane, displacement: np.ndarray) -> np.ndarray:
    """Return where the voxels of the picture are sampled, in mm along its rows and columns."""
    rows, columns = np.indices(displacement.shape[1:], dtype=np.float32)
    down, right = (
        (-1 if flip else 1) * displacement[axis] for axis, flip in zip(plane.axes, plane.flips, strict=True)
    )
    return np.stack([(rows + down) * plane.spacing[0], (columns + right) * plane.spacing[1]])
