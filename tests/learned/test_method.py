"""Learned methods: weights and what they know, the three engines, pairs on other grids."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmtk.errors import ConfigError
from mmtk.fields import Grid
from mmtk.learned import Weights
from mmtk.method import Pair
from mmtk.result import Registration
from mmtk.testing.phantoms import blob
from mmtk_metamorph.plugin import MetaMorphGConfig, MetaMorphRConfig
from mmtk_voxelmorph.plugin import VoxelMorphConfig

GRID = Grid((24, 28), (2.0, 2.0))
AFFINE = np.diag([2.0, 2.0, 1.0, 1.0])
SMALL: dict[str, dict[str, Any]] = {
    "metamorph_r": {"hidden": 4, "steps": 4, "lam": 1e-4, "mu": 0.1},
    "metamorph_g": {"widths": (4, 4), "steps": 4, "lam": 1e-4, "mu": 0.1},
    "voxelmorph": {"widths": (4, 4), "squarings": 4},
}
CONFIGS = {"metamorph_r": MetaMorphRConfig, "metamorph_g": MetaMorphGConfig, "voxelmorph": VoxelMorphConfig}
KINDS = tuple(CONFIGS)


def pair(shift: float = 3.0) -> Pair:
    spot = blob(GRID, (2.0, 0.0), (4.0, 4.0))
    moving = blob(GRID, (shift, 0.0), (11.0, 11.0)) * (1 - 0.5 * spot)
    return Pair(moving, blob(GRID, (0.0, 0.0), (12.0, 12.0)), GRID, mask=(spot > 0.1).to(moving), affine=AFFINE)


@pytest.fixture(scope="module", params=KINDS)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The name of a method, and a file of weights that move something."""
    return request.param, weights_of(request.param, tmp_path_factory.mktemp("weights") / "model.safetensors")


def weights_of(kind: str, path: Path) -> Path:
    config = CONFIGS[kind](engine="optimize", **SMALL[kind])
    method = config.build()
    torch.manual_seed(0)
    model = method.make(GRID, dict(method.settings))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.15 * torch.randn_like(parameter)
    template = pair().fixed if kind == "metamorph_r" else None
    Weights(kind, method.settings, GRID, AFFINE, model.state_dict(), template, {"pairs": 7}).save(path)
    return path


def run(trained: tuple[str, Path], given: Pair, **settings: Any) -> Registration:
    kind, path = trained
    found: Registration = CONFIGS[kind](weights=str(path), **settings).build().register(given)
    return found


def test_weights_come_back_as_they_were_saved(trained: tuple[str, Path]) -> None:
    kind, path = trained
    weights = Weights.load(path)
    assert (weights.kind, weights.grid, weights.facts) == (kind, GRID, {"pairs": 7})
    assert np.array_equal(weights.affine, AFFINE)
    assert weights.settings["similarity"] == {"kind": "ssd"}
    again = path.with_name("again.safetensors")
    weights.save(again)
    assert again.read_bytes() == path.read_bytes()


def test_the_network_moves_the_image_and_its_inverse_brings_it_back(trained: tuple[str, Path]) -> None:
    found = run(trained, pair())
    assert float(found.displacement.abs().max()) > 0.1
    assert found.displacement.shape == found.inverse.shape == (1, 2, *GRID.shape)
    assert (found.appearance is None) == (trained[0] == "voxelmorph")


def test_no_engine_costs_the_energy_that_the_network_had(trained: tuple[str, Path]) -> None:
    network = run(trained, pair())
    refined = run(trained, pair(), engine="refine", refine_steps=8)
    assert refined.energies[0] == pytest.approx(network.energies[0], rel=1e-4)
    assert refined.energies[-1] < network.energies[0]


@pytest.mark.parametrize("kind", KINDS)
def test_optimize_needs_no_weights_and_lowers_the_energy(kind: str) -> None:
    config = CONFIGS[kind](engine="optimize", iterations=12, learning_rate=1e-2, **SMALL[kind])
    with torch.no_grad():  # as engines call it
        found = config.build().register(pair())
    assert found.energies[-1] < 0.9 * found.energies[0]
    assert found.levels[0].evaluations == 12


def test_the_array_s_orientation_does_not_matter(trained: tuple[str, Path]) -> None:
    straight = pair()
    straight_mm = run(trained, straight).displacement * 2
    turned_affine = AFFINE @ np.array([[0, -1.0, 0, 23], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])

    def turn(image: Tensor | None) -> Tensor | None:
        """``out[a, b] = image[23 - b, a]``, as the affine says."""
        return None if image is None else image.flip(2).transpose(2, 3)

    moving, fixed, mask = (turn(image) for image in (straight.moving, straight.fixed, straight.mask))
    assert moving is not None and fixed is not None
    other = Pair(moving, fixed, Grid((28, 24), (2.0, 2.0)), mask, affine=turned_affine)
    found = run(trained, other).displacement * 2
    back = found.transpose(2, 3).flip(2)
    vectors = torch.stack([-back[:, 1], back[:, 0]], dim=1)
    torch.testing.assert_close(vectors, straight_mm, atol=1e-3, rtol=1e-3)


def test_a_finer_grid_gives_the_same_millimeters(trained: tuple[str, Path]) -> None:
    coarse = pair()

    def finer(image: Tensor | None) -> Tensor | None:
        if image is None:
            return None
        return torch.nn.functional.interpolate(image, scale_factor=2, mode="bilinear", align_corners=False)

    moving, fixed, mask = (finer(image) for image in (coarse.moving, coarse.fixed, coarse.mask))
    assert moving is not None and fixed is not None
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    affine[:2, 3] = -0.5
    fine = Pair(moving, fixed, Grid((48, 56), (1.0, 1.0)), mask, affine=affine)
    one, two = run(trained, coarse).displacement * 2, run(trained, fine).displacement
    halved = torch.nn.functional.avg_pool2d(two, 2)
    assert float((halved - one).abs().mean()) < 0.15 * float(one.abs().mean())


def test_a_pair_that_does_not_know_where_it_lies_lies_as_the_weights_do(trained: tuple[str, Path]) -> None:
    told, silent = run(trained, pair()), run(trained, replace(pair(), affine=None))
    torch.testing.assert_close(told.displacement, silent.displacement)


def test_voxels_under_the_fixed_mask_cannot_matter(trained: tuple[str, Path]) -> None:
    if trained[0] == "metamorph_r":
        pytest.skip("its network looks at the template, which is always the same")
    given = pair()
    hidden = torch.zeros_like(given.fixed)
    hidden[..., :8, :8] = 1
    one = run(trained, replace(given, fixed_mask=hidden))
    assert one.energies[0] < run(trained, given).energies[0]


def refused(*words: str) -> Any:
    return pytest.raises(ConfigError, match="(?s)" + ".*".join(words))


def test_what_contradicts_the_weights_is_refused(trained: tuple[str, Path]) -> None:
    kind, path = trained
    with refused("lam=0.5", "trained with", "leave it out"):
        CONFIGS[kind](weights=str(path), lam=0.5).build()
    CONFIGS[kind](weights=str(path), **SMALL[kind]).build()  # said again, it contradicts nothing


def test_weights_that_cannot_serve_are_refused(trained: tuple[str, Path], tmp_path: Path) -> None:
    kind, path = trained
    with refused("weights", f"{kind} needs them", "engine=network"):
        CONFIGS[kind]().build()
    with refused("nowhere", "no such file, nor a bundle"):
        CONFIGS[kind](weights="nowhere").build()
    other = next(name for name in KINDS if name != kind)
    with refused("belong to", kind, "not to", other):
        CONFIGS[other](weights=str(path)).build()
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(path.read_bytes()[:200])
    with refused("cannot be read"):
        CONFIGS[kind](weights=str(cut)).build()
    weights = Weights.load(path)
    torn = dict(weights.network)
    torn.pop(sorted(torn)[0])
    replace(weights, network=torn).save(cut)
    with refused("1 tensors do not fit", "missing"):
        CONFIGS[kind](weights=str(cut)).build().register(pair())
    flat = Pair(torch.zeros(1, 1, 8, 8, 8), torch.zeros(1, 1, 8, 8, 8), Grid((8, 8, 8), (2.0, 2.0, 2.0)))
    with refused("are for 2-D images, these are 3-D"):
        run(trained, flat)


def test_another_template_is_refused(tmp_path: Path) -> None:
    given = pair()
    trained = "metamorph_r", weights_of("metamorph_r", tmp_path / "w.safetensors")
    run(trained, replace(given, fixed=given.fixed + 0.02 * torch.rand_like(given.fixed)))  # the same, with noise
    with refused("correlates by", "template", "engine=optimize"):
        run(trained, replace(given, fixed=given.fixed.roll(9, 2)))


def test_the_appearance_is_nothing_outside_the_warped_mask(trained: tuple[str, Path]) -> None:
    from mmtk.fields import warp

    given = pair()
    found = run(trained, given)
    if found.appearance is not None:
        assert given.mask is not None
        outside = warp(given.mask, found.displacement) == 0
        assert float(found.appearance[outside].abs().max()) == 0 < float(found.appearance.abs().max())
