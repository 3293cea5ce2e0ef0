"""``mmtk report``: one page again, an index of many, and a clear no."""

import json
from pathlib import Path

import numpy as np
import pytest

from mmtk.cli import main
from mmtk.io import Volume, write_image


def mmtk(*words: object) -> int:
    with pytest.raises(SystemExit) as done:
        main([str(word) for word in words])
    return int(done.value.code or 0)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run of two 2-D blobs, with whatever `mmtk run` leaves today."""
    space = np.stack(np.meshgrid(np.linspace(-1, 1, 20), np.linspace(-1, 1, 18), indexing="ij"))
    words = []
    for name, shift in (("moving", 0.1), ("fixed", 0.0)):
        voxels = np.exp(-4 * ((space + shift) ** 2).sum(0)).astype(np.float32)
        write_image(tmp_path / f"{name}.nii.gz", voxels, Volume(voxels, np.diag([2.0, 2.0, 1.0, 1.0])))
        words.append(f"{name}={tmp_path / name}.nii.gz")
    out = tmp_path / "cohort" / "one"
    assert (
        mmtk(
            "run", "bundle=lddmm", "init=none", "levels=4", "iterations=2", "--device", "cpu", *words, "--out", out
        )
        == 0
    )
    return out


def test_the_page_of_a_run_is_made_again_from_its_folder(run, capsys):
    page = run / "report.html"
    first = page.read_text(encoding="utf-8")
    page.unlink()
    assert mmtk("report", run) == 0
    assert page.read_text(encoding="utf-8") == first
    assert f"The report: {page}" in capsys.readouterr().out


def test_many_runs_get_an_index(run, tmp_path, capsys):
    assert mmtk("report", run.parent) == 0
    assert "one/report.html" in (run.parent / "index.html").read_text(encoding="utf-8")
    assert "The index:" in capsys.readouterr().out
    (run.parent / "two").mkdir()
    assert mmtk("report", *sorted(run.parent.iterdir())) == 0  # as a shell writes cohort/*, with the index in it
    assert mmtk("report", *run.parent.iterdir(), run.parent / "three") == 2
    assert "'{}' neither is nor holds".format(run.parent / "three") in capsys.readouterr().err
    (run.parent / "two").rmdir()
    elsewhere = tmp_path / "elsewhere" / "all.html"
    assert mmtk("report", run, "--out", elsewhere) == 0
    assert "../cohort/one/report.html" in elsewhere.read_text(encoding="utf-8")


def test_what_is_no_run_is_refused_and_nothing_is_written(tmp_path, capsys):
    assert mmtk("report", tmp_path) == 2
    assert "neither is nor holds a folder that `mmtk run --out` has filled" in capsys.readouterr().err
    (tmp_path / "run.json").write_text(json.dumps({}))
    assert mmtk("report", tmp_path) == 2
    assert "metrics.json" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
