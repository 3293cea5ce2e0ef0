"""``mmtk bundles``: what it prints, what it refuses, and that nothing runs untrusted."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mmtk.cli import main


@pytest.fixture(autouse=True)
def own_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("MMTK_CONFIG_DIR", str(tmp_path / "settings"))
    monkeypatch.setenv("MMTK_BUNDLE_PATH", str(tmp_path / "shelf"))


@pytest.fixture
def command(capsys):
    def call(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as done:
            main(["bundles", *words])
        return int(done.value.code or 0), *capsys.readouterr()

    return call


@pytest.fixture
def mine(tmp_path, command) -> Path:
    folder = tmp_path / "shelf" / "mine"
    assert command("new", str(folder), "--from", "lddmm")[0] == 0
    return folder


def spoil(folder: Path, mark: Path) -> None:
    path = folder / "configs" / "inference.json"
    config = json.loads(path.read_text())
    config["initialize"] = [f"$open({str(mark)!r}, 'w')"]
    path.write_text(json.dumps(config))


def test_a_new_bundle_is_listed_checked_and_data(command, mine):
    code, out, _ = command("list", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert code == 0
    assert (rows["mine"]["trust"], rows["mine"]["origin"]) == ("data", "MMTK_BUNDLE_PATH")
    assert rows["lddmm"]["trust"] == "installed"
    assert "mine" in command("list")[1]
    metadata = json.loads((mine / "configs" / "metadata.json").read_text())
    assert {key for key, value in metadata.items() if "TODO" in str(value)} == {
        "description",
        "authors",
        "copyright",
    }
    code, out, _ = command("check", "mine")
    assert code == 0
    assert "wrong" not in out


def test_new_writes_over_nothing(command, mine):
    code, _, err = command("new", str(mine))
    assert (code, "exists; give a new folder" in err) == (2, True)
    code, _, err = command("new", str(mine.parent / "a b"))
    assert (code, "cannot name a bundle" in err) == (2, True)
    code, _, err = command("new", str(mine.parent / "b"), "--from", "lddm")
    assert (code, "did you mean 'lddmm'" in err) == (2, True)


def test_trust_and_untrust(command, mine, tmp_path, capsys):
    spoil(mine, tmp_path / "mark")
    code, out, _ = command("check", "mine")
    assert code == 2
    assert "initialize::0: the expression" in out
    code, out, _ = command("show", "mine")
    assert "not trusted" in out
    assert "asks for trust: configs/inference.json: initialize::0" in out
    code, out, err = command("trust", "mine")
    assert (code, "trusted: mine sha256:" in out, "lets through" in err) == (0, True, True)
    assert json.loads(command("show", "mine", "--json")[1])["trust"] == "trusted"
    assert command("check", "mine")[0] == 0
    assert command("untrust", "mine")[0] == 0
    code, _, err = command("untrust", "mine")
    assert (code, "Trusted: none" in err) == (2, True)
    with pytest.raises(SystemExit) as done:
        main(["run", "bundle=mine", "--dry-run"])
    assert done.value.code == 2
    assert "not trusted" in capsys.readouterr().err
    assert not (tmp_path / "mark").exists()


def test_an_installed_bundle_needs_no_trust(command):
    assert "trusted by being installed" in command("trust", "lddmm")[1]


def test_an_archive_is_unpacked_and_found(command, mine, tmp_path):
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as file:
        for path in mine.rglob("*"):
            file.write(path, f"other/{path.relative_to(mine)}")
    code, _, err = command("show", str(tmp_path / "b.zip"))
    assert (code, "unpack it with" in err) == (2, True)
    assert command("unpack", str(tmp_path / "b.zip"), str(tmp_path / "shelf" / "other"))[0] == 0
    assert command("check", "other")[0] == 0
    assert command("unpack", str(tmp_path / "b.zip"), str(tmp_path / "shelf" / "other"))[0] == 2


def test_listing_loads_neither_torch_nor_monai(mine):
    told = "from mmtk.cli import main\ntry: main(['bundles', 'list'])\nexcept SystemExit: pass\nimport sys\n"
    told += "assert not {'torch', 'monai'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", told], check=True, env={**os.environ}, capture_output=True)
