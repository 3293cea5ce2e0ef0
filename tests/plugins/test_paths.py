"""A part given by import path is followed where a user typed it, and nowhere else."""

import json
import sys
from pathlib import Path

import pytest
import torch

from mmtk.bundle.plan import make_plan
from mmtk.config import ComponentConfig
from mmtk.errors import ConfigError, PluginError
from mmtk.plugins import Catalogue, import_paths, installed
from mmtk.similarity import Similarity

CODE = '''
from typing import Literal
from pydantic import Field
import torch
from mmtk.config import ComponentConfig
from mmtk.similarity import Similarity

class Cubed(Similarity):
    """Cubed distance.

    More about it.
    """

    def __init__(self, *, power: float = 3, widths: tuple[int, ...] = (1, 2), odd: torch.Generator = None):
        super().__init__()
        self.power, self.widths = power, widths

    def cost(self, moved, fixed, weight):
        return (moved - fixed).abs() ** self.power

class Private(Similarity):
    def __init__(self, kind):
        super().__init__()

class CubedConfig(ComponentConfig):
    """Described."""
    target = f"{__name__}:Cubed"
    kind: Literal["cubed"] = "cubed"
    power: float = Field(default=2, ge=1, description="exponent")

number = 3
'''


@pytest.fixture
def module(tmp_path, monkeypatch) -> str:
    """A module in the working directory; its own name each time, since modules are imported once."""
    name = f"notebook_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(CODE)
    (tmp_path / f"{name}_broken.py").write_text("raise RuntimeError('boom')")
    (tmp_path / f"{name}_needy.py").write_text("import no_such_library")
    monkeypatch.chdir(tmp_path)
    return name


def following(*typed: str) -> Catalogue:
    return installed().following(typed)


def test_the_constructor_says_what_the_settings_are(module):
    path = f"{module}:Cubed"
    before = list(sys.path)
    config = following(path).find("similarity", path)
    assert sys.path == before
    assert (config.name(), config.summary, config.target) == (path, "Cubed distance", path)
    described = config.model_validate({"power": "2.5", "widths": "4,5"})
    part = described.build()
    assert isinstance(part, Similarity)
    assert (part.power, part.widths) == (2.5, (4, 5))
    assert config.model_validate(described.model_dump()) == described
    with pytest.raises(ValueError, match="Extra inputs"):
        config(pover=2)
    moved, fixed = torch.full((1, 1, 2, 2), 3.0), torch.ones(1, 1, 2, 2)
    assert part(moved, fixed).item() == pytest.approx(4 * 2**2.5)


def test_a_description_is_followed_as_well(module):
    path = f"{module}:CubedConfig"
    config = following(path).find("similarity", path)
    assert issubclass(config, ComponentConfig)
    assert (config.name(), config().power, config.summary) == (path, 2, "Described")
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        config(power=0)


def test_a_path_that_nobody_typed_is_not_followed(module):
    with pytest.raises(ConfigError, match="no similarity is called"):
        installed().find("similarity", f"{module}:Cubed")
    with pytest.raises(ConfigError, match="no similarity is called"):
        following(f"{module}:Cubed").find("similarity", f"{module}:CubedConfig")
    assert module not in sys.modules


@pytest.mark.parametrize(
    ("ending", "error", "words"),
    [
        (":Cubd", ConfigError, "has no 'Cubd'; did you mean 'Cubed'?"),
        (
            ":number",
            ConfigError,
            "is of type int, but a similarity is a class derived from mmtk.similarity.Similarity",
        ),
        (":Private", ConfigError, "argument 'kind' cannot be a setting; rename it"),
        ("_missing:Cubed", ConfigError, "it must be installed, or lie in "),
        ("_broken:Cubed", PluginError, "fails when it is imported: RuntimeError: boom"),
        ("_needy:Cubed", PluginError, "needs 'no_such_library', which is not installed"),
    ],
)
def test_what_is_wrong_with_a_path_is_said(module, ending, error, words):
    path = module + ending
    with pytest.raises(error) as caught:
        following(path).find("similarity", path)
    assert str(caught.value).startswith(f"{path}")
    assert words in str(caught.value)


def test_a_part_of_another_family_is_refused(module):
    path = f"{module}:Cubed"
    with pytest.raises(
        ConfigError, match=r"is the class Cubed, but a method is a class derived from mmtk.method.Method"
    ):
        following(path).find("method", path)


def test_paths_are_found_in_values_of_any_form():
    assert import_paths(["bending,my.mod:A", {"kind": "b:C"}, ["x:Y"], 3, None, Path("/a/b.nii")]) == {
        "my.mod:A",
        "b:C",
        "x:Y",
    }


def test_a_run_takes_a_path_that_was_typed_and_none_from_a_bundle(module, tmp_path):
    def plan(*words: str):
        return make_plan(words, out=tmp_path / "out", overwrite=False, device="cpu", catalogue=installed())

    path = f"{module}:Cubed"
    made = plan("bundle=metamorph_brats", f"similarity={path}", "similarity.power=4")
    assert made.data()["method"]["similarity"]["power"] == 4
    assert made.monai_command() is None
    assert plan("bundle=metamorph_brats").monai_command() is not None

    folder = tmp_path / "foreign"
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "inference.json").write_text(
        json.dumps(
            {
                "network_def": {
                    "_target_": "mmtk.bundle.workflow.RegistrationNetwork",
                    "method": {"kind": "lddmm", "similarity": f"{module}_broken:Cubed"},
                },
                "sample": "tumor_brain",
            }
        )
    )
    with pytest.raises(ConfigError, match=f"no similarity is called '{module}_broken:Cubed'"):
        plan(f"bundle={folder}")
    assert f"{module}_broken" not in sys.modules
