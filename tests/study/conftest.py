"""One small study, carried out once: two methods and one that fails, on two letters of 48 pixels."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from mmtk.plugins import installed
from mmtk.samples import make
from mmtk.study.description import Study, read_study
from mmtk.study.page import write_page
from mmtk.study.results import Record
from mmtk.study.runner import carry_out

SHORT = {"method": "metamorphosis", "levels": [4.0], "iterations": [4], "init": "none"}

STUDY = """
title: Two letters
methods:
  - {name: short, method: metamorphosis, levels: [4.0], iterations: [4], init: none}
  - {name: shorter, method: metamorphosis, levels: [4.0], iterations: [2], init: none, masked: false}
  - voxelmorph
cases: letters
jobs: 2
"""


@dataclass(frozen=True)
class Done:
    study: Study
    records: list[Record]
    out: Path
    file: Path


@pytest.fixture(scope="session")
def letters(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    make("c_shapes", folder / "letters", {"count": 2, "size": 48})
    (folder / "study.yaml").write_text(STUDY)
    return folder


@pytest.fixture(scope="session")
def done(letters: Path) -> Done:
    file = letters / "study.yaml"
    study = read_study([str(file)], installed())
    out = letters / "out"
    records = carry_out(study, out, command="mmtk compare study.yaml")
    write_page(study, records, out)
    return Done(study, records, out, file)
