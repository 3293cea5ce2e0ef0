"""Laws that every similarity keeps."""

import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from mmtk.errors import ConfigError, GridMismatch
from mmtk.similarity import (
    IntensityRatioVariance,
    LocalCorrelation,
    LocalSquaredDifference,
    MutualInformation,
    NormalizedCrossCorrelation,
    SquaredDifference,
)

SIMILARITIES = {
    "ssd": SquaredDifference,
    "local_ssd": LocalSquaredDifference,
    "ncc": NormalizedCrossCorrelation,
    "lncc": LocalCorrelation,
    "lncc_stride": lambda **k: LocalCorrelation(radius=1, stride=2, **k),
    "mi": lambda **k: MutualInformation(bins=8, **k),
    "mi_limits": lambda **k: MutualInformation(bins=8, limits=(-0.5, 2.5), **k),
    "ratio": IntensityRatioVariance,
}
POINTS = {2: (9, 8), 3: (6, 5, 7)}
SMALL = {2: (6, 7), 3: (3, 5, 4)}


each = pytest.mark.parametrize("make", SIMILARITIES.values(), ids=SIMILARITIES.keys())


def images(dim, *, batch=1, channels=1, seed=0, dtype=torch.float64):
    """Two random positive images and a weight in [0.2, 1]."""
    generator = torch.Generator().manual_seed(seed)
    shape = POINTS[dim]
    fixed = torch.rand(batch, channels, *shape, generator=generator, dtype=dtype) + 0.2
    moved = fixed + 0.5 * torch.rand(fixed.shape, generator=generator, dtype=dtype)
    weight = 0.2 + 0.8 * torch.rand(batch, 1, *shape, generator=generator, dtype=dtype)
    return moved, fixed, weight


@each
@pytest.mark.parametrize("dim", [2, 3])
def test_the_gradient_by_the_moved_image_is_right(make, dim):
    corner = (..., *(slice(n) for n in SMALL[dim]))
    moved, fixed, weight = (t[corner] for t in images(dim))
    for reduction in ("sum", "mean"):
        similarity = make(reduction=reduction)
        assert gradcheck(lambda m, s=similarity: s(m, fixed, weight), moved.clone().requires_grad_())


@each
def test_the_gradient_by_the_weight_is_right(make):
    moved, fixed, weight = images(2)
    assert gradcheck(lambda w: make()(moved, fixed, w), weight.requires_grad_())


@each
def test_the_gradient_by_the_fixed_image_is_right(make):
    moved, fixed, weight = images(2)
    assert gradcheck(lambda f: make()(moved, f, weight), fixed.clone().requires_grad_())


@each
@pytest.mark.parametrize("dim", [2, 3])
def test_an_image_is_nearest_to_itself(make, dim):
    _, image, weight = images(dim)
    similarity = make()
    best = similarity(image, image, weight)
    for other in (image.flip(-1), image.roll(1, -2), image + 0.3 * images(dim, seed=5)[1]):
        assert similarity(other, image, weight) > best


@each
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_voxels_under_the_mask_cannot_matter(make, data):
    dim = data.draw(st.sampled_from([2, 3]))
    box = []
    for n in POINTS[dim]:
        start = data.draw(st.integers(0, n - 2))
        box.append(slice(start, data.draw(st.integers(start + 1, n - 1))))
    damage = data.draw(st.sampled_from([1e3, -1e3, 1e12, 1e300]))
    moved, fixed, weight = images(dim)
    weight[(..., *box)] = 0
    similarity = make()

    def gradient(m, f):
        m = m.clone().requires_grad_()
        cost = similarity(m, f, weight)
        (g,) = torch.autograd.grad(cost, m)
        return cost.detach(), g

    damaged = torch.where(weight > 0, moved, damage)
    hurt = torch.where(weight > 0, fixed, -damage)
    for m, f in ((damaged, fixed), (moved, hurt), (damaged, hurt)):
        torch.testing.assert_close(gradient(m, f), gradient(moved, fixed), rtol=1e-12, atol=1e-14)
    assert (gradient(damaged, fixed)[1][weight == 0] == 0).all()


@each
def test_no_weight_is_weight_one(make):
    moved, fixed, weight = images(2)
    torch.testing.assert_close(make()(moved, fixed), make()(moved, fixed, torch.ones_like(weight)))


@each
def test_nothing_to_compare_costs_nothing(make):
    moved, fixed, weight = images(2)
    for reduction in ("sum", "mean"):
        assert make(reduction=reduction)(moved, fixed, 0 * weight) == 0


@each
def test_batch_elements_do_not_see_each_other(make):
    moved, fixed, weight = images(2, batch=3)
    weight[1, ..., :4] = 0
    alone = [(moved[i : i + 1], fixed[i : i + 1], weight[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(make()(moved, fixed, weight), sum(make()(*a) for a in alone))
    mean = make(reduction="mean")
    torch.testing.assert_close(mean(moved, fixed, weight), sum(mean(*a) for a in alone) / 3)


@each
def test_channels_add_up_and_weight_zero_leaves_one_out(make):
    moved, fixed, weight = images(2, channels=2)
    similarity = make()
    apart = [similarity(moved[:, [c]], fixed[:, [c]], weight) for c in (0, 1)]
    torch.testing.assert_close(similarity(moved, fixed, weight), apart[0] + apart[1])
    only_first = torch.cat([weight, 0 * weight], dim=1)
    torch.testing.assert_close(similarity(moved, fixed, only_first), apart[0], rtol=1e-14, atol=0)


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_and_device_stay_and_inputs_are_not_written_to(make, dtype):
    moved, fixed, weight = images(3, dtype=dtype)
    before = [t.clone() for t in (moved, fixed, weight)]
    cost = make()(moved.requires_grad_(), fixed, weight)
    cost.backward()
    assert (cost.dtype, cost.device, cost.shape) == (dtype, moved.device, ())
    assert moved.grad.dtype == dtype
    assert all(torch.equal(t, b) for t, b in zip((moved, fixed, weight), before, strict=True))


@each
def test_single_precision_is_near_double(make):
    moved, fixed, weight = images(3)
    single = make()(moved.float(), fixed.float(), weight.float())
    torch.testing.assert_close(single.double(), make()(moved, fixed, weight), rtol=1e-4, atol=1e-4)


@each
def test_the_map_adds_up_to_the_sum(make):
    moved, fixed, weight = images(2, channels=2)
    cost = make(reduction="none")(moved, fixed, weight)
    assert cost.ndim == 4
    torch.testing.assert_close(cost.sum(), make()(moved, fixed, weight))


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
def test_flat_images_have_a_finite_cost_and_no_gradient_but_that_of_squares_and_windows(make, level, dtype):
    _, fixed, weight = images(3, dtype=dtype)
    weight[..., :2] = 0
    flat = torch.full_like(fixed, level).requires_grad_()
    for moved, other in ((flat, fixed), (flat, flat.detach())):
        cost = make(reduction="mean")(moved, other, weight)
        (gradient,) = torch.autograd.grad(cost, flat)
        assert cost.isfinite() and gradient.isfinite().all()
        if isinstance(make(), (MutualInformation, NormalizedCrossCorrelation)) or other is not fixed:
            assert gradient.abs().max() < 1e-5


@pytest.mark.parametrize("radius", [1, 2, (2, 1, 0)])
def test_flat_matches_flat_and_nothing_else_also_at_the_border(radius):
    flat = torch.full((1, 1, 6, 5, 7), 0.7)
    similarity = LocalCorrelation(radius=radius, reduction="none")
    for other in (flat, flat - 0.3):
        torch.testing.assert_close(similarity(flat, other), torch.zeros_like(flat), atol=1e-3, rtol=0)
    textured = 10 * torch.rand(flat.shape, generator=torch.Generator().manual_seed(0))
    assert similarity(flat, textured).min() > 0.99
    assert LocalSquaredDifference(radius=radius).prepare(flat).abs().max() < 1e-4


@each
def test_a_similarity_survives_pickling(make):
    moved, fixed, weight = images(2)
    if "<lambda>" in repr(make):
        assert torch.equal(pickle.loads(pickle.dumps(make()))(moved, fixed, weight), make()(moved, fixed, weight))


@each
def test_images_on_two_grids_are_refused(make):
    moved, fixed, weight = images(2)
    with pytest.raises(GridMismatch, match="resample `moved` onto the grid of `fixed` first"):
        make()(moved[..., 1:], fixed, weight)
    with pytest.raises(GridMismatch, match="`weight` has shape"):
        make()(moved, fixed, weight[..., 1:])
    with pytest.raises(GridMismatch, match="`weight` has shape"):
        make()(moved, fixed, weight.expand(1, 3, -1, -1))


@each
def test_an_unknown_reduction_is_refused(make):
    with pytest.raises(ConfigError, match="reduction: 'total' is unknown; use one of sum, mean, none"):
        make(reduction="total")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: LocalCorrelation(radius=0), "leaves no neighbor"),
        (lambda: LocalSquaredDifference(eps=0), "must be positive"),
        (lambda: LocalCorrelation(stride=0), "stride: 0"),
        (lambda: MutualInformation(bins=1), "bins: 1"),
        (lambda: MutualInformation(limits=(1, 0)), "two rising intensities"),
        (lambda: IntensityRatioVariance(eps=-1), "eps: -1"),
    ],
)
def test_parameters_without_meaning_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        wrong()


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_as_small_as_numbers_can_be_count_as_none(make, dtype):
    # A mask that was smoothed ends in such: one over them is infinite.
    moved, fixed, weight = images(2, dtype=dtype)
    weight[..., :5] = torch.finfo(dtype).smallest_normal * 2.0**-8
    weight[..., :2] = 0
    for image in (moved, fixed):  # within the range of what counts, which mutual information divides into bins
        image[..., :5] = image[..., 5:6]
    gone = torch.where(weight > 0.1, weight, 0)
    (slope,) = torch.autograd.grad(make()(moved.requires_grad_(), fixed, weight), moved)
    torch.testing.assert_close(make()(moved, fixed, weight), make()(moved, fixed, gone))
    assert bool(slope.isfinite().all())
