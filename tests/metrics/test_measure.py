"""The numbers of a run are cut to what is not background; those of the whole grid, by NumPy and SciPy, are the same."""

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from mmtk.align import Alignment
from mmtk.fields import jacobian_determinant
from mmtk.intensity import pair_normalizers
from mmtk.io import Volume
from mmtk.measure import measure
from mmtk.method import Pair
from mmtk.outputs import warp_native
from mmtk.prepare import Prepared, tensor
from mmtk.result import Registration


def blob(shape, center, radius, background, seed):
    """A textured ball on a uniform background."""
    place = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    inside = np.linalg.norm(place - np.array(center), axis=-1) < radius
    texture = background + 50 + 40 * np.random.default_rng(seed).random(shape)
    return np.where(inside, texture, background).astype(np.float32)


def case(background, reach, dim=3, how="robust"):
    """A small pair, placed by a turn and a scaling, with a smooth displacement and a painted lesion."""
    shapes = (24, 22, 20)[:dim], (22, 26, 18)[:dim]
    affine = np.diag([1.5, 1.2, 2.0, 1.0])
    fixed = Volume(blob(shapes[0], [11.0, 12, 10][:dim], 6, 0.0, 1), np.eye(4), name="fixed")
    moving = Volume(blob(shapes[1], [9.0, 12, 8][:dim], reach, background, 2), affine, name="moving")
    mask = np.zeros(shapes[1], np.float32)
    mask[(slice(7, 10), slice(10, 14), slice(6, 9))[:dim]] = 1
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.2), -np.sin(0.2)], [np.sin(0.2), np.cos(0.2)]]
    turn[:3, 3] = [0.7, -1.3, 0.4 * (dim == 3)]
    matrix = affine @ turn @ np.diag([0.9, 1.0, 1.0, 1.0])
    matrix[:3, 3] -= [1.0, 0.0, 0.0]
    scales = pair_normalizers(moving.data, fixed.data, mask, None, how=how)
    grid = fixed.grid
    x = torch.stack(torch.meshgrid(*(torch.linspace(-2, 2, n) for n in grid.shape), indexing="ij"))
    hill = torch.exp(-x.square().sum(0))
    u = torch.stack([hill, -hill, 0.5 * hill][:dim])[None]
    image = tensor(fixed)
    prepared = Prepared(
        moving, fixed, Volume(mask, affine, name="mask"), None, Alignment(matrix, "affine"), *scales,
        Pair(image, image, grid),
    )  # fmt: skip
    found = Registration(grid, u, -u, 0.3 * torch.ones_like(image), {}, ())
    images = warp_native(prepared, found)
    return prepared, found, images


@pytest.mark.parametrize("how", ["robust", "histogram"])
@pytest.mark.parametrize(("background", "reach"), [(0.0, 5), (0.0, 30), (-7.0, 5)])
@pytest.mark.parametrize("dim", [2, 3])
def test_the_background_is_counted_and_not_computed(background, reach, dim, how):
    prepared, found, images = case(background, reach, dim, how)
    report = measure(prepared, found, images)
    scale, other = prepared.moving_scale, prepared.fixed_scale
    places = np.stack(
        [c.ravel() for c in np.indices(prepared.fixed.shape)] + [np.zeros(prepared.fixed.data.size)] * (3 - dim)
    )
    points = (prepared.voxel_map[:3] @ np.vstack([places, np.ones(places.shape[1])]))[:dim]
    before = map_coordinates(prepared.moving.data.astype(float), points, order=1, mode="nearest")
    before = scale.apply(before.reshape(prepared.fixed.shape))
    fixed = other.apply(prepared.fixed.data.astype(float))
    shape, warped = (scale.apply(i.numpy().astype(float)) for i in (images.deformed, images.warped))
    outside = images.mask.numpy() <= 0
    similarity = report["similarity"]
    for end, image in (("_before", before), ("", shape)):
        error = ((image - fixed) ** 2)[outside].sum()
        assert similarity[f"squared_error_outside{end}"] == pytest.approx(error, rel=1e-3)
        correlation = np.corrcoef(image[outside], fixed[outside])[0, 1]
        assert similarity[f"correlation_outside{end}"] == pytest.approx(correlation, abs=1e-3)
    assert similarity["squared_error_inside"] == pytest.approx(((warped - fixed) ** 2)[~outside].sum(), rel=1e-3)
    moved, painted = ((shape - before) ** 2).sum(), ((warped - shape) ** 2).sum()
    apart = report["disentanglement"]
    assert apart["share_explained_by_shape"] == pytest.approx(moved / (moved + painted), rel=1e-3)
    assert apart["appearance_outside_mask"] == apart["appearance_leak"] == 0 < painted


def test_the_deformation_is_told_without_the_affine():
    prepared, found, images = case(0.0, 5)
    numbers = measure(prepared, found, images)["deformation"]
    determinant = jacobian_determinant(found.displacement).numpy()
    assert numbers["jacobian_min"] == pytest.approx(determinant.min(), rel=1e-5)
    assert numbers["jacobian_max"] == pytest.approx(determinant.max(), rel=1e-5)
    assert numbers["sdlogj"] == pytest.approx(np.log(determinant).std(), rel=1e-4)
    inner = np.log(determinant[0, 0, 2:-2, 2:-2, 2:-2] + 3)
    assert numbers["sdlogj_learn2reg"] == pytest.approx(inner.std(), rel=1e-4)
    length = found.displacement.square().sum(1).sqrt()
    assert numbers["displacement_mean_mm"] == pytest.approx(float(length.mean()), rel=1e-5)
    assert numbers["displacement_max_mm"] == pytest.approx(float(length.max()), rel=1e-5)
    assert numbers["folds"] == numbers["nondiffeomorphic_volume"] == 0


def test_measuring_changes_nothing():
    prepared, found, images = case(0.0, 5)
    before = [
        t.clone() for t in (found.displacement, images.warped, images.deformed, images.mask, images.jacobian)
    ]
    assert measure(prepared, found, images) == measure(prepared, found, images)
    after = (found.displacement, images.warped, images.deformed, images.mask, images.jacobian)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
