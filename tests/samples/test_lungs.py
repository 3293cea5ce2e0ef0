"""Breathing lungs: what is known of them is true of them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from mmtk.errors import ConfigError
from mmtk.io import read_points
from mmtk.samples import lungs, make


@pytest.fixture(scope="module", params=[2, 3])
def person(request):
    return next(lungs(dim=request.param, spacing=8 if request.param == 3 else 4, seed=3, fibrosis="all"))


def carried(image, displacement, order):
    points = np.stack(np.meshgrid(*map(np.arange, image.shape), indexing="ij")) + displacement
    return map_coordinates(image.astype(float), points, order=order, mode="nearest")


def test_the_map_does_not_fold_and_its_inverse_is_one(person):
    assert person.facts["jacobian_minimum"] > 0.25
    u, w = (f.astype(float) for f in (person.displacement, person.inverse_displacement))
    there = np.stack([carried(c, w, 3) for c in u]) + w
    inner = (slice(None), *[slice(6, -6)] * person.dim)
    assert np.abs(there[inner]).max() < 0.1


def test_labels_and_landmarks_follow_it(person):
    moved = carried(person.labels_moving, person.displacement, 0)
    both = (
        2 * ((moved > 0) & (person.labels_fixed > 0)).sum() / ((moved > 0).sum() + (person.labels_fixed > 0).sum())
    )
    before = 2 * ((person.labels_moving > 0) & (person.labels_fixed > 0)).sum()
    before /= (person.labels_moving > 0).sum() + (person.labels_fixed > 0).sum()
    assert both > max(0.93, before)
    to_voxels = np.linalg.inv(person.affine)
    moving, fixed = ((to_voxels[:3, :3] @ p.T + to_voxels[:3, 3:])[: person.dim] for p in person.landmarks)
    assert fixed.shape[1] >= 5
    u = np.stack([map_coordinates(c.astype(float), fixed, order=3) for c in person.displacement])
    np.testing.assert_allclose(fixed + u, moving, atol=0.02)
    if person.dim == 2:
        assert all((p[:, 2] == 0).all() for p in person.landmarks), "a plane's points, as transforms take them"
    at = tuple(np.round(fixed).astype(int))
    assert (person.labels_fixed[at] > 0).mean() > 0.7


def test_the_images_match_where_the_map_leads(person):
    moved = carried(person.moving, person.displacement, 1)
    inner = tuple([slice(3, -3)] * person.dim)
    before, after = (np.abs(image - person.fixed)[inner].mean() for image in (person.moving, moved))
    assert after < 0.75 * before


def test_stiff_bases_move_less_and_the_rest_as_before():
    healthy, ill = (next(lungs(dim=2, spacing=4, seed=1, fibrosis=f)) for f in ("none", "all"))
    assert healthy.facts["excursion_mm"] == ill.facts["excursion_mm"]
    z = np.arange(healthy.fixed.shape[1]) * 4
    base, apex = (z > 70) & (z < 100), (z > 190) & (z < 230)
    down = [np.abs(s.displacement[1]).mean(0) for s in (healthy, ill)]
    assert down[1][base].mean() < 0.75 * down[0][base].mean()
    assert down[1][apex].mean() == pytest.approx(down[0][apex].mean(), rel=0.2)


def test_seed_and_index_decide():
    one, two = lungs(dim=2, spacing=8, count=2, seed=7)
    (again,) = lungs(dim=2, spacing=8, count=1, seed=7)
    assert np.array_equal(one.moving, again.moving) and not np.array_equal(one.moving, two.moving)


def test_its_folder_is_a_case_of_a_study(tmp_path):
    from mmtk.study.cases import one_folder

    folder = make("lungs", tmp_path / "p", {"dim": "2", "spacing": "8", "seed": "4"})
    case = one_folder(folder)
    assert case is not None and case.mask is None and case.labels and case.landmarks and case.fixed_landmarks
    moving = read_points(folder / "landmarks_moving.csv")
    assert moving.space == "moving" and len(moving) == len(read_points(folder / "landmarks_fixed.csv")) > 3
    assert json.loads((folder / "sample.json").read_text())["fibrosis_drawn"] in (True, False)


def test_what_cannot_be_drawn_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="excursion=60,20"):
        make("lungs", tmp_path / "p", {"excursion": "60,20"})
