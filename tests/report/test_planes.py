"""Which plane is shown and how it is turned."""

import itertools

import numpy as np
import pytest

from mmtk.io import Storage, Volume
from mmtk.report.planes import planes_through, tilt
from mmtk.report.views import lesion_center, look

SHAPE, SPACING = (9, 11, 13), (1.0, 1.5, 2.0)
ORIENTATIONS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))


def volume(data, affine, located=1):
    return Volume(data, affine, Storage(affine, located, located))


def stored(data, affine, order, signs):
    """The same image with its array axes permuted and flipped, and the affine that says so."""
    turn = np.zeros((4, 4))
    turn[3, 3] = 1
    for new, old in enumerate(order):
        turn[old, new] = signs[new]
        turn[old, 3] = 0 if signs[new] > 0 else data.shape[old] - 1
    flipped = np.transpose(data, order)[tuple(slice(None, None, s) for s in signs)]
    return volume(np.ascontiguousarray(flipped), affine @ turn), turn


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_the_picture_does_not_depend_on_how_the_file_stores_its_axes(order, signs):
    data = np.random.default_rng(0).random(SHAPE, dtype=np.float32)
    affine = np.diag([*SPACING, 1.0])
    image, turn = stored(data, affine, order, signs)
    center = np.linalg.inv(turn) @ [4, 3, 8, 1]
    for plane, expected in zip(
        planes_through(image, center[:3].round().astype(int)),
        planes_through(volume(data, affine), (4, 3, 8)),
        strict=True,
    ):
        np.testing.assert_array_equal(plane.take(image.data), expected.take(data))
        assert (plane.name, plane.letters) == (expected.name, expected.letters)
        assert plane.spacing == pytest.approx(expected.spacing)


@pytest.mark.parametrize(("name", "letters"), [("axial", "RA"), ("coronal", "RS"), ("sagittal", "AS")])
def test_right_anterior_superior_is_at_the_left_and_the_top(name, letters):
    data = np.zeros(SHAPE, dtype=np.float32)
    data[-1, -1, -1] = 1
    planes = {p.name: p for p in planes_through(volume(data, np.eye(4)), [n - 1 for n in SHAPE])}
    assert planes[name].take(data)[0, 0] == 1
    assert planes[name].letters[:2] == tuple(letters)


def test_a_grid_turned_by_forty_degrees_still_has_three_planes():
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.7), -np.sin(0.7)], [np.sin(0.7), np.cos(0.7)]]
    image = volume(np.zeros(SHAPE, dtype=np.float32), turn)
    assert sorted(p.across[0] for p in planes_through(image, (1, 1, 1))) == [0, 1, 2]
    assert tilt(image) == pytest.approx(np.degrees(0.7))


def test_an_image_that_does_not_say_where_it_lies_shows_no_sides():
    image = volume(np.zeros(SHAPE, dtype=np.float32), np.eye(4), located=0)
    assert all(p.letters == () for p in planes_through(image, (1, 1, 1)))


def test_a_picture_is_shown_as_it_was():
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    flat = Volume(rows.T, np.diag([-1.0, -1.0, 1.0, 1.0]))
    (plane,) = planes_through(flat, (0, 0))
    np.testing.assert_array_equal(plane.take(flat.data), rows)


def test_the_box_holds_the_content_and_a_margin():
    data = np.zeros((60, 60, 60), dtype=np.float32)
    data[20:40, 10:50, 30] = 1
    axial = planes_through(volume(data, np.eye(4)), (30, 30, 30))[0]
    boxed = axial.around(axial.take(data) > 0)
    assert boxed.take(data).shape == (44, 22)
    assert boxed.take(data).sum() == 800


def test_planes_go_through_the_middle_of_the_lesion(make):
    result = make((20, 24, 16))
    assert lesion_center(result) == (12, 14, 10)
    assert lesion_center(make((20, 24, 16), lesion=False)) == (10, 12, 8)


def test_of_two_lesions_the_larger_is_shown(make):
    result = make((30, 30, 30))
    result.images.mask[:] = 0
    result.images.mask[4:6, 15, 15] = 1
    result.images.mask[20:25, 10:20, 15] = 1
    result.images.mask[10:20, 15, 15] = 0
    center = lesion_center(result)
    assert float(result.images.mask[center]) == 1


def test_what_is_seen_of_a_plane_lies_on_one_grid(make):
    for view in look(make(fixed_lesion=True)):
        shapes = {value.shape[-2:] for value in vars(view).values() if isinstance(value, np.ndarray)}
        assert len(shapes) == 1


def test_the_moving_image_is_placed_by_the_affine_alone(make):
    shift = np.eye(4)
    shift[0, 3] = 2.0
    result = make(matrix=shift)
    (view,) = look(result, ("axial",))
    whole = view.plane.take(np.roll(result.prepared.moving.data, -2, axis=0))
    np.testing.assert_allclose(view.moving[:, 3:], whole[:, 3:], atol=1e-4)


def test_growth_leaves_the_affine_out(make):
    result = make(matrix=np.diag([2.0, 1.0, 1.0, 1.0]), displacement=0 * make().registration.displacement)
    for view in look(result):
        np.testing.assert_allclose(view.growth, 0, atol=1e-5)
