"""A pair of images whose true correspondence and true change of appearance are known.

    moving, fixed          (*space)         intensities, on one grid
    mask                   (*space) bool    lesion, on the moving image
    fixed_mask             (*space) bool    fixed positions that correspond to it
    displacement           (dim, *space)    true pull-back u in voxels, axes i,j,k: fixed x <-> moving x + u(x)
    inverse_displacement   (dim, *space)    the same the other way: moving y <-> fixed y + u'(y)
    appearance             (*space)         on the fixed grid, in the moving image's intensities: what has to be
                                            added to the shape-only image to undo the lesion; 0 outside fixed_mask

Before noise, bias and another contrast: ``fixed == moving(x + u(x)) + appearance``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mmtk.samples.maps import determinant

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, eq=False)
class Sample:
    """See the module's table.

    Attributes:
        labels_moving: Label map carried along with the moving image, the lesion's core as one label of its own.
        labels_fixed: Label map of the fixed image.
        affine: ``(4, 4)`` voxel to world, RAS mm; one for both images.
        channels: Moving and fixed image of further modalities, by their names.
        landmarks: Of the moving and of the fixed image, ``(n, 3)`` each, RAS mm; None where there are none.
        facts: What was asked and drawn, in plain data: it becomes ``sample.json``.
    """

    moving: np.ndarray
    fixed: np.ndarray
    mask: np.ndarray
    fixed_mask: np.ndarray
    displacement: np.ndarray
    inverse_displacement: np.ndarray
    appearance: np.ndarray
    affine: np.ndarray
    labels_moving: np.ndarray | None = None
    labels_fixed: np.ndarray | None = None
    landmarks: tuple[np.ndarray, np.ndarray] | None = None
    channels: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def dim(self) -> int:
        return self.fixed.ndim

    @property
    def spacing(self) -> tuple[float, ...]:
        """Voxel size along each array axis, mm."""
        import numpy as np

        return tuple(float(h) for h in np.linalg.norm(self.affine[:3, : self.dim], axis=0))


def jacobian_minimum(displacement: np.ndarray) -> float:
    """Return the smallest determinant of ``x + u(x)`` for ``(dim, *space)`` in voxels, by central differences."""
    import numpy as np

    smallest = np.inf
    # Slabs along the first axis: nine full-size gradients of a 1 mm brain would take half a gigabyte.
    for start in range(0, displacement.shape[1], 16):
        low, high = max(0, start - 1), min(displacement.shape[1], start + 17)
        slab = displacement[:, low:high].astype(np.float64)
        if slab.shape[1] < 2:
            break
        slopes = np.stack([np.stack(np.gradient(component)) for component in slab])
        smallest = min(smallest, float(determinant(slopes).min()))
    return smallest
