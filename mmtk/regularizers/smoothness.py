"""Energies of a displacement's derivatives, by differences of neighbors.

Forward and second differences see every oscillation; central first differences would not see a field that
alternates from voxel to voxel. A difference exists at fewer points than there are voxels: each integral is the
mean over those points times the volume of the grid, so that the value does not depend on the resolution.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmtk.errors import ConfigError
from mmtk.fields import Grid
from mmtk.regularizers.base import Deformation, Regularizer
from mmtk.types import Displacement, Scalar

__all__ = ["Bending", "Diffusion"]


class Diffusion(Regularizer):
    """The integral of ``|Du|^2``, ``u`` in mm, all components by all axes; in mm^dim.

    0 for a translation. Forward differences.
    """

    needs = ("displacement",)

    def energy(self, deformation: Deformation) -> Scalar:
        assert deformation.displacement is not None
        return diffusion(deformation.displacement, deformation.grid)


class Bending(Regularizer):
    """The thin-plate integral of ``sum_abc (d^2 u_c / dx_a dx_b)^2``, ``u`` and ``x`` in mm; in mm^(dim - 2).

    0 for an affine map. Second differences ``1 -2 1`` along an axis, four-point differences across two, at the
    voxels off the border; mixed derivatives count twice, as ``ab`` and ``ba``.
    """

    needs = ("displacement",)

    def energy(self, deformation: Deformation) -> Scalar:
        assert deformation.displacement is not None
        return bending(deformation.displacement, deformation.grid)


def diffusion(u: Displacement, grid: Grid) -> Scalar:
    """Return the diffusion energy of a displacement in voxels; see :class:`Diffusion`.

    Raises:
        ConfigError: If an axis has fewer than 2 voxels.
    """
    _require(grid, 2, "Diffusion")
    u = u * grid.per_axis(u)
    terms = [
        _mean(torch.diff(u, dim=axis).square()) / spacing**2 for axis, spacing in enumerate(grid.spacing, start=2)
    ]
    return torch.stack(terms).sum() * (grid.size * grid.cell_volume)


def bending(u: Displacement, grid: Grid) -> Scalar:
    """Return the bending energy of a displacement in voxels; see :class:`Bending`.

    Raises:
        ConfigError: If an axis has fewer than 3 voxels.
    """
    _require(grid, 3, "Bending")
    u = u * grid.per_axis(u)
    terms = []
    for a, spacing_a in enumerate(grid.spacing, start=2):
        across = _inner(u, [axis for axis in range(2, u.ndim) if axis != a])
        terms.append(_mean(torch.diff(across, n=2, dim=a).square()) / spacing_a**4)
        for b, spacing_b in enumerate(grid.spacing[a - 1 :], start=a + 1):
            across = _inner(u, [axis for axis in range(2, u.ndim) if axis not in (a, b)])
            mixed = _wide(_wide(across, a), b) / 4
            terms.append(2 * _mean(mixed.square()) / (spacing_a * spacing_b) ** 2)
    return torch.stack(terms).sum() * (grid.size * grid.cell_volume)


def _wide(f: Tensor, axis: int) -> Tensor:
    """``f(x + 1) - f(x - 1)`` at the voxels off the border of one axis."""
    n = f.shape[axis] - 2
    return f.narrow(axis, 2, n) - f.narrow(axis, 0, n)


def _inner(f: Tensor, axes: list[int]) -> Tensor:
    for axis in axes:
        f = f.narrow(axis, 1, f.shape[axis] - 2)
    return f


def _mean(squares: Tensor) -> Tensor:
    """The mean over points, summed over batch and components."""
    return squares.sum() / squares[0, 0].numel()


def _require(grid: Grid, least: int, name: str) -> None:
    if min(grid.shape) < least:
        raise ConfigError(f"{name} needs at least {least} voxels along each axis, not a grid of {grid.shape}")
