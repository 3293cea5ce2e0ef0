"""What other programs find comes back in voxels of the fixed grid, forward and backward, in 2-D and 3-D."""

import math

import pytest
import torch

from mmtk.config import ComponentConfig
from mmtk.fields import Grid, compose, folds, identity, sample, warp
from mmtk.method import Pair
from mmtk.plugins import installed
from mmtk.result import Outcome
from mmtk.testing.phantoms import blob

#: No two spacings and no two lengths are alike, so that axes cannot change places unseen.
GRIDS = {2: Grid((64, 90), (2.0, 1.5)), 3: Grid((40, 50, 33), (2.5, 2.0, 3.0))}
#: Volumes take these programs up to half a minute each.
DIMS = [2, pytest.param(3, marks=pytest.mark.slow)]
SHIFT = (4.0, -3.0, 2.0)
ANGLE = math.radians(8)


def method(kind: str, **settings) -> ComponentConfig:
    config = (
        installed()
        .find("method", kind)
        .model_validate({"kind": kind, **settings}, context={"catalogue": installed()})
    )
    if config.missing():
        pytest.skip(config.missing())
    return config


def head(grid: Grid) -> torch.Tensor:
    """An ellipsoid with eight spots in it, none like another."""
    draw = torch.Generator().manual_seed(0)
    image = blob(grid, (0, 0, 0), (36, 42, 40))
    for _ in range(8):
        center = (torch.rand(3, generator=draw) - 0.5) * 50
        radii = torch.rand(3, generator=draw) * 6 + 6
        image = image + (torch.rand(1, generator=draw) * 0.8 - 0.3) * blob(grid, center.tolist(), radii.tolist())
    return image


def body(grid: Grid) -> torch.Tensor:
    return blob(grid, (0, 0, 0), (28, 32, 30))[0, 0] > 0.5


def mm(u: torch.Tensor, grid: Grid) -> torch.Tensor:
    return (u * grid.per_axis(u))[0]


def moved_by(grid: Grid, matrix: torch.Tensor, shift: torch.Tensor) -> tuple[Pair, torch.Tensor]:
    """A pair, and the true displacement in mm: ``x -> R (x - c) + c + t``."""
    space = (1, -1, *[1] * grid.dim)
    x = identity(grid.shape) * grid.per_axis(torch.zeros(1))
    center = torch.tensor([e / 2 for e in grid.extent]).view(space)

    def motion(matrix: torch.Tensor, shift: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("ab,nb...->na...", matrix, x - center) + center + shift.view(space)

    moving = head(grid)
    there = motion(matrix, shift, x)
    fixed = sample(moving, there / grid.per_axis(x), mode="cubic")
    return Pair(moving, fixed, grid), (there - x)[0]


def turn(dim: int) -> torch.Tensor:
    """About an axis that is none of the grid's; in the plane in 2-D."""
    if dim == 2:
        c, s = math.cos(ANGLE), math.sin(ANGLE)
        return torch.tensor([[c, -s], [s, c]])
    x, y, z = (w * ANGLE / math.sqrt(14) for w in (1.0, -2.0, 3.0))
    return torch.linalg.matrix_exp(torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]]))


DEFORMABLE = [
    ("demons", {}),
    ("greedy", {}),
    ("ants", {"affine_first": False, "metric": "meansquares", "iterations": [60, 40, 20]}),
    ("ants", {"transform": "bspline_syn"}),
    ("lcc_demons", {}),
]
LINEAR = [("ants", {"transform": "rigid"}), ("ants", {"transform": "affine", "preset": "recommended"})]


def name(value):
    return value if isinstance(value, str) else value.get("transform", "")


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize(("kind", "settings"), DEFORMABLE + LINEAR, ids=name)
def test_a_shift_is_found_in_both_directions(kind, settings, dim):
    grid, shift = GRIDS[dim], torch.tensor(SHIFT[:dim])
    pair, _ = moved_by(grid, torch.eye(dim), shift)
    found = method(kind, **settings).build().register(pair)
    inside = body(grid)
    there = mm(found.displacement, grid)[:, inside].mean(1)
    back = mm(found.inverse, grid)[:, inside].mean(1)
    # Along an edge nothing drives a free deformation, so that it falls short; it never has another sign or axis.
    torch.testing.assert_close(there, shift, rtol=0.35, atol=0.3)
    torch.testing.assert_close(back, -shift, rtol=0.35, atol=0.3)


@pytest.mark.parametrize("dim", DIMS)
def test_a_rotation_is_found_by_ants_in_both_directions(dim):
    grid = GRIDS[dim]
    pair, truth = moved_by(grid, turn(dim), torch.tensor(SHIFT[:dim]))
    found = method("ants", transform="rigid", preset="recommended").build().register(pair)
    inside = body(grid)
    error = (mm(found.displacement, grid) - truth)[:, inside].norm(dim=0)
    assert truth[:, inside].norm(dim=0).mean() > 3
    assert error.mean() < 0.3
    around = compose(found.displacement, found.inverse)[0][:, inside]
    assert around.abs().max() < 0.02


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("transform", ["rigid", "affine", "syn"])
def test_our_map_warps_as_ants_itself_does(transform, dim, monkeypatch):
    config = method("ants", transform=transform)
    import ants

    theirs = {}
    register = ants.registration

    def kept(*args, **words):
        result = register(*args, **words)
        for key in ("warpedmovout", "warpedfixout"):
            theirs[key] = torch.from_numpy(result[key].numpy().copy())
        return result

    monkeypatch.setattr(ants, "registration", kept)
    grid = GRIDS[dim]
    pair, _ = moved_by(grid, turn(dim), torch.tensor(SHIFT[:dim]))
    found = config.build().register(pair)
    # ANTs sees 0 beyond the border where we repeat it.
    inside = body(grid)
    for ours, key in (
        (warp(pair.moving, found.displacement), "warpedmovout"),
        (warp(pair.fixed, found.inverse), "warpedfixout"),
    ):
        assert (ours[0, 0] - theirs[key])[inside].abs().max() < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ants", "greedy", "demons", "lcc_demons"])
def test_maps_are_inverse_to_one_another(kind):
    grid = GRIDS[3]
    pair, _ = moved_by(grid, turn(3), torch.tensor(SHIFT))
    found = method(kind).build().register(pair)
    assert folds(found.displacement) == 0
    around = compose(found.displacement, found.inverse)[0][:, body(grid)]
    assert around.abs().max() < 0.15


def sick(grid: Grid) -> tuple[Pair, Pair]:
    """A pair whose moving image has a dark spot, and its healthy twin; both with the spot's mask."""
    pair, _ = moved_by(grid, torch.eye(grid.dim), torch.tensor(SHIFT[: grid.dim]))
    spot = blob(grid, (10, 8, 5), (12, 10, 12))
    mask = (blob(grid, (10, 8, 5), (15, 13, 15)) > 0.5).float()
    return tuple(Pair(moving, pair.fixed, grid, mask=mask) for moving in (pair.moving - 0.9 * spot, pair.moving))


@pytest.mark.parametrize("kind", ["greedy", "lcc_demons"])
def test_what_the_lesion_mask_covers_matters_less_with_masked(kind):
    ill, well = sick(GRIDS[2])
    healthy = method(kind, masked=True).build().register(well)
    seen, spared = (method(kind, masked=m).build().register(ill) for m in (False, True))
    apart = [float((u.displacement - healthy.displacement).abs().mean()) for u in (seen, spared)]
    assert apart[1] < 0.5 * apart[0]
    assert any("masked=true" in note for note in seen.notes) and not spared.notes


@pytest.mark.parametrize("transform", ["rigid", "syn"])
def test_ants_is_told_the_mask_for_every_stage(transform, monkeypatch):
    config = method("ants", transform=transform, masked=True)
    import ants

    told = {}
    register = ants.registration

    def watched(*args, **words):
        told.update(words)
        return register(*args, **words)

    monkeypatch.setattr(ants, "registration", watched)
    ill, _ = sick(GRIDS[2])
    with_mask = config.build().register(ill)
    assert told["mask_all_stages"] is True
    assert (torch.from_numpy(told["moving_mask"].numpy()) == 1 - ill.mask[0, 0]).all()
    told.clear()
    without = config.model_copy(update={"masked": False}).build().register(ill)
    assert "moving_mask" not in told
    assert (with_mask.displacement - without.displacement).abs().max() > 0.1


def test_the_end_of_another_program_is_called_so():
    pair, _ = moved_by(GRIDS[2], torch.eye(2), torch.zeros(2))
    found = method("demons").build().register(pair)
    assert found.outcome is Outcome.FOREIGN and found.outcome.ok
    assert found.energies == ()
