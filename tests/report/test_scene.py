"""The volumes inside the page, read back as a browser would, against the images they were made from."""

import base64
import gzip
import hashlib
import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from nibabel import Nifti1Image

import mmtk.report
from mmtk.report import write_report
from mmtk.report.findings import findings_of
from mmtk.report.scene import make_scene

SHAPE, CENTER = (20, 24, 16), (10, 12, 8)
FLIPS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))


def oriented(order, signs, spacing=(1.0, 1.0, 1.0)):
    affine = np.zeros((4, 4))
    affine[3] = (5, -3, 2, 1)
    for column, (row, sign) in enumerate(zip(order, signs, strict=True)):
        affine[row, column] = sign * spacing[column]
    affine[:3, 3], affine[3] = affine[3, :3], (0, 0, 0, 1)
    return affine


def volume(store):
    """A store as nibabel reads it."""
    return Nifti1Image.from_bytes(gzip.decompress(store.data))


def at(image, points):
    """Values of an image at world points that are centers of its voxels."""
    voxels = np.linalg.solve(image.affine, np.c_[points, np.ones(len(points))].T)[:3]
    index = np.rint(voxels).astype(int)
    np.testing.assert_allclose(voxels, index, atol=1e-4)
    return image.get_fdata()[tuple(index)]


@pytest.mark.parametrize(("order", "signs"), FLIPS)
def test_a_volume_has_the_values_of_the_image_at_the_same_place_of_the_world(order, signs, make):
    found = findings_of(make(SHAPE, affine=oriented(order, signs)))
    noise = np.random.default_rng(1).random(SHAPE, dtype=np.float32)
    found.fixed.data[:] = found.fixed.data + 5 * noise
    stores = make_scene(found, CENTER).stores
    image = volume(stores["fixed"])
    assert (np.diag(image.affine)[:3] > 0).all(), "axes run along R, A, S"
    indices = np.argwhere(found.fixed.data > 30)
    points = indices @ found.space.affine[:3, :3].T + found.space.affine[:3, 3]
    np.testing.assert_allclose(
        at(image, points), found.fixed.data[tuple(indices.T)], atol=stores["fixed"].step / 2 + 1e-4
    )


@pytest.mark.parametrize(("order", "signs"), FLIPS[::5])
def test_the_displacement_points_the_same_way_in_the_world(order, signs, make):
    affine = oriented(order, signs, (1.0, 1.0, 2.0))
    u = torch.tensor([1.0, -2.0, 0.5]).view(1, 3, 1, 1, 1).expand(1, 3, *SHAPE).clone()
    stored = make_scene(findings_of(make(SHAPE, affine=affine, displacement=u)), CENTER).stores["displacement"]
    voxels = np.frombuffer(gzip.decompress(stored.data), dtype=np.uint8).reshape(3, -1)
    found = stored.lowest + stored.step * voxels.mean(axis=1)
    np.testing.assert_allclose(found, affine[:3, :3] @ [1.0, -2.0, 0.5], atol=stored.step)


def test_warped_is_stored_as_what_it_differs_from_deformed(make):
    found = findings_of(make(SHAPE))
    stores = make_scene(found, CENTER).stores
    bare = [np.frombuffer(gzip.decompress(stores[n].data), dtype=np.uint8)[352:] for n in ("warped", "deformed")]
    difference, deformed = bare
    assert stores["warped"].onto == "deformed"
    assert (difference != 0).mean() < 0.1
    warped = (difference + deformed).reshape(stores["warped"].shape, order="F")
    values = stores["warped"].lowest + stores["warped"].step * warped.astype(float)
    index = np.argwhere(found.lesion.numpy() > 0)
    frame = volume(stores["warped"]).affine
    points = np.c_[index, np.ones(len(index))] @ found.space.affine.T
    places = np.rint(np.linalg.solve(frame, points.T)[:3]).astype(int)
    np.testing.assert_allclose(
        values[tuple(places)], found.warped.numpy()[tuple(index.T)], atol=stores["warped"].step / 2 + 1e-4
    )


@pytest.mark.parametrize("name", ["appearance", "growth"])
def test_zero_is_exact_in_signed_maps(name, make):
    found = findings_of(make(SHAPE, displacement=torch.zeros(1, 3, *SHAPE)))
    values = volume(make_scene(found, CENTER).stores[name]).get_fdata()
    assert np.abs(values).min() == 0
    assert (values == 0).mean() > 0.5


def test_masks_keep_a_lesion_of_one_voxel(make):
    result = make(SHAPE)
    result.images.mask[:] = 0
    result.images.mask[10, 12, 8] = 1
    values = volume(make_scene(findings_of(result), CENTER).stores["lesion"]).get_fdata()
    assert values.max() == pytest.approx(1) and (values > 0.5).sum() == 1


def test_the_crosshair_starts_at_the_voxel_that_is_asked_for(make):
    found = findings_of(make(SHAPE, affine=oriented((1, 0, 2), (-1, 1, -1), (1.0, 1.0, 2.0))))
    scene = make_scene(found, CENTER)
    voxel = np.array(scene.start) * scene.stores["fixed"].shape - 0.5
    world = scene.affine @ [*voxel, 1]
    np.testing.assert_allclose(world, found.space.affine @ [*CENTER, 1], atol=1e-6)


def test_all_volumes_fill_one_box(make):
    scene = make_scene(findings_of(make((21, 23, 17), affine=np.eye(4), fixed_lesion=True)), CENTER)
    boxes = set()
    for store in scene.stores.values():
        if store.name != "displacement":
            image = volume(store)
            first = image.affine @ [-0.5, -0.5, -0.5, 1]
            last = image.affine @ [*(n - 0.5 for n in image.shape), 1]
            boxes.add((*first[:3].round(4), *last[:3].round(4)))
    assert len(boxes) == 1


@pytest.mark.parametrize("share", [0.6, 0.1, 0.0])
def test_what_does_not_fit_is_made_coarser(share, make):
    found = findings_of(make(SHAPE, affine=np.eye(4)))
    noise = np.random.default_rng(0).normal(50, 20, SHAPE).astype(np.float32)
    found.fixed.data[:] = noise
    whole = make_scene(found, CENTER)
    size = sum(len(store.data) for store in whole.stores.values())
    small = make_scene(found, CENTER, int(share * size))
    assert sum(len(store.data) for store in small.stores.values()) <= max(share * size, 2000)
    assert np.prod(small.spacing) > np.prod(whole.spacing)


def test_of_a_flat_image_there_are_no_volumes(make):
    assert make_scene(findings_of(make((24, 30))), (12, 15)) is None


def test_the_page_holds_the_volumes_and_the_library_as_published(make, record, tmp_path):

    write_report(tmp_path / "report.html", make(SHAPE), record)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    held = dict(re.findall(r'<script type="text/plain" id="([\w-]+)">([A-Za-z0-9+/=]*)</script>', text))
    assert {"niivue", "volume-fixed", "volume-moving", "volume-warped", "volume-deformed"} <= set(held)
    library = gzip.decompress(base64.b64decode(held["niivue"]))
    readme = (Path(mmtk.report.__file__).parent / "niivue" / "README.md").read_text()
    assert hashlib.sha256(library).hexdigest() in readme
