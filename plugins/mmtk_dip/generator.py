"""The generator: an hourglass with skips, from noise to a vector field (Lempitsky, Vedaldi, Ulyanov 2018).

    z        (1, inputs, *space)     noise
    answer   (1, out, *space)        at first a few hundredths

Convolutions see zeros beyond the image. With noise that is drawn anew for every step this is all that tells the network
where it is: one that is blind to its borders could only answer the same vector everywhere, on average.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Generator", "strides"]

#: An axis of fewer voxels is not halved.
SHORTEST = 8


def strides(shape: Sequence[int], spacing: Sequence[float], levels: int) -> list[tuple[int, ...]]:
    """Return the factor of each level along each axis, 1 or 2.

    Axes of few voxels stay, and so do those whose voxels are twice as long as others' by then.
    """
    n, h, found = list(shape), list(spacing), []
    for _ in range(levels):
        finest = min((h[a] for a in range(len(n)) if n[a] >= SHORTEST), default=0.0)
        factor = tuple(2 if n[a] >= SHORTEST and h[a] < 2 * finest else 1 for a in range(len(n)))
        found.append(factor)
        n = [-(-m // f) for m, f in zip(n, factor, strict=True)]
        h = [x * f for x, f in zip(h, factor, strict=True)]
    return [factor for factor in found if max(factor) > 1]


class Generator(nn.Module):
    """Way down, way up, and a thin skip between them on every level.

    Args:
        factors: Of each level, see :func:`strides`.
        inputs, out: Channels of noise and answer.
        widths: Maps of each level, finest first.
        skip: Maps that a level hands over.
        spread: Standard deviation of the first weights and biases; normalizations begin as the identity.
    """

    def __init__(
        self,
        factors: Sequence[tuple[int, ...]],
        inputs: int,
        out: int,
        widths: Sequence[int],
        skip: int,
        spread: float,
    ) -> None:
        super().__init__()
        dim = len(factors[0]) if factors else 2
        self.mode = "bilinear" if dim == 2 else "trilinear"
        widths = list(widths)[: len(factors)]
        before = [inputs, *widths[:-1]]
        below = [*widths[1:], widths[-1]]
        self.skips = nn.ModuleList(_layer(dim, a, skip, 1) for a in before)
        self.down = nn.ModuleList(
            nn.Sequential(_layer(dim, a, w, 3, factor), _layer(dim, w, w, 3))
            for a, w, factor in zip(before, widths, factors, strict=True)
        )
        self.up = nn.ModuleList(
            nn.Sequential(_layer(dim, a + skip, w, 3), _layer(dim, w, w, 1))
            for a, w in zip(below, widths, strict=True)
        )
        self.answer = (nn.Conv2d if dim == 2 else nn.Conv3d)(widths[0], out, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                nn.init.normal_(module.weight, std=spread)
                assert module.bias is not None
                nn.init.normal_(module.bias, std=spread)

    def forward(self, z: Tensor) -> Tensor:
        handed, x = [], z
        for skip, down in zip(self.skips, self.down, strict=True):
            handed.append(skip(x))
            x = down(x)
        for up, kept in zip(reversed(self.up), reversed(handed), strict=True):
            x = F.interpolate(x, size=kept.shape[2:], mode=self.mode, align_corners=False)
            x = up(torch.cat([x, kept], dim=1))
        answer: Tensor = self.answer(x)
        return answer


def _layer(dim: int, channels: int, out: int, size: int, stride: Any = 1) -> nn.Sequential:
    conv, norm = (nn.Conv2d, nn.BatchNorm2d) if dim == 2 else (nn.Conv3d, nn.BatchNorm3d)
    return nn.Sequential(conv(channels, out, size, stride=stride, padding=size // 2), norm(out), nn.LeakyReLU(0.2))
