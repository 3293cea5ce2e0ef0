"""The loop, and what the schemes refuse."""

from __future__ import annotations

import pytest
import torch

from mmtk.equations import Metamorphosis
from mmtk.errors import ConfigError, GridMismatch
from mmtk.fields import Gaussian, Grid
from mmtk.integrators import Context, Eulerian, Integrator, Lagrangian, Particles, SemiLagrangian, Sharp
from mmtk.shooting import shoot, shoot_energy

GRID = Grid((12, 10), (1.0, 1.0))
SCHEMES = [Eulerian(), SemiLagrangian(), Sharp(), Lagrangian(), Lagrangian(order=2), Particles()]
every_scheme = pytest.mark.parametrize("scheme", SCHEMES, ids=repr)


@pytest.fixture
def equation() -> Metamorphosis:
    return Metamorphosis.from_kernel(Gaussian(3.0), GRID, 0.2, stride=1.5)


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    image, momentum = torch.rand(2, 1, 1, *GRID.shape, dtype=torch.float64)
    return image, momentum - 0.5


@every_scheme
def test_the_path_begins_at_the_image_and_has_one_state_more_than_steps(
    scheme: Integrator, equation: Metamorphosis, pair: tuple[torch.Tensor, torch.Tensor]
) -> None:
    image, momentum = pair
    mask = torch.rand(1, 1, *GRID.shape, dtype=torch.float64)
    states = list(shoot(equation, scheme, scheme.begin(equation, image, momentum, Context(mask=mask)), 3))
    assert len(states) == 4
    for given, shown in zip(
        (image, momentum, mask), (states[0].image, states[0].momentum, states[0].mask), strict=True
    ):
        assert torch.equal(given, shown)
    assert [float(s.kinetic) for s in states] == sorted(float(s.kinetic) for s in states)
    assert float(states[0].kinetic) == float(states[0].residual) == 0


@every_scheme
def test_the_cost_of_a_path_is_the_sum_over_its_steps(
    scheme: Integrator, equation: Metamorphosis, pair: tuple[torch.Tensor, torch.Tensor]
) -> None:
    states = list(shoot(equation, scheme, scheme.begin(equation, *pair), 4))
    kinetic = [float(equation.motion(s.image, s.momentum).kinetic) for s in states[:-1]]
    residual = [float(equation.residual(s.momentum, s.mask)) for s in states[:-1]]
    accuracy = 1e-9 if scheme.order == 1 else 0.02
    assert float(states[-1].kinetic) == pytest.approx(sum(kinetic) / 4, rel=accuracy)
    assert float(states[-1].residual) == pytest.approx(sum(residual) / 4, rel=accuracy)


def test_a_mask_of_ones_is_no_mask(equation: Metamorphosis, pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    ones = torch.ones(1, 1, *GRID.shape, dtype=torch.float64)
    for scheme in SCHEMES:
        with_mask = shoot_energy(equation, scheme, *pair, 3, Context(mask=ones))
        without = shoot_energy(equation, scheme, *pair, 3)
        torch.testing.assert_close(with_mask.image, without.image)
        torch.testing.assert_close(with_mask.residual, without.residual)
        assert without.state.mask is None


@pytest.mark.parametrize("scheme", [Eulerian(), SemiLagrangian()], ids=repr)
def test_maps_that_were_not_asked_for_are_not_there(
    scheme: Integrator, equation: Metamorphosis, pair: tuple[torch.Tensor, torch.Tensor]
) -> None:
    with pytest.raises(ConfigError, match=r"Context\(back=True\)"):
        _ = shoot_energy(equation, scheme, *pair, 2).state.displacement
    back = shoot_energy(equation, scheme, *pair, 2, Context(back=True)).state
    assert back.displacement.shape == (1, 2, *GRID.shape)
    with pytest.raises(ConfigError, match=r"Context\(maps=True\)"):
        _ = back.inverse


@every_scheme
def test_what_does_not_lie_on_the_grid_is_refused(
    scheme: Integrator, equation: Metamorphosis, pair: tuple[torch.Tensor, torch.Tensor]
) -> None:
    image, momentum = pair
    with pytest.raises(GridMismatch, match="`image` has shape"):
        scheme.begin(equation, image[..., 1:], momentum[..., 1:])
    with pytest.raises(GridMismatch, match="`mask` has shape"):
        scheme.begin(equation, image, momentum, Context(mask=torch.ones(1, 1, 3, 3)))
    with pytest.raises(GridMismatch, match="`momentum` has shape"):
        scheme.begin(equation, image, momentum.repeat(1, 2, 1, 1))


def test_wrong_numbers_are_refused(equation: Metamorphosis, pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    with pytest.raises(ValueError, match="at least one time step, not 0"):
        shoot_energy(equation, Lagrangian(), *pair, 0)
    with pytest.raises(ValueError, match="1 or 2, not 3"):
        Lagrangian(order=3)
    assert repr(Lagrangian("cubic", order=2)) == "Lagrangian(mode='cubic', order=2)"
