"""``mmtk doctor``: what it sees of a machine, and that each thing it finds comes with something to do."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch

import mmtk
from mmtk import doctor
from mmtk.cli import main
from mmtk.doctor import Finding, examine, self_test
from mmtk.plugins import Catalogue, installed
from mmtk.plugins.catalogue import PluginRecord


@pytest.fixture
def quick(monkeypatch):
    """Leave out the registration."""
    monkeypatch.setattr(doctor, "self_test", lambda: Finding("self test", "ok", "left out"))


def of(topic, catalogue=None, out=None):
    found = examine(installed() if catalogue is None else catalogue, out)
    return [finding for finding in found if finding.topic == topic]


def call(*words):
    with pytest.raises(SystemExit) as done:
        main(["doctor", *words])
    return done.value.code


def test_a_sound_installation_is_told_as_json_and_as_lines(capsys):
    assert call("--json") == 0
    found = {finding["topic"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert found["mmtk"]["facts"]["mmtk"] == mmtk.__version__
    versions = found["packages"]["facts"]
    assert versions["torch"] == importlib.metadata.version("torch")
    assert versions["nibabel"] == importlib.metadata.version("nibabel")
    assert found["cpu"]["facts"]["threads"] == torch.get_num_threads()
    assert found["cuda"]["facts"]["built_for"] == torch.version.cuda
    assert found["threads"]["facts"]["cores"] == len(os.sched_getaffinity(0))
    assert "metamorph_brats" in found["bundles"]["facts"]["names"]
    assert found["self test"]["facts"]["folds"] == 0
    call()
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("      ")]
    assert [line[2:].split(": ")[0] for line in lines] == list(found)


def test_whatever_is_not_well_comes_with_advice(quick, monkeypatch, tmp_path):
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    for finding in examine(installed(), tmp_path):
        assert finding.advice or finding.status == "ok", finding


def test_a_broken_plugin_is_named_with_its_reason_and_the_exit_code_is_1(quick, monkeypatch, capsys):
    broken = PluginRecord("theirs", "their-tool", "2.1", "broken", "ImportError: no module named 'x'")
    monkeypatch.setattr("mmtk.plugins.installed", lambda: Catalogue((*installed().plugins, broken)))
    assert call() == 1
    told = capsys.readouterr().out
    assert "! plugin theirs: their-tool 2.1 is broken: ImportError: no module named 'x'" in told
    assert "install 'their-tool' again or newer, or leave it out: MMTK_DISABLE_PLUGINS=theirs" in told


@pytest.mark.parametrize(
    ("content", "says"), [("{", "not valid JSON"), ('{"network_def": {"_target_": "a.B"}}', "runs a.B")]
)
def test_a_bundle_that_does_not_load(quick, content, says, tmp_path):
    folder = tmp_path / "theirs"
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "inference.json").write_text(content)
    plugin = PluginRecord("theirs", "their-tool", "2.1", bundles=(folder,))
    (finding,) = of("bundle theirs", Catalogue((*installed().plugins, plugin)))
    assert finding.status == "bad" and says in finding.seen and str(folder) in finding.advice


def test_an_extra_that_is_not_there_says_how_to_install_it(quick, monkeypatch):
    monkeypatch.setattr(doctor, "EXTRAS", {"none": ("no-such-package",)})
    (finding,) = of("extra none")
    assert finding.seen == "not installed (no-such-package)" and "pip install 'mmtk[none]'" in finding.advice


def test_little_memory_and_little_disk(quick, monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "available_memory", lambda: 400_000_000)
    (memory,) = of("memory")
    assert (memory.status, memory.seen) == ("note", "0.4 GB are free")
    usage = shutil._ntuple_diskusage(10**9, 10**9 - 5 * 10**6, 5 * 10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    (disk,) = of("disk", out=tmp_path / "not" / "yet")
    assert disk.status == "note" and disk.seen == f"5.0 MB are free in '{tmp_path}'"


@pytest.mark.parametrize(("name", "value"), [("OMP_WAIT_POLICY", "active"), ("OMP_NUM_THREADS", "4096")])
def test_threads_that_get_in_the_way(quick, monkeypatch, name, value):
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    (sound,) = of("threads")
    assert sound.status == "ok"
    monkeypatch.setenv(name, value)
    (finding,) = of("threads")
    assert finding.status == "note" and finding.advice.startswith(f"unset {name} or set it to")


@pytest.mark.parametrize(
    ("built", "card", "status", "says"),
    [
        (None, True, "note", "install torch with CUDA"),
        (None, False, "ok", ""),
        ("12.8", True, "note", "check the driver"),
        ("12.8", False, "ok", ""),
    ],
)
def test_a_card_that_torch_does_not_use(quick, monkeypatch, built, card, status, says):
    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(doctor, "_card", lambda: card)
    (finding,) = of("cuda")
    assert finding.status == status and finding.advice.startswith(says)


def test_a_registration_that_fails_or_goes_wrong(monkeypatch):
    def fails(**options):
        raise RuntimeError("illegal instruction")

    failed = self_test(fails)
    assert failed.status == "bad" and "illegal instruction" in failed.seen and "report this line" in failed.advice

    def unmoved(**options):
        return mmtk.register(**{**options, "iterations": (1,), "levels": (8.0,)})

    wrong = self_test(unmoved)
    assert wrong.status == "bad" and wrong.facts["error_left"] > 0.3


def test_without_a_torch_that_loads_the_rest_is_told_all_the_same():
    code = "import sys; sys.modules['torch'] = None\nfrom mmtk.cli import main\nmain(['doctor'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and not done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("  mmtk: mmtk")
    assert any(line.startswith("  bundles: ") for line in lines)
    assert any(line.startswith("! devices: torch cannot be loaded (ModuleNotFoundError") for line in lines)
