"""Cubic B-splines: weights, the prefilter that makes them interpolate, and dense matrices per axis.

A spline with coefficients ``c`` has the value ``sum_j c_j B(x - j)``. To pass through given samples the
coefficients are the samples filtered by the inverse of ``(1, 4, 1) / 6``; both the filter and the evaluation
are linear, so on a small axis one dense matrix does both, and its transpose is the exact adjoint.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

__all__ = ["cubic_weights", "derivative_matrix", "interpolation_matrix", "prefilter"]


def cubic_weights(t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the weights of the nodes at -1, 0, 1, 2 for a position ``t`` in [0, 1) behind node 0."""
    s = 1 - t
    return s**3 / 6, 2 / 3 - t**2 * (2 - t) / 2, 2 / 3 - s**2 * (2 - s) / 2, t**3 / 6


@functools.lru_cache(maxsize=64)
def _inverse(n: int, periodic: bool) -> Tensor:
    """The matrix from samples to coefficients on an axis of n nodes, periodic or mirrored, in float64."""
    if n == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    matrix = torch.zeros(n, n, dtype=torch.float64)
    for i in range(n):
        for offset, weight in ((-1, 1 / 6), (0, 4 / 6), (1, 1 / 6)):
            j = (i + offset) % n if periodic else (n - 1) - abs((n - 1) - abs(i + offset))
            matrix[i, j] += weight
    return torch.linalg.inv(matrix)


def prefilter(image: Tensor, *, periodic: bool = False) -> Tensor:
    """Return the coefficients of the cubic spline through the samples, ``(B, C, *space)`` to the same shape."""
    for axis in range(2, image.ndim):
        matrix = _inverse(image.shape[axis], periodic).to(image)
        image = torch.movedim(torch.movedim(image, axis, -1) @ matrix.t(), -1, axis)
    return image


def interpolation_matrix(positions: Tensor, nodes: int) -> Tensor:
    """Return the matrix that evaluates a periodic interpolating cubic spline at positions.

    Args:
        positions: ``(n,)``, in units of the node spacing, any real numbers.
        nodes: Nodes in one period.

    Returns:
        ``(n, nodes)``: from values at the nodes to values at the positions.
    """
    positions = positions.double()
    base = torch.floor(positions)
    rows = torch.arange(len(positions))
    matrix = torch.zeros(len(positions), nodes, dtype=torch.float64)
    for offset, weight in zip((-1, 0, 1, 2), cubic_weights(positions - base), strict=True):
        matrix.index_put_((rows, (base.long() + offset) % nodes), weight, accumulate=True)
    return matrix @ _inverse(nodes, True)


def derivative_matrix(nodes: int, order: int) -> Tensor:
    """Return the matrix from values to the first or second derivative of their periodic cubic spline at the nodes.

    Args:
        nodes: Nodes in one period; the derivative is per node spacing.
        order: 1 or 2.
    """
    eye = torch.eye(nodes, dtype=torch.float64)
    ahead, behind = torch.roll(eye, 1, dims=1), torch.roll(eye, -1, dims=1)
    stencil = 0.5 * (ahead - behind) if order == 1 else ahead - 2 * eye + behind
    return stencil @ _inverse(nodes, True)
