"""A bundle around weights: complete by the check, nothing but data, and the same under both commands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from mmtk.bundle.check import check
from mmtk.bundle.recipe import read_recipe, read_segmenter, segments
from mmtk.bundle.search import find
from mmtk.cli.app import app
from mmtk.errors import ConfigError
from mmtk.io import Volume, read_image, write_image
from mmtk.plugins import installed
from mmtk.segmenters.weights import SegmenterWeights


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of a small U-Net that takes two modalities and returns BraTS's three regions."""
    from monai.networks.nets import UNet

    from mmtk.bundle.segmentation import write_bundle

    torch.manual_seed(0)
    settings = {"spatial_dims": 3, "in_channels": 2, "out_channels": 3, "channels": [4, 8], "strides": [2]}
    weights = SegmenterWeights(
        "monai.networks.nets:UNet", settings, ("t1", "flair"), ("ET", "TC", "WT"), UNet(**settings).state_dict(),
        spacing=(2.0, 2.0, 2.0), patch=(16, 16, 16),
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    write_bundle(
        folder, weights, task="a test", description="Random weights.", data_source="none", intended_use="tests",
        card="# Tiny\n", license_text="Apache-2.0\n", segmenter={"flips": False},
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("scans")
    draw = np.random.default_rng(0)
    images = {name: Volume(draw.random((20, 24, 18)), np.diag([-2.0, 2, 2, 1])) for name in ("t1", "flair")}
    return {name: write_image(place / f"{name}.nii.gz", v.data, v) for name, v in images.items()}


@pytest.mark.filterwarnings("ignore")
def test_the_check_finds_nothing_wrong_and_nothing_that_asks_for_trust(bundle: Path) -> None:
    verdicts = list(check(find(str(bundle), installed()), installed()))
    assert not [f"{v.name}: {problem}" for v in verdicts for problem in v.problems]
    assert {v.name for v in verdicts if not v.skipped} >= {
        "layout",
        "metadata",
        "recipe",
        "scan",
        "targets",
        "weights",
    }


def test_its_recipe_is_a_segmenter_and_no_registration(bundle: Path) -> None:
    assert segments(bundle)
    said = read_segmenter(bundle)
    assert said["kind"] == "network" and Path(said["weights"]).is_absolute() and said["flips"] is False
    with pytest.raises(ConfigError, match="finds lesions, it does not register"):
        read_recipe(bundle)


@pytest.mark.filterwarnings("ignore")
def test_the_command_and_monai_find_one_mask(bundle: Path, scans: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "ours" / "mask.nii.gz"
    words = [f"bundle={bundle}", *(f"{name}={path}" for name, path in scans.items()), f"out={out}"]
    done = CliRunner().invoke(app, ["segment", *words, "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert all(out.with_name(f"mask_{name}.nii.gz").is_file() for name in ("ET", "TC", "WT", "labels"))

    from mmtk.bundle.segmentation import ReadScans, SaveSegmentation, SegmentationNetwork

    network = SegmentationNetwork(read_segmenter(bundle))
    data = ReadScans()({name: str(path) for name, path in scans.items()})
    pred = network(data["image"][None])
    assert pred.shape == (1, 3, 20, 24, 18)
    SaveSegmentation(network, str(tmp_path / "theirs"))(data)
    for name in ("mask_probability", "mask_uncertainty", "mask_ET"):
        ours, theirs = (read_image(p / f"{name}.nii.gz").data for p in (out.parent, tmp_path / "theirs"))
        assert np.abs(ours - theirs).max() < 1e-5


def test_a_network_of_two_modalities_asks_for_both(bundle: Path, scans: dict[str, Path], tmp_path: Path) -> None:
    words = [f"bundle={bundle}", f"t1={scans['t1']}", f"out={tmp_path / 'm.nii.gz'}"]
    done = CliRunner().invoke(app, ["segment", *words])
    assert done.exit_code == 2 and "the network takes 2: t1, flair" in " ".join(done.output.split())
    assert not list(tmp_path.iterdir())
