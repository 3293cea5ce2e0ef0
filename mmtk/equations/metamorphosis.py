r"""Metamorphosis of one or several channels; without intensity change it is LDDMM.

    I, z    (B, C, *space)   image and residual of every channel
    m       (B, 1, *space)   where intensities may change; None: everywhere
    v       (B, dim, *box)   one velocity for all channels

Gradients are per voxel and ``sigma`` is in mm, so the spacing ``h`` enters twice:
``v_i = -h_i^-2 K (z d_i I)``, once for the gradient, once for the step. Norms carry the cell volume, so that
``lambda`` and ``mu`` mean the same on every grid; at 1 mm they are the published sums.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmtk.equations import stencils
from mmtk.equations.base import Equation, Motion
from mmtk.equations.maps import FullMaps, Maps, NodeMaps
from mmtk.equations.state import State
from mmtk.errors import GridMismatch
from mmtk.fields import Grid, Kernel, Lattice, Smoother
from mmtk.types import Image

__all__ = ["LDDMM", "Metamorphosis"]


class Metamorphosis(Equation):
    r"""Image metamorphosis: the image moves with a flow and changes in intensity where a mask allows it.

    .. math::
        v        &= -K \star \textstyle\sum_c w_c\, z^c \nabla I^c \\
        \dot I^c &= -\langle \nabla I^c, v \rangle + \mu^2 m z^c \\
        \dot z^c &= -\nabla \cdot (z^c\, v) \\
        \dot m   &= -\langle \nabla m, v \rangle

    Without a mask this is the Hamiltonian flow of :meth:`energy`, on the grid and to rounding. A mask that moves
    with the flow has no costate in the published equations, which are kept as published: with one, the energy
    is no longer exactly conserved.

    On a ``lattice`` the kernel is ``P K P^T``: the force is gathered on the nodes by the transpose of the spline
    ``P`` that carries the velocity back, so that it stays self-adjoint.

    Args:
        smoother: The kernel operator ``K`` on the box of velocities: the grid itself, or ``lattice.box``.
        grid: The image's grid.
        mu: Weight of the intensity change, >= 0. At 0 the image only moves (LDDMM); the larger, the less it
            has to.
        lattice: Velocities and maps live on its nodes; on the full grid if None.
        weights: One number >= 0 for each channel, 1 if None. A channel of weight 0 is carried along, but
            neither moves anything nor costs anything.
        periodic: Whether the grid closes on itself; by default it does where the smoother adds no padding
            and there is no lattice.

    References:
        The equations: Maillard's thesis (2023), eq. 5.2 and 5.11; several channels, eq. 6.2. With mask:
        Maillard et al., ISBI 2022, eq. 3.
    """

    def __init__(
        self,
        smoother: Smoother,
        grid: Grid,
        mu: float = 0.0,
        *,
        lattice: Lattice | None = None,
        weights: Sequence[float] | None = None,
        periodic: bool | None = None,
    ) -> None:
        if not mu >= 0:
            raise ValueError(f"mu must be 0 or more, not {mu}: at 0 the image only moves")
        if weights is not None and not all(w >= 0 for w in weights):
            raise ValueError(f"the weight of a channel must be 0 or more, not {list(weights)}")
        if periodic is None:
            periodic = lattice is None and smoother.padding == 0
        self.maps: Maps = FullMaps(grid, periodic=periodic) if lattice is None else NodeMaps(lattice)
        if smoother.grid != self.maps.box:
            raise GridMismatch("smoother", smoother.grid.shape, "velocity", self.maps.box.shape)
        self.smoother, self.grid, self.mu = smoother, grid, float(mu)
        self.weights = None if weights is None else tuple(float(w) for w in weights)

    @classmethod
    def from_kernel(
        cls,
        kernel: Kernel,
        grid: Grid,
        mu: float = 0.0,
        *,
        stride: float | None = None,
        weights: Sequence[float] | None = None,
    ) -> Metamorphosis:
        """Return the equation on a padded box, as images with a border want it.

        Args:
            kernel, grid, mu, weights: See the class.
            stride: Distance of the nodes in mm, at most ``kernel.finest / 2``; None, or one that is no longer
                than the voxels, for the full grid.
        """
        if stride is None or stride <= min(grid.spacing):
            return cls(Smoother(kernel, grid, kernel.reach), grid, mu, weights=weights, periodic=False)
        lattice = Lattice(grid, stride, kernel.reach)
        return cls(Smoother(kernel, lattice.box), grid, mu, lattice=lattice, weights=weights)

    def force(self, image: Image, momentum: Image) -> Tensor:
        fine = stencils.force(self.weighted(momentum), image, periodic=self.periodic)
        return self.maps.per_spacing(self.maps.gather(fine))

    def respond(self, force: Tensor) -> Motion:
        volume = self.grid.cell_volume
        scale = -volume / self.maps.box.cell_volume / self.maps.box.per_axis(force) ** 2
        velocity = scale * self.smoother.smooth(force)
        return Motion(velocity, -volume * (force * velocity).flatten(1).sum(1))

    def rate(self, state: State) -> State:
        motion = self.motion(state.image, state.momentum)
        v = self.maps.displacement(motion.velocity)
        image = -self._slope(state.image, v)
        if self.mu > 0:
            image = image + self.appearance(state.momentum, state.mask)
        flux = [
            stencils.divergence(state.momentum[:, c : c + 1] * v, periodic=self.periodic)
            for c in range(state.momentum.shape[1])
        ]
        mask = None if state.mask is None else -self._slope(state.mask, v)
        residual = self.residual(state.momentum, state.mask)
        return State(image, -torch.cat(flux, dim=1), mask, motion.kinetic, residual)

    def _slope(self, f: Tensor, v: Tensor) -> Tensor:
        """``<grad f, v>`` for every channel."""
        parts = [
            stencils.partial(f, axis, periodic=self.periodic) * v[:, axis : axis + 1] for axis in range(v.shape[1])
        ]
        return torch.stack(parts).sum(0)

    def weighted(self, momentum: Image) -> Image:
        if self.weights is None:
            return momentum
        if len(self.weights) != momentum.shape[1]:
            raise ValueError(f"{momentum.shape[1]} channels need as many weights, not {self.weights}")
        return momentum * momentum.new_tensor(self.weights).view(1, -1, *[1] * (momentum.ndim - 2))


class LDDMM(Metamorphosis):
    """Metamorphosis with ``mu = 0``: the image moves and keeps its intensities.

    Args:
        smoother, grid, lattice, weights, periodic: See :class:`Metamorphosis`.
        mu: 0, or a ValueError: intensities that change are :class:`Metamorphosis`.
    """

    def __init__(
        self,
        smoother: Smoother,
        grid: Grid,
        mu: float = 0.0,
        *,
        lattice: Lattice | None = None,
        weights: Sequence[float] | None = None,
        periodic: bool | None = None,
    ) -> None:
        if mu != 0:
            raise ValueError(f"LDDMM changes no intensity, so mu is 0, not {mu}; to change it, use Metamorphosis")
        super().__init__(smoother, grid, 0.0, lattice=lattice, weights=weights, periodic=periodic)
