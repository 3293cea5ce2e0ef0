r"""The two transformations that the network predicts, and how they are put together.

    slopes   (B, dim, *space)      Phi, in [0, 2]: how far apart neighbors along axis d lie in the moving image
    matrix   (B, dim, dim + 1)     A, on coordinates that run from -1 to 1 along each axis
    u        (B, dim, *space)      displacement in voxels: the map is ``x -> x + u(x)``

The cumulative sum of non-negative slopes makes every coordinate grow along its own axis, and no more: a determinant
holds the slopes across the axes, too, which nothing bounds. With :math:`G_d(p) = \sum_{q \le p} \Phi_d(q)` in 2-D,

.. math:: \det DG = \Phi_x \Phi_y - \partial_y G_x \, \partial_x G_y

may be of any sign. The paper's "avoid self-crossings" holds along lines of the grid and not of the map.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmtk.fields import compose, identity
from mmtk.types import Displacement

__all__ = ["affine_displacement", "combined", "identity_matrix", "integrated", "slopes_of"]


def slopes_of(answer: Tensor) -> Tensor:
    """Return ``2 sigmoid(answer)``: slopes in [0, 2], 1 where the network answers 0."""
    return 2 * torch.sigmoid(answer)


def integrated(slopes: Tensor) -> Displacement:
    """Return the displacement of the map whose coordinate d is the cumulative sum of slopes d along axis d.

    Slopes of 1 are the identity. A coordinate never falls along its own axis, and grows where its slope is above 0.

    Args:
        slopes: ``(B, dim, *space)``, not negative.
    """
    return torch.stack([(slopes[:, d] - 1).cumsum(d + 1) for d in range(slopes.shape[1])], dim=1)


def identity_matrix(dim: int, like: Tensor) -> Tensor:
    """Return the affine identity ``(dim, dim + 1)``."""
    return torch.eye(dim, dim + 1, dtype=like.dtype, device=like.device)


def affine_displacement(matrix: Tensor, shape: tuple[int, ...]) -> Displacement:
    """Return the displacement in voxels of an affine map of coordinates in [-1, 1].

    Args:
        matrix: ``(B, dim, dim + 1)``.
        shape: Of the grid; its first voxel along an axis lies at -1, its last at 1.

    Returns:
        ``(B, dim, *shape)``.
    """
    dim = len(shape)
    half = matrix.new_tensor([max(n - 1, 1) / 2 for n in shape])
    x = identity(shape, dtype=matrix.dtype, device=matrix.device)[0].flatten(1)
    units = (x - matrix.new_tensor([(n - 1) / 2 for n in shape])[:, None]) / half[:, None]
    change = matrix - identity_matrix(dim, matrix)
    moved = torch.einsum("bij,jn->bin", change[:, :, :dim], units) + change[:, :, dim:]
    return (half[:, None] * moved).view(-1, dim, *shape)


def combined(deformable: Displacement, linear: Displacement) -> Displacement:
    """Return the displacement of eq. 3: :math:`W(W(S, G_N), G_A)`, the image pulled back by one map, then the other.

    A voxel goes through the linear map first and through the deformable one from there; the image is resampled once.
    """
    return compose(deformable, linear)
