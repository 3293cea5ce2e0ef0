"""The white-coefficient solver, on small pairs whose truth is known."""

from dataclasses import replace
from typing import ClassVar

import pytest
import torch

from mmtk.fields import Gaussian, Grid, Smoother, folds, warp
from mmtk.integrators import Lagrangian
from mmtk.method import Pair, silent
from mmtk.optimize import level_axes
from mmtk.regularizers import Regularizer
from mmtk.similarity import LocalCorrelation, LocalSquaredDifference, MutualInformation, SquaredDifference
from mmtk_metamorphosis.momentum import register_momentum
from mmtk_metamorphosis.primal import _LevelEnergy, register_white
from mmtk_metamorphosis.settings import Settings
from mmtk_metamorphosis.white import WhiteFlow

SETTINGS = Settings(
    kernel=Gaussian(10.0),
    spacing=4.0,
    similarity=LocalSquaredDifference(),
    lam=1e-5,
    squarings=4,
    levels=(4.0, 2.0),
    iterations=(12, 8),
)


def texture(shape, seed=0, sigma=3.0):
    smoother = Smoother(Gaussian(sigma), Grid(shape, (1.0,) * len(shape)))
    noise = torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(seed))
    image = smoother(noise)
    return (image - image.min()) / (image.max() - image.min())


def displaced(shape, size=3.0, seed=5):
    """A moving image and the displacement that carries it onto the texture it was made from."""
    dim = len(shape)
    smoother = Smoother(Gaussian(12.0), Grid(shape, (1.0,) * dim), padding=36.0)
    u = smoother(torch.randn(1, dim, *shape, generator=torch.Generator().manual_seed(seed)))
    u = u * (size / u.abs().max())
    moving = texture(shape)
    return moving, warp(moving, u, "cubic"), u


def ball(shape, center, radius):
    axes = torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in shape], indexing="ij")
    return (sum((a - c) ** 2 for a, c in zip(axes, center, strict=True)) < radius**2).float()[None, None]


@pytest.mark.parametrize("shape", [(72, 64), (36, 40, 32)])
def test_a_known_deformation_is_found(shape):
    moving, fixed, truth = displaced(shape)
    found = register_white(Pair(moving, fixed, Grid(shape, (1.0,) * len(shape))), SETTINGS, silent)
    inner = (slice(None), slice(None), *[slice(5, -5)] * len(shape))
    before, after = truth[inner].norm(dim=1).mean(), (found.displacement - truth)[inner].norm(dim=1).mean()
    assert after < 0.25 * before
    assert folds(found.displacement) == 0
    assert found.appearance is None


def test_the_gradient_is_that_of_the_energy():
    moving, fixed, _ = displaced((24, 20))
    pair = Pair(
        moving.double(), fixed.double(), Grid((24, 20), (1.0, 1.5)), mask=ball((24, 20), (12, 9), 4).double()
    )
    for coupled in (False, True):
        settings = replace(SETTINGS, coupled=coupled, lesion="grew", velocities=2)
        flow = WhiteFlow(settings.kernel, pair.grid, settings.spacing, settings.velocities, settings.squarings)
        energy = _LevelEnergy(pair, level_axes(pair.grid, pair.box, 2.0), flow, settings)
        rng = torch.Generator().manual_seed(1)
        white = torch.randn(flow.shape, generator=rng, dtype=torch.float64).flatten()
        direction = torch.randn(white.shape, generator=rng, dtype=torch.float64)
        h = 1e-5
        difference = (energy(white + h * direction)[0] - energy(white - h * direction)[0]) / (2 * h)
        assert difference == pytest.approx(float(energy(white)[1] @ direction), rel=1e-4)


def test_voxels_under_the_mask_cannot_matter():
    moving, fixed, _ = displaced((64, 56))
    mask = ball((64, 56), (30, 28), 7)
    hard = replace(SETTINGS, mu=1e6)  # a residual that costs nothing leaves no weight inside
    grid = Grid((64, 56), (1.0, 1.0))
    one = register_white(Pair(moving, fixed, grid, mask=mask), hard, silent)
    other = register_white(Pair(torch.where(mask > 0, 0.77, moving), fixed, grid, mask=mask), hard, silent)
    torch.testing.assert_close(one.displacement, other.displacement, atol=2e-3, rtol=0)


def test_voxels_under_the_fixed_mask_cannot_matter():
    moving, fixed, _ = displaced((64, 56))
    mask = ball((64, 56), (30, 28), 7)
    grid = Grid((64, 56), (1.0, 1.0))
    one = register_white(Pair(moving, fixed, grid, fixed_mask=mask), SETTINGS, silent)
    damaged = torch.where(mask > 0, 0.9, fixed)
    other = register_white(Pair(moving, damaged, grid, fixed_mask=mask), SETTINGS, silent)
    torch.testing.assert_close(one.displacement, other.displacement, atol=2e-3, rtol=0)


@pytest.mark.parametrize("coupled", [False, True])
def test_appearance_is_exactly_zero_where_the_warped_mask_is(coupled):
    moving, fixed, _ = displaced((64, 56))
    mask = ball((64, 56), (30, 28), 7)
    moving = torch.where(mask > 0, 1.0, moving)
    pair = Pair(moving, fixed, Grid((64, 56), (1.0, 1.0)), mask=mask)
    found = register_white(pair, replace(SETTINGS, coupled=coupled), silent)
    lesion = warp(mask, found.displacement)
    assert torch.equal(found.appearance[lesion == 0], torch.zeros_like(found.appearance[lesion == 0]))
    painted = warp(moving, found.displacement) + found.appearance
    assert float((painted - fixed)[lesion == 1].abs().mean()) < 0.05


@pytest.mark.parametrize("mu", [0.15, 0.08])
def test_coupled_by_velocities_and_by_shooting_are_one_minimum(mu):
    """The residual in closed form, put back into the energy: what shooting from the momentum finds, it finds."""
    shape, grid = (48, 48), Grid((48, 48), (1.0, 1.0))
    down, right = torch.meshgrid(*[torch.arange(n, dtype=torch.float32) - 23.5 for n in shape], indexing="ij")
    radius, angle = torch.hypot(down, right), torch.atan2(right, down)
    moving = torch.sigmoid((12 - radius) / 2)
    spot = torch.exp(-((down - 3) ** 2 + (right + 4) ** 2) / 16)
    fixed = 0.7 * torch.sigmoid((13 + 2 * torch.cos(3 * angle) - torch.hypot(down - 1.5, right)) / 2) + 0.3 * spot
    mask = torch.nn.functional.pad(torch.ones(42, 42), (3, 3, 3, 3))
    pair = Pair(*(t[None, None] for t in (moving, fixed)), grid, mask=mask[None, None])
    settings = Settings(
        kernel=Gaussian(6.0), spacing=3.0, similarity=SquaredDifference(), lam=1e-2, mu=mu, coupled=True,
        squarings=5, integrator=Lagrangian(), levels=(1.0,), iterations=(60,),
    )  # fmt: skip
    white, shot = register_white(pair, settings, silent), register_momentum(pair, settings, silent)
    assert white.energies[-1] == pytest.approx(shot.energies[-1], rel=5e-3)
    for found, other in ((white.displacement, shot.displacement), (white.appearance, shot.appearance)):
        assert float((found - other).norm()) < 0.1 * float(other.norm())


def test_a_shift_by_the_coarsest_stride_shifts_the_result():
    moving, fixed, _ = displaced((96, 88))
    pad = torch.nn.functional.pad
    inner = ball((96, 88), (44, 40), 30)
    moving, fixed = moving * inner, fixed * inner
    grid = Grid((104, 96), (1.0, 1.0))
    here = register_white(Pair(pad(moving, (0, 8, 0, 8)), pad(fixed, (0, 8, 0, 8)), grid), SETTINGS, silent)
    there = register_white(Pair(pad(moving, (8, 0, 8, 0)), pad(fixed, (8, 0, 8, 0)), grid), SETTINGS, silent)
    torch.testing.assert_close(
        there.displacement[..., 16:96, 16:88], here.displacement[..., 8:88, 8:80], atol=0.05, rtol=0
    )


def test_anisotropic_voxels_give_the_same_millimeters():
    shape = (64, 64)
    moving, fixed, _ = displaced(shape)
    pool = torch.nn.functional.avg_pool2d
    fine = register_white(Pair(moving, fixed, Grid(shape, (1.0, 1.0))), SETTINGS, silent)
    thick = register_white(
        Pair(pool(moving, (1, 2)), pool(fixed, (1, 2)), Grid((64, 32), (1.0, 2.0))), SETTINGS, silent
    )
    mm = pool(fine.displacement, (1, 2))
    found = thick.displacement * torch.tensor([1.0, 2.0]).view(1, 2, 1, 1)
    inner = (slice(None), slice(None), slice(8, -8), slice(4, -4))
    assert float((mm - found)[inner].norm(dim=1).mean()) < 0.25


@pytest.mark.parametrize("axes", [(2,), (3,), (2, 3)])
def test_flipping_both_images_flips_the_result(axes):
    moving, fixed, _ = displaced((65, 57))
    grid = Grid((65, 57), (1.0, 1.0))
    plain = register_white(Pair(moving, fixed, grid), SETTINGS, silent).displacement
    flipped = register_white(Pair(moving.flip(axes), fixed.flip(axes), grid), SETTINGS, silent).displacement
    back = flipped.flip(axes).clone()
    for axis in axes:
        back[:, axis - 2] *= -1
    inner = (slice(None), slice(None), slice(6, -6), slice(6, -6))
    assert float((plain - back)[inner].norm(dim=1).mean()) < 0.1


@pytest.mark.parametrize(
    "similarity", [SquaredDifference(), LocalCorrelation(), MutualInformation()], ids=lambda s: type(s).__name__
)
def test_any_similarity_will_do(similarity):
    shape = (56, 56)
    moving, fixed, truth = displaced(shape)
    settings = replace(
        SETTINGS, similarity=similarity, lam=1e-6 if isinstance(similarity, SquaredDifference) else 1e-5
    )
    found = register_white(Pair(moving, fixed, Grid(shape, (1.0, 1.0))), settings, silent)
    inner = (slice(None), slice(None), slice(6, -6), slice(6, -6))
    assert (found.displacement - truth)[inner].norm(dim=1).mean() < 0.6 * truth[inner].norm(dim=1).mean()


class TwoChannels(SquaredDifference):
    """The image and its square: compared twice, in two channels of one."""

    spacings: ClassVar[list] = []

    def prepare(self, image, weight=None, scale=1, spacing=None):
        self.spacings.append(tuple(spacing))
        return torch.cat([image, image.square()], 1)


@pytest.mark.parametrize("masked", [False, True])
def test_a_similarity_may_compare_several_channels_for_one_and_is_told_the_spacing(masked):
    shape = (48, 40)
    moving, fixed, truth = displaced(shape)
    mask = ball(shape, (10, 10), 4) if masked else None
    grid = Grid(shape, (1.0, 1.0))
    found = register_white(
        Pair(moving, fixed, grid, mask=mask), replace(SETTINGS, similarity=TwoChannels(), lam=1e-6), silent
    )
    assert (found.displacement - truth).norm(dim=1).mean() < 0.6 * truth.norm(dim=1).mean()
    assert TwoChannels.spacings[-4:] == [(2.0, 2.0), (2.0, 2.0), (1.0, 1.0), (1.0, 1.0)]


def test_a_regularizer_is_given_the_lesion_where_its_fields_are():
    given = []

    class Listening(Regularizer):
        def energy(self, deformation):
            given.append(deformation)
            return deformation.displacement.square().sum()

    moving, fixed, _ = displaced((48, 48))
    mask = ball((48, 48), (20, 28), 10)
    settings = replace(SETTINGS, regularizers=(Listening(),), iterations=(1, 1))
    register_white(Pair(moving, fixed, Grid((48, 48), (1.0, 1.0)), mask=mask), settings, silent)
    deformation = given[0]
    assert deformation.mask.shape[2:] == deformation.displacement.shape[2:] == deformation.grid.shape
    area = float(deformation.mask.sum()) * deformation.grid.cell_volume
    assert area == pytest.approx(float(mask.sum()), rel=0.03)


def test_identical_images_do_not_move():
    image = texture((48, 48))
    found = register_white(Pair(image, image, Grid((48, 48), (1.0, 1.0))), SETTINGS, silent)
    assert float(found.displacement.abs().max()) < 0.05


def test_no_level_ends_worse_than_it_began():
    moving, fixed, _ = displaced((48, 48))
    for optimizer in ("lbfgs", "adam"):
        settings = replace(SETTINGS, optimizer=optimizer)
        found = register_white(Pair(moving, fixed, Grid((48, 48), (1.0, 1.0))), settings, silent)
        for level in found.levels:
            assert min(level.energies) <= level.energies[0]


def test_growth_makes_the_mask_smaller_and_collapse_makes_it_larger():
    moving, fixed, _ = displaced((64, 64), size=1.0)
    mask = ball((64, 64), (32, 32), 9)
    volumes = {}
    for lesion in ("unknown", "grew", "collapsed"):
        pair = Pair(moving, fixed, Grid((64, 64), (1.0, 1.0)), mask=mask)
        found = register_white(pair, replace(SETTINGS, lesion=lesion), silent)
        assert folds(found.displacement) == 0
        volumes[lesion] = float(warp(mask, found.displacement).sum())
    assert volumes["grew"] < volumes["unknown"] < volumes["collapsed"]


def test_the_path_of_several_velocities_undoes_itself():
    flow = WhiteFlow(Gaussian(10.0), Grid((40, 40), (1.0, 1.0)), 4.0, velocities=3, squarings=5)
    white = 8 * torch.randn(flow.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    forward, backward = flow.displacement(white), flow.displacement(white, backward=True)
    assert float(forward.abs().max()) > 0.2
    assert float(flow.lattice.compose(forward, backward).abs().max()) < 0.02


def test_the_norm_of_the_velocity_is_that_of_its_coefficients():
    """On the periodic box, ``<v, K^-1 v> = |w|^2``."""
    flow = WhiteFlow(Gaussian(6.0), Grid((40, 40), (1.0, 1.0)), 4.0)
    white = torch.randn(flow.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    momentum = flow.smoother.root(white)  # K^(1/2) w, so that v = K p with p = K^(-1/2) w would be the same v
    other = torch.randn(flow.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close((momentum * other).sum(), (white * flow.smoother.root(other)).sum())
    assert float(flow.norm(white)) == pytest.approx(float((white**2).sum()) * 16.0)


def test_a_flow_that_would_fold_is_shortened_and_says_so():
    moving, fixed, _ = displaced((48, 48), size=4.0)
    rough = replace(
        SETTINGS, kernel=Gaussian(3.0), spacing=4.0, lam=1e-12, squarings=0, levels=(2.0,), iterations=(25,)
    )
    pair = Pair(moving, fixed.flip(2), Grid((48, 48), (1.0, 1.0)))
    found = register_white(pair, rough, silent)
    assert folds(found.displacement) == 0
    assert "shortened" in found.notes[0]


@pytest.mark.parametrize(
    "similarity", [SquaredDifference(), LocalSquaredDifference(), LocalCorrelation()], ids=repr
)
@pytest.mark.parametrize(
    ("told", "most"),
    [
        ({"lesion": "replaced", "mu": 0.0}, 0.005),
        ({"coupled": True, "mu": 0.1}, 0.005),
        # With mu > 0 the split form weighs, a little, that J has texture under the mask.
        ({"lesion": "replaced", "mu": 0.1}, 0.1),
    ],
    ids=["hidden", "coupled", "split"],
)
def test_a_mask_on_one_side_alone_moves_no_identical_images(similarity, told, most):
    image, grid = texture((48, 40)), Grid((48, 40), (1.0, 1.0))
    settings = replace(SETTINGS, similarity=similarity, **told)
    found = register_white(Pair(image, image, grid, mask=ball((48, 40), (20, 22), 7)), settings, silent)
    assert float(found.displacement.abs().max()) < most


def test_a_lesion_that_took_the_place_of_tissue_keeps_its_volume():
    """Carried by a known map: as much as that says, and no less because its windows are cut off."""
    shape, grid = (72, 64), Grid((72, 64), (1.0, 1.0))
    moving, fixed, truth = displaced(shape)
    mask = ball(shape, (34, 30), 9)
    pair = Pair(torch.where(mask > 0, 0.0, moving), fixed, grid, mask=mask)
    expected = float(warp(mask, truth).sum())
    volumes = {}
    for lesion in ("unknown", "replaced"):
        found = register_white(pair, replace(SETTINGS, lesion=lesion), silent)
        volumes[lesion] = float(warp(mask, found.displacement).sum()) / expected
    assert volumes["replaced"] == pytest.approx(1, abs=0.06)
    assert abs(volumes["replaced"] - 1) < abs(volumes["unknown"] - 1)
