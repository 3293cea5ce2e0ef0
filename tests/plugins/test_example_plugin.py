"""The package in examples/plugins: its parts are sound, and a fresh environment of two wheels finds and runs them."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmtk.plugins import Catalogue, load
from mmtk.plugins.checking import check_plugins

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "examples" / "plugins" / "mmtk-example-parts"
PARTS = {
    ("similarity", "mind_ssc"),
    ("integrator", "rk4"),
    ("regularizer", "incompressible"),
    ("method", "convexadam"),
}
MODULE = "mmtk_example_parts"


class EntryPoint:
    """As an installed package would have it."""

    name = MODULE
    dist = SimpleNamespace(name="mmtk-example-parts", version="0.1.0")

    def load(self):
        return importlib.import_module(f"{MODULE}.plugin")


@pytest.fixture
def catalogue(monkeypatch) -> Catalogue:
    """What is installed, and the package as it lies in the source tree."""
    monkeypatch.syspath_prepend(PACKAGE / "src")
    ours = importlib.metadata.entry_points(group="mmtk.plugins")
    yield load([*ours, EntryPoint()], {})
    for name in [name for name in sys.modules if name.partition(".")[0] == MODULE]:
        del sys.modules[name]


def test_the_package_loads_and_its_parts_are_described_and_built(catalogue):
    plugin = next(plugin for plugin in catalogue.plugins if plugin.name == MODULE)
    assert (plugin.status, plugin.error) == ("ok", "")
    assert {(offer.family, offer.name) for offer in plugin.offers} == PARTS
    assert [folder.name for folder in plugin.bundles] == ["convexadam"]
    told = {check.about: check.problem for check in check_plugins([plugin], catalogue)}
    assert not [f"{about}: {problem}" for about, problem in told.items() if problem]
    assert {f"{family} {name} is built" for family, name in PARTS} <= set(told)


def test_its_readme_and_its_entry_point_say_what_there_is():
    readme = (PACKAGE / "README.md").read_text()
    assert all(f"| {family} | `{name}` |" in readme for family, name in PARTS)
    assert f'{MODULE} = "{MODULE}.plugin"' in (PACKAGE / "pyproject.toml").read_text()
    files = {path.name for path in (PACKAGE / "src" / MODULE).glob("*.py")} - {"__init__.py"}
    assert all(f"{name}`" in readme for name in files)


# --- a fresh environment


@dataclass(frozen=True)
class Environment:
    """A virtual environment that holds two wheels, and sees the packages that these need."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / ("Scripts" if os.name == "nt" else "bin") / "python"

    def run(self, *words: str, cwd: Path) -> subprocess.CompletedProcess:
        environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environ |= {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0", "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(
            [str(self.python), *words], cwd=cwd, env=environ, capture_output=True, text=True, check=False
        )

    def mmtk(self, *words: str, cwd: Path) -> str:
        done = self.run("-m", "mmtk", *words, cwd=cwd)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def fresh(tmp_path_factory) -> Environment:
    """Both wheels are built from the source tree and installed; no network, and nothing editable is seen."""
    folder = tmp_path_factory.mktemp("stranger")
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    for source in (ROOT, PACKAGE):
        subprocess.run([*build, "--wheel-dir", str(folder / "wheels"), str(source)], check=True)
    place = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    environment = Environment(place)
    site = Path(
        environment.run("-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).stdout.strip()
    )
    # A path that is added by a .pth file is searched; the .pth files in it, such as an editable install's, are not read.
    (site / "outer.pth").write_text(sysconfig.get_path("purelib") + "\n")
    wheels = [str(wheel) for wheel in (folder / "wheels").glob("*.whl")]
    assert len(wheels) == 2
    install = [sys.executable, "-m", "pip", "--python", str(environment.python), "install", "-q", "--no-deps"]
    subprocess.run([*install, "--no-index", "--disable-pip-version-check", *wheels], check=True)
    return environment


@pytest.fixture(scope="module")
def images(fresh: Environment, tmp_path_factory) -> list[str]:
    """A small pair with a lesion, as arguments."""
    folder = tmp_path_factory.mktemp("pair")
    fresh.mmtk("sample", "c_shapes", "--out", str(folder / "pair"), cwd=folder)
    return [f"{name}={folder / 'pair' / name}.nii.gz" for name in ("moving", "fixed", "mask")]


@pytest.mark.slow
def test_a_fresh_environment_of_two_wheels_holds_the_installed_packages(fresh, tmp_path):
    line = f"import mmtk, mmtk_core.plugin, {MODULE}; print(mmtk.__file__, mmtk_core.__file__, {MODULE}.__file__)"
    done = fresh.run("-c", line, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert all(Path(file).is_relative_to(fresh.folder) for file in done.stdout.split()), done.stdout


@pytest.mark.slow
def test_its_parts_are_listed_shown_and_checked(fresh, tmp_path):
    listed = json.loads(fresh.mmtk("plugins", "--json", cwd=tmp_path))
    assert {plugin["status"] for plugin in listed["plugins"]} == {"ok"}
    theirs = {(p["kind"], p["name"]) for p in listed["parts"] if p["distribution"] == "mmtk-example-parts"}
    assert theirs == PARTS | {("bundle", "convexadam")}
    for _, name in PARTS:
        assert "from  mmtk-example-parts 0.1.0" in fresh.mmtk("show", name, cwd=tmp_path)
    assert "mind_ssc" in fresh.mmtk("show", "convexadam", cwd=tmp_path)
    assert "convexadam" in fresh.mmtk("bundles", "list", cwd=tmp_path)
    assert "wrong" not in fresh.mmtk("bundles", "check", "convexadam", cwd=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "family", "name"),
    [
        ("bundle=convexadam", "method", "convexadam"),
        ("method=convexadam iterations=20", "method", "convexadam"),
        ("bundle=metamorph_brats similarity=mind_ssc", "similarity", "mind_ssc"),
        ("bundle=metamorph_brats regularizers=incompressible", "regularizers", "incompressible"),
        ("bundle=metamorphosis integrator=rk4 levels=8,4 iterations=6,4", "integrator", "rk4"),
    ],
)
def test_mmtk_run_uses_them(settings, family, name, fresh, images, tmp_path):
    words = ["run", *settings.split(), *images, "--out", "out", "--json"]
    metrics = json.loads(fresh.mmtk(*words, cwd=tmp_path))["metrics"]
    assert (
        metrics["similarity"]["squared_error_outside"]
        < 0.5 * metrics["similarity"]["squared_error_outside_before"]
    )
    assert metrics["deformation"]["folds"] == 0
    used = json.loads((tmp_path / "out" / "run.json").read_text())["settings"]
    used = used["method"] if family == "method" else used["method"][family]
    assert name in [part["kind"] for part in (used if isinstance(used, list) else [used])]


@pytest.mark.slow
def test_its_own_tests_are_green(fresh, tmp_path):
    shutil.copytree(PACKAGE / "tests", tmp_path / "tests")
    shutil.copy(PACKAGE / "pyproject.toml", tmp_path)
    done = fresh.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-4000:]
