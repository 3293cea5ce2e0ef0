"""Linear + deformable CNN: the laws of its layers, its network, and its classifier."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtk.errors import ConfigError
from mmtk.fields import Grid, folds, identity, jacobian_determinant, warp
from mmtk.learned import Batch
from mmtk.method import Pair
from mmtk.similarity import SquaredDifference
from mmtk_lindef.classifier import cross_validate, stratified
from mmtk_lindef.layers import affine_displacement, combined, identity_matrix, integrated, slopes_of
from mmtk_lindef.network import LinearDeformable, receptive_field
from mmtk_lindef.plugin import LinearDeformableConfig

SMALL = {"widths": (4, 6), "dilations": (1, 2), "decoder": (5,), "squeeze": 4}


def network(shape=(12, 14), **settings):
    torch.manual_seed(0)
    similarity = SquaredDifference(reduction="none")
    grid = Grid(shape, (2.0,) * len(shape))
    return LinearDeformable(grid, similarity=similarity, **{**SMALL, **settings})


def batch(shape=(12, 14), count=2):
    torch.manual_seed(1)
    return Batch(torch.rand(count, 1, *shape), torch.rand(count, 1, *shape))


def stirred(model):
    """The network with heads that answer something."""
    torch.manual_seed(2)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.startswith(("slopes", "matrix")):
                p.add_(0.05 * torch.randn_like(p))
    return model


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), dim=st.integers(2, 3), scale=st.floats(0.01, 8))
def test_each_coordinate_grows_along_its_own_axis(seed, dim, scale):
    shape = (9, 8, 7)[:dim]
    draw = torch.Generator().manual_seed(seed)
    slopes = slopes_of(scale * torch.randn(1, dim, *shape, generator=draw, dtype=torch.float64))
    points = identity(shape, dtype=torch.float64) + integrated(slopes)
    for axis in range(dim):
        steps = points[:, axis].diff(dim=axis + 1)
        assert float(steps.min()) > 0 and float(steps.max()) < 2
        torch.testing.assert_close(steps, slopes[:, axis].narrow(axis + 1, 1, shape[axis] - 1))


def test_and_yet_it_folds():
    """The paper's "no self-crossings" holds along lines of the grid alone: neighbors of two lines may change places."""
    shape = (24, 24)
    slopes = torch.ones(1, 2, *shape)
    slopes[:, 0, 4:12, 12:] = 0.2  # beyond column 12 rows lag behind, and columns beyond row 12 likewise
    slopes[:, 1, 12:, 4:12] = 0.2
    displacement = integrated(slopes)
    points = identity(shape) + displacement
    assert all(float(points[:, a].diff(dim=a + 1).min()) > 0 for a in (0, 1))
    assert folds(displacement) > 0 and float(jacobian_determinant(displacement).min()) < 0


def test_slopes_of_one_are_the_identity_and_constant_slopes_a_scaling():
    assert not integrated(torch.ones(2, 3, 5, 6, 7)).any()
    scaled = identity((6, 5)) + integrated(torch.full((1, 2, 6, 5), 0.5))
    torch.testing.assert_close(scaled[0, 0, :, 0], 0.5 * torch.arange(1.0, 7) - 1)


@pytest.mark.parametrize("shape", [(5, 4), (3, 4, 3)])
def test_gradients_of_the_layers(shape):
    dim = len(shape)
    draw = torch.Generator().manual_seed(3)
    answer = torch.randn(1, dim, *shape, generator=draw, dtype=torch.float64, requires_grad=True)
    matrix = identity_matrix(dim, answer) + 0.05 * torch.randn(
        1, dim, dim + 1, generator=draw, dtype=torch.float64
    )
    image = torch.rand(1, 1, *shape, generator=draw, dtype=torch.float64)

    def whole(answer, matrix):
        u = combined(integrated(slopes_of(0.1 * answer)), affine_displacement(matrix, shape))
        return u, warp(image, u)

    assert torch.autograd.gradcheck(lambda a: integrated(slopes_of(a)), (answer,))
    assert torch.autograd.gradcheck(whole, (answer, matrix.detach().requires_grad_()))


@pytest.mark.parametrize("shape", [(7, 10), (4, 6, 5)])
def test_the_affine_map_is_that_of_its_matrix(shape):
    dim = len(shape)
    matrix = identity_matrix(dim, torch.zeros(1, dtype=torch.float64))[None].clone()
    matrix[0, 0, 0], matrix[0, 1, 0], matrix[0, 0, dim] = 0.5, 0.1, 0.2
    points = identity(shape, dtype=torch.float64) + affine_displacement(matrix, shape)
    corner = points[(0, slice(None), *(0,) * dim)]
    half = torch.tensor([(n - 1) / 2 for n in shape], dtype=torch.float64)
    expected = half + half * (matrix[0, :, :dim] @ -torch.ones(dim, dtype=torch.float64) + matrix[0, :, dim])
    torch.testing.assert_close(corner, expected)


def test_the_image_is_pulled_back_by_the_deformable_map_and_then_by_the_linear_one():
    """Eq. 3 by two resamplings, on an image that linear interpolation keeps exact inside."""
    shape = (30, 30)
    ramp = identity(shape)[:, :1] + 2 * identity(shape)[:, 1:]
    slopes = torch.ones(1, 2, *shape)
    slopes[:, 0, 8:14], slopes[:, 0, 16:22] = 1.3, 0.7
    matrix = torch.tensor([[[0.9, 0.05, 0.0], [0.0, 0.95, 0.03]]])
    deformable, linear = integrated(slopes), affine_displacement(matrix, shape)
    twice = warp(warp(ramp, deformable), linear)
    once = warp(ramp, combined(deformable, linear))
    inner = (..., slice(4, -4), slice(4, -4))
    torch.testing.assert_close(once[inner], twice[inner], atol=0.02, rtol=0)


def test_the_published_sizes():
    config = LinearDeformableConfig()
    assert 2 + sum(config.widths) == 290 and receptive_field(config.dilations) == 25
    assert (config.alpha, config.beta) == (1e-6, 1e-6)
    model = network((32, 32), widths=config.widths, dilations=config.dilations)
    assert model.features(torch.rand(1, 2, 32, 32)).shape == (1, 290, 32, 32)


def test_a_feature_sees_as_many_voxels_as_it_says():
    model = network((40, 40), widths=(3,) * 5, dilations=(1, 1, 2, 3, 5))
    for layer in model.encoder:  # a normalization looks everywhere
        layer[1] = torch.nn.Identity()
    images = torch.rand(1, 2, 40, 40, requires_grad=True)
    model.features(images)[0, -3:, 20, 20].sum().backward()
    touched = images.grad.abs().sum((0, 1)).nonzero()
    assert (touched.max(0).values - touched.min(0).values + 1).tolist() == [25, 25]


@pytest.mark.parametrize("shape", [(12, 14), (9, 10, 8)])
@pytest.mark.parametrize("settings", [{}, {"linear": False}, {"reduce": 2}])
def test_untrained_it_is_the_identity(shape, settings):
    found = network(shape, **settings)(batch(shape), maps=True)
    assert not found.displacement.any() and not found.inverse.any() and not found.cost.any()


def test_the_energy_is_that_of_eq_4():
    model, pairs = stirred(network(alpha=0.3, beta=0.02)), batch()
    found = model(pairs)
    answer, matrix = found.path
    squares = (warp(pairs.moving, found.displacement) - pairs.fixed).square().flatten(1).mean(1)
    far = 0.3 * (matrix - identity_matrix(2, matrix)).abs().sum((1, 2))
    rough = 0.02 * (slopes_of(answer) - 1).abs().sum((1, 2, 3))
    area = model.grid.size * model.grid.cell_volume
    torch.testing.assert_close(found.energy, 0.5 * area * (squares + far + rough))


def test_following_its_own_answer_is_the_forward_pass_and_the_inverse_is_one():
    model, pairs = stirred(network()), batch()
    found = model(pairs, maps=True)
    again = model.follow(pairs, model.predict(pairs))
    assert (
        torch.equal(found.displacement, again.displacement)
        and float(found.displacement.detach().abs().max()) > 0.05
    )
    assert folds(found.displacement) == 0
    back = found.inverse + warp(found.displacement, found.inverse)
    assert float(back.detach()[..., 3:-3, 3:-3].abs().max()) < 0.06


def test_masked_it_does_not_see_the_lesion():
    pairs = batch(count=1)
    mask = torch.zeros(1, 1, 12, 14)
    mask[..., 4:7, 5:9] = 1
    seen = [
        stirred(network(masked=True))(Batch(torch.where(mask > 0, value, pairs.moving), pairs.fixed, mask))
        for value in (0.2, 7.0)
    ]
    assert torch.equal(seen[0].displacement, seen[1].displacement) and torch.equal(seen[0].data, seen[1].data)


def test_trained_on_one_pair_it_registers():
    config = LinearDeformableConfig(
        engine="optimize", iterations=60, learning_rate=3e-3, widths=(8, 8, 8), dilations=(1, 2, 3), decoder=(8,)
    )
    x = identity((24, 26))
    blob = torch.exp(-((x - 12).square().sum(1, keepdim=True)) / 30)
    other = torch.exp(-((x[:, :1] - 13.5) ** 2 / 45 + (x[:, 1:] - 12) ** 2 / 25))
    torch.manual_seed(0)
    found = config.build().register(Pair(blob, other, Grid((24, 26), (1.0, 1.0))))
    left = (warp(blob, found.displacement) - other).square().mean() / (blob - other).square().mean()
    assert float(left) < 0.3


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="equally long: 2 against 5"):
        LinearDeformableConfig(widths=(4, 4))


@given(n=st.integers(4, 40), folds=st.integers(2, 4), seed=st.integers(0, 99))
def test_folds_deal_out_everybody_once(n, folds, seed):
    ill = torch.arange(n) % 3 == 0
    if min(int(ill.sum()), int((~ill).sum())) < folds:
        with pytest.raises(ConfigError, match="each fold needs one of either kind"):
            stratified(ill, folds, seed)
        return
    parts = stratified(ill, folds, seed)
    assert sorted(torch.cat(parts).tolist()) == list(range(n))
    sizes = [int(ill[part].sum()) for part in parts]
    assert max(sizes) - min(sizes) <= 1


def test_the_classifier_finds_who_moves_less_and_nothing_where_there_is_nothing():
    draw = torch.Generator().manual_seed(0)
    ill = torch.arange(40) % 2 == 0
    motion = torch.randn(40, 2, 12, 10, generator=draw)
    told = motion.clone()
    told[ill, 1, 6:, :] -= 2
    found = cross_validate(told, ill, epochs=60)
    assert found.accuracy > 0.9 and len(found.models) == 5
    assert bool(((found.judge(told) > 0.5) == ill).float().mean() > 0.9)
    chance = cross_validate(motion, ill, epochs=60)
    assert chance.accuracy < 0.5 + 3 * math.sqrt(0.25 / 40)


def test_weights_of_slices_register_a_volume_slice_by_slice(tmp_path):
    import numpy as np

    from mmtk.learned import Weights

    config = LinearDeformableConfig(engine="optimize", **SMALL)
    method = config.build()
    grid = Grid((12, 14), (2.0, 2.0))
    model = stirred(method.make(grid, dict(method.settings)))
    file = tmp_path / "model.safetensors"
    Weights("linear_deformable_cnn", method.settings, grid, np.diag([2.0, 2, 8, 1]), model.state_dict()).save(file)
    method = LinearDeformableConfig(weights=str(file)).build()
    torch.manual_seed(4)
    moving, fixed = torch.rand(2, 1, 1, 12, 14, 3)
    volume = Pair(moving, fixed, Grid((12, 14, 3), (2.0, 2.0, 8.0)), affine=np.diag([2.0, 2, 8, 1]))
    found = method.register(volume)
    assert found.displacement.shape == (1, 3, 12, 14, 3) and not found.displacement[:, 2].any()
    one = method.register(Pair(moving[..., 1], fixed[..., 1], grid, affine=np.diag([2.0, 2, 8, 1])))
    torch.testing.assert_close(found.displacement[:, :2, ..., 1], one.displacement)
    assert float(one.displacement.abs().max()) > 0.05 and "slice by slice" in found.notes[-1]
