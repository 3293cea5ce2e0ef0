"""Brains to train on: everything is drawn, and the truth stays the truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from mmtk.errors import ConfigError, InputError
from mmtk.samples import make
from mmtk.samples.anatomies import _pairs, brains, one_brain
from mmtk.samples.maps import FreeForm, _smoothed, shoot_momentum
from mmtk.samples.options import BrainsOptions
from mmtk.samples.sample import jacobian_minimum
from mmtk.samples.scanner import thick_slices

CLEAN = {"noise": (0, 0), "bias": (0, 0), "gamma": (1, 1)}


def rms(values):
    return float(np.sqrt(np.mean(np.square(values))))


def momentum_of(size, seed=1):
    drawn = _smoothed(np.random.default_rng(seed).standard_normal((2, 40, 44)), 1.0)
    return drawn * size / np.sqrt((_smoothed(drawn, 2.0) ** 2).sum(0)).max()


def energy(momentum):
    return float((momentum * _smoothed(momentum, 2.0)).sum())


def test_a_geodesic_keeps_its_energy_the_better_the_smaller_its_steps():
    start = momentum_of(1.0)
    drift = [abs(energy(shoot_momentum(start, 2.0, steps)[1]) / energy(start) - 1) for steps in (10, 20, 40)]
    assert drift[0] < 0.02
    assert drift[1] < 0.7 * drift[0]
    assert drift[2] < 0.7 * drift[1]


def test_a_geodesic_shot_back_returns_to_its_start():
    start = momentum_of(1.0)
    errors = []
    for steps in (10, 40):
        _, end = shoot_momentum(start, 2.0, steps)
        _, again = shoot_momentum(-end, 2.0, steps)
        errors.append(rms(_smoothed(again + start, 2.0)) / rms(_smoothed(start, 2.0)))
    assert errors[1] < 0.01
    assert errors[1] < 0.4 * errors[0]


@pytest.mark.parametrize("sigma", [12.0, 24.0])
def test_the_end_of_a_geodesic_has_the_size_that_was_asked_and_an_inverse(sigma):
    axes = [np.arange(0.0, 161.0, 4.0), np.arange(0.0, 181.0, 4.0)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"))
    bend = FreeForm.geodesic(np.random.default_rng(3), [160.0, 180.0], sigma, 9.0)
    reached = np.sqrt((bend.displacement_on_grid(axes) ** 2).sum(0)).max()
    assert 4.0 < reached < 12.0  # the fastest point may lie in the margin
    assert np.abs(bend(bend.inverse(points)) - points).max() < 1e-3
    assert np.allclose(bend.inverse(points) - points, bend.inverse_on_grid(axes), atol=1e-3)


@pytest.mark.parametrize("fixed", ["template", "deformed"])
@pytest.mark.parametrize("contrast", ["t1", "random"])
@pytest.mark.parametrize("lesion", ["none", "bright", "lookalike", "resected"])
def test_the_truth_carries_the_patient_onto_the_healthy_brain(lesion, contrast, fixed, carried):
    (made,) = brains(dim=2, seed=5, lesions=(lesion,), contrast=contrast, fixed=fixed, **CLEAN)
    healed = carried(made.moving, made.displacement) + made.appearance
    inside = binary_erosion(made.fixed > 0, iterations=2)
    before, after = rms((made.moving - made.fixed)[inside]), rms((healed - made.fixed)[inside & ~made.fixed_mask])
    assert after < 0.02
    assert after < 0.35 * before
    assert (lesion == "none") == (not made.mask.any()) == (not made.appearance.any())
    assert not made.appearance[~made.fixed_mask].any()
    assert jacobian_minimum(made.displacement) > 0
    there = np.indices(made.fixed.shape) + made.displacement
    back = np.stack([carried(c, made.displacement) for c in made.inverse_displacement])
    middle = (slice(None), *[slice(12, -12)] * 2)
    assert np.abs((there + back - np.indices(made.fixed.shape))[middle]).max() < 0.05


def test_a_pair_depends_on_seed_and_number_alone():
    options = BrainsOptions(dim=2, seed=7, count=3)
    every = list(brains(dim=2, seed=7, count=3))
    again = one_brain(options, 2)
    assert np.array_equal(every[2].moving, again.moving)
    assert np.array_equal(every[2].displacement, again.displacement)
    assert not np.array_equal(every[0].moving, every[1].moving)
    assert not np.array_equal(one_brain(options.model_copy(update={"seed": 8}), 2).moving, again.moving)


def test_the_template_is_the_template_and_deformed_is_not():
    kept = list(brains(dim=2, count=3, fixed="template"))
    assert all(np.array_equal(kept[0].fixed, other.fixed) for other in kept[1:])
    bent = list(brains(dim=2, count=3, fixed="deformed"))
    assert not np.allclose(bent[0].fixed, bent[1].fixed, atol=0.05)


def test_a_brain_in_three_dimensions_has_its_lesion_and_no_fold():
    (made,) = brains(dim=3, spacing=4, seed=2, lesions=("bright",))
    assert made.moving.shape == (42, 50, 44)
    assert made.mask.sum() > 20
    assert jacobian_minimum(made.displacement) > 0


@pytest.fixture
def own_labels(tmp_path):
    """Two heads on different grids: brain, and a left and a right ventricle of different numbers."""
    import nibabel as nib

    def head(shape, turn):
        grid = np.indices(shape).astype(float)
        middle = (np.array(shape) - 1) / 2
        off = grid - middle.reshape(3, 1, 1, 1)
        labels = np.zeros(shape, np.uint8)
        labels[(off**2).sum(0) < (0.4 * min(shape)) ** 2] = 1
        for side, number in ((-1, 2), (1, 7)):
            labels[((off[0] - 5 * side) ** 2 + off[1] ** 2 + off[2] ** 2) < 3**2] = number
        affine = np.diag([2.0, 2.0, 2.0, 1.0])
        affine[:3, 3] = -2 * middle + 10
        image = nib.Nifti1Image(labels, affine)
        return image.as_reoriented(nib.orientations.axcodes2ornt(turn)) if turn else image

    nib.save(head((44, 40, 36), None), tmp_path / "a.nii.gz")
    nib.save(head((40, 48, 44), ("A", "L", "S")), tmp_path / "b.nii.gz")
    return tmp_path


def test_label_maps_share_one_grid_and_mirror_images_share_a_grey(own_labels):
    first = own_labels / "a.nii.gz"
    for name in ("a.nii.gz", "b.nii.gz"):
        assert _pairs(own_labels / name, first) == {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 6, 7: 2}
    made = list(brains(labels=own_labels, dim=3, count=4, deformation=(0, 2), **CLEAN))
    assert {m.fixed.shape for m in made} == {(44, 40, 36)}
    assert len({m.facts["brain"] for m in made}) == 2
    for m in made:
        assert m.labels_fixed is not None
        left, right = (m.fixed[m.labels_fixed == k] for k in (2, 7))
        assert abs(np.median(left) - np.median(right)) < 0.12


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (np.indices((8, 8, 8))[0].astype(np.float32) / 2, "no label map"),
        (np.zeros((8, 8, 8), np.uint8), "every voxel"),
    ],
)
def test_what_is_no_label_map_is_refused(tmp_path, content, said):
    import nibabel as nib

    nib.save(nib.Nifti1Image(content, np.eye(4)), tmp_path / "x.nii.gz")
    with pytest.raises(InputError, match=said):
        next(brains(labels=tmp_path / "x.nii.gz"))
    with pytest.raises(InputError, match="no such label map"):
        next(brains(labels=tmp_path / "y.nii.gz"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"radius": "9,3"}, "the smaller first"),
        ({"push": (0.5, 2)}, "within 1 and 3"),
        ({"lesions": "bright,dull"}, "lesions"),
        ({"radus": "3,4"}, "did you mean 'radius'"),
    ],
)
def test_slips_are_told_before_anything_is_made(options, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        make("brains", tmp_path / "out", options)
    assert not (tmp_path / "out").exists()


def test_thick_slices_average_along_one_axis_and_keep_the_place():
    rng = np.random.default_rng(0)
    image = 0.2 + rng.random((40, 30))
    thick = thick_slices(image, 4.0, 0)
    assert rms(np.diff(thick, axis=0)) < 0.35 * rms(np.diff(image, axis=0))
    assert rms(np.diff(thick, axis=1)) > 0.3 * rms(np.diff(image, axis=1))
    ramp = np.broadcast_to(np.linspace(1, 2, 40)[:, None], (40, 30)).copy()
    assert np.abs(thick_slices(ramp, 4.0, 0) - ramp)[6:-6].max() < 1e-3
