"""A start from somebody else's map: the flow nearest to it, and the flagship's dial."""

from __future__ import annotations

import pytest
import torch

from mmtk.config import Recipe
from mmtk.errors import ConfigError
from mmtk.fields import Gaussian, Grid, Sobolev, warp
from mmtk.learned import Weights
from mmtk.method import Pair
from mmtk.plugins import installed
from mmtk.settings import Setting, resolve
from mmtk_metamorphosis.plugin import MetamorphosisConfig
from mmtk_metamorphosis.start import nearest_flow
from mmtk_metamorphosis.white import WhiteFlow

GRID = Grid((48, 56), (2.0, 2.0))
FAST = {"levels": (4.0, 2.0), "iterations": (8, 8)}


def flow_of(kernel):
    flow = WhiteFlow(kernel, GRID, 4.0)
    flow.squarings = 6
    return flow


@pytest.mark.parametrize(("kernel", "within"), [(Sobolev(8.0, 2.0), 0.2), (Gaussian(12.0), 0.08)])
def test_the_nearest_flow_to_a_flow_is_about_itself(kernel, within):
    flow = flow_of(kernel)
    white = torch.randn(flow.shape, generator=torch.Generator().manual_seed(0))
    white *= 1.5 / flow.velocity(white).abs().max()
    asked = flow.on_grid(flow.displacement(white))
    found = flow.on_grid(flow.displacement(nearest_flow(flow, asked).view(flow.shape)))
    assert asked.abs().max() > 2
    assert (found - asked).square().sum(1).sqrt().mean() < within


def test_rest_is_nearest_to_no_displacement():
    flow = flow_of(Gaussian(12.0))
    assert nearest_flow(flow, torch.zeros(1, 2, *GRID.shape)).abs().max() == 0


def pair():
    from mmtk.samples import brains

    (made,) = brains(dim=2, spacing=4, seed=3, lesions=("bright",), noise=(0, 0), bias=(0, 0))
    tensors = [torch.from_numpy(a).float()[None, None] for a in (made.moving, made.fixed, made.mask)]
    return Pair(tensors[0], tensors[1], Grid(made.fixed.shape, (4.0, 4.0)), tensors[2])


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A VoxelMorph that answers a constant shift along the first axis."""
    from mmtk_voxelmorph.plugin import VoxelMorphConfig

    given = pair()
    config = VoxelMorphConfig(engine="optimize", widths=(4, 4))
    settings = {k: v for k, v in config.settings().items() if k in config.model_fields_of_model()}
    model = config.build().make(given.grid, dict(settings))
    with torch.no_grad():
        model.backbone.net.net[1].final_conv_out.bias[0] = 0.5
    import numpy as np

    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    Weights("voxelmorph", settings, given.grid, np.diag([4.0, 4, 1, 1]), model.state_dict()).save(path)
    return path


def test_the_network_answers_in_one_pass(weights):
    found = MetamorphosisConfig(engine="network", weights=str(weights), **FAST).build().register(pair())
    assert torch.allclose(found.displacement[:, 0], torch.tensor(0.5), atol=1e-4)
    assert found.displacement[:, 1].abs().max() < 1e-4


def test_refined_it_starts_near_the_network_and_is_no_worse(weights):
    given = pair()
    one = (
        MetamorphosisConfig(engine="refine", weights=str(weights), refine_steps=1, **FAST).build().register(given)
    )
    middle = (slice(None), slice(None), slice(8, -8), slice(8, -8))
    assert (one.displacement[middle][:, 0] - 0.5).abs().mean() < 0.1
    more = (
        MetamorphosisConfig(engine="refine", weights=str(weights), refine_steps=12, **FAST).build().register(given)
    )
    assert [level.size for level in more.levels] == [2.0] or len(more.levels) == 1
    energies = more.levels[0].energies
    assert energies[0] == pytest.approx(one.levels[0].energies[0], rel=1e-4)
    assert min(energies) < 0.9 * energies[0]

    def error(found):
        seen = 1 - warp(given.mask, found.displacement)
        return float((seen * (warp(given.moving, found.displacement) - given.fixed)).square().sum())

    assert error(more) < error(one)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["engine=network"], "needs weights=FILE"),
        (["engine=refine", "weights=x", "velocities=3"], "one stationary velocity"),
        (["weights=x"], "engine=optimize has no use for them"),
    ],
)
def test_slips_are_told_at_once(settings, said):
    problems: list[str] = []
    words = [Setting(*word.split("=", 1)) for word in settings]
    with pytest.raises(ConfigError, match=said):
        resolve(words, {"method": {"kind": "metamorphosis"}}, installed(), Recipe, problems)
