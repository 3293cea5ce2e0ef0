"""Whether shape and appearance were kept apart.

A registration with appearance leaves three images on the fixed grid, ``(B, C, *space)``, in one intensity unit:

    moving     affinely placed, not deformed
    deformed   its shape changed, its intensities not
    warped     shape and appearance changed
"""

from __future__ import annotations

import math

from mmtk.fields import Grid
from mmtk.metrics.intensities import squared_error
from mmtk.types import Image, Mask

__all__ = ["appearance_energy_outside", "lesion_volume_kept", "shape_share"]


def appearance_energy_outside(warped: Image, deformed: Image, mask: Mask, grid: Grid) -> float:
    """Return the integral of ``(1 - m) (warped - deformed)^2`` in intensity^2 mm^dim.

    0 exactly if intensities changed under the mask alone.

    Args:
        warped, deformed: ``(B, C, *space)``.
        mask: ``m``, the lesion mask as warped, ``(B, 1, *space)``, in [0, 1].
        grid: For the volume of a voxel.
    """
    return squared_error(warped, deformed, 1 - mask) * grid.cell_volume


def shape_share(moving: Image, deformed: Image, warped: Image) -> float:
    """Return the share of the change that is due to shape: ``s / (s + a)``.

    ``s = ||deformed - moving||^2`` is what the deformation changed, ``a = ||warped - deformed||^2`` what the
    appearance changed. 1 for a pure deformation, 0 where nothing moved, NaN if nothing changed at all.

    Args:
        moving, deformed, warped: ``(B, C, *space)``.
    """
    shape, appearance = squared_error(deformed, moving), squared_error(warped, deformed)
    total = shape + appearance
    return shape / total if total else math.nan


def lesion_volume_kept(mask: Mask, warped_mask: Mask, grid: Grid, warped_grid: Grid | None = None) -> float:
    """Return the volume of the lesion after the deformation over that before.

    1 is kept, 0 is collapsed, above 1 has grown. NaN if there was no lesion.

    Args:
        mask: Of the moving image, ``(B, 1, *space)``, in [0, 1].
        warped_mask: The same, warped.
        grid: Of ``mask``.
        warped_grid: Of ``warped_mask``, if another.
    """
    before = float(mask.double().sum()) * grid.cell_volume
    after = float(warped_mask.double().sum()) * (warped_grid or grid).cell_volume
    return after / before if before else math.nan
