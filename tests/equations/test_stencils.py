"""Differences and their transposes, and the fused force."""

from __future__ import annotations

import pytest
import torch

from mmtk import fields
from mmtk.equations import stencils


@pytest.mark.parametrize("shape", [(7, 5), (4, 6, 5), (2, 3), (1, 6)])
@pytest.mark.parametrize("periodic", [True, False])
def test_divergence_is_minus_the_transpose_of_the_gradient(shape: tuple[int, ...], periodic: bool) -> None:
    torch.manual_seed(0)
    f, v = torch.randn(2, 1, *shape).double(), torch.randn(2, len(shape), *shape).double()
    left = (stencils.gradient(f, periodic=periodic) * v).sum()
    torch.testing.assert_close(left, -(f * stencils.divergence(v, periodic=periodic)).sum())


def test_on_a_periodic_box_they_are_those_of_the_fields() -> None:
    torch.manual_seed(0)
    f, v = torch.randn(1, 1, 5, 6, 7), torch.randn(1, 3, 5, 6, 7)
    torch.testing.assert_close(stencils.gradient(f, periodic=True), fields.gradient(f))
    torch.testing.assert_close(stencils.divergence(v, periodic=True), fields.divergence(v))


def test_a_picture_that_is_cut_off_has_no_edge_there() -> None:
    constant = torch.full((1, 1, 6, 6), 3.0)
    ramp = torch.arange(6.0).view(1, 1, 6, 1).expand(1, 1, 6, 6)
    assert torch.equal(stencils.gradient(constant, periodic=False), torch.zeros(1, 2, 6, 6))
    slope = stencils.gradient(ramp, periodic=False)[0, 0, :, 0]
    assert slope.tolist() == [0.5, 1, 1, 1, 1, 0.5]


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_force_is_the_sum_over_channels_of_momentum_times_gradient(channels: int, periodic: bool) -> None:
    torch.manual_seed(0)
    z, image = torch.randn(2, 2, channels, 4, 5, 6).double()
    each = [z[:, c : c + 1] * stencils.gradient(image[:, c : c + 1], periodic=periodic) for c in range(channels)]
    torch.testing.assert_close(stencils.force(z, image, periodic=periodic), torch.stack(each).sum(0))
    inputs = (z[:, :, :3, :3, :3].clone().requires_grad_(), image[:, :, :3, :3, :3].clone().requires_grad_())
    assert torch.autograd.gradcheck(lambda a, b: stencils.force(a, b, periodic=periodic), inputs)


def test_a_difference_can_be_differentiated_twice() -> None:
    f = torch.randn(1, 1, 4, 5).double().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: stencils.gradient(x, periodic=False) ** 3, (f,))
