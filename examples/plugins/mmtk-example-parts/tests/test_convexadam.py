import pytest
import torch
from mmtk.config import ComponentConfig
from mmtk.errors import ConfigError
from mmtk.fields import Grid, warp
from mmtk.method import Milestones, Pair
from mmtk.plugins import installed
from mmtk.similarity import SquaredDifference
from mmtk.testing import BundleContract, MethodContract

from mmtk_example_parts.plugin import ConvexAdamConfig
from mmtk_example_parts.search import candidates, costs, coupled

GRID = Grid((64, 56), (2.0, 2.0))


def config(**settings) -> ComponentConfig:
    return ConvexAdamConfig.model_validate(settings, context={"catalogue": installed()})


class TestConvexAdam(MethodContract):
    """Every law of a method: images come nearer, rest stays, mask, orientation, spacing, folds, inverse, memory."""

    @pytest.fixture
    def part(self):
        return config(iterations=50, resolution=4)


@pytest.mark.slow
class TestBundle(BundleContract):
    """Every law of a bundle; its files are read, and it is run by mmtk and by MONAI."""

    @pytest.fixture
    def bundle(self):
        return "convexadam"


def texture(shape=GRID.shape, seed=0):
    """Smooth noise in [0, 1], with details of some four voxels."""
    noise = torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(seed))
    for _ in range(3):
        noise = torch.nn.functional.avg_pool2d(noise, 3, 1, 1, count_include_pad=False)
    return (noise - noise.min()) / (noise.max() - noise.min())


def pair(shift, *, contrast=lambda image: image, **masks):
    """A texture and the same shifted by so many voxels."""
    wide = texture((96, 88))
    fixed = wide[..., 16:80, 16:72]
    moving = wide.roll(shift, (2, 3))[..., 16:80, 16:72]
    return Pair(contrast(moving), fixed, GRID, **masks)


def missed(found, shift):
    """How far the displacement is from the shift, off the border; the mean, in voxels."""
    truth = torch.tensor(shift, dtype=torch.float32).view(1, 2, 1, 1)
    return float((found.displacement - truth)[..., 12:-12, 12:-12].norm(dim=1).mean())


def test_the_search_finds_what_lies_beyond_the_reach_of_a_gradient():
    shift = (6, -5)  # 12 and 10 mm, in a texture that repeats nothing and has details of 8 mm
    alone = config(search=0).build().register(pair(shift))
    assert missed(alone, shift) > 3
    assert missed(config().build().register(pair(shift)), shift) < 0.3


def test_another_contrast_does_not_matter():
    shift = (2, 1)
    found = config().build().register(pair(shift, contrast=lambda image: torch.cos(4 * image)))
    assert missed(found, shift) < 0.4


def test_what_the_mask_hides_neither_matters_nor_attracts():
    shift, mask = (3, -2), torch.zeros(1, 1, *GRID.shape)
    mask[..., 26:40, 20:34] = 1
    plain = pair(shift, mask=mask)
    hurt = Pair(torch.where(mask > 0, 5.0, plain.moving), plain.fixed, GRID, mask=mask)
    method = config().build()
    one, other = method.register(plain), method.register(hurt)
    torch.testing.assert_close(one.displacement, other.displacement)
    assert missed(one, shift) < 0.3
    # Nothing but its surroundings holds the mask's size; a sum of costs, which hiding lowers, makes it 17% larger.
    assert float(warp(mask, one.displacement).sum()) == pytest.approx(float(mask.sum()), rel=0.15)


def test_nothing_to_compare_is_told():
    with pytest.raises(ConfigError, match="give smaller masks"):
        config().build().register(pair((0, 0), mask=torch.ones(1, 1, *GRID.shape)))


def test_a_similarity_without_a_cost_at_every_voxel_cannot_be_searched_with():
    with pytest.raises(ConfigError, match="has no cost at every voxel"):
        config(similarity={"kind": "lncc", "stride": 2}).build().register(pair((0, 0)))


@pytest.mark.parametrize("similarity", ["ssd", "local_ssd", "lncc"])
def test_it_works_with_what_else_compares_voxel_by_voxel(similarity):
    shift = (4, 3)
    assert missed(config(similarity=similarity).build().register(pair(shift)), shift) < 0.5


def test_a_run_that_was_stopped_after_the_search_ends_as_it_would_have():
    class Kept(Milestones):
        def __init__(self, *kept):
            self.kept = list(kept)

        def last(self):
            return self.kept[-1] if self.kept else None

        def reached(self, milestone):
            self.kept.append(milestone)

    method, case = config(iterations=10).build(), pair((4, 3))
    method.milestones = whole = Kept()
    expected = method.register(case)
    assert [len(milestone.levels) for milestone in whole.kept] == [1, 2]
    for done in (1, 2):
        method.milestones = Kept(whole.kept[done - 1])
        found = method.register(case)
        assert torch.equal(found.displacement, expected.displacement)
        assert found.energies == expected.energies


def test_every_displacement_is_tried_once_and_the_nearest_first():
    tried = candidates(2, torch.zeros(1), 2)
    assert tried.shape == (25, 2) and len({tuple(d) for d in tried.tolist()}) == 25
    lengths = tried.norm(dim=1)
    assert tried[0].tolist() == [0, 0] and bool((lengths[1:] >= lengths[:-1]).all())


def test_the_cost_of_the_true_displacement_is_least_and_what_is_hidden_costs_the_mean():
    image, ones = texture((20, 18)), torch.ones(1, 1, 20, 18)
    tried = candidates(2, image, 2)
    weight = ones.clone()
    weight[..., 10:, :] = 0
    cost = costs(SquaredDifference(), image.roll((1, -2), (2, 3)), image, weight, ones, tried)
    true = tried.tolist().index([1.0, -2.0])
    assert float(cost[true, 2:7, 4:-4].max()) < 1e-12
    assert bool((cost[:, 2:7, 4:-4].argmin(0) == true).all())
    hidden = cost[:, 14:]  # no displacement of 2 leads out of the mask
    torch.testing.assert_close(hidden, hidden[:1].expand_as(hidden))
    assert bool(cost.isfinite().all())


def test_neighbors_are_made_to_agree():
    tried = candidates(3, torch.zeros(1), 2)
    truth, lure = (tried.tolist().index(d) for d in ([2.0, 1.0], [-3.0, 3.0]))
    cost = torch.ones(len(tried), 9, 9)
    cost[truth] = 0.2
    cost[lure, 4, 4] = 0.1  # at one node, another displacement is cheaper
    field = coupled(cost, tried)
    torch.testing.assert_close(field, torch.tensor([2.0, 1.0]).view(1, 2, 1, 1).expand_as(field))
