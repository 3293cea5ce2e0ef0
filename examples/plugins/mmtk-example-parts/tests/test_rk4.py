import pytest
import torch
from mmtk.equations import Equation, FullMaps, Metamorphosis, Motion, State, stencils
from mmtk.fields import Gaussian, Grid, Smoother
from mmtk.integrators import Context, Eulerian
from mmtk.shooting import shoot_energy
from mmtk.testing import IntegratorContract

from mmtk_example_parts.plugin import RK4Config


class TestRK4(IntegratorContract):
    """Every law of an integrator: order, convergence, inverse, mask, orientation, batch, gradient, memory."""

    @pytest.fixture
    def part(self):
        return RK4Config()


class Wind(Equation):
    """One constant velocity, whatever image and momentum are: each wave of an image just travels."""

    def __init__(self, grid, velocity):
        self.maps, self.mu, self.velocity = FullMaps(grid, periodic=True), 0.0, velocity

    def force(self, image, momentum):
        return self.maps.zeros(image)

    def respond(self, force):
        v = torch.tensor(self.velocity).to(force).view(1, -1, 1, 1)
        return Motion(v.expand_as(force), force.new_zeros(force.shape[0]))

    def weighted(self, momentum):
        return momentum

    def rate(self, state):
        slopes = [stencils.partial(state.image, a, periodic=True) * v for a, v in enumerate(self.velocity)]
        return State(-sum(slopes), 0 * state.momentum, None, 0 * state.kinetic, 0 * state.residual)


GRID = Grid((16, 8), (1.0, 1.0))


def wave(turns):
    """A wave that turns so often along the first axis."""
    x = torch.arange(16, dtype=torch.float64) * (2 * torch.pi * turns / 16)
    return torch.cos(x).view(1, 1, 16, 1).expand(1, 1, 16, 8)


@pytest.mark.parametrize("turns", [1, 3, 4, 7])
def test_a_step_multiplies_a_wave_by_the_polynomial_of_the_scheme(turns):
    speed, dt = 2.0, 0.5
    z = -1j * dt * speed * torch.sin(torch.tensor(2 * torch.pi * turns / 16, dtype=torch.float64))
    factor = 1 + z + z**2 / 2 + z**3 / 6 + z**4 / 24
    equation, scheme = Wind(GRID, (speed, 0.0)), RK4Config().build()
    image = wave(turns)
    after = scheme.step(equation, scheme.begin(equation, image, 0 * image), dt).image
    ratio = torch.fft.fft(after[0, 0, :, 0])[turns] / torch.fft.fft(image[0, 0, :, 0])[turns]
    torch.testing.assert_close(ratio, factor)


def test_no_wave_grows_where_eulers_scheme_lets_all_of_them_grow():
    equation, image = Wind(GRID, (27.0, 0.5)), wave(4)  # ten steps: 2.75 voxels each, 0.05 below the bound
    ends = [
        shoot_energy(equation, scheme, image, 0 * image, 10).image for scheme in (RK4Config().build(), Eulerian())
    ]
    assert float(ends[0].abs().max()) <= 1 < 1e4 < float(ends[1].abs().max())


def test_six_steps_do_what_takes_eulers_scheme_two_hundred():
    grid = Grid((64, 64), (1.0, 1.0))
    x = torch.stack(torch.meshgrid(*[torch.arange(64, dtype=torch.float64)] * 2, indexing="ij")) / 64 - 0.5
    radius, angle = x.square().sum(0).sqrt(), torch.atan2(x[1], x[0] + 1e-9)
    image = torch.sigmoid((0.28 + 0.04 * torch.cos(3 * angle) - radius) * 120)[None, None]
    momentum = 250 * (torch.cos(2 * angle + 0.5) * torch.exp(-(((radius - 0.28) / 0.06) ** 2)))[None, None]
    equation = Metamorphosis(Smoother(Gaussian(6.0), grid), grid)

    def end(scheme, steps):
        return shoot_energy(equation, scheme, image, momentum, steps, Context(maps=steps == 100))

    truth = end(RK4Config().build(), 100)
    assert float(truth.state.displacement.abs().max()) > 9.5  # voxels
    six, many, few = (
        float((end(scheme, steps).image - truth.image).abs().mean())
        for scheme, steps in ((RK4Config().build(), 6), (Eulerian(), 200), (Eulerian(), 20))
    )
    assert six < many < 0.01
    assert few > 1e6


def test_a_constant_velocity_shifts_the_maps_by_as_much():
    equation, image = Wind(GRID, (3.0, -1.0)), wave(1)
    end = shoot_energy(equation, RK4Config().build(), image, 0 * image, 4, Context(maps=True)).state
    for u, sign in ((end.displacement, -1), (end.inverse, 1)):
        torch.testing.assert_close(u, sign * torch.tensor([3.0, -1.0]).to(u).view(1, 2, 1, 1).expand_as(u))


def test_without_maps_none_are_carried():
    equation, image = Wind(GRID, (1.0, 0.0)), wave(1)
    scheme = RK4Config().build()
    state = scheme.step(equation, scheme.begin(equation, image, 0 * image), 0.1)
    assert state.flow is None
    back = scheme.step(equation, scheme.begin(equation, image, 0 * image, Context(back=True)), 0.1)
    assert back.flow.forth is None and back.displacement.shape == (1, 2, 16, 8)
