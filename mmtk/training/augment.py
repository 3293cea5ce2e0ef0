"""Pairs as they might have been seen, too: turned, shifted, scaled, mirrored, brighter or darker.

Both images of a pair are moved alike, in mm about the middle of the grid, so that the deformation between them is
another one, of the same kind; their masks go along. Intensities change on each image by itself, by an exponent.
What is drawn comes from torch's generator, which the engine seeds for every epoch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mmtk.fields import Grid, identity, sample
from mmtk.learned import Batch

__all__ = ["AMOUNTS", "Amount", "augmented"]


@dataclass(frozen=True)
class Amount:
    """How far each thing may go, uniformly on either side of nothing.

    Attributes:
        angle: Degrees, in the plane of every two axes.
        shift: Shares of the field of view.
        scale: Logarithm.
        gamma: Logarithm of the exponent of intensities, which are meant to be in [0, 1].
        mirror: Whether axes may be mirrored, each with a chance of a half.
    """

    angle: float
    shift: float
    scale: float
    gamma: float
    mirror: bool


#: By the names that a description knows.
AMOUNTS = {
    "small": Amount(angle=15, shift=0.05, scale=0.1, gamma=0.2, mirror=False),
    "large": Amount(angle=180, shift=0.08, scale=0.15, gamma=0.3, mirror=True),
}


@torch.no_grad()
def augmented(batch: Batch, grid: Grid, amount: Amount) -> Batch:
    """Return a batch of as many pairs, each changed in another way.

    In 3-D the large angles are those of the first two axes alone, the others are at most 15 degrees: slices are
    often thick. Beyond the border images go on as they end there; a true displacement is left out.

    Args:
        batch: On the grid.
        grid: For millimetres.
        amount: See :data:`AMOUNTS`.
    """
    like, dim = batch.fixed, grid.dim
    spacing = torch.tensor(grid.spacing, dtype=like.dtype, device=like.device)
    middle = torch.tensor([(n - 1) / 2 for n in grid.shape], dtype=like.dtype, device=like.device)
    extent = spacing * torch.tensor(grid.shape, dtype=like.dtype, device=like.device)
    linear = _linear(len(batch), dim, amount, like)
    shift = amount.shift * extent * _drawn(len(batch), dim, like=like)
    at = (identity(grid.shape, dtype=like.dtype, device=like.device)[0].movedim(0, -1) - middle) * spacing
    moved = torch.einsum("bij,...j->b...i", linear, at) + shift.view(-1, *[1] * dim, dim)
    points = (moved / spacing + middle).movedim(-1, 1)

    def image(tensor: Tensor) -> Tensor:
        exponent = torch.exp(amount.gamma * _drawn(len(batch), 1, like=like)).view(-1, *[1] * (dim + 1))
        placed = sample(tensor, points)
        return torch.where(placed > 0, placed.clamp_min(1e-6) ** exponent, placed)

    masks = {
        name: sample(mask, points)
        for name, mask in (("mask", batch.mask), ("fixed_mask", batch.fixed_mask))
        if mask is not None
    }
    return replace(batch, moving=image(batch.moving), fixed=image(batch.fixed), displacement=None, **masks)


def _linear(count: int, dim: int, amount: Amount, like: Tensor) -> Tensor:
    """Return ``(count, dim, dim)`` rotations, scaled and perhaps mirrored."""
    matrix = torch.eye(dim, dtype=like.dtype, device=like.device).repeat(count, 1, 1)
    for first in range(dim):
        for second in range(first + 1, dim):
            most = amount.angle if second == 1 else min(amount.angle, 15)
            angle = math.radians(most) * _drawn(count, 1, like=like)[:, 0]
            turn = torch.eye(dim, dtype=like.dtype, device=like.device).repeat(count, 1, 1)
            turn[:, first, first] = turn[:, second, second] = angle.cos()
            turn[:, first, second], turn[:, second, first] = -angle.sin(), angle.sin()
            matrix = turn @ matrix
    if amount.mirror:
        signs = torch.where(_drawn(count, dim, like=like) < 0, -1.0, 1.0).to(like)
        matrix = matrix * signs[:, None]
    return matrix * torch.exp(amount.scale * _drawn(count, 1, like=like))[..., None]


def _drawn(*shape: int, like: Tensor) -> Tensor:
    """Return numbers in [-1, 1]; drawn on the CPU, so that every device sees the same."""
    return (2 * torch.rand(shape) - 1).to(like)
