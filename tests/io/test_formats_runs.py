"""Runs under the names of two challenges and of BIDS."""

import json

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from mmtk.errors import InputError
from mmtk.io import (
    Volume,
    read_transform,
    transform_points,
    write_displacement,
    write_image,
    write_inverse_transform,
    write_json,
    write_transform,
)
from mmtk.io.bids import names_for, write_bids, write_bids_beside
from mmtk.io.formats.runs import RunFolder
from mmtk.io.formats.submission import write_brats_reg, write_learn2reg_submission

MATRIX = np.array([[1.02, 0.05, 0, 2], [-0.04, 0.97, 0, -1], [0, 0, 1.01, 0.5], [0, 0, 0, 1]])


@pytest.fixture
def make_run(tmp_path):
    """Lay down the files of a run between images of given names, on a grid of LPS as BraTS has it."""

    def make(fixed_name, moving_name, shape=(6, 7, 5), other=None, folder="run"):
        rng = np.random.default_rng(0)
        affine = np.diag([-1.0, -1.0, 1.0, 1.0])
        affine[1, 3] = 6.0
        images = {}
        for name, file, size in (("fixed", fixed_name, shape), ("moving", moving_name, other or shape)):
            images[name] = Volume(rng.random(size, dtype=np.float32), affine, name=name)
            write_image(tmp_path / file, images[name].data, images[name])
        fixed, out = images["fixed"], tmp_path / folder
        u, back = (rng.uniform(-0.4, 0.4, (3, *shape)).astype(np.float32) for _ in range(2))
        for name in ("warped", "deformed", "jacobian", "appearance", "warped_mask"):
            write_image(out / f"{name}.nii.gz", rng.random(shape, dtype=np.float32), fixed)
        write_transform(out / "transform.h5", u, fixed, MATRIX)
        write_inverse_transform(out / "inverse_transform.h5", back, fixed, MATRIX)
        write_displacement(out / "displacement.nii.gz", u, fixed, MATRIX)
        (out / "report.html").write_text("<!doctype html>")
        write_json(out / "metrics.json", {"deformation": {"folds": 0}})
        inputs = {
            name: {"path": str(tmp_path / file), "shape": images[name].shape}
            for name, file in (("fixed", fixed_name), ("moving", moving_name))
        }
        write_json(out / "run.json", {"inputs": inputs, "settings": {"spacing": None}})
        return RunFolder.open(out)

    return make


def points_of(header):
    voxels = np.indices(header.shape).reshape(3, -1).T
    return voxels @ header.affine[:3, :3].T + header.affine[:3, 3]


def by_field(path, points):
    """SimpleITK's word on where a field takes points."""
    field = sitk.DisplacementFieldTransform(sitk.ReadImage(str(path), sitk.sitkVectorFloat64))
    lps = np.array([-1.0, -1.0, 1.0])
    return np.array([field.TransformPoint(point) for point in (points * lps).tolist()]) * lps


# --- Learn2Reg


def test_a_submission_has_one_displacement_a_pair_in_voxels(make_run, tmp_path):
    runs = [
        make_run("OASIS_0438_0000.nii.gz", "OASIS_0439_0000.nii.gz", folder="a"),
        make_run("OASIS_0439_0000.nii.gz", "OASIS_0440_0000.nii.gz", folder="b"),
    ]
    files = write_learn2reg_submission(runs, tmp_path / "submission", shape=(6, 7, 5))
    assert [file.name for file in files] == ["disp_0438_0439.nii.gz", "disp_0439_0440.nii.gz"]
    stored = nibabel.load(files[0]).get_fdata()
    assert stored.shape == (6, 7, 5, 3)
    header = runs[0].image("fixed")
    moved = transform_points(runs[0].steps(), points_of(header))
    back = np.linalg.inv(runs[0].image("moving").affine)
    voxels = moved @ back[:3, :3].T + back[:3, 3]
    np.testing.assert_allclose(
        (np.moveaxis(np.indices(header.shape), 0, -1) + stored).reshape(-1, 3), voxels, atol=1e-4
    )


def test_two_modalities_of_one_case_get_the_long_form(make_run, tmp_path):
    one = make_run("Abdomen_0001_0000.nii.gz", "Abdomen_0001_0001.nii.gz", folder="a")
    two = make_run("Abdomen_0001_0001.nii.gz", "Abdomen_0001_0000.nii.gz", folder="b")
    files = write_learn2reg_submission([one, two], tmp_path / "s")
    assert [file.name for file in files] == ["disp_0001_0000_0001_0001.nii.gz", "disp_0001_0001_0001_0000.nii.gz"]
    with pytest.raises(InputError, match="two runs are of this pair"):
        write_learn2reg_submission([one, one], tmp_path / "t")


def test_what_an_evaluator_would_refuse_is_refused_all_at_once(make_run, tmp_path):
    good = make_run("A_0001_0000.nii.gz", "A_0002_0000.nii.gz", folder="a")
    smaller = make_run("A_0003_0000.nii.gz", "A_0004_0000.nii.gz", other=(6, 7, 4), folder="b")
    unnamed = make_run("fixed.nii.gz", "A_0005_0000.nii.gz", folder="c")
    with pytest.raises(InputError) as refused:
        write_learn2reg_submission([good, smaller, unnamed], tmp_path / "s")
    first, second = refused.value.problems
    assert "fixed.nii.gz' does not end in _FFFF_MMMM.nii.gz" in first
    assert "its moving image has (6, 7, 4) voxels, but all images of a task have one shape" in second
    assert not (tmp_path / "s").exists()


def test_a_submission_does_not_replace_another(make_run, tmp_path):
    run = make_run("A_0001_0000.nii.gz", "A_0002_0000.nii.gz")
    write_learn2reg_submission([run], tmp_path / "s")
    with pytest.raises(InputError, match=r"is there already; .* --overwrite"):
        write_learn2reg_submission([run], tmp_path / "s")
    write_learn2reg_submission([run], tmp_path / "s", overwrite=True)


# --- BraTS-Reg

BASELINE, FOLLOW_UP = "BraTSReg_007_00_0000_t1ce.nii.gz", "BraTSReg_007_01_0106_t1ce.nii.gz"


def test_the_files_of_brats_reg(make_run, tmp_path):
    (tmp_path / "BraTSReg_007_01_0106_landmarks.csv").write_text("Landmark,X,Y,Z\n1,2,-3,1\n2,4,-5,3\n")
    run = make_run(BASELINE, FOLLOW_UP)
    files = write_brats_reg(run, tmp_path / "out")
    assert sorted(file.name for file in files) == [
        "BraTSReg_007.csv", "BraTSReg_007_detj.nii.gz", "BraTSReg_007_df_b2f.nii.gz", "BraTSReg_007_df_f2b.nii.gz",
        "BraTSReg_007_t1ce_f2b.nii.gz",
    ]  # fmt: skip
    for name, steps, role in (
        ("df_f2b", run.steps(), "fixed"),
        ("df_b2f", run.steps("inverse_transform.h5"), "moving"),
    ):
        points = points_of(run.image(role))
        found = by_field(tmp_path / f"out/BraTSReg_007_{name}.nii.gz", points)
        np.testing.assert_allclose(found, transform_points(steps, points), atol=1e-4)
    same = (tmp_path / "out/BraTSReg_007_t1ce_f2b.nii.gz").read_bytes()
    assert same == (run.path / "deformed.nii.gz").read_bytes()


def test_landmarks_go_from_the_follow_up_to_the_baseline(make_run, tmp_path):
    rows = np.array([[2.0, -3.0, 1.0], [4.0, -5.0, 3.0]])  # LPS, mm
    given = tmp_path / "points.csv"
    given.write_text("Landmark,X,Y,Z\n" + "".join(f"{n},{x},{y},{z}\n" for n, (x, y, z) in enumerate(rows, 1)))
    run = make_run(BASELINE, FOLLOW_UP)
    write_brats_reg(run, tmp_path / "out", landmarks=given)
    itk = sitk.ReadTransform(str(run.path / "inverse_transform.h5"))
    written = np.loadtxt(tmp_path / "out/BraTSReg_007.csv", delimiter=",", skiprows=1)
    np.testing.assert_allclose(written[:, 1:], [itk.TransformPoint(row) for row in rows.tolist()], atol=1e-4)


@pytest.mark.parametrize(
    ("fixed", "moving", "says"),
    [
        (FOLLOW_UP, BASELINE, "register them the other way round"),
        (BASELINE, FOLLOW_UP.replace("007", "008"), "is of BraTSReg_007, but the moving one of BraTSReg_008"),
        ("fixed.nii.gz", FOLLOW_UP, "not named as BraTS-Reg names its scans"),
    ],
)
def test_other_images_are_no_submission(fixed, moving, says, make_run, tmp_path):
    with pytest.raises(InputError, match=says):
        write_brats_reg(make_run(fixed, moving), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- BIDS


@pytest.mark.parametrize(
    ("moving", "fixed", "stem", "spaces"),
    [
        ("sub-01_ses-02_T1w.nii.gz", "tpl-MNI152NLin2009cAsym_res-01_T1w.nii.gz", "sub-01_ses-02",
         ("T1w", "MNI152NLin2009cAsym")),
        ("sub-01_space-ACPC_T2w.nii", "sub-02_T2w.nii.gz", "sub-01", ("ACPC", "sub02T2w")),
        ("sub-01_ses-post_T1w.nii.gz", "sub-01_ses-pre_T1w.nii.gz", "sub-01_ses-post", ("T1w", "sespreT1w")),
        ("tumour_mri_01_t1.nii.gz", "brats_space_t1_brain.nii.gz", "sub-tumourmri01t1", ("T1w", "bratsspacet1brain")),
    ],
)  # fmt: skip
def test_names_come_from_the_images_own(moving, fixed, stem, spaces, tmp_path):
    names = names_for(tmp_path / moving, tmp_path / fixed)
    assert names.stem == stem and (names.source, names.target) == spaces


@pytest.mark.parametrize(
    ("moving", "fixed", "given", "says"),
    [
        ("scan.nii.gz", "template.nii.gz", {}, "give suffix=T1w"),
        ("sub-01_T1w.nii.gz", "sub-01_T1w.nii.gz", {}, "both called T1w; give from=LABEL and to=LABEL"),
        ("sub-01_T1w.nii.gz", "tpl-MNI_T1w.nii.gz", {"to": "MNI-6"}, "to=MNI-6: a label of BIDS"),
    ],
)
def test_names_that_cannot_be_made_are_asked_for(moving, fixed, given, says, tmp_path):
    with pytest.raises(InputError, match=says):
        names_for(tmp_path / moving, tmp_path / fixed, given)


def test_a_derivative_data_set(make_run, tmp_path):
    out = tmp_path / "derivatives"
    for subject in ("01", "02"):
        run = make_run("tpl-MNI_T1w.nii.gz", f"sub-{subject}_T1w.nii.gz", folder=f"run{subject}")
        write_bids(run, out)
    described = json.loads((out / "dataset_description.json").read_text())
    assert described["DatasetType"] == "derivative" and described["GeneratedBy"][0]["Name"] == "mmtk"
    folder = out / "sub-02/anat"
    assert {path.name for path in folder.iterdir() if not path.name.endswith(".json")} == {
        "sub-02_space-MNI_desc-warped_T1w.nii.gz", "sub-02_space-MNI_desc-deformed_T1w.nii.gz",
        "sub-02_space-MNI_desc-appearance_T1w.nii.gz", "sub-02_space-MNI_desc-jacobian_T1w.nii.gz",
        "sub-02_space-MNI_label-lesion_probseg.nii.gz", "sub-02_from-T1w_to-MNI_mode-image_xfm.h5",
        "sub-02_from-MNI_to-T1w_mode-image_xfm.h5", "sub-02_from-T1w_to-MNI_mode-image_desc-displacement_xfm.nii.gz",
    }  # fmt: skip
    for file in folder.glob("*_xfm.h5"):
        assert file.with_suffix(".json").exists()
    sidecar = json.loads((folder / "sub-02_space-MNI_desc-warped_T1w.json").read_text())
    assert sidecar["SpatialReference"].endswith("tpl-MNI_T1w.nii.gz")
    assert (out / "sub-01.html").exists() and (out / "sub-01/anat").is_dir()


def test_from_and_to_tell_which_way_images_go(make_run, tmp_path):
    run = make_run("tpl-MNI_T1w.nii.gz", "sub-01_T1w.nii.gz")
    write_bids(run, tmp_path / "bids")
    for name, file in (("from-T1w_to-MNI", "transform.h5"), ("from-MNI_to-T1w", "inverse_transform.h5")):
        found = read_transform(tmp_path / f"bids/sub-01/anat/sub-01_{name}_mode-image_xfm.h5")
        points = points_of(run.image("fixed"))
        truth = transform_points(read_transform(run.path / file), points)
        np.testing.assert_array_equal(transform_points(found, points), truth)


def test_a_foreign_data_set_is_left_alone(make_run, tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "dataset_description.json").write_text('{"Name": "mine", "BIDSVersion": "1.8.0"}')
    run = make_run("tpl-MNI_T1w.nii.gz", "sub-01_T1w.nii.gz")
    with pytest.raises(InputError, match=r"a data set that mmtk did not make; .*derivatives"):
        write_bids(run, raw, overwrite=True)
    assert len(list(raw.iterdir())) == 1


def test_files_of_a_subject_are_replaced_only_if_asked(make_run, tmp_path):
    run = make_run("tpl-MNI_T1w.nii.gz", "sub-01_T1w.nii.gz")
    write_bids(run, tmp_path / "bids")
    with pytest.raises(InputError, match=r"and \d+ more are there already"):
        write_bids(run, tmp_path / "bids")
    write_bids(run, tmp_path / "bids", overwrite=True)


def test_beside_a_run_the_names_are_second_names_of_its_files(make_run):
    run = make_run("tpl-MNI_T1w.nii.gz", "sub-01_T1w.nii.gz")
    for _ in range(2):  # again: what was there goes
        out = write_bids_beside(run.path)
        named = out / "sub-01/anat/sub-01_space-MNI_desc-warped_T1w.nii.gz"
        assert named.samefile(run.path / "warped.nii.gz")
        (out / "stale").touch()
    write_bids_beside(run.path)
    assert not (out / "stale").exists() and not list(run.path.rglob(".*.nii.gz"))


# --- folders of runs


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="is not the folder of a run: it has no run"):
        RunFolder.open(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(InputError, match="is damaged"):
        RunFolder.open(tmp_path)


def test_an_image_that_moved_away_is_asked_for(make_run, tmp_path):
    run = make_run("A_0001_0000.nii.gz", "A_0002_0000.nii.gz")
    (tmp_path / "A_0001_0000.nii.gz").rename(tmp_path / "elsewhere.nii.gz")
    with pytest.raises(InputError, match="is not there any more; add fixed=FILE"):
        run.image("fixed")
    again = RunFolder.open(run.path, fixed=tmp_path / "elsewhere.nii.gz")
    assert again.image("fixed").shape == (6, 7, 5)
    write_image(tmp_path / "other.nii.gz", np.zeros((3, 3, 3)), Volume(np.zeros((3, 3, 3)), np.eye(4)))
    with pytest.raises(InputError, match=r"had \(6, 7, 5\) voxels, but .* has \(3, 3, 3\)"):
        RunFolder.open(run.path, fixed=tmp_path / "other.nii.gz").image("fixed")
