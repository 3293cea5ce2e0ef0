"""Transforms from folders and files: between which spaces they lead, and in which order they follow one another."""

import json

import numpy as np
import pytest

from mmtk.errors import ConfigError, InputError
from mmtk.io import AffineStep, write_displacement, write_image, write_inverse_transform, write_transform
from mmtk.io.formats import write_steps
from mmtk.transforms import InverseFieldStep, Transform, load_transform, resample


@pytest.fixture
def folder(tmp_path, oblique):
    """What a run leaves, as far as transforms go, and the displacement of its map in voxels."""

    def make(name="run", fixed_hash="f", moving_hash="m"):
        out = tmp_path / name
        out.mkdir()
        field, affine = oblique.transform.steps
        to_voxels = np.linalg.inv(oblique.fixed.affine[:3, :3])
        u = np.tensordot(to_voxels, field.vectors, 1)
        write_image(out / "warped.nii.gz", oblique.fixed.data, oblique.fixed)
        write_image(tmp_path / "moving.nii.gz", oblique.moving.data, oblique.moving)
        write_transform(out / "transform.h5", u, oblique.fixed, affine.matrix)
        write_inverse_transform(out / "inverse_transform.h5", -u, oblique.fixed, affine.matrix)  # only nearly so
        write_displacement(out / "displacement.nii.gz", u, oblique.fixed, affine.matrix)
        entry = {"path": str(tmp_path / "moving.nii.gz"), "shape": oblique.moving.shape}
        inputs = {
            "moving": {**entry, "spacing": oblique.moving.spacing, "sha256": moving_hash},
            "fixed": {"path": None, "shape": [1], "spacing": [1], "sha256": fixed_hash},
        }
        (out / "run.json").write_text(json.dumps({"inputs": inputs}))
        return out

    return make


def test_a_run_leads_from_its_fixed_image_to_its_moving_one(folder, oblique, places_on):
    loaded = Transform.load(folder())
    assert (loaded.points_from, loaded.points_to) == ("fixed", "moving")
    points = places_on(oblique.fixed)
    np.testing.assert_allclose(loaded.points(points), oblique.transform.points(points), atol=1e-5)
    assert loaded.grids["fixed"].shape == oblique.fixed.shape
    np.testing.assert_allclose(loaded.grids["moving"].affine, oblique.moving.affine, atol=1e-5)


def test_the_way_back_is_that_of_the_map_and_not_the_stored_one(folder, oblique, places_on):
    out = folder()
    loaded = Transform.load(out)
    points = places_on(oblique.fixed, margin=0.2)
    arrived = loaded.points(points)
    np.testing.assert_allclose(loaded.inverse().points(arrived), points, atol=1e-4)
    stored = Transform.load(out / "inverse_transform.h5")
    assert (stored.points_from, stored.points_to) == ("moving", "fixed")
    assert np.abs(stored.points(arrived) - points).max() > 0.01
    assert isinstance(loaded.inverse().steps[1], InverseFieldStep)


def test_the_one_field_of_a_run_is_the_same_map(folder, oblique, places_on):
    loaded = Transform.load(folder() / "displacement.nii.gz")
    points = places_on(oblique.fixed, margin=0.1)
    # Linear between voxels of the whole map, against the affine of what is linear between voxels: the same.
    np.testing.assert_allclose(loaded.points(points), oblique.transform.points(points), atol=1e-4)


def test_a_moving_image_that_is_gone_or_changed_gives_no_grid(folder, oblique, tmp_path):
    out = folder()
    write_image(tmp_path / "moving.nii.gz", oblique.fixed.data, oblique.fixed)
    assert "moving" not in Transform.load(out).grids
    (tmp_path / "moving.nii.gz").unlink()
    assert set(Transform.load(out).grids) == {"fixed"}


def affine_file(path, shift):
    matrix = np.eye(4)
    matrix[:3, 3] = shift
    return write_steps(path, (AffineStep(matrix),))


@pytest.mark.parametrize(
    "name, ends",
    [
        ("sub-01_from-T1w_to-MNI152NLin2009cAsym_mode-image_xfm.tfm", ("MNI152NLin2009cAsym", "T1w")),
        ("sub-01_from-T1w_to-MNI_mode-points_xfm.tfm", ("T1w", "MNI")),
        ("anything.tfm", ("fixed", "moving")),
    ],
)
def test_names_say_between_which_spaces(tmp_path, name, ends):
    loaded = load_transform(affine_file(tmp_path / name, [1, 2, 3]))
    assert (loaded.points_from, loaded.points_to) == ends
    np.testing.assert_allclose(loaded.points(np.zeros((1, 3))), [[1, 2, 3]])


def test_files_follow_one_another_as_for_ants(tmp_path):
    """The one nearest to the fixed image first: a point meets it first."""
    stretch = write_steps(tmp_path / "stretch.tfm", (AffineStep(np.diag([2.0, 2, 2, 1])),))
    shift = affine_file(tmp_path / "shift.tfm", [1, 0, 0])
    chain = Transform.load(shift, stretch)
    assert (chain.points_from, chain.points_to) == ("fixed", "moving")
    np.testing.assert_allclose(chain.points(np.zeros((1, 3))), [[2, 0, 0]])
    np.testing.assert_allclose(Transform.load(stretch, shift).points(np.zeros((1, 3))), [[1, 0, 0]])


def test_named_files_are_turned_where_their_names_ask_for_it(tmp_path):
    first = affine_file(tmp_path / "a_from-T1w_to-MNI_mode-image_xfm.tfm", [1, 0, 0])  # points: MNI to T1w
    second = affine_file(tmp_path / "a_from-T1w_to-EPI_mode-image_xfm.tfm", [0, 5, 0])  # points: EPI to T1w
    chain = load_transform(first, second)
    assert (chain.points_from, chain.points_to) == ("MNI", "EPI")
    np.testing.assert_allclose(chain.points(np.zeros((1, 3))), [[1, -5, 0]])


def test_named_files_that_do_not_meet_are_refused(tmp_path):
    first = affine_file(tmp_path / "a_from-T1w_to-MNI_mode-image_xfm.tfm", [1, 0, 0])
    second = affine_file(tmp_path / "a_from-EPI_to-PET_mode-image_xfm.tfm", [0, 5, 0])
    with pytest.raises(InputError, match=r"takes points to 'T1w' but .* takes them from 'PET'"):
        load_transform(first, second)


def test_runs_in_the_wrong_order_are_known_by_the_images_they_share(folder):
    to_template = folder("to_template", fixed_hash="template", moving_hash="t1")
    to_t1 = folder("to_t1", fixed_hash="t1", moving_hash="epi")
    assert len(Transform.load(to_template, to_t1).steps) == 4
    with pytest.raises(InputError, match="wrong way round"):
        Transform.load(to_t1, to_template)


def test_a_run_cannot_follow_itself(folder):
    out = folder()
    for twice in ((out, out), (out, out / "transform.h5"), (out / "displacement.nii.gz", out / "transform.h5")):
        with pytest.raises(InputError, match=r"cannot follow itself; give it once|have the same fixed image"):
            Transform.load(*twice)


def test_a_run_without_hashes_cannot_follow_itself_either(folder):
    out = folder(fixed_hash=None, moving_hash=None)
    with pytest.raises(InputError, match="cannot follow itself"):
        Transform.load(out, out)


@pytest.mark.parametrize("space", ["fixed", "moving"])
def test_runs_that_share_an_image_at_the_same_end_cannot_follow_one_another(folder, space):
    one, other = folder("one", "a", "b"), folder("other", *(("a", "c") if space == "fixed" else ("c", "b")))
    with pytest.raises(InputError, match=f"have the same {space} image, so neither goes on where the other ends"):
        Transform.load(one, other)


def test_runs_that_share_nothing_are_taken_as_they_are_given(folder):
    """A scan and its copy after bias correction are one space in two files."""
    assert len(Transform.load(folder("one", "a", "b"), folder("other", "b2", "c")).steps) == 4


def test_a_file_that_says_nothing_of_its_spaces_may_be_given_twice(tmp_path):
    half = affine_file(tmp_path / "half.tfm", [1, 0, 0])
    np.testing.assert_allclose(Transform.load(half, half).points(np.zeros((1, 3))), [[2, 0, 0]])


def test_a_chain_that_ends_where_it_began_is_refused(folder):
    out = folder()
    with pytest.raises(InputError, match="back to it"):
        Transform.load(out / "inverse_transform.h5", out)


def test_a_flat_affine_is_not_taken_for_a_solid_one(tmp_path, oblique):
    flat = load_transform(write_steps(tmp_path / "flat.tfm", (AffineStep(np.eye(4)),), dim=2))
    assert (flat.dim, load_transform(affine_file(tmp_path / "solid.tfm", [1, 2, 3])).dim) == (2, 3)
    with pytest.raises(ConfigError, match="the image is 3-D but the transform is 2-D"):
        resample(oblique.moving, flat, oblique.fixed)


def test_a_folder_without_a_transform_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds neither transform.h5 nor displacement.nii.gz"):
        Transform.load(tmp_path)


def test_what_it_is_can_be_read_off(oblique):
    assert repr(oblique.transform) == "Transform(points fixed -> moving: field 20x18x14, affine)"
    assert (
        repr(oblique.transform.inverse()) == "Transform(points moving -> fixed: affine, inverse of field 20x18x14)"
    )
    assert Transform((AffineStep(np.eye(4)),)).dim is None and oblique.transform.dim == 3
