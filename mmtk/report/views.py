"""What a registration looks like in a few planes.

The planes are cut out first, and everything else is done to them alone: no volume is copied or resampled.

    (rows, columns)    every array of a view, turned as its plane says
    fixed, moving      native intensities; moving is sampled once, through the affine alone
    difference         fixed minus the other, on the common scale of the registration
    growth             log2 of the deformation's determinant, affine left out: above 0 where the moving tissue is
                       shrunk to fit, below 0 where it is stretched
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from mmtk.fields import sample
from mmtk.intensity import Normalizer
from mmtk.io import Volume
from mmtk.prepare import affine_points, tensor
from mmtk.report.findings import Findings, Live, findings_of
from mmtk.report.planes import Plane, planes_through

__all__ = ["View", "content_of", "lesion_center", "look"]

#: What differs from the background by more than this share of the picture's range is content.
CONTENT = 0.02

#: Determinants below this are shown as this; folds are marked besides.
LEAST_DETERMINANT = 1e-3


@dataclass(frozen=True, eq=False)
class View:
    """One plane of everything; arrays are ``(rows, columns)``, float32.

    Attributes:
        plane: Where it lies and what of it is shown.
        warped, deformed: Intensities.
        fixed, moving: Likewise; None where the image is gone.
        appearance: Intensity change; None without.
        before, after: Fixed minus moving and fixed minus warped, on the common scale; None without both images.
        growth: log2 of the determinant of the deformation.
        folds: Where the determinant is at or below 0.
        length: Length of the displacement, mm.
        places: ``(2, rows, columns)``: row and column coordinate, mm, of where each voxel is sampled.
        lesion_before, lesion: The lesion mask, affinely placed and warped; None without one.
        fixed_lesion: The mask of the fixed side; None without one.
        doubt: Uncertainty of a mask that a segmenter found, affinely placed; None for a mask that was given.
    """

    plane: Plane
    fixed: np.ndarray | None
    moving: np.ndarray | None
    warped: np.ndarray
    deformed: np.ndarray
    appearance: np.ndarray | None
    before: np.ndarray | None
    after: np.ndarray | None
    growth: np.ndarray
    folds: np.ndarray
    length: np.ndarray
    places: np.ndarray
    lesion_before: np.ndarray | None
    lesion: np.ndarray | None
    fixed_lesion: np.ndarray | None
    doubt: np.ndarray | None = None


def look(result: Live | Findings, names: tuple[str, ...] = ()) -> list[View]:
    """Return the planes through the lesion's center, or through the volume's without a lesion.

    Args:
        result: What to look at.
        names: Only these planes; all by default. A 2-D image has one, whatever its name.
    """
    found = findings_of(result)
    planes = planes_through(found.space, lesion_center(found))
    return [_view(found, p) for p in planes if not names or p.name in names or p.across is None]


def lesion_center(result: Live | Findings) -> tuple[int, ...]:
    """Return the voxel at the warped lesion's center of mass, or the middle voxel of the grid.

    Where that voxel is no lesion (two lesions, a crescent), each plane goes where most of the lesion is.
    """
    found = findings_of(result)
    shape, mask = found.space.shape, found.lesion
    if mask is None or not bool((mask > 0).any()):
        return tuple(n // 2 for n in shape)
    areas = [mask.sum(dim=[a for a in range(len(shape)) if a != axis]).double() for axis in range(len(shape))]
    centers = [float((a * torch.arange(len(a), device=a.device)).sum() / a.sum()) for a in areas]
    center = tuple(round(c) for c in centers)
    return center if float(mask[center]) > 0.5 else tuple(int(a.argmax()) for a in areas)


def _view(found: Findings, plane: Plane) -> View:
    moving = None if found.moving is None else _placed(found.moving, found, plane)
    fixed = None if found.fixed is None else plane.take(found.fixed.data)
    shown = [picture for picture in (fixed, moving) if picture is not None] or [plane.take(found.warped)]
    plane = plane.around(np.logical_or.reduce([content_of(picture) for picture in shown]))
    moving, fixed = (None if picture is None else picture[plane.box] for picture in (moving, fixed))
    warped = plane.take(found.warped)
    before = after = None
    if fixed is not None and moving is not None and found.fixed_scale and found.moving_scale:
        target = _scaled(found.fixed_scale, fixed)
        before = target - _scaled(found.moving_scale, moving)
        after = target - _scaled(found.moving_scale, warped)
    determinant = plane.take(found.jacobian) / found.scaling
    displacement = plane.take(found.displacement)
    spacing = np.array(found.space.spacing, dtype=np.float32).reshape(-1, 1, 1)
    return View(
        plane=plane,
        fixed=fixed,
        moving=moving,
        warped=warped,
        deformed=plane.take(found.deformed),
        appearance=None if found.appearance is None else plane.take(found.appearance),
        before=before,
        after=after,
        growth=np.log2(np.maximum(determinant, LEAST_DETERMINANT)),
        folds=determinant <= 0,
        length=np.linalg.norm(displacement * spacing, axis=0),
        places=plane.places(displacement),
        lesion_before=None if found.mask is None else _placed(found.mask, found, plane)[plane.box],
        lesion=None if found.lesion is None else plane.take(found.lesion),
        fixed_lesion=None if found.fixed_mask is None else plane.take(found.fixed_mask.data),
        doubt=None if found.uncertainty is None else _placed(found.uncertainty, found, plane)[plane.box],
    )


def _placed(volume: Volume, found: Findings, plane: Plane) -> np.ndarray:
    """Return an image of the moving side through the affine alone, on the whole plane."""
    points = affine_points(torch.from_numpy(plane.points(found.space.shape)), found.voxel_map)
    seen = sample(
        tensor(volume), points, padding="zeros" if volume in (found.mask, found.uncertainty) else "border"
    )[0, 0]
    return plane.slab().take(seen)


def _scaled(scale: Normalizer, picture: np.ndarray) -> np.ndarray:
    return scale.apply(torch.from_numpy(picture)).numpy()


def content_of(picture: np.ndarray) -> np.ndarray:
    """Return where a picture differs from its background, the value of its first corner."""
    away = np.abs(picture - picture[0, 0])
    return away > CONTENT * away.max()
