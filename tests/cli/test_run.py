"""``mmtk run`` to the end: the files that it leaves, what it prints, and what it does to a folder in use."""

import json
from pathlib import Path

import numpy as np
import pytest

from mmtk.cli import main
from mmtk.io import Volume, write_image

EVERYTHING = {
    "warped.nii.gz",
    "deformed.nii.gz",
    "appearance.nii.gz",
    "warped_mask.nii.gz",
    "jacobian.nii.gz",
    "shape.safetensors",
    "transform.h5",
    "inverse_transform.h5",
    "displacement.nii.gz",
    "metrics.json",
    "run.json",
    "report.html",
}
SHORT = ("bundle=metamorph_brats", "init=none", "levels=4,2", "iterations=3,2")


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    """``key=value`` for a pair of 2-D blobs, the moving one with a lesion."""
    space = np.stack(np.meshgrid(np.linspace(-1, 1, 40), np.linspace(-1, 1, 36), indexing="ij"))
    bent = space + 0.1 * np.cos(2 * space[::-1])
    lesion = ((bent + 0.25) ** 2).sum(0) < 0.04
    affine = np.diag([2.0, 2.0, 1.0, 1.0])
    words = []
    for name, voxels in (
        ("moving", np.exp(-4 * (bent**2).sum(0)) + lesion),
        ("fixed", np.exp(-4 * (space**2).sum(0))),
        ("mask", lesion),
    ):
        path = tmp_path / f"{name}.nii.gz"
        write_image(path, voxels.astype(np.float32), Volume(voxels.astype(np.float32), affine))
        words.append(f"{name}={path}")
    return words


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as done:
        main(["run", *SHORT, "--device", "cpu", *map(str, words)])
    return int(done.value.code or 0)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_run_leaves_every_file_and_says_where_the_report_is(images, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(*images, "--out", out) == 0
    assert names(out) == EVERYTHING
    text = capsys.readouterr().out
    assert "deformation.folds = 0" in text
    assert text.endswith(f"The report: {out / 'report.html'}\n")
    record = json.loads((out / "run.json").read_text())
    assert record["settings"]["method"]["levels"] == [4.0, 2.0]
    assert set(record["files"]) == EVERYTHING


def test_a_folder_in_use_needs_overwrite_and_keeps_nothing_stale(images, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(*images, "--out", out) == 0
    before = (out / "run.json").read_bytes()
    assert run(*images, "--out", out) == 2
    assert (out / "run.json").read_bytes() == before
    assert capsys.readouterr().err.endswith("the folder is not empty; give another one, or --overwrite\n")
    moving, fixed, _ = images
    (out / "notes.txt").write_text("mine")
    assert run(moving, fixed, "--out", out, "--overwrite") == 0
    assert "warped_mask.nii.gz" not in names(out)
    assert (out / "notes.txt").read_text() == "mine"


def test_the_result_as_json(images, tmp_path, capsys):
    assert run(*images, "--out", tmp_path / "out", "--json", "--seed", 3) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["out"] == str(tmp_path / "out")
    assert printed["metrics"] == json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert json.loads((tmp_path / "out" / "run.json").read_text())["seed"] == 3


def test_an_input_that_only_its_voxels_show_to_be_wrong_leaves_nothing(images, tmp_path, capsys):
    empty = tmp_path / "empty.nii.gz"
    voxels = np.zeros((40, 36), np.float32)
    write_image(empty, voxels, Volume(voxels, np.diag([2.0, 2.0, 1.0, 1.0])))
    moving, fixed, _ = images
    assert run(moving, fixed, f"mask={empty}", "--out", tmp_path / "out") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: mask: ")
    assert not (tmp_path / "out").exists()


def test_the_truth_of_a_sample_is_not_told_of_another_pair(tmp_path):
    """A scan of one sample onto an image of another: the fixed one's folder holds a truth, but not theirs."""
    from mmtk.samples import make

    one, other = (
        make("tumor_brain", tmp_path / str(seed), {"dim": 2, "spacing": 4, "seed": seed}) for seed in (0, 1)
    )
    pairs = {"own": (one / "moving", one / "fixed"), "mixed": (other / "moving", one / "fixed")}
    pairs["turned"] = pairs["own"][::-1]
    for name, (moving, fixed) in pairs.items():
        words = [f"moving={moving}.nii.gz", f"fixed={fixed}.nii.gz"]
        assert run(*words, "--out", tmp_path / name) == 0
    told = {name for name in pairs if "truth" in json.loads((tmp_path / name / "metrics.json").read_text())}
    assert told == {"own"}


@pytest.mark.slow
def test_without_images_a_bundle_runs_on_the_sample_and_reports_the_true_error(tmp_path, capsys):
    out = tmp_path / "out"
    assert run("subject=same", "--out", out) == 0
    told = capsys.readouterr()
    assert told.err.startswith("No images were given: running on the sample 'tumor_brain'.")
    assert names(out) == EVERYTHING | {"sample", "warped_labels.nii.gz"}
    assert json.loads((out / "metrics.json").read_text())["truth"]["outside_mm"] < 2.5  # 4.1 before
