"""MetaMorph-R, MetaMorph-G and VoxelMorph: paths, energies, masks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mmtk.equations import Metamorphosis
from mmtk.errors import GridMismatch
from mmtk.fields import Gaussian, Grid, exponential, warp
from mmtk.integrators import Context, Lagrangian, SemiLagrangian, Sharp
from mmtk.learned import Backbone, Batch, Model, refine
from mmtk.shooting import shoot
from mmtk.similarity import SquaredDifference
from mmtk_metamorph.networks import MetaMorphG, MetaMorphR
from mmtk_metamorph.resnet import CARRIERS, Given
from mmtk_voxelmorph.network import VoxelMorph

GRIDS = {2: Grid((20, 24), (2.0, 2.0)), 3: Grid((12, 14, 10), (2.0, 2.0, 2.0))}
SQUARES = SquaredDifference(reduction="none")
#: An energy in which motion and residual both matter on pictures this small.
ENERGY: dict[str, Any] = {"similarity": SQUARES, "sigma": (6.0,), "lam": 1e-4, "mu": 0.1, "steps": 4}


def ball(grid: Grid, center: float, radius: float) -> Tensor:
    axes = [h * (torch.arange(n) - (n - 1) / 2) for n, h in zip(grid.shape, grid.spacing, strict=True)]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    points[0] -= center
    return torch.sigmoid((radius - points.square().sum(0).sqrt()) / 2)[None, None]


def batch(dim: int = 2, count: int = 2, dtype: torch.dtype = torch.float32) -> Batch:
    """Balls that move by other amounts, with a dark lesion."""
    grid = GRIDS[dim]
    spot = ball(grid, 2.0, 4.0)
    moving = torch.cat([ball(grid, 3.0 - 2 * i, 9.0 - i) * (1 - 0.5 * spot) for i in range(count)])
    fixed = ball(grid, 0.0, 9.0).expand_as(moving)
    mask = (spot > 0.1).to(moving).expand(count, -1, *grid.shape)
    return Batch(moving.to(dtype), fixed.to(dtype), mask.to(dtype))


def model(kind: str, dim: int = 2, *, random: bool = True, **settings: Any) -> Model:
    torch.manual_seed(3)
    grid, energy = GRIDS[dim], {**ENERGY, **settings}
    made: Model
    if kind == "r":
        made = MetaMorphR(grid, hidden=4, scale=100.0, **energy)
    elif kind == "g":
        made = MetaMorphG(
            grid, integrator=energy.pop("integrator", Lagrangian()), widths=(4, 4), scale=10.0, **energy
        )
    else:
        masked = settings.get("masked", False)
        made = VoxelMorph(grid, similarity=SQUARES, lam=0.1, masked=masked, widths=(4, 4), squarings=4)
    if random:  # untrained, each answers 0
        with torch.no_grad():
            for parameter in made.parameters():
                parameter += 0.2 * torch.randn_like(parameter)
    return made.eval()


KINDS = ("r", "g", "vm")


@torch.no_grad()
@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_untrained_nothing_moves_and_nothing_changes(kind: str, dim: int) -> None:
    pairs = batch(dim)
    found = model(kind, dim, random=False)(pairs, maps=True)
    assert float(found.displacement.abs().max()) == 0 and found.inverse is not None
    torch.testing.assert_close(found.warped, pairs.moving)
    torch.testing.assert_close(found.energy, 8.0 ** (dim == 3) * 4.0 ** (dim == 2) * _half_squares(pairs))


def _half_squares(pairs: Batch) -> Tensor:
    return 0.5 * (pairs.moving - pairs.fixed).square().flatten(1).sum(1)


@torch.no_grad()
@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_its_pairs(kind: str, dim: int) -> None:
    pairs, network = batch(dim), model(kind, dim)
    together = network(pairs, maps=True)
    assert float(together.displacement.abs().max()) > 0.05, "nothing moves, so nothing is tested"
    for i in range(len(pairs)):
        assert pairs.mask is not None
        alone = network(Batch(pairs.moving[i : i + 1], pairs.fixed[i : i + 1], pairs.mask[i : i + 1]), maps=True)
        for name in ("warped", "displacement", "inverse", "energy"):
            one, of_all = getattr(alone, name)[0], getattr(together, name)[i]
            torch.testing.assert_close(one, of_all, rtol=1e-4, atol=1e-4, msg=name)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_to_follow_what_was_predicted_is_the_forward_pass(kind: str) -> None:
    pairs, network = batch(), model(kind)
    forward, followed = network(pairs), network.follow(pairs, network.predict(pairs))
    torch.testing.assert_close(followed.warped, forward.warped)
    torch.testing.assert_close(followed.energy, forward.energy)


@torch.no_grad()
@pytest.mark.parametrize("momentum", ["coupled", "split"])
@pytest.mark.parametrize("kind", ["r", "g"])
def test_intensities_change_within_the_warped_mask_alone(kind: str, momentum: str) -> None:
    pairs = batch()
    found = model(kind, momentum=momentum)(pairs)
    change = (found.warped - found.deformed(pairs.moving)).abs()
    assert found.lesion is not None and float(change.max()) > 1e-3
    assert float(change[found.lesion == 0].max()) < 1e-6


@pytest.mark.parametrize("carrier", CARRIERS)
def test_checkpoints_change_no_bit(carrier: str) -> None:
    pairs, results = batch(), []
    for checkpoint in (False, True):
        network = model("r", carrier=carrier, checkpoint=checkpoint).train()
        network(pairs).energy.sum().backward()
        results.append([p.grad for p in network.parameters()])
    for one, other in zip(*results, strict=True):
        assert one is not None and other is not None and bool((one == other).all())


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_is_learned(kind: str) -> None:
    network = model(kind).train()
    network(batch()).energy.sum().backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None or float(p.grad.abs().max()) == 0]
    assert not idle, idle


@pytest.mark.parametrize("momentum", ["coupled", "split"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_the_slope_of_the_energy(kind: str, momentum: str) -> None:
    if kind == "vm" and momentum == "split":
        pytest.skip("VoxelMorph has no momentum")
    pairs = batch(dtype=torch.float64)
    network = model(kind, momentum=momentum).double()
    path = [p.double().requires_grad_() for p in network.predict(pairs)]
    energy = network.follow(pairs, tuple(path)).energy.sum()
    gradients = torch.autograd.grad(energy, path)
    directions = [torch.randn_like(p) for p in path]
    told = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))
    eps = 1e-6
    ends = []
    with torch.no_grad():
        for step in (eps, -eps):
            beside = tuple(p + step * d for p, d in zip(path, directions, strict=True))
            ends.append(float(network.follow(pairs, beside).energy.sum()))
    assert told == pytest.approx((ends[0] - ends[1]) / (2 * eps), rel=1e-4)


@pytest.mark.parametrize("scheme", [SemiLagrangian(), Sharp()], ids=["semi_lagrangian", "sharp"])
def test_given_the_momenta_of_a_classical_path_the_path_is_the_classical_one(scheme: Any) -> None:
    pairs, equation, z, context = _classical()
    states = list(shoot(equation, scheme, scheme.begin(equation, pairs.moving, z, context), 6))
    driven = Given([s.momentum for s in states[:-1]], type(scheme).__name__.replace("Semi", "semi_").lower())
    (*_, last) = shoot(equation, driven, driven.begin(equation, pairs.moving, z, context), 6)
    for name in ("image", "mask", "kinetic", "residual", "displacement"):
        torch.testing.assert_close(getattr(last, name), getattr(states[-1], name), msg=name)


def test_in_the_moving_frame_a_classical_path_is_that_of_the_closed_form() -> None:
    """The two differ where a momentum is carried there and back, by interpolation; and less on a smoother one."""
    pairs, equation, z, context = _classical()
    scheme = Lagrangian(mode="cubic")
    states = list(shoot(equation, scheme, scheme.begin(equation, pairs.moving, z, context), 12))
    driven = Given([s.momentum for s in states[:-1]], "lagrangian", mode="cubic")
    (*_, last) = shoot(equation, driven, driven.begin(equation, pairs.moving, z, context), 12)
    torch.testing.assert_close(last.displacement, states[-1].displacement, atol=2e-3, rtol=1e-3)
    painted = last.image - warp(pairs.moving, last.displacement, "cubic")
    assert float(painted.abs().max()) > 0.05
    difference = float((last.image - states[-1].image).abs().max())
    assert difference < 0.05 * float(painted.abs().max())


def _classical() -> tuple[Batch, Metamorphosis, Tensor, Context]:
    pairs = batch(dtype=torch.float64)
    assert pairs.mask is not None
    equation = Metamorphosis.from_kernel(Gaussian(6.0), GRIDS[2], 0.1)
    z = 60 * (ball(GRIDS[2], 1.0, 7.0).double() - 0.4).expand_as(pairs.moving)
    return pairs, equation, z, Context(mask=pairs.mask, back=True, maps=True)


@torch.no_grad()
def test_split_the_lesion_drives_nothing() -> None:
    pairs = batch()
    assert pairs.mask is not None
    network = model("g", momentum="split")
    assert isinstance(network, MetaMorphG)
    (z,) = network.predict(pairs)
    other = z + 100 * pairs.mask
    torch.testing.assert_close(
        network.follow(pairs, (z,)).displacement, network.follow(pairs, (other,)).displacement
    )


@pytest.mark.parametrize("kind", KINDS)
def test_masked_no_energy_and_no_network_knows_what_the_lesion_shows(kind: str) -> None:
    pairs, network = batch(), model(kind, masked=True)
    assert pairs.mask is not None
    moving = (pairs.moving + 3 * pairs.mask).requires_grad_()
    one, two = network(pairs), network(Batch(moving, pairs.fixed, pairs.mask))
    torch.testing.assert_close(one.displacement, two.displacement, rtol=0, atol=0)
    torch.testing.assert_close(one.energy, two.energy, rtol=0, atol=0)
    torch.testing.assert_close(two.warped, two.deformed(moving), rtol=0, atol=0)  # nothing is painted
    (force,) = torch.autograd.grad(two.energy.sum(), moving)
    assert float((force * pairs.mask).abs().max()) == 0 < float(force.abs().max())
    others = (pairs, Batch(moving.detach(), pairs.fixed, pairs.mask))
    seen, other = (model(kind)(some).displacement.detach() for some in others)
    assert float((seen - other).abs().max()) > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_masked_the_fixed_image_does_not_count_where_the_lesion_goes(kind: str) -> None:
    pairs, network = batch(), model(kind, masked=True)
    path = network.predict(pairs)
    fixed = pairs.fixed.clone().requires_grad_()
    assert pairs.mask is not None
    found = network.follow(Batch(pairs.moving, fixed, pairs.mask), path)
    (force,) = torch.autograd.grad(found.energy.sum(), fixed)
    assert found.lesion is not None
    assert float(force[found.lesion > 1 - 1e-6].abs().max()) < 1e-5 < float(force.abs().max())


@pytest.mark.filterwarnings("ignore:.*native grid_sample")
def test_voxelmorph_integrates_as_monai_does() -> None:
    from monai.networks.blocks import DVF2DDF

    velocity = torch.nn.functional.interpolate(
        torch.randn(1, 2, 5, 6, generator=torch.manual_seed(0)), (40, 48), mode="bicubic"
    )
    ours, theirs = exponential(velocity, 7), DVF2DDF(num_steps=7)(velocity)
    inner = (slice(None), slice(None), slice(4, -4), slice(4, -4))  # it pads with zeros where we repeat the border
    torch.testing.assert_close(ours[inner], theirs[inner], atol=0.05, rtol=0.01)


@torch.no_grad()
def test_inverse_consistency_costs_what_the_maps_miss() -> None:
    pairs = batch()
    plain, priced = model("r")(pairs, maps=True), model("r", inverse_weight=2.0)(pairs)
    assert plain.inverse is not None
    miss = plain.inverse + warp(plain.displacement, plain.inverse)
    torch.testing.assert_close(
        priced.cost - plain.cost, 2.0 * 4.0 * miss.square().flatten(1).sum(1), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("kind", KINDS)
def test_refinement_is_never_worse_by_its_own_energy(kind: str) -> None:
    pairs, network = batch(count=1), model(kind)
    path, descent = refine(network, pairs, 6)
    with torch.no_grad():
        before = float(network(pairs).energy.sum())
        after = float(network.follow(pairs, path).energy.sum())
    assert after == pytest.approx(descent.energy, rel=1e-4)
    assert after < before


@pytest.mark.parametrize("kind", ["r", "g"])
@torch.no_grad()
def test_a_registration_keeps_its_momenta_in_half_and_they_still_lead_there(kind: str) -> None:
    pairs, network = batch(), model(kind).eval()
    told = network(pairs, maps=True)
    assert all(momentum.dtype == torch.float16 for momentum in told.path)
    assert len(told.path) == (4 if kind == "r" else 1)
    again = network.follow(pairs, told.path, maps=True)
    assert 0 < float((again.displacement - told.displacement).abs().max()) < 2e-3
    torch.testing.assert_close(network.follow(pairs, network.predict(pairs)).displacement, told.displacement)


def test_a_batch_on_another_grid_is_refused() -> None:
    with pytest.raises(GridMismatch):
        model("r")(Batch(torch.zeros(1, 1, 9, 9), torch.zeros(1, 1, 9, 9)))
    with pytest.raises(GridMismatch):
        Batch(torch.zeros(1, 1, 9, 9), torch.zeros(1, 1, 9, 8))


@pytest.mark.parametrize("space", [(17, 30), (16, 16), (9, 12, 10)])
def test_the_u_net_takes_images_of_any_size(space: tuple[int, ...]) -> None:
    net = Backbone(len(space), 2, 3, (4, 4))
    assert net(torch.randn(2, 2, *space)).shape == (2, 3, *space)


def test_the_thesis_s_number_of_parameters() -> None:
    network = MetaMorphR(Grid((8, 8, 8), (1.0, 1.0, 1.0)), hidden=60, **{**ENERGY, "steps": 15})
    count = sum(p.numel() for block in network.blocks for p in block.parameters())
    assert 1.3e6 < count < 1.6e6  # "about 1.5 million", thesis 5.3.4
