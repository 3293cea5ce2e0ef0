"""The atlas of a cohort: its maps are plain sums, it grows by a patient, and it refuses what does not belong."""

import csv
import json
import re

import nibabel
import numpy as np
import pytest
from made_cohort import fail, make_cohort
from typer.testing import CliRunner

from mmtk.atlas import build_atlas, wilson
from mmtk.atlas.settings import read_atlas_config
from mmtk.cli.app import app
from mmtk.errors import ConfigError
from mmtk.io import read_image, write_image

SHAPE = (7, 6, 5)
CASES = 12


@pytest.fixture
def cohort(tmp_path):
    draw = np.random.default_rng(0)
    template = draw.random(SHAPE).astype(np.float32)
    masks = {f"p{n:02d}": draw.integers(0, 3, SHAPE) * (draw.random(SHAPE) < 0.5) for n in range(CASES)}
    lesions = {name: (mask > 0) * 0.9 + 0.05 for name, mask in masks.items()}
    columns = {
        name: {"sex": "fm"[n % 2], "age": "" if n == 3 else str(30 + 3 * n)} for n, name in enumerate(masks)
    }
    home = make_cohort(tmp_path / "cohort", template, lesions, columns, masks)
    return home, np.stack(list(masks.values())), (template, lesions, columns, masks)


def image(path) -> np.ndarray:
    return np.asarray(nibabel.load(path).dataobj)


def test_the_maps_are_those_of_plain_sums(cohort, tmp_path):
    home, masks, (_template, *_) = cohort
    regions = np.zeros(SHAPE)
    regions[:3], regions[4:] = 1, 3
    path = tmp_path / "regions.nii.gz"
    grid = nibabel.load(home / "template.nii.gz")
    nibabel.save(nibabel.Nifti1Image(regions.astype(np.int16), grid.affine), path)
    out = tmp_path / "atlas"
    config = read_atlas_config(["by=sex,age", "tissues=1,2", f"regions={path}", "permutations=99"])
    found = build_atlas(home, out, config)
    lesions = masks > 0
    count = lesions.sum(axis=0)
    assert found.cases == CASES and found.added == CASES
    assert np.array_equal(image(out / "count.nii.gz"), count)
    assert np.allclose(image(out / "probability.nii.gz"), count / CASES)
    assert np.allclose([image(out / "lower.nii.gz"), image(out / "upper.nii.gz")], wilson(count, CASES), atol=1e-6)
    for label in (1, 2):
        assert np.array_equal(image(out / f"tissue_{label}_count.nii.gz"), (masks == label).sum(axis=0))
    assert np.allclose(image(out / "by_sex_f_probability.nii.gz"), lesions[::2].mean(axis=0))
    known = [n for n in range(CASES) if n != 3]
    ages = np.array([30 + 3 * n for n in known])
    r = image(out / "by_age_r.nii.gz")
    voxel = np.unravel_index(np.argmax(np.minimum(count, CASES - count)), SHAPE)
    assert r[voxel] == pytest.approx(np.corrcoef(ages, lesions[known][(..., *voxel)])[0, 1], abs=1e-6)
    tested = found.columns[0].tested
    assert np.array_equal(tested, (count >= 2) & (count <= CASES - 2))
    assert (image(out / "by_sex_p.nii.gz")[~tested] == 1).all()
    with open(out / "regions.csv") as file:
        rows = {int(row["region"]): row for row in csv.DictReader(file)}
    assert set(rows) == {1, 3}
    assert int(rows[1]["touched"]) == CASES and float(rows[1]["volume"]) == (regions == 1).sum() * 8
    assert float(rows[3]["mean_lesion"]) == pytest.approx(lesions[:, regions == 3].sum() * 8 / CASES, rel=1e-5)
    page = (out / "atlas.html").read_text()
    assert "by_0_0" in page and 'id="volume-probability"' in page and not re.search("(src|href)=.http", page)


def test_a_patient_that_joins_gives_the_atlas_of_all(cohort, tmp_path):
    home, _masks, (template, lesions, columns, given) = cohort
    fewer = {name: lesions[name] for name in list(lesions)[:8]}
    grown = make_cohort(tmp_path / "grown", template, fewer, columns, given)
    out = tmp_path / "atlas"
    assert build_atlas(grown, out).added == 8
    make_cohort(grown, template, lesions, columns, given)
    found = build_atlas(grown / "cohort.csv", out)
    assert found.added == 4
    build_atlas(home, tmp_path / "whole")
    for name in ("count", "probability", "lower", "upper"):
        assert np.array_equal(image(out / f"{name}.nii.gz"), image(tmp_path / "whole" / f"{name}.nii.gz"))


def test_memory_does_not_grow_with_the_cohort(cohort, tmp_path, monkeypatch):
    """Of the arrays of the template's size, there are as many for twelve cases as for three."""
    import tracemalloc

    shape = (40, 40, 40)
    draw = np.random.default_rng(0)
    template = draw.random(shape)
    peaks = []
    for count in (3, 12):
        lesions = {f"p{n}": (draw.random(shape) < 0.3) * 1.0 for n in range(count)}
        home = make_cohort(tmp_path / f"cohort{count}", template, lesions)
        monkeypatch.setattr("mmtk.atlas.page.make_page", lambda found: "")
        build_atlas(home, tmp_path / f"warm{count}")
        tracemalloc.start()
        build_atlas(home, tmp_path / f"atlas{count}")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.05 * peaks[0] + 2e5


def test_what_does_not_belong_is_one_sentence(cohort, tmp_path):
    home, _, (template, _lesions, _columns, _masks) = cohort
    out = tmp_path / "atlas"
    with pytest.raises(ConfigError, match="is no folder that `mmtk cohort run` has left"):
        build_atlas(tmp_path, out)
    with pytest.raises(ConfigError, match="did you mean 'age'"):
        build_atlas(home, out, read_atlas_config(["by=agee"]))
    assert not out.exists()
    fail(home, "p05", "memory ran out")
    found = build_atlas(home, out)
    assert found.cases == CASES - 1 and found.left_out == {"p05": "failed: memory ran out"}
    assert "p05 is left out: failed: memory ran out" in (out / "atlas.html").read_text()
    with pytest.raises(ConfigError, match="add --rebuild"):
        build_atlas(home, out, read_atlas_config(["tissues=1"]))
    fail(home, "p06", "disk full")
    with pytest.raises(ConfigError, match="case p06 is in the atlas but no longer in the cohort"):
        build_atlas(home, out)
    assert build_atlas(home, out, rebuild=True).cases == CASES - 2
    other = tmp_path / "other"
    other.mkdir()
    write_image(other / "t.nii.gz", template + 1, read_image(home / "template.nii.gz"))
    record = json.loads((home / "cases" / "p01.json").read_text())
    record["files"]["fixed"]["sha256"] = "0" * 64
    (home / "cases" / "p01.json").write_text(json.dumps(record))
    with pytest.raises(ConfigError, match="an atlas needs one template"):
        build_atlas(home, tmp_path / "third")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["permutation=9"], "did you mean 'permutations'"),
        (["permutations=3"], "permutations=3: "),
        (["regions=none.nii.gz"], "there is no such file"),
        (["confidence=2"], "confidence=2: "),
        (["tissues=a"], "tissues"),
    ],
)
def test_a_slip_in_a_setting_is_one_sentence(words, told):
    with pytest.raises(ConfigError) as refused:
        read_atlas_config(words)
    assert len(refused.value.problems) == 1 and told in refused.value.problems[0]


def test_the_command(cohort, tmp_path):
    home, *_ = cohort
    done = CliRunner().invoke(app, ["atlas", "build", str(home), "--out", str(tmp_path / "a")])
    assert done.exit_code == 0 and "12 cases, 12 of them new" in done.output
    refused = CliRunner().invoke(app, ["atlas", "build", str(tmp_path), "--out", str(tmp_path / "b")])
    assert refused.exit_code == 2
