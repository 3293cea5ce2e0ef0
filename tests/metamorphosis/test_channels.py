"""Several channels: one velocity, a residual for each (thesis eq. 6.2, appendix A.1)."""

from dataclasses import replace

import pytest
import torch

from mmtk.config import ComponentConfig
from mmtk.errors import ConfigError
from mmtk.fields import Gaussian, Grid, folds
from mmtk.integrators import Eulerian, Lagrangian, SemiLagrangian, Sharp
from mmtk.method import Pair
from mmtk.optimize import level_axes
from mmtk.plugins import installed
from mmtk.similarity import ChannelSimilarity, LocalSquaredDifference, SquaredDifference
from mmtk_metamorphosis.momentum import _LevelEnergy as ShootingEnergy
from mmtk_metamorphosis.primal import _LevelEnergy as WhiteEnergy
from mmtk_metamorphosis.settings import Settings
from mmtk_metamorphosis.white import WhiteFlow
from tests.metamorphosis.test_primal import ball, displaced, texture

SHAPE = (40, 36)
GRID = Grid(SHAPE, (1.0, 1.0))
FORMS = [
    dict(),
    dict(momentum="coupled"),
    dict(momentum="coupled", shape="momentum"),
    dict(shape="momentum"),
]
SCHEMES = [Eulerian(), SemiLagrangian(), Sharp(), Lagrangian()]


def method(**settings):
    usual = {"sigma": (8.0,), "levels": (4.0, 2.0), "iterations": (5, 4), "steps": 5}
    chosen = installed().find("method", "metamorphosis")
    config = chosen.model_validate(
        {"kind": "metamorphosis", **usual, **settings}, context={"catalogue": installed()}
    )
    return config.build()


def pair(channels=1, masks=1):
    """Channels that moved alike: the first two show other things at other places."""
    images = []
    for seed in range(channels):
        moving, fixed, _ = displaced(SHAPE, seed=5)
        other = texture(SHAPE, seed=seed + 7)
        images.append((moving, fixed) if seed == 0 else (other, other.roll(2, 2)))
    moving, fixed = (torch.cat(side, 1) for side in zip(*images, strict=True))
    mask = torch.cat([ball(SHAPE, (18 + 3 * c, 15), 5) for c in range(masks)], 1)
    return Pair(moving, fixed, GRID, mask=mask)


def channel(whole, c):
    cut = whole.mask if whole.mask.shape[1] == 1 else whole.mask[:, c : c + 1]
    return replace(whole, moving=whole.moving[:, c : c + 1], fixed=whole.fixed[:, c : c + 1], mask=cut)


@pytest.mark.parametrize("form", FORMS)
def test_the_scalar_form_is_that_of_one_channel(form):
    one, other = (method(**form, **more).register(pair()) for more in ({}, {"channel_weights": (1.0,)}))
    assert torch.equal(one.displacement, other.displacement)
    assert torch.equal(one.appearance, other.appearance)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("masks", [1, 2])
def test_a_channel_of_weight_0_is_as_good_as_none_to_the_bit(form, masks):
    both = pair(2, masks)
    without = method(**form).register(channel(both, 0))
    zero = method(**form, channel_weights=(1.0, 0.0)).register(both)
    assert torch.equal(zero.displacement, without.displacement)
    assert torch.equal(zero.inverse, without.inverse)
    assert torch.equal(zero.appearance[:, :1], without.appearance)
    assert not zero.appearance[:, 1:].any()  # it counts for nothing, so nothing is known to paint it with


@pytest.mark.parametrize("form", FORMS)
def test_every_channel_has_its_own_residual_within_the_mask(form):
    both = pair(2)
    found = method(**form).register(both)
    assert found.appearance.shape == (1, 2, *SHAPE)
    assert folds(found.displacement) == 0
    inside = found.appearance[0].abs().amax((1, 2))
    assert (inside > 1e-3).all()
    assert float((found.appearance[0, 0] - found.appearance[0, 1]).abs().max()) > 1e-3


@pytest.mark.parametrize("form", FORMS)
def test_the_order_of_the_channels_does_not_matter(form):
    both = pair(2)
    turned = replace(both, moving=both.moving.flip(1), fixed=both.fixed.flip(1))
    there = method(**form, channel_weights=(1.0, 0.3)).register(both)
    back = method(**form, channel_weights=(0.3, 1.0)).register(turned)
    assert float((there.displacement - back.displacement).abs().max()) < 0.02


@pytest.mark.parametrize("form", FORMS)
def test_two_equal_channels_of_half_the_weight_are_one(form):
    one = pair()
    twice = replace(one, moving=one.moving.expand(-1, 2, -1, -1), fixed=one.fixed.expand(-1, 2, -1, -1))
    # Shooting has an unknown for each channel, so it does not go the same way; its energy at a momentum is the same.
    if form.get("shape") == "momentum":
        energies = []
        for images, weights in ((one, (1.0,)), (twice, (0.5, 0.5))):
            parts = [SquaredDifference() for _ in weights]
            similarity = parts[0] if len(parts) == 1 else ChannelSimilarity(parts, weights)
            settings = Settings(
                kernel=Gaussian(8.0), spacing=None, similarity=similarity, lam=1e-3, mu=0.3,
                coupled=form.get("momentum") == "coupled", integrator=Lagrangian(), steps=5,
            )  # fmt: skip
            level = level_axes(GRID, images.box, 2.0)
            energy = ShootingEnergy(images, level, settings, Lagrangian())
            z = torch.randn(energy.shape[2:], generator=torch.Generator().manual_seed(3)).expand(energy.shape)
            energies.append(float(energy.energy(0.2 * z)))
        assert energies[0] == pytest.approx(energies[1], rel=1e-5)
        return
    there = method(**form).register(one)
    back = method(**form, channel_weights=(0.5, 0.5)).register(twice)
    assert float((there.displacement - back.displacement).abs().max()) < 0.02


def test_several_channels_find_what_none_of_them_shows_alone():
    """One channel has texture in the upper half, the other in the lower one; together they show all of the motion."""
    moving, fixed, truth = displaced(SHAPE)
    upper = torch.zeros(1, 1, *SHAPE)
    upper[..., : SHAPE[0] // 2, :] = 1
    halves = [(image * upper, image * (1 - upper)) for image in (moving, fixed)]
    whole = Pair(*(torch.cat(side, 1) for side in halves), GRID)
    inner = (slice(None), slice(None), slice(5, -5), slice(5, -5))
    errors = []
    for part in (whole, *(Pair(halves[0][c], halves[1][c], GRID) for c in (0, 1))):
        found = method(iterations=(12, 12)).register(part)
        errors.append(float((found.displacement - truth)[inner].norm(dim=1).mean()))
    assert errors[0] < 0.8 * min(errors[1:])


@pytest.mark.parametrize("masks", [1, 2])
def test_the_gradients_are_those_of_the_energies(masks):
    both = pair(2, masks)
    both = replace(both, **{name: getattr(both, name).double() for name in ("moving", "fixed", "mask")})
    level = level_axes(GRID, both.box, 2.0)
    parts = [LocalSquaredDifference(), SquaredDifference()]
    for coupled in (False, True):
        settings = Settings(
            kernel=Gaussian(8.0), spacing=4.0, similarity=ChannelSimilarity(parts, (1.0, 0.4)), lam=1e-3, mu=0.3,
            coupled=coupled, lesion="grew", integrator=Lagrangian(), steps=4,
        )  # fmt: skip
        flow = WhiteFlow(settings.kernel, GRID, 4.0)
        shooting = replace(settings, spacing=None)
        for energy, size in (
            (WhiteEnergy(both, level, flow, settings), flow.shape),
            (ShootingEnergy(both, level, shooting, Lagrangian()), None),
        ):
            draw = torch.Generator().manual_seed(1)
            at = 0.3 * torch.randn(size or energy.shape, generator=draw, dtype=torch.float64).flatten()
            along = torch.randn(at.shape, generator=draw, dtype=torch.float64)
            h = 1e-5
            slope = (energy(at + h * along)[0] - energy(at - h * along)[0]) / (2 * h)
            assert slope == pytest.approx(float(energy(at)[1] @ along), rel=2e-4)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: type(scheme).__name__)
def test_every_scheme_shoots_several_channels(scheme):
    """A channel without momentum is carried along and changes nothing; a mask for each channel is that channel's."""
    from mmtk.equations import Metamorphosis
    from mmtk.integrators import Context

    both = pair(2, 2)
    equation = Metamorphosis.from_kernel(Gaussian(6.0), GRID, 0.1)
    z = 20 * torch.randn(1, 2, *SHAPE, generator=torch.Generator().manual_seed(2))
    z[:, 1] = 0

    def shot(image, momentum, mask):
        state = scheme.begin(equation, image, momentum, Context(mask=mask, back=True))
        for _ in range(5):
            state = scheme.step(equation, state, 0.2)
        return state

    two = shot(both.moving, z, both.mask)
    one = shot(both.moving[:, :1], z[:, :1], both.mask[:, :1])
    assert torch.allclose(two.image[:, :1], one.image, atol=1e-5)
    assert torch.allclose(two.displacement, one.displacement, atol=1e-5)
    assert float((two.image[:, 1:] - both.moving[:, 1:]).abs().max()) > 1e-3  # it moved


def test_weights_and_similarities_are_one_for_each_channel():
    with pytest.raises(ConfigError, match="channel_weights: 2 for 1 channels"):
        method(channel_weights=(1.0, 1.0)).register(pair())
    with pytest.raises(ConfigError, match="channel_similarity: 3 for 2 channels"):
        method(channel_similarity=("ssd",) * 3).register(pair(2))
    with pytest.raises(ValueError, match="at least one must be > 0"):
        method(channel_weights=(0.0, 0.0))
    with pytest.raises(ValueError, match=r"channel_similarity=ssd,ssd and channel_weights=1 must be equally long"):
        method(channel_similarity=("ssd", "ssd"), channel_weights=(1.0,))


def test_each_channel_may_be_compared_in_its_own_way():
    both = pair(2)
    mixed = method(channel_similarity=("local_ssd", "mi"), levels=(2.0,), iterations=(3,)).register(both)
    plain = method(levels=(2.0,), iterations=(3,)).register(both)
    assert not torch.equal(mixed.displacement, plain.displacement)
    assert folds(mixed.displacement) == 0
    assert isinstance(installed().find("similarity", "mi")(), ComponentConfig)
