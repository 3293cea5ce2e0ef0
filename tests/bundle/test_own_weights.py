"""Weights that a bundle names by a path of its own, wherever a run is started."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from mmtk.bundle.check import _run
from mmtk.bundle.plan import Plan, make_plan
from mmtk.config import LearnedConfig
from mmtk.errors import ConfigError
from mmtk.fields import Grid
from mmtk.learned import LearnedMethod, Weights
from mmtk.plugins import installed
from mmtk_voxelmorph.plugin import VoxelMorphConfig

NAME = "models/own.safetensors"


def weights(path: Path, number: int) -> Path:
    """Weights of a small network, which tell themselves by a number."""
    method = VoxelMorphConfig(engine="optimize", widths=(4, 4)).build()
    grid = Grid((16, 16), (1.0, 1.0))
    torch.manual_seed(0)
    network = method.make(grid, dict(method.settings)).state_dict()
    Weights("voxelmorph", method.settings, grid, np.eye(4), network, facts={"number": number}).save(path)
    return path


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle whose recipe names its weights from its own folder; the working directory is another one."""
    folder = tmp_path / "shelf" / "mine"
    shutil.copytree(installed().bundle("lddmm"), folder)
    path = folder / "configs" / "inference.json"
    config = json.loads(path.read_text())
    config["network_def"]["method"] = {"kind": "voxelmorph", "weights": NAME}
    config["sample"] = "c_shapes"
    path.write_text(json.dumps(config))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return folder


def plan(bundle: Path, *words: str) -> Plan:
    out = bundle.parent / "out"
    return make_plan([f"bundle={bundle}", *words], out=out, overwrite=False, device="cpu", catalogue=installed())


def number(found: Plan) -> int:
    method: LearnedMethod = found.recipe.method.build()
    assert method.weights is not None
    return int(method.weights.facts["number"])


def test_a_bundle_s_own_file_is_taken_wherever_the_run_is_started(bundle: Path) -> None:
    weights(bundle / NAME, 1)
    weights(Path(NAME), 2)  # of the same path from the working directory
    found = plan(bundle)
    assert number(found) == 1
    assert isinstance(found.recipe.method, LearnedConfig)
    assert found.recipe.method.weights == str((bundle / NAME).resolve())


def test_a_path_that_the_bundle_does_not_have_is_the_working_directory_s(bundle: Path) -> None:
    weights(Path(NAME), 2)
    assert number(plan(bundle)) == 2
    Path(NAME).unlink()
    with pytest.raises(ConfigError, match="no such file, nor a bundle"):
        number(plan(bundle))


def test_what_is_typed_is_meant_from_the_working_directory(bundle: Path) -> None:
    weights(bundle / NAME, 1)
    weights(Path(NAME), 2)
    assert number(plan(bundle, f"weights={NAME}")) == 2


def test_the_same_run_without_mmtk_s_command_names_the_same_file(bundle: Path) -> None:
    weights(bundle / NAME, 1)
    command = plan(bundle).monai_command()
    assert command is not None
    words = shlex.split(command)
    assert words[words.index("--network_def::method::weights") + 1] == str((bundle / NAME).resolve())
    assert "weights" not in str(plan(installed().bundle("lddmm")).monai_command())


@pytest.mark.slow
def test_the_check_runs_both_ways_with_the_bundle_s_own_file(bundle: Path) -> None:
    weights(bundle / NAME, 1)
    assert list(_run(bundle, installed())) == []
