import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmtk.errors import ConfigError, GridMismatch
from mmtk.testing import SimilarityContract

from mmtk_example_parts.plugin import MindSSCConfig


class TestMindSSC(SimilarityContract):
    """Every law of a similarity: gradient, minimum, mask, orientation, batch, dtype, memory, errors."""

    @pytest.fixture(params=[MindSSCConfig(), MindSSCConfig(step=1, radius=0)], ids=["usual", "narrow"])
    def part(self, request):
        return request.param


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_definition(image, weight, step, radius, eps, at):
    """The descriptor of one voxel, as a set: from the definition, a voxel of a patch at a time."""
    dim = image.ndim
    ends = [
        tuple(s * sign if a == axis else 0 for a in range(dim)) for axis, s in enumerate(step) for sign in (1, -1)
    ]
    distances = []
    for p, q in itertools.combinations(ends, 2):
        if all(a == -b for a, b in zip(p, q, strict=True)):
            continue  # they face one another
        total = count = 0.0
        for r in itertools.product(*[range(-n, n + 1) for n in radius]):
            x, y = ([a + b + c for a, b, c in zip(at, side, r, strict=True)] for side in (p, q))
            if all(0 <= i < n for i, n in zip([*x, *y], [*image.shape] * 2, strict=True)):
                both = float(weight[tuple(x)] * weight[tuple(y)])
                total += both * float(image[tuple(x)] - image[tuple(y)]) ** 2
                count += both
        distances.append(total / count if count else None)
    seen = [d for d in distances if d is not None]
    above = [d - min(seen) for d in seen]
    mean = sum(above) / len(above)
    everything = [mean if d is None else d - min(seen) for d in distances]
    return sorted(math.exp(-d / (mean + eps)) for d in everything)


@pytest.mark.parametrize(("shape", "spacing"), [((7, 8), (1.0, 2.0)), ((7, 6, 5), (1.0, 1.0, 2.0))])
def test_it_is_what_its_definition_says_at_the_border_and_beside_a_mask_too(shape, spacing):
    image, weight = random(1, 1, *shape), random(1, 1, *shape, seed=1)
    weight[..., 2:4, 1:3] = 0
    found = MindSSCConfig(step=2, radius=1, eps=0.01).build().prepare(image, weight, spacing=spacing)
    assert found.shape[1] == {2: 4, 3: 12}[len(shape)]
    step, radius = ([2, 1], [1, 0]) if len(shape) == 2 else ([2, 2, 1], [1, 1, 0])
    for at in itertools.product(*[(0, n // 2, n - 1) for n in shape]):
        expected = by_definition(image[0, 0], weight[0, 0], step, radius, 0.01, at)
        torch.testing.assert_close(found[(0, slice(None), *at)].sort().values, torch.tensor(expected).to(found))


def test_a_ramp_has_a_closed_form_in_millimeters():
    # I = 0.3 x + 0.1 y with x, y in mm. Neighbors are 2 mm away, so pairs differ by 2 (0.3 +- 0.1).
    x, y = torch.meshgrid(torch.arange(12.0), 2 * torch.arange(9.0), indexing="ij")
    found = MindSSCConfig(eps=0.01).build().prepare((0.3 * x + 0.1 * y)[None, None], spacing=(1.0, 2.0))
    distances = torch.tensor([(2 * (0.3 - 0.1)) ** 2] * 2 + [(2 * (0.3 + 0.1)) ** 2] * 2)
    above = distances - distances.min()
    expected = torch.exp(-above / (above.mean() + 0.01)).sort().values
    inner = found[0, :, 3:-3, 2:-2].flatten(1).sort(0).values
    torch.testing.assert_close(inner, expected[:, None].expand_as(inner))


@settings(max_examples=20, deadline=None)
@given(gain=st.floats(0.1, 10), sign=st.sampled_from([-1, 1]), offset=st.floats(-5, 5))
def test_brightness_and_contrast_of_either_sign_do_not_matter(gain, sign, offset):
    image = random(1, 1, 8, 9)
    one = MindSSCConfig(eps=0.01).build().prepare(image)
    other = MindSSCConfig(eps=0.01 * gain**2).build().prepare(sign * gain * image + offset)
    torch.testing.assert_close(other, one)


def test_an_image_in_another_contrast_matches_best_where_it_lies():
    smooth = torch.nn.functional.avg_pool2d(random(1, 1, 44, 44), 5, 1)
    image = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    other = torch.cos(5 * image)  # no function of one sign: bright and dark become one
    similarity = MindSSCConfig().build()
    inner = torch.zeros_like(image)
    inner[..., 8:-8, 8:-8] = 1
    costs = {
        shift: float(similarity(other.roll(shift, (2, 3)), image, inner))
        for shift in itertools.product(range(-3, 4), repeat=2)
    }
    assert min(costs, key=costs.get) == (0, 0)


def test_what_is_hidden_might_as_well_be_cut_off():
    image, weight = random(1, 1, 9, 12), torch.ones(1, 1, 9, 12, dtype=torch.float64)
    weight[..., 8:] = 0
    similarity = MindSSCConfig().build()
    hidden, cut = similarity.prepare(image, weight)[..., :8], similarity.prepare(image[..., :8])
    torch.testing.assert_close(hidden, cut)


def test_a_finer_image_has_neighbors_as_far_away():
    image = random(1, 1, 16, 9)
    fine = MindSSCConfig(step=1, radius=1).build().prepare(image, scale=(2, 1), spacing=(0.5, 1.0))
    same = MindSSCConfig(step=2, radius=2).build().prepare(image, spacing=(1.0, 2.0))
    torch.testing.assert_close(fine, same)


def test_channels_are_described_and_weighed_one_by_one():
    moved, fixed, weight = random(2, 2, 8, 9), random(2, 2, 8, 9, seed=1), random(2, 2, 8, 9, seed=2)
    similarity = MindSSCConfig().build()
    alone = [similarity(*(t[:, c : c + 1] for t in (moved, fixed, weight))) for c in range(2)]
    torch.testing.assert_close(similarity(moved, fixed, weight), alone[0] + alone[1])
    torch.testing.assert_close(similarity.prepare(moved)[:, 4:], similarity.prepare(moved[:, 1:]))
    with pytest.raises(GridMismatch):
        similarity(moved, fixed, weight[..., 1:])


def test_what_cannot_be_is_refused_in_one_go():
    from mmtk_example_parts.mind import MindSSC

    with pytest.raises(
        ConfigError, match=r"(?s)step: 0 must be 1 or more.*radius: -1 must be 0.*eps: 0 must be positive"
    ):
        MindSSC(step=0, radius=-1, eps=0)
