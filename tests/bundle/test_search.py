"""Where bundles are found: what is installed, the search path, a path; and which of them is trusted for it."""

import os
import shutil
from pathlib import Path

import pytest

from mmtk.bundle.search import VARIABLE, find, search
from mmtk.errors import ConfigError
from mmtk.plugins import installed


def copy(name: str, target: Path) -> Path:
    shutil.copytree(installed().bundle("lddmm"), target / name)
    return target / name


def test_what_is_installed_comes_first_and_is_trusted_for_it():
    found = search(installed(), {})
    assert sorted(bundle.name for bundle in found) == [
        "affine",
        "cvae_diffeomorphic",
        "deep_image_prior",
        "kdnet_teacher",
        "lcc_demons",
        "lddmm",
        "linear_deformable_cnn",
        "metamorph_brats",
        "metamorph_g",
        "metamorph_r",
        "metamorphic_autoencoder",
        "metamorphosis",
        "metamorphosis_multimodal",
        "rigid",
        "rigid_cfm",
        "syn",
        "syn_cfm",
        "voxelmorph",
        "voxelmorph_cfm",
    ]
    assert all(bundle.installed and bundle.origin == "mmtk" for bundle in found)


def test_the_search_path_is_read_in_its_order(tmp_path):
    for place, name in (("one", "b"), ("one", "a"), ("two", "c")):
        copy(name, tmp_path / place)
    (tmp_path / "one" / "no_bundle").mkdir()
    places = [str(tmp_path / "two"), str(tmp_path / "missing"), "", str(tmp_path / "one")]
    found = search(installed(), {VARIABLE: os.pathsep.join(places)})
    assert [bundle.name for bundle in found if not bundle.installed] == ["c", "a", "b"]
    assert {bundle.origin for bundle in found if not bundle.installed} == {VARIABLE}
    assert find("a", installed(), {VARIABLE: str(tmp_path / "one")}).folder == tmp_path / "one" / "a"


def test_one_name_in_two_places_is_refused_naming_both(tmp_path):
    mine = copy("lddmm", tmp_path)
    with pytest.raises(ConfigError, match="several bundles are called 'lddmm'") as refused:
        find("lddmm", installed(), {VARIABLE: str(tmp_path)})
    assert str(mine) in str(refused.value)
    assert "(mmtk)" in str(refused.value)


def test_a_folder_in_the_working_directory_does_not_take_an_installed_name(tmp_path, monkeypatch):
    copy("lddmm", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert find("lddmm", installed(), {}).installed
    assert not find("./lddmm", installed(), {}).installed


def test_an_installed_bundle_is_known_by_its_path_too():
    assert find(str(installed().bundle("lddmm")), installed(), {}).installed


def test_a_path_that_is_no_bundle_and_a_name_that_is_none(tmp_path):
    with pytest.raises(ConfigError, match=r"a folder without configs/inference\.json"):
        find(str(tmp_path), installed(), {})
    (tmp_path / "b.zip").touch()
    with pytest.raises(ConfigError, match=r"`mmtk bundles unpack .*b\.zip FOLDER`"):
        find(str(tmp_path / "b.zip"), installed(), {})
    with pytest.raises(ConfigError, match="no bundle is called 'lddm'; did you mean 'lddmm'"):
        find("lddm", installed(), {})
