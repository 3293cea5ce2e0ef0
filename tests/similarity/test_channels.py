"""A similarity of several channels is the weighted sum of its parts."""

import pytest
import torch

from mmtk.errors import ConfigError, GridMismatch
from mmtk.similarity import ChannelSimilarity, LocalSquaredDifference, SquaredDifference


def images(channels=2):
    draw = torch.Generator().manual_seed(0)
    return torch.rand(2, 1, channels, 12, 10, generator=draw, dtype=torch.float64)


def test_it_is_the_weighted_sum_of_its_parts():
    moved, fixed = images()
    weight = torch.rand(1, 1, 12, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    parts = [SquaredDifference(), LocalSquaredDifference()]
    whole = ChannelSimilarity(parts, (2.0, 0.5))(moved, fixed, weight)
    expected = 2.0 * parts[0](moved[:, :1], fixed[:, :1], weight) + 0.5 * parts[1](
        moved[:, 1:], fixed[:, 1:], weight
    )
    assert float(whole) == pytest.approx(float(expected), rel=1e-12)
    by_hand = (0.5 * weight * (moved[:, :1] - fixed[:, :1]) ** 2).sum()
    assert float(ChannelSimilarity(parts[:1])(moved[:, :1], fixed[:, :1], weight)) == pytest.approx(float(by_hand))


def test_each_channel_may_have_a_weight_of_its_own():
    moved, fixed = images()
    weight = torch.ones(1, 2, 12, 10, dtype=torch.float64)
    weight[:, 1] = 0
    both = ChannelSimilarity([SquaredDifference(), SquaredDifference()])
    assert float(both(moved, fixed, weight)) == pytest.approx(
        float(SquaredDifference()(moved[:, :1], fixed[:, :1]))
    )
    spoiled = moved.clone()
    spoiled[:, 1] = 1e6
    assert torch.equal(both(spoiled, fixed, weight), both(moved, fixed, weight))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="2 similarities and 1 weights"):
        ChannelSimilarity([SquaredDifference(), SquaredDifference()], (1.0,))
    with pytest.raises(ConfigError, match="each must be positive"):
        ChannelSimilarity([SquaredDifference()], (0.0,))
    with pytest.raises(ConfigError, match="reduction='sum'"):
        ChannelSimilarity([SquaredDifference(reduction="mean")])
    with pytest.raises(GridMismatch):
        ChannelSimilarity([SquaredDifference()])(*images(2))
