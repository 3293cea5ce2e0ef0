"""Images on other grids: SimpleITK as the reference, closed forms where it has no answer."""

import tracemalloc

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import map_coordinates

from mmtk.errors import ConfigError, InputError
from mmtk.io import AffineStep, FieldStep, Volume
from mmtk.transforms import Transform, interpolate, read_layers, resample, resampling, transform

IDENTITY = Transform(())


def blank(shape, spacing=1.0):
    return Volume(np.zeros(shape), np.diag([spacing] * 3 + [1.0]))


def save(tmp_path, data, affine=None, name="image.nii.gz", intent=0, **header):
    image = nibabel.Nifti1Image(data, np.eye(4) if affine is None else affine, dtype=data.dtype)
    image.header.set_intent(intent, allow_unknown=True)
    for key, value in header.items():
        image.header[key] = value
    nibabel.save(image, tmp_path / name)
    return tmp_path / name


def test_points_go_where_simpleitk_takes_them(case, itk_transform, places_on):
    # Margins below 0: on the rim of the grid and beyond it, where the field is 0.
    points = places_on(case.fixed, 300, margin=-0.1)
    signs = np.array([-1, -1, 1])[: case.dim]
    composite = itk_transform(case.transform, case.dim)
    expected = np.array([composite.TransformPoint(p) for p in points * signs]) * signs
    np.testing.assert_allclose(case.transform.points(points), expected, atol=1e-9)


@pytest.mark.parametrize(
    "interpolation, theirs",
    [("linear", sitk.sitkLinear), ("cubic", sitk.sitkBSpline), ("nearest", sitk.sitkNearestNeighbor)],
)
def test_simpleitk_resamples_alike(case, itk, interpolation, theirs):
    expected = itk(case, theirs, -7.0)
    ours = resample(case.moving, case.transform, case.fixed, interpolation=interpolation, outside=-7).data
    assert (expected != -7).mean() > 0.3
    np.testing.assert_allclose(ours, expected, atol=2e-5)  # of 100; the result is float32


def test_a_windowed_sinc_of_the_same_radius_is_that_of_simpleitk(case, itk, monkeypatch):
    monkeypatch.setattr(interpolate, "RADIUS", 5)
    even = Volume(np.ones(case.moving.shape), case.moving.affine)
    # ITK's weights do not sum to 1: it is divided by what it makes of an image of ones.
    sums = itk(case, sitk.sitkLanczosWindowedSinc, 1.0, even)
    expected = itk(case, sitk.sitkLanczosWindowedSinc) / sums
    ours = resample(case.moving, case.transform, case.fixed, interpolation="sinc").data
    np.testing.assert_allclose(ours, expected, atol=2e-5)


def test_a_windowed_sinc_keeps_a_constant_and_is_nearest_to_a_wave():
    nodes = np.arange(40)
    wave = np.sin(2 * np.pi * nodes / 5)[:, None, None] * np.ones((40, 12, 12))
    half = Volume(np.zeros((28, 4, 4)), np.array([[1.0, 0, 0, 6.5], [0, 1, 0, 4], [0, 0, 1, 4], [0, 0, 0, 1]]))
    truth = np.sin(2 * np.pi * (np.arange(28) + 6.5) / 5)[:, None, None]
    errors = {
        kind: np.abs(resample(wave, _lps(half), half, interpolation=kind).data - truth).max()
        for kind in ("linear", "cubic", "sinc")
    }
    assert errors["sinc"] < 0.01
    assert errors["linear"] > 5 * errors["cubic"] > errors["sinc"]
    ones = resample(np.ones((40, 12, 12)), _lps(half), half, interpolation="sinc").data
    np.testing.assert_allclose(ones, 1, atol=1e-6)


def _lps(grid):
    """From a grid in RAS to an array, whose axes are laid along L, P and S."""
    del grid
    return Transform((AffineStep(np.diag([-1.0, -1.0, 1.0, 1.0])),))


def test_the_way_round_in_which_a_transform_is_given_does_not_matter(oblique):
    there = resample(oblique.moving, oblique.transform, oblique.fixed)
    turned = resample(oblique.moving, oblique.transform.inverse(), oblique.fixed, space="moving")
    np.testing.assert_array_equal(there.data, turned.data)


def test_an_image_goes_back_to_its_own_grid(oblique):
    """The fixed image on the moving grid: where points of the moving image come from, by the exact inverse."""
    back = resample(oblique.fixed, oblique.transform, oblique.moving, space="fixed", outside=np.nan)
    voxels = np.indices(oblique.moving.shape).reshape(3, -1).T
    points = voxels @ oblique.moving.affine[:3, :3].T + oblique.moving.affine[:3, 3]
    places = oblique.transform.inverse().points(points)
    reached = np.isfinite(places).all(axis=1)
    np.testing.assert_allclose(oblique.transform.points(places[reached]), points[reached], atol=1e-4)
    nodes = np.linalg.solve(oblique.fixed.affine[:3, :3], (places - oblique.fixed.affine[:3, 3]).T)
    inside = reached & ((nodes > 0) & (nodes < np.array(oblique.fixed.shape)[:, None] - 1)).all(axis=0)
    expected = map_coordinates(oblique.fixed.data, nodes[:, inside], order=1)
    assert inside.mean() > 0.2
    np.testing.assert_allclose(back.data.reshape(-1)[inside], expected, atol=1e-4)


def test_nothing_is_resampled_twice(oblique):
    """Ten there and back again: through one interpolation, the image that came is what is left."""
    way = oblique.transform
    turn = way.then(way.inverse().renamed(points_to="end"))
    chain = turn
    for n in range(4):
        chain = chain.then(turn.renamed(points_from="end", points_to=f"end {n}").renamed(points_to="end"))
    result = resample(oblique.fixed, chain, oblique.fixed, outside=np.nan).data
    kept = np.isfinite(result)
    assert kept.mean() > 0.9
    np.testing.assert_allclose(result[kept], oblique.fixed.data[kept], atol=1e-2)


def test_label_linear_of_two_labels_is_linear_and_a_threshold(case):
    labels = Volume((case.moving.data > 10).astype(np.float32), case.moving.affine)
    share = resample(labels, case.transform, case.fixed).data
    chosen = resample(labels, case.transform, case.fixed, interpolation="labels").data
    clear = np.abs(share - 0.5) > 1e-6
    assert 0.05 < (share > 0.5).mean() < 0.9
    np.testing.assert_array_equal(chosen[clear], share[clear] > 0.5)


def test_label_linear_of_many_labels_is_the_argmax_of_all_their_images(case):
    labels = np.digitize(case.moving.data, [-40, -15, -5, 5, 15, 40]) * 1000
    image = Volume(labels, case.moving.affine)
    shares = {
        value: resample(Volume(labels == value, case.moving.affine), case.transform, case.fixed).data
        for value in np.unique(labels)
    }
    names, stack = np.array(list(shares)), np.stack(list(shares.values()))
    clear = np.diff(np.sort(stack, axis=0)[-2:], axis=0)[0] > 1e-6
    inside = stack.sum(axis=0) > 0.99
    chosen = resample(image, case.transform, case.fixed, interpolation="labels").data
    assert (clear & inside).mean() > 0.3
    np.testing.assert_array_equal(chosen[clear & inside], names[stack.argmax(axis=0)][clear & inside])


def test_a_label_of_one_voxel_is_no_more_lost_than_by_linear():
    lone = np.zeros((9, 9, 9), np.uint16)
    lone[4, 4, 4] = 300
    fine = Volume(np.zeros((81, 81, 81)), np.diag([-1 / 9, -1 / 9, 1 / 9, 1.0]))
    share = resample((lone > 0).astype(np.float32), IDENTITY, fine).data
    chosen = resample(lone, IDENTITY, fine, interpolation="labels").data
    assert (chosen == 300).sum() >= (share > 0.5).sum() > 100
    assert set(np.unique(chosen)) == {0, 300}


def test_a_slanted_border_is_less_jagged_than_by_nearest():
    """Against the true half space, on a grid three times finer."""
    normal, offset = np.array([1.0, 0.4, 0.25]), 11.3
    coarse = (np.tensordot(normal, np.indices((14, 14, 14)), 1) > offset).astype(np.uint8)
    fine = Volume(
        np.zeros((36, 36, 36)), np.array([[-1, 0, 0, -3], [0, -1, 0, -3], [0, 0, 1, 3], [0, 0, 0, 3.0]]) / 3
    )
    nodes = np.indices(fine.shape) / 3 + 1
    truth = np.tensordot(normal, nodes, 1) > offset
    wrong = {
        kind: (resample(coarse, IDENTITY, fine, interpolation=kind).data != truth).mean()
        for kind in ("nearest", "labels")
    }
    assert wrong["labels"] < 0.85 * wrong["nearest"]


def test_labels_beyond_what_floats_hold_stay_themselves(tmp_path):
    labels = np.zeros((6, 6, 6), np.int32)
    labels[2:4, 2:4, 2:4] = 614454277
    path = save(tmp_path, labels)
    for kind in ("labels", "nearest"):
        result = resample(path, IDENTITY, path, interpolation=kind)
        written = nibabel.load(result.save(tmp_path / f"{kind}.nii.gz"))
        assert written.get_data_dtype() == np.int32
        np.testing.assert_array_equal(np.asanyarray(written.dataobj), labels)


def test_a_lost_label_is_named(tmp_path):
    labels = np.zeros((20, 20, 20), np.int16)
    labels[:, 10:] = 5
    labels[3, 3, 3] = 17
    path = save(tmp_path, labels)
    coarse = Volume(np.zeros((5, 5, 5)), np.diag([4.0, 4.0, 4.0, 1.0]))
    (note,) = resample(path, IDENTITY, coarse, interpolation="labels").notes
    assert note.startswith("1 of the labels have no voxel on the reference (17)")


def test_a_mask_of_one_percent_keeps_its_volume_on_a_coarse_grid():
    mask = np.zeros((36, 36, 36), np.float32)
    mask[::7, ::5, 12] = 1  # single voxels, which a coarse grid steps over
    fine = Volume(mask, np.eye(4))
    coarse = Volume(
        np.zeros((6, 6, 6)), np.array([[6, 0, 0, 2.5], [0, 6, 0, 2.5], [0, 0, 6, 2.5], [0, 0, 0, 1.0]])
    )
    assert 0 < mask.mean() < 0.01
    plain = resample(fine, IDENTITY, coarse)
    shares = resample(fine, IDENTITY, coarse, antialias=True)
    assert plain.data.sum() * 6**3 < 0.5 * mask.sum()
    assert shares.data.sum() * 6**3 == pytest.approx(mask.sum(), rel=1e-6)
    assert "antialias=on" in plain.notes[0] and not shares.notes


def test_antialias_is_the_mean_over_the_voxel_also_through_a_field(oblique):
    """Against the same image on a grid three times finer, averaged."""
    fixed, shape = oblique.fixed, (4, 5, 4)
    coarse_affine, fine_affine = fixed.affine.copy(), fixed.affine.copy()
    coarse_affine[:3, :3] *= 3
    coarse_affine[:3, 3] += fixed.affine[:3, :3] @ [3, 3, 2]
    fine_affine[:3, 3] = coarse_affine[:3, 3] - fixed.affine[:3, :3] @ [1, 1, 1]
    fine = resample(oblique.moving, oblique.transform, Volume(np.zeros([3 * n for n in shape]), fine_affine)).data
    expected = fine.reshape(4, 3, 5, 3, 4, 3).mean(axis=(1, 3, 5))
    job = resampling._Job(
        read_layers(oblique.moving), read_layers(Volume(np.zeros(shape), coarse_affine)).header,
        oblique.transform, "linear", 0.0, "none",
    )  # fmt: skip
    values, _ = job._chunk([oblique.moving.data], slice(0, 80), resampling._shifts((3, 3, 3)))
    np.testing.assert_allclose(values.reshape(shape), expected, atol=1e-4)


def test_a_series_is_carried_volume_by_volume_and_keeps_its_clock(oblique, tmp_path):
    volumes = [np.roll(oblique.moving.data, n, axis=0) for n in range(3)]
    path = save(
        tmp_path, np.stack(volumes, -1), oblique.moving.affine, xyzt_units=10, pixdim=[1, 1, 1, 1, 2.5, 0, 0, 0]
    )
    image = nibabel.load(path)
    image.set_sform(oblique.moving.affine, 1)
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, path)
    for kind in ("linear", "cubic"):
        result = resample(path, oblique.transform, oblique.fixed, interpolation=kind)
        written = nibabel.load(result.save(tmp_path / f"{kind}.nii.gz"))
        assert written.shape == (*oblique.fixed.shape, 3)
        assert written.header.get_zooms()[3] == pytest.approx(2.5)
        for n, one in enumerate(volumes):
            alone = resample(
                Volume(one, oblique.moving.affine), oblique.transform, oblique.fixed, interpolation=kind
            ).data
            np.testing.assert_allclose(written.get_fdata()[..., n], alone, atol=2e-4)


def vectors_like(volume, seed=3):
    return np.random.default_rng(seed).normal(size=(*volume.shape, 1, volume.dim)).astype(np.float32)


@pytest.mark.parametrize(
    "reorient, intent", [("none", 1007), ("jacobian", 1007), ("rotation", 1007), ("jacobian", 1006)]
)
def test_vectors_turn_with_their_surroundings_if_asked(tmp_path, reorient, intent):
    """Through an affine, whose Jacobian is itself."""
    grid = Volume(np.zeros((9, 8, 7)), np.diag([1.0, 1.5, 2.0, 1.0]))
    angle, scale = 0.4, 1.3
    linear = scale * np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = linear, (1.0, -2.0, 0.5)
    path = save(tmp_path, vectors_like(grid), grid.affine, intent=intent)
    result = resample(path, Transform((AffineStep(affine),)), grid, reorient=reorient)
    plain = resample(path, Transform((AffineStep(affine),)), grid).data
    turn = {"none": np.eye(3), "rotation": linear / scale, "jacobian": linear}[reorient]
    flip = np.diag([-1.0, -1.0, 1.0]) if intent == 1007 else np.eye(3)
    expected = np.tensordot(flip @ np.linalg.inv(turn) @ flip, plain, 1)
    np.testing.assert_allclose(result.data, expected, atol=1e-5)
    written = nibabel.load(result.save(tmp_path / "out.nii.gz"))
    assert written.shape == (9, 8, 7, 1, 3)
    assert int(written.header["intent_code"]) == intent


def test_a_displacement_that_is_carried_with_its_jacobian_still_ends_at_the_same_place(oblique, tmp_path):
    """x -> x + v(x) in one space, seen from the other: exact for small v, which the Jacobian carries."""
    small = np.broadcast_to(np.float32([0.01, -0.02, 0.015]), (*oblique.moving.shape, 1, 3))
    path = save(tmp_path, np.array(small), oblique.moving.affine, intent=1006)
    carried = resample(path, oblique.transform, oblique.fixed, reorient="jacobian").data.reshape(3, -1).T
    voxels = np.indices(oblique.fixed.shape).reshape(3, -1).T
    points = voxels @ oblique.fixed.affine[:3, :3].T + oblique.fixed.affine[:3, 3]
    reached = np.abs(carried).max(axis=1) > 0
    ahead = oblique.transform.points(points[reached] + carried[reached])
    expected = oblique.transform.points(points[reached]) + np.array([0.01, -0.02, 0.015])
    assert reached.mean() > 0.5
    # The field bends at the voxels on which the points lie, so that its slope there is between those of two cells.
    np.testing.assert_allclose(ahead, expected, atol=5e-3)


def test_memory_grows_with_the_result_alone(monkeypatch):
    monkeypatch.setattr(resampling, "CHUNK", 1 << 12)
    field = FieldStep(np.zeros((3, 8, 8, 8), np.float32), np.diag([8.0, 8.0, 8.0, 1.0]))
    moving = Volume(np.random.default_rng(0).normal(size=(20, 20, 20)), np.diag([3.0, 3.0, 3.0, 1.0]))

    def peak(n):
        reference = Volume(np.zeros((n, n, n)), np.eye(4))
        tracemalloc.start()
        try:
            resample(moving, Transform((field,)), reference)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    grown = 4 * (64**3 - 32**3)
    assert peak(64) - peak(32) < 1.5 * grown


def test_folds_leave_a_hole_and_a_count():
    """x -> x + 3 sin(x) folds: a point that several are taken to has an answer, one that none is taken to has not."""
    line = 3 * np.sin(2 * np.pi * np.arange(24) / 12)
    vectors = np.zeros((3, 24, 6, 6), np.float32)
    vectors[0] = line[:, None, None]
    folded = Transform((FieldStep(vectors, np.eye(4)),))
    points = np.stack([np.linspace(2, 20, 40), np.full(40, 2.5), np.full(40, 2.5)], axis=1)
    back = folded.inverse().points(points)
    assert np.isfinite(back).all()  # the field is continuous, so that every point in between is met
    np.testing.assert_allclose(folded.points(back), points, atol=1e-4)
    inward = Transform((FieldStep(np.full((3, 9, 9, 9), 2.0, np.float32), np.eye(4)),))
    image = Volume(np.arange(729.0).reshape(9, 9, 9) + 1, np.eye(4))
    result = resample(image, inward, image, space="fixed", outside=-1)
    assert "field folds" in result.notes[0]
    torn = (np.indices((9, 9, 9)) < 2 - 0.5).any(axis=0)
    np.testing.assert_array_equal(result.data == -1, torn)
    assert f"{torn.sum()} of 729" in result.notes[0]


@pytest.mark.parametrize(
    "options, says",
    [
        ({"interpolation": "cubc"}, "must be one of linear, cubic"),
        ({"interpolation": "labels", "antialias": True}, "averages"),
        ({"reorient": "jacobian"}, "does not say that it holds vectors"),
    ],
)
def test_options_that_do_not_go_together_are_refused(oblique, options, says):
    with pytest.raises(ConfigError, match=says):
        resample(oblique.moving, oblique.transform, oblique.fixed, **options)


def test_a_value_outside_that_the_labels_cannot_hold_is_refused(tmp_path):
    path = save(tmp_path, np.arange(64, dtype=np.uint8).reshape(4, 4, 4))
    with pytest.raises(ConfigError, match="whole numbers from 0 to 255"):
        resample(path, IDENTITY, path, interpolation="nearest", outside=-1)


def test_dimensions_that_do_not_fit_are_refused(oblique, flat):
    with pytest.raises(ConfigError, match="2-D but the reference is 3-D"):
        resample(flat.moving, oblique.transform, oblique.fixed)


def test_fractions_are_no_labels(oblique):
    with pytest.raises(InputError, match="holds fractions"):
        resample(oblique.moving, oblique.transform, oblique.fixed, interpolation="labels")


def test_nan_stays_where_it_is_and_a_spline_refuses_it(oblique):
    data = oblique.moving.data.copy()
    data[0, 0, 0] = np.nan
    image = Volume(data, oblique.moving.affine)
    lost = np.isnan(resample(image, IDENTITY, image).data)
    assert lost[0, 0, 0] and not lost[2:].any() and not lost[:, 2:].any() and not lost[..., 2:].any()
    with pytest.raises(InputError, match="1 voxels that are NaN"):
        resample(image, IDENTITY, image, interpolation="cubic")


def test_without_a_reference_the_grid_must_be_known(oblique):
    with pytest.raises(InputError, match="give an image of that space"):
        resample(oblique.moving, oblique.transform)


def test_images_that_are_none_are_refused(tmp_path):
    empty = nibabel.Nifti1Image(np.zeros((4, 4, 4, 0), np.float32), np.eye(4))
    with pytest.raises(InputError, match="has no voxels"):
        read_layers(empty)
    with pytest.raises(InputError, match="complex numbers"):
        read_layers(save(tmp_path, np.zeros((4, 4, 4, 2), np.complex64)))
    with pytest.raises(InputError, match="has 6 axes"):
        read_layers(save(tmp_path, np.zeros((4, 4, 4, 2, 2, 2), np.float32)))


def test_a_truncated_image_is_said_to_be(tmp_path):
    path = save(tmp_path, np.random.default_rng(0).normal(size=(20, 20, 20)).astype(np.float32))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match="truncated"):
        resample(path, IDENTITY, blank((4, 4, 4)))


def test_chunks_do_not_show(oblique, monkeypatch):
    whole = resample(oblique.moving, oblique.transform, oblique.fixed, space="moving").data
    monkeypatch.setattr(resampling, "CHUNK", 777)
    monkeypatch.setattr(transform, "CHUNK", 333)
    np.testing.assert_array_equal(resample(oblique.moving, oblique.transform, oblique.fixed).data, whole)
