import numpy as np
import pytest

from mmtk.errors import InputError
from mmtk.samples.brain import DATA, Brain, embedded_brain, read_brain


@pytest.fixture(scope="module")
def brain():
    return embedded_brain()


def test_the_embedded_brain_is_small_and_has_its_licence_beside_it():
    assert sum(file.stat().st_size for file in DATA.iterdir()) < 3e6
    assert "Copyright (C) 1993-2009 Louis Collins" in (DATA / "LICENSE.MNI.txt").read_text()


def test_world_coordinates_are_those_of_mni(brain):
    # The anterior commissure is the origin; the template is symmetric round x = 0.
    inside = np.argwhere(brain.labels > 0) @ brain.affine[:3, :3].T + brain.affine[:3, 3]
    assert abs(inside[:, 0].mean()) < 0.5
    np.testing.assert_allclose(inside.min(0), [-72, -107, -72])
    assert brain.image.shape == (168, 200, 176) and brain.spacing == (1.0, 1.0, 1.0)


def test_there_is_air_all_round(brain):
    where = np.argwhere(brain.image > 0)
    assert (where.min(0) >= 9).all() and (where.max(0) < np.array(brain.image.shape) - 9).all()


def test_tissues_are_found_without_labels_about_as_with_them(brain):
    coarse = brain.at(4.0)
    without = Brain(coarse.image, None, coarse.affine, "")
    known, guessed = coarse.tissue_means(), without.tissue_means()
    assert known["csf"] < known["grey"] < known["white"]
    # Fluid is a thin class, half of it brain: there the two differ most.
    allowed = {"csf": 0.15, "grey": 0.05, "white": 0.05}
    assert all(abs(known[tissue] - guessed[tissue]) < allowed[tissue] for tissue in known)


def test_averaging_keeps_what_lies_where(brain):
    coarse = brain.at(4.0)

    def middle(b):
        weights = b.image / b.image.sum()
        return b.affine[:3, :3] @ (np.indices(b.image.shape) * weights).sum((1, 2, 3)) + b.affine[:3, 3]

    np.testing.assert_allclose(middle(coarse), middle(brain), atol=0.01)
    assert coarse.image.mean() == pytest.approx(brain.image.mean(), rel=1e-5)
    assert set(np.unique(coarse.labels)) == {0, 1, 2, 3}
    fine_axes, axes = brain.axes, coarse.axes
    np.testing.assert_allclose(axes[0][:2], [fine_axes[0][:4].mean(), fine_axes[0][4:8].mean()])


def test_a_spacing_between_voxels_is_refused_with_advice(brain):
    with pytest.raises(InputError, match="Ask for a multiple, or leave `spacing` out"):
        brain.at(1.5)


def test_the_slice_lies_in_the_plane_of_the_brain(brain):
    flat = brain.slice()
    assert flat.dim == 2 and flat.image.shape == (168, 200)
    np.testing.assert_array_equal(flat.image, brain.image[:, :, round(20 - brain.affine[2, 3])])
    np.testing.assert_allclose(flat.affine[:2, [0, 1, 3]], brain.affine[:2, [0, 1, 3]])


def test_labels_on_another_grid_are_refused(own_brain):
    with pytest.raises(InputError, match="Resample the labels onto the brain's grid first"):
        read_brain(own_brain, np.ones((5, 5, 5)) + np.eye(5))


def test_labels_without_a_brain_are_refused(own_brain):
    with pytest.raises(InputError, match="brain=FILE"):
        read_brain(None, own_brain)
