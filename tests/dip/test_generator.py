"""The generator: what it is, where its sizes come from, and how it begins."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmtk_dip.generator import SHORTEST, Generator, strides


@given(
    shape=st.lists(st.integers(4, 300), min_size=2, max_size=3),
    spacing=st.lists(st.sampled_from([0.5, 1.0, 2.0, 8.0]), min_size=3, max_size=3),
    levels=st.integers(1, 7),
)
def test_short_axes_and_long_voxels_are_not_halved(shape, spacing, levels):
    found = strides(shape, spacing[: len(shape)], levels)
    assert len(found) <= levels and all(max(factor) == 2 for factor in found)
    for axis, n in enumerate(shape):
        for factor in found:
            if factor[axis] == 2:
                assert n >= SHORTEST
            n = -(-n // factor[axis])


def test_thick_slices_wait_until_the_others_are_as_thick():
    assert strides((128, 128, 9), (1.0, 1.0, 8.0), 5) == [(2, 2, 1)] * 3 + [(2, 2, 2)] + [(2, 2, 1)]
    assert strides((7, 5), (1.0, 1.0), 3) == []


@pytest.mark.parametrize("shape", [(17, 30), (64, 64), (12, 9, 11)])
def test_it_answers_on_the_grid_and_nearly_nothing_at_first(shape):
    torch.manual_seed(0)
    factors = strides(shape, (1.0,) * len(shape), 4)
    network = Generator(factors, 8, len(shape), (8, 16, 16, 16), 4, 0.01)
    answer = network(0.1 * torch.randn(1, 8, *shape))
    assert answer.shape == (1, len(shape), *shape) and 0 < float(answer.detach().abs().max()) < 0.3


def test_first_weights_are_drawn_as_published():
    torch.manual_seed(0)
    network = Generator([(2, 2)] * 3, 8, 2, (32, 32, 32), 4, 0.01)
    drawn = torch.cat([
        p.detach().flatten() for m in network.modules() if isinstance(m, torch.nn.Conv2d) for p in m.parameters()
    ])  # fmt: skip
    assert len(drawn) > 40_000
    assert float(drawn.std()) == pytest.approx(0.01, rel=0.02) and float(drawn.mean()) == pytest.approx(
        0, abs=2e-4
    )
