"""``mmtk plugins``, its ``new`` and ``check``, ``mmtk show``, and what a shell completes."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mmtk.cli import main
from mmtk.plugins import Catalogue, PluginRecord, installed
from mmtk.plugins.writing import KINDS

NAMES = {kind: f"stranger-{kind}" for kind in KINDS}
BUNDLES = sorted(installed().bundles)


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


@pytest.fixture
def command(capsys) -> Callable[..., Done]:
    def call(*words: str) -> Done:
        with pytest.raises(SystemExit) as done:
            main(words)
        return Done(int(done.value.code or 0), *capsys.readouterr())

    return call


# --- listing


def test_broken_plugins_alone_are_listed_and_are_an_error(command, monkeypatch):
    assert command("plugins", "--broken") == Done(0, "no plugin is broken\n", "")
    record = PluginRecord("bad", "bad-dist", "1.2", "broken", "ImportError: no torch")
    monkeypatch.setattr("mmtk.plugins.installed", lambda: Catalogue((record, PluginRecord("good", "g", "1"))))
    assert command("plugins", "--broken") == Done(1, "broken  bad (bad-dist 1.2): ImportError: no torch\n", "")
    assert [p["name"] for p in json.loads(command("plugins", "--broken", "--json").out)["plugins"]] == ["bad"]
    refused = command("plugins", "--broken", "--kind", "method")
    assert refused.code == 2
    assert "give one of them" in refused.err


# --- showing


def test_a_part_is_shown_with_types_ranges_origin_and_an_example(command):
    shown = command("show", "lncc").out.splitlines()
    eps = "  eps     0.001  number > 0    intensity^2  added to variances and covariance; contrast far below its root"
    assert shown[3] == f"{eps} is ignored"
    assert "try   mmtk run bundle=metamorph_brats similarity=lncc" in shown
    assert any(line.endswith("mmtk.similarity:LocalCorrelation") for line in shown)
    method = command("show", "metamorphosis").out
    for words in ("list of number > 0, or none", "lbfgs|adam", "integer >= 0 and <= 12", "true|false"):
        assert words in method
    assert "Maillard's thesis (2023), eq. 5.2 and 5.5" in command("show", "eulerian").out


def test_units_have_a_column_where_a_setting_has_one(command):
    rows = {line.split()[0]: line for line in command("show", "lddmm").out.splitlines() if line.startswith("  ")}
    at = rows["sigma"].index(" mm ")
    assert rows["levels"][at : at + 4] == " mm " and rows["stride"][at : at + 4] == " mm "
    assert not rows["steps"][at - 1 : at + 5].strip()
    assert "  weight  1  number >= 0  weight of the term" in command("show", "bending").out


# --- completing


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("run bun", ["bundle=", *(f"bundle={name}" for name in BUNDLES)]),
        ("run bundle = met", [name for name in BUNDLES if name.startswith("met")]),
        ("run bundle =", BUNDLES),
        ("run bundle=met", [f"bundle={name}" for name in BUNDLES if name.startswith("met")]),
        ("run bundle = lddmm ste", ["steps=", "steps=15"]),
        ("run bundle = lddmm lam", ["lambda=", "lambda=none"]),
        ("run movi", ["moving=", "moving=FILE"]),
        ("run bundle = lddmm simil", ["similarity=", "similarity.radius=", "similarity.eps="]),
        ("run bundle = lddmm similarity = vir similarity.", ["similarity.eps=", "similarity.eps=0.001"]),
        ("run bundle = lddmm optimizer =", ["lbfgs", "adam"]),
        ("run bundle = lddmm regularizers = bending,d", ["bending,diffusion"]),
        ("run moving =", []),
        ("plugins --kind b", ["bundle"]),
        ("plugins new x --kind s", ["similarity", "segmenter"]),
        ("plugins new x --kind bundle --from ldd", ["lddmm"]),
        ("show lncc", ["lncc"]),
        ("bundles show metamorph_b", ["metamorph_brats"]),
    ],
)
def test_keys_values_and_names_are_completed_without_torch(words, offered):
    line = ["mmtk", *words.split(" ")]
    told = {"_MMTK_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(line), "COMP_CWORD": str(len(line) - 1)}
    assert completed(told).split() == offered


def completed(told: dict[str, str], **options: Any) -> str:
    """What a shell is answered that has said where the cursor stands."""
    program = (
        "import sys\n"
        "from mmtk.cli import main\n"
        "try:\n    main([])\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'monai', 'numpy'} & set(sys.modules)\n"
    )
    call = [sys.executable, "-c", program]
    done = subprocess.run(call, env={**os.environ, **told}, capture_output=True, text=True, check=False, **options)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize(
    ("word", "offered"),
    [
        ("moving=so", ["moving=some.nii.gz"]),
        ("moving=", ["moving=data/", "moving=some.nii.gz"]),
        ("mask=da", ["mask=data/", "mask=data/a.nii.gz", "mask=data/b.nii.gz"]),
        ("mask=data/b", ["mask=data/b.nii.gz"]),
        ("init=a", ["init=affine"]),
        ("init=da", ["init=data/", "init=data/a.nii.gz", "init=data/b.nii.gz"]),
        ("fixed=nowhere/", []),
        ("optimizer=l", ["optimizer=lbfgs"]),
    ],
)
def test_a_shell_that_leaves_words_whole_is_offered_files_behind_a_key(word, offered, tmp_path):
    (tmp_path / "data").mkdir()
    for name in ("some.nii.gz", ".hidden", "data/a.nii.gz", "data/b.nii.gz"):
        (tmp_path / name).touch()
    told = {"_MMTK_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": f"mmtk run bundle=lddmm {word}"}
    assert re.findall(r'"([^"]*=[^"]*)"', completed(told, cwd=tmp_path)) == offered


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_itself_completes_with_the_script_that_is_installed(tmp_path):
    (tmp_path / "mmtk").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mmtk "$@"\n')
    (tmp_path / "mmtk").chmod(0o755)
    environ = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    script = (
        'eval "$(_MMTK_COMPLETE=source_bash mmtk)"\n'
        "COMP_WORDS=(mmtk run bundle = lddmm optimizer = l) COMP_CWORD=7\n"
        "_mmtk_completion mmtk && printf '%s\\n' \"${COMPREPLY[@]}\" && complete -p mmtk\n"
    )
    done = subprocess.run(["bash", "-c", script], env=environ, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["lbfgs", "complete -o default -F _mmtk_completion mmtk"], done.stderr


# --- writing and checking


@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> Path:
    """One package of every kind, written by the command."""
    folder = tmp_path_factory.mktemp("packages")
    for kind, name in NAMES.items():
        with pytest.raises(SystemExit) as done:
            main(["plugins", "new", name, "--kind", kind, "--out", str(folder)])
        assert not done.value.code
    return folder


@pytest.fixture(scope="module")
def environ(packages: Path) -> dict[str, str]:
    """An environment in which all of them are installed, by pip and through their entry points."""
    target = packages / "installed"
    words = ["install", "-q", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    sources = [str(packages / name) for name in NAMES.values()]
    subprocess.run([sys.executable, "-m", "pip", *words, "--target", str(target), *sources], check=True)
    return {**os.environ, "PYTHONPATH": str(target)}


def mmtk(*words: str, environ: dict[str, str]) -> subprocess.CompletedProcess:
    call = [sys.executable, "-m", "mmtk", *words]
    return subprocess.run(call, env=environ, capture_output=True, text=True, check=False)


def test_a_package_is_whole_and_nothing_of_the_template_is_left(packages):
    for kind, name in NAMES.items():
        files = {p.relative_to(packages / name).as_posix() for p in (packages / name).rglob("*") if p.is_file()}
        part = name.replace("-", "_")
        bundle = f"src/{part}/bundles/{part}/"
        assert files >= {
            "pyproject.toml",
            "README.md",
            ".github/workflows/test.yml",
            f"src/{part}/plugin.py",
            f"{bundle}configs/inference.json" if kind == "bundle" else f"src/{part}/{part}.py",
            f"tests/test_{part}.py",
        }
        for file in (file for file in files if not file.startswith(bundle)):
            text = (packages / name / file).read_text(encoding="utf-8")
            assert "$" not in text, f"{kind}: {file}"
            if file.endswith(".py"):
                compile(text, file, "exec")


def test_every_part_is_listed_and_shown_once_its_package_is_installed(environ):
    listed = json.loads(mmtk("plugins", "--json", environ=environ).stdout)
    assert {p["status"] for p in listed["plugins"]} == {"ok"}
    parts = {
        (part["kind"], part["name"]) for part in listed["parts"] if part["distribution"].startswith("stranger")
    }
    assert parts == {(kind, f"stranger_{kind}") for kind in KINDS if kind != "command"}
    assert mmtk("x", "stranger_command", "a.nii", environ=environ).stdout == "stranger_command: a.nii\n"
    shown = mmtk("show", "stranger_similarity", environ=environ).stdout
    assert "similarity=stranger_similarity" in shown


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES.values())
def test_the_tests_of_a_new_package_are_green(name, packages, environ):
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error"]
    ours = ["-W", "ignore:.torch\\.jit:DeprecationWarning"]
    done = subprocess.run(
        [*words, *ours], env=environ, cwd=packages / name, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_the_check_holds_an_installed_plugin_to_its_laws(environ):
    done = mmtk("plugins", "check", "stranger-similarity", environ=environ)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok     similarity stranger_similarity is built" in done.stdout
    assert "The laws of 1 part:" in done.stdout
    assert "wrong" not in done.stdout
    assert " passed" in done.stdout


@pytest.mark.slow
def test_the_check_holds_the_bundle_of_an_installed_plugin_to_its_laws(environ):
    done = mmtk("plugins", "check", "stranger-bundle", environ=environ)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The laws of 1 bundle:" in done.stdout
    assert "11 passed" in done.stdout


def test_a_bundle_of_a_package_has_its_name_once_the_package_is_installed(environ):
    rows = {row["name"]: row for row in json.loads(mmtk("bundles", "list", "--json", environ=environ).stdout)}
    assert (rows["stranger_bundle"]["origin"], rows["stranger_bundle"]["trust"]) == (
        "stranger-bundle",
        "installed",
    )
    planned = mmtk("run", "bundle=stranger_bundle", "--dry-run", environ=environ)
    assert planned.returncode == 0 and "kind: metamorphosis" in planned.stdout, planned.stderr


@pytest.mark.slow
def test_the_check_finds_a_part_that_breaks_a_law(packages, environ, tmp_path):
    installed = packages / "installed"
    for name in ("stranger_similarity", "stranger_similarity-0.1.0.dist-info"):
        subprocess.run(["cp", "-r", str(installed / name), str(tmp_path / name)], check=True)
    package = tmp_path / "stranger_similarity"
    part = package / "stranger_similarity.py"
    part.write_text(part.read_text().replace("(moved - fixed)", "(moved - 2 * fixed)"))
    plugin = package / "plugin.py"
    plugin.write_text(
        "import torch\n" + plugin.read_text().replace('description="difference', 'title="difference')
    )
    done = mmtk("plugins", "check", "stranger-similarity", environ={**environ, "PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1
    assert "wrong  plugin stranger_similarity loads no torch: importing stranger_similarity.plugin" in done.stdout
    assert "needs Field(description=...) for eps" in done.stdout
    assert "test_an_image_is_nearest_to_itself" in done.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("Tiny", "--kind", "loss"), "Tiny: must be lower-case words joined by hyphens"),
        (("json", "--kind", "loss"), "there is a module called 'json' already"),
        (("mmtk-core", "--kind", "loss"), "there is a module called 'mmtk_core' already"),
        (("lncc", "--kind", "similarity"), "mmtk offers a similarity of that name"),
        (("tiny", "--kind", "losses"), "did you mean 'loss'?"),
        (("tiny", "--kind", "loss", "--out", "nowhere"), "--out nowhere: there is no such folder"),
        (("taken", "--kind", "loss"), "taken: exists already"),
        (("lddmm", "--kind", "bundle"), "mmtk offers a bundle of that name"),
        (("mine", "--kind", "bundle", "--from", "ldmm"), "no bundle is called 'ldmm'; did you mean 'lddmm'?"),
        (("tiny", "--kind", "loss", "--from", "lddmm"), "a loss is not begun from a bundle"),
    ],
)
def test_what_cannot_be_written_is_refused_and_nothing_is_left(words, told, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    done = command("plugins", "new", *words)
    assert (done.code, done.out) == (2, "")
    assert told in done.err
    assert [p.name for p in tmp_path.rglob("*")] == ["taken"]


def test_a_plugin_that_is_not_installed_cannot_be_checked(command):
    done = command("plugins", "check", "mmtkk")
    assert done.code == 2
    assert "no plugin is installed from 'mmtkk'; did you mean 'mmtk'?" in done.err
