"""The scores on fields that are known, the currency between tools, and the process that is measured."""

import json
import sys

import numpy as np
import pytest

from benchmarks import cases, methods, page, prepare, score, store
from benchmarks.measure import environment, measure
from mmtk.io import Volume, read_affine, read_image, write_displacement
from mmtk.samples import c_shapes, tumor_brain


@pytest.fixture(scope="module")
def lesion(tmp_path_factory):
    """A prepared slice with a tumor, and its sample."""
    folder = tmp_path_factory.mktemp("slice")
    sample = tumor_brain(dim=2, spacing=2.0, seed=1)
    prepare._save_sample(folder, sample)
    return folder, sample


def written(path, sample, u, matrix=None):
    return write_displacement(path, u, Volume(sample.fixed, sample.affine), matrix)


def test_the_true_field_has_no_error_and_no_folds(lesion, tmp_path):
    folder, sample = lesion
    scores = score.truth(folder, written(tmp_path / "u.nii.gz", sample, sample.displacement))
    assert scores["outside"] < 1e-3
    assert scores["near"] < 1e-3
    assert scores["folds"] == 0
    assert scores["jacobian_min"] > 0


def test_a_field_off_by_three_millimeters_errs_by_three(lesion, tmp_path):
    folder, sample = lesion
    off = sample.displacement.copy()
    off[0] += 3 / sample.spacing[0]
    scores = score.truth(folder, written(tmp_path / "u.nii.gz", sample, off))
    assert scores["outside"] == pytest.approx(3, abs=1e-3)
    assert scores["far"] == pytest.approx(3, abs=1e-3)


def test_the_affine_is_part_of_the_map(lesion, tmp_path):
    _, sample = lesion
    shift = np.eye(4)
    shift[1, 3] = 2.0
    still = np.zeros_like(sample.displacement)
    with_affine = score.read_map(
        written(tmp_path / "u.nii.gz", sample, still, shift), Volume(sample.fixed, sample.affine)
    )
    assert np.linalg.norm(with_affine[:, 5, 5] * np.array(sample.spacing)) == pytest.approx(2, abs=1e-4)


def test_a_folded_field_is_counted():
    u = np.zeros((2, 12, 12))
    u[0, 5], u[0, 6] = 2.0, -2.0
    assert (score.determinants(u) <= 0).any()
    assert np.allclose(score.determinants(np.zeros((3, 4, 5, 6))), 1)


def test_an_image_is_carried_through_the_map_into_another_grid():
    fixed = Volume(np.zeros((6, 7, 8), np.float32), np.eye(4))
    moving = np.arange(6 * 7 * 8, dtype=np.float32).reshape(8, 7, 6).transpose(2, 1, 0)
    u = np.zeros((3, 6, 7, 8), np.float32)
    u[2] = 1
    carried = score.carry(moving, np.eye(4), u, fixed)
    assert np.array_equal(carried[:, :, :-1], moving[:, :, 1:])
    assert not carried[:, :, -1].any()


def test_a_letter_is_scored_at_its_true_map(tmp_path):
    sample = next(c_shapes(1, seed=3))
    arrays = {name: getattr(sample, name) for name in prepare._SAMPLE_ARRAYS}
    np.savez(tmp_path / "sample.npz", **arrays)
    scores = score.letter(tmp_path, written(tmp_path / "u.nii.gz", sample, sample.displacement))
    assert scores["normal"] < 1e-2
    assert scores["in_cut"] < 1e-2
    assert scores["folds"] == 0


def test_equal_maps_overlap_wholly(tmp_path):
    labels = np.zeros((10, 11, 12), np.float32)
    labels[2:5, 3:8, 4:9], labels[6:8, 3:8, 4:9] = 1, 7
    like = Volume(labels, np.diag([2.0, 2, 2, 1]))
    for side in ("fixed", "moving"):
        prepare.write_image(tmp_path / f"labels_{side}.nii.gz", labels, like, "uint8")
    path = write_displacement(tmp_path / "u.nii.gz", np.zeros((3, 10, 11, 12), np.float32), like)
    scores = score.overlap(tmp_path, path)
    assert (scores["dice"], scores["labels"]) == (1.0, 2)


def test_all_tools_are_given_one_affine(tmp_path):
    matrix = np.eye(4)
    matrix[:3] += np.random.default_rng(0).normal(0, 0.1, (3, 4))
    prepare.write_affine(tmp_path, matrix, 3)
    assert np.allclose(read_affine(tmp_path / "affine.txt"), matrix)
    assert np.allclose(read_affine(tmp_path / "affine.tfm"), matrix)
    assert np.allclose(read_affine(tmp_path / "affine_inverse.tfm"), np.linalg.inv(matrix))


def test_inputs_are_written_with_what_is_visible(lesion):
    folder, sample = lesion
    mask, visible = read_image(folder / "mask.nii.gz").data, read_image(folder / "visible.nii.gz").data
    assert np.array_equal(mask > 0, sample.mask)
    assert np.array_equal(mask + visible, np.ones_like(mask))


def test_every_case_names_methods_scores_and_recipes_that_there_are():
    for case in cases.CASES.values():
        assert set(case.methods) <= set(methods.METHODS)
        assert case.score in score.SCORES
        assert case.recipe in prepare.RECIPES
        for subject in case.subjects:
            for name in case.methods:
                methods.resolved(methods.METHODS[name], subject.known)


def test_the_settings_of_mmtk_are_settings_that_it_knows():
    _recipe = pytest.importorskip("mmtk.registration", exc_type=ImportError)._recipe

    for name, method in methods.METHODS.items():
        if method.tool == "mmtk":
            settings = methods.resolved(method, {"lesion": "grew"})
            kind, how = settings.pop("method", "metamorphosis"), settings.pop("normalize", "robust")
            assert _recipe(kind, None, False, "none", how, None, settings), name


def test_a_process_is_measured_from_outside(tmp_path):
    busy = "import time\nx = bytearray(60 << 20)\nwhile time.process_time() < 0.3: pass"
    used = measure([sys.executable, "-c", busy], log=tmp_path / "log", limit=20, env=environment(1))
    assert used.status == "ok"
    assert 0.3 <= used.cpu < 3
    assert used.rss_mb > 60


def test_a_process_out_of_time_is_stopped_and_said_so(tmp_path):
    used = measure([sys.executable, "-c", "while True: pass"], log=tmp_path / "log", limit=1)
    assert used.status == "out of time"
    failed = measure([sys.executable, "-c", "raise SystemExit(3)"], log=tmp_path / "log", limit=20)
    assert (failed.status, failed.code) == ("failed", 3)


def test_the_newest_of_equal_runs_counts(tmp_path):
    for wall in (1, 2):
        store.append("x", {"subject": "a", "method": "m", "wall": wall}, tmp_path)
    assert [row["wall"] for row in store.newest("x", tmp_path)] == [2]
    assert store.digest({"a": 1, "b": 2}) == store.digest({"b": 2, "a": 1})


def test_a_page_is_written_from_the_results(tmp_path):
    row = {
        "case": "tumor-brain-2mm", "subject": "bright/1", "method": "mmtk-split", "status": "ok", "wall": 2.0,
        "cpu": 3.0, "rss_mb": 512.0, "call_seconds": 1.0, "call_cpu": 1.5, "load": [0.1, 0.2],
        "host": store.host(),
        "date": "2030-01-01T00:00:00+00:00", "versions": {"mmtk": "0"}, "limit": 60, "threads": 2,
        "scores": {"outside": 0.25, "near": 0.5, "far": 0.2, "inside": 1.0, "folds": 0, "jacobian_min": 0.4},
    }  # fmt: skip
    late = {**row, "method": "ants-cc", "status": "out of time"}
    del late["scores"]
    store.append("tumor-brain-2mm", row, tmp_path)
    store.append("tumor-brain-2mm", json.loads(json.dumps(late)), tmp_path)
    text = page.render(tmp_path)
    assert "| mmtk split | 1 | 0.25 | 0.50 |" in text
    assert "out of time" in text
    assert "not measured yet" in text
