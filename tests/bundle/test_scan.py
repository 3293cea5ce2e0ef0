"""The scan lets through what is data, and finds what MONAI would run, wherever it stands."""

import json
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from mmtk.bundle.scan import IDIOMS, scan
from mmtk.plugins import installed

# MONAI warns of its own optional parts while it is imported.
pytestmark = pytest.mark.filterwarnings("ignore")

BUNDLES = sorted(installed().bundles)
TRAINING = ("configs/train.json", "configs/multi_gpu_train.json")
QUIET = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

DTYPES = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
)


@pytest.fixture
def bundle(tmp_path) -> Path:
    folder = tmp_path / "mine"
    shutil.copytree(installed().bundle("lddmm"), folder)
    return folder


def found(bundle: Path) -> list[str]:
    return [str(finding) for finding in scan(bundle, installed())]


@pytest.mark.parametrize("name", BUNDLES)
def test_nothing_is_found_in_ours_but_how_to_train(name):
    found = scan(installed().bundle(name))
    assert [finding for finding in found if not finding.place.startswith(TRAINING)] == []
    assert bool(found) == (installed().bundle(name) / "configs" / "train.json").is_file()


def nested(value: Any, way: list[str | int]) -> Any:
    """``value`` at the end of a way of keys and of lists."""
    for step in reversed(way):
        value = {step: value} if isinstance(step, str) else [None] * step + [value]
    return value


WAYS = st.lists(st.one_of(st.text("abc_", min_size=1, max_size=4), st.integers(0, 3)), max_size=6)


@QUIET
@given(text=st.text(" $%@abc.()'\n", max_size=12), way=WAYS)
def test_what_monai_calls_an_expression_or_a_macro_is_found_wherever_it_stands(bundle, text, way):
    from monai.bundle import ConfigExpression
    from monai.bundle.utils import MACRO_KEY

    (bundle / "configs" / "a.json").write_text(json.dumps({"x": nested(text, way)}))
    runs = ConfigExpression.is_expression(text) or text.startswith(MACRO_KEY)
    known = any(idiom.fullmatch(text[1:]) for idiom in IDIOMS)
    places = [place for place in found(bundle) if "expression" in place or "macro" in place]
    assert bool(places) >= (runs and not known)
    if places:
        assert places[0].startswith("configs/a.json: x")


@QUIET
@given(target=st.sampled_from(["os.system", "Lambda", "", "dataset", "monai.data.dataset.DataSet"]), way=WAYS)
def test_a_target_that_is_not_on_the_list_is_found_wherever_it_stands(bundle, target, way):
    (bundle / "configs" / "a.json").write_text(json.dumps({"x": nested({"_target_": target}, way)}))
    (place,) = found(bundle)
    assert f"_target_ {target!r}" in place


def test_a_part_of_an_installed_plugin_may_be_named(bundle):
    (bundle / "configs" / "a.json").write_text('{"x": {"_target_": "mmtk.similarity.SquaredDifference"}}')
    assert found(bundle) == []
    assert len(scan(bundle)) == 1


@pytest.mark.parametrize("idiom", ["$import os", "$@evaluator.run()", "$@bundle_root + '/models/model.pt'"])
def test_an_idiom_is_let_through_and_nothing_near_it(bundle, idiom):
    path = bundle / "configs" / "a.json"
    path.write_text(json.dumps({"x": idiom}))
    assert found(bundle) == []
    for other in (f"{idiom} ", f"{idiom};x", f"{idiom}\n", idiom.replace("$", "$ "), f"${idiom}", f"{idiom}.x"):
        path.write_text(json.dumps({"x": other}))
        assert len(found(bundle)) == 1, other


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_weights_as_torch_saves_them_are_data(bundle, dtype):
    state = {"a.weight": torch.ones(2, 3).to(dtype), "b": torch.nn.Parameter(torch.ones(1))}
    torch.save(state, bundle / "models" / "model.pt")
    save_file({"a": torch.ones(2, 3).to(dtype)}, bundle / "models" / "model.safetensors")
    assert found(bundle) == []


def test_a_whole_module_is_no_data(bundle):
    torch.save(torch.nn.Linear(1, 1), bundle / "models" / "model.pt")
    (place,) = found(bundle)
    assert "torch.nn.modules.linear.Linear" in place


def test_what_the_scan_lets_through_torch_loads_as_tensors_alone(bundle):
    """The scan is no weaker than torch's own gate, on pickles that call what it does not know."""
    for name in (b"os system", b"builtins eval", b"torch load", b"torch._utils _rebuild_device_tensor"):
        data = b"\x80\x02c" + name.replace(b" ", b"\n") + b"\n(X\x01\x00\x00\x00xtR."
        with zipfile.ZipFile(bundle / "models" / "model.pt", "w") as file:
            file.writestr("model/data.pkl", data)
            file.writestr("model/version", b"3\n")
        assert len(found(bundle)) == 1
        with pytest.raises(pickle.UnpicklingError):
            torch.load(bundle / "models" / "model.pt", weights_only=True)
