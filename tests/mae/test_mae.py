"""The metamorphic auto-encoder: lengths of fields and of vectors, its energy, and that it learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from mmtk.cli.app import app
from mmtk.errors import ConfigError
from mmtk.fields import Gaussian, Grid, Smoother, warp
from mmtk.learned import Batch, Weights
from mmtk.method import Pair
from mmtk_mae.network import MetamorphicAutoencoder, _of_length
from mmtk_mae.plugin import MetamorphicAutoencoderConfig

GRIDS = {2: Grid((26, 33), (2.0, 1.5)), 3: Grid((13, 16, 12), (2.0, 2.0, 2.5))}


def ball(grid: Grid, shift: float, radius: float) -> Tensor:
    axes = [h * (torch.arange(n) - (n - 1) / 2) for n, h in zip(grid.shape, grid.spacing, strict=True)]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    points[0] -= shift
    return torch.sigmoid((radius - points.square().sum(0).sqrt()) / 1.5)[None, None]


def model(dim: int = 2, **settings: Any) -> MetamorphicAutoencoder:
    torch.manual_seed(0)
    small = {"shape_latent": 4, "appearance_latent": 3, "widths": (4, 8, 8), "shape_scale": 30.0, **settings}
    return MetamorphicAutoencoder(GRIDS[dim], **small)


@pytest.mark.parametrize("dim", [2, 3])
def test_a_field_is_as_long_in_its_kernels_norm_as_its_vector(dim: int) -> None:
    grid = GRIDS[dim]
    kernel = Smoother(Gaussian(5.0), grid, 15.0)
    dual, vector = torch.randn(2, dim, *grid.shape), torch.randn(2, 7)
    field = _of_length(dual, kernel, grid, vector)
    # ||K p||_V^2 = <p, K p>, with p = dual times the factor that was found.
    factor = (field / kernel(dual)).flatten(1).median(1).values
    length = (grid.cell_volume * (factor.view(-1, 1) * dual.flatten(1) * field.flatten(1)).sum(1)).sqrt()
    torch.testing.assert_close(length, vector.norm(dim=1), rtol=1e-3, atol=1e-4)


def test_twice_the_vector_is_twice_the_field_along_its_ray() -> None:
    kernel = Smoother(Gaussian(5.0), GRIDS[2], 15.0)
    dual, vector = torch.randn(1, 2, *GRIDS[2].shape), torch.randn(1, 7)
    torch.testing.assert_close(
        2 * _of_length(dual, kernel, GRIDS[2], vector), _of_length(3 * dual, kernel, GRIDS[2], 2 * vector)
    )


@pytest.mark.parametrize("dim", [2, 3])
@torch.no_grad()
def test_no_shape_and_no_appearance_is_the_template(dim: int) -> None:
    grid, network = GRIDS[dim], model(dim).eval()
    pair = Batch(ball(grid, 3.0, 8.0), ball(grid, 0.0, 8.0))
    found = network.follow(pair, (torch.zeros(1, 7),), maps=True)
    assert found.displacement.abs().max() == 0
    torch.testing.assert_close(found.warped, pair.moving, rtol=0, atol=1e-6)
    assert float(found.cost) == 0
    expected = 0.5 * grid.cell_volume * (pair.moving - pair.fixed).square().sum()
    torch.testing.assert_close(found.data.sum(), expected)


@torch.no_grad()
def test_an_image_that_it_made_itself_is_explained_and_brought_back() -> None:
    grid, network = GRIDS[2], model(appearance_scale=3.0).eval()
    template, latent = ball(grid, 0.0, 8.0), torch.randn(1, 7)
    _, residual = network.decode(latent)
    made = network.follow(Batch(template, template), (latent,), maps=True)
    assert made.inverse is not None and made.displacement.abs().max() > 0.3 and residual.abs().max() > 0.02
    image = warp(template + residual, made.inverse)
    again = network.follow(Batch(image, template), (latent,))
    nothing = network.follow(Batch(image, template), (torch.zeros(1, 7),))
    assert float(again.data) < 1e-8 < float(nothing.data)
    middle = (slice(None), slice(None), slice(4, -4), slice(4, -4))
    left = (again.warped - template)[middle].square().mean()
    assert left < 0.1 * (image - template)[middle].square().mean()


@torch.no_grad()
def test_following_the_predicted_vectors_is_the_forward_pass() -> None:
    network = model().eval()
    pair = Batch(ball(GRIDS[2], 2.0, 8.0), ball(GRIDS[2], 0.0, 8.0))
    one, other = network(pair), network.follow(pair, network.predict(pair))
    torch.testing.assert_close(one.displacement, other.displacement)
    torch.testing.assert_close(one.energy, other.energy)


def test_in_training_the_vectors_are_drawn_and_cost_their_divergence() -> None:
    network = model().train()
    pair = Batch(ball(GRIDS[2], 2.0, 8.0), ball(GRIDS[2], 0.0, 8.0))
    torch.manual_seed(1)
    one, other = network(pair), network(pair)
    assert not torch.equal(one.displacement, other.displacement)
    torch.testing.assert_close(one.cost, other.cost)
    mean, log = network.encoder(pair.moving - pair.fixed)
    normal = torch.distributions.Normal
    divergence = torch.distributions.kl_divergence(normal(mean, (0.5 * log).exp()), normal(0.0, 1.0)).sum()
    torch.testing.assert_close(one.cost.sum(), 0.1**2 * GRIDS[2].cell_volume * divergence)


@torch.no_grad()
def test_opposite_vectors_are_opposite_fields_and_nothing_jumps_at_0() -> None:
    network, latent = model().eval(), torch.randn(1, 7)
    for ahead, back, near in zip(
        network.decode(latent), network.decode(-latent), network.decode(1e-3 * latent), strict=True
    ):
        torch.testing.assert_close(back, -ahead)
        assert float(near.abs().max()) < 3e-3 * float(ahead.abs().max())


@torch.no_grad()
def test_before_training_what_is_drawn_is_hardly_noise() -> None:
    network = model()
    image = ball(GRIDS[2], 2.0, 8.0) - ball(GRIDS[2], 0.0, 8.0)
    mean, log_variance = network.encoder(image)
    assert float((0.5 * log_variance).exp().max()) < 0.15 and float(mean.abs().max()) < 1


@pytest.mark.parametrize("dim", [2, 3])
def test_it_runs_as_a_method_and_keeps_the_appearance_to_the_mask(dim: int) -> None:
    grid = GRIDS[dim]
    spot = ball(grid, 2.0, 4.0)
    pair = Pair(ball(grid, 3.0, 8.0) * (1 - 0.5 * spot), ball(grid, 0.0, 8.0), grid)
    settings = {"shape_latent": 4, "appearance_latent": 3, "widths": (4, 8), "shape_scale": 100.0}
    method = MetamorphicAutoencoderConfig(
        engine="optimize", iterations=60, learning_rate=5e-3, appearance_sigma=4.0, **settings
    ).build()
    torch.manual_seed(0)
    found = method.register(pair)
    assert found.appearance is not None
    total = warp(pair.moving, found.displacement) + found.appearance
    before, after = ((image - pair.fixed).square().sum() for image in (pair.moving, total))
    assert float(after) < 0.5 * float(before)
    mask = (spot > 0.1).float()
    masked = method.register(replace(pair, mask=mask))
    assert masked.appearance is not None
    assert not masked.appearance[warp(mask, masked.displacement) == 0].any()
    assert any("leave mask= out" in note for note in masked.notes)


def test_trained_on_letters_its_weights_know_them_and_no_other_template(tmp_path: Path) -> None:
    letters = '{"size": 48, "sigma": 2, "amplitude": 60, "steps": 5}'
    words = ["method=metamorphic_autoencoder", "widths=4,8", "shape_latent=4", "appearance_latent=2"]
    words += [
        "data=c_shapes",
        f"options={letters}",
        "count=8",
        "held_out=2",
        "epochs=2",
        "--out",
        str(tmp_path / "run"),
    ]
    assert CliRunner().invoke(app, ["train", *words]).exit_code == 0
    weights = str(tmp_path / "run" / "model.safetensors")
    config = MetamorphicAutoencoderConfig(weights=weights)
    template = Weights.load(Path(weights)).template
    assert template is not None
    grid = Grid((48, 48), (1.0, 1.0))
    found = config.build().register(Pair(template.roll(1, 2), template, grid))
    assert found.outcome.ok and bool(found.displacement.isfinite().all())
    with pytest.raises(ConfigError, match=r"correlates by .* with the template"):
        config.build().register(Pair(template, template.flip(3), grid))


def test_it_learns_shifts_and_sizes() -> None:
    grid, network = GRIDS[2], model(widths=(4, 8), shape_scale=100.0)
    moving = torch.cat([ball(grid, s, r) for s in (-4.0, 0.0, 4.0) for r in (6.0, 8.0, 10.0)])
    pairs = Batch(moving, ball(grid, 0.0, 8.0).expand_as(moving))
    before = 0.5 * grid.cell_volume * float((pairs.moving - pairs.fixed).square().sum())
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    network.train()
    for _ in range(250):
        energy = network(pairs).energy.mean()
        optimizer.zero_grad()
        energy.backward()
        optimizer.step()
    network.eval()
    with torch.no_grad():
        found = network(pairs)
    assert float(found.data.sum()) < 0.3 * before
    assert float((found.warped - pairs.fixed).square().sum()) < 0.5 * float(
        (pairs.moving - pairs.fixed).square().sum()
    )


def test_its_description_builds_it() -> None:
    config = MetamorphicAutoencoderConfig(engine="optimize", widths=(4, 8))
    built = config.build()
    assert isinstance(built.make(GRIDS[2], {**built.settings, "half": False}), MetamorphicAutoencoder)
