"""Heads from files, students as tasks of the engine, and their weights."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from mmtk.bundle.training_plan import make_training_plan
from mmtk.errors import ConfigError, InputError
from mmtk.plugins import installed
from mmtk.segmenters.weights import SegmenterWeights
from mmtk_kd.data import Augment, BratsHeads, Heads, Patches, classes, list_brats, zscored
from mmtk_kd.plugin import DistillationConfig
from mmtk_kd.scoring import judge, paired, score
from mmtk_kd.training import heads_of, load_network, make_objective, make_task, run

SIDE = 16
BEFORE = ("t1", "t1ce", "t2", "flair", "seg")
SINCE = {"t1": "t1n", "t1ce": "t1c", "t2": "t2w", "flair": "t2f", "seg": "seg"}


def write_head(folder: Path, seed: int, *, new: bool = False, flip: bool = False) -> None:
    """A ball within a ball within a head, brighter on T1ce and FLAIR."""
    rng = np.random.default_rng(seed)
    grid = np.indices((SIDE,) * 3) - (SIDE - 1) / 2
    center = rng.uniform(-2, 2, 3)[:, None, None, None]
    r = np.sqrt(((grid - center) ** 2).sum(0))
    head = np.sqrt((grid**2).sum(0)) < 7.6
    labels = np.where(r < 1.5, 1, np.where(r < 3, 3 if new else 4, np.where(r < 4.5, 2, 0))) * head
    affine = np.diag([-1.0 if flip else 1.0, 1, 1, 1])
    folder.mkdir(parents=True)
    for name in BEFORE:
        image = labels.astype(np.float32)
        if name != "seg":
            bright = {"t1": 0.0, "t1ce": 1.0, "t2": 0.6, "flair": 0.8}[name]
            image = head * (1 + bright * (labels > 0) + 0.05 * rng.standard_normal(labels.shape))
        end = f"-{SINCE[name]}" if new else f"_{name}"
        stored = image[::-1] if flip else image
        nib.save(nib.Nifti1Image(stored.astype(np.float32), affine), folder / f"{folder.name}{end}.nii.gz")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("brats")
    for k in range(6):
        write_head(folder / f"case_{k}", k)
    return folder


SMALL = {"patch": (16, 16, 16), "widths": (2, 4, 4), "held_out": 2, "epochs": 2, "batch_size": 2, "rate": 1e-2}


@pytest.fixture(scope="module")
def teacher(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("teacher")
    run(
        DistillationConfig(data=str(data), modalities=("t1", "t1ce", "t2", "flair"), strategy="baseline", **SMALL),
        out,
    )
    return out / "model.safetensors"


def config(data: Path, teacher: Path, **settings: object) -> DistillationConfig:
    return DistillationConfig(**{"data": str(data), "teacher": str(teacher), **SMALL, **settings})


def test_heads_are_read_as_brats_lays_them_out(tmp_path: Path) -> None:
    write_head(tmp_path / "a" / "old", 1)
    write_head(tmp_path / "b" / "new", 1, new=True)
    write_head(tmp_path / "c" / "flipped", 1, flip=True)
    old, new, flipped = (BratsHeads(list_brats(tmp_path / name))[0] for name in "abc")
    assert old["image"].shape == (4, SIDE, SIDE, SIDE) and old["labels"].unique().tolist() == [0, 1, 2, 3]
    assert torch.equal(old["labels"], new["labels"]) and torch.equal(old["image"], new["image"])
    assert torch.equal(old["labels"], flipped["labels"]) and torch.equal(old["image"], flipped["image"])
    inside = old["image"][0] != 0
    assert float(old["image"][0][inside].mean()) == pytest.approx(0, abs=1e-2)
    assert float(old["image"][0][inside].std()) == pytest.approx(1, abs=1e-2)
    coarse = BratsHeads(list_brats(tmp_path / "a"), reduce=2)
    assert coarse[0]["labels"].shape == (1, 8, 8, 8) and coarse.spacing == (2.0, 2.0, 2.0)


def test_what_lacks_is_told(tmp_path: Path, data: Path) -> None:
    write_head(tmp_path / "one", 0)
    (tmp_path / "one" / "one_t2.nii.gz").unlink()
    with pytest.raises(ConfigError, match="one has no t2; each head needs all five files"):
        list_brats(tmp_path)
    with pytest.raises(ConfigError, match="holds no head"):
        list_brats(data / "case_0")
    with pytest.raises(InputError, match=r"has the labels 0, 3, 4; BraTS's are 1, 2, 4 or 1, 2, 3"):
        classes(np.array([0, 3, 4]))
    assert classes(np.array([0, 1, 2, 4, 0])).tolist() == classes(np.array([0, 1, 2, 3, 0])).tolist()
    with pytest.raises(ConfigError, match="held_out=6: of 6 heads none would be left"):
        run(DistillationConfig(data=str(data), strategy="baseline", **{**SMALL, "held_out": 6}), tmp_path / "out")


def test_an_empty_image_stays_empty() -> None:
    assert not zscored(np.zeros((2, 2))).any()


class Ramp(Heads):
    spacing = (1.0, 1.0, 1.0)

    def __len__(self) -> int:
        return 1

    def arrays(self, index: int) -> dict[str, np.ndarray]:
        image = np.zeros((4, 6, 5, 4))
        image[:, 1:5] = np.arange(1.0, 5)[None, :, None, None]
        labels = np.zeros((6, 5, 4), int)
        labels[4, 0, 0] = 3
        return {"images": image, "labels": labels, "affine": np.eye(4)}


def test_patches_hold_the_tumor_when_that_is_asked_for_and_are_padded() -> None:
    torch.manual_seed(0)
    still = Augment(flip=0.0, shift=0.0, gamma=(1.0, 1.0))
    drawn = [Patches(Ramp(), (2, 2, 2), still, on_tumor=1.0)[0] for _ in range(10)]
    assert all(int(item["labels"].max()) == 3 for item in drawn)
    plain = Patches(Ramp(), (8, 5, 4))[0]
    assert plain["image"].shape == (4, 8, 5, 4)
    torch.testing.assert_close(plain["image"][0, :, 0, 0], torch.tensor([0.0, 0, 1, 2, 3, 4, 0, 0]))


def test_augmentation_keeps_air_and_labels_with_their_voxels() -> None:
    item = Ramp()[0]
    torch.manual_seed(3)
    for _ in range(5):
        image, labels = Augment()(item["image"], item["labels"])
        assert torch.equal((image != 0).sum(), (item["image"] != 0).sum())
        where = torch.nonzero(labels[0])[0]
        rank = image[0, 1:5, 0, 0].argsort().tolist()
        assert rank in ([0, 1, 2, 3], [3, 2, 1, 0])  # gamma and shift keep the order
        assert float(image[0][tuple(where)]) == float(image[0].max())
    still = Augment(flip=1.0, shift=0.0, gamma=(1.0, 1.0))(item["image"], item["labels"])
    assert torch.equal(still[0], item["image"].flip(1, 2, 3))


@pytest.mark.parametrize("strategy", ["kl_kd", "att", "ct_kd", "info_nce", "adversarial", "multi_scale_l1"])
def test_every_strategy_trains_and_leaves_a_segmenter(
    data: Path, teacher: Path, tmp_path: Path, strategy: str
) -> None:
    record = run(config(data, teacher, strategy=strategy), tmp_path)
    weights = SegmenterWeights.load(tmp_path / "model.safetensors")
    assert weights.modalities == ("t1ce",) and weights.outputs == ("0", "1", "2", "4")
    assert weights.activation == "softmax" and weights.spacing == (1.0, 1.0, 1.0)
    assert weights.facts["config"]["teacher"] == "model.safetensors"  # no folder of this machine
    assert record["epochs"] == 2 and not any("critic" in name or "head" in name for name in weights.state)


def test_a_run_that_was_stopped_ends_with_the_same_bits(data: Path, teacher: Path, tmp_path: Path) -> None:
    asked = config(data, teacher, strategy="ct_kd", epochs=4, decay="plateau", plateau_epochs=1)
    run(asked, tmp_path / "whole")
    run(asked.model_copy(update={"epochs": 2}), tmp_path / "parts")
    run(asked, tmp_path / "parts", resume=True)
    whole, parts = (torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("whole", "parts"))
    assert any("head" in name for name in whole["network"])  # the projection head goes on, too
    for name, tensor in whole["network"].items():
        assert torch.equal(tensor, parts["network"][name]), name
    log = [json.loads(line) for line in (tmp_path / "parts" / "log.jsonl").read_text().splitlines()]
    assert len(log) == 4 and {"dice_et", "dice_tc", "dice_wt"} <= log[-1].keys()


def test_a_run_of_an_earlier_version_goes_on_with_the_defaults(data: Path, teacher: Path, tmp_path: Path) -> None:
    asked = config(data, teacher, strategy="kd", epochs=1, decay="none")
    run(asked, tmp_path)
    last = torch.load(tmp_path / "last.pt", weights_only=True)
    last["asked"] = json.dumps({k: v for k, v in json.loads(last["asked"]).items() if k != "warm"})
    torch.save(last, tmp_path / "last.pt")
    assert run(asked.model_copy(update={"epochs": 2}), tmp_path, resume=True)["epochs"] == 2
    with pytest.raises(ConfigError, match="another warm"):
        run(asked.model_copy(update={"warm": True}), tmp_path, resume=True)


def test_a_shared_decoder_is_the_teacher_s_and_stays_so(data: Path, teacher: Path, tmp_path: Path) -> None:
    run(config(data, teacher, strategy="kl", shared_decoder=True), tmp_path)
    ours, theirs = (SegmenterWeights.load(path).state for path in (tmp_path / "model.safetensors", teacher))
    shared = [name for name in ours if name.startswith("decoder.")]
    assert shared and all(torch.equal(ours[name], theirs[name]) for name in shared)
    assert not torch.equal(
        ours["encoder.levels.1.conv1.conv.weight"], theirs["encoder.levels.1.conv1.conv.weight"]
    )
    with pytest.raises(ConfigError, match="other widths"):
        run(config(data, teacher, strategy="kl", shared_decoder=True, widths=(3, 4, 4)), tmp_path / "other")
    with pytest.raises(ConfigError, match="has no decoder that unet_without_skips could share"):
        run(config(data, teacher, shared_decoder=True, network="unet_without_skips"), tmp_path / "other")


def test_a_warm_student_begins_as_its_teacher_sees_its_modality(data: Path, teacher: Path) -> None:
    asked = config(data, teacher, strategy="kd", warm=True, modalities=("flair",))
    student = make_task(asked, heads_of(asked, 0)[0], 0)[0].network.network
    network = load_network(teacher)[0]
    image = torch.zeros(1, 4, 16, 16, 16)
    image[:, 3] = torch.rand(16, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(student(image[:, 3:]), network(image))
    with pytest.raises(ConfigError, match="leave warm out"):
        make_task(asked.model_copy(update={"widths": (3, 4, 4)}), heads_of(asked, 0)[0], 0)


@pytest.mark.parametrize("network", ["u_hved", "hemis"])
def test_models_of_any_modalities_are_tested_on_the_student_s(data: Path, tmp_path: Path, network: str) -> None:
    run(DistillationConfig(data=str(data), strategy="baseline", network=network, **SMALL), tmp_path)
    model, weights = load_network(tmp_path / "model.safetensors")
    scores = judge(model, weights, BratsHeads(list_brats(data)[:1]), [1], False)
    assert len(scores) == 1 and 0 <= scores[0]["dice_wt"] <= 1


def test_a_student_learns_what_can_be_seen(data: Path, teacher: Path, tmp_path: Path) -> None:
    run(config(data, teacher, strategy="baseline", epochs=40, widths=(4, 8), decay="cosine", rate=2e-2), tmp_path)
    model, weights = load_network(tmp_path / "model.safetensors")
    scores = judge(model, weights, BratsHeads(list_brats(data)[4:]), [1], False)
    assert all(s["dice_wt"] > 0.8 for s in scores), scores


def test_the_weights_of_equation_3_8() -> None:
    told = DistillationConfig(strategy="kl_kd", teacher="x", **{"lambda": 0.25}, alpha=3.0)
    terms = make_objective(told).terms
    assert [(type(t.loss).__name__, t.weight, t.layers) for t in terms] == [
        ("GroundTruth", 0.75, ("output",)),
        ("SoftTargets", 0.25, ("output",)),
        ("BottleneckDivergence", 3.0, ("bottleneck",)),
    ]


def asked(*settings: str) -> object:
    return make_training_plan(settings, out=Path("new"), resume=False, device="cpu", catalogue=installed())


def test_what_is_wrong_is_told_before_any_work(data: Path) -> None:
    told = asked("task=distillation", f"data={data}", "teacher=t.safetensors", "lambda=0.3", "widths=4,8")
    assert isinstance(told, DistillationConfig) and told.lam == 0.3 and told.widths == (4, 8)
    wrong = {
        ("task=distilation",): "did you mean 'distillation'",
        ("task=distillation",): "needs a teacher; give teacher=kdnet_teacher",
        ("task=distillation", "strategy=baseline", "epoch=3"): "epoch=3: unknown key; did you mean 'epochs'",
        ("task=distillation", "strategy=baseline", "rate=0", "patch=3,4,5"): "rate=0: must be > 0",
        ("task=distillation", "strategy=baseline", "patch=30,32,32"): "give multiples of 8",
        ("task=distillation", "strategy=baseline", "data=nowhere"): "data=nowhere: no such folder",
        ("task=distillation", "strategy=baseline", 'options={"spacings": 3}'): "did you mean 'spacing'",
        ("task=distillation", "strategy=kd", "teacher=x", "network=hemis"): "learns from the reference alone",
    }
    for settings, message in wrong.items():
        with pytest.raises(ConfigError, match=message):
            asked(*settings)


def test_a_dry_run_loads_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['mmtk', 'train', 'task=distillation', 'strategy=baseline', '--dry-run']\n"
        "from mmtk.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "strategy: baseline" in done.stdout


def test_scores_by_hand() -> None:
    truth, found = np.zeros((2, 12, 3, 3), np.uint8)
    truth[2:6, 1, 1], found[3:7, 1, 1] = 2, 2
    truth[2, 1, 1] = 4
    told = score(found, truth, (2.0, 1.0, 1.0))
    assert told["dice_wt"] == pytest.approx(2 * 3 / 8)
    assert told["hausdorff_wt"] == 2.0
    assert told["dice_et"] == 0 and told["hausdorff_et"] == pytest.approx(np.hypot(24, np.hypot(3, 3)))
    assert score(found, found, (1.0, 1.0, 1.0))["hausdorff_et"] == 0  # neither has it


def test_the_paired_test_sees_what_is_steady() -> None:
    base = list(np.random.default_rng(0).uniform(0.3, 0.9, 30))
    gain, p = paired([b + 0.02 + 0.001 * (k % 3) for k, b in enumerate(base)], base)
    assert gain == pytest.approx(0.021) and p < 1e-10
    assert paired(base, base) == (0.0, 1.0)
