"""Tables from folders that are named as data sets name them, and BraTS-Reg from its folder to its submission."""

import csv
import io

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter
from small_cohort import here
from typer.testing import CliRunner

from mmtk.cli.app import app
from mmtk.cohort import carry_out, read_cohort, runner
from mmtk.cohort.tables import make_table
from mmtk.errors import ConfigError
from mmtk.io.convert import convert
from mmtk.plugins import installed

SHAPE, SPACING = (20, 22, 18), 4.0


def scan(path, seed, shift=0.0):
    """A smooth head, its bright parts moved along the first axis."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=SHAPE), 2.5)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij"))
    image = (1 + 8 * np.roll(noise, round(shift), 0)) * ((grid**2).sum(0) < 0.8)
    affine = np.diag([-SPACING, -SPACING, SPACING, 1.0])
    nib.save(nib.Nifti1Image(np.clip(image, 0, None).astype(np.float32), affine), path)


def patient(folder, number, modalities=("t1ce", "flair")):
    home = folder / f"BraTSReg_{number:03d}"
    home.mkdir(parents=True)
    for time, days in (("00", "0000"), ("01", "0093")):
        stem = f"{home.name}_{time}_{days}"
        for index, modality in enumerate(modalities):
            scan(home / f"{stem}_{modality}.nii.gz", 10 * number + index, shift=int(time))
        rows = "".join(f"{n},{20.0 + 4 * n},{24.0 + 2 * n},{20.0 + 3 * n}\n" for n in range(1, 5))
        (home / f"{stem}_landmarks.csv").write_text("Landmark,X,Y,Z\n" + rows)
    return home


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_a_row_is_the_follow_up_onto_the_scan_before_treatment(tmp_path):
    home = patient(tmp_path, 1)
    patient(tmp_path, 2)
    (tmp_path / "notes").mkdir()
    first, second = rows_of(make_table(tmp_path, "brats-reg", ["t1ce", "flair"]))
    assert (first["case"], first["days"], second["case"]) == ("BraTSReg_001", "93", "BraTSReg_002")
    assert first["moving"] == ",".join(f"{home}/BraTSReg_001_01_0093_{m}.nii.gz" for m in ("t1ce", "flair"))
    assert first["fixed"] == ",".join(f"{home}/BraTSReg_001_00_0000_{m}.nii.gz" for m in ("t1ce", "flair"))
    assert "mask" not in first, "the challenge gives none"
    (home / "BraTSReg_001_01_0093_seg.nii.gz").touch()
    first, second = rows_of(make_table(tmp_path, "brats-reg", ["t1ce"]))
    assert first["mask"].endswith("_01_0093_seg.nii.gz") and second["mask"] == ""


def test_a_row_of_brats_has_its_labels_for_a_mask(tmp_path):
    for name in ("BraTS2021_00001", "BraTS2021_00000"):
        (tmp_path / name).mkdir()
        for what in ("t1", "t1ce", "seg"):
            (tmp_path / name / f"{name}_{what}.nii.gz").touch()
    first, second = rows_of(make_table(tmp_path, "brats", ["t1"]))
    assert (first["case"], second["case"]) == ("BraTS2021_00000", "BraTS2021_00001")
    assert first["moving"].endswith("00000_t1.nii.gz") and first["mask"].endswith("00000_seg.nii.gz")


@pytest.mark.parametrize(
    ("layout", "modalities", "told"),
    [
        ("brats-rg", ["t1ce"], "layout=brats-rg: must be one of brats-reg, brats"),
        ("brats-reg", [], "name at least one"),
        ("brats-reg", ["t1ce", "t1ce"], "t1ce stands there twice"),
        ("brats-reg", ["t2"], "no scan BraTSReg_001_00_*_t2 (before treatment); there are flair, t1ce"),
    ],
)
def test_a_slip_is_one_sentence(tmp_path, layout, modalities, told):
    patient(tmp_path, 1)
    with pytest.raises(ConfigError) as found:
        make_table(tmp_path, layout, modalities)
    assert told in found.value.problems[0]


def test_folders_of_something_else_are_refused(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(ConfigError, match="holds no folder BraTSReg_001"):
        make_table(tmp_path, "brats-reg", ["t1ce"])
    with pytest.raises(ConfigError, match="named as BraTS names them"):
        make_table(tmp_path, "brats", ["t1ce"])
    with pytest.raises(ConfigError, match="no such folder"):
        make_table(tmp_path / "b", "brats", ["t1ce"])


def test_the_command_writes_a_table_once(tmp_path):
    patient(tmp_path / "data", 1)
    words = ["cohort", "table", str(tmp_path / "data"), "layout=brats-reg", "--out", str(tmp_path / "c.csv")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0 and "1 cases" in done.output
    before = (tmp_path / "c.csv").read_bytes()
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 2 and "is there already" in again.output
    assert (tmp_path / "c.csv").read_bytes() == before
    wrong = CliRunner().invoke(app, [*words[:3], "layot=brats", "--out", str(tmp_path / "d.csv")])
    assert wrong.exit_code == 2 and "layot" in wrong.output and not (tmp_path / "d.csv").exists()


def test_from_the_folder_to_the_submission(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "connect", here)
    home = patient(tmp_path / "data", 7)
    (tmp_path / "cohort.csv").write_text(make_table(tmp_path / "data", "brats-reg", ["t1ce", "flair"]))
    settings = ["method=metamorphosis", "levels=8,4", "iterations=3,3", "init=none"]
    cohort = read_cohort(tmp_path / "cohort.csv", settings, installed(), device="cpu")
    records = carry_out(cohort, tmp_path / "out")
    assert [record.status for record in records] == ["done"], records[0].message
    run = tmp_path / "out" / "cases" / "BraTSReg_007"
    convert([str(run)], tmp_path / "sent", {"format": "brats-reg"})
    names = sorted(path.name for path in (tmp_path / "sent").iterdir())
    assert names == [
        "BraTSReg_007.csv", "BraTSReg_007_detj.nii.gz", "BraTSReg_007_df_b2f.nii.gz", "BraTSReg_007_df_f2b.nii.gz",
        "BraTSReg_007_t1ce_f2b.nii.gz",
    ]  # fmt: skip
    given = np.loadtxt(home / "BraTSReg_007_01_0093_landmarks.csv", delimiter=",", skiprows=1)
    itk = sitk.ReadTransform(str(run / "inverse_transform.h5"))
    sent = np.loadtxt(tmp_path / "sent" / "BraTSReg_007.csv", delimiter=",", skiprows=1)
    np.testing.assert_allclose(sent[:, 1:], [itk.TransformPoint(row) for row in given[:, 1:].tolist()], atol=1e-3)
    assert np.abs(sent - given)[:, 1:].max() > 0.5, "the follow-up was moved by a voxel of 4 mm"
