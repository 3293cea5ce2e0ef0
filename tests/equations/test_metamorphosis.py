"""The right-hand sides against the formulas, written out."""

from __future__ import annotations

import pytest
import torch

from mmtk.equations import LDDMM, Metamorphosis, SplitMetamorphosis, State
from mmtk.errors import GridMismatch
from mmtk.fields import Gaussian, Grid, Lattice, Smoother, gradient, warp
from mmtk.integrators import Lagrangian, Particles, SemiLagrangian
from mmtk.shooting import shoot_energy, shoot_split

GRID = Grid((14, 12), (1.5, 2.0))
KERNEL = Gaussian(4.0)


def pair(channels: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    image, momentum = torch.rand(2, 1, channels, *GRID.shape, dtype=torch.float64)
    return image, momentum - 0.5


def test_the_velocity_is_the_smoothed_force_over_the_squared_spacing() -> None:
    image, momentum = pair()
    smoother = Smoother(KERNEL, GRID)
    velocity = Metamorphosis(smoother, GRID).motion(image, momentum).velocity
    expected = -smoother.smooth(momentum * gradient(image)) / GRID.per_axis(image) ** 2
    torch.testing.assert_close(velocity, expected)


def test_channels_add_up_in_one_velocity() -> None:
    image, momentum = pair(3)
    smoother = Smoother(KERNEL, GRID)
    whole = Metamorphosis(smoother, GRID, weights=[1, 0.5, 2]).motion(image, momentum).velocity
    parts = [
        w * Metamorphosis(smoother, GRID).motion(image[:, c : c + 1], momentum[:, c : c + 1]).velocity
        for c, w in enumerate((1, 0.5, 2))
    ]
    torch.testing.assert_close(whole, sum(parts))


@pytest.mark.parametrize("stride", [None, 2.5])
def test_the_kinetic_energy_is_the_force_times_the_velocity_in_millimeters(stride: float | None) -> None:
    image, momentum = pair()
    equation = Metamorphosis.from_kernel(KERNEL, GRID, stride=stride)
    motion = equation.motion(image, momentum)
    h = GRID.per_axis(image)
    slope = torch.cat([torch.gradient(image, dim=a + 2)[0] for a in range(2)], 1)
    for axis in range(2):  # one-sided differences at the border are twice the equation's
        for end in (0, -1):
            slope[:, axis].select(axis + 1, end).mul_(0.5)
    v = equation.maps.displacement(motion.velocity) * h
    expected = -GRID.cell_volume * (momentum * slope / h * v).sum()
    assert float(motion.kinetic) == pytest.approx(float(expected), rel=1e-10)
    assert float(motion.kinetic) > 0


def test_on_a_lattice_the_velocity_is_that_of_the_full_grid() -> None:
    grid = Grid((40, 36), (1.0, 1.5))
    torch.manual_seed(0)
    image, momentum = torch.rand(2, 1, 1, *grid.shape, dtype=torch.float64)
    full, band = (Metamorphosis.from_kernel(Gaussian(6.0), grid, stride=s) for s in (None, 3.0))
    wide, narrow = full.motion(image, momentum), band.motion(image, momentum)
    fine = band.maps.displacement(narrow.velocity)
    assert float((fine - wide.velocity).abs().max()) < 0.01 * float(wide.velocity.abs().max())
    assert float(narrow.kinetic) == pytest.approx(float(wide.kinetic), rel=0.01)


def test_the_residual_counts_what_the_mask_lets_through() -> None:
    _, momentum = pair(2)
    equation = Metamorphosis(Smoother(KERNEL, GRID), GRID, 0.3, weights=[1, 2])
    mask = torch.rand(1, 1, *GRID.shape, dtype=torch.float64)
    expected = 0.09 * GRID.cell_volume * (mask * (momentum[:, :1] ** 2 + 2 * momentum[:, 1:] ** 2)).sum()
    assert float(equation.residual(momentum, mask)) == pytest.approx(float(expected))


def test_the_mask_moves_and_nothing_is_added_where_it_is_zero() -> None:
    image, momentum = pair()
    mask = (torch.rand(1, 1, *GRID.shape) > 0.5).double()
    smoother = Smoother(KERNEL, GRID)
    masked = Metamorphosis(smoother, GRID, 0.5).rate(State.start(image, momentum, mask))
    moved = LDDMM(smoother, GRID).rate(State.start(image, momentum, mask))
    torch.testing.assert_close(masked.image - moved.image, 0.25 * mask * momentum)
    assert masked.mask is not None and float(masked.mask.abs().max()) > 0


def masked_energy(equation: Metamorphosis, image, momentum, mask, costate=None) -> torch.Tensor:
    """The Hamiltonian; with a costate of the mask, ``q grad m`` stands beside ``z grad I``."""
    images, momenta = (
        (image, momentum) if costate is None else (torch.cat([image, mask], 1), torch.cat([momentum, costate], 1))
    )
    kinetic = equation.motion(images, momenta).kinetic.sum()
    return 0.5 * (kinetic + equation.mu**2 * GRID.cell_volume * (mask * momentum**2).sum())


def test_with_a_mask_the_energy_drifts_by_what_the_masks_costate_would_have_carried() -> None:
    # docs/concepts/metamorphosis.md: the published equations let the mask move and give it no costate.
    equation = Metamorphosis(Smoother(KERNEL, GRID), GRID, 0.7)
    image, momentum = pair()
    mask = torch.rand_like(image)
    inputs = [t.clone().requires_grad_() for t in (image, momentum, mask)]
    slopes = torch.autograd.grad(masked_energy(equation, *inputs), inputs)
    rate = equation.rate(State.start(image, momentum, mask))
    drift = sum((s * r).sum() for s, r in zip(slopes, (rate.image, rate.momentum, rate.mask), strict=True))
    expected = 0.5 * equation.mu**2 * GRID.cell_volume * (momentum**2 * rate.mask).sum()
    assert float(drift) == pytest.approx(float(expected), rel=1e-9)
    assert abs(float(drift)) > 1e-4


def test_with_the_masks_costate_the_equations_are_hamiltonian_again() -> None:
    # d_t q = -div(q v) - 1/2 mu^2 z^2, and q grad m beside z grad I.
    equation = Metamorphosis(Smoother(KERNEL, GRID), GRID, 0.7)
    image, momentum = pair()
    mask, costate = torch.rand_like(image), torch.rand_like(image) - 0.5
    inputs = [t.clone().requires_grad_() for t in (image, momentum, mask, costate)]
    by_image, by_momentum, by_mask, by_costate = torch.autograd.grad(masked_energy(equation, *inputs), inputs)
    both = State.start(torch.cat([image, mask], 1), torch.cat([momentum, costate], 1))
    carried = Metamorphosis(Smoother(KERNEL, GRID), GRID, 0.0).rate(both)  # what the flow alone does to all four
    h, square = GRID.cell_volume, equation.mu**2
    torch.testing.assert_close(by_momentum, h * (carried.image[:, :1] + square * mask * momentum))
    torch.testing.assert_close(by_costate, h * carried.image[:, 1:])
    torch.testing.assert_close(-by_image, h * carried.momentum[:, :1])
    torch.testing.assert_close(-by_mask, h * (carried.momentum[:, 1:] - 0.5 * square * momentum**2))


def test_wrong_numbers_are_refused() -> None:
    smoother = Smoother(KERNEL, GRID)
    with pytest.raises(ValueError, match="mu must be 0 or more, not -1"):
        Metamorphosis(smoother, GRID, -1.0)
    with pytest.raises(ValueError, match="to change it, use Metamorphosis"):
        LDDMM(smoother, GRID, 0.1)
    with pytest.raises(ValueError, match="weight of a channel must be 0 or more"):
        Metamorphosis(smoother, GRID, weights=[1.0, -1.0])
    with pytest.raises(GridMismatch, match="`smoother` has shape"):
        Metamorphosis(smoother, GRID, lattice=Lattice(GRID, 4.0, 12.0))
    with pytest.raises(ValueError, match="2 channels need as many weights"):
        Metamorphosis(smoother, GRID, weights=[1.0]).motion(*pair(2))


def test_lddmm_from_a_kernel_is_lddmm() -> None:
    equation = LDDMM.from_kernel(KERNEL, GRID, stride=2.5)
    assert isinstance(equation, LDDMM) and equation.mu == 0
    assert LDDMM.from_kernel(KERNEL, GRID, stride=1.0).maps.box == GRID  # nodes finer than voxels are none


def test_split_momentum_paints_inside_the_mask_and_drives_from_outside() -> None:
    image, p = pair()
    r = torch.rand_like(image)
    mask = torch.zeros(1, 1, *GRID.shape, dtype=torch.float64)
    mask[..., 4:8, 4:8] = 1
    shape = LDDMM.from_kernel(KERNEL, GRID, stride=2.5)
    equation, scheme = SplitMetamorphosis(shape, 0.5), Lagrangian()
    end = shoot_split(equation, scheme, image, 5 * p, r, mask, 4, maps=True)

    alone = shoot_energy(shape, scheme, image, 5 * (1 - mask) * p, 4)
    assert torch.equal(end.deformed, alone.image)
    assert torch.equal(end.kinetic, alone.kinetic)
    torch.testing.assert_close(end.image, warp(image + mask * r, end.state.displacement))
    torch.testing.assert_close(end.image - end.deformed, warp(mask * r, end.state.displacement))
    assert float(end.residual) == pytest.approx(4 * GRID.cell_volume * float((mask * r**2).sum()))
    assert float(end.energy) == pytest.approx(float(end.kinetic + end.residual))
    inside = shoot_split(equation, scheme, image, 5 * (p + 100 * mask), r, mask, 4)
    assert torch.equal(inside.deformed, end.deformed)


def test_the_painted_residual_grows_in_time_and_any_scheme_carries_the_shape() -> None:
    image, p = pair()
    r, half = torch.rand_like(image), torch.full_like(image, 0.5)
    equation = SplitMetamorphosis(LDDMM.from_kernel(KERNEL, GRID), 1.0)
    still = torch.zeros(1, 2, *GRID.shape, dtype=torch.float64)
    torch.testing.assert_close(equation.paint(image, r, half, still, time=0.5), image + 0.25 * r)
    ends = [
        shoot_split(equation, scheme, image, p, r, None, 8)
        for scheme in (Lagrangian(), SemiLagrangian(), Particles())
    ]
    for end in ends[1:]:
        assert float((end.state.displacement - ends[0].state.displacement).abs().max()) < 0.02
    with pytest.raises(ValueError, match="use LDDMM"):
        SplitMetamorphosis(LDDMM.from_kernel(KERNEL, GRID), 0.0)
    with pytest.raises(ValueError, match="keeps intensities"):
        SplitMetamorphosis(Metamorphosis.from_kernel(KERNEL, GRID, 0.1), 0.5)
