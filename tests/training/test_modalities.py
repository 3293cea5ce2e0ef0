"""Training on pairs of several modalities: synthetic ones, folders, tables, and what comes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from mmtk import io
from mmtk.cli.app import app
from mmtk.errors import ConfigError
from mmtk.learned import Weights
from mmtk.samples import make, tumor_brain
from mmtk.training.data import SyntheticPairs
from mmtk.training.files import FilePairs, training_grid
from mmtk.training.listing import list_pairs

HEADS: dict[str, Any] = {"dim": 2, "spacing": 4, "modalities": ["t2"]}
SMALL = ["widths=2,2", "count=3", "held_out=1", "epochs=1", "batch_size=1", "init=none"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three patients with T1 and T2, as `mmtk sample` leaves them."""
    home = tmp_path_factory.mktemp("pairs")
    for seed in range(3):
        make("tumor_brain", home / f"p{seed}", {**HEADS, "seed": seed})
    return home


def cli(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


def test_a_synthetic_pair_has_a_channel_a_modality(tmp_path: Path) -> None:
    pairs = SyntheticPairs("tumor_brain", HEADS, count=2, seed=5, cache=tmp_path)
    item = pairs[1]
    assert item["moving"].shape[0] == item["fixed"].shape[0] == 2 and item["mask"].shape[0] == 1
    assert all(bool((pairs[1][name] == item[name]).all()) for name in item), "the same from the cache"
    alone = SyntheticPairs("tumor_brain", {**HEADS, "modalities": []}, count=2, seed=5)[1]
    torch.testing.assert_close(item["moving"][:1], alone["moving"])
    assert float((item["moving"][1] - item["moving"][0]).abs().mean()) > 0.02, "T2 looks otherwise"


def test_reduced_channels_are_means_of_each() -> None:
    fine = SyntheticPairs("tumor_brain", {**HEADS, "spacing": 2}, count=1)[0]
    coarse = SyntheticPairs("tumor_brain", {**HEADS, "spacing": 2}, count=1, reduce=2)[0]
    for channel in range(2):
        expected = torch.nn.functional.avg_pool2d(fine["moving"][channel][None], 2)[0]
        torch.testing.assert_close(coarse["moving"][channel], expected)


def test_folders_and_tables_name_modalities_side_by_side(folder: Path) -> None:
    first = list_pairs(folder)[0]
    assert [p.name for p in (*first.more_moving, *first.more_fixed)] == ["moving_t2.nii.gz", "fixed_t2.nii.gz"]
    table = folder / "pairs.csv"
    table.write_text(
        'moving,fixed\n"p0/moving.nii.gz,p0/moving_t2.nii.gz","p0/fixed.nii.gz, p0/fixed_t2.nii.gz"\n'
    )
    row = list_pairs(table)[0]
    assert (row.more_moving, row.more_fixed) == (first.more_moving, first.more_fixed)
    table.write_text('moving,fixed\n"p0/moving.nii.gz,p0/moving_t2.nii.gz",p0/fixed.nii.gz\n')
    with pytest.raises(ConfigError, match="row 1 has 2 moving and 1 fixed modalities"):
        list_pairs(table)
    table.write_text(
        'moving,fixed\n"p0/moving.nii.gz,p0/moving_t2.nii.gz","p0/fixed.nii.gz,p0/fixed_t2.nii.gz"\n'
        "p1/moving.nii.gz,p1/fixed.nii.gz\n"
    )
    with pytest.raises(ConfigError, match="row 2 has 1 moving and 1 fixed modalities, but those before 2 each"):
        list_pairs(table)


def test_a_pair_of_files_has_a_channel_a_modality(folder: Path, tmp_path: Path) -> None:
    files = [pair for pair in list_pairs(folder) if pair.moving.parent.name == "p1"]
    frame = training_grid(files[0].fixed, 1)
    item = FilePairs(files, frame, init="none", normalize="none", cache=tmp_path)[0]
    to_file = np.linalg.inv(io.read_image(files[0].fixed, name="fixed").affine) @ frame.affine
    start = np.round(to_file[:2, 3]).astype(int)
    for channel, path in enumerate((files[0].fixed, *files[0].more_fixed)):
        data = np.pad(io.read_image(path, name="fixed").data, 16)
        window = data[tuple(slice(s + 16, s + 16 + n) for s, n in zip(start, frame.grid.shape, strict=True))]
        np.testing.assert_allclose(item["fixed"][channel].numpy(), window, atol=1e-4 * float(window.max()))


@pytest.mark.parametrize("method", ["voxelmorph", "metamorph_g"])
def test_trained_weights_register_as_many_modalities(folder: Path, tmp_path: Path, method: str) -> None:
    words = [f"method={method}", "data=tumor_brain", f"options={json.dumps(HEADS)}", *SMALL]
    trained = cli("train", *words, "--device", "cpu", "--out", str(tmp_path / "t"))
    assert trained.exit_code == 0, trained.output
    weights = Weights.load(tmp_path / "t" / "model.safetensors")
    assert weights.settings["channels"] == 2
    sides = [f"{side}={folder}/p0/{side}.nii.gz,{folder}/p0/{side}_t2.nii.gz" for side in ("moving", "fixed")]
    run = ["run", f"method={method}", f"weights={tmp_path}/t/model.safetensors", "init=none"]
    done = cli(*run, *sides, "--device", "cpu", "--out", str(tmp_path / "run"))
    assert done.exit_code in (0, 1) and (tmp_path / "run" / "warped_t2.nii.gz").is_file(), done.output
    alone = cli(
        *run, f"moving={folder}/p0/moving.nii.gz", f"fixed={folder}/p0/fixed.nii.gz", "--out", str(tmp_path / "x")
    )
    assert alone.exit_code == 2 and "moving: 1 channels" in alone.output and not (tmp_path / "x").exists()


def test_a_template_of_two_modalities_is_two_files(tmp_path: Path) -> None:
    words = ["method=metamorph_r", "hidden=4", "steps=4", "data=tumor_brain", f"options={json.dumps(HEADS)}"]
    small = [word for word in SMALL if not word.startswith("widths")]
    trained = cli("train", *words, *small, "--device", "cpu", "--out", str(tmp_path / "t"))
    assert trained.exit_code == 0, trained.output
    healthy = tumor_brain(**HEADS, seed=0)
    for name, fixed in (("template", healthy.fixed), ("template_channel2", healthy.channels["t2"][1])):
        data = io.read_image(tmp_path / "t" / f"{name}.nii.gz", name="fixed").data
        np.testing.assert_allclose(data, np.clip(fixed, 0, 1), atol=0.5 / 255 + 1e-6)


def test_another_number_of_channels_is_refused(tmp_path: Path) -> None:
    words = ["method=voxelmorph", "channels=3", "data=tumor_brain", f"options={json.dumps(HEADS)}", *SMALL]
    refused = cli("train", *words, "--out", str(tmp_path / "t"))
    assert refused.exit_code == 2 and "channels=3: the pairs have 2; leave it out" in refused.output
    assert not (tmp_path / "t").exists()
