r"""A finer kernel around the lesion: what a tumor pushed aside bends more sharply than the rest of a brain.

With the window :math:`\chi`, 1 near the lesion and 0 far from it, the root of the kernel is blended between two,

.. math::
    v = \big((1 - \chi) K^{1/2} + \chi K_{\text{fine}}^{1/2}\big)\, w,

which is linear in the same white unknowns w, so that :math:`\|v\|_V = \|w\|` still, in the space of the kernel that
this root belongs to.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmtk.fields import Gaussian, Kernel, Lattice, Smoother, Sum

__all__ = ["Detail", "window_around"]

#: Weight of the finer Gaussian beside the kernel. A larger one folds more and finds less.
SHARE = 0.05
#: The window is 1 up to this distance from the lesion and 0 beyond the other, in mm.
WHOLE, NONE = 15.0, 40.0


@dataclass(frozen=True, eq=False)
class Detail:
    """A finer kernel within a window of the control lattice.

    Attributes:
        smoother: Of the finer kernel.
        window: ``(1, 1, *nodes)`` in [0, 1].
    """

    smoother: Smoother
    window: Tensor

    @classmethod
    def around(cls, mask: Tensor, lattice: Lattice, kernel: Kernel, width: float) -> Detail:
        """Return the detail around a lesion.

        Args:
            mask: ``(1, 1, *space)`` of the lattice's grid.
            lattice: Where velocities live.
            kernel: The kernel of everywhere else.
            width: Of the finer Gaussian, mm.
        """
        finer = Sum((kernel, Gaussian(width)), (1.0, SHARE))
        return cls(Smoother(finer, lattice.box), window_around(mask, lattice))

    def root(self, white: Tensor, smooth: Tensor) -> Tensor:
        """Return ``smooth``, the root of the kernel of everywhere else, with the finer one's root in the window."""
        return torch.lerp(smooth, self.smoother.root(white), self.window)


def window_around(mask: Tensor, lattice: Lattice) -> Tensor:
    """Return the window ``(1, 1, *nodes)``: 1 within 15 mm of the mask, 0 from 40 mm on, smooth between."""
    from scipy.ndimage import distance_transform_edt

    voxels = torch.nonzero(mask[0, 0] > 0.5).T
    if not voxels.numel():
        return torch.zeros(1, 1, *lattice.nodes, dtype=mask.dtype, device=mask.device)
    places = [
        lattice.positions(axis, found.to(mask.dtype)).round().long().cpu() for axis, found in enumerate(voxels)
    ]
    outside = np.ones(lattice.nodes, dtype=bool)
    outside[tuple((place % n).numpy() for place, n in zip(places, lattice.nodes, strict=True))] = False
    away = torch.from_numpy(distance_transform_edt(outside, sampling=lattice.spacing)).to(mask)
    share = ((NONE - away) / (NONE - WHOLE)).clamp(0, 1)
    return (share.square() * (3 - 2 * share))[None, None]
