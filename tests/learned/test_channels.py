"""Networks for images of several channels: one map for all, a residual for each."""

import pytest
import torch

from mmtk.errors import ConfigError
from mmtk.fields import Grid, folds
from mmtk.method import Pair
from mmtk.plugins import installed

GRID = Grid((32, 32), (2.0, 2.0))


def pair(channels):
    draw = torch.Generator().manual_seed(1)
    image = torch.nn.functional.avg_pool2d(torch.rand(1, channels, 40, 40, generator=draw), 9, 1)
    image = (image - image.amin()) / (image.amax() - image.amin())
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 10:16, 10:16] = 1
    return Pair(image, image.roll(1, 2), GRID, mask=mask)


def method(kind, **settings):
    chosen = installed().find("method", kind)
    config = chosen.model_validate(
        {"kind": kind, "engine": "optimize", "iterations": 4, **settings}, context={"catalogue": installed()}
    )
    return config.build()


@pytest.mark.parametrize("kind", ["metamorph_r", "metamorph_g", "voxelmorph"])
def test_a_network_takes_as_many_channels_as_the_images_have(kind):
    found = method(kind).register(pair(3))
    assert found.displacement.shape == (1, 2, 32, 32) and folds(found.displacement) == 0
    energies = found.levels[0].energies
    assert min(energies) < energies[0]
    if kind != "voxelmorph":
        assert found.appearance.shape == (1, 3, 32, 32)
        each = found.appearance[0].abs().amax((1, 2))
        assert (each > 0).all()


def test_weights_are_for_their_number_of_channels():
    letters = method("voxelmorph", engine="network", weights="voxelmorph")
    with pytest.raises(ConfigError, match=r"moving: 2 channels, but weights=.* take 1"):
        letters.register(pair(2))
