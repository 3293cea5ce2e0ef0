"""A bundle is trusted for what it holds, by one user, until it changes."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmtk.bundle.plan import make_plan
from mmtk.bundle.search import Found
from mmtk.bundle.trust import admit, config_folder, digest, is_trusted, trust, untrust
from mmtk.errors import ConfigError, InputError
from mmtk.plugins import installed


@pytest.fixture(autouse=True)
def own_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("MMTK_CONFIG_DIR", str(tmp_path / "settings"))


@pytest.fixture
def bundle(tmp_path) -> Path:
    folder = tmp_path / "mine"
    shutil.copytree(installed().bundle("lddmm"), folder)
    return folder


@pytest.fixture
def hostile(bundle) -> Path:
    path = bundle / "configs" / "inference.json"
    config = json.loads(path.read_text())
    config["run"] = ["$__import__('os').system('true')"]
    path.write_text(json.dumps(config))
    return bundle


def plan(folder: Path, out: Path):
    return make_plan([f"bundle={folder}"], out=out, overwrite=False, device="cpu", catalogue=installed())


def test_a_copy_of_ours_is_data_and_needs_no_trust(bundle, tmp_path):
    assert plan(bundle, tmp_path / "out").recipe.method.kind == "lddmm"


def test_a_foreign_bundle_is_refused_until_trusted_and_again_after(hostile, tmp_path):
    with pytest.raises(ConfigError, match=r"not trusted: configs/inference\.json: run::0") as refused:
        plan(hostile, tmp_path / "out")
    assert f"mmtk bundles trust {hostile}" in str(refused.value)
    assert not (tmp_path / "out").exists()
    trust(Found(hostile, "path"))
    assert plan(hostile, tmp_path / "out").recipe.method.kind == "lddmm"
    untrust("mine")
    with pytest.raises(ConfigError, match="not trusted"):
        plan(hostile, tmp_path / "out")


@pytest.mark.parametrize("change", ["content", "name", "new", "gone"])
def test_trust_ends_where_a_byte_or_a_name_changes(hostile, change):
    trust(Found(hostile, "path"))
    assert is_trusted(hostile)
    readme = hostile / "docs" / "README.md"
    {
        "content": lambda: readme.write_text("other"),
        "name": lambda: readme.rename(hostile / "docs" / "other.md"),
        "new": lambda: (hostile / "docs" / "new.md").touch(),
        "gone": readme.unlink,
    }[change]()
    assert not is_trusted(hostile)


def test_trust_goes_with_the_content_not_with_the_place(hostile, tmp_path):
    trust(Found(hostile, "path"))
    shutil.copytree(hostile, tmp_path / "elsewhere")
    admit(Found(tmp_path / "elsewhere", "path"), installed())


def test_what_is_installed_is_not_scanned(hostile):
    admit(Found(hostile, "a plugin", installed=True), installed())


def test_a_link_has_no_content_of_its_own(bundle):
    (bundle / "docs" / "link.md").symlink_to("README.md")
    with pytest.raises(InputError, match="not a plain file"):
        trust(Found(bundle, "path"))


def test_only_what_is_recorded_can_be_untrusted(hostile):
    with pytest.raises(ConfigError, match=r"no bundle 'mine' is trusted\. Trusted: none"):
        untrust("mine")
    value = trust(Found(hostile, "path"))
    assert untrust(value[:12]) == [value]
    trust(Found(hostile, "path"))
    assert untrust(str(hostile)) == [value]


def test_a_damaged_list_is_not_taken_for_an_empty_one(hostile):
    trust(Found(hostile, "path"))
    (config_folder() / "trusted_bundles.json").write_text("{")
    with pytest.raises(ConfigError, match="not valid JSON"):
        trust(Found(hostile, "path"))


@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), st.binary(max_size=4), max_size=4), st.data())
def test_two_folders_have_one_digest_where_they_are_equal(tmp_path_factory, files, data):
    other = data.draw(
        st.one_of(st.just(files), st.dictionaries(st.text("abc", min_size=1, max_size=3), st.binary()))
    )
    digests = []
    for content in (files, other):
        folder = tmp_path_factory.mktemp("any")
        for name, held in content.items():
            (folder / name).write_bytes(held)
        digests.append(digest(folder))
    assert (digests[0] == digests[1]) == (files == other)
