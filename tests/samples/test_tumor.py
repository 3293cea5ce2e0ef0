import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from mmtk.errors import ConfigError
from mmtk.samples import embedded_brain, tumor_brain
from mmtk.samples.sample import jacobian_minimum

KINDS = ("bright", "lookalike", "resected")


def rms(values):
    return float(np.sqrt((values**2).mean()))


def test_the_same_seed_gives_the_same_sample(brain):
    one, other = brain(), tumor_brain(spacing=4.0)
    for name in ("moving", "mask", "fixed_mask", "displacement", "appearance", "labels_moving"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert not np.allclose(one.displacement, brain(seed=1).displacement)


@pytest.mark.parametrize("kind", KINDS)
def test_the_truth_carries_the_patient_onto_the_healthy_brain(kind, brain_slice, carried):
    sample = brain_slice(kind, noise=0.0)
    seen = carried(sample.moving, sample.displacement)
    # A voxel inside the surface, where the head meets air without a transition.
    inside = binary_erosion(sample.fixed > 0, iterations=2)
    outside = inside & ~sample.fixed_mask
    assert rms((seen - sample.fixed)[outside]) < 0.01 < 0.1 * rms((sample.moving - sample.fixed)[outside])
    assert rms((seen + sample.appearance - sample.fixed)[inside & sample.fixed_mask]) < 0.05
    assert rms((seen - sample.fixed)[inside & sample.fixed_mask]) > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_folds_and_the_inverse_is_one(kind, brain):
    sample = brain(kind)
    assert jacobian_minimum(sample.displacement) > 0 and jacobian_minimum(sample.inverse_displacement) > 0
    assert sample.facts["inversion_error_voxels"] < 1e-3
    assert sample.facts["jacobian_minimum"] == pytest.approx(jacobian_minimum(sample.displacement))


@pytest.mark.parametrize("kind", KINDS)
def test_the_fixed_mask_is_the_mask_carried_by_the_truth(kind, brain_slice, carried):
    sample = brain_slice(kind)
    seen = carried(sample.mask, sample.displacement, order=1) > 0.5
    assert 2 * (seen & sample.fixed_mask).sum() / (seen.sum() + sample.fixed_mask.sum()) > 0.93
    assert (sample.appearance[~sample.fixed_mask] == 0).all()
    assert sample.fixed_mask.any() and sample.mask.any()


def test_tumors_push_and_a_resection_draws_in(brain):
    sizes = {kind: brain(kind).mask.sum() / brain(kind).fixed_mask.sum() for kind in KINDS}
    assert sizes["lookalike"] > 4 and sizes["bright"] > 1.4 and sizes["resected"] < 0.4


def test_a_lesion_of_equal_radii_has_no_mass_effect(brain_slice):
    without = brain_slice(growth=(12.0, 12.0))
    flat = brain_slice("lookalike", growth=(12.0, 12.0), deformation=0.0)
    np.testing.assert_allclose(flat.displacement, 0, atol=1e-6)
    assert np.abs(without.displacement).max() < 8.5


def test_kinds_share_the_patient_and_differ_in_the_lesion(brain_slice):
    samples = {kind: brain_slice(kind, noise=0.0) for kind in KINDS}
    one = samples["bright"]
    for other in samples.values():
        assert other.facts["lesion_center_world_mm"] == one.facts["lesion_center_world_mm"]
        center = np.argwhere(other.fixed_mask).mean(0).reshape(2, 1, 1)
        far = np.hypot(*(np.indices(other.fixed.shape) - center)) > 95
        np.testing.assert_allclose(other.displacement[:, far], one.displacement[:, far], atol=1e-4)
    tissue = embedded_brain().tissue_means()
    inside = {kind: s.moving[binary_erosion(s.mask, iterations=5)] for kind, s in samples.items()}
    assert np.percentile(inside["bright"], 95) > 1.1 * tissue["white"] > np.percentile(inside["bright"], 5) * 1.5
    assert inside["lookalike"].mean() == pytest.approx(tissue["grey"], abs=0.05)
    assert inside["resected"].mean() < 0.8 * tissue["csf"]


def test_the_edema_darkens_white_matter_round_the_core(brain_slice):
    sample, core = brain_slice(noise=0.0), brain_slice(noise=0.0, edema=0.0)
    ring = sample.mask & ~core.mask
    assert ring.sum() > 100
    assert (sample.moving[ring] < core.moving[ring]).mean() > 0.95


def test_the_patient_is_the_same_at_every_spacing(brain):
    one, other = brain(), brain(spacing=2.0)
    assert one.facts["lesion_center_world_mm"] == other.facts["lesion_center_world_mm"]
    # Block means of the finer map sit on the coarser grid's centers.
    fine = other.displacement * 2.0
    blocks = fine.reshape(3, 42, 2, 50, 2, 44, 2).mean((2, 4, 6))
    far = ~one.fixed_mask & (np.abs(one.appearance) == 0)
    assert np.median(np.abs(blocks - one.displacement * 4.0)[:, far]) < 0.01


def test_the_scanner_adds_what_was_asked(brain_slice):
    plain = brain_slice(noise=0.0)
    noisy, biased, other = (brain_slice(**o) for o in ({}, {"noise": 0.0, "bias": 0.3}, {"contrast": "other"}))
    white = (plain.labels_moving == 3) & ~plain.mask
    assert (noisy.moving - plain.moving)[white].std() == pytest.approx(0.02, rel=0.2)
    factor = biased.moving[white] / plain.moving[white]
    assert 0.69 < factor.min() < factor.max() < 1.31 and np.abs(factor - 1).max() > 0.15
    means = [other.moving[(other.labels_moving == k) & ~other.mask].mean() for k in (1, 2, 3)]
    assert means[0] > means[1] > means[2]
    for sample in (noisy, biased, other):
        assert (sample.moving[(plain.labels_moving == 0) & (plain.moving == 0)] == 0).all()
        np.testing.assert_array_equal(sample.fixed, plain.fixed)
        np.testing.assert_array_equal(sample.displacement, plain.displacement)


def test_labels_are_carried_and_the_core_has_its_own(brain_slice, carried):
    sample = brain_slice()
    seen = carried(sample.labels_moving, sample.displacement, order=0)
    outside = ~sample.fixed_mask & (sample.labels_fixed > 0)
    assert (seen == sample.labels_fixed)[outside].mean() > 0.9
    core = sample.labels_moving == 4
    assert core.any() and sample.mask[core].all() and not (sample.labels_fixed == 4).any()


def test_a_brain_of_your_own_keeps_its_grid_and_units(own_brain, carried):
    sample = tumor_brain(brain=own_brain, kind="resected", noise=0.0)
    np.testing.assert_allclose(sample.affine, own_brain.affine)
    np.testing.assert_array_equal(sample.fixed, own_brain.get_fdata())
    assert sample.labels_fixed is None and sample.facts["notice"] is None
    outside = binary_erosion(sample.fixed > 0, iterations=2) & ~sample.fixed_mask
    seen = carried(sample.moving, sample.displacement, order=1)
    assert rms((seen - sample.fixed)[outside]) < 0.5 * rms((sample.moving - sample.fixed)[outside])
    # The lesion sits in the upper half, whichever array axis that is.
    assert sample.facts["lesion_center_world_mm"][2] > 66 - 50 - 3


def test_slips_are_answered_with_the_nearest_name():
    with pytest.raises(ConfigError, match="did you mean 'resected'"):
        tumor_brain(kind="resectd")
    with pytest.raises(ConfigError, match=r"deformation: .* 30"):
        tumor_brain(deformation=30.0)
    with pytest.raises(ConfigError, match="raise `reach`"):
        tumor_brain(spacing=4.0, growth=(3.0, 40.0), reach=15.0)
    with pytest.raises(ConfigError, match="Lower `deformation` or raise `knots`"):
        tumor_brain(spacing=4.0, deformation=20.0, knots=20.0)
