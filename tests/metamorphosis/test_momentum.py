"""The shooting solver: every integrator, coupled and split, on a small pair whose truth is known."""

from dataclasses import replace

import pytest
import torch

from mmtk.fields import Gaussian, Grid, Smoother, compose, folds, warp
from mmtk.integrators import Eulerian, Lagrangian, Particles, SemiLagrangian, Sharp
from mmtk.method import Milestone, Milestones, Pair, silent
from mmtk.optimize import level_axes
from mmtk.result import LevelReport, Outcome
from mmtk.samples import c_shapes
from mmtk.similarity import SquaredDifference
from mmtk_metamorphosis.momentum import _LevelEnergy, register_momentum
from mmtk_metamorphosis.settings import Settings

SHAPE = (48, 44)
SETTINGS = Settings(
    kernel=Gaussian(6.0),
    spacing=3.0,
    similarity=SquaredDifference(),
    lam=1e-6,
    mu=0.1,
    steps=6,
    integrator=Lagrangian(),
    levels=(2.0, 1.0),
    iterations=(15, 10),
    coupled=True,
)
SCHEMES = [Eulerian(), SemiLagrangian(), Sharp(), Lagrangian(), Particles()]


def pair(masked=True):
    smoother = Smoother(Gaussian(3.0), Grid(SHAPE, (1.0, 1.0)))
    fixed = smoother(torch.randn(1, 1, *SHAPE, generator=torch.Generator().manual_seed(0)))
    fixed = (fixed - fixed.min()) / (fixed.max() - fixed.min())
    wide = Smoother(Gaussian(10.0), Grid(SHAPE, (1.0, 1.0)), padding=30.0)
    truth = wide(torch.randn(1, 2, *SHAPE, generator=torch.Generator().manual_seed(1)))
    truth = truth * (2.0 / truth.abs().max())
    moving = warp(fixed, truth, "cubic")
    mask = torch.zeros_like(moving)
    mask[..., 18:26, 16:24] = 1
    if masked:
        moving = torch.where(mask > 0, 1.2, moving)
    return Pair(moving, fixed, Grid(SHAPE, (1.0, 1.0)), mask=mask if masked else None)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("coupled", [True, False])
def test_every_scheme_lowers_the_error_outside_and_changes_nothing_there(scheme, coupled):
    given = pair()
    found = register_momentum(given, replace(SETTINGS, integrator=scheme, coupled=coupled), silent)
    lesion = warp(given.mask, found.displacement)
    outside = lesion == 0
    before = float((given.moving - given.fixed)[given.mask == 0].square().sum())
    after = float((warp(given.moving, found.displacement) - given.fixed)[outside].square().sum())
    assert after < 0.5 * before
    assert float(found.appearance[outside].abs().max()) == 0
    assert folds(found.displacement) == 0
    inner = (slice(None), slice(None), slice(4, -4), slice(4, -4))
    assert float(compose(found.displacement, found.inverse)[inner].abs().max()) < 0.1
    for level in found.levels:
        assert level.energies[-1] < level.energies[0]


def test_without_a_mask_the_image_becomes_the_fixed_one():
    given = pair(masked=False)
    found = register_momentum(given, replace(SETTINGS, mu=0.5, lam=1e-7), silent)
    painted = warp(given.moving, found.displacement) + found.appearance
    before = float((given.moving - given.fixed).square().sum())
    assert float((painted - given.fixed).square().sum()) < 0.1 * before


@pytest.mark.parametrize("coupled", [True, False])
def test_the_gradient_is_that_of_the_energy(coupled):
    given = pair()
    double = Pair(given.moving.double(), given.fixed.double(), given.grid, mask=given.mask.double())
    settings = replace(SETTINGS, coupled=coupled, lesion="grew")
    energy = _LevelEnergy(double, level_axes(given.grid, given.box, 2.0), settings, settings.integrator)
    rng = torch.Generator().manual_seed(2)
    momentum = 0.05 * torch.randn(energy.shape, generator=rng, dtype=torch.float64).flatten()
    direction = torch.randn(momentum.shape, generator=rng, dtype=torch.float64)
    h = 1e-6
    difference = (energy(momentum + h * direction)[0] - energy(momentum - h * direction)[0]) / (2 * h)
    assert difference == pytest.approx(float(energy(momentum)[1] @ direction), rel=1e-4)


def test_lddmm_is_the_coupled_model_at_mu_zero():
    given = pair(masked=False)
    coupled = register_momentum(given, replace(SETTINGS, mu=0.0, coupled=True), silent)
    split = register_momentum(given, replace(SETTINGS, mu=0.0, coupled=False), silent)
    assert torch.equal(coupled.displacement, split.displacement)
    assert coupled.appearance is None and split.appearance is None


def test_a_path_that_folds_is_shortened_until_it_does_not_and_says_so():
    grid = Grid((32, 30), (1.0, 1.0))
    one, other = (
        Smoother(Gaussian(2.5), grid)(
            torch.randn(1, 1, *grid.shape, generator=torch.Generator().manual_seed(seed))
        )
        for seed in (0, 1)
    )
    wild = replace(
        SETTINGS, kernel=Gaussian(3.0), spacing=None, lam=1e-9, mu=0.0, steps=3, iterations=(15, 15), coupled=False
    )
    one, other = ((x - x.min()) / (x.max() - x.min()) for x in (one, other))
    found = register_momentum(Pair(one, other, grid), wild, silent)
    assert folds(found.displacement) == 0
    assert "shortened" in found.notes[0]
    back = compose(found.displacement, found.inverse)[..., 6:-6, 6:-6]
    assert float(back.abs().mean()) < 0.1


@pytest.mark.slow
def test_a_fold_is_mended_at_less_cost_than_shortening(monkeypatch):
    grid = Grid((100, 100), (2.0, 2.0))
    sample = next(c_shapes(seed=1))
    moving, fixed, mask = (
        torch.nn.functional.avg_pool2d(torch.from_numpy(image.astype("float32"))[None, None], 2)
        for image in (sample.moving, sample.fixed, sample.mask)
    )
    given = Pair(moving, fixed, grid, mask=mask)
    loose = replace(SETTINGS, spacing=None, lam=3e-6, mu=0.05, steps=15, levels=(2.0,), iterations=(60,))

    def error(found):
        return float((warp(moving, found.displacement) + found.appearance - fixed).square().sum())

    mended = register_momentum(given, loose, silent)
    monkeypatch.setattr("mmtk_metamorphosis.momentum.PRICES", ())
    shortened = register_momentum(given, loose, silent)
    assert "shortened" in shortened.notes[0] and not mended.notes
    assert folds(mended.displacement) == folds(shortened.displacement) == 0
    assert error(mended) < 0.3 * error(shortened)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: type(s).__name__)
def test_a_momentum_beyond_all_bounds_gives_a_map_of_numbers(scheme):
    given, settings = pair(), replace(SETTINGS, integrator=scheme, levels=(2.0,), iterations=(1,))
    level = level_axes(given.grid, given.box, 2.0)
    wild = 1e12 * torch.randn(1, 1, *level.grid.shape, generator=torch.Generator().manual_seed(0))
    report = LevelReport(2.0, (1.0,), 1, 0.0, Outcome.EXHAUSTED)

    class Finished(Milestones):
        def last(self):
            return Milestone({"momentum": wild}, (report,))

    found = register_momentum(given, settings, silent, Finished())
    assert torch.isfinite(found.displacement).all() and torch.isfinite(found.inverse).all()
    assert torch.isfinite(found.appearance).all()
    assert folds(found.displacement) == 0
    assert "shortened" in found.notes[0]
