r"""A start for the optimization: the white coefficients whose flow is nearest to a map that somebody else found.

.. math:: \min_w \; \tfrac{1}{2} \| \exp(K^{1/2} w) - \psi \|_2^2 + \epsilon \|w\|^2

on the nodes, where it costs little. A flow of one stationary velocity cannot be every map, and the kernel smooths: what
comes out is near the map, not the map.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmtk.fields import sample
from mmtk.optimize import lbfgs
from mmtk_metamorphosis.white import WhiteFlow

__all__ = ["nearest_flow"]

#: Evaluations of the misfit, and the price of the coefficients against it.
EVALUATIONS, EPSILON = 30, 1e-4


def nearest_flow(flow: WhiteFlow, displacement: Tensor) -> Tensor:
    """Return flat white coefficients whose flow is near a pull-back.

    Args:
        flow: Of one velocity; its squarings are raised if the fit needs more.
        displacement: ``(1, dim, *space)``, voxels of the flow's grid.
    """
    lattice = flow.lattice
    per_node = lattice.grid.per_axis(displacement) / lattice.spacing
    # Beyond the image nothing is asked for: the kernel lets the flow fade there.
    points = lattice.points(displacement)
    target = sample(displacement, points) * per_node
    inside = torch.ones_like(target[:, :1])
    for axis, n in enumerate(lattice.grid.shape):
        inside = inside * ((points[:, axis] >= 0) & (points[:, axis] <= n - 1)).to(target)[:, None]
    cells = lattice.box.cell_volume * lattice.spacing**2  # node spacings squared to mm squared

    def objective(flat: Tensor) -> tuple[float, Tensor]:
        white = flat.view(flow.shape).detach().requires_grad_(True)
        misfit = 0.5 * cells * (inside * (flow.displacement(white) - target).square()).sum()
        energy = misfit + EPSILON * flow.norm(white)
        (gradient,) = torch.autograd.grad(energy, white)
        return float(energy.detach()), gradient.reshape(-1)

    def first_step(gradient: Tensor) -> float:
        speed = flow.velocity(gradient.view(flow.shape)).abs().amax()
        return float(gradient.norm() * 0.5 / speed.clamp_min(1e-30))

    unknowns = torch.zeros(flow.shape).to(displacement).flatten()
    with torch.enable_grad():
        for _ in range(2):  # a second time where the flow turned out steeper than its squarings can follow
            found = lbfgs(objective, unknowns, EVALUATIONS, first_step=first_step)
            unknowns = found.unknowns.detach()
            needed = flow.steepness(unknowns.view(flow.shape))
            if needed <= flow.squarings:
                break
            flow.squarings = needed
    return unknowns
