"""A bundle that finds lesions: written, checked, run by mmtk and by MONAI, trained again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mmtk.bundle.check import check
from mmtk.bundle.search import Found
from mmtk.bundle.segmentation import write_bundle
from mmtk.bundle.training_plan import make_training_plan
from mmtk.errors import ConfigError
from mmtk.plugins import installed
from mmtk.segmenters.weights import SegmenterWeights
from mmtk_kd.networks import UNet
from mmtk_kd.plugin import DistillationConfig
from mmtk_kd.workflow import Lesson

# MONAI warns of its own optional parts while it is imported.
pytestmark = pytest.mark.filterwarnings("ignore")

TRAINING = {
    "kind": "distillation",
    "strategy": "baseline",
    "modalities": ["t1"],
    "widths": [2, 4],
    "options": {"spacing": 6.0},
    "patch": [16, 16, 16],
    "count": 2,
    "held_out": 1,
}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    settings = {"modalities": 1, "widths": [2, 4]}
    weights = SegmenterWeights(
        network="mmtk_kd.networks:UNet",
        settings=settings,
        modalities=("t1",),
        outputs=("0", "1", "2", "4"),
        activation="softmax",
        spacing=(8.0, 8.0, 8.0),
        patch=(16, 16, 16),
        state={name: t.half() for name, t in UNet(**settings).state_dict().items()},
    )
    folder = tmp_path / "own"
    write_bundle(
        folder, weights, task="t", description="d", data_source="s", intended_use="u", card="c", license_text="l"
    )
    return folder


def problems(bundle: Path) -> dict[str, tuple[str, ...]]:
    return {v.name: v.problems for v in check(Found(bundle, "path"), installed()) if not v.ok}


def test_a_bundle_as_it_is_written_passes(bundle: Path) -> None:
    assert problems(bundle) == {}


def test_weights_that_do_not_fit_are_found(bundle: Path) -> None:
    state = torch.load(bundle / "models" / "model.pt", weights_only=True)
    state.pop(next(iter(state)))
    torch.save(state, bundle / "models" / "model.pt")
    assert problems(bundle)["weights"] == ("models/model.pt: names or shapes are not those of the network",)
    weights = SegmenterWeights.load(bundle / "models" / "model.safetensors")
    SegmenterWeights(**{**vars(weights), "settings": {"modalities": 2, "widths": [2, 4]}}).save(
        bundle / "models" / "model.safetensors"
    )
    assert "1 tensors do not fit" in problems(bundle)["weights"][0]


def test_a_setting_that_the_segmenter_does_not_have_is_found(bundle: Path) -> None:
    path = bundle / "configs" / "inference.json"
    config = json.loads(path.read_text())
    config["network_def"]["segmenter"]["flipz"] = True
    path.write_text(json.dumps(config))
    assert "flipz" in problems(bundle)["recipe"][0]


@pytest.mark.slow
def test_mmtk_and_monai_find_one_mask(bundle: Path) -> None:
    verdicts = {v.name: v for v in check(Found(bundle, "path"), installed(), run=True)}
    assert verdicts["run"].ok and not verdicts["run"].skipped, verdicts["run"].problems


def test_a_bundle_says_how_it_was_trained(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (bundle / "configs" / "train.json").write_text(json.dumps({"training": TRAINING}))
    monkeypatch.setattr("mmtk.bundle.training_plan.admit", lambda found, catalogue: None)  # as if it were trusted

    def asked(*more: str) -> object:
        settings = [f"bundle={bundle}", *more]
        return make_training_plan(settings, out=bundle / "new", resume=False, device="cpu", catalogue=installed())

    told = asked("epochs=3", "modalities=t1ce")
    assert isinstance(told, DistillationConfig)
    assert (told.epochs, told.modalities, told.widths) == (3, ("t1ce",), (2, 4))
    with pytest.raises(ConfigError, match="needs a teacher"):
        asked("strategy=kd")


def test_monai_s_engines_get_what_mmtk_s_own_gets() -> None:
    lesson = Lesson(TRAINING, seed=3, count=1)
    assert len(lesson.patches) == 1 and len(lesson.held_out_patches) == 1
    item = {name: value[None] for name, value in lesson.held_out_patches[0].items()}
    batch, _ = lesson.prepare(item)
    lesson.network.train()
    lesson.loss(lesson.network(batch), batch).backward()
    assert all(p.grad is not None for p in lesson.network.parameters() if p.requires_grad)
    with pytest.raises(ConfigError, match="training::kind is 'other'"):
        Lesson({"kind": "other"})
