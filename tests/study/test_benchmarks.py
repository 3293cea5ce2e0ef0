"""The benchmarks of mmtk: cases that are the same twice, layouts of data sets, numbers against other ways to them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmtk.errors import ConfigError
from mmtk.io import Volume, write_image
from mmtk.plugins import installed
from mmtk.samples.catalogue import one
from mmtk.samples.options import CShapesOptions
from mmtk.samples.scores import shape_scores
from mmtk.samples.truth import Truth
from mmtk.study.benchmarks import APART, Benchmark
from mmtk.study.cases import check_cases, from_folder
from mmtk.study.description import read_study
from mmtk.study.page import write_page
from mmtk.study.runner import carry_out
from mmtk.study.synthetic import averaged

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
NAMES = ("c_shapes", "tumor_brain", "brains", "cardiac", "brats_reg", "brats_template", "samples")


def benchmark(name: str, **settings) -> Benchmark:
    return installed().benchmarks[name][0].model_validate(settings).build()


def refused(cases: str) -> list[str]:
    with pytest.raises(ConfigError) as told:
        read_study(["methods=lddmm", f"cases={cases}"], installed())
    return told.value.problems


def image(path: Path, seed: int = 0, shape=(12, 14, 10), labels: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = np.random.default_rng(seed)
    voxels = drawn.integers(0, labels + 1, shape) if labels else drawn.random(shape) + 0.1
    like = Volume(np.zeros(shape, np.float32), np.diag([2.0, 2.0, 2.0, 1.0]))
    write_image(path, voxels, like, "uint8" if labels else "float32")


# --- all


def test_they_are_installed_and_describing_them_loads_nothing():
    assert set(NAMES) <= set(installed().benchmarks)
    code = (
        "import sys\nfrom mmtk.plugins import installed\n"
        "from mmtk.study.description import read_study\n"
        "study = read_study(['methods=lddmm', 'cases=c_shapes,tumor_brain'], installed())\n"
        "assert study.benchmarks['c_shapes'].metrics\n"
        "assert not {'torch', 'numpy', 'scipy', 'monai'} & set(sys.modules), set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_command_lists_them_with_their_settings():
    def listed(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, "-m", "mmtk", "benchmarks", *words], capture_output=True, text=True)

    rows = {row["name"]: row for row in json.loads(listed("--json").stdout)}
    assert set(NAMES) <= set(rows)
    settings = {setting["name"]: setting for setting in rows["tumor_brain"]["settings"]}
    assert settings["spacing"]["default"] == "2" and settings["kinds"]["description"]
    assert "must be given" in listed("brains").stdout and "tumor_brain:" not in listed("brains").stdout
    wrong = listed("brain")
    assert wrong.returncode == 2 and "did you mean 'brains'?" in wrong.stderr


@pytest.mark.parametrize("name", NAMES)
def test_columns_are_of_metrics_that_exist_and_rows_of_others_fit_their_table(name):
    """Every column but a benchmark's own has a name and a meaning among the metrics of a run."""
    from mmtk.report.words import METRICS
    from mmtk.study.analysis import COST

    folder = Path("/nowhere")
    needed = {"folder": folder, "template": folder / "t.nii.gz"}
    model = installed().benchmarks[name][0]
    built = model.model_validate({k: v for k, v in needed.items() if k in model.model_fields}).build()
    for column in built.metrics:
        group, _, metric = column.partition(".")
        known = built.measures if group == name else COST if group == "cost" else METRICS
        assert metric in known, column
    assert len(set(built.metrics)) == len(built.metrics)
    for table in built.published:
        assert {len(row) for row in table.rows} == {1 + len(table.columns)}, table.title
    if name in ("c_shapes", "tumor_brain", "brats_reg", "brats_template"):
        assert set(APART) <= set(built.metrics), "shape and appearance are told apart wherever there is a mask"


@pytest.mark.parametrize(
    ("cases", "sentence"),
    [
        ("brains", "benchmark=brains: folder: missing; give folder=FOLDER: holds NAME_t1.nii.gz and"),
        ("brains folder=/nowhere/at/all", "folder=/nowhere/at/all: no such folder; give the folder of the images"),
        ("brains folder=@ count=3", "holds no NAME_t1.nii.gz and NAME_labels.nii.gz; give the folder that does"),
        ("cardiac folder=@", "holds no NAME_ed.nii.gz and NAME_es.nii.gz and"),
        ("cardiac folder=@ cuont=2", "cuont: unknown key; did you mean 'count'?"),
        ("brats_reg folder=@", "holds no folder BraTSReg_001; give the one of the challenge"),
        ("brats_template folder=@ template=@/t.nii.gz", "/t.nii.gz: no such file; name the image of the template"),
        ("brats_template folder=@ template=@/t.nii.gz", "holds no NAME_t1.nii.gz with NAME_seg.nii.gz beside it"),
        ("tumor_brain kinds=[bright,resectd]", "resectd: must be one of bright, lookalike, resected; did you mean"),
        ("tumor_brain options='{\"kind\":\"bright\"}'", "options.kind: is said of the benchmark itself"),
        ("c_shapes spacing=3", "spacing=3: does not divide the side of the image, 200 pixels"),
        ("c_shapes options='{\"sise\": 3}'", "no such option; did you mean 'size'?"),
    ],
)  # fmt: skip
def test_a_slip_is_answered_in_a_sentence(cases, sentence, tmp_path):
    told = refused(cases.replace("@", str(tmp_path)))
    assert any(sentence in problem for problem in told), told


def test_paths_of_a_benchmark_start_from_the_study(tmp_path, monkeypatch):
    for who in "ab":
        image(tmp_path / "data" / f"{who}_t1.nii.gz")
        image(tmp_path / "data" / f"{who}_labels.nii.gz", labels=3)
    for folder in ("data", "$MMTK_HERE/data"):
        (tmp_path / "study.yaml").write_text(
            f"methods: [lddmm]\ncases: {{benchmark: brains, folder: {folder}, count: 2}}\n"
        )
        monkeypatch.setenv("MMTK_HERE", str(tmp_path))
        study = read_study([str(tmp_path / "study.yaml")], installed())
        assert study.data()["cases"][0]["folder"] == str(tmp_path / "data")
    monkeypatch.delenv("MMTK_HERE")
    with pytest.raises(ConfigError, match="the variable in it is not set; set it, or write the folder itself"):
        read_study([str(tmp_path / "study.yaml")], installed())


# --- letters


def test_letters_are_those_of_the_sample_averaged(tmp_path):
    (case, other) = benchmark("c_shapes", count=2, seed=5, spacing=2, options={"size": 64}).cases(tmp_path)
    (_, again) = benchmark("c_shapes", count=2, seed=5, spacing=2, options={"size": 64}).cases(tmp_path)
    assert other == again and case.name == "letter-000"
    sample = one("c_shapes", CShapesOptions(size=64), 5, 1)
    small = averaged(sample, 2)
    assert small.spacing == (2.0, 2.0) and small.fixed.shape == (32, 32)
    assert np.allclose(small.fixed[3, 4], sample.fixed[6:8, 8:10].mean())
    assert small.mask.sum() * 4 >= sample.mask.sum(), "the averaged mask covers the lesion"
    # The same place in mm, by both displacements.
    known = Truth.read(other.fixed.parent)
    assert np.allclose(
        known.displacement[:, 10, 12] * 2, sample.displacement[:, 20:22, 24:26].mean((1, 2)), atol=1e-3
    )
    assert np.allclose(known.affine, small.affine)


def test_scores_of_letters_are_those_of_the_sample(tmp_path):
    """At 1 mm a pixel the benchmark measures what `shape_scores` does, from a run's files."""
    (case,) = benchmark("c_shapes", count=1, seed=5, spacing=1, options={"size": 64}).cases(tmp_path / "cases")
    study = read_study(
        ["methods=identity init=none normalize=none,oracle", f"cases={tmp_path / 'cases'}", "jobs=1"], installed()
    )
    records = carry_out(study, tmp_path / "out")
    sample = one("c_shapes", CShapesOptions(size=64), 5, 0)
    judge = benchmark("c_shapes", count=1, seed=5, spacing=1, options={"size": 64})
    for record, field in zip(records, (np.zeros_like(sample.displacement), sample.displacement), strict=True):
        assert not record.failed, record.message
        ours, theirs = judge.measure(case, record.folder), shape_scores(sample, field)
        assert ours["s"] == pytest.approx(theirs["s"], abs=1.5), "interpolated linearly and by cubic splines"
        assert ours["l2"] == pytest.approx(theirs["total"], rel=0.01)
        assert ours["l2_outside"] < ours["l2"]
    oracle = records[1]
    assert oracle.metrics["truth.outside_mm"] < 1e-3 and oracle.metrics["truth.inside_mm"] < 1e-3


# --- brains with a lesion


def test_lesions_come_in_the_kinds_that_are_asked_for(tmp_path):
    options = {"deformation": 4}
    asked = {"kinds": ["bright", "resected"], "cases": 1, "dim": 2, "spacing": 4.0, "options": options}
    cases = benchmark("tumor_brain", **asked).cases(tmp_path)
    assert [case.name for case in cases] == ["bright-4mm-000", "resected-4mm-000"]
    assert [case.known for case in cases] == [{"lesion": "grew"}, {"lesion": "collapsed"}]
    facts = json.loads((cases[1].fixed.parent / "sample.json").read_text())
    assert facts["kind"] == "resected" and facts["deformation"] == 4
    checked, problems = check_cases(cases)
    assert not problems and all(case.labels and case.mask and case.truth for case in checked)


# --- folders


def test_pairs_of_brains_are_drawn_by_the_seed(tmp_path):
    people = tmp_path / "people"
    for number, who in enumerate("abcd"):
        image(people / f"{who}_t1.nii.gz", number)
        image(people / f"{who}_labels.nii.gz", number, labels=3)
    image(people / "unlabeled_t1.nii.gz")

    def drawn(folder, **settings):
        return benchmark("brains", folder=people, **settings).cases(folder)

    cases = drawn(tmp_path / "one", count=12)
    pairs = [case.name.split("-") for case in cases]
    assert len({case.name for case in cases}) == 12 and all(a != b for a, b in pairs)
    assert {who for pair in pairs[:2] for who in pair} == set("abcd"), "everybody once before anybody twice"
    assert [c.name for c in drawn(tmp_path / "two", count=4)] == [c.name for c in cases[:4]]
    assert [c.name for c in drawn(tmp_path / "three", count=4, seed=1)] != [c.name for c in cases[:4]]
    from mmtk.io import read_image

    first = cases[0]
    image_, labels = read_image(first.fixed), read_image(first.fixed_labels)
    assert bool((image_.data[labels.data == 0] == 0).all()) and bool((image_.data[labels.data > 0] > 0).all())
    whole = drawn(tmp_path / "four", count=1, strip=False)[0]
    assert whole.fixed.parent == people
    with pytest.raises(ConfigError, match=r"4 images with labels lie in .* which give 12 pairs; ask for no more"):
        drawn(tmp_path / "five", count=13)


def test_hearts_go_from_one_phase_to_the_other(tmp_path):
    for who in ("x", "y", "z"):
        for phase in ("ed", "es"):
            image(tmp_path / f"{who}_{phase}.nii.gz")
            image(tmp_path / f"{who}_{phase}_lv.nii.gz", labels=1)
    cases = benchmark("cardiac", folder=tmp_path).cases(tmp_path)
    assert [case.name for case in cases] == ["x", "y", "z"]
    assert (cases[0].moving.name, cases[0].fixed_labels.name) == ("x_ed.nii.gz", "x_es_lv.nii.gz")
    back = benchmark("cardiac", folder=tmp_path, count=2, direction="es_ed").cases(tmp_path)
    assert len(back) == 2 and back[0].moving.name.endswith("_es.nii.gz")
    assert not check_cases(cases)[1]


def reg(folder: Path, patient: str, *, landmarks: bool = True, seg: bool = False) -> None:
    home = folder / patient
    for time, day in (("00", "0000"), ("01", "0106")):
        stem = home / f"{patient}_{time}_{day}"
        for modality in ("t1", "t1ce"):
            image(Path(f"{stem}_{modality}.nii.gz"), int(time))
        if landmarks:
            # Voxel (X, 239 + Y, Z) of the challenge's images; here any place in mm, LPS.
            shift = 2.0 if time == "01" else 0.0
            rows = [f"{n},{-4.0 - n + shift},{-6.0},{8.0}" for n in range(1, 7)]
            Path(f"{stem}_landmarks.csv").write_text("Landmark,X,Y,Z\n" + "\n".join(rows) + "\n")
        if seg:
            image(Path(f"{stem}_seg.nii.gz"), labels=1)


def test_the_layout_of_brats_reg_is_known(tmp_path):
    reg(tmp_path, "BraTSReg_001")
    reg(tmp_path, "BraTSReg_002", seg=True)
    cases = benchmark("brats_reg", folder=tmp_path).cases(tmp_path)
    first, second = cases
    assert first.moving.name == "BraTSReg_001_01_0106_t1ce.nii.gz", "the follow-up is carried"
    assert first.fixed.name == "BraTSReg_001_00_0000_t1ce.nii.gz"
    assert first.landmarks.name == "BraTSReg_001_01_0106_landmarks.csv" and first.mask is None
    assert second.mask.name == "BraTSReg_002_01_0106_seg.nii.gz"
    assert second.fixed_mask.name == "BraTSReg_002_00_0000_seg.nii.gz"
    assert not check_cases(cases)[1]
    reg(tmp_path, "BraTSReg_141", landmarks=False)
    told = refused(f"brats_reg folder={tmp_path}")
    assert "no BraTSReg_141_00_*_landmarks.csv" in told[0] and "cannot be scored" in told[0]
    told = refused(f"brats_reg folder={tmp_path} modality=flair")
    assert "no scan BraTSReg_001_00_*_flair (before treatment); there are t1, t1ce" in told[0]


def test_brats_reg_is_scored_by_its_landmarks_and_shows_the_published_rows(tmp_path):
    reg(tmp_path / "data", "BraTSReg_001")
    words = ["methods=identity init=none", f"cases=brats_reg folder={tmp_path / 'data'}", "jobs=1"]
    study = read_study(words, installed())
    records = carry_out(study, tmp_path / "out")
    (record,) = records
    assert not record.failed, record.message
    assert record.metrics["landmarks.landmark_error_median_mm"] == pytest.approx(2.0, abs=1e-5)
    assert record.metrics["landmarks.robustness"] == 0
    page = write_page(study, records, tmp_path / "out").read_text()
    assert "Published, not run here: BraTS-Reg 2022" in page and "B-spline SyN" in page
    heads = page.partition("<thead>")[2].partition("</thead>")[0]
    order = [heads.index(word) for word in ("median landmark error", "mean landmark error", "robustness", "folds")]
    assert order == sorted(order), "columns stand in the benchmark's order"
    tables = (tmp_path / "out" / "tables.md").read_text()
    assert "| SyN (CC, radius 2) | t1ce | 2.45 | 1.94 |" in tables


def test_patients_onto_a_template_are_scored_on_one_scale(tmp_path):
    image(tmp_path / "template.nii.gz", 9)
    image(tmp_path / "template_ventricles.nii.gz", 9, labels=1)
    image(tmp_path / "in" / "p1" / "p1_t1.nii.gz", 1)
    image(tmp_path / "in" / "p1" / "p1_ventricles.nii.gz", 1, labels=1)
    image(tmp_path / "in" / "p2_t1.nii.gz", 2)
    for place in ("p1/p1", "p2"):
        image(tmp_path / "in" / f"{place}_seg.nii.gz", 3)
        mask = np.zeros((12, 14, 10))
        mask[3:6, 4:8, 2:5] = 4
        like = Volume(np.zeros((12, 14, 10), np.float32), np.diag([2.0, 2.0, 2.0, 1.0]))
        write_image(tmp_path / "in" / f"{place}_seg.nii.gz", mask, like, "uint8")
    image(tmp_path / "in" / "nobody_t1.nii.gz")  # without a segmentation
    about = f"folder={tmp_path / 'in'} template={tmp_path / 'template.nii.gz'}"
    words = f"brats_template {about} template_ventricles={tmp_path / 'template_ventricles.nii.gz'}"
    # One is given the masks, one is not; one matches histograms, one does not: their warped images are the same.
    study = read_study(
        [
            "methods=identity init=none name=plain,identity init=none normalize=histogram masked=false name=blind",
            f"cases={words}",
            "jobs=1",
        ],
        installed(),
    )
    cases = study.benchmarks["brats_template"].cases(tmp_path)
    assert [(case.name, case.labels is not None) for case in cases] == [("p1", True), ("p2", False)]
    records = carry_out(study, tmp_path / "out")
    assert not any(record.failed for record in records), [record.message for record in records]
    for plain, blind in (records[:2], records[2:]):
        for name in ("l2", "l2_without_tumor"):
            key = f"brats_template.{name}"
            assert plain.metrics[key] == pytest.approx(blind.metrics[key], rel=1e-6) and plain.metrics[key] > 0
        assert plain.metrics["brats_template.l2_without_tumor"] < plain.metrics["brats_template.l2"]
    assert "overlap.dice_mean" in records[0].metrics and "overlap.dice_mean" not in records[2].metrics


# --- data that is not ours to bring along


@pytest.mark.skipif(not DATA.is_dir(), reason="the development data is not there")
@pytest.mark.parametrize(
    ("cases", "count"),
    [
        ("brains folder=@/brains_2mm count=2", 2),
        ("cardiac folder=@/cardiac", 30),
        ("brats_template folder=@/tumour_3d template=@/template/brats_space_t1_brain.nii.gz", 1),
    ],
)
def test_the_development_data_is_found(cases, count, tmp_path):
    study = read_study(["methods=lddmm", f"cases={cases.replace('@', str(DATA))}"], installed())
    (built,) = study.benchmarks.values()
    found = built.cases(tmp_path)
    assert len(found) == count and not check_cases(found)[1]


@pytest.mark.parametrize("study", sorted(path.name for path in (ROOT / "examples" / "studies").glob("*.yaml")))
def test_the_studies_that_come_with_mmtk_can_be_read(study, tmp_path, monkeypatch):
    monkeypatch.setenv("MMTK_DATA", str(tmp_path))
    for who in ("a", "b", "c", "d"):
        image(tmp_path / "brains_2mm" / f"{who}_t1.nii.gz")
        image(tmp_path / "brains_2mm" / f"{who}_labels.nii.gz", labels=2)
    named = re.search(r"names: \[?(cine[\w, ]+)", (ROOT / "examples" / "studies" / study).read_text())
    for who in ("a", "b", "c", "d", *(re.findall(r"cine\w+", named[1]) if named else ())):
        for phase in ("ed", "es"):
            image(tmp_path / "cardiac" / f"{who}_{phase}.nii.gz")
            image(tmp_path / "cardiac" / f"{who}_{phase}_lv.nii.gz", labels=1)
    found = read_study([str(ROOT / "examples" / "studies" / study)], installed())
    again = tmp_path / "study.json"
    again.write_text(json.dumps({"study": found.data()}))
    assert read_study([str(again)], installed()).data() == found.data()


def test_a_folder_of_cases_is_still_a_folder(letters):
    assert len(from_folder(letters / "letters")) == 2
