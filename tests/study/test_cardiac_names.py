"""Hearts that a study names."""

from __future__ import annotations

import pytest

from mmtk.errors import ConfigError
from mmtk.study.cohorts import Cardiac


@pytest.fixture
def folder(tmp_path):
    for name in "abc":
        for what in ("ed", "es", "ed_lv", "es_lv"):
            (tmp_path / f"{name}_{what}.nii.gz").touch()
    return tmp_path


def test_those_that_are_named_are_the_cases(folder):
    named = Cardiac(folder, None, 0, "ed_es", ("c", "a"))
    assert [case.name for case in named.cases(folder)] == ["c", "a"]
    assert [case.name for case in Cardiac(folder, None, 0, "ed_es").cases(folder)] == ["a", "b", "c"]


def test_a_name_that_is_not_there_is_refused(folder):
    with pytest.raises(ConfigError, match=r"names=x: not in .* which holds a, b, c"):
        Cardiac(folder, None, 0, "ed_es", ("a", "x")).check()
