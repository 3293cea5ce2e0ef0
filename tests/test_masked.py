"""Cost-function masking: one setting, ``masked``, of every method that registers by comparing images."""

from __future__ import annotations

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import mmtk
from mmtk.cli.app import app
from mmtk.errors import ConfigError
from mmtk.fields import filled, warp
from mmtk.optimize import level_axes
from mmtk.plugins import installed
from mmtk.similarity import SquaredDifference
from mmtk.testing.methods import MethodContract
from mmtk.testing.phantoms import GRIDS
from mmtk_metamorphosis.plugin import LDDMMConfig, MetamorphosisConfig
from mmtk_metamorphosis.primal import WhiteFlow, _LevelEnergy

MASKED = sorted(o.config.name() for o in installed().offers("method") if "masked" in o.config.model_fields)


def lesioned():
    contract = MethodContract()
    return contract.pair(GRIDS[2], lesion=True)


@pytest.fixture
def images(tmp_path):
    for name, value in (("moving", 0.0), ("fixed", 1.0)):
        image = np.zeros((12, 14, 10), np.float32)
        image[3:8, 4:9, 3:7] = 1 + value
        nib.save(nib.Nifti1Image(image, np.diag((2.0, 2.0, 2.0, 1.0))), tmp_path / f"{name}.nii.gz")
    return {name: str(tmp_path / f"{name}.nii.gz") for name in ("moving", "fixed")}


def test_every_method_of_ours_that_compares_images_has_it():
    assert {"metamorphosis", "lddmm", "metamorph_r", "metamorph_g", "voxelmorph", "lcc_demons", "demons"} <= set(
        MASKED
    )


@pytest.mark.parametrize("name", MASKED)
def test_without_a_mask_it_is_refused_in_one_sentence(name, images):
    config = installed().find("method", name)
    if config.missing():
        pytest.skip(config.missing())
    learned = {"engine": "optimize"} if config.capabilities.learned else {}
    with pytest.raises(ConfigError, match=r"masked=true: .* there is no mask of one; give mask=FILE, or leave"):
        mmtk.register(**images, method=name, masked=True, **learned)


def test_the_command_refuses_it_before_any_work(images, tmp_path):
    words = ["run", "method=lddmm", "masked=true", *(f"{k}={v}" for k, v in images.items())]
    told = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "out")])
    assert told.exit_code == 2 and "masked=true: lddmm" in told.output and not (tmp_path / "out").exists()


def test_monais_network_refuses_it_too():
    from mmtk.bundle.workflow import RegistrationNetwork

    network = RegistrationNetwork({"kind": "lddmm", "masked": True, "levels": [8.0], "iterations": [1]})
    with pytest.raises(ConfigError, match="masked=true: lddmm"):
        network(torch.rand(1, 2, 24, 28))
    pair = lesioned()
    assert network(torch.cat([pair.moving, pair.fixed, pair.mask], dim=1)).shape == (1, 2, 24, 28)


def test_mu_contradicts_it():
    with pytest.raises(ValueError, match=r"mu=0\.1: masked=true leaves the lesion out"):
        MetamorphosisConfig(masked=True, mu=0.1)


@pytest.mark.parametrize("momentum", ["split", "coupled"])
@pytest.mark.parametrize("shape", ["white", "momentum"])
def test_nothing_is_painted_and_intensities_of_the_lesion_do_not_matter(momentum, shape):
    settings = {"levels": (8.0,), "iterations": (8,), "momentum": momentum, "shape": shape}
    pair = lesioned()
    hurt = replace(pair, moving=torch.where(pair.mask > 0, torch.rand_like(pair.moving) * 5, pair.moving))
    method = MetamorphosisConfig(masked=True, **settings).build()
    found, other = method.register(pair), method.register(hurt)
    assert torch.equal(found.displacement, other.displacement) and float(found.displacement.abs().max()) > 0.5
    assert found.appearance is None and other.appearance is None
    seen = MetamorphosisConfig(**settings).build().register(pair)
    assert seen.appearance is not None and not torch.equal(seen.displacement, found.displacement)


def test_where_the_lesion_lies_the_comparison_pulls_at_nothing():
    pair = lesioned()
    pair = replace(pair, moving=filled(pair.moving, pair.mask))
    settings = replace(MetamorphosisConfig(masked=True).build().settings, similarity=SquaredDifference())
    flow = WhiteFlow(settings.kernel, pair.grid, settings.node_spacing(pair.grid), 1, 3, pair.box)
    level = level_axes(pair.grid, pair.box, 4.0)
    energy = _LevelEnergy(pair, level, flow, settings)
    energy.fixed.requires_grad_()
    white = 0.05 * torch.randn(flow.shape, generator=torch.manual_seed(0))
    (force,) = torch.autograd.grad(energy.energy(white), energy.fixed)
    carried = warp(pair.mask, flow.on_grid(flow.displacement(white)))
    hidden = carried[(..., *(slice(int(a.first), int(a.first) + a.count) for a in level.coarse))]
    assert float(force[hidden > 1 - 1e-6].abs().max()) < 1e-6 < float(force.abs().max())


def test_lddmm_masks_wherever_there_is_a_mask_unless_told_not_to():
    pair, settings = lesioned(), {"levels": (8.0, 4.0), "iterations": (6, 4)}
    by_itself, blind = (LDDMMConfig(masked=m, **settings).build().register(pair) for m in (None, False))
    without = LDDMMConfig(**settings).build().register(replace(pair, mask=None))
    assert torch.equal(blind.displacement, without.displacement) and not torch.equal(
        blind.displacement, by_itself.displacement
    )
    assert any("masked=true" in note for note in blind.notes) and not by_itself.notes


@pytest.mark.parametrize("shape", [(9, 14), (7, 6, 9)])
def test_what_is_hidden_is_filled_from_its_surroundings(shape):
    torch.manual_seed(0)
    image, hidden = torch.rand(2, 1, *shape), torch.zeros(2, 1, *shape)
    hidden[(slice(None), slice(None), *(slice(1, 5),) * len(shape))] = 0.5
    full = filled(image, hidden)
    assert torch.equal(full[hidden == 0], image[hidden == 0])
    assert torch.equal(full, filled(torch.where(hidden > 0, torch.nan, image), hidden))
    assert float(full.min()) >= 0 and float(full.max()) <= 1
    torch.testing.assert_close(filled(torch.full_like(image, 3.0), hidden), torch.full_like(image, 3.0))
    assert not filled(image, torch.ones_like(hidden)).any()
