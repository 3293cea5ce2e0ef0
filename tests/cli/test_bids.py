"""``mmtk run --bids``."""

import numpy as np
import pytest

from mmtk.cli import main
from mmtk.io import Volume, write_image

SHORT = ("bundle=metamorph_brats", "init=none", "levels=4", "iterations=1", "--device", "cpu", "--bids")


@pytest.fixture
def blobs(tmp_path):
    """Write a pair of 2-D blobs under two names and return their settings."""

    def write(moving, fixed):
        space = np.stack(np.meshgrid(np.linspace(-1, 1, 24), np.linspace(-1, 1, 20), indexing="ij"))
        for name, shift in ((moving, 0.1), (fixed, 0.0)):
            voxels = np.exp(-4 * ((space + shift) ** 2).sum(0)).astype(np.float32)
            write_image(tmp_path / name, voxels, Volume(voxels, np.diag([2.0, 2.0, 1.0, 1.0])))
        return f"moving={tmp_path / moving}", f"fixed={tmp_path / fixed}"

    return write


def run(*words):
    with pytest.raises(SystemExit) as done:
        main(["run", *SHORT, *map(str, words)])
    return int(done.value.code or 0)


def test_a_run_has_its_results_under_bids_names_as_well(blobs, tmp_path):
    out = tmp_path / "out"
    run(*blobs("sub-01_T1w.nii.gz", "tpl-MNI_T1w.nii.gz"), "--out", out)
    named = out / "bids/sub-01/anat/sub-01_space-MNI_desc-warped_T1w.nii.gz"
    assert named.read_bytes() == (out / "warped.nii.gz").read_bytes()
    assert (out / "bids/dataset_description.json").exists() and (out / "bids/sub-01.html").exists()


def test_names_that_bids_cannot_have_are_refused_before_anything_is_computed(blobs, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(*blobs("scan.nii.gz", "template.nii.gz"), "--out", out) == 2
    told = capsys.readouterr().err
    assert "does not tell what kind of image it is" in told
    assert f"`mmtk convert {out} out=FOLDER format=bids` with these keys" in told
    assert not out.exists()
