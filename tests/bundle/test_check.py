"""``mmtk bundles check``: what is asked of a bundle, and that ours pass."""

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from mmtk.bundle.check import check, short_settings
from mmtk.bundle.plan import make_plan
from mmtk.bundle.recipe import read_recipe, segments
from mmtk.bundle.search import Found, find
from mmtk.config import ComponentConfig
from mmtk.errors import MmtkError
from mmtk.plugins import Catalogue, Offer, PluginRecord, installed

# MONAI warns of its own optional parts while it is imported.
pytestmark = pytest.mark.filterwarnings("ignore")

BUNDLES = sorted(installed().bundles)


@pytest.fixture
def bundle(tmp_path) -> Path:
    folder = tmp_path / "mine"
    shutil.copytree(installed().bundle("lddmm"), folder)
    return folder


def change(bundle: Path, name: str, *at: str, value: Any = None) -> None:
    """Set one entry of a configuration, or take it out."""
    path = bundle / "configs" / name
    config = json.loads(path.read_text())
    node = config
    for word in at[:-1]:
        node = node[word]
    node.pop(at[-1], None)
    if value is not None:
        node[at[-1]] = value
    path.write_text(json.dumps(config))


def wrong(bundle: Path) -> dict[str, tuple[str, ...]]:
    return {v.name: v.problems for v in check(Found(bundle, "path"), installed()) if not v.ok}


def skip_without_its_modules(name: str) -> None:
    if segments(find(name, installed(), {}).folder):
        return
    kind = read_recipe(find(name, installed(), {}).folder)[0]["method"]["kind"]
    if missing := installed().find("method", kind).missing():
        pytest.skip(missing)


@pytest.mark.parametrize("name", BUNDLES)
def test_ours_pass(name):
    skip_without_its_modules(name)
    verdicts = list(check(find(name, installed(), {}), installed()))
    assert not [verdict for verdict in verdicts if not verdict.ok]
    # To train is to run code, so what says how to train asks for trust.
    trains = (find(name, installed(), {}).folder / "configs" / "train.json").is_file()
    assert [verdict.name for verdict in verdicts if verdict.skipped] == ["scan"] * trains + ["run"]


@pytest.mark.slow
@pytest.mark.parametrize("name", BUNDLES)
def test_ours_run_both_ways_with_one_result(name):
    skip_without_its_modules(name)
    verdicts = {v.name: v for v in check(find(name, installed(), {}), installed(), run=True)}
    assert verdicts["run"].ok, verdicts["run"].problems
    assert not verdicts["run"].skipped


@pytest.mark.slow
class OneNumber(ComponentConfig):
    """A method of somebody else's, with one number of iterations."""

    target = "nowhere:Nothing"
    kind: Literal["one_number"] = "one_number"
    iterations: int = 80
    levels: int = 3


def test_the_run_is_kept_short_whatever_form_the_settings_of_a_method_have(bundle):
    ours = installed()
    assert short_settings(bundle, ours) == {"levels": [4.0, 2.0], "iterations": [2, 2], "steps": 4}
    change(bundle, "inference.json", "network_def", "method", value={"kind": "one_number"})
    offer = Offer("method", "one_number", OneNumber, "other", "other")
    theirs = Catalogue((*ours.plugins, PluginRecord("other", "other", "1", offers=(offer,))))
    assert short_settings(bundle, theirs) == {"iterations": 2}


def test_a_configuration_that_does_something_else_than_its_recipe_is_found(bundle):
    change(bundle, "inference.json", "network_def", "channels", value=0)
    verdicts = {v.name: v for v in check(Found(bundle, "path"), installed(), run=True)}
    assert "python -m monai.bundle run: ended with exit code" in verdicts["run"].problems[0]


@pytest.mark.parametrize("name", ["LICENSE", "docs/README.md", "configs/metadata.json", "configs/inference.json"])
def test_a_file_that_is_missing_is_named(bundle, name):
    (bundle / name).unlink()
    assert f"{name}: missing" in wrong(bundle)["layout"]


def test_weights_must_be_there(bundle):
    (bundle / "models" / "model.pt").unlink()
    assert wrong(bundle) == {"layout": ("models/: holds no weights; where nothing is learned, an empty state",)}


def test_weights_must_be_those_of_the_network(bundle):
    torch.save({"a": torch.ones(2)}, bundle / "models" / "model.pt")
    assert wrong(bundle) == {"weights": ("models/model.pt: names or shapes are not those of the network",)}
    torch.save([1, 2], bundle / "models" / "model.pt")
    assert "expected names and tensors" in wrong(bundle)["weights"][0]


@pytest.mark.parametrize(
    "key", ["version", "task", "authors", "copyright", "monai_version", "network_data_format"]
)
def test_metadata_must_be_complete(bundle, key):
    change(bundle, "metadata.json", key)
    assert f"configs/metadata.json: {key}: missing or empty" in wrong(bundle)["metadata"]


def test_channels_must_be_as_many_as_are_defined(bundle):
    change(bundle, "metadata.json", "network_data_format", "inputs", "image", "num_channels", value=7)
    assert "3 channels; num_channels says 7" in wrong(bundle)["metadata"][0]


@pytest.mark.parametrize(
    ("floor", "said"),
    [
        ("0.0.9", None),
        ("0.0.10rc1", None),
        ("999.1", "999.1 is required"),
        ("1.x", "is no version"),
        (7, "is no version"),
    ],
)
def test_floors_are_compared_as_versions(bundle, floor, said):
    change(bundle, "metadata.json", "required_packages_version", "scipy", value=floor)
    problems = wrong(bundle).get("versions", ())
    assert (not problems) if said is None else said in problems[0]


def test_the_tenth_version_is_newer_than_the_ninth(bundle, monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda package: "1.10.0+cpu")
    for at in ("monai_version", "pytorch_version", "numpy_version"):
        change(bundle, "metadata.json", at, value="1.9.0")
    change(bundle, "metadata.json", "required_packages_version", value={"mmtk": "1.10.0"})
    assert wrong(bundle) == {}
    change(bundle, "metadata.json", "required_packages_version", value={"mmtk": "1.11"})
    assert "mmtk 1.11 is required, and 1.10.0+cpu is installed" in wrong(bundle)["versions"][0]


def test_a_package_that_is_not_there_is_named(bundle):
    change(bundle, "metadata.json", "required_packages_version", "no-such-package-of-ours", value="1.0")
    assert wrong(bundle)["versions"] == ("no-such-package-of-ours 1.0 is required and not installed",)


@pytest.mark.parametrize("key", ["evaluator", "inferer", "device", "dataset_dir", "bundle_root", "dataset"])
def test_an_id_that_monai_requires_is_named(bundle, key):
    change(bundle, "inference.json", key)
    assert any(f"requires the id {key}" in problem for problem in wrong(bundle)["properties"])


def test_a_recipe_that_mmtk_refuses_is_told_as_for_a_run(bundle):
    change(bundle, "inference.json", "network_def", "method", "steps", value=-1)
    assert any("steps" in problem for problem in wrong(bundle)["recipe"])


WRONG: list[Any] = [
    [],
    {},
    1,
    True,
    [[]],
    {"kind": None},
    {"kind": ["a"]},
    {"kind": "os:system"},
    "x/y",
    -1,
    1e400,
]
PLACES = [
    ("network_def",),
    ("network_def", "method"),
    ("network_def", "method", "kind"),
    ("network_def", "method", "similarity"),
    ("preprocessing", "init"),
    ("sample",),
]


@pytest.mark.parametrize("at", PLACES, ids="::".join)
def test_a_recipe_of_any_form_is_read_or_refused_in_a_sentence(bundle, at, tmp_path):
    refused = 0
    for value in WRONG:
        change(bundle, "inference.json", *at, value=value)
        try:
            plan = make_plan(
                [f"bundle={bundle}"], out=tmp_path / "out", overwrite=False, device="cpu", catalogue=installed()
            )
            plan.ready(0)
        except MmtkError:
            refused += 1
        shutil.copy(installed().bundle("lddmm") / "configs" / "inference.json", bundle / "configs")
    assert refused >= len(WRONG) - 1  # an empty object is the method's defaults
    assert not (tmp_path / "out" / "warped.nii.gz").exists()
