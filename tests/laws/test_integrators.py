"""Laws of shooting that hold for every equation and every scheme; float64 throughout."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mmtk.equations import LDDMM, Metamorphosis, State
from mmtk.fields import Gaussian, Grid, Smoother, compose, folds, warp
from mmtk.integrators import Context, Eulerian, Integrator, Lagrangian, Particles, SemiLagrangian, Sharp
from mmtk.shooting import Shot, shoot_energy

Scheme = Callable[..., Integrator]


def lagrangian_2(mode: str = "linear") -> Integrator:
    return Lagrangian(mode, order=2)


SCHEMES: list[Scheme] = [Eulerian, SemiLagrangian, Sharp, Lagrangian, lagrangian_2, Particles]
every_scheme = pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: s.__name__)


def waves(n: int, *, seed: int, modes: int = 2) -> Tensor:
    """A smooth periodic function of the unit square, sampled on n x n points: the same function for every n."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.arange(n, dtype=torch.float64) / n
    axes = torch.meshgrid(x, x, indexing="ij")
    total = torch.zeros_like(axes[0])
    for _ in range(4):
        k = torch.randint(-modes, modes + 1, (2,), generator=draw)
        amplitude, phase = torch.rand(2, generator=draw, dtype=torch.float64)
        total = total + amplitude * torch.cos(2 * math.pi * (k[0] * axes[0] + k[1] * axes[1] + phase))
    return total[None, None]


def periodic(n: int, mu: float) -> Metamorphosis:
    """The equation on a periodic box 32 mm wide, with a kernel of 4 mm."""
    grid = Grid((n, n), (32 / n, 32 / n))
    return Metamorphosis(Smoother(Gaussian(4.0), grid), grid, mu)


def run(scheme: Scheme, n: int, steps: int, *, mu: float = 0.5, size: float = 8, mode: str = "cubic") -> Shot:
    """Shoot two smooth waves; at size 8 the image moves by 1 mm, at 20 by 2.5 mm."""
    image, momentum = waves(n, seed=1), size * waves(n, seed=2)
    return shoot_energy(periodic(n, mu), scheme(mode), image, momentum, steps, Context(maps=True))


def orders(errors: list[float]) -> list[float]:
    return [math.log2(a / b) for a, b in itertools.pairwise(errors)]


def mean(x: Tensor) -> float:
    return float(x.abs().mean())


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


def test_the_rate_is_the_hamiltonian_flow_on_a_lattice_too() -> None:
    torch.manual_seed(0)
    grid = Grid((12, 14), (1.0, 1.5))
    equation = Metamorphosis.from_kernel(Gaussian(4.0), grid, 0.3, stride=2.0)
    image, momentum = torch.randn(2, 1, 1, *grid.shape, dtype=torch.float64).requires_grad_()
    state = State.start(image, momentum)
    by_image, by_momentum = torch.autograd.grad(equation.energy(state), (image, momentum))
    rate = equation.rate(state)
    torch.testing.assert_close(rate.image * grid.cell_volume, by_momentum)
    torch.testing.assert_close(rate.momentum * grid.cell_volume, -by_image)


@every_scheme
def test_the_error_falls_at_the_order_that_the_scheme_claims(scheme: Scheme) -> None:
    images = [run(scheme, 24, steps).image for steps in (6, 12, 24)]
    changes = [mean(a - b) for a, b in itertools.pairwise(images)]
    assert orders(changes)[-1] == pytest.approx(scheme().order, abs=0.2)


@pytest.mark.parametrize(
    "scheme", [Eulerian, SemiLagrangian, Sharp, lagrangian_2, Particles], ids=lambda s: s.__name__
)
def test_every_scheme_converges_to_the_closed_form_as_grid_and_step_are_refined(scheme: Scheme) -> None:
    # Semi-Lagrangian steps of a constant part of a voxel blur, at order 1 in the end; cubic leaves that out.
    mode = "cubic" if scheme is SemiLagrangian else "linear"
    apart = []
    for n in (24, 48, 96):
        other = run(scheme, n, n // 4, mode=mode).image
        apart.append(mean(other - run(Lagrangian, n, n // 4, mode=mode).image))
    assert orders(apart)[-1] > 0.8, apart
    assert apart[-1] < 0.01


def test_the_hamiltonian_of_finite_differences_drifts_at_the_order_of_the_scheme() -> None:
    equation = periodic(24, 0.5)
    start = equation.energy(State.start(waves(24, seed=1), 8 * waves(24, seed=2)))
    drift = []
    for steps in (16, 32, 64):
        end = run(Eulerian, 24, steps)
        drift.append(abs(float(equation.energy(State.start(end.image, end.state.momentum)) / start - 1)))
    assert orders(drift) == pytest.approx([1, 1], abs=0.2)
    assert drift[-1] < 3e-3


@every_scheme
def test_the_hamiltonian_is_conserved_as_grid_and_step_are_refined(scheme: Scheme) -> None:
    drift = []
    for n in (24, 48, 96):
        equation, end = periodic(n, 0.5), run(scheme, n, n // 4, mode="linear")
        start = equation.energy(State.start(waves(n, seed=1), 8 * waves(n, seed=2)))
        drift.append(abs(float(equation.energy(State.start(end.image, end.state.momentum)) / start - 1)))
    assert orders(drift)[-1] > 0.8, drift


def test_linear_interpolation_on_a_fixed_grid_blurs_more_with_every_step() -> None:
    # Thesis, fig. 5.3. Here the blur is what lies between a scheme's image and the start, deformed once by the
    # map that the scheme itself made; schemes that resample nothing but the start have none.
    stripe = torch.zeros(1, 1, 32, 32, dtype=torch.float64)
    stripe[..., 10:13, :] = 1

    def blur(scheme: Scheme, steps: int) -> float:
        momentum = 8 * waves(32, seed=2)
        end = shoot_energy(periodic(32, 0.0), scheme(), stripe, momentum, steps, Context(maps=True))
        return mean(end.image - warp(stripe, end.state.displacement, padding="periodic"))

    errors = [blur(SemiLagrangian, steps) for steps in (2, 4, 8, 16, 32)]
    assert all(a < b for a, b in itertools.pairwise(errors)), errors
    for scheme in (Sharp, Lagrangian, lagrangian_2, Particles):
        assert blur(scheme, 16) < 1e-12


@every_scheme
def test_forward_after_inverse_is_the_identity_to_the_order_of_the_scheme(scheme: Scheme) -> None:
    errors = []
    for steps in (6, 12, 24):
        end = run(scheme, 24, steps).state
        errors.append(mean(compose(end.displacement, end.inverse, "cubic", "periodic")))
    assert errors[-1] < 1e-2
    at_the_floor_of_interpolation = errors[-1] < 3e-5
    assert at_the_floor_of_interpolation or min(orders(errors)) > scheme().order - 0.2


@every_scheme
def test_small_steps_do_not_fold(scheme: Scheme) -> None:
    end = run(scheme, 32, 16, size=15, mode="linear").state
    assert float(end.displacement.abs().max()) > 1.5
    assert folds(end.displacement) == folds(end.inverse) == 0


@every_scheme
def test_without_intensity_change_it_is_lddmm(scheme: Scheme) -> None:
    grid = Grid((16, 16), (2.0, 2.0))
    smoother = Smoother(Gaussian(4.0), grid)
    image, momentum = waves(16, seed=1), 8 * waves(16, seed=2)
    ends = [
        shoot_energy(e, scheme(), image, momentum, 4)
        for e in (Metamorphosis(smoother, grid, 0.0), LDDMM(smoother, grid))
    ]
    assert torch.equal(ends[0].image, ends[1].image)
    assert torch.equal(ends[0].kinetic, ends[1].kinetic)
    assert float(ends[0].residual) == 0


@every_scheme
def test_equal_channels_share_the_work_of_one(scheme: Scheme) -> None:
    image, momentum = waves(16, seed=1), 8 * waves(16, seed=2)
    one = shoot_energy(periodic(16, 0.0), scheme(), image, momentum, 4)
    two = shoot_energy(periodic(16, 0.0), scheme(), image.repeat(1, 2, 1, 1), momentum.repeat(1, 2, 1, 1) / 2, 4)
    torch.testing.assert_close(two.image, one.image.repeat(1, 2, 1, 1))
    torch.testing.assert_close(two.kinetic, one.kinetic)


@every_scheme
def test_a_channel_of_weight_zero_might_as_well_be_left_out(scheme: Scheme) -> None:
    grid = Grid((16, 16), (2.0, 2.0))
    smoother = Smoother(Gaussian(4.0), grid)
    image, momentum = waves(16, seed=1), 8 * waves(16, seed=2)
    passenger = waves(16, seed=3)
    alone = shoot_energy(Metamorphosis(smoother, grid, 0.3, weights=[0.7]), scheme(), image, momentum, 4)
    both = shoot_energy(
        Metamorphosis(smoother, grid, 0.3, weights=[0.7, 0.0]), scheme(),
        torch.cat([image, passenger], 1), torch.cat([momentum, 100 * passenger], 1), 4,
    )  # fmt: skip
    assert torch.equal(both.image[:, :1], alone.image)
    assert torch.equal(both.kinetic, alone.kinetic)
    assert torch.equal(both.residual, alone.residual)


@every_scheme
def test_a_shifted_image_gives_a_shifted_result(scheme: Scheme) -> None:
    image, momentum = waves(24, seed=1), 8 * waves(24, seed=2)
    equation, by = periodic(24, 0.5), {"shifts": (4, -7), "dims": (2, 3)}
    here = shoot_energy(equation, scheme(), image, momentum, 4).image.roll(**by)
    there = shoot_energy(equation, scheme(), image.roll(**by), momentum.roll(**by), 4).image
    torch.testing.assert_close(there, here)


@every_scheme
def test_on_anisotropic_voxels_the_motion_is_the_same_in_millimeters(scheme: Scheme) -> None:
    # The same waves on 1 x 1 mm and on 1 x 2 mm voxels, one of them seen from every second column.
    def shot(columns: int) -> Shot:
        grid = Grid((64, columns), (0.5, 32 / columns))
        equation = Metamorphosis(Smoother(Gaussian(4.0), grid), grid, 0.5)
        image, momentum = (
            f(64)[..., :: 64 // columns] for f in (lambda n: waves(n, seed=1), lambda n: 8 * waves(n, seed=2))
        )
        return shoot_energy(equation, scheme("cubic"), image, momentum, 8, Context(maps=True))

    isotropic, anisotropic = shot(64), shot(32)
    assert mean(anisotropic.image - isotropic.image[..., ::2]) < 0.02
    fine, coarse = isotropic.state.displacement[..., ::2], anisotropic.state.displacement
    assert mean(coarse[:, 0] - fine[:, 0]) < 0.05
    assert mean(2 * coarse[:, 1] - fine[:, 1]) < 0.05
    assert float(anisotropic.kinetic) == pytest.approx(float(isotropic.kinetic), rel=0.03)
    assert float(anisotropic.residual) == pytest.approx(float(isotropic.residual), rel=0.03)


@every_scheme
@pytest.mark.parametrize("stride", [None, 2.0])
def test_checkpointing_changes_neither_values_nor_gradients(scheme: Scheme, stride: float | None) -> None:
    equation, image, momentum, mask = lesion(stride)
    results = []
    for checkpoint in (False, True):
        z = momentum.clone().requires_grad_()
        end = shoot_energy(equation, scheme(), image, z, 3, Context(mask=mask, maps=True), checkpoint=checkpoint)
        cost = (
            end.energy + end.image.square().sum() + end.state.displacement.square().sum() + end.state.inverse.sum()
        )
        results.append((cost.detach(), *torch.autograd.grad(cost, z)))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@every_scheme
@pytest.mark.parametrize("stride", [None, 2.0])
@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_gradients_pass_through_every_scheme(scheme: Scheme, stride: float | None, mode: str) -> None:
    equation, image, momentum, mask = lesion(stride, n=6)

    def cost(image: Tensor, momentum: Tensor, mask: Tensor) -> Tensor:
        end = shoot_energy(equation, scheme(mode), image, momentum, 2, Context(mask=mask, maps=True))
        return end.energy + (end.image**3).sum() + end.state.displacement.sum() + end.state.inverse.sum()

    inputs = [t.clone().requires_grad_() for t in (image, momentum, mask)]
    assert torch.autograd.gradcheck(cost, inputs, fast_mode=True)


@every_scheme
def test_a_batch_equals_its_elements_and_inputs_are_not_written_to(scheme: Scheme) -> None:
    equation, image, momentum, mask = lesion(None)
    images, momenta = torch.cat([image, image.flip(2)]), torch.cat([momentum, 0.5 * momentum.flip(3)])
    masks = torch.cat([mask, mask.flip(2)])
    before = [t.clone() for t in (images, momenta, masks)]
    batch = shoot_energy(equation, scheme(), images, momenta, 3, Context(mask=masks))
    for b in range(2):
        one = slice(b, b + 1)
        alone = shoot_energy(equation, scheme(), images[one], momenta[one], 3, Context(mask=masks[one]))
        torch.testing.assert_close(batch.image[one], alone.image)
        torch.testing.assert_close(batch.kinetic[one], alone.kinetic)
        torch.testing.assert_close(batch.residual[one], alone.residual)
    assert all(torch.equal(a, b) for a, b in zip(before, (images, momenta, masks), strict=True))


@every_scheme
@pytest.mark.parametrize("stride", [None, 2.0])
def test_single_precision_stays_single_and_three_dimensions_work(scheme: Scheme, stride: float | None) -> None:
    grid = Grid((8, 9, 10), (1.0, 1.0, 1.5))
    equation = Metamorphosis.from_kernel(Gaussian(4.0), grid, 0.2, stride=stride)
    torch.manual_seed(0)
    image, momentum = torch.rand(2, 1, 2, *grid.shape)
    end = shoot_energy(
        equation, scheme(), image, momentum, 2, Context(mask=torch.rand(1, 1, *grid.shape), maps=True)
    )
    shown = (end.image, end.kinetic, end.residual, end.state.momentum, end.state.mask, end.state.displacement)
    assert all(t.dtype == torch.float32 and bool(torch.isfinite(t).all()) for t in shown)
    assert end.state.displacement.shape == end.state.inverse.shape == (1, 3, 8, 9, 10)


@pytest.mark.parametrize("scheme", SCHEMES[1:], ids=lambda s: s.__name__)
def test_the_mask_moves_with_the_flow(scheme: Scheme) -> None:
    equation, image, momentum, mask = lesion(2.0)
    end = shoot_energy(equation, scheme(), image, momentum, 6, Context(mask=mask, maps=True)).state
    assert mean(end.mask - warp(mask, end.displacement)) < 0.01


@pytest.mark.parametrize("scheme", [Lagrangian, Particles], ids=lambda s: s.__name__)
def test_in_closed_form_nothing_appears_outside_the_mask(scheme: Scheme) -> None:
    equation, image, momentum, mask = lesion(2.0)
    mask = (mask > 0.5).to(mask)
    end = shoot_energy(equation, scheme(), image, momentum, 6, Context(mask=mask)).state
    appearance = end.image - warp(image, end.displacement)
    assert float((appearance * (end.mask == 0)).abs().max()) < 1e-12
    assert float(appearance.abs().max()) > 0.01


def apart_on_a_lattice(scheme: Scheme, mode: str) -> tuple[Tensor, Shot, Shot]:
    """Full grid, cubic, against nodes sigma / 2 apart: a motion of 4 voxels, determinants from 0.65 to 1.6.

    The margin is left out: there the full grid has to end, and the lattice goes on.
    """
    full, image, momentum, mask = lesion(None, n=64, size=100.0, sigma=6.0)
    band, *_ = lesion(3.0, n=64, size=100.0, sigma=6.0)
    context, steps = Context(mask=mask, maps=True), 60 if scheme is Eulerian else 15
    wide = shoot_energy(full, scheme("cubic"), image, momentum, steps, context)
    narrow = shoot_energy(band, scheme(mode), image, momentum, steps, context)
    assert float(wide.state.displacement.abs().max()) > 3.5
    return (narrow.state.displacement - wide.state.displacement)[..., 6:-6, 6:-6], narrow, wide


@every_scheme
def test_a_band_limited_grid_gives_the_same_maps(scheme: Scheme) -> None:
    difference, narrow, wide = apart_on_a_lattice(scheme, "cubic")
    assert float(difference.abs().max()) < 0.05
    assert float(narrow.kinetic) == pytest.approx(float(wide.kinetic), rel=0.01)


def test_linear_interpolation_on_nodes_is_mended_to_the_same_accuracy() -> None:
    difference, _, _ = apart_on_a_lattice(Lagrangian, "linear")
    assert float(difference.abs().max()) < 0.06  # the image, too, is interpolated linearly here
    assert mean(difference) < 0.01


def lesion(
    stride: float | None, *, n: int = 16, size: float = 3.0, sigma: float = 3.0, mu: float = 0.3
) -> tuple[Metamorphosis, Tensor, Tensor, Tensor]:
    """A smooth three-leaved blob with a lesion, its momentum along the edge: equation, image, momentum, mask."""
    grid = Grid((n, n), (1.0, 1.0))
    x = torch.stack(torch.meshgrid(*[torch.arange(n, dtype=torch.float64)] * 2, indexing="ij")) / n - 0.5
    radius, angle = x.square().sum(0).sqrt(), torch.atan2(x[1], x[0] + 1e-9)
    image = torch.sigmoid((0.3 + 0.04 * torch.cos(3 * angle) - radius) * 60)
    spot = ((x[0] - 0.08) ** 2 + (x[1] + 0.05) ** 2).sqrt()
    image = image + 0.5 * torch.exp(-((spot / 0.07) ** 2))
    edge = torch.cos(2 * angle + 0.5) * torch.exp(-(((radius - 0.3) / 0.06) ** 2))
    inner = 0.6 * torch.sin(x[0] * 14) * torch.exp(-((radius / 0.2) ** 2))
    mask = torch.sigmoid((0.1 - spot) * 100)
    equation = Metamorphosis.from_kernel(Gaussian(sigma), grid, mu, stride=stride)
    return equation, image[None, None], size * (edge + inner)[None, None], mask[None, None]
