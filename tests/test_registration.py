"""The front door, from files to files: what a run leaves, and what it must not depend on."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

import mmtk
from mmtk.errors import ConfigError
from mmtk.record import check_folder
from mmtk.samples import tumor_brain

QUICK = {"levels": (8.0, 4.0), "iterations": (6, 5)}
FILES = {
    "warped.nii.gz", "deformed.nii.gz", "appearance.nii.gz", "warped_mask.nii.gz", "jacobian.nii.gz",
    "displacement.nii.gz", "shape.safetensors", "transform.h5", "inverse_transform.h5", "metrics.json", "run.json",
    "report.html",
}  # fmt: skip


def nifti(data, affine):
    return nib.Nifti1Image(np.asarray(data, dtype=np.float32), affine)


@pytest.fixture(scope="module")
def sample():
    return tumor_brain(spacing=4.0, seed=3, kind="bright")


@pytest.fixture(scope="module")
def oblique(sample):
    """The moving image on axes of its own: permuted, flipped, turned by 10 degrees and shifted."""
    angle = np.radians(10)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    turn[:3, 3] = (6, -4, 3)
    moved = nib.as_closest_canonical(nifti(sample.moving, sample.affine))
    mask = nib.as_closest_canonical(nifti(sample.mask, sample.affine))
    axes = nib.orientations.axcodes2ornt(("P", "I", "R"))
    both = []
    for image in (moved, mask):
        image = image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(image.affine), axes))
        both.append(nifti(image.get_fdata(), turn @ image.affine))
    return both


@pytest.fixture(scope="module")
def run(sample, oblique, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    paths = {"moving": folder / "moving.nii.gz", "mask": folder / "mask.nii.gz", "fixed": folder / "fixed.nii.gz"}
    nib.save(oblique[0], paths["moving"])
    nib.save(oblique[1], paths["mask"])
    nib.save(nifti(sample.fixed, sample.affine), paths["fixed"])
    result = mmtk.register(**{k: str(v) for k, v in paths.items()}, **QUICK)
    return paths, result, result.save(folder / "out")


def test_a_run_leaves_every_file_and_nothing_else(run):
    _, _, out = run
    assert {path.name for path in out.iterdir()} == FILES


def test_the_record_repeats_the_run(run):
    paths, _, out = run
    record = json.loads((out / "run.json").read_text())
    assert record["settings"]["method"]["kind"] == "metamorphosis"
    assert record["settings"]["method"]["levels"] == [8.0, 4.0]
    assert record["inputs"]["moving"]["path"] == str(paths["moving"])
    assert len(record["inputs"]["mask"]["sha256"]) == 64
    assert set(record["files"]) == FILES
    assert record["outcome"]["name"] in ("EXHAUSTED", "CONVERGED", "STALLED")
    assert record["versions"]["mmtk"] == mmtk.__version__


@pytest.mark.parametrize("file", ["transform.h5", "displacement.nii.gz"])
def test_itk_resamples_with_our_transform_what_we_wrote(run, file):
    paths, _, out = run
    if file.endswith(".h5"):
        transform = sitk.ReadTransform(str(out / file))
    else:
        transform = sitk.DisplacementFieldTransform(sitk.ReadImage(str(out / file), sitk.sitkVectorFloat64))
    moving, fixed = (sitk.ReadImage(str(paths[name]), sitk.sitkFloat32) for name in ("moving", "fixed"))
    theirs = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, transform, sitk.sitkLinear, 0.0))
    ours = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "deformed.nii.gz")))
    inside = theirs != 0
    assert inside.mean() > 0.2
    np.testing.assert_allclose(ours[inside], theirs[inside], atol=2e-3 * float(theirs.max()))


def test_the_two_transforms_undo_each_other(run):
    _, _, out = run
    there = sitk.ReadTransform(str(out / "transform.h5"))
    back = sitk.ReadTransform(str(out / "inverse_transform.h5"))
    fixed = sitk.ReadImage(str(out / "warped.nii.gz"))
    size = fixed.GetSize()
    rng = np.random.default_rng(0)
    for _ in range(50):
        index = [float(rng.uniform(0.25 * n, 0.75 * n)) for n in size]
        point = fixed.TransformContinuousIndexToPhysicalPoint(index)
        assert back.TransformPoint(there.TransformPoint(point)) == pytest.approx(point, abs=0.3)


def test_images_lie_on_the_native_fixed_grid_in_the_moving_unit(run, sample):
    _, _, out = run
    fixed = nib.load(out.parent / "fixed.nii.gz")
    for name in ("warped", "deformed", "appearance", "warped_mask", "jacobian"):
        image = nib.load(out / f"{name}.nii.gz")
        assert image.shape == fixed.shape
        np.testing.assert_allclose(image.affine, fixed.affine, atol=1e-4)
    deformed = nib.load(out / "deformed.nii.gz").get_fdata()
    assert np.percentile(deformed[deformed > 0.1], 50) == pytest.approx(
        np.percentile(sample.moving[sample.moving > 0.1], 50), rel=0.1
    )


def test_the_appearance_is_the_difference_and_0_outside_the_mask(run):
    _, result, out = run
    warped, deformed, appearance, mask = (
        nib.load(out / f"{name}.nii.gz").get_fdata(dtype=np.float32)
        for name in ("warped", "deformed", "appearance", "warped_mask")
    )
    np.testing.assert_allclose(appearance, warped - deformed, atol=1e-5)
    assert np.all(appearance[mask == 0] == 0)
    assert np.abs(appearance).max() > 0
    assert result.metrics["disentanglement"]["appearance_outside_mask"] == 0


def test_it_finds_the_affine_and_the_deformation(run):
    _, result, _ = run
    similarity = result.metrics["similarity"]
    assert similarity["correlation_outside"] > 0.95
    assert similarity["squared_error_outside"] < 0.6 * similarity["squared_error_outside_before"]
    assert result.metrics["deformation"]["folds"] == 0


def test_the_orientation_of_the_arrays_does_not_matter(sample):
    """Flip and permute both NIfTI arrays: the same millimeters come out."""
    plain = mmtk.register(
        moving=nifti(sample.moving, sample.affine),
        fixed=nifti(sample.fixed, sample.affine),
        mask=nifti(sample.mask, sample.affine),
        init="none",
        **QUICK,
    )

    def turned(data):
        image = nifti(data, sample.affine)
        target = nib.orientations.axcodes2ornt(("S", "L", "A"))
        return image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(image.affine), target))

    other = mmtk.register(
        moving=turned(sample.moving), fixed=turned(sample.fixed), mask=turned(sample.mask), init="none", **QUICK
    )

    def vectors(result):
        affine = result.prepared.fixed.affine
        mm = np.einsum("ab,b...->a...", affine[:3, :3], result.displacement)
        image = nib.Nifti1Image(np.moveaxis(mm, 0, -1), affine)
        return nib.as_closest_canonical(image).get_fdata()

    one, two = vectors(plain), vectors(other)
    brain = nib.as_closest_canonical(nifti(sample.fixed, sample.affine)).get_fdata() > 0.1
    error = np.linalg.norm(one - two, axis=-1)[brain]
    assert error.mean() < 0.1
    assert np.linalg.norm(one, axis=-1)[brain].mean() > 1


def test_the_transform_in_memory_is_the_one_of_the_folder(run):
    _, result, out = run
    stored = mmtk.Transform.load(out)
    rng = np.random.default_rng(0)
    shape, affine = result.prepared.fixed.shape, result.prepared.fixed.affine
    points = rng.uniform(0.25, 0.75, (200, 3)) * shape @ affine[:3, :3].T + affine[:3, 3]
    np.testing.assert_allclose(result.transform.points(points), stored.points(points), atol=2e-4)
    back = result.transform.mapping("moving", "fixed")
    np.testing.assert_allclose(back.points(result.transform.points(points)), points, atol=1e-4)
    carried = mmtk.resample(result.prepared.moving, result.transform).data
    inside = result.prepared.fixed.data > 0.3
    np.testing.assert_allclose(carried[inside], result.deformed[inside], atol=2e-3)


def test_a_result_is_told_in_a_line_and_in_a_table(run):
    _, result, _ = run
    assert len(repr(result)) < 300
    assert repr(result).startswith("Result(metamorphosis: Volume(moving: ")
    summary = result.summary()
    for words in ("folds", "correlation outside the lesion", "volume kept", result.outcome.value):
        assert words in summary
    np.testing.assert_array_equal(result.warped_mask, result.images.mask.numpy())
    np.testing.assert_array_equal(result.jacobian, result.images.jacobian.numpy())


def test_what_the_deformation_began_with_and_what_a_reader_would_ask(run):
    paths, result, _ = run
    affine = sitk.AffineTransform(3)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0])
    matrix = lps @ result.prepared.alignment.matrix @ lps
    affine.SetMatrix(matrix[:3, :3].ravel())
    affine.SetTranslation(matrix[:3, 3])
    moving, fixed = (sitk.ReadImage(str(paths[name]), sitk.sitkFloat32) for name in ("moving", "fixed"))
    theirs = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, affine, sitk.sitkLinear, 0.0)).transpose()
    np.testing.assert_allclose(result.placed[theirs != 0], theirs[theirs != 0], atol=2e-3)
    assert not any("folds" in doubt for doubt in result.doubts)
    metrics = {**result.metrics, "deformation": {**result.metrics["deformation"], "folds": 7}}
    assert "folds in 7 voxels" in replace(result, metrics=metrics).doubts[0]


def test_without_a_mask_there_is_no_appearance_and_the_record_says_why(sample, tmp_path):
    result = mmtk.register(
        moving=nifti(sample.moving, sample.affine), fixed=nifti(sample.fixed, sample.affine), init="none", **QUICK
    )
    assert result.appearance is None
    out = result.save(tmp_path / "out")
    assert {path.name for path in out.iterdir()} == FILES - {"appearance.nii.gz", "warped_mask.nii.gz"}
    absent = json.loads((out / "run.json").read_text())["absent"]
    assert absent == {
        "appearance.nii.gz": "there is no lesion mask",
        "warped_mask.nii.gz": "there is no lesion mask",
    }


def test_two_dimensions(sample, tmp_path):
    middle = sample.fixed.shape[2] // 2
    moving, fixed, mask = (a[:, :, middle] for a in (sample.moving, sample.fixed, sample.mask))
    if not mask.any():
        mask = np.zeros_like(mask)
        mask[15:20, 20:25] = 1
    result = mmtk.register(
        moving=moving,
        fixed=fixed,
        mask=mask,
        spacing=(4.0, 4.0),
        init="rigid",
        levels=(8.0, 4.0),
        iterations=(8, 8),
    )
    assert result.displacement.shape == (2, *fixed.shape)
    out = result.save(tmp_path / "out")
    field = nib.load(out / "displacement.nii.gz")
    assert field.shape == (*fixed.shape, 1, 1, 2)
    assert int(field.header["intent_code"]) == 1007
    assert sitk.ReadTransform(str(out / "transform.h5")).GetDimension() == 2


def test_labels_are_carried_and_scored(sample):
    result = mmtk.register(
        moving=nifti(sample.moving, sample.affine),
        fixed=nifti(sample.fixed, sample.affine),
        mask=nifti(sample.mask, sample.affine),
        labels=nifti(sample.labels_moving, sample.affine),
        fixed_labels=nifti(sample.labels_fixed, sample.affine),
        init="none",
        **QUICK,
    )
    carried = result.images.labels.numpy()
    assert set(np.unique(carried)) <= set(np.unique(sample.labels_moving))
    assert 0.5 < result.metrics["overlap"]["dice_mean"] <= 1


@pytest.mark.parametrize("how", ["robust", "histogram", "none"])
def test_every_intensity_scale_gives_results_in_the_moving_unit(sample, how):
    moving = 300 * sample.moving + 20
    result = mmtk.register(
        moving=nifti(moving, sample.affine),
        fixed=nifti(sample.fixed * (300 if how == "none" else 7), sample.affine),
        mask=nifti(sample.mask, sample.affine),
        init="none",
        normalize=how,
        levels=(8.0,),
        iterations=(4,),
    )
    assert np.percentile(result.deformed, 90) == pytest.approx(np.percentile(moving, 90), rel=0.1)
    outside = result.images.mask.numpy() == 0
    assert np.array_equal(result.warped[outside], result.deformed[outside])


def test_methods_by_name_and_by_settings(sample):
    images = {"moving": nifti(sample.moving, sample.affine), "fixed": nifti(sample.fixed, sample.affine)}
    result = mmtk.register(
        **images, method="lddmm", init="none", sigma=(16.0,), sigma_weights=(1.0,), levels=(8.0,), iterations=(3,)
    )
    assert result.settings["method"]["kind"] == "lddmm"
    with pytest.raises(ConfigError, match="mew"):
        mmtk.register(**images, mew=0.1)
    with pytest.raises(ConfigError, match="metamorphosis"):
        mmtk.register(**images, method="metamorphosi")


def test_a_folder_in_use_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ConfigError, match="not empty; name another, or add --overwrite"):
        check_folder(tmp_path, overwrite=False)
    with pytest.raises(ConfigError, match="is a file"):
        check_folder(tmp_path / "mine.txt", overwrite=True)
    check_folder(tmp_path, overwrite=True)
    assert (tmp_path / "mine.txt").read_text() == "keep"


def test_images_of_two_dimensions_and_three_do_not_go_together(sample):
    with pytest.raises(ConfigError, match="moving is 2-D but fixed is 3-D"):
        mmtk.register(moving=sample.moving[:, :, 20], fixed=nifti(sample.fixed, sample.affine))


def test_what_the_moving_image_does_not_show_is_told(sample):
    """The lower part of the head was not scanned."""
    cut = sample.moving.shape[2] // 3
    affine = sample.affine.copy()
    affine[:3, 3] += affine[:3, 2] * cut
    slab = nifti(sample.moving[:, :, cut:], affine)
    result = mmtk.register(moving=slab, fixed=nifti(sample.fixed, sample.affine), init="none", **QUICK)
    unseen = (sample.fixed[:, :, : cut - 1] != sample.fixed[0, 0, 0]).sum() / (
        sample.fixed != sample.fixed[0, 0, 0]
    ).sum()
    (note,) = [note for note in result.notes if "field of view" in note]
    assert abs(float(note.split("%")[0]) / 100 - unseen) < 0.1
    whole = mmtk.register(
        moving=nifti(sample.moving, sample.affine), fixed=nifti(sample.fixed, sample.affine), init="none", **QUICK
    )
    assert not any("field of view" in note for note in whole.notes)


def test_label_maps_are_in_the_record(sample, tmp_path):
    path = tmp_path / "labels.nii.gz"
    nib.save(nifti(sample.labels_moving, sample.affine), path)
    out = mmtk.register(
        moving=nifti(sample.moving, sample.affine),
        fixed=nifti(sample.fixed, sample.affine),
        labels=str(path),
        init="none",
        **QUICK,
    ).save(tmp_path / "out")
    inputs = json.loads((out / "run.json").read_text())["inputs"]
    assert inputs["labels"]["path"] == str(path)
    assert len(inputs["labels"]["sha256"]) == 64
