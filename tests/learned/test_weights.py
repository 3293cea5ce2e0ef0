"""Which file `weights=` names, and the template that stands in for a fixed image."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from mmtk.bundle.plan import make_plan
from mmtk.bundle.recipe import shipped_bundle, template_of
from mmtk.errors import ConfigError
from mmtk.fields import Grid
from mmtk.learned import Weights, find_weights
from mmtk.plugins import installed


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "own"
    shutil.copytree(shipped_bundle("metamorph_r"), made)
    return made


def test_a_bundle_has_weights_and_variants_of_them(folder):
    assert find_weights("metamorph_r") == shipped_bundle("metamorph_r") / "models/model.safetensors"
    assert find_weights("metamorph_r:letters") == shipped_bundle("metamorph_r") / "models/letters.safetensors"
    assert find_weights(folder) == folder / "models/model.safetensors"
    assert find_weights(f"{folder}:letters") == folder / "models/letters.safetensors"


def test_a_variant_that_is_not_there_is_refused_with_those_that_are(folder):
    with pytest.raises(ConfigError, match="it has metamorph_r, metamorph_r:letters"):
        find_weights("metamorph_r:numbers")
    with pytest.raises(ConfigError, match="no such file"):
        find_weights("metamorph:letters")


def test_without_a_fixed_image_the_template_of_the_weights_is_taken(folder, tmp_path):
    moving = tmp_path / "moving.nii.gz"
    shutil.copy(template_of(folder), moving)

    def plan(*more):
        words = ["bundle=metamorph_r", f"moving={moving}", *more]
        return make_plan(words, out=tmp_path / "out", overwrite=False, device="cpu", catalogue=installed())

    template = template_of(shipped_bundle("metamorph_r"))
    assert plan().recipe.fixed == template
    assert f"--fixed {template}" in plan().monai_command()
    assert plan(f"fixed={moving}").recipe.fixed == moving


def test_a_bundle_without_a_template_asks_for_the_fixed_image(tmp_path):
    moving = shutil.copy(template_of(shipped_bundle("metamorph_r")), tmp_path / "moving.nii.gz")
    words = ["bundle=metamorph_brats", f"moving={moving}"]
    with pytest.raises(ConfigError, match="fixed"):
        make_plan(words, out=tmp_path / "out", overwrite=False, device="cpu", catalogue=installed())


def test_the_template_is_written_where_it_lies(tmp_path):
    import nibabel as nib

    affine = np.array([[2.0, 0, 0, -40], [0, 3, 0, 5], [0, 0, 1, 7], [0, 0, 0, 1]])
    template = torch.arange(20.0).reshape(1, 1, 4, 5)
    Weights("r", {}, Grid((4, 5), (2.0, 3.0)), affine, {}, template).write_template(tmp_path / "t.nii.gz")
    back = nib.load(tmp_path / "t.nii.gz")
    assert np.array_equal(np.asarray(back.dataobj), template[0, 0].numpy())
    assert np.allclose(back.affine, affine)
    Weights("g", {}, Grid((4, 5), (2.0, 3.0)), affine, {}).write_template(tmp_path / "none.nii.gz")
    assert not (tmp_path / "none.nii.gz").exists()
