"""The command line: what it loads, what it prints, and how it refuses."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pytest

import mmtk
from mmtk.cli import main
from mmtk.plugins import installed, load
from mmtk.plugins.catalogue import GROUP

HEAVY = "{'torch', 'monai', 'scipy', 'matplotlib', 'nibabel', 'numpy'}"


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


Command = Callable[..., Done]


@pytest.fixture
def command(capsys, monkeypatch) -> Command:
    """Call the command as its console script does."""

    def call(*words: str, cwd: Path | None = None) -> Done:
        if cwd is not None:
            monkeypatch.chdir(cwd)
        with pytest.raises(SystemExit) as done:
            main(words)
        return Done(int(done.value.code or 0), *capsys.readouterr())

    return call


@pytest.fixture
def refusal(command) -> Callable[..., list[str]]:
    """Call the command and return the lines of its refusal: exit code 2, no traceback and no other output."""

    def call(*words: str, cwd: Path | None = None) -> list[str]:
        done = command(*words, cwd=cwd)
        assert (done.code, done.out) == (2, "")
        lines = done.err.splitlines()
        assert all(line.startswith("error: ") for line in lines), done.err
        return [line.removeprefix("error: ") for line in lines]

    return call


@pytest.fixture
def brain(tmp_path: Path) -> Path:
    voxels = np.random.default_rng(0).random((12, 12, 12), dtype=np.float32)
    path = tmp_path / "brain.nii.gz"
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), path)
    return path


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["run", "--help"], 0),
        (["plugins"], 0),
        (["plugins", "--json"], 0),
        (["show", "metamorph_brats"], 0),
        (["show", "lncc"], 0),
        (["run", "bundle=metamorph_brats", "--dry-run"], 0),
        (["run", "bundle=metamorph_brats", "mew=3", "moving=nowhere.nii.gz"], 2),
        (["run", "--mu", "3"], 2),
        (["sample", "tumor_brian"], 2),
        (["compare", "methods=lddmm", "cases=samples", "--dry-run"], 0),
        (["compare", "methods=lddmm", "cases=tumor_brain", "--dry-run"], 0),
        (["benchmarks", "--json"], 0),
        (["compare", "methods=lddm", "cases=sampels"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_what_only_lists_or_checks_loads_nothing_heavy(words, code, tmp_path):
    program = (
        "import sys\n"
        "from mmtk.cli import main\n"
        "try:\n"
        f"    main({words})\n"
        "except SystemExit as done:\n"
        f"    assert done.code == {code}, done.code\n"
        f"loaded = {HEAVY} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr


def test_importing_mmtk_loads_nothing_heavy_and_offers_its_names():
    code = f"import sys, mmtk; assert not {HEAVY} & set(sys.modules); assert 'register' in dir(mmtk)"
    subprocess.run([sys.executable, "-c", code], check=True)
    for name in mmtk.__all__:
        assert getattr(mmtk, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'registre'"):
        _ = mmtk.registre


def test_the_waiting_policy_is_set_before_torch_is_loaded_and_a_users_own_is_kept():
    program = (
        "import os, sys\n"
        "from mmtk.cli import main\n"
        "try:\n    main(['--version'])\nexcept SystemExit:\n    pass\n"
        "assert 'torch' not in sys.modules\n"
        "print(os.environ['OMP_WAIT_POLICY'], os.environ['GOMP_SPINCOUNT'])"
    )
    clean = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    for mine, expected in (({}, "passive 0"), ({"OMP_WAIT_POLICY": "active"}, "active 0")):
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, env={**clean, **mine}, check=True
        )
        assert done.stdout.splitlines()[-1] == expected


def test_the_version(command):
    assert command("--version").out == f"mmtk {mmtk.__version__}\n"


def test_plugins_are_listed_as_text_and_as_json(command, refusal):
    text = command("plugins").out
    assert "metamorph_brats" in text
    assert "local_ssd" in text
    listed = json.loads(command("plugins", "--json", "--kind", "method").out)
    assert {"lddmm", "metamorphosis"} <= {part["name"] for part in listed["parts"]}
    assert {plugin["status"] for plugin in listed["plugins"]} == {"ok"}
    assert refusal("plugins", "--kind", "methods") == [
        "--kind methods: must be one of method, integrator, similarity, regularizer, segmenter, loss, metric, "
        "bundle; did you mean 'method'?"
    ]


def test_a_plugin_that_is_left_out_is_listed_as_such(command, monkeypatch):
    left = load(importlib.metadata.entry_points(group=GROUP), {"MMTK_DISABLE_PLUGINS": "mmtk_core"})
    monkeypatch.setattr("mmtk.plugins.installed", lambda: left)
    assert f"disabled  mmtk_core (mmtk {mmtk.__version__})" in command("plugins").out


def test_show_lists_settings(command, refusal):
    lines = command("show", "lncc").out.splitlines()
    assert lines[0].startswith("similarity lncc: ")
    assert lines[1] == "  radius  2      integer >= 1  voxels       half width of the window on a level"
    assert re.search(r"^  lesion +unknown", command("show", "metamorph_brats").out, re.M)
    assert refusal("show", "lnc") == [
        "nothing is called 'lnc'; did you mean 'lncc'? `mmtk plugins` lists all names"
    ]


@pytest.mark.parametrize(
    ("words", "problems"),
    [
        (
            (),
            ["nothing says how to register: give bundle=NAME or method=NAME", "moving: missing; give moving=FILE"],
        ),
        (("--mu", "3"), ["--mu 3: no such option; use mu=3 (run settings are key=value)"]),
        (("--overwrit",), ["--overwrit: no such option; did you mean '--overwrite'?"]),
        (
            ("bundle=metamorph_brat",),
            [
                "bundle=metamorph_brat: no bundle is called 'metamorph_brat'; did you mean 'metamorph_brats'? "
                f"Installed: {', '.join(sorted(installed().bundles))}"
            ],
        ),
        (("bundle=lddmm", "mu=3"), ["mu=3: unknown key; `mmtk show lddmm` lists the keys"]),
        (
            ("bundle=lddmm", "bundle=metamorphosis"),
            ["bundle=lddmm and bundle=metamorphosis: both choose the bundle; give one of them"],
        ),
        (
            ("bundle=lddmm", "mask=m.nii"),
            ["moving: missing; give moving=FILE", "fixed: missing; give fixed=FILE", "mask=m.nii: no such file"],
        ),
        (("bundle=lddmm", "--device", "gpu"), ["--device gpu: must be auto, cpu, cuda, cuda:N or mps"]),
    ],
)
def test_run_refuses(words, problems, tmp_path, refusal):
    assert refusal("run", *words, cwd=tmp_path)[: len(problems)] == problems
    assert list(tmp_path.iterdir()) == []


def test_a_setting_typed_as_an_option_without_a_command_is_answered(refusal):
    assert refusal("--mu", "3") == ["--mu 3: no such option; use mu=3 (run settings are key=value)"]
    assert refusal("--versoin") == ["--versoin: no such option; did you mean '--version'?"]


def test_a_folder_that_is_not_empty_is_refused_and_left_alone(tmp_path, brain, refusal):
    words = ("run", "bundle=lddmm", f"moving={brain}", f"fixed={brain}", "--out", str(tmp_path), "mu=3")
    assert refusal(*words) == [
        f"--out {tmp_path}: the folder is not empty; give another one, or --overwrite",
        "mu=3: unknown key; `mmtk show lddmm` lists the keys",
    ]
    assert refusal("run", "bundle=lddmm", f"moving={brain}", f"fixed={brain}", "--out", str(brain)) == [
        f"--out {brain}: is a file; give a folder"
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["brain.nii.gz"]


def test_headers_are_checked_before_torch_is_loaded(tmp_path, brain, refusal):
    movie, picture, text = tmp_path / "movie.nii.gz", tmp_path / "picture.nii.gz", tmp_path / "text.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4, 3), np.float32), np.eye(4)), movie)
    nibabel.save(nibabel.Nifti1Image(np.zeros((8, 8), np.float32), np.eye(4)), picture)
    text.write_text("not an image")
    found = refusal("run", "bundle=lddmm", f"moving={movie}", f"fixed={text}")
    assert found[0].startswith(f"moving: '{movie}' has 4 axes")
    assert found[1].startswith(f"fixed: '{text}' cannot be read as an image")
    assert refusal("run", "bundle=lddmm", f"moving={brain}", f"fixed={picture}") == [
        "moving is 3-D but fixed is 2-D; give two images of the same dimension"
    ]


def test_a_dry_run_prints_the_description_and_the_same_run_under_monai(tmp_path, brain, command):
    words = ("run", "bundle=metamorphosis", f"moving={brain}", f"fixed={brain}", "lambda=1e-3", "similarity=lncc")
    shown = json.loads(command(*words, "--dry-run", "--json", "--out", "o", cwd=tmp_path).out)
    assert list(shown["config"])[:2] == ["moving", "fixed"]
    assert shown["config"]["method"]["lam"] == 1e-3
    assert shown["monai"].startswith("python -m monai.bundle run --config_file ")
    assert shown["monai"].endswith(
        f"inference.json --moving {brain} --fixed {brain} --output_dir o --network_def::method::lambda 0.001 "
        """--network_def::method::similarity '{"kind": "lncc", "radius": 2, "stride": 1, "eps": 0.001}'"""
    )
    text = command(*words, "--dry-run", cwd=tmp_path).out
    assert text.startswith(f"moving: {brain}\n")
    assert "# python -m monai.bundle run" in text
    assert not (tmp_path / "o").exists()


def test_a_dry_run_without_images_names_the_sample(command):
    shown = command("run", "bundle=metamorph_brats", "--dry-run").out
    assert shown.startswith("sample: tumor_brain\n")


def test_a_bundle_may_be_a_folder_and_what_it_says_is_only_read(tmp_path, brain, command, refusal):
    configs = tmp_path / "mine" / "configs"
    configs.mkdir(parents=True)
    network = {"_target_": "mmtk.bundle.workflow.RegistrationNetwork", "method": {"kind": "lddmm", "steps": 7}}
    (configs / "inference.json").write_text(json.dumps({"network_def": network}))
    words = ("run", f"bundle={tmp_path / 'mine'}", f"moving={brain}", f"fixed={brain}", "--dry-run", "--json")
    assert json.loads(command(*words).out)["config"]["method"]["steps"] == 7
    (configs / "inference.json").write_text(json.dumps({"network_def": network, "x": "$__import__('os').abort()"}))
    (problem, *_) = refusal(*words)
    assert "is not trusted: configs/inference.json: x: the expression" in problem
    network["_target_"] = "os.system"
    (configs / "inference.json").write_text(json.dumps({"network_def": network}))
    (problem, *_) = refusal(*words)
    assert "is not trusted: configs/inference.json: network_def::_target_: _target_ 'os.system'" in problem
    network["_target_"] = "SimpleInferer"
    (configs / "inference.json").write_text(json.dumps({"network_def": network}))
    (problem, *_) = refusal(*words)
    assert "network_def::_target_" in problem


def test_sample_refuses_all_at_once(tmp_path, refusal):
    found = refusal(
        "sample", "tumor_brain", "kind=dark", "sede=3", "seed=1", "seed=2", "--out", str(tmp_path / "s")
    )
    assert found == ["seed=1 and seed=2: both set seed; give one of them"]
    assert not (tmp_path / "s").exists()
