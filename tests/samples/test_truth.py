import json
from types import SimpleNamespace

import numpy as np
import pytest

from mmtk.errors import ConfigError, GridMismatch
from mmtk.samples import Truth, error_against_truth, error_map, save


def test_the_truth_has_no_error_and_a_shift_has_its_length(brain):
    sample = brain()
    assert all(value == 0 for value in error_against_truth(sample, sample.displacement).values())
    shift = np.array([0.0, 1.5, -2.0]).reshape(3, 1, 1, 1)
    for value in error_against_truth(sample, sample.displacement + shift).values():
        assert value == pytest.approx(10.0, rel=1e-5)  # 2.5 voxels of 4 mm


def test_regions_are_what_they_are_called(brain):
    sample = brain("lookalike")
    wrong = sample.displacement.copy()
    wrong[0, sample.fixed_mask] += 1.0
    scores = error_against_truth(sample, wrong)
    assert scores["inside"] == pytest.approx(4.0, rel=1e-5)
    assert scores["outside"] == scores["near"] == scores["far"] == 0
    before = error_against_truth(sample, np.zeros_like(wrong))
    assert before["outside"] == pytest.approx(sample.facts["endpoint_error_before_mm"], rel=0.05)
    assert min(before["near"], before["far"]) < before["outside"] < max(before["near"], before["far"])


def test_an_affine_after_the_displacement_counts(brain):
    sample = brain()
    world = np.eye(4)
    world[:3, 3] = [3.0, 4.0, 0.0]
    scores = error_against_truth(sample, sample.displacement, affine=world)
    assert scores["outside"] == pytest.approx(5.0, rel=1e-4)
    undone = sample.displacement - np.array([3.0, 4.0, 0.0]).reshape(3, 1, 1, 1) / 4
    assert error_against_truth(sample, undone, affine=world)["outside"] < 1e-4


def test_a_result_brings_its_affine(brain):
    sample = brain()
    world = np.eye(4)
    world[:3, 3] = [3.0, 4.0, 0.0]
    placed = SimpleNamespace(alignment=SimpleNamespace(matrix=world))
    result = SimpleNamespace(displacement=sample.displacement, prepared=placed)
    assert error_against_truth(sample, result)["outside"] == pytest.approx(5.0, rel=1e-4)
    assert error_against_truth(sample, result, affine=np.eye(4))["outside"] == 0
    np.testing.assert_allclose(error_map(sample, result), 5.0, rtol=1e-4)


def test_the_map_of_errors_has_their_means(brain):
    sample = brain()
    wrong = sample.displacement + np.random.default_rng(0).normal(size=sample.displacement.shape)
    errors, truth = error_map(sample, wrong), Truth.of(sample)
    assert errors.shape == sample.fixed.shape
    outside = truth.foreground & ~truth.fixed_mask
    assert errors[outside].mean() == pytest.approx(error_against_truth(sample, wrong)["outside"], rel=1e-6)
    with pytest.raises(GridMismatch):
        error_map(sample, sample.displacement[:, 1:])


def test_batched_tensors_are_welcome_and_other_grids_are_not(brain):
    torch = pytest.importorskip("torch")
    sample = brain()
    batched = torch.from_numpy(sample.displacement)[None].requires_grad_()
    assert error_against_truth(sample, batched)["outside"] == 0
    with pytest.raises(GridMismatch):
        error_against_truth(sample, sample.displacement[:, 1:])


@pytest.mark.parametrize("name", ["brain", "brain_slice", "letter"])
def test_a_folder_holds_everything_and_its_truth_comes_back(name, tmp_path, request):
    import nibabel as nib

    sample = request.getfixturevalue(name)()
    folder = save(sample, tmp_path / "new" / "sample")
    facts = json.loads((folder / "sample.json").read_text())
    assert all((folder / name).is_file() for name in facts["files"])
    assert facts["seed"] == 0 and (folder / "LICENSE.MNI.txt").exists() == (name != "letter")
    truth = Truth.read(folder)
    assert error_against_truth(truth, sample.displacement)["outside"] < 1e-2 * sample.spacing[0]
    np.testing.assert_allclose(truth.displacement, sample.displacement, atol=2.0**-11)
    moving = nib.load(folder / "moving.nii.gz")
    np.testing.assert_array_equal(moving.get_fdata(), sample.moving)
    np.testing.assert_allclose(moving.affine, sample.affine)
    mask = np.asarray(nib.load(folder / "mask.nii.gz").dataobj)
    np.testing.assert_array_equal(mask > 0, sample.mask)


def test_the_stored_field_carries_the_patient_in_itk(tmp_path, brain_slice):
    sitk = pytest.importorskip("SimpleITK")
    sample = brain_slice(noise=0.0)
    folder = save(sample, tmp_path / "sample")
    read = {n: sitk.ReadImage(str(folder / f"{n}.nii.gz")) for n in ("moving", "fixed", "truth_displacement")}
    field = sitk.Cast(read["truth_displacement"], sitk.sitkVectorFloat64)
    seen = sitk.Resample(read["moving"], read["fixed"], sitk.DisplacementFieldTransform(field), sitk.sitkLinear)
    difference = np.abs(sitk.GetArrayFromImage(seen).T - sample.fixed)
    outside = (sample.fixed > 0.1) & ~sample.fixed_mask
    assert difference[outside].mean() < 0.2 * np.abs(sample.moving - sample.fixed)[outside].mean()


def test_a_folder_with_something_in_it_is_left_alone(tmp_path, letter):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="Choose another folder"):
        save(letter(), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_a_folder_without_truth_has_none(tmp_path):
    assert Truth.read(tmp_path) is None
