import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmtk.errors import ConfigError
from mmtk.fields import Grid, identity
from mmtk.regularizers import Deformation
from mmtk.testing import RegularizerContract

from mmtk_example_parts.plugin import IncompressibleConfig

GRID = Grid((6, 5), (1.0, 2.0))


class TestIncompressible(RegularizerContract):
    """Every law of a regularizer: rest is free, gradient, resolution, orientation, batch, dtype, memory."""

    @pytest.fixture
    def part(self):
        return IncompressibleConfig()


def price(matrix, mask=None, **settings):
    """What the linear map costs, in voxels of the grid."""
    x = identity(GRID.shape, dtype=torch.float64)
    moved = torch.einsum("ab,nb...->na...", torch.tensor(matrix, dtype=torch.float64), x)
    return float(IncompressibleConfig(**settings).build()(Deformation(grid=GRID, inverse=moved - x, mask=mask)))


@settings(max_examples=30, deadline=None)
@given(a=st.floats(0.5, 2), b=st.floats(0.5, 2))
def test_a_change_of_size_costs_its_squared_logarithm_times_the_area(a, b):
    area = 6 * 5 * 2.0
    assert price([[a, 0], [0, b]], weight=0.5) == pytest.approx(0.5 * math.log(a * b) ** 2 * area, abs=1e-9)


def test_half_the_size_costs_as_much_as_twice_the_size():
    assert price([[2, 0], [0, 1]]) == pytest.approx(price([[1, 0], [0, 0.5]]))


def test_shear_is_free_however_far_it_goes():
    x = identity(GRID.shape, dtype=torch.float64)
    shear = torch.stack([3 * torch.sin(x[:, 1]), 0 * x[:, 1]], 1)
    assert float(IncompressibleConfig().build()(Deformation(grid=GRID, inverse=shear))) == pytest.approx(0)
    assert price([[0.8, -0.6], [0.6, 0.8]]) == pytest.approx(0)  # so is a turn


def test_only_the_lesion_counts_where_there_is_one():
    mask = torch.zeros(1, 1, 6, 5, dtype=torch.float64)
    mask[..., 2:4, 1:3] = 0.5
    everywhere, inside = price([[1.2, 0], [0, 1]]), price([[1.2, 0], [0, 1]], mask)
    assert inside == pytest.approx(everywhere * float(mask.sum()) / 30)


def test_a_fold_costs_more_the_worse_it_is_and_can_be_undone():
    shrunk, folded, worse = (price([[s, 0], [0, 1]]) for s in (0.11, -0.5, -1.0))
    assert shrunk < folded < worse < math.inf
    least, a = 0.1, -0.5
    tangent = math.log(least) ** 2 + 2 * math.log(least) / least * (a - least)
    assert folded == pytest.approx(tangent * 60)
    u = torch.tensor([-1.5]).view(1, 1, 1, 1) * identity(GRID.shape)  # x -> -x/2, both axes
    u[:, 1] = 0
    term = IncompressibleConfig().build()
    for _ in range(400):
        u = u.detach().requires_grad_()
        (slope,) = torch.autograd.grad(term(Deformation(grid=GRID, inverse=u)), u)
        u = u - 0.001 * slope
    assert float(term(Deformation(grid=GRID, inverse=u.detach()))) < 0.02 * folded


def test_what_cannot_be_is_refused_in_one_go():
    from mmtk_example_parts.incompressible import Incompressible

    with pytest.raises(ConfigError, match=r"(?s)weight: -1 must be 0 or more.*least: 2 must lie between 0 and 1"):
        Incompressible(weight=-1, least=2)
