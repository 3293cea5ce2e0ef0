"""A folder says as much as the result that left it, and says what it lacks."""

import json
import re

import numpy as np
import pytest

from mmtk.errors import GridMismatch, InputError
from mmtk.io import Volume, write_image
from mmtk.report import rebuild_report
from mmtk.report.findings import findings_of, read_findings

KINDS = {
    "3-D with a lesion": {},
    "3-D without": {"lesion": False},
    "lesions on both sides": {"fixed_lesion": True},
    "2-D": {"shape": (24, 30)},
    "the affine is no identity": {"matrix": np.diag([1.25, 1.0, 1.0, 1.0])},
    "an oblique grid": {
        "affine": np.array([[0.8, -1.2, 0, 3], [0.6, 1.6, 0, -7], [0, 0, -1.5, 20], [0, 0, 0, 1]]),
    },
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_a_folder_gives_the_findings_of_the_result_that_left_it(kind, left, tmp_path):
    result, _ = left(tmp_path, **kind)
    live, (again, _) = findings_of(result), read_findings(tmp_path / "run")
    assert again.gone == ()
    assert (again.outcome, again.placement, again.notes) == (live.outcome, live.placement, live.notes)
    for name in ("warped", "deformed", "appearance", "lesion", "jacobian"):
        ours, theirs = getattr(again, name), getattr(live, name)
        assert (ours is None) == (theirs is None), name
        if ours is not None:
            np.testing.assert_array_equal(ours.numpy(), theirs.numpy(), err_msg=name)
    np.testing.assert_allclose(again.displacement.numpy(), live.displacement.numpy(), atol=1e-5)
    np.testing.assert_allclose(again.matrix, live.matrix)
    for name in ("moving", "fixed", "mask", "fixed_mask"):
        ours, theirs = getattr(again, name), getattr(live, name)
        assert (ours is None) == (theirs is None), name
        if ours is not None:
            np.testing.assert_array_equal(ours.data, theirs.data, err_msg=name)


@pytest.mark.parametrize("kind", [{}, {"shape": (24, 30)}], ids=["3-D", "2-D"])
def test_the_page_made_again_is_the_page_of_the_run(kind, left, tmp_path):
    left(tmp_path, **kind)
    page = tmp_path / "run" / "report.html"
    first = page.read_text(encoding="utf-8")
    page.unlink()
    assert rebuild_report(tmp_path / "run") == page
    assert page.read_text(encoding="utf-8") == first


@pytest.mark.parametrize(
    ("role", "loss"),
    [
        ("moving", "the moving image before the deformation"),
        ("fixed", "the fixed image and the differences from it"),
    ],
)
def test_an_image_that_moved_away_is_named_and_done_without(role, loss, left, tmp_path):
    left(tmp_path)
    (tmp_path / f"{role}.nii.gz").unlink()
    text = rebuild_report(tmp_path / "run").read_text(encoding="utf-8")
    assert f"The page does without {loss}" in text and "is not there any more" in text
    assert f'id="{role}"' not in text
    names = [layer["name"] for layer in _scene(text)["layers"]]
    assert role not in names and "before" not in names and "warped" in names


def test_an_image_that_changed_is_not_taken_for_the_one_that_was_read(left, tmp_path):
    left(tmp_path)
    other = np.random.default_rng(0).random((20, 24, 16), dtype=np.float32)
    write_image(tmp_path / "moving.nii.gz", other, Volume(other, np.diag([1.0, 1.0, 2.0, 1.0])))
    found, _ = read_findings(tmp_path / "run")
    assert found.moving is None and "has changed since" in found.gone[0]


def test_images_that_moved_along_with_the_folder_are_found(left, tmp_path):
    left(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    found, _ = read_findings(tmp_path / "there" / "run")
    assert found.gone == () and found.moving is not None and found.fixed is not None


@pytest.mark.parametrize("name", ["run.json", "metrics.json", "warped.nii.gz", "jacobian.nii.gz", "transform.h5"])
@pytest.mark.parametrize("harm", ["gone", "cut short"])
def test_a_folder_that_is_not_whole_is_refused_by_the_name_of_the_file(name, harm, left, tmp_path):
    left(tmp_path)
    file, page = tmp_path / "run" / name, tmp_path / "run" / "report.html"
    before = page.read_bytes()
    if harm == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(InputError, match=re.escape(name)):
        rebuild_report(tmp_path / "run")
    assert page.read_bytes() == before
    assert not list((tmp_path / "run").glob(".*"))


def test_files_of_two_runs_do_not_mix(left, tmp_path):
    left(tmp_path)
    small = np.zeros((4, 5, 6), dtype=np.float32)
    write_image(tmp_path / "run" / "jacobian.nii.gz", small, Volume(small, np.eye(4)))
    with pytest.raises(GridMismatch, match=r"jacobian.nii.gz"):
        read_findings(tmp_path / "run")


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(InputError, match="mmtk run --out"):
        read_findings(tmp_path)
    with pytest.raises(InputError, match="is no folder"):
        read_findings(tmp_path / "nowhere")


def _scene(text):
    return json.loads(re.search(r'id="scene">(.*?)</script>', text)[1])
