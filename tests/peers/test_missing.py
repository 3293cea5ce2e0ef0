"""A method whose library is not installed is refused in one sentence, before any work; wrong settings, too."""

from typing import ClassVar

import pytest
import torch
from pydantic import ValidationError

import mmtk
from mmtk.errors import ConfigError
from mmtk.fields import Grid
from mmtk.method import Pair
from mmtk_peers.plugin import AntsConfig, DemonsConfig, IdentityConfig


class LostConfig(IdentityConfig):
    """The identity, by a program that nobody has."""

    needs: ClassVar = {"no_such_module_of_ours": "mmtk[lost]"}


def test_it_is_refused_before_files_are_read():
    told = (
        r"identity needs the module 'no_such_module_of_ours', which is not installed; pip install 'mmtk\[lost\]'"
    )
    with pytest.raises(ConfigError, match=told):
        mmtk.register(moving="no_such_file.nii", fixed="nor_this.nii", method=LostConfig())
    with pytest.raises(ConfigError, match=told):
        LostConfig().build()


def test_what_is_installed_is_not_missed():
    assert IdentityConfig().missing() == ""


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"transform": "rigid", "iterations": [10, 10]}, "four levels"),
        ({"transform": "bspline_syn", "metric": "cc"}, "from `preset`"),
        ({"radius": 3}, "metric=cc"),
        ({"transform": "affine", "radius": 3}, "no windows"),
    ],
)
def test_settings_that_ants_would_pass_over_are_refused(settings, told):
    with pytest.raises(ValidationError, match=told):
        AntsConfig(**settings)


def test_levels_of_demons_are_of_one_length():
    with pytest.raises(ValidationError, match="equally long: 2 against 3"):
        DemonsConfig(shrink=(2, 1))


def test_several_channels_are_refused_by_who_takes_one():
    pytest.importorskip("SimpleITK")
    image = torch.rand(1, 2, 16, 16)
    with pytest.raises(ConfigError, match="2 channels; this method takes one"):
        DemonsConfig().build().register(Pair(image, image, Grid((16, 16), (1.0, 1.0))))


def test_the_identity_moves_nothing():
    image = torch.rand(1, 1, 8, 9, 10)
    found = IdentityConfig().build().register(Pair(image, image + 1, Grid((8, 9, 10), (1.0, 2.0, 3.0))))
    assert found.displacement.shape == (1, 3, 8, 9, 10)
    assert not found.displacement.any() and not found.inverse.any()
