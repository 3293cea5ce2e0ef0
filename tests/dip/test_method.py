"""The deep image prior as a method: its guarantees, its settings, and a real pair."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from mmtk.errors import ConfigError
from mmtk.fields import Grid, compose, jacobian_determinant, warp
from mmtk.method import Pair
from mmtk.testing.methods import MethodContract
from mmtk.testing.phantoms import GRIDS
from mmtk_dip.method import _Search
from mmtk_dip.plugin import DeepImagePriorConfig, StructuralSimilarityConfig
from mmtk_dip.ssim import ssim

SLICES = Path(__file__).resolve().parents[3] / "shared" / "data" / "slices_2d"


def pair(dim: int = 2, *, lesion: bool = False) -> Pair:
    return MethodContract().pair(GRIDS[dim], lesion=lesion)


@pytest.mark.parametrize("dim", [2, 3])
def test_the_diffeomorphic_form_folds_nowhere_and_its_inverse_is_one(dim):
    images = pair(dim)
    found = DeepImagePriorConfig(diffeomorphic=True, iterations=60 if dim == 2 else 30).build().register(images)
    assert float(jacobian_determinant(found.displacement).min()) > 0
    assert float(jacobian_determinant(found.inverse).min()) > 0
    inner = (slice(None), slice(None), *[slice(3, -3)] * dim)
    assert float(compose(found.displacement, found.inverse)[inner].abs().max()) < 0.25
    left = (warp(images.moving, found.displacement) - images.fixed).abs().mean()
    assert float(left) < 0.4 * float((images.moving - images.fixed).abs().mean())


def test_a_field_that_folds_is_passed_over():
    images = pair()
    noise = torch.rand(images.moving.shape)
    images = replace(images, moving=noise, fixed=noise.flip(2))
    shape = images.grid.shape
    tearing = torch.zeros(1, 2, *shape)
    tearing[:, 0] = torch.linspace(shape[0] - 1, 1 - shape[0], shape[0])[
        :, None
    ]  # a reflection: dearest to the cost
    for form in (True, False):
        search = _Search(DeepImagePriorConfig(diffeomorphic=form, squarings=1).build(), images)
        with mock.patch.object(search, "map_of", lambda field: field):
            value = float(search.cost(tearing))
        assert value < 0.2 * search.costs[0]
        assert bool(search.best.any()) is not form and search.folded == int(form)
        assert search.costs[1] == (search.costs[0] if form else pytest.approx(value))


def test_costs_never_rise_and_begin_at_the_identity():
    images = pair()
    found = DeepImagePriorConfig(iterations=25).build().register(images)
    costs = found.levels[0].energies
    assert costs[0] == pytest.approx(float((images.moving - images.fixed).abs().mean()), rel=1e-5)
    assert all(b <= a for a, b in itertools.pairwise(costs)) and costs[-1] < 0.8 * costs[0]
    assert float((warp(images.moving, found.displacement) - images.fixed).abs().mean()) == pytest.approx(
        costs[-1], rel=1e-5
    )


def test_the_seed_decides_and_leaves_torchs_own_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one = DeepImagePriorConfig(iterations=5).build().register(pair())
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(99)
    same = DeepImagePriorConfig(iterations=5).build().register(pair())
    other = DeepImagePriorConfig(iterations=5, seed=1).build().register(pair())
    assert torch.equal(one.displacement, same.displacement)
    assert not torch.equal(one.displacement, other.displacement)


def test_masked_it_does_not_see_the_lesion_and_unmasked_it_does():
    images = pair(lesion=True)
    hurt = replace(images, moving=torch.where(images.mask > 0, 3.0, images.moving))
    for masked in (True, False):
        method = DeepImagePriorConfig(iterations=12, masked=masked).build()
        found, other = method.register(images), method.register(hurt)
        assert torch.equal(found.displacement, other.displacement) is masked


@pytest.mark.parametrize("similarity", ["lncc", "ssd", "mi"])
def test_any_similarity_may_drive_it(similarity):
    from mmtk.plugins import installed

    described = installed().find("similarity", similarity)()
    images = pair()
    found = DeepImagePriorConfig(iterations=25, similarity=described).build().register(images)
    before, after = (
        (m - images.fixed).square().mean() for m in (images.moving, warp(images.moving, found.displacement))
    )
    assert float(after) < float(before)


def test_too_few_voxels_are_refused():
    tiny = torch.rand(1, 1, 6, 7)
    with pytest.raises(ConfigError, match="6 x 7 voxels; deep_image_prior needs 8 along an axis"):
        DeepImagePriorConfig().build().register(Pair(tiny, tiny, Grid((6, 7), (1.0, 1.0))))


def test_structural_similarity_is_that_of_scikit_image():
    measure = pytest.importorskip("skimage.metrics").structural_similarity
    draw = np.random.default_rng(0)
    x = draw.random((40, 50))
    y = x + 0.2 * draw.random((40, 50))
    theirs = measure(
        x, y, data_range=float(np.ptp(y)), gaussian_weights=True, use_sample_covariance=False, full=True
    )
    ours = ssim(torch.from_numpy(x)[None, None], torch.from_numpy(y)[None, None])[0, 0].numpy()
    np.testing.assert_allclose(ours[6:-6, 6:-6], theirs[1][6:-6, 6:-6], atol=1e-8)


def test_structural_similarity_by_its_formula_for_flat_images():
    x, y = (torch.full((1, 1, 16, 16), 0.4, dtype=torch.float64) for _ in "xy")
    y[..., 0, 0] = 1.4  # a range of 1
    expected = (2 * 0.4 * 0.4 + 1e-4) / (2 * 0.4**2 + 1e-4)
    assert float(ssim(x, y)[0, 0, 14, 14]) == pytest.approx(expected, abs=1e-9)
    z = torch.full((1, 1, 16, 16), 0.2, dtype=torch.float64)
    assert float(ssim(z, y)[0, 0, 14, 14]) == pytest.approx((0.16 + 1e-4) / (0.2 + 1e-4), abs=1e-9)


def test_the_metric_reports_the_columns_of_table_1():
    images = pair()
    found = DeepImagePriorConfig(iterations=25).build().register(images)
    before = replace(found, displacement=torch.zeros_like(found.displacement))
    metric = StructuralSimilarityConfig().build()
    told, start = metric(images, found), metric(images, before)
    assert told["ssim"] > start["ssim"] and start["jacobian_mean"] == 1
    assert told["jacobian_mean"] == pytest.approx(float(jacobian_determinant(found.displacement).mean()))


@pytest.mark.slow
def test_two_visits_of_a_glioma_patient_with_all_determinants_positive():
    image = pytest.importorskip("PIL.Image")
    if not SLICES.is_dir():
        pytest.skip("the development images are not here")
    visits = []
    for visit in "ab":
        scan = np.asarray(image.open(SLICES / f"tumour_followup_01_visit_{visit}.png")).astype(np.float32)
        scan = (scan - scan.min()) / np.percentile(scan - scan.min(), 99.5)
        visits.append(torch.from_numpy(scan.clip(0, 1))[None, None])
    images = Pair(visits[0], visits[1], Grid((256, 256), (1.0, 1.0)))
    found = DeepImagePriorConfig(diffeomorphic=True).build().register(images)
    determinant = jacobian_determinant(found.displacement)
    assert float(determinant.min()) > 0.1 and float(determinant.mean()) == pytest.approx(1, abs=0.05)
    moved = warp(images.moving, found.displacement)
    assert float(ssim(moved, images.fixed).mean()) > float(ssim(images.moving, images.fixed).mean()) + 0.07
