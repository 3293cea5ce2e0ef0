"""What a study may say, and how a slip is answered."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from mmtk import ComponentConfig, hookimpl
from mmtk.errors import ConfigError
from mmtk.plugins import Catalogue, PluginRecord, installed, load
from mmtk.study.cases import check_cases, from_csv, from_folder
from mmtk.study.description import read_study

ROOT = Path(__file__).parents[2]


def problems(*words: str) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        read_study(words, installed())
    return refused.value.problems


@pytest.fixture
def write(tmp_path, letters):
    def written(text: str) -> str:
        (tmp_path / "study.yaml").write_text(text.replace("@", str(letters / "letters")))
        return str(tmp_path / "study.yaml")

    return written


def test_a_method_is_a_name_a_bundle_or_a_mapping(write):
    study = read_study(
        [
            write("""
methods:
  - metamorphosis
  - metamorph_brats
  - bundle=lddmm init=none
  - {name: coarse, method: metamorphosis, levels: [8], iterations: [3], similarity: {kind: lncc, radius: 3}}
cases: '@'
""")
        ],
        installed(),
    )
    assert [entry.label for entry in study.entries] == [
        "metamorphosis",
        "metamorph_brats",
        "lddmm-init=none",
        "coarse",
    ]
    kinds = [entry.recipe.method.kind for entry in study.entries]
    assert kinds == ["metamorphosis", "metamorphosis", "lddmm", "metamorphosis"]
    coarse = study.entries[3].recipe.method
    assert (coarse.levels, coarse.similarity.kind, coarse.similarity.radius) == ((8.0,), "lncc", 3)
    assert study.entries[2].recipe.init == "none" and study.reference == "metamorphosis"


def test_what_a_study_leaves_says_the_same_again(write, tmp_path):
    text = "methods: [metamorph_r, {name: b, method: lddmm, masked: false}]\ncases: '@'\nseeds: [1, 2]\nreference: b\n"
    study = read_study([write(text)], installed())
    (tmp_path / "study.json").write_text(json.dumps({"study": study.data(), "command": None}))
    again = read_study([str(tmp_path / "study.json")], installed())
    assert again.data() == study.data()
    assert [entry.recipe for entry in again.entries] == [entry.recipe for entry in study.entries]


def test_what_is_typed_counts_before_the_file(write, letters):
    file = write("methods: [lddmm, metamorphosis]\ncases: nowhere\njobs: 1\n")
    study = read_study(
        [file, f"cases={letters / 'letters'}", "jobs=3", "seeds=4,5", "reference=metamorphosis"], installed()
    )
    assert (study.config.jobs, study.config.seeds, study.reference) == (3, (4, 5), "metamorphosis")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "nothing says what to compare; give STUDY.yaml, or methods=a,b cases=FOLDER"),
        (["nowhere.yaml"], "nowhere.yaml: no such file"),
        (["methods=lddmm"], "cases: missing; give cases=FOLDER"),
        (["methods=lddmm", "cases=samples", "seed=1"], "seed: unknown key; did you mean 'seeds'?"),
        (["methods=lddm", "cases=samples"], "no method is called 'lddm'; did you mean 'lddmm'?"),
        (["methods=lddmm mew=3", "cases=samples"], "mew=3: unknown key"),
        (["methods=lddmm moving=a.nii", "cases=samples"], "moving=a.nii: unknown key"),
        (["methods=lddmm,lddmm", "cases=samples"], "two are called 'lddmm'; give one of them another name"),
        (["methods=lddmm steps=$1", "cases=samples"], "must not begin with $, @ or %"),
        (["methods=lddmm", "cases=sampels"], "is no folder, no .csv and no benchmark; did you mean 'samples'?"),
        (["methods=lddmm", "cases=samples", "jobs=0"], "jobs=0: must be >= 1"),
        (["methods=lddmm", "cases=samples", "seeds=1,1"], "must be different whole numbers"),
        (["methods=lddmm", "cases=samples", "reference=lddm"], "is none of the methods; did you mean 'lddmm'?"),
        (["methods=lddmm", "cases=samples", "--jobs", "2"], "--jobs 2: no such option; use jobs=2"),
    ],
)  # fmt: skip
def test_a_slip_is_answered_in_a_sentence(words, sentence):
    told = problems(*words)
    assert any(sentence in problem for problem in told), told


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("methods: [", "is no YAML in line"),
        ("just words", "must hold keys such as methods: and cases:"),
        ("methods: [{method: lddmm, bundle: lddmm}]\ncases: '@'", "method and bundle says how to register"),
        ("methods: [{name: a/b, method: lddmm}]\ncases: '@'", "the name 'a/b' is to be that of a folder"),
        ("methods: [{method: lddmm, masked: perhaps}]\ncases: '@'", "masked=perhaps: must be true or false"),
        ("methods: [lddmm]\ncases: {benchmark: samples, cuont: 3}", "cuont: unknown key; did you mean 'count'?"),
        ("methods: [lddmm]\ncases: {benchmark: samples, options: {sise: 3}}", "no such option; did you mean 'size'?"),
        ("methods: [lddmm]\ncases: {benchmark: samples, options: {seed: 3}}", "give seed= beside options"),
        ("methods: [lddmm]\ncases: ['@', '@']", "one source is given twice"),
    ],
)  # fmt: skip
def test_a_slip_in_a_file_is_answered_in_a_sentence(write, text, sentence):
    told = problems(write(text))
    assert any(sentence in problem for problem in told), told


def test_everything_wrong_is_told_at_once(write):
    told = problems(write("methods: [lddm, {name: x, bundle: nothing}]\ncases: [nowhere]\nreference: z\n"))
    assert len(told) == 3


def test_an_import_path_in_a_file_is_not_followed(write):
    assert "no method is called" in problems(write("methods: ['json:JSONDecoder']\ncases: '@'"))[0]


def test_checking_loads_neither_torch_nor_numpy():
    code = (
        "import sys\nfrom mmtk.plugins import installed\nfrom mmtk.study.description import read_study\n"
        f"read_study([{str(ROOT / 'examples/studies/letters.yaml')!r}], installed())\n"
        "assert not {'torch', 'monai', 'scipy'} & set(sys.modules), set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- cases


def test_cases_of_a_folder_are_what_mmtk_sample_writes(letters):
    cases, wrong = check_cases(from_folder(letters / "letters"))
    assert [case.name for case in cases] == ["000", "001"] and not wrong
    first = cases[0]
    assert first.truth == letters / "letters" / "000" and first.voxels == (48 * 48, 48 * 48)
    # Where the cut lies on the fixed image is part of the truth: no method is given it.
    assert first.mask is not None and first.fixed_mask is None


def test_cases_of_a_table_lie_beside_it(letters, tmp_path):
    table = letters / "cases.csv"
    table.write_text("case,moving,fixed,mask\none,letters/000/moving.nii.gz,letters/000/fixed.nii.gz,\n")
    (case,) = from_csv(table)
    assert (case.name, case.mask) == ("one", None) and case.moving.is_file()


def test_a_table_that_cannot_be_is_told_row_by_row(letters):
    table = letters / "bad.csv"
    table.write_text("case,moving,fixd\none,letters/000/moving.nii.gz,\ntwo,nowhere.nii.gz,x\n")
    with pytest.raises(ConfigError) as refused:
        from_csv(table)
    told = refused.value.problems
    assert any("unknown column 'fixd'; did you mean 'fixed'?" in p for p in told)
    assert any("there is no column 'fixed'" in p for p in told)
    assert any("line 3: moving: there is no file" in p for p in told)


def test_files_are_looked_into_before_anything_runs(letters, tmp_path):
    place = tmp_path / "cases" / "a"
    place.mkdir(parents=True)
    (place / "moving.nii.gz").write_bytes(b"no image")
    (place / "fixed.nii.gz").write_bytes((letters / "letters" / "000" / "fixed.nii.gz").read_bytes())
    (place / "labels_fixed.nii.gz").write_bytes((letters / "letters" / "000" / "mask.nii.gz").read_bytes())
    _, told = check_cases(from_folder(tmp_path / "cases"))
    assert any(p.startswith("case a: moving") for p in told)
    assert any("fixed_labels says nothing without labels" in p for p in told)
    with pytest.raises(ConfigError, match="holds no folder with the images moving and fixed"):
        from_folder(tmp_path)


# --- benchmarks


def test_a_plugin_adds_a_benchmark(tmp_path):
    class OneConfig(ComponentConfig):
        """A benchmark of somebody else."""

        target = "mmtk.study.benchmarks:Samples"
        kind: str = "one"
        sample: str = "c_shapes"
        count: int = 1
        seed: int = 0
        options: dict = {"size": 48}

    catalogue = Catalogue((*installed().plugins, PluginRecord("x", "x", "1", benchmarks=(OneConfig,))))
    study = read_study(["methods=lddmm", "cases=one"], catalogue)
    (case,) = study.sources[0].benchmark.build().cases(tmp_path)
    assert case.name == "c_shapes-000" and case.truth == tmp_path / "c_shapes-000"


def test_the_hook_of_benchmarks_is_read():
    @dataclass
    class Point:
        name: str
        plugin: object
        dist: None = None

        def load(self) -> object:
            return self.plugin

    class Plugin:
        @staticmethod
        @hookimpl
        def mmtk_benchmarks():
            return [dict]

    (record,) = load([Point("p", Plugin)], {}).plugins
    assert record.status == "broken" and "mmtk_benchmarks returned" in record.error
    assert "samples" in installed().benchmarks


@pytest.mark.parametrize(
    ("method", "usual"), [("metamorphosis", False), ("lcc_demons", None), ("voxelmorph", False)]
)
def test_masked_is_said_to_the_method_that_can_leave_the_lesion_out(write, tmp_path, method, usual):
    weights = ", engine: optimize" if method == "voxelmorph" else ""
    entry = f"{{name: NAME, method: {method}{weights}MASKED}}"
    said = {"silent": "", "told": ", masked: true", "blind": ", masked: false"}
    entries = ", ".join(entry.replace("NAME", name).replace("MASKED", word) for name, word in said.items())
    study = read_study(
        [write(f"methods: [{entries}, {{name: plain, method: identity, masked: true}}]\ncases: '@'\n")],
        installed(),
    )
    assert [entry.masked for entry in study.entries] == [True, True, False, True]
    assert [entry.recipe.method.masked for entry in study.entries[:3]] == [usual, True, usual]
    (tmp_path / "study.json").write_text(json.dumps({"study": study.data(), "command": None}))
    again = read_study([str(tmp_path / "study.json")], installed())
    assert [entry.recipe for entry in again.entries] == [entry.recipe for entry in study.entries]
