"""Pairs from folders and tables, and `mmtk train` from prompt to weights."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from mmtk import io
from mmtk.bundle.training_plan import make_training_plan
from mmtk.cli.app import app
from mmtk.errors import ConfigError
from mmtk.learned import Weights
from mmtk.plugins import installed
from mmtk.samples import make
from mmtk.training.files import FilePairs, training_grid
from mmtk.training.listing import PairFiles, list_pairs

SHAPES = '{"size": 48, "sigma": 3, "steps": 8, "amplitude": 100}'
SMALL = ["method=metamorph_r", "hidden=4", "steps=4", f"options={SHAPES}", "count=8", "held_out=4", "epochs=2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pairs, as `mmtk sample` leaves them."""
    return make("c_shapes", tmp_path_factory.mktemp("pairs") / "c", {**json.loads(SHAPES), "count": 3})


def cli(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


def test_a_folder_of_pairs_is_listed_in_order(folder: Path) -> None:
    pairs = list_pairs(folder)
    assert [p.moving.parent.name for p in pairs] == ["000", "001", "002"]
    assert all(p.mask is not None and p.mask.is_file() for p in pairs)


def test_a_table_names_files_beside_itself(folder: Path) -> None:
    table = folder / "pairs.csv"
    table.write_text("moving,mask\n000/moving.nii.gz,000/mask.nii.gz\n001/moving.nii.gz,\n")
    template = folder / "000" / "fixed.nii.gz"
    pairs = list_pairs(table, template)
    assert [p.fixed for p in pairs] == [template] * 2
    assert pairs[0].mask == folder / "000" / "mask.nii.gz" and pairs[1].mask is None
    with pytest.raises(ConfigError, match="row 1 has no fixed image; give one, or template=FILE"):
        list_pairs(table)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a,b\n1,2\n", "the columns are a, b; they must be moving"),
        ("moving,fixed\nno.nii,no.nii\n", "row 1: no such file"),
        ("moving,fixed\n", "holds no pair"),
    ],
)
def test_a_table_that_is_wrong_is_refused(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "pairs.csv").write_text(text)
    with pytest.raises(ConfigError, match=told):
        list_pairs(tmp_path / "pairs.csv")


def test_the_training_grid_lies_where_the_image_lies(tmp_path: Path) -> None:
    affine = np.array([[0, -1.5, 0, 40.0], [2.0, 0, 0, -30], [0, 0, 1, 5], [0, 0, 0, 1]])
    data = np.zeros((50, 60), dtype=np.float32)
    data[20:31, 25:36] = 1  # its middle is voxel (25, 30)
    io.write_image(tmp_path / "fixed.nii.gz", data, io.Volume(data, affine, name="fixed"), "float32")
    frame = training_grid(tmp_path / "fixed.nii.gz", 2)
    assert all(n % 8 == 0 for n in frame.grid.shape) and frame.grid.spacing == pytest.approx((4.0, 3.0))
    # 11 voxels of content and 8 mm on either side are within the frame, in the world.
    corners = [
        frame.affine @ [i, j, 0, 1] for i in (0, frame.grid.shape[0] - 1) for j in (0, frame.grid.shape[1] - 1)
    ]
    low, high = np.min(corners, axis=0), np.max(corners, axis=0)
    for content in (affine @ [16, 19, 0, 1], affine @ [34, 41, 0, 1]):
        assert (content[:2] >= low[:2] - 3).all() and (content[:2] <= high[:2] + 3).all()
    middle = frame.affine @ [*[(n - 1) / 2 for n in frame.grid.shape], 0, 1]
    assert np.allclose(middle[:2], (affine @ [25, 30, 0, 1])[:2])


def test_a_pair_is_prepared_once_and_lies_on_the_frame(folder: Path, tmp_path: Path) -> None:
    files = list_pairs(folder)
    frame = training_grid(files[0].fixed, 1)
    pairs = FilePairs(files, frame, init="none", normalize="none", cache=tmp_path)
    first, again = pairs[1], pairs[1]
    assert len(list(tmp_path.iterdir())) == 1
    assert all(bool((first[name] == again[name]).all()) for name in first)
    assert first["moving"].shape == first["mask"].shape == (1, *frame.grid.shape)
    # On the frame's voxels the image is what it was: the frame only cuts the border off.
    to_file = np.linalg.inv(io.read_image(files[1].moving, name="moving").affine) @ frame.affine
    start = np.round(to_file[:2, 3]).astype(int)
    data = io.read_image(files[1].moving, name="moving").data
    window = np.pad(data, 64)[start[0] + 64 :, start[1] + 64 :][: frame.grid.shape[0], : frame.grid.shape[1]]
    inner = tuple(slice(4, -4) for _ in range(2))
    assert np.allclose(first["moving"][0].numpy()[inner], window[inner], atol=1e-5)


def test_a_pair_without_a_mask_batches_with_one_that_has_it(folder: Path) -> None:
    files = list_pairs(folder)
    frame = training_grid(files[0].fixed, 1)
    bare = PairFiles(files[0].moving, files[0].fixed)
    pairs = FilePairs([bare, files[1]], frame, init="none")
    batch = torch.utils.data.default_collate([pairs[0], pairs[1]])
    assert float(batch["mask"][0].max()) == 0 < float(batch["mask"][1].max())


def test_label_maps_of_files_lie_where_their_images_lie(tmp_path: Path) -> None:
    """A pair that is its own fixed image but for a shift by the header alone: placed, labels agree to the voxel."""
    data = np.zeros((40, 44), dtype=np.float32)
    data[12:28, 14:30] = 1
    labels = (data > 0).astype(np.uint8) * 3
    labels[12:20, 14:30] = 7
    for name, shift in (("moving", 6.0), ("fixed", 0.0)):
        affine = np.diag([2.0, 2.0, 1.0, 1.0])
        affine[0, 3] = shift
        like = io.Volume(data, affine, name=name)
        io.write_image(tmp_path / f"{name}.nii.gz", data, like, "float32")
        io.write_image(tmp_path / f"labels_{name}.nii.gz", labels, like, "uint8")
    (tmp_path / "pairs.csv").write_text(
        "moving,fixed,labels,fixed_labels\n"
        "moving.nii.gz,fixed.nii.gz,labels_moving.nii.gz,labels_fixed.nii.gz\n"
        "moving.nii.gz,fixed.nii.gz,,\n"
    )
    files = list_pairs(tmp_path / "pairs.csv")
    frame = training_grid(files[0].fixed, 1)
    scored = FilePairs(files, frame, init="center", labels=True, cache=tmp_path / "cache")
    plain = FilePairs(files, frame, init="center", cache=tmp_path / "cache")
    one, other = scored[0], scored[1]
    assert bool((one["labels"] == one["fixed_labels"]).all())
    assert sorted(one["labels"].unique().tolist()) == [0, 3, 7]
    assert bool(((one["fixed_labels"] > 0) == (one["fixed"] > 0.5)).all())
    assert not other["labels"].any(), "a batch holds pairs with and without labels"
    assert "labels" not in plain[0] and len(list((tmp_path / "cache").iterdir())) == 3
    assert "labels" not in FilePairs(files[1:], frame, init="center", labels=True)[0]


def test_a_pair_has_both_label_maps_or_none(folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "pairs.csv"
    image = folder / "000" / "moving.nii.gz"
    table.write_text(f"moving,fixed,labels\n{image},{image},{image}\n")
    with pytest.raises(ConfigError, match="row 1: one label map scores nothing; give both images' or neither's"):
        list_pairs(table)
    shutil.copytree(folder / "000", tmp_path / "set" / "a")
    for name in ("labels_moving", "labels_fixed"):
        shutil.copy(image, tmp_path / "set" / "a" / f"{name}.nii.gz")
    (found,) = list_pairs(tmp_path / "set")
    assert found.labels is not None and found.labels.name == "labels_moving.nii.gz"
    assert found.fixed_labels is not None and found.fixed_labels.name == "labels_fixed.nii.gz"


def test_from_the_prompt_to_weights_that_run(folder: Path, tmp_path: Path) -> None:
    trained = cli("train", *SMALL, "--out", str(tmp_path / "t"))
    assert trained.exit_code == 0, trained.output
    assert "2 epochs, 16 pairs" in trained.output
    weights = Weights.load(tmp_path / "t" / "model.safetensors")
    assert weights.template is not None and weights.facts["pairs"] == 16 and weights.settings["steps"] == 4
    one = folder / "000"
    words = [f"{name}={one / name}.nii.gz" for name in ("moving", "fixed", "mask")]
    for engine in ("network", "refine"):
        run = cli(
            "run", "method=metamorph_r", f"weights={tmp_path / 't' / 'model.safetensors'}", f"engine={engine}",
            "refine_steps=3", "init=none", "normalize=none", *words, "--out", str(tmp_path / engine),
        )  # fmt: skip
        assert run.exit_code == 0, run.output
        assert (tmp_path / engine / "report.html").is_file()
    kept = cli("train", *SMALL, "--out", str(tmp_path / "t"))
    assert kept.exit_code == 2 and "the folder is not empty" in kept.output
    other = cli("train", *SMALL, "sigma=4", "--out", str(tmp_path / "t"), "--resume")
    assert other.exit_code == 2 and "holds a training run with another method" in other.output
    more = cli("train", *SMALL[:-1], "epochs=3", "--out", str(tmp_path / "t"), "--resume")
    assert more.exit_code == 0 and "3 epochs, 24 pairs" in more.output


def test_training_on_files_needs_no_sample(folder: Path, tmp_path: Path) -> None:
    trained = cli(
        "train", "method=voxelmorph", "widths=4,4", f"data={folder}", "held_out=1", "epochs=1", "batch_size=2",
        "init=none", "--out", str(tmp_path / "t"),
    )  # fmt: skip
    assert trained.exit_code == 0, trained.output
    facts = Weights.load(tmp_path / "t" / "model.safetensors").facts
    assert facts["config"]["data"] == "c" and str(tmp_path) not in json.dumps(facts)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["method=lddmm"], "has nothing to learn"),
        (["method=metamorph_r", "data=nowhere"], "neither a sample"),
        (["method=metamorph_r", 'options={"sizes": 4}'], "did you mean 'size'"),
        (["method=metamorph_r", "epoch=3"], "did you mean 'epochs'"),
        (["method=metamorph_r", "epochs=0"], "must be >= 1"),
        (["bundle=metamorph_rr"], "no bundle is called"),
        (["data=c_shapes"], "nothing says how to register"),
        (["method=metamorph_r", "decay=linear"], "must be one of none, cosine"),
        (
            ["method=voxelmorph", "masked=true", "use_mask=false"],
            "leaves out what the mask covers; give one of them",
        ),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(tmp_path: Path, words: list[str], told: str) -> None:
    asked = cli("train", *words, "--out", str(tmp_path / "t"))
    assert asked.exit_code == 2 and told in asked.output, asked.output
    assert not (tmp_path / "t").exists()


def test_tensorboard_that_is_not_installed_is_asked_for_in_vain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    asked = cli("train", "method=metamorph_r", "tensorboard=true", "--out", str(tmp_path / "t"))
    assert asked.exit_code == 2 and asked.output.count("\n") == 1
    assert "the package tensorboard is not installed; install it with `pip install 'mmtk[train]'`" in asked.output
    assert not (tmp_path / "t").exists()


def test_weights_that_were_trained_without_masks_take_none(folder: Path, tmp_path: Path) -> None:
    words = [
        "method=metamorph_g",
        "widths=4,4",
        "steps=4",
        f"options={SHAPES}",
        "count=4",
        "held_out=2",
        "epochs=1",
    ]
    trained = cli("train", *words, "use_mask=false", "--out", str(tmp_path / "t"))
    assert trained.exit_code == 0, trained.output
    weights = Weights.load(tmp_path / "t" / "model.safetensors")
    assert not weights.takes_mask and weights.facts["config"]["use_mask"] is False
    one = folder / "000"
    images = [f"{name}={one / name}.nii.gz" for name in ("moving", "fixed")]
    common = ["run", "method=metamorph_g", f"weights={tmp_path / 't' / 'model.safetensors'}", "init=none", *images]
    refused = cli(*common, f"mask={one / 'mask.nii.gz'}", "--out", str(tmp_path / "masked"))
    assert refused.exit_code == 2 and "were trained without masks (use_mask=false)" in refused.output
    assert not (tmp_path / "masked").exists()
    assert cli(*common, "--out", str(tmp_path / "bare")).exit_code == 0


def test_an_epoch_is_told_in_a_line_and_scored_by_the_truth(tmp_path: Path) -> None:
    words = ["method=voxelmorph", "widths=4,4", "data=brains", "held_out=2", "count=2", "batch_size=2", "epochs=2"]
    words += ['options={"dim": 2, "spacing": 4}', "decay=cosine", f"cache={tmp_path / 'cache'}"]
    trained = cli("train", *words, "--out", str(tmp_path / "t"))
    assert trained.exit_code == 0, trained.output
    lines = [json.loads(line) for line in (tmp_path / "t" / "log.jsonl").read_text().splitlines()]
    assert {"outside", "folds", "endpoint", "dice"} <= lines[0].keys()
    assert 0.2 < lines[0]["dice"] < 1 and lines[0]["folds"] == 0 < lines[0]["endpoint"]
    told = [line for line in trained.output.splitlines() if line.startswith("epoch ")]
    assert len(told) == 2 and told[0].startswith(f"epoch 1/2: energy {lines[0]['energy']:.5g}, validation ")
    assert f"dice {lines[1]['dice']:.4g}" in told[1]


def test_too_few_pairs_are_refused(folder: Path, tmp_path: Path) -> None:
    asked = cli("train", "method=voxelmorph", f"data={folder}", "held_out=3", "--out", str(tmp_path / "t"))
    assert asked.exit_code == 2 and "none would be left to train on" in asked.output


def test_a_plan_loads_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from mmtk.bundle.training_plan import make_training_plan\nfrom mmtk.plugins import installed\n"
        f"make_training_plan(['method=metamorph_r'], out=Path({str(tmp_path / 't')!r}), resume=False, device='cpu', "
        "catalogue=installed())\n"
        "print([m for m in ('torch', 'monai', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_plan_is_what_was_asked_for(tmp_path: Path) -> None:
    words = ["method=metamorph_g", "mu=0.1", "rate=0.01", "count=7", "similarity=lncc"]
    plan = make_training_plan(words, out=tmp_path / "t", resume=False, device="cpu", catalogue=installed())
    assert (plan.rate, plan.count, plan.method.mu, plan.method.similarity.kind) == (0.01, 7, 0.1, "lncc")  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [1, 2])
def test_two_processes_train_one_network(tmp_path: Path, nodes: int) -> None:
    """Twice half a batch with gradients averaged is the whole batch, once; so on one machine, and on two."""
    command = [*SMALL, "epochs=1", f"cache={tmp_path / 'cache'}"]
    command.remove("epochs=2")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def started(out: str, *before: str, batch: int) -> subprocess.Popen[str]:
        words = [*before, "-m", "mmtk", "train", *command, f"batch_size={batch}", "--device", "cpu"]
        return subprocess.Popen(
            [sys.executable, *words, "--out", str(tmp_path / out)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ended(*processes: subprocess.Popen[str]) -> None:
        for process in processes:
            _, told = process.communicate(timeout=500)
            assert process.returncode == 0, told

    ended(started("one", batch=8))
    torchrun = ("-m", "torch.distributed.run")
    if nodes == 1:
        ended(started("two", *torchrun, "--standalone", "--nproc_per_node=2", batch=4))
    else:  # as on two machines: each starts its own, and they meet at an address
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            meeting = f"--rdzv-endpoint=127.0.0.1:{free.getsockname()[1]}"
        words = (*torchrun, "--nnodes=2", "--nproc_per_node=1", "--rdzv-backend=c10d", "--rdzv-id=1", meeting)
        ended(*[started("two", *words, batch=4) for _ in range(nodes)])
    one, two = (torch.load(tmp_path / name / "model.pt", weights_only=True) for name in ("one", "two"))
    assert json.loads((tmp_path / "two" / "training.json").read_text())["processes"] == 2
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=2e-5, msg=name)
