"""``mmtk convert``: what is written, what is said, and what is refused before anything is written."""

import json
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk

from mmtk.cli import main
from mmtk.io import (
    AffineStep,
    FieldStep,
    Volume,
    read_transform,
    transform_points,
    write_image,
    write_inverse_transform,
    write_json,
    write_transform,
)
from mmtk.io.formats import read_steps, write_steps

MATRIX = np.array([[1.02, 0.05, 0, 2], [-0.04, 0.97, 0, -1], [0, 0, 1.01, 0.5], [0, 0, 0, 1]])


def convert(*words):
    """Run the command and return its exit code."""
    try:
        main(["convert", *map(str, words)])
    except SystemExit as done:
        return int(done.code or 0)
    return 0


@pytest.fixture
def images(tmp_path):
    """``fixed`` and ``moving`` on grids that differ in handedness."""
    found = {}
    for name, diagonal, shape in (("fixed", (-1.5, 1.0, 2.0), (6, 7, 5)), ("moving", (1.0, 1.2, 2.1), (7, 6, 6))):
        affine = np.diag([*diagonal, 1.0])
        affine[:3, 3] = (4, -3, 2)
        found[name] = Volume(np.random.default_rng(0).random(shape, dtype=np.float32), affine, name=name)
        write_image(tmp_path / f"{name}.nii.gz", found[name].data, found[name])
    return found


@pytest.fixture
def chain(images):
    vectors = np.random.default_rng(1).uniform(-1, 1, (3, *images["fixed"].shape)).astype(np.float32)
    return FieldStep(vectors, images["fixed"].affine), AffineStep(MATRIX)


@pytest.fixture
def result(images, tmp_path):
    """The folder of a run."""
    u = np.random.default_rng(2).uniform(-0.4, 0.4, (3, *images["fixed"].shape)).astype(np.float32)
    out = tmp_path / "result"
    write_transform(out / "transform.h5", u, images["fixed"], MATRIX)
    write_inverse_transform(out / "inverse_transform.h5", -u, images["fixed"], MATRIX)
    inputs = {n: {"path": str(tmp_path / f"{n}.nii.gz"), "shape": v.shape} for n, v in images.items()}
    write_json(out / "run.json", {"inputs": inputs, "settings": {"spacing": None}})
    return out


def centers(volume):
    voxels = np.indices(volume.shape).reshape(3, -1).T
    return voxels @ volume.affine[:3, :3].T + volume.affine[:3, 3]


def test_a_chain_goes_from_itk_to_fsl_and_back(images, chain, tmp_path, capsys):
    write_steps(tmp_path / "a.h5", chain)
    both = [f"{name}={tmp_path / name}.nii.gz" for name in images]
    assert convert(tmp_path / "a.h5", tmp_path / "w.nii.gz", "format=fsl", *both) == 0
    said = capsys.readouterr().out
    assert "the whole chain is in one field now" in said and "w.nii.gz" in said
    assert convert(tmp_path / "w.nii.gz", tmp_path / "b.nii.gz", *both) == 0
    field = sitk.DisplacementFieldTransform(sitk.ReadImage(str(tmp_path / "b.nii.gz"), sitk.sitkVectorFloat64))
    lps = np.array([-1.0, -1.0, 1.0])
    points = centers(images["fixed"])
    found = np.array([field.TransformPoint(point) for point in (points * lps).tolist()]) * lps
    np.testing.assert_allclose(found, transform_points(chain, points), atol=1e-4)


def test_a_matrix_of_flirt_is_named_for_what_it_is(images, tmp_path, capsys):
    write_steps(tmp_path / "f.mat", (AffineStep(MATRIX),), format="fsl-flirt", **images)
    both = [f"{name}={tmp_path / name}.nii.gz" for name in images]
    assert convert(tmp_path / "f.mat", tmp_path / "a.tfm", *both) == 2
    assert "in `mmtk convert` input_format=" in capsys.readouterr().err
    assert convert(tmp_path / "f.mat", tmp_path / "a.tfm", "input_format=fsl", *both) == 0
    np.testing.assert_allclose(read_transform(tmp_path / "a.tfm")[0].matrix, MATRIX, atol=1e-9)


def test_a_run_is_converted_with_its_own_images(result, images, tmp_path):
    assert convert(result, tmp_path / "disp_0001_0002.nii.gz") == 0
    found = read_steps(tmp_path / "disp_0001_0002.nii.gz", **images)
    points = centers(images["fixed"])
    truth = transform_points(read_transform(result / "transform.h5"), points)
    np.testing.assert_allclose(transform_points(found, points), truth, atol=1e-4)


def test_the_pair_of_ants_is_written_and_read(result, images, tmp_path, capsys):
    assert convert(result, tmp_path / "sub_", "format=ants", "--json") == 0
    assert [name.rpartition("/")[2] for name in json.loads(capsys.readouterr().out)["files"]] == [
        "sub_1Warp.nii.gz", "sub_0GenericAffine.mat",
    ]  # fmt: skip
    assert convert(f"{tmp_path}/sub_1Warp.nii.gz,{tmp_path}/sub_0GenericAffine.mat", tmp_path / "b.h5") == 0
    points = centers(images["fixed"])
    found, truth = (
        transform_points(read_transform(path), points) for path in (tmp_path / "b.h5", result / "transform.h5")
    )
    np.testing.assert_allclose(found, truth, atol=1e-4)


def test_a_transform_of_two_dimensions_stays_one(tmp_path):
    itk = sitk.Euler2DTransform((1.0, 2.0), 0.3, (4.0, -5.0))
    sitk.WriteTransform(itk, str(tmp_path / "a.tfm"))
    assert convert(tmp_path / "a.tfm", tmp_path / "b.mat") == 0
    again = sitk.ReadTransform(str(tmp_path / "b.mat"))
    assert again.GetDimension() == 2
    np.testing.assert_allclose(again.TransformPoint((3.0, 7.0)), itk.TransformPoint((3.0, 7.0)), atol=1e-9)


def test_runs_become_folders(result, images, tmp_path, capsys):
    for name in images:
        (tmp_path / f"{name}.nii.gz").rename(tmp_path / f"A_{'0001' if name == 'fixed' else '0002'}_0000.nii.gz")
    both = [f"fixed={tmp_path}/A_0001_0000.nii.gz", f"moving={tmp_path}/A_0002_0000.nii.gz"]
    out = tmp_path / "bids"
    assert convert(result, f"out={out}", "format=bids", "suffix=T1w", "to=MNI", "subject=7", *both) == 0
    assert (out / "sub-7/anat/sub-7_from-T1w_to-MNI_mode-image_xfm.h5").exists()
    assert convert(result, f"out={tmp_path}/s", "format=learn2reg", *both) == 2
    assert "all images of a task have one shape" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), ["nothing to convert", "nowhere to write to"]),
        (("RESULT",), ["nowhere to write to: give a second file, or out="]),
        (("RESULT", "a.h5", "formt=itk"), ["formt=itk: unknown key; did you mean 'format'?"]),
        (("RESULT", "a.h5", "subject=1"), ["subject=1: unknown key; it belongs to format=bids"]),
        (("RESULT", "a.mat"), ["holds one affine matrix, but the transform has a displacement field"]),
        (("RESULT", "a.nii.gz", "format=lta"), ["has none of its extensions"]),
        (("RESULT", "RESULT", "a.h5"), ["2 sources, but a file holds one transform"]),
        (("RESULT", "RESULT"), ["is a folder, but format", "does not tell a format"]),
        (("missing.h5", "a.tfm"), ["there is no file"]),
        (("RESULT", "out=s", "format=learn2reg", "shape=1,2"), ["give the three numbers of voxels"]),
        (("RESULT", "out=s", "format=brats-reg"), ["not named as BraTS-Reg names its scans"]),
        (("RESULT", "out=s", "format=bids"), ["give suffix=T1w"]),
        (("RESULT", "a.h5", "--format", "itk"), ["no such option"]),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(words, says, result, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert convert(*(str(result) if word == "RESULT" else word for word in words)) == 2
    said = capsys.readouterr().err
    assert any(phrase in said for phrase in says) and "Traceback" not in said
    assert sorted(tmp_path.rglob("*")) == before


def test_files_are_replaced_only_if_asked(result, tmp_path, capsys):
    assert convert(result, tmp_path / "a.h5") == 0
    before = (tmp_path / "a.h5").stat().st_mtime_ns
    assert convert(result, tmp_path / "a.h5") == 2
    assert "is there already; choose another name, or add --overwrite" in capsys.readouterr().err
    assert (tmp_path / "a.h5").stat().st_mtime_ns == before
    assert convert(result, tmp_path / "a.h5", "--overwrite") == 0


def test_converting_loads_neither_torch_nor_monai(result, tmp_path):
    code = (
        "import sys; from mmtk.io.convert import convert; from pathlib import Path; import mmtk.cli.app; "
        f"convert([{str(result)!r}], Path({str(tmp_path / 'a.nii.gz')!r}), {{}}); "
        "print([name for name in ('torch', 'monai', 'nitransforms') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
