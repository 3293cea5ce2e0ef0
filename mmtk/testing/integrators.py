"""Laws of every integrator, on a periodic box where nothing but the scheme is at fault."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mmtk.equations import Metamorphosis, State
from mmtk.errors import GridMismatch
from mmtk.fields import Gaussian, Grid, Smoother, compose
from mmtk.integrators import Context, Integrator
from mmtk.metrics import nondiffeomorphic_volume
from mmtk.shooting import Shot, shoot_energy
from mmtk.testing.base import Contract, holds_little, is_its_gradient, refuses, stays_untouched, turns

__all__ = ["IntegratorContract"]

#: Width of the box in mm, and of the kernel.
WIDTH, SIGMA = 32.0, 4.0
SHAPES = {2: (12, 10), 3: (8, 6, 10)}


class IntegratorContract(Contract):
    """What makes a scheme a solver of the shooting equations, of the order that it claims.

    Orders are measured with cubic interpolation (``mode`` is set), so that space does not hide what time does.

    Example::

        class TestMine(IntegratorContract):
            @pytest.fixture
            def part(self):
                return MyIntegratorConfig()
    """

    base = Integrator
    memory = 120

    def equation(self, grid: Grid, *, mu: float = 0.5, sigma: float = SIGMA) -> Metamorphosis:
        """Metamorphosis on a periodic grid."""
        return Metamorphosis(Smoother(Gaussian(sigma), grid), grid, mu)

    def waves(self, shape: Sequence[int], *, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """A smooth periodic function of the unit box, ``(1, 1, *shape)``: the same one whatever the shape."""
        draw = torch.Generator().manual_seed(seed)
        axes = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) / n for n in shape], indexing="ij")
        total = torch.zeros(tuple(shape), dtype=torch.float64)
        for _ in range(4):
            k = torch.randint(-2, 3, (len(shape),), generator=draw)
            amplitude, phase = torch.rand(2, generator=draw, dtype=torch.float64)
            turn = sum((int(k[a]) * x for a, x in enumerate(axes)), torch.zeros(()))
            total = total + amplitude * torch.cos(2 * math.pi * (turn + phase))
        return total[None, None].to(self.device, dtype)

    def pair(self, shape: Sequence[int], *, size: float = 8.0, **options: Any) -> tuple[Tensor, Tensor]:
        """An image and a momentum; at size 8 in 2-D, it moves the image by about 1 mm."""
        return self.waves(shape, seed=1, **options), size * self.waves(shape, seed=2, **options)

    def box(self, shape: Sequence[int]) -> Grid:
        """The grid of so many voxels over the box."""
        return Grid(tuple(shape), tuple(WIDTH / n for n in shape))

    def shot(self, built: Any, n: int, steps: int, *, size: float = 8.0, mu: float = 0.5) -> Shot:
        """Shoot the pair on n x n voxels."""
        image, momentum = self.pair((n, n), size=size)
        return shoot_energy(
            self.equation(self.box((n, n)), mu=mu), built, image, momentum, steps, Context(maps=True)
        )

    def test_the_error_falls_at_the_order_that_it_claims(self, built: Any) -> None:
        scheme = _cubic(built)
        images = [self.shot(scheme, 24, steps).image for steps in (6, 12, 24)]
        changes = [_mean(a - b) for a, b in itertools.pairwise(images)]
        observed = math.log2(changes[0] / changes[1])
        assert observed > built.order - 0.2, f"order {observed:.2f} is observed, {built.order} is claimed"

    def test_it_converges_to_the_solution_of_the_equations(self, built: Any) -> None:
        apart = []
        for n in (24, 48):
            image, momentum = self.pair((n, n))
            solution = _runge_kutta(self.equation(self.box((n, n))), State.start(image, momentum), 12)
            apart.append(_mean(self.shot(_cubic(built), n, n // 2).image - solution.image))
        nearer = apart[1] < max(0.7 * apart[0], 1e-5)  # a scheme of high order is there on both grids
        assert nearer, f"apart by {apart[0]:.4f}, and by {apart[1]:.4f} on a grid twice as fine"
        assert apart[1] < 0.02, f"apart from the solution by {apart[1]:.4f}"

    def test_without_momentum_nothing_moves(self, built: Any) -> None:
        end = self.shot(built, 12, 3, size=0.0)
        torch.testing.assert_close(end.image, self.waves((12, 12), seed=1))
        assert float(end.state.displacement.abs().max()) == float(end.state.inverse.abs().max()) == 0
        assert float(end.kinetic) == float(end.residual) == 0

    def test_small_steps_do_not_fold(self, built: Any) -> None:
        end = self.shot(built, 32, 16, size=15.0).state
        assert float(end.displacement.abs().max()) > 1, "nothing moved"
        for u in (end.displacement, end.inverse):
            assert nondiffeomorphic_volume(u, self.box((32, 32))) == 0, "the map folds"

    def test_forward_after_inverse_is_the_identity(self, built: Any) -> None:
        errors = []
        for steps in (6, 12, 24):
            end = self.shot(_cubic(built), 24, steps).state
            errors.append(_mean(compose(end.displacement, end.inverse, "cubic", "periodic")))
        at_the_floor_of_interpolation = errors[-1] < 1e-4
        observed = min(math.log2(a / b) for a, b in itertools.pairwise(errors))
        assert errors[-1] < 1e-2, f"the maps miss one another by {errors[-1]:.3f} voxels"
        assert at_the_floor_of_interpolation or observed > built.order - 0.3, f"order {observed:.2f}"

    def test_where_the_mask_is_zero_no_intensity_changes(self, built: Any) -> None:
        image, momentum = self.pair((16, 16))
        none = Context(mask=torch.zeros_like(image))
        masked = shoot_energy(self.equation(self.box((16, 16))), built, image, momentum, 4, none)
        moved = shoot_energy(self.equation(self.box((16, 16)), mu=0.0), built, image, momentum, 4)
        torch.testing.assert_close(masked.image, moved.image)
        assert float(masked.residual) == float(moved.residual) == 0

    def test_it_does_not_know_how_the_scan_lies(self, built: Any) -> None:
        grid = Grid((16, 12), (2.0, 3.0))
        image, momentum = self.pair(grid.shape)
        straight = shoot_energy(self.equation(grid), built, image, momentum, 4).image
        for flips, order in turns(2):
            turned = [
                t.flip([2 + a for a in flips]).permute(0, 1, *[2 + a for a in order])
                for t in (image, momentum, straight)
            ]
            other = Grid(tuple(grid.shape[a] for a in order), tuple(grid.spacing[a] for a in order))
            end = shoot_energy(self.equation(other), built, turned[0], turned[1], 4)
            torch.testing.assert_close(end.image, turned[2])

    def test_a_shifted_image_gives_a_shifted_result(self, built: Any) -> None:
        grid = self.box((16, 16))
        image, momentum = self.pair(grid.shape)
        here = shoot_energy(self.equation(grid), built, image, momentum, 4).image.roll((3, -5), (2, 3))
        there, pushed = (t.roll((3, -5), (2, 3)) for t in (image, momentum))
        torch.testing.assert_close(shoot_energy(self.equation(grid), built, there, pushed, 4).image, here)

    def test_the_unit_of_length_does_not_matter(self, built: Any) -> None:
        # With lengths times s, z grows by s^2 and mu shrinks by s for the same motion; ||v||^2 is in mm^(2 + dim).
        s, grid = 3.0, Grid((16, 12), (2.0, 3.0))
        image, momentum = self.pair(grid.shape)
        large = Grid(grid.shape, tuple(s * h for h in grid.spacing))
        one = shoot_energy(self.equation(grid), built, image, momentum, 4, Context(maps=True))
        equation = self.equation(large, mu=0.5 / s, sigma=SIGMA * s)
        other = shoot_energy(equation, built, image, s**2 * momentum, 4, Context(maps=True))
        torch.testing.assert_close(other.image, one.image)
        torch.testing.assert_close(other.state.displacement, one.state.displacement)
        torch.testing.assert_close(other.kinetic, s**4 * one.kinetic)
        torch.testing.assert_close(other.residual, s**4 * one.residual)

    def test_a_batch_equals_its_elements(self, built: Any) -> None:
        grid = self.box((16, 16))
        image, momentum = self.pair(grid.shape)
        images = torch.cat([image, image.flip(2), 2 * image])
        momenta = torch.cat([momentum, 0.5 * momentum.flip(3), momentum])
        masks = self.waves(grid.shape, seed=3).sigmoid().expand_as(images) * images.sigmoid()
        batch = shoot_energy(self.equation(grid), built, images, momenta, 3, Context(mask=masks))
        for i in range(3):
            one = slice(i, i + 1)
            alone = shoot_energy(
                self.equation(grid), built, images[one], momenta[one], 3, Context(mask=masks[one])
            )
            for name in ("image", "kinetic", "residual"):
                torch.testing.assert_close(getattr(batch, name)[one], getattr(alone, name))

    def test_dtype_and_device_stay(self, built: Any, dims: tuple[int, ...]) -> None:
        for dim, dtype in itertools.product(dims, (torch.float32, torch.float64)):
            grid = self.box(SHAPES[dim])
            image, momentum = self.pair(grid.shape, dtype=dtype)
            context = Context(mask=image.sigmoid(), maps=True)
            end = shoot_energy(self.equation(grid), built, image, momentum, 2, context)
            state = end.state
            for t in (end.image, end.kinetic, state.momentum, state.mask, state.displacement, state.inverse):
                assert t is not None and (t.dtype, t.device) == (dtype, image.device)
                assert bool(t.isfinite().all())
            assert state.displacement.shape == state.inverse.shape == (1, dim, *grid.shape)

    def test_inputs_are_not_written_to(self, built: Any) -> None:
        grid = self.box((12, 12))
        image, momentum = self.pair(grid.shape)
        mask = image.sigmoid()
        context = Context(mask=mask, maps=True)
        stays_untouched(
            lambda: shoot_energy(self.equation(grid), built, image, momentum, 3, context), image, momentum, mask
        )

    def test_it_remembers_no_other_path(self, built: Any) -> None:
        first = self.shot(built, 12, 3).image
        self.shot(built, 12, 5, size=-4.0)
        assert torch.equal(self.shot(built, 12, 3).image, first)

    def test_the_gradient_by_the_momentum_is_right(self, built: Any) -> None:
        # On a grid this coarse the field is anything but smooth: a gradient that is nearly right is found.
        grid = self.box((6, 5))
        image, momentum = self.pair(grid.shape)
        mask = image.sigmoid()

        def cost(momentum: Tensor) -> Tensor:
            context = Context(mask=mask, maps=True)
            end = shoot_energy(self.equation(grid), built, image, momentum, 2, context)
            return (end.image * image).sum() + 0.01 * end.energy + (end.state.displacement * image).sum()

        is_its_gradient(cost, momentum)

    def test_tensors_on_another_grid_are_refused(self, built: Any) -> None:
        equation = self.equation(self.box((12, 12)))
        image, momentum = self.pair((12, 12))
        begin = partial(built.begin, equation)
        refuses(lambda: begin(image[..., 1:], momentum[..., 1:]), GridMismatch)
        refuses(lambda: begin(image, momentum[..., 1:]), GridMismatch)
        refuses(lambda: begin(image, momentum, Context(mask=image[..., 1:])), GridMismatch)

    def test_it_holds_few_images_at_once(self, built: Any, dims: tuple[int, ...]) -> None:
        if 3 not in dims:
            return
        grid = self.box((32, 32, 32))
        image, momentum = self.pair(grid.shape, dtype=torch.float32)
        equation, context = self.equation(grid), Context(mask=image.sigmoid(), maps=True)
        with torch.no_grad():
            holds_little(lambda: shoot_energy(equation, built, image, momentum, 4, context), self.memory)


def _cubic(built: Any) -> Any:
    """A copy of the scheme that interpolates cubically."""
    scheme = copy.deepcopy(built)
    scheme.mode = "cubic"
    return scheme


def _runge_kutta(equation: Metamorphosis, state: State, steps: int) -> State:
    """The solution of the equations on the grid, by the classical scheme of order 4."""
    dt = 1 / steps
    for _ in range(steps):
        k1 = equation.rate(state)
        k2 = equation.rate(state + dt / 2 * k1)
        k3 = equation.rate(state + dt / 2 * k2)
        k4 = equation.rate(state + dt * k3)
        state = state + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return state


def _mean(x: Tensor) -> float:
    return float(x.abs().mean())
