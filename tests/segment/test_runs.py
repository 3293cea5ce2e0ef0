"""Runs whose mask nobody has drawn: found, told, written, and shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import mmtk
from mmtk.cli.app import app
from mmtk.errors import ConfigError
from mmtk.io import Volume, read_image, write_image
from mmtk.report.findings import read_findings
from mmtk.samples import tumor_brain

FAST: dict[str, Any] = {"levels": (8.0, 4.0), "iterations": (4, 4), "init": "none", "device": "cpu"}


@pytest.fixture(scope="module")
def sample() -> Any:
    return tumor_brain(kind="bright", dim=2, spacing=2.0, seed=2)


@pytest.fixture(scope="module")
def pair(sample: Any) -> dict[str, Volume]:
    images = {"moving": sample.moving, "fixed": sample.fixed}
    return {name: Volume(data.astype(np.float32), sample.affine, name=name) for name, data in images.items()}


@pytest.fixture(scope="module")
def result(pair: dict[str, Volume]) -> mmtk.Result:
    return mmtk.register(**pair, mask="auto", mask_sensitivity=True, **FAST)


def test_the_mask_that_is_found_lies_on_the_lesion(result: mmtk.Result, sample: Any) -> None:
    assert result.looked_for is not None and not result.looked_for.empty
    found, true = result.looked_for.mask.data >= 0.5, sample.mask > 0
    # Of a bright core in edema the core is found for sure: what is marked is lesion, and a good part of it.
    assert (found & true).sum() > 0.7 * found.sum()
    assert (found & true).sum() > 0.2 * true.sum()
    assert result.prepared.mask is not None and result.appearance is not None
    assert any("nobody drew the mask" in note for note in result.notes)


def test_a_lesion_of_tissue_is_told_to_the_method_as_grown(result: mmtk.Result, pair: dict[str, Volume]) -> None:
    assert result.settings["method"]["lesion"] == "grew"
    assert any("lesion=grew" in note for note in result.notes)
    told = mmtk.register(**pair, mask="auto", lesion="replaced", **FAST)
    assert told.settings["method"]["lesion"] == "replaced"


def test_how_much_hangs_on_the_mask_is_told(result: mmtk.Result, pair: dict[str, Volume]) -> None:
    numbers = result.metrics["mask_sensitivity"]
    assert set(numbers) == {f"{m}_{w}_mm" for m in ("dilated", "eroded", "left_out") for w in ("near", "far")}
    assert all(0 <= number < 10 for number in numbers.values())
    assert numbers["left_out_near_mm"] > numbers["left_out_far_mm"]
    plain = mmtk.register(**pair, mask=result.looked_for.mask, **FAST)
    assert "mask_sensitivity" not in plain.metrics and "mask" not in plain.metrics


def test_the_folder_holds_the_mask_and_the_page_shows_it_again(result: mmtk.Result, tmp_path: Path) -> None:
    out = result.save(tmp_path / "out")
    record = json.loads((out / "run.json").read_text())
    assert record["mask"]["segmenter"] == "inconsistency" and "mask" not in record["inputs"]
    assert {"mask.nii.gz", "mask_uncertainty.nii.gz"} <= set(record["files"])
    page = (out / "report.html").read_text()
    assert "Mask, as found" in page and "If the mask were another" in page
    again, _ = read_findings(out)
    assert again.moving is None  # it was an array
    assert np.array_equal(read_image(out / "mask.nii.gz").data, result.looked_for.mask.data)


def test_nothing_found_is_a_run_without_a_mask(pair: dict[str, Volume]) -> None:
    found = mmtk.register(**pair, segmenter={"kind": "inconsistency", "threshold": 1000.0, "rounds": 1}, **FAST)
    assert found.prepared.mask is None and found.appearance is None
    assert any("found no lesion" in note for note in found.notes)


def test_probabilities_are_masks(pair: dict[str, Volume], sample: Any) -> None:
    chance = 0.7 * (sample.mask > 0).astype(np.float32)
    found = mmtk.register(**pair, mask=chance, **FAST)
    assert float(found.prepared.mask.data.max()) == pytest.approx(0.7)
    assert float(found.prepared.pair.moving_weight.min()) == pytest.approx(0.3, abs=1e-5)


def test_labels_are_taken_from_the_map_that_mask_names(pair: dict[str, Volume], sample: Any) -> None:
    labels = np.where(sample.mask > 0, 4.0, 1.0).astype(np.float32)
    part = {"kind": "labels", "lesion": (4,)}
    found = mmtk.register(**pair, mask=Volume(labels, sample.affine), segmenter=part, **FAST)
    assert np.array_equal(found.prepared.mask.data > 0, sample.mask > 0)


def test_two_words_about_the_lesion_are_refused(pair: dict[str, Volume], sample: Any) -> None:
    with pytest.raises(ConfigError, match="both say where the lesion is"):
        mmtk.register(**pair, mask=sample.mask.astype(np.float32), segmenter="outlier", **FAST)


@pytest.fixture
def files(pair: dict[str, Volume], tmp_path: Path) -> dict[str, Path]:
    return {name: write_image(tmp_path / f"{name}.nii.gz", volume.data, volume) for name, volume in pair.items()}


def test_the_command_takes_auto_and_a_segmenter(files: dict[str, Path], tmp_path: Path) -> None:
    words = ["run", "method=metamorphosis", *(f"{name}={path}" for name, path in files.items()), "init=none"]
    words += ["levels=8,4", "iterations=2,2", "segmenter=inconsistency", "segmenter.rounds=1"]
    out = tmp_path / "run"
    done = CliRunner().invoke(app, [*words, "--out", str(out), "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert (out / "mask.nii.gz").is_file() and "nobody drew the mask" in done.output
    shown = CliRunner().invoke(app, [*words, "--dry-run"])
    assert "mask: auto" in shown.output and "rounds: 1" in shown.output


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["mask=FILE", "segmenter=outlier"], "both say where the lesion is"),
        (["segmenter=labels"], "the label map is missing"),
        (["mask=aut"], "no such file"),
        (["segmenter=inconsistensy"], "did you mean 'inconsistency'"),
        (["segmenter=outlier", "segmenter.treshold=2"], "did you mean 'segmenter.threshold'"),
    ],
)
def test_what_is_wrong_is_said_first(files: dict[str, Path], tmp_path: Path, words: list[str], told: str) -> None:
    said = [word.replace("FILE", str(files["moving"])) for word in words]
    images = [f"{name}={path}" for name, path in files.items()]
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["run", "method=metamorphosis", *images, *said, "--out", str(out)])
    assert done.exit_code == 2 and not out.exists()
    assert told in " ".join(done.output.split())
