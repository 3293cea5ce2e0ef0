"""What an image would show where it is hidden, as far as its surroundings tell."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmtk.types import Image, Mask

__all__ = ["filled"]


def filled(image: Image, hidden: Mask) -> Tensor:
    """Return the image with what is hidden replaced by averages of what surrounds it; the rest stays to the bit.

    Averages over ever larger blocks, as large as it takes to see something, are interpolated from block to block: deep
    in a hole the image is smooth. What is hidden does not count, whatever it is.

    Args:
        image: ``(B, C, *space)``, 2-D or 3-D.
        hidden: ``(B, 1, *space)``: every voxel above 0 is hidden. Where all are, the image becomes 0.
    """
    seen = (hidden <= 0).to(image)
    return torch.where(seen > 0, image, _averaged(torch.where(seen > 0, image, 0), seen))


def _averaged(sums: Tensor, seen: Tensor) -> Tensor:
    """Return sums over weights, where there are none those of larger blocks."""
    here = sums / seen.clamp_min(1e-6)
    if bool((seen > 0).all()) or max(seen.shape[2:]) == 1:
        return here
    pool = F.avg_pool2d if sums.ndim == 4 else F.avg_pool3d
    mode = "bilinear" if sums.ndim == 4 else "trilinear"
    block = tuple(min(2, n) for n in seen.shape[2:])
    coarse = _averaged(*(pool(f, block, ceil_mode=True, count_include_pad=False) for f in (sums, seen)))
    around = F.interpolate(coarse, size=seen.shape[2:], mode=mode, align_corners=False)
    return torch.where(seen > 0, here, around)
