"""Cases of a BIDS data set, the short way with lists, methods that cannot run here, the oracle, and what one is told."""

import json
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from mmtk import ComponentConfig
from mmtk.errors import ConfigError
from mmtk.io import Volume, write_image
from mmtk.plugins import Catalogue, Offer, PluginRecord, installed
from mmtk.study import runner
from mmtk.study.cases import check_cases
from mmtk.study.description import read_study
from mmtk.study.page import write_page
from mmtk.study.results import Record
from mmtk.study.runner import carry_out, gather_cases


def image(path: Path, value: float = 1.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.zeros((8, 9, 7), np.float32)
    voxels[2:6, 2:6, 2:5] = value
    write_image(path, voxels, Volume(voxels, np.eye(4)), "float32")


def problems(*words: str, catalogue: Catalogue | None = None) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        read_study(words, catalogue or installed())
    return refused.value.problems


def cases_of(said: str | dict, tmp_path: Path) -> list:
    (tmp_path / "study.yaml").write_text(json.dumps({"methods": ["lddmm"], "cases": said}))
    cases = gather_cases(read_study([str(tmp_path / "study.yaml")], installed()), tmp_path)
    assert not check_cases(cases)[1]
    return cases


# --- BIDS


@pytest.fixture
def bids(tmp_path) -> Path:
    """Two subjects before and after; the first has lesions, in two places that BIDS allows, and labels."""
    root = tmp_path / "set"
    for subject in ("01", "02"):
        for session in ("post", "pre"):
            stem = f"sub-{subject}_ses-{session}"
            image(root / f"sub-{subject}" / f"ses-{session}" / "anat" / f"{stem}_T1w.nii.gz")
            image(root / f"sub-{subject}" / f"ses-{session}" / "anat" / f"{stem}_FLAIR.nii.gz")
    first = root / "derivatives" / "experts" / "sub-01"
    image(first / "ses-pre" / "anat" / "sub-01_ses-pre_label-lesion_mask.nii.gz")
    image(first / "ses-pre" / "anat" / "sub-01_ses-pre_space-MNI_label-lesion_mask.nii.gz")
    image(first / "ses-pre" / "anat" / "sub-01_ses-pre_desc-brain_mask.nii.gz")
    image(root / "sub-01" / "ses-post" / "anat" / "sub-01_ses-post_desc-lesion_roi.nii.gz")
    for session in ("pre", "post"):
        image(first / f"ses-{session}" / "anat" / f"sub-01_ses-{session}_dseg.nii.gz")
    (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    return root


def test_a_data_set_is_seen_and_one_session_carried_onto_the_other(bids, tmp_path):
    study = read_study(["methods=lddmm", f"cases={bids}"], installed())
    assert study.sources[0].bids is not None
    with_said = cases_of({"bids": str(bids), "moving": "ses-pre", "fixed": "ses-post"}, tmp_path)
    first, second = with_said
    assert [case.name for case in with_said] == ["sub-01", "sub-02"]
    assert first.moving.name == "sub-01_ses-pre_T1w.nii.gz" and first.fixed.name == "sub-01_ses-post_T1w.nii.gz"
    assert first.mask.name == "sub-01_ses-pre_label-lesion_mask.nii.gz", "in the image's own space"
    assert first.fixed_mask.name == "sub-01_ses-post_desc-lesion_roi.nii.gz"
    assert first.labels.name == "sub-01_ses-pre_dseg.nii.gz" and first.fixed_labels is not None
    assert second.mask is None and second.labels is None
    # Unsaid: the first session, by name, onto the second.
    assert gather_cases(study, tmp_path)[0].moving.name == "sub-01_ses-post_T1w.nii.gz"
    flair = cases_of({"bids": str(bids), "moving": "ses-pre", "suffix": "FLAIR", "subjects": "02"}, tmp_path)
    assert [case.moving.name for case in flair] == ["sub-02_ses-pre_FLAIR.nii.gz"]


def test_scans_of_a_data_set_go_onto_a_template(bids, tmp_path):
    image(tmp_path / "template.nii.gz")
    image(tmp_path / "labels.nii.gz")
    said = {"bids": "set", "fixed": "template.nii.gz", "fixed_labels": "labels.nii.gz"}
    cases = cases_of(said, tmp_path)
    assert [case.name for case in cases] == [
        "sub-01_ses-post", "sub-01_ses-pre", "sub-02_ses-post", "sub-02_ses-pre",
    ]  # fmt: skip
    assert all(case.fixed == tmp_path / "template.nii.gz" for case in cases)
    assert cases[1].labels is not None and cases[3].labels is None and cases[3].fixed_labels is None
    typed = f"bids={bids} moving=ses-pre fixed={tmp_path / 'template.nii.gz'}"
    study = read_study(["methods=lddmm", f"cases={typed}"], installed())
    assert [case.name for case in gather_cases(study, tmp_path)] == ["sub-01_ses-pre", "sub-02_ses-pre"]
    again = tmp_path / "study.json"
    again.write_text(json.dumps({"study": study.data()}))
    assert read_study([str(again)], installed()).data() == study.data()


def test_what_a_data_set_leaves_open_is_asked(bids, tmp_path):
    image(bids / "sub-02" / "ses-last" / "anat" / "sub-02_ses-last_T1w.nii.gz")
    (told,) = problems("methods=lddmm", f"cases={bids}")
    assert told.startswith("sub-02: has ") and "moving: ses-LABEL and fixed: ses-LABEL, or fixed: TEMPLATE" in told
    (told,) = problems("methods=lddmm", f"cases=bids={bids} moving=ses-pre")
    assert told.startswith("sub-02: 2 images of ") and "give fixed: more entities" in told
    (told,) = problems("methods=lddmm", f"cases=bids={bids} suffix=T1W")
    assert "holds no sub-*/anat/*_T1W.nii.gz; did you mean 'T1w'?" in told
    assert (
        "no such subject"
        in problems("methods=lddmm", f"cases=bids={bids} subjects=3 moving=ses-pre fixed=ses-post")[0]
    )
    assert "must be entities such as ses-pre" in problems("methods=lddmm", f"cases=bids={bids} moving=pre")[0]
    assert (
        "movnig: unknown key; did you mean 'moving'?"
        in problems("methods=lddmm", f"cases=bids={bids} movnig=x")[0]
    )
    assert "no such folder" in problems("methods=lddmm", "cases=bids=/nowhere/at/all")[0]
    image(bids / "sub-01" / "ses-pre" / "anat" / "sub-01_ses-pre_label-lesion_mask.nii.gz")
    told = problems("methods=lddmm", f"cases=bids={bids} moving=ses-pre fixed=ses-post")
    assert any("both belong to it; keep one of them" in problem for problem in told)


# --- the short way


def test_lists_are_said_in_brackets(letters):
    study = read_study(
        [
            "methods=metamorphosis levels=[8,4] iterations=[3,2],lddmm init=none",
            f"cases=tumor_brain kinds=[bright,resected] dim=2,{letters / 'letters'}",
        ],
        installed(),
    )
    first, second = study.entries
    assert first.label == "metamorphosis-levels=8+4-iterations=3+2"
    assert first.recipe.method.levels == (8.0, 4.0) and first.recipe.method.iterations == (3, 2)
    assert second.recipe.init == "none"
    assert study.sources[0].benchmark.kinds == ("bright", "resected") and study.sources[0].benchmark.dim == 2
    assert study.sources[1].path == letters / "letters"


# --- methods that cannot run here


class FarConfig(ComponentConfig):
    """A method of a library that nobody has."""

    target = "nowhere:Far"
    needs = {"no_such_module": "mmtk[far]"}
    kind: Literal["far"] = "far"


def with_far() -> Catalogue:
    offer = Offer("method", "far", FarConfig, "far", "far")
    return Catalogue((*installed().plugins, PluginRecord("far", "far", "1", offers=(offer,))))


def test_a_method_without_its_library_is_a_row_that_was_not_run(letters, tmp_path):
    words = ["methods=far,identity init=none", f"cases={letters / 'letters'}", "jobs=1"]
    study = read_study(words, with_far())
    assert [entry.label for entry in study.absent] == ["far"] and study.reference == "identity-init=none"
    records = carry_out(study, tmp_path / "out")
    assert {record.method for record in records} == {"identity-init=none"}
    page = write_page(study, records, tmp_path / "out").read_text()
    why = "not run: far needs the module &#39;no_such_module&#39;, which is not installed; pip install"
    assert why in page and "not run: far" in page
    assert "- far: far needs the module 'no_such_module'" in (tmp_path / "out" / "tables.md").read_text()


def test_a_reference_that_cannot_run_is_refused(letters):
    cases = f"cases={letters / 'letters'}"
    (told,) = problems("methods=far,identity", cases, "reference=far", catalogue=with_far())
    assert told.startswith("reference=far: far needs the module") and told.endswith("or choose another reference")
    (told,) = problems("methods=far", cases, catalogue=with_far())
    assert told.startswith("methods: far: far needs the module 'no_such_module'")


# --- the truth, and what is known


def test_the_oracle_has_no_error_and_needs_a_truth(letters, tmp_path):
    plain = letters / "without_truth.csv"
    plain.write_text("case,moving,fixed\nplain,letters/000/moving.nii.gz,letters/000/fixed.nii.gz\n")
    one = letters / "one.csv"
    one.write_text(
        "case,moving,fixed,truth\nknown,letters/000/moving.nii.gz,letters/000/fixed.nii.gz,letters/000\n"
        "field,letters/000/moving.nii.gz,letters/000/fixed.nii.gz,letters/000/truth_displacement.nii.gz\n"
    )
    study = read_study(["methods=oracle,identity init=none", f"cases={plain},{one}", "jobs=1"], installed())
    records = {(r.method, r.case): r for r in carry_out(study, tmp_path / "out")}
    assert "there is no oracle" in records["oracle", "plain"].message
    assert not records["identity-init=none", "plain"].failed
    for case in ("known", "field"):
        found = records["oracle", case]
        assert not found.failed, found.message
        error = next(
            v
            for name, v in found.metrics.items()
            if name in ("truth.outside_mm", "truth.endpoint_error_outside_mm")
        )
        assert error < 0.01 < records["identity-init=none", case].metrics["truth.outside_mm"]
    page = write_page(study, list(records.values()), tmp_path / "out").read_text()
    link = page.partition("there is no oracle")[2].partition('href="')[2].partition('"')[0]
    assert (tmp_path / "out" / link).is_file() and link.endswith(".log")


def test_cases_of_several_kinds_have_a_table_each(tmp_path):
    words = "methods: [{name: a, method: lddmm}, identity]\n"
    words += "cases: {benchmark: tumor_brain, kinds: [bright, resected], cases: 2, dim: 2, spacing: 4}\n"
    (tmp_path / "study.yaml").write_text(words)
    study = read_study([str(tmp_path / "study.yaml")], installed())
    cases = gather_cases(study, tmp_path)
    (tmp_path / "study.json").write_text(json.dumps(runner._account(study, cases, None, 1.0)))
    records = [
        Record(
            case.name, method, 0, "", False, "", {"truth.outside_mm": 10.0 * step + number}, (), tmp_path / "gone"
        )
        for number, case in enumerate(cases)
        for step, method in enumerate(("a", "identity"))
    ]
    page = write_page(study, records, tmp_path).read_text()
    assert "<h3>bright, 2 cases</h3>" in page and "<h3>resected, 2 cases</h3>" in page
    tables = (tmp_path / "tables.md").read_text()
    means = [
        line.split()[3]
        for kind in ("bright", "resected")
        for line in tables.partition(f"## {kind}, 2 cases: mean")[2].partition("## ")[0].splitlines()
        if line.startswith(("| a ", "| identity "))
    ]
    assert means == ["0.50", "10.50", "2.50", "12.50"]


def test_a_method_is_told_what_is_known_of_each_case(tmp_path):
    words = "methods: [{name: a, method: metamorphosis, told: true}, {name: b, method: metamorphosis}]\n"
    words += "cases: {benchmark: tumor_brain, kinds: [bright, resected], cases: 1, dim: 2, spacing: 4}\n"
    (tmp_path / "study.yaml").write_text(words)
    study = read_study([str(tmp_path / "study.yaml")], installed())
    jobs = runner._jobs(study, gather_cases(study, tmp_path), tmp_path)
    said = [(job.entry.label, runner._spec(study, job)["recipe"]["method"]["lesion"]) for job in jobs]
    assert said == [("a", "grew"), ("b", "unknown"), ("a", "collapsed"), ("b", "unknown")]
    assert "lesion=collapsed" in runner._spec(study, jobs[2])["command"]
    (tmp_path / "study.yaml").write_text(words.replace("metamorphosis, told", "lcc_demons, told"))
    assert "has no setting `lesion`" in problems(str(tmp_path / "study.yaml"))[0]
