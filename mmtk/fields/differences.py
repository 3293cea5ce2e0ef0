"""Gradient and divergence on a periodic grid, as each other's negative transpose; Jacobian of a map.

The shooting equations are Hamiltonian only while ``<grad f, v> == -<f, div v>`` holds for the discrete
operators, so the two live in one file and are tested as a pair. Everything here is per voxel; spacing enters
where millimeters are spoken of.

    f    (B, C, *space)       intensity
    v    (B, dim, *space)     a vector field
    u    (B, dim, *space)     displacement in voxels of the map x -> x + u(x)

Differences are two rolls and a subtraction: as a convolution, the backward pass of the stencil costs more than
all the rest of a time step.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["divergence", "gradient", "jacobian", "jacobian_determinant"]


def _central(f: Tensor, axis: int) -> Tensor:
    return 0.5 * (torch.roll(f, -1, axis) - torch.roll(f, 1, axis))


def gradient(f: Tensor) -> Tensor:
    """Return the central differences of a periodic scalar field.

    Args:
        f: ``(B, 1, *space)``.

    Returns:
        ``(B, dim, *space)``, per voxel.
    """
    return torch.cat([_central(f, axis) for axis in range(2, f.ndim)], dim=1)


def divergence(v: Tensor) -> Tensor:
    """Return the divergence of a periodic vector field: exactly minus the transpose of :func:`gradient`.

    Args:
        v: ``(B, dim, *space)``.

    Returns:
        ``(B, 1, *space)``, per voxel.
    """
    terms = [_central(v[:, axis : axis + 1], axis + 2) for axis in range(v.shape[1])]
    return torch.stack(terms).sum(dim=0)


def jacobian(u: Tensor) -> Tensor:
    """Return the Jacobian matrix of ``x -> x + u(x)``, by central differences, one-sided at the border.

    Args:
        u: ``(B, dim, *space)``, at least two voxels along each axis.

    Returns:
        ``(B, dim, dim, *space)``: entry ``[:, a, b]`` is the derivative of component ``a`` along axis ``b``.
    """
    dim = u.shape[1]
    columns = [torch.gradient(u, dim=axis + 2)[0] for axis in range(dim)]
    eye = torch.eye(dim, dtype=u.dtype, device=u.device).view(1, dim, dim, *[1] * dim)
    return torch.stack(columns, dim=2) + eye


def jacobian_determinant(u: Tensor) -> Tensor:
    """Return ``det D(x + u(x))``: above 1 where the map stretches, at or below 0 where it folds.

    It has no unit: in voxels or in millimeters, on any grid, the determinant of the map is the same number.

    Args:
        u: ``(B, dim, *space)``, voxels, dim 2 or 3.

    Returns:
        ``(B, 1, *space)``.
    """
    dim = u.shape[1]
    rows = [[torch.gradient(u[:, a], dim=b + 1)[0].add_(float(a == b)) for b in range(dim)] for a in range(dim)]
    if dim == 2:
        return (rows[0][0] * rows[1][1] - rows[0][1] * rows[1][0])[:, None]
    (a, b, c), (d, e, f), (g, h, i) = rows
    return (a * (e * i - f * h) + b * (f * g - d * i) + c * (d * h - e * g))[:, None]
