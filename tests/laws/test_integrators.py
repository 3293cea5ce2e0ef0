"""Laws of shooting that hold for every equation and every scheme; float64 throughout."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mmtk.equations import LDDMM, Metamorphosis, State
from mmtk.fields import Gaussian, Grid, Lattice, Smoother, compose, folds
from mmtk.integrators import Context, Eulerian, Integrator, Lagrangian, SemiLagrangian, Sharp
from mmtk.shooting import shoot, shoot_energy

SCHEMES = [Eulerian, SemiLagrangian, Sharp, Lagrangian]
ALL = pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: s.__name__)


def waves(n: int, *, seed: int, dim: int = 2, modes: int = 2) -> Tensor:
    """A smooth periodic function of the unit box, sampled on n^dim points: the same function for every n."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.arange(n, dtype=torch.float64) / n
    axes = torch.meshgrid(*[x] * dim, indexing="ij")
    total = torch.zeros_like(axes[0])
    for _ in range(4):
        k = torch.randint(-modes, modes + 1, (dim,), generator=draw)
        amplitude, phase = torch.rand(2, generator=draw, dtype=torch.float64)
        total = total + amplitude * torch.cos(2 * math.pi * (sum(a * b for a, b in zip(k, axes, strict=True)) + phase))
    return total[None, None]


def periodic(n: int, mu: float, *, length: float = 32.0, dim: int = 2) -> Metamorphosis:
    """The equation on a periodic box ``length`` mm wide, with a kernel of 4 mm."""
    grid = Grid((n,) * dim, (length / n,) * dim)
    return Metamorphosis(Smoother(Gaussian(4.0), grid), grid, mu)


def problem(n: int, scale: float = 0.4) -> tuple[Tensor, Tensor]:
    return waves(n, seed=1), scale * waves(n, seed=2)


@pytest.mark.parametrize("periodic_grid", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mu", [0.0, 0.1, 1.0])
def test_the_rate_is_the_hamiltonian_flow_of_the_energy(mu: float, channels: int, periodic_grid: bool) -> None:
    torch.manual_seed(0)
    grid = Grid((9, 8, 7), (1.0, 1.3, 0.7))
    smoother = Smoother(Gaussian(1.5), grid, 0.0 if periodic_grid else 5.0)
    equation = Metamorphosis(smoother, grid, mu)
    image, momentum = torch.randn(2, 2, channels, *grid.shape, dtype=torch.float64).requires_grad_()
    state = State.start(image, momentum)
    by_image, by_momentum = torch.autograd.grad(equation.energy(state), (image, momentum))
    rate = equation.rate(state)
    torch.testing.assert_close(rate.image * grid.cell_volume, by_momentum)
    torch.testing.assert_close(rate.momentum * grid.cell_volume, -by_image)
