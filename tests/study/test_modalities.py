"""Cases of several modalities, and methods that ask for them."""

import json

import pytest

from mmtk.errors import ConfigError
from mmtk.plugins import installed
from mmtk.samples import make
from mmtk.study.cases import from_csv, from_folder
from mmtk.study.description import read_study
from mmtk.study.runner import carry_out

SHORT = "levels=8 iterations=2 init=none"


@pytest.fixture(scope="module")
def patients(tmp_path_factory):
    home = tmp_path_factory.mktemp("cases")
    for seed in range(2):
        make("tumor_brain", home / f"p{seed}", {"dim": 2, "spacing": 4, "modalities": ["flair"], "seed": seed})
    return home


def study(patients, *methods):
    return read_study([f"methods={','.join(methods)}", f"cases={patients}", "jobs=1"], installed())


def test_what_lies_beside_the_images_is_a_modality(patients):
    first, second = from_folder(patients)
    assert list(first.channels) == ["flair"]
    assert [path.name for path in second.channels["flair"]] == ["moving_flair.nii.gz", "fixed_flair.nii.gz"]
    head, row = (
        "case,moving,fixed,moving_flair,fixed_flair",
        "a,{0}.nii.gz,{1}.nii.gz,{0}_flair.nii.gz,{1}_flair.nii.gz",
    )
    table = patients / "p0" / "table.csv"
    table.write_text(f"{head}\n{row.format('moving', 'fixed')}\n")
    (case,) = from_csv(table)
    assert case.channels == {
        "flair": (table.with_name("moving_flair.nii.gz"), table.with_name("fixed_flair.nii.gz"))
    }
    table.write_text("moving,fixed,moving_flair\nmoving.nii.gz,fixed.nii.gz,moving_flair.nii.gz\n")
    with pytest.raises(ConfigError, match="flair is there for one image alone"):
        from_csv(table)
    table.unlink()


def test_a_method_gets_what_it_asks_for_and_no_other(patients, tmp_path):
    one, both = f"metamorphosis name=one {SHORT}", f"metamorphosis name=both modalities=flair {SHORT}"
    asked = study(patients, one, both)
    records = carry_out(asked, tmp_path)
    assert not any(record.failed for record in records), [record.message for record in records]
    for label, count in (("one", 1), ("both", 2)):
        account = json.loads((tmp_path / "runs" / label / "p0_seed0" / "run.json").read_text())
        assert sum(name.startswith("moving") for name in account["inputs"]) == count
    errors = {r.method: r.metrics["truth.outside_mm"] for r in records if r.case == "p1"}
    assert errors["one"] != errors["both"]
    again = read_study([str(tmp_path / "study.json")], installed())
    found = []
    carry_out(again, tmp_path, tell=lambda done, total, record, was: found.append(was))
    assert found == [True] * 4, "the study's own account repeats it, and nothing is run twice"


def test_what_a_case_lacks_is_told_before_any_run(patients, tmp_path):
    asked = study(patients, f"metamorphosis name=more modalities=[t1ce,flair] {SHORT}")
    with pytest.raises(ConfigError, match="case p0: has no t1ce, which more asks for; it has flair"):
        carry_out(asked, tmp_path)
    assert not (tmp_path / "runs").exists()
    with pytest.raises(ConfigError, match="modalities=flare: must be some of t1, t1ce, t2, flair"):
        study(patients, "metamorphosis modalities=flare")
