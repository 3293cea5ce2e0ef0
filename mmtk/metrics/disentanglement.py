"""Whether shape and appearance were kept apart: numbers of our own, defined in full in ``docs/metrics.md``.

A registration with appearance leaves three images on the fixed grid, ``(B, C, *space)``, in one intensity unit:

    moving     affinely placed, not deformed
    deformed   its shape changed, its intensities not
    warped     shape and appearance changed
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mmtk.errors import GridMismatch
from mmtk.fields import Grid
from mmtk.metrics.intensities import squared_error, total
from mmtk.metrics.truth import box_of, ring
from mmtk.types import Image, Mask

__all__ = [
    "MassEffect", "appearance_energy_outside", "appearance_leak", "lesion_volume_kept", "mass_effect", "shape_share",
]  # fmt: skip


def appearance_energy_outside(warped: Image, deformed: Image, mask: Mask, grid: Grid) -> float:
    """Return the integral of ``(1 - m) (warped - deformed)^2`` in intensity^2 mm^dim.

    0 exactly if intensities changed under the mask alone.

    Args:
        warped, deformed: ``(B, C, *space)``.
        mask: ``m``, the lesion mask as warped, ``(B, 1, *space)``, in [0, 1].
        grid: For the volume of a voxel.
    """
    return squared_error(warped, deformed, 1 - mask) * grid.cell_volume


def appearance_leak(warped: Image, deformed: Image, mask: Mask) -> float:
    """Return the share of the appearance's energy that lies outside of the mask.

    ``int (1 - m) a^2 / int a^2`` with ``a = warped - deformed``: 0 if intensities changed under the mask alone, 1 if
    only elsewhere, NaN if nowhere. It needs no unit, so that methods with different intensities compare.

    Args:
        warped, deformed: ``(B, C, *space)``.
        mask: ``m``, as warped, ``(B, 1, *space)``, in [0, 1].
    """
    everywhere = squared_error(warped, deformed)
    return squared_error(warped, deformed, 1 - mask) / everywhere if everywhere else math.nan


def shape_share(moving: Image, deformed: Image, warped: Image) -> float:
    """Return the share of the change that is due to shape: ``s / (s + a)``.

    ``s = ||deformed - moving||^2`` is what the deformation changed, ``a = ||warped - deformed||^2`` what the
    appearance changed. 1 for a pure deformation, 0 where nothing moved, NaN if nothing changed at all.

    Args:
        moving, deformed, warped: ``(B, C, *space)``.
    """
    shape, appearance = squared_error(deformed, moving), squared_error(warped, deformed)
    change = shape + appearance
    return shape / change if change else math.nan


def lesion_volume_kept(mask: Mask, warped_mask: Mask, grid: Grid, warped_grid: Grid | None = None) -> float:
    """Return the volume of the lesion after the deformation over that before.

    1 is kept, 0 is collapsed, above 1 has grown. NaN if there was no lesion.

    Args:
        mask: Of the moving image, ``(B, 1, *space)``, in [0, 1].
        warped_mask: The same, warped.
        grid: Of ``mask``.
        warped_grid: Of ``warped_mask``, if another.
    """
    before = total(mask) * grid.cell_volume
    after = total(warped_mask) * (warped_grid or grid).cell_volume
    return after / before if before else math.nan


class MassEffect(NamedTuple):
    """How much less room the lesion's surroundings have in the moving image than in the fixed one.

    Attributes:
        compression: Share of the shell's volume: 0 where nothing was displaced, above 0 where the lesion pushes,
            below 0 where tissue sank into it; NaN without a lesion or a shell.
        volume: The same as a volume, mm^dim.
    """

    compression: float
    volume: float


def mass_effect(
    determinant: Tensor,
    lesion: Tensor,
    spacing: Sequence[float],
    *,
    width: float = 10.0,
    where: Tensor | None = None,
) -> MassEffect:
    """Estimate what the lesion did to its surroundings from the volume change of a shell around it.

    The pull-back takes a piece of the fixed image of volume ``dx`` to one of volume ``D dx`` in the moving image. Over
    the shell S of voxels whose centers are at most ``width`` from a voxel of the lesion, the compression is
    ``1 - mean_S D`` and the volume ``int_S (1 - D) dx``.

    Args:
        determinant: ``D`` of the deformation, affine left out, ``(*space)`` of the fixed grid.
        lesion: The lesion as warped, ``(*space)``, in [0, 1]; inside where it is at least 1/2.
        spacing: mm, of the fixed grid.
        width: Of the shell, mm.
        where: Count only voxels where this is True, ``(*space)``: the head, without the background around it.

    Raises:
        GridMismatch: If the determinant does not lie on the lesion's grid.
    """
    if determinant.shape != lesion.shape:
        raise GridMismatch("determinant", tuple(determinant.shape), "lesion", tuple(lesion.shape))
    inside = (lesion >= 0.5).cpu().numpy()
    box = box_of(inside, spacing, width)
    if box is None:
        return MassEffect(math.nan, math.nan)
    shell = torch.from_numpy(ring(inside[box], spacing, width)).to(determinant.device)
    if where is not None:
        shell &= where[box]
    values = determinant[box][shell].double()
    if not len(values):
        return MassEffect(math.nan, math.nan)
    lost = float((1 - values).sum())
    return MassEffect(lost / len(values), lost * math.prod(spacing))
