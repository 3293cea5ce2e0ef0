"""The minimizers: they reach a minimum, keep the best, and never return something worse than the start."""

import math

import pytest
import torch
from scipy import optimize

from mmtk.optimize import adam, lbfgs
from mmtk.result import Outcome


def rosenbrock(x):
    x = x.detach().requires_grad_(True)
    energy = (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()
    (gradient,) = torch.autograd.grad(energy, x)
    return float(energy.detach()), gradient


def length(gradient):
    return 0.1


def test_lbfgs_reaches_the_minimum_about_as_fast_as_scipy():
    start = torch.full((6,), -1.0, dtype=torch.float64)
    reference = optimize.minimize(
        lambda x: tuple(float(v) if i == 0 else v.numpy() for i, v in enumerate(rosenbrock(torch.from_numpy(x)))),
        start.numpy(),
        jac=True,
        method="L-BFGS-B",
    )
    found = lbfgs(rosenbrock, start, 4 * reference.nfev, first_step=length)
    assert found.energy < 1e-8
    torch.testing.assert_close(found.unknowns, torch.ones_like(start), atol=1e-3, rtol=0)


def test_energies_never_rise():
    found = lbfgs(rosenbrock, torch.zeros(4, dtype=torch.float64), 40, first_step=length)
    assert all(b <= a for a, b in zip(found.energies, found.energies[1:], strict=False))
    assert found.evaluations <= 40


def test_the_first_step_has_the_length_that_was_asked_for():
    seen = []

    def watched(x):
        seen.append(x.clone())
        return rosenbrock(x)

    lbfgs(watched, torch.zeros(4, dtype=torch.float64), 2, first_step=lambda g: 0.037)
    assert float((seen[1] - seen[0]).norm()) == pytest.approx(0.037)


def test_a_relative_decrease_below_the_tolerance_stops():
    found = lbfgs(rosenbrock, torch.zeros(4, dtype=torch.float64), 1000, first_step=length, tolerance=1e-3)
    assert found.outcome is Outcome.CONVERGED
    assert found.evaluations < 200


@pytest.mark.parametrize("minimizer", ["lbfgs", "adam"])
def test_an_energy_that_is_not_finite_hands_back_the_best_so_far(minimizer):
    def breaks(x):
        energy, gradient = rosenbrock(x)
        return (math.nan, gradient) if float(x.abs().max()) > 0.5 else (energy, gradient)

    start = torch.zeros(4, dtype=torch.float64)
    if minimizer == "lbfgs":
        found = lbfgs(breaks, start, 50, first_step=length)
    else:
        found = adam(breaks, start, 50, learning_rate=0.2)
        assert found.outcome is Outcome.NONFINITE
    assert math.isfinite(found.energy) and found.energy <= rosenbrock(start)[0]
    assert bool(torch.isfinite(found.unknowns).all())


def test_adam_takes_the_steps_of_the_published_algorithm():
    x = torch.tensor([0.3, -0.2, 0.7], dtype=torch.float64, requires_grad=True)
    reference = torch.optim.Adam([x], lr=0.05)
    found = adam(rosenbrock, x.detach().clone(), 5, learning_rate=0.05)
    energies = []
    for _ in range(5):
        energy, gradient = rosenbrock(x)
        energies.append(energy)
        x.grad = gradient
        reference.step()
    assert found.energies == pytest.approx(energies)


def test_adam_keeps_the_best():
    found = adam(rosenbrock, torch.zeros(4, dtype=torch.float64), 30, learning_rate=0.5)
    assert found.energy == min(found.energies)
    assert rosenbrock(found.unknowns)[0] == pytest.approx(found.energy)
