"""Descriptions: what they accept as text, what they refuse, and that they survive a round trip."""

from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field, ValidationError

from mmtk.config import ComponentConfig, Part, Recipe, RegularizerPart, RunConfig, SimilarityPart
from mmtk.errors import ConfigError


class Squares(ComponentConfig):
    """Squared differences.

    More words.
    """

    target = "collections:OrderedDict"
    kind: Literal["squares"] = "squares"


class Windows(ComponentConfig):
    """Windows."""

    target = "builtins:dict"
    kind: Literal["windows"] = "windows"
    radius: int = Field(default=2, ge=1)


class Smooth(ComponentConfig):
    """Smooth."""

    target = "builtins:dict"
    kind: Literal["smooth"] = "smooth"
    weight: float = 1.0


class Flow(ComponentConfig):
    """Flow."""

    target = "builtins:dict"
    kind: Literal["flow"] = "flow"
    lam: float = Field(default=1.0, gt=0, alias="lambda")
    levels: tuple[float, ...] = (4, 2)
    dim: Literal[2, 3] = 3
    stride: float | None = 6.0
    store: bool = True
    similarity: SimilarityPart = Field(default_factory=Squares)
    regularizers: tuple[RegularizerPart, ...] = ()


class Parts:
    """A catalogue of four parts."""

    known = {
        ("similarity", "squares"): Squares,
        ("similarity", "windows"): Windows,
        ("regularizer", "smooth"): Smooth,
        ("method", "flow"): Flow,
    }

    def find(self, family: str, name: str) -> type[ComponentConfig]:
        try:
            return self.known[family, name]
        except KeyError:
            raise ConfigError(f"no {family} is called '{name}'") from None


CONTEXT = {"catalogue": Parts()}


def flow(**settings: object) -> Flow:
    return Flow.model_validate({"kind": "flow", **settings}, context=CONTEXT)


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("levels", "8,4, 2", (8.0, 4.0, 2.0)),
        ("levels", "[8, 4]", (8.0, 4.0)),
        ("levels", "8", (8.0,)),
        ("lambda", "1e-3", 1e-3),
        ("lam", "1e-3", 1e-3),
        ("dim", "2", 2),
        ("stride", "none", None),
        ("stride", "3", 3.0),
        ("store", "off", False),
        ("similarity", "windows", Windows()),
        ("similarity", '{"kind": "windows", "radius": 3}', Windows(radius=3)),
        ("regularizers", "smooth", (Smooth(),)),
        ("regularizers", '[{"kind": "smooth", "weight": 2}]', (Smooth(weight=2),)),
        ("regularizers", "[]", ()),
    ],
)
def test_text_is_read_where_the_type_is_known(field, text, value):
    described = flow(**{field: text})
    assert getattr(described, "lam" if field == "lambda" else field) == value


@pytest.mark.parametrize("text", ["4,x", "none", "{", '{"a": 1}'])
def test_text_that_is_no_list_of_numbers_is_refused(text):
    with pytest.raises(ValidationError):
        flow(levels=text)


def test_a_description_prints_as_data_and_is_read_back_equal():
    described = flow(similarity="windows", regularizers="smooth", levels="8,4")
    assert Flow.model_validate(described.model_dump(mode="json"), context=CONTEXT) == described


def test_a_description_is_frozen_and_refuses_what_it_does_not_know():
    described = Windows()
    with pytest.raises(ValidationError, match="frozen"):
        described.radius = 3
    with pytest.raises(ValidationError, match="Extra inputs"):
        Windows(width=3)
    with pytest.raises(ValidationError, match="finite"):
        flow(lam="nan")


def test_the_first_line_of_the_docstring_is_the_summary():
    assert Squares.summary == "Squared differences"
    assert Squares.name() == "squares"


def test_build_calls_the_target_with_settings_and_context():
    assert Windows(radius=3).build(grid="g") == {"radius": 3, "grid": "g"}


def test_a_name_without_a_catalogue_is_refused_with_advice():
    with pytest.raises(ValidationError, match="pass a description, or context="):
        Flow(similarity="windows")
    assert Flow(similarity=Windows()).similarity == Windows()


def test_a_part_says_its_family():
    assert Part("similarity").family == "similarity"


def test_errors_within_a_part_name_their_place():
    with pytest.raises(ValidationError) as caught:
        flow(similarity={"kind": "windows", "radius": 0}, regularizers=[{"kind": "smooth", "weight": "x"}])
    assert [e["loc"] for e in caught.value.errors()] == [("similarity", "radius"), ("regularizers", 0, "weight")]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "brain.nii.gz"
    path.write_bytes(b"image")
    return path


def run(**settings: object) -> RunConfig:
    return RunConfig.model_validate({"method": {"kind": "flow"}, **settings}, context=CONTEXT)


def test_paths_are_expanded(image, monkeypatch):
    monkeypatch.setenv("HOME", str(image.parent))
    monkeypatch.setenv("CASE", "brain")
    described = run(moving="~/brain.nii.gz", fixed="~/${CASE}.nii.gz")
    assert described.moving == image == described.fixed


def test_a_missing_file_is_answered_with_the_nearest(image):
    with pytest.raises(ValidationError, match=r"no such file; did you mean 'brain.nii.gz'\?"):
        run(moving=image, fixed=image.parent / "brian.nii.gz")
    with pytest.raises(ValidationError, match="there is no folder"):
        run(moving=image, fixed="/nowhere/at/all.nii.gz")
    with pytest.raises(ValidationError, match="is a folder"):
        run(moving=image, fixed=image.parent)


def test_the_start_is_a_word_or_a_file(image):
    assert Recipe.model_validate({"method": "flow", "init": "none"}, context=CONTEXT).init == "none"
    assert Recipe.model_validate({"method": "flow", "init": str(image)}, context=CONTEXT).init == image
    with pytest.raises(ValidationError, match=r"did you mean 'rigid'\?"):
        Recipe.model_validate({"method": "flow", "init": "ridgid"}, context=CONTEXT)
