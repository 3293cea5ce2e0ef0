"""The network: its size, its energy, what it ignores, and that it learns."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mmtk.errors import ConfigError
from mmtk.fields import Grid
from mmtk.learned import Batch, Weights, refine
from mmtk.method import Pair
from mmtk_cvae.network import DiffeomorphicCVAE
from mmtk_cvae.plugin import CVAEConfig

GRIDS = {2: Grid((26, 33), (2.0, 1.5)), 3: Grid((13, 16, 12), (2.0, 2.0, 2.5))}


def ball(grid: Grid, shift: float, radius: float) -> Tensor:
    axes = [h * (torch.arange(n) - (n - 1) / 2) for n, h in zip(grid.shape, grid.spacing, strict=True)]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    points[0] -= shift
    return torch.sigmoid((radius - points.square().sum(0).sqrt()) / 1.5)[None, None]


def batch(dim: int = 2, count: int = 3) -> Batch:
    grid = GRIDS[dim]
    moving = torch.cat([ball(grid, 2.0 * i, 9.0) for i in range(count)])
    return Batch(moving, torch.cat([ball(grid, 0.0, 7.0 + i) for i in range(count)]))


def model(dim: int = 2, random: bool = True, **settings: Any) -> DiffeomorphicCVAE:
    torch.manual_seed(0)
    made = DiffeomorphicCVAE(GRIDS[dim], **{"latent": 6, "widths": (4, 6, 6, 4), **settings})
    if random:  # untrained, it answers 0
        with torch.no_grad():
            made.decoder.answer.weight.normal_(0, 0.3)
    return made.eval()


def test_on_the_papers_images_it_is_about_as_large_as_the_papers() -> None:
    made = DiffeomorphicCVAE(Grid((100, 100), (2.0, 2.0)))
    assert made.latent == 144
    assert sum(p.numel() for p in made.parameters()) == pytest.approx(950_000, rel=0.05)


@pytest.mark.parametrize("dim", [2, 3])
@torch.no_grad()
def test_untrained_nothing_moves(dim: int) -> None:
    found = model(dim, random=False)(batch(dim), maps=True)
    assert not found.displacement.any()
    assert found.inverse is not None and not found.inverse.any()
    torch.testing.assert_close(found.warped, batch(dim).moving)


@pytest.mark.parametrize("dim", [2, 3])
@torch.no_grad()
def test_at_inference_nothing_is_left_to_chance_and_a_batch_is_its_pairs(dim: int) -> None:
    made, pairs = model(dim), batch(dim)
    first, second = made(pairs), made(pairs)
    assert torch.equal(first.displacement, second.displacement)
    assert first.displacement.any()
    for i in range(3):
        one = Batch(pairs.moving[i : i + 1], pairs.fixed[i : i + 1])
        torch.testing.assert_close(made(one).displacement[0], first.displacement[i], atol=1e-4, rtol=1e-3)
    made.train()
    assert not torch.equal(made(pairs).displacement, made(pairs).displacement)


@torch.no_grad()
def test_to_follow_what_was_predicted_is_the_forward_pass() -> None:
    made, pairs = model(), batch()
    forward, followed = made(pairs), made.follow(pairs, made.predict(pairs))
    torch.testing.assert_close(forward.displacement, followed.displacement)
    torch.testing.assert_close(forward.energy, followed.energy)


def test_in_training_the_price_is_the_divergence_from_the_prior() -> None:
    made, pairs = model(), batch()
    made.train()
    mean, log_variance = made.encode(pairs)
    posterior = torch.distributions.Normal(mean, torch.exp(0.5 * log_variance))
    prior = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    divergence = torch.distributions.kl_divergence(posterior, prior).mean(1)
    volume = made.grid.size * made.grid.cell_volume
    torch.testing.assert_close(made(pairs).cost, volume * divergence, rtol=1e-4, atol=1e-3)


def test_the_similarity_weighs_lambda_and_the_volume() -> None:
    pairs = batch()
    made = model(random=False, lam=10.0)
    found = made(pairs)
    ones = torch.ones_like(pairs.fixed)
    expected = 10 * made.grid.cell_volume * made.likeness(pairs.moving, pairs.fixed, ones).flatten(1).sum(1)
    torch.testing.assert_close(found.data, expected)


@torch.no_grad()
def test_masked_no_network_and_no_energy_knows_what_the_lesion_shows() -> None:
    made, pairs = model(masked=True), batch()
    mask = (ball(GRIDS[2], 3.0, 4.0) > 0.3).float().expand(3, -1, -1, -1)
    plain = made(replace(pairs, mask=mask))
    other = made(replace(pairs, mask=mask, moving=torch.where(mask > 0, 0.7, pairs.moving)))
    assert torch.equal(plain.displacement, other.displacement)
    open_eyes = model(masked=False)
    assert not torch.equal(
        open_eyes(pairs).displacement,
        open_eyes(replace(pairs, moving=torch.where(mask > 0, 0.7, pairs.moving))).displacement,
    )


@torch.no_grad()
def test_the_code_goes_onto_another_image_and_the_decoder_looks_at_it() -> None:
    made, pairs = model(), batch()
    code, _ = made.encode(pairs)
    own = made.decode(code[:1], pairs.moving[:1])
    other = made.decode(code[:1], pairs.moving[2:])
    assert own.shape == other.shape == (1, 2, *GRIDS[2].shape)
    assert not torch.equal(own, other)


@torch.no_grad()
def test_smoothing_is_of_the_velocity_and_off_by_itself() -> None:
    assert model().smoother is None
    made = model(smoothing=6.0)
    code = torch.randn(1, 6)
    rough, smooth = model().decode(code, batch().moving[:1]), made.decode(code, batch().moving[:1])
    assert float(smooth.diff(dim=2).abs().max()) < 0.5 * float(rough.diff(dim=2).abs().max())


def test_auto_takes_more_squarings_for_a_larger_velocity() -> None:
    made = model(squarings="auto")
    small, large = (size * torch.randn(1, 2, 16, 16) for size in (0.1, 5.0))
    assert made.exponentiation.count(small) < made.exponentiation.count(large)


def test_refinement_is_never_worse_by_its_own_energy() -> None:
    made, pairs = model(), batch(count=1)
    before = float(made(pairs).energy.detach())
    path, descent = refine(made, pairs, 6)
    assert float(made.follow(pairs, path).energy.detach()) <= before + 1e-3
    assert descent.energies[-1] <= before + 1e-3


def test_it_learns_and_every_parameter_takes_part() -> None:
    made, pairs = model(random=False), batch(count=4)
    pairs = Batch(0.2 + 0.8 * pairs.moving, 0.2 + 0.8 * pairs.fixed)  # where there is nothing, nothing matches
    made.train()
    optimizer = torch.optim.Adam(made.parameters(), lr=5e-3)
    first = float(made(pairs).energy.mean().detach())
    for _ in range(60):
        optimizer.zero_grad()
        energy = made(pairs).energy.mean()
        (energy / made.grid.size).backward()
        optimizer.step()
    assert all(p.grad is not None and bool(p.grad.any()) for p in made.encoder.answer.parameters())
    assert all(p.grad is not None and bool(p.grad.any()) for p in made.decoder.parameters())
    assert float(energy.detach()) < 0.7 * first
    with torch.no_grad():
        made.eval()
        found = made(pairs)
        assert float((found.warped - pairs.fixed).square().sum()) < 0.8 * float(
            (pairs.moving - pairs.fixed).square().sum()
        )


# --- as a method


def trained(path: Any, dim: int = 2) -> str:
    config = CVAEConfig(engine="optimize", latent=6, widths=(4, 6, 6, 4))
    method = config.build()
    made = model(dim)
    file = path / "model.safetensors"
    affine = torch.diag(torch.tensor([*GRIDS[dim].spacing, *[1.0] * (4 - dim)])).double().numpy()
    settings = {**method.settings}
    Weights("cvae", settings, GRIDS[dim], affine, made.state_dict(), None, {}).save(file)
    return str(file)


def test_weights_of_slices_register_a_volume_slice_by_slice(tmp_path: Any) -> None:
    file = trained(tmp_path)
    grid = Grid((*GRIDS[2].shape, 3), (*GRIDS[2].spacing, 8.0))
    flat = batch()
    moving, fixed = (torch.stack(list(x), dim=-1)[None, None] for x in (flat.moving[:, 0], flat.fixed[:, 0]))
    affine = torch.diag(torch.tensor([*grid.spacing, 1.0])).double().numpy()
    method = CVAEConfig(weights=file).build()
    found = method.register(Pair(moving, fixed, grid, affine=affine))
    assert found.displacement.shape == (1, 3, *grid.shape)
    assert not found.displacement[:, 2].any()
    flat_affine = torch.diag(torch.tensor([*GRIDS[2].spacing, 1.0, 1.0])).double().numpy()
    for k in range(3):
        one = method.register(Pair(flat.moving[k : k + 1], flat.fixed[k : k + 1], GRIDS[2], affine=flat_affine))
        torch.testing.assert_close(found.displacement[:, :2, ..., k], one.displacement)
        torch.testing.assert_close(found.inverse[:, :2, ..., k], one.inverse)
    assert any("slice by slice" in note for note in found.notes)


@pytest.mark.parametrize("engine", ["network", "refine"])
def test_a_run_keeps_its_code(tmp_path: Any, engine: Any) -> None:
    pairs = batch(count=1)
    method = CVAEConfig(weights=trained(tmp_path), engine=engine, refine_steps=3).build()
    found = method.register(Pair(pairs.moving, pairs.fixed, GRIDS[2]))
    assert found.shape["path.0"].shape == (1, 6)
    assert torch.isfinite(found.displacement).all()


def test_optimize_trains_on_the_one_pair() -> None:
    pairs = batch(count=1)
    config = CVAEConfig(engine="optimize", latent=6, widths=(4, 6, 6, 4), iterations=15, learning_rate=1e-2)
    found = config.build().register(Pair(pairs.moving, pairs.fixed, GRIDS[2]))
    assert found.energies[-1] < found.energies[0]


def test_an_even_window_is_refused() -> None:
    with pytest.raises(ValueError, match="8 is even, a window has a center; give 7 or 9"):
        CVAEConfig(window=8)


def test_a_setting_that_contradicts_the_weights_is_refused(tmp_path: Any) -> None:
    with pytest.raises(ConfigError, match=r"lam=55.0: the weights were trained with 82.0"):
        CVAEConfig.model_validate({"weights": trained(tmp_path), "lambda": 55.0}).build()
