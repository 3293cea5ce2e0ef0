"""The template atlas: sharper than the affine mean, without the lesion, resumed and grown without a difference."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pytest
from made_shapes import LESION, make_shapes
from small_cohort import here
from typer.testing import CliRunner

from mmtk.atlas.rounds import Round
from mmtk.atlas.settings import ModesConfig, TemplateConfig, split_template_config
from mmtk.atlas.template import Template, build_template, plan_template
from mmtk.atlas.variation import find_modes
from mmtk.cli.app import app
from mmtk.cohort import runner
from mmtk.errors import ConfigError
from mmtk.io import read_image
from mmtk.plugins import installed
from mmtk.transforms import load_transform, resample

SETTINGS = ("method=metamorphosis", "init=none", "levels=4,2", "iterations=8,6", "lambda=0.005")
CASES = 4


def plan(table: Path, *settings: str, **config):
    return plan_template(table, [*SETTINGS, *settings], TemplateConfig(**{"rounds": 1, **config}), installed())


def image(path: Path) -> np.ndarray:
    return np.asarray(nibabel.load(path).dataobj, dtype=np.float64)


@dataclass(frozen=True)
class Made:
    table: Path
    out: Path
    found: Template


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    folder = tmp_path_factory.mktemp("template")
    table = make_shapes(folder / "images", CASES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "connect", here)
        found = build_template(plan(table, keep=True), folder / "out")
    return Made(table, folder / "out", found)


@pytest.fixture
def copy(made, tmp_path, monkeypatch) -> Made:
    """The finished template, to be changed; its images stay where they are."""
    monkeypatch.setattr(runner, "connect", here)
    shutil.copytree(made.out, tmp_path / "out")
    table = tmp_path / "cohort.csv"
    with open(made.table, newline="") as file:
        rows = list(csv.DictReader(file))
    with open(table, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(
            {
                name: str(made.table.parent / cell) if name != "case" and cell else cell
                for name, cell in row.items()
            }
            for row in rows
        )
    # The rounds name the image that they registered to by its place.
    return Made(table, tmp_path / "out", made.found)


def test_the_template_is_sharper_than_the_affine_mean_and_the_cases_agree(made):
    before, now = (one["sharpness"] for one in made.found.rounds)
    assert now["gradient"] > 1.05 * before["gradient"] and now["fine"] > before["fine"]
    assert now["entropy"] < before["entropy"]
    assert made.found.rounds[1]["spread"] < 0.7 * made.found.rounds[0]["spread"]
    assert made.found.cases == ("p0", "p1", "p2", "p3") and not made.found.left_out
    page = (made.out / "template.html").read_text()
    assert "sharper than the affine mean" in page and 'id="affine"' in page and "http-equiv" in page
    assert 'src="http' not in page and 'href="http' not in page


def test_the_lesion_does_not_smear_into_the_template(made):
    """The lesion is three times as bright as anything else: a plain average would show it."""
    carried = image(made.out / "rounds/1/cohort/cases/p1/warped_mask.nii.gz") > 0.5
    assert carried.sum() > 10
    sums = np.load(made.out / "rounds/1/sums.npz")
    mean = sums["first"] / sums["weight"]
    assert (sums["weight"][carried] <= CASES - 1).all()
    others = [image(made.out / f"rounds/1/cohort/cases/p{n}/deformed.nii.gz") for n in (0, 2, 3)]
    highest = np.max([one / np.percentile(one[one > 15], 99.5) for one in others], axis=0)
    assert (mean[carried] < highest[carried] + 0.05).all()
    assert mean.max() < 1.2


def test_where_all_have_a_lesion_the_template_shows_what_surrounds_it(made, tmp_path):
    shutil.copytree(made.out / "rounds/0", tmp_path / "0")
    with np.load(tmp_path / "0/sums.npz") as kept:
        sums = dict(kept)
    for name in ("weight", "first", "second"):
        sums[name][LESION] = 0
    np.savez(tmp_path / "0/sums.npz", **sums)
    start = Path(json.loads((made.out / "rounds/0/round.json").read_text())["registered_to"])
    one = Round(0, tmp_path / "0", start, None, 4.0, 8.0, 0.5)
    one.finish(one.sums(), {})
    before, after = (image(folder / "mean.nii.gz") for folder in (made.out / "rounds/0", tmp_path / "0"))
    edge = [slice(part.start - 2, part.stop + 2) for part in LESION]
    assert after[LESION].min() > 0.8 * before[tuple(edge)].min() > 0


def test_images_and_labels_go_through_the_chain_that_is_left(made):
    """The drift, and then a case's own map, give the case on the template's grid."""
    folder = made.out / json.loads((made.out / "template.json").read_text())["cases"]["p2"]
    through = load_transform(made.out / "drift.h5", folder)
    carried = resample(made.table.parent / "p2.nii.gz", through, made.out / "mean.nii.gz").data
    mean = image(made.out / "mean.nii.gz")
    assert np.corrcoef(carried.ravel(), mean.ravel())[0, 1] > 0.97


def test_the_same_command_does_nothing_again(copy, monkeypatch):
    monkeypatch.setattr(runner, "connect", None)  # would be called
    before = (copy.out / "template.nii.gz").read_bytes()
    again = build_template(plan(copy.table, keep=True), copy.out)
    assert again.added == 0 and (copy.out / "template.nii.gz").read_bytes() == before


def test_a_patient_that_joins_is_registered_once_and_gives_the_last_round_of_all(copy, tmp_path):
    table = make_shapes(tmp_path / "more", CASES + 1)
    rows = copy.table.read_text().splitlines()
    grown = "\n".join([*rows, f"p{CASES},{table.parent / f'p{CASES}.nii.gz'},"]) + "\n"
    copy.table.write_text(grown)
    told = []
    found = build_template(plan(copy.table), copy.out, tell=lambda *words: told.append(words))
    assert found.added == 1 and found.cases[-1] == f"p{CASES}"
    assert [record.case for *_, record, known in told if not known] == [f"p{CASES}"]
    with np.load(copy.out / "rounds/1/sums.npz") as kept:
        sums = {name: kept[name] for name in ("weight", "first", "white", "stretch")}
    # Added up anew, all at once.
    for name in ("sums.npz", "shapes.rows", "round.json"):
        (copy.out / "rounds/1" / name).unlink()
    template = image(copy.out / "template.nii.gz")
    build_template(plan(copy.table), copy.out)
    with np.load(copy.out / "rounds/1/sums.npz") as kept:
        assert all(np.array_equal(sums[name], kept[name]) for name in sums)
    assert np.array_equal(image(copy.out / "template.nii.gz"), template)


def test_a_case_that_fails_is_named_and_left_out(copy):
    broken = copy.table.parent / "broken.nii.gz"
    broken.write_bytes((made_images(copy) / "p0.nii.gz").read_bytes()[:-30])
    copy.table.write_text(copy.table.read_text() + f"p9,{broken},\n")
    found = build_template(plan(copy.table), copy.out)
    assert len(found.cases) == CASES and "truncated or damaged" in found.left_out["p9"]
    page = (copy.out / "template.html").read_text()
    assert "p9 is left out" in page
    assert json.loads((copy.out / "template.json").read_text())["left_out"] == dict(found.left_out)


def made_images(made: Made) -> Path:
    with open(made.table, newline="") as file:
        return Path(next(csv.DictReader(file))["moving"]).parent


def test_what_was_made_otherwise_is_refused(copy, tmp_path):
    with pytest.raises(ConfigError, match=r"made otherwise \(the method\); add --rebuild"):
        build_template(plan(copy.table, "mu=0.5"), copy.out)
    with pytest.raises(ConfigError, match="settings of the template"):
        build_template(plan(copy.table, sharpen=0.0), copy.out)
    with pytest.raises(ConfigError, match="ask for no fewer"):
        build_template(plan(copy.table, rounds=0), copy.out)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds no template"):
        build_template(plan(copy.table), tmp_path / "other")
    lines = copy.table.read_text().splitlines()
    copy.table.write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(ConfigError, match="case p3 is in the atlas but no longer in the cohort"):
        build_template(plan(copy.table), copy.out)


@pytest.mark.parametrize(
    ("text", "words", "told"),
    [
        ("case,moving,fixed\np,p0.nii.gz,p0.nii.gz\n", (), "the column 'fixed': a template is what is made here"),
        ("case,moving\np,p0.nii.gz\n", ("fixed_mask=p1_mask.nii.gz",), "leave it out"),
        ("case,moving\np,p0.nii.gz\n", ("template=none.nii.gz",), "there is no such file"),
        ("case,moving\np,nowhere.nii.gz\n", (), "there is no file"),
        ("case,moving\n", (), "no such table, or no column 'moving'"),
        ('case,moving\np,p0.nii.gz\nq,"p0.nii.gz,p1.nii.gz"\n', ("template=p0.nii.gz",), ""),
        ("case,moving\np,p0.nii.gz\n", ("round=2",), "round"),
    ],
)
def test_a_slip_is_told_before_any_work(made, tmp_path, monkeypatch, text, words, told):
    for name in ("p0.nii.gz", "p1.nii.gz", "p1_mask.nii.gz"):
        (tmp_path / name).symlink_to(made.table.parent / name)
    (tmp_path / "cohort.csv").write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as refused:
        plan(tmp_path / "cohort.csv", *words)
    assert any(told in problem for problem in refused.value.problems), refused.value.problems


def test_settings_of_the_template_and_of_its_registrations_are_told_apart():
    config, others = split_template_config(["rounds=2", "mu=0.3", "sharpen=0", "workers=2"])
    assert (config.rounds, config.sharpen, others) == (2, 0.0, ["mu=0.3", "workers=2"])
    for word, told in (("rounds=-1", "rounds=-1: "), ("length=0", "length=0: "), ("nodes=a", "nodes=a: ")):
        with pytest.raises(ConfigError) as refused:
            split_template_config([word])
        assert len(refused.value.problems) == 1 and told in refused.value.problems[0]


# --- modes


def test_modes_of_a_template_give_its_cases_back(copy):
    found = find_modes(copy.out, ModesConfig(modes=9))
    sums = found.last.sums()
    assert np.allclose(found.shape.mean + found.shape.scores @ found.shape.basis, sums.table(), atol=1e-3)
    one = image(copy.out / "rounds/1/cohort/cases/p0/deformed.nii.gz")
    scan = image(made_images(copy) / "p0.nii.gz")
    from mmtk.intensity import robust

    again = found.mean.data + (
        found.appearance.mean + found.appearance.scores[0] @ found.appearance.basis
    ).reshape(one.shape)
    assert np.allclose(again, robust(scan.astype(np.float32)).apply(one), atol=1e-3)
    with np.load(copy.out / "modes/modes.npz") as kept:
        basis = kept["shape_basis"]
    assert np.allclose(basis @ basis.T, np.eye(CASES - 1), atol=1e-8)
    with open(copy.out / "modes/scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    scores = np.array([[float(row[f"shape_{n}"]) for n in (1, 2, 3)] for row in rows])
    assert np.allclose(scores.std(axis=0, ddof=1), 1, atol=1e-4) and np.allclose(scores.mean(axis=0), 0, atol=1e-5)
    assert np.allclose(found.deformed(0, 0.0), found.deformed(1, 0.0))
    page = (copy.out / "modes.html").read_text()
    assert "shape0below" in page and "appearance0change" in page
    assert read_image(copy.out / "modes/appearance_mode_1.nii.gz").shape == one.shape


def test_modes_of_what_is_no_template_are_refused(tmp_path, made):
    with pytest.raises(ConfigError, match="run `mmtk atlas template` first"):
        find_modes(tmp_path)
    told = json.loads((made.out / "template.json").read_text())
    (tmp_path / "template.json").write_text(json.dumps({**told, "rounds": told["rounds"][:1]}))
    with pytest.raises(ConfigError, match="with rounds=1 or more"):
        find_modes(tmp_path)


def test_the_commands(copy):
    words = ["atlas", "template", str(copy.table), *SETTINGS, "rounds=1", "--out", str(copy.out)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "4 cases, 0 added" in done.output
    done = CliRunner().invoke(app, ["atlas", "modes", str(copy.out), "modes=1"])
    assert done.exit_code == 0 and "1 modes of 4 cases explain: shape" in done.output
    assert CliRunner().invoke(app, [*words[:3], "rounds=x"]).exit_code == 2
    assert CliRunner().invoke(app, ["atlas", "modes", str(copy.table.parent)]).exit_code == 2
    assert CliRunner().invoke(app, ["atlas", "modes", str(copy.out), "mode=1"]).exit_code == 2


# --- processes


@pytest.mark.slow
def test_a_killed_command_goes_on_to_the_same_template(made, tmp_path):
    out = tmp_path / "out"
    words = [*SETTINGS, "rounds=2", "--out", str(out)]
    program = [sys.executable, "-m", "mmtk", "atlas", "template", str(made.table), *words]
    for begun in (
        "rounds/0/cohort/cases/p1.json",
        "rounds/1/cohort/cases/p0.json",
        "rounds/2/cohort/cases/p2.json",
    ):
        process = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        end = time.monotonic() + 600
        while not (out / begun).is_file():
            assert process.poll() is None, process.stderr.read().decode()
            assert time.monotonic() < end
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    whole = tmp_path / "whole"
    done = subprocess.run([*program[:-1], str(whole)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in ("template", "mean", "spread", "weight"):
        assert np.array_equal(image(out / f"{name}.nii.gz"), image(whole / f"{name}.nii.gz"))
