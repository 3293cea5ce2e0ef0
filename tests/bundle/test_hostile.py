"""Bundles made to do harm: each is refused with the place named, and nothing of it runs.

What is harmful here would leave a mark if it were parsed, imported or loaded. An alarm rings for a bundle that hangs.
"""

import json
import os
import pickle
import shutil
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmtk.bundle.check import check
from mmtk.bundle.plan import make_plan
from mmtk.bundle.search import Found
from mmtk.errors import ConfigError
from mmtk.plugins import installed

Harm = Callable[[Path, Path], None]

#: Seconds after which a bundle is taken to hang.
ALARM = 20


class Mark:
    """Leaves a mark where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def put(*at: str, value: Any, name: str = "inference.json") -> Harm:
    """Set one entry of a configuration; MARK in it becomes the path of the mark."""

    def harm(bundle: Path, mark: Path) -> None:
        path = bundle / "configs" / name
        config = json.loads(path.read_text()) if path.exists() else {}
        node = config
        for word in at[:-1]:
            node = node[word]
        node[at[-1]] = json.loads(json.dumps(value).replace("MARK", str(mark)))
        path.write_text(json.dumps(config))

    return harm


def write(name: str, content: str | bytes) -> Harm:
    def harm(bundle: Path, mark: Path) -> None:
        path = bundle / name
        path.parent.mkdir(parents=True, exist_ok=True)
        held = content.encode() if isinstance(content, str) else content
        path.write_bytes(held.replace(b"MARK", str(mark).encode()))

    return harm


def pickled(name: str, protocol: int = 2) -> Harm:
    return lambda bundle, mark: write(name, pickle.dumps(Mark(mark), protocol))(bundle, mark)


def torch_zip(entries: Callable[[Path], dict[str, bytes]], method: int = zipfile.ZIP_STORED) -> Harm:
    def harm(bundle: Path, mark: Path) -> None:
        with zipfile.ZipFile(bundle / "models" / "model.pt", "w", method) as file:
            for name, data in entries(mark).items():
                file.writestr(f"model/{name}", data)

    return harm


def link(name: str, target: str) -> Harm:
    def harm(bundle: Path, mark: Path) -> None:
        path = bundle / name
        if path.exists():
            path.unlink() if path.is_file() else shutil.rmtree(path)
        path.symlink_to(target)

    return harm


def pipe(name: str) -> Harm:
    def harm(bundle: Path, mark: Path) -> None:
        (bundle / name).unlink(missing_ok=True)
        os.mkfifo(bundle / name)

    return harm


def many(bundle: Path, mark: Path) -> None:
    for at in range(2100):
        (bundle / "docs" / f"{at}.md").touch()


def deep(bundle: Path, mark: Path) -> None:
    (bundle / "docs" / "/".join("a" * 20)).mkdir(parents=True)


TOUCH = "$open('MARK', 'w')"
LAUGHS = "a: &a [1, 1]\nb: &b [*a, *a]\nc: [*b, *b]\n"

HOSTILE: dict[str, tuple[Harm, str]] = {
    # expressions
    "expression to run": (put("run", value=[TOUCH]), "run::0: the expression"),
    "expression to initialize": (put("initialize", value=[TOUCH]), "initialize::0: the expression"),
    "expression as import": (put("imports", value=["$from os import system"]), "imports::0: the expression"),
    "expression as device": (put("device", value=TOUCH), "device: the expression"),
    "expression deep in the recipe": (
        put("network_def", "method", "lambda", value=TOUCH),
        "lambda: the expression",
    ),
    "expression in metadata": (
        put("description", value=TOUCH, name="metadata.json"),
        "description: the expression",
    ),
    "expression after a space": (put("device", value=" " + TOUCH), "device: the expression"),
    "expression after an idiom": (
        put("device", value="$torch.device('cpu')\nopen('MARK', 'w')"),
        "device: the expression",
    ),
    "idiom with a tail": (put("run", value=["$@evaluator.run() or open('MARK', 'w')"]), "run::0: the expression"),
    "idiom with a path": (put("output_dir", value="$@bundle_root + '/../..'"), "output_dir: the expression"),
    "expression in an overlay": (
        put("device", value=TOUCH, name="inference_cpu.json"),
        "inference_cpu.json: device",
    ),
    "expression in a file of its own": (put("x", value=TOUCH, name="more.json"), "more.json: x: the expression"),
    "expression as a key": (put("$open('MARK', 'w')", value=1), "a name that MONAI may evaluate"),
    # targets
    "target system": (put("handlers", value=[{"_target_": "os.system", "command": "touch MARK"}]), "'os.system'"),
    "target eval": (put("inferer", value={"_target_": "builtins.eval", "source": "1"}), "'builtins.eval'"),
    "target by another way": (put("inferer", "_target_", value="logging.os.system"), "'logging.os.system'"),
    "target of mmtk, too far": (
        put("inferer", "_target_", value="mmtk.bundle.workflow.sys.modules"),
        "_target_ 'mmtk.bundle.workflow.sys.modules'",
    ),
    "target of torch": (put("inferer", value={"_target_": "torch.hub.load"}), "'torch.hub.load'"),
    "target torch.load": (put("inferer", value={"_target_": "torch.load", "f": "MARK"}), "'torch.load'"),
    "target of MONAI that runs bundles": (
        put("inferer", "_target_", value="monai.bundle.run"),
        "'monai.bundle.run'",
    ),
    "target of MONAI, a bare name": (put("inferer", "_target_", value="Lambda"), "_target_ 'Lambda'"),
    "target scripts": (put("inferer", "_target_", value="scripts.net.Net"), "_target_ 'scripts.net.Net'"),
    "target expression": (put("inferer", "_target_", value=TOUCH), "inferer::_target_: _target_"),
    "target list": (put("inferer", "_target_", value=["os.system"]), "inferer::_target_: _target_"),
    "target within a target": (put("inferer", "_target_", value={"_target_": "os.system"}), "'os.system'"),
    "target with a space": (put("inferer", "_target_", value="SimpleInferer "), "_target_ 'SimpleInferer '"),
    "target at the root": (put("_target_", value="os.system"), "_target_: _target_ 'os.system'"),
    "target by id": (put("inferer::_target_", value="os.system"), "inferer::_target_: _target_ 'os.system'"),
    "target by old id": (put("inferer#_target_", value="os.system"), "inferer::_target_: _target_ 'os.system'"),
    "target by id, merged": (put("+inferer::_target_", value="os.system"), "_target_ 'os.system'"),
    "another evaluator": (put("evaluator", "_target_", value="DataLoader"), "evaluator::_target_: _target_"),
    "debugger": (put("inferer", "_mode_", value="debug"), "starts a debugger"),
    "mode by expression": (put("inferer", "_mode_", value="$'debug'"), "starts a debugger"),
    # macros, addresses, paths
    "macro": (put("inferer", value="%/etc/passwd::x"), "inferer: the macro"),
    "macro of a neighbor": (put("inferer", value="%more.yaml::x"), "inferer: the macro"),
    "address": (put("dataset_dir", value="https://example.org/x"), "loads nothing"),
    "path to root": (put("output_dir", value="/etc/cron.d"), "leads out of the bundle"),
    "path up": (put("output_dir", value="eval/../../.."), "leads out of the bundle"),
    "path home": (put("output_dir", value="~/.ssh"), "leads out of the bundle"),
    "path of Windows": (put("output_dir", value="C:\\Windows"), "leads out of the bundle"),
    "path to pairs": (put("pairs_file", value="/etc/passwd"), "pairs_file: the path"),
    # files
    "scripts": (write("scripts/__init__.py", "open('MARK', 'w')"), "scripts/__init__.py: Python code"),
    "Python beside the configuration": (write("configs/a.py", "open('MARK', 'w')"), "configs/a.py: Python code"),
    "Python in the root": (write("monai.py", "open('MARK', 'w')"), "monai.py: Python code"),
    "logging.conf": (write("configs/logging.conf", "[handlers]\nargs=(open('MARK', 'w'),)"), "a logging setup"),
    "shared object": (write("models/a.so", b"\x7fELF"), "models/a.so: not one of the files"),
    "hidden file": (write(".env", "X=1"), ".env: not one of the files"),
    "large files": (
        write("large_files.yml", "large_files:\n- url: https://example.org/x\n"),
        "large_files.yml: not one of the files",
    ),
    # weights
    "pickle by name": (pickled("models/model.pkl"), "models/model.pkl: a pickle"),
    "bare pickle as weights": (pickled("models/model.pt"), "models/model.pt: a bare pickle"),
    "pickle as safetensors": (pickled("models/model.safetensors"), "not a file of tensors"),
    "pickle in an archive": (
        torch_zip(lambda mark: {"data.pkl": pickle.dumps(Mark(mark), 2)}),
        "a pickle that imports",
    ),
    "newer pickle in an archive": (
        torch_zip(lambda mark: {"data.pkl": pickle.dumps(Mark(mark), 4)}),
        "a pickle that makes objects",
    ),
    "pickle by old instruction": (
        torch_zip(lambda mark: {"data.pkl": f"(S'touch {mark}'\nios\nsystem\n.".encode()}),
        "a pickle that makes objects",
    ),
    "two pickles": (
        torch_zip(lambda mark: {"data.pkl": b"}.", "x.pkl": pickle.dumps(Mark(mark), 2)}),
        "not one short data.pkl",
    ),
    "TorchScript": (
        torch_zip(lambda mark: {"data.pkl": b"}.", "constants.pkl": b").", "code/__torch__.py": b""}),
        "TorchScript",
    ),
    "TorchScript by name": (write("models/model.ts", b"PK\x03\x04"), "models/model.ts: TorchScript"),
    "compressed weights": (
        torch_zip(lambda mark: {"data.pkl": b"}.", "data/0": bytes(1 << 20)}, zipfile.ZIP_DEFLATED),
        "a compressed archive",
    ),
    "a safetensors header of terabytes": (
        write("models/a.safetensors", (1 << 42).to_bytes(8, "little") + b"{}"),
        "not a file of tensors",
    ),
    "weights cut": (write("models/model.pt", b"PK\x03\x04" + bytes(40)), "not a file of tensors"),
    # what a parser chokes on
    "not JSON": (write("configs/inference.json", "{"), "not valid JSON"),
    "list for an object": (write("configs/inference.json", "[]"), "expected a JSON object"),
    "key twice": (
        write("configs/inference_cpu.json", '{"device": "$torch.device(\'cpu\')", "device": "$1"}'),
        "the key 'device' is given twice",
    ),
    "nested too deep": (write("configs/a.json", '{"a":' * 20000 + "1" + "}" * 20000), "nested too deep"),
    "nested deep enough": (write("configs/a.json", '{"a":' * 200 + "1" + "}" * 200), "nested too deep"),
    "a number of a million digits": (write("configs/a.json", '{"a": ' + "9" * 1000000 + "}"), "not valid JSON"),
    "too large": (write("configs/a.json", '{"a": "' + "x" * (5 << 20) + '"}'), "has at most"),
    "UTF-16": (write("configs/a.json", '{"a": "$1"}'.encode("utf-16")), "not UTF-8"),
    "YAML that multiplies": (write("configs/a.yaml", LAUGHS), "an anchor or alias in line 1"),
    "YAML that contains itself": (write("configs/a.yaml", "&a {x: *a}"), "an anchor or alias"),
    "YAML with a tag": (
        write("configs/a.yaml", "a: !!python/object/apply:os.system ['touch MARK']"),
        "python/object/apply",
    ),
    "YAML expression": (write("configs/a.yml", "a: $open('MARK', 'w')"), "a.yml: a: the expression"),
    "YAML merge": (write("configs/a.yaml", "a: {<<: {_target_: os.system}}"), "'os.system'"),
    "YAML key twice": (write("configs/a.yaml", "a: 1\na: $1\n"), "the key 'a' is given twice"),
    "YAML nested too deep": (write("configs/a.yaml", "[" * 5000), "nested too deep|not valid YAML"),
    "YAML of two documents": (write("configs/a.yaml", "a: 1\n---\na: $1\n"), "not valid YAML"),
    # what is no file
    "link to a file": (link("configs/a.json", "/etc/passwd"), "a link"),
    "link for the configuration": (link("configs/metadata.json", "/dev/zero"), "a link"),
    "link to a folder": (link("docs", "/etc"), "docs: a link"),
    "link to itself": (link("docs/a.md", "a.md"), "a link"),
    "pipe": (pipe("configs/metadata.json"), "a pipe, socket or device"),
    "pipe as weights": (pipe("models/model.pt"), "a pipe, socket or device"),
    "too many files": (many, "more than 2000 files"),
    "too many folders": (deep, "folders deep"),
}


@pytest.fixture(autouse=True)
def own_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("MMTK_CONFIG_DIR", str(tmp_path / "settings"))


@pytest.fixture(autouse=True)
def alarm():
    def ring(*_: object) -> None:
        raise TimeoutError("the bundle made mmtk hang")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(ALARM)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def spoiled(tmp_path, request) -> tuple[Path, Path, str]:
    """A copy of a bundle of ours with one harm in it, the mark that it would leave, and what is said of it."""
    harm, message = HOSTILE[request.param]
    bundle, mark = tmp_path / "place" / "hostile", tmp_path / "mark"
    shutil.copytree(installed().bundle("lddmm"), bundle)
    harm(bundle, mark)
    return bundle, mark, message


def test_there_are_enough_of_them():
    assert len(HOSTILE) >= 40


@pytest.mark.parametrize("spoiled", HOSTILE, indirect=True)
def test_a_hostile_bundle_is_refused_with_the_place_named_and_nothing_runs(spoiled, tmp_path, monkeypatch):
    bundle, mark, message = spoiled
    monkeypatch.chdir(tmp_path)
    before = sorted(os.listdir(bundle.parent))
    with pytest.raises(ConfigError) as refused:
        make_plan([f"bundle={bundle}"], out=tmp_path / "out", overwrite=False, device="cpu", catalogue=installed())
    assert any(part in str(refused.value) for part in message.split("|")), str(refused.value)
    assert not mark.exists()
    assert not (tmp_path / "out").exists()
    assert sorted(os.listdir(bundle.parent)) == before


@pytest.mark.parametrize("spoiled", HOSTILE, indirect=True)
def test_checking_a_hostile_bundle_finds_it_and_runs_nothing(spoiled, tmp_path):
    bundle, mark, message = spoiled
    verdicts = {verdict.name: verdict for verdict in check(Found(bundle, "path"), installed(), run=True)}
    told = "\n".join(problem for verdict in verdicts.values() for problem in verdict.problems)
    assert any(part in told for part in message.split("|")), told
    assert verdicts["run"].skipped
    assert verdicts["weights"].skipped
    assert not mark.exists()


def test_a_mark_is_left_where_something_does_run(tmp_path):
    """The marks work: a test that looks for one could fail."""
    pickle.loads(pickle.dumps(Mark(tmp_path / "mark"), 2)).close()
    assert (tmp_path / "mark").exists()
