"""The two norms of the metamorphosis energy: of the velocity in V, of the residual under the mask."""

from __future__ import annotations

from mmtk.fields import Grid
from mmtk.regularizers.base import Deformation, Regularizer
from mmtk.types import Image, Mask, Scalar

__all__ = ["ResidualNorm", "VelocityNorm", "norm_of_momentum", "norm_of_white"]


class VelocityNorm(Regularizer):
    """``||v||_V^2``, integrated over time: what a diffeomorphism costs (thesis eq. 5.4).

    Only the method knows how its velocity is parametrized, and so gives the number itself: :func:`norm_of_white`
    and :func:`norm_of_momentum` compute it.
    """

    needs = ("velocity_norm",)

    def energy(self, deformation: Deformation) -> Scalar:
        assert deformation.velocity_norm is not None
        return deformation.velocity_norm


class ResidualNorm(Regularizer):
    """``||sqrt(m) r||^2``, the integral of ``m r^2`` over the grid and its channels, in intensity^2 mm^dim.

    Without a mask, ``m`` is 1 everywhere.
    """

    needs = ("residual",)

    def energy(self, deformation: Deformation) -> Scalar:
        assert deformation.residual is not None
        return residual_norm(deformation.residual, deformation.mask, deformation.grid)


def residual_norm(residual: Image, mask: Mask | None, grid: Grid) -> Scalar:
    """Return the integral of ``m r^2``; see :class:`ResidualNorm`."""
    square = residual.square()
    return (square if mask is None else mask * square).sum() * grid.cell_volume


def norm_of_white(coefficients: Image, nodes: Grid) -> Scalar:
    """Return ``||v||_V^2`` for ``v = K^(1/2) w``: the plain integral of ``|w|^2``.

    Args:
        coefficients: ``w``, ``(B, dim, *nodes)``, in mm per unit time. For a path of T velocities, each over a
            time of 1/T, give the mean over them.
        nodes: The grid that they live on.
    """
    return coefficients.square().sum() * nodes.cell_volume


def norm_of_momentum(momentum: Image, velocity: Image, grid: Grid) -> Scalar:
    """Return ``||v||_V^2 = <p, K p>``, the integral of the momentum against the velocity ``v = K p`` it drives.

    Args:
        momentum: ``p``, ``(B, dim, *space)``, per voxel, as ``-z grad I`` with differences per voxel.
        velocity: ``v``, of the same shape, voxels per unit time: with ``p`` per voxel,
            ``v_i = h_i^-2 K * p_i``. Voxels cancel in the product.
        grid: On which both live.
    """
    return (momentum * velocity).sum() * grid.cell_volume
