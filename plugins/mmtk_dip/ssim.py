r"""Structural similarity, and the mean determinant: the two columns of the paper's table 1.

.. math::
    \mathrm{SSIM}(x, y) = \frac{(2 \mu_x \mu_y + c_1)(2 \sigma_{xy} + c_2)}
                               {(\mu_x^2 + \mu_y^2 + c_1)(\sigma_x^2 + \sigma_y^2 + c_2)}

with means in Gaussian windows, :math:`c_1 = (0.01 L)^2`, :math:`c_2 = (0.03 L)^2` and L the fixed image's range; then
the mean over voxels and channels. 1 is best.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from mmtk.fields import jacobian_determinant, warp
from mmtk.method import Pair
from mmtk.metrics import Metric
from mmtk.result import Registration

__all__ = ["StructuralSimilarity", "ssim"]


def ssim(x: Tensor, y: Tensor, sigma: float = 1.5) -> Tensor:
    """Return the structural similarity at each voxel, ``(B, C, *space)``; ``L`` is the range of ``y``.

    References:
        Z. Wang, A. C. Bovik, H. R. Sheikh, E. P. Simoncelli: Image quality assessment: from error visibility to
        structural similarity. IEEE Transactions on Image Processing 13 (2004) 600-612.
    """
    span = float(y.amax() - y.amin()) or 1.0
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    mean_x, mean_y = _smooth(x, sigma), _smooth(y, sigma)
    var_x = (_smooth(x.square(), sigma) - mean_x.square()).clamp_min(0)
    var_y = (_smooth(y.square(), sigma) - mean_y.square()).clamp_min(0)
    both = _smooth(x * y, sigma) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    return luminance * (2 * both + c2) / (var_x + var_y + c2)


def _smooth(image: Tensor, sigma: float) -> Tensor:
    """Return Gaussian means; beyond its ends the image goes on with its last voxel."""
    radius = math.ceil(3.5 * sigma)
    x = torch.arange(-radius, radius + 1, dtype=image.dtype, device=image.device)
    weights = torch.exp(-0.5 * (x / sigma) ** 2)
    weights = weights / weights.sum()
    for axis in range(2, image.ndim):
        line = image.movedim(axis, -1)
        flat = F.pad(line.reshape(-1, 1, line.shape[-1]), (radius, radius), mode="replicate")
        image = F.conv1d(flat, weights.view(1, 1, -1)).view(line.shape).movedim(-1, axis)
    return image


class StructuralSimilarity(Metric):
    """SSIM of the moved image (appearance and all) with the fixed one, and the mean Jacobian determinant; 1 is best.

    Args:
        sigma: Width of the Gaussian window, voxels.
    """

    perfect = {"ssim": 1.0, "jacobian_mean": 1.0}

    def __init__(self, *, sigma: float = 1.5) -> None:
        self.sigma = sigma

    def measure(self, pair: Pair, found: Registration) -> Mapping[str, float]:
        moved = warp(pair.moving, found.displacement)
        if found.appearance is not None:
            moved = moved + found.appearance
        return {
            "ssim": float(ssim(moved, pair.fixed, self.sigma).mean()),
            "jacobian_mean": float(jacobian_determinant(found.displacement).mean()),
        }
