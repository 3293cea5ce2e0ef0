"""Pairs from folders and tables, and `mmtk train` from prompt to weights."""

from __future__ import annotations

import json
import os
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
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(tmp_path: Path, words: list[str], told: str) -> None:
    asked = cli("train", *words, "--out", str(tmp_path / "t"))
    assert asked.exit_code == 2 and told in asked.output, asked.output
    assert not (tmp_path / "t").exists()


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
def test_two_processes_train_one_network(tmp_path: Path) -> None:
    """Twice half a batch with gradients averaged is the whole batch, once."""
    command = [*SMALL, "epochs=1", f"cache={tmp_path / 'cache'}"]
    command.remove("epochs=2")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def started(out: str, *before: str, batch: int) -> Path:
        words = [*before, "-m", "mmtk", "train", *command, f"batch_size={batch}", "--device", "cpu"]
        done = subprocess.run(
            [sys.executable, *words, "--out", str(tmp_path / out)], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return tmp_path / out

    alone = started("one", batch=8)
    both = started(
        "two", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", batch=4
    )  # fmt: skip
    one, two = (torch.load(folder / "model.pt", weights_only=True) for folder in (alone, both))
    assert json.loads((both / "training.json").read_text())["processes"] == 2
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=2e-5, msg=name)
