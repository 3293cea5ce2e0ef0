r"""Shapes as vectors: the logarithm of a deformation on a control lattice, and the norm that shapes are compared by.

.. math::
    \varphi = \exp(v), \qquad \|v\|_V^2 = \langle v, K^{-1} v \rangle = \|w\|^2, \quad v = K^{1/2} w, \qquad
    \hat K(f) = \left(1 + (2 \pi \ell |f|)^2\right)^{-2}

:math:`v` is the stationary velocity whose flow is the deformation, whatever method found it; K is the Sobolev kernel of
``subject=another``, the regularizer of registrations of several people. Means are taken of :math:`v` (log-Euclidean
means), principal modes in the plain inner product of :math:`w`, which is that of V.

    displacement   (1, dim, *space)   voxels of the template's grid: ``x -> x + u(x)``, without the affine
    velocity       (1, dim, *nodes)   node spacings per unit time
    white          (dim * nodes,)     mm times mm^(dim/2), flat: its squared length is the squared norm in V
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from mmtk.fields import Grid, Lattice, Smoother, Sobolev, identity, sample, squarings_needed

__all__ = ["ShapeSpace", "mean_stretch", "stretch_of", "voxels_through"]

#: Mean step that is left when a logarithm counts as found, in node spacings; the most steps; and what each must gain.
FOUND, MOST_STEPS, GAIN = 1e-5, 12, 0.8

#: Squarings of every flow, at least.
SQUARINGS = 4

#: Order of the Sobolev kernel.
ORDER = 2.0


class ShapeSpace:
    """The lattice and the norm of a template.

    Args:
        grid: The template's.
        nodes: Distance of the nodes, mm; no less than 2.5 voxels.
        length: Of the kernel, mm.
    """

    def __init__(self, grid: Grid, nodes: float, length: float) -> None:
        kernel = Sobolev(length, ORDER)
        spacing = max(nodes, 2.5 * min(grid.spacing))
        self.lattice = Lattice(grid, spacing, kernel.reach / 2)
        self.root = Smoother(kernel, self.lattice.box).root
        self.unroot = Smoother(Sobolev(length, -ORDER), self.lattice.box).root
        self.unit = self.lattice.spacing * math.sqrt(self.lattice.box.cell_volume)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a velocity: ``(1, dim, *nodes)``."""
        return (1, self.lattice.grid.dim, *self.lattice.nodes)

    @property
    def size(self) -> int:
        """Numbers in a row of white coefficients."""
        return math.prod(self.shape)

    def logarithm(self, displacement: Tensor) -> Tensor:
        r"""Return the velocity whose flow is a deformation.

        By :math:`v \leftarrow v + (\exp(-v) \circ \varphi - \mathrm{id})`, the first term of the formula of Baker,
        Campbell and Hausdorff. Beyond the image nothing is known, and the deformation is let fade.
        """
        target = self._on_nodes(displacement.float())
        velocity, last = torch.zeros_like(target), math.inf
        for _ in range(MOST_STEPS):
            step = self.lattice.compose(self._flow(-velocity), target)
            left = float(step.abs().mean())
            if left > GAIN * last:  # what is left is finer than the nodes
                break
            velocity, last = velocity + step, left
            if left < FOUND:
                break
        return velocity.double()

    def displacement(self, velocity: Tensor) -> Tensor:
        """Return the flow of a velocity at time 1, ``(1, dim, *space)``, voxels."""
        return self.lattice.in_voxels(self.lattice.prolong(self._flow(velocity)))

    def white(self, velocity: Tensor) -> np.ndarray:
        """Return the coefficients of a velocity, flat."""
        return (self.unroot(velocity) * self.unit).reshape(-1).numpy()

    def velocity(self, white: np.ndarray) -> Tensor:
        """Return the velocity of flat coefficients."""
        return self.root(torch.from_numpy(np.asarray(white, dtype=np.float64)).reshape(self.shape)) / self.unit

    def on_grid(self, velocity: Tensor) -> Tensor:
        """Return a velocity at the voxels, ``(1, dim, *space)``, voxels per unit time."""
        return self.lattice.in_voxels(self.lattice.prolong(velocity))

    def _flow(self, velocity: Tensor) -> Tensor:
        return self.lattice.exponential(velocity, max(SQUARINGS, squarings_needed(velocity)))

    def _on_nodes(self, displacement: Tensor) -> Tensor:
        """Return a displacement at the nodes, in node spacings; it fades over half a period's padding."""
        lattice = self.lattice
        points = lattice.points(displacement)
        values = sample(displacement, points) * (lattice.grid.per_axis(displacement) / lattice.spacing)
        for axis, (n, h) in enumerate(zip(lattice.grid.shape, lattice.grid.spacing, strict=True)):
            beyond = torch.maximum(-points[:, axis], points[:, axis] - (n - 1)).clamp_min(0) * h
            share = (beyond / max(float(beyond.max()), lattice.spacing)).clamp(0, 1)
            values = values * (0.5 + 0.5 * torch.cos(math.pi * share))[:, None]
        return values


def stretch_of(matrix: np.ndarray, dim: int) -> np.ndarray:
    """Return the logarithm of the right stretch of an affine, ``(dim, dim)``, symmetric: its size without its pose.

    Args:
        matrix: 4x4; ``R S`` with a rotation R and a symmetric S, which acts on the template first.
    """
    linear = np.asarray(matrix, dtype=np.float64)[:dim, :dim]
    values, vectors = np.linalg.eigh(linear.T @ linear)
    return (vectors * (0.5 * np.log(values))) @ vectors.T


def mean_stretch(logarithm: np.ndarray, center: np.ndarray, *, back: bool = False) -> np.ndarray:
    """Return the 4x4 stretch about a point, or its inverse, of a mean of :func:`stretch_of`."""
    values, vectors = np.linalg.eigh(-logarithm if back else logarithm)
    dim = len(values)
    matrix = np.eye(4)
    matrix[:dim, :dim] = (vectors * np.exp(values)) @ vectors.T
    matrix[:dim, 3] = center[:dim] - matrix[:dim, :dim] @ center[:dim]
    return matrix


def voxels_through(shape: tuple[int, ...], displacement: Tensor, matrix: np.ndarray) -> np.ndarray:
    """Return where voxels lie after ``x -> matrix (x + u(x))``, ``(dim, *shape)``, voxels of the other grid."""
    dim = len(shape)
    points = (identity(shape, dtype=displacement.dtype) + displacement)[0].numpy()
    return np.tensordot(matrix[:dim, :dim], points, axes=1) + matrix[:dim, 3].reshape(dim, *[1] * dim)
