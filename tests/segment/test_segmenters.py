"""Segmenters find what is there, on the grid of the scan, and say what they cannot."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from mmtk.cli.app import app
from mmtk.errors import ConfigError, InputError
from mmtk.io import Volume, read_image, write_image
from mmtk.masking import SegmentConfig
from mmtk.masking.finding import find_mask
from mmtk.plugins import installed
from mmtk.segmenters import PairSegmenter, Segmentation, Segmenter, entropy
from mmtk.segmenters.regions import FEWEST, labels_of, regions_of, without_small_core
from mmtk.segmenters.weights import SegmenterWeights, logits_of
from mmtk_segment.evidence import departure, normalized, region
from mmtk_segment.network import probabilities, scaled
from mmtk_segment.outlier import find_plane, mirrored
from mmtk_segment.plugin import LabelsConfig, MonaiBundleConfig, NetworkConfig, OutlierConfig

ISO = (2.0, 2.0, 2.0)


def head(shape: tuple[int, ...] = (40, 48, 36), spot: bool = False, seed: int = 0) -> np.ndarray:
    """An ellipsoid with structure, symmetric about the middle of the first axis, and a bright spot on one side."""
    x = [np.arange(n) - (n - 1) / 2 for n in shape]
    grid = np.meshgrid(*x, indexing="ij")
    inside = sum((g / (0.42 * n)) ** 2 for g, n in zip(grid, shape, strict=True)) < 1
    texture = 0.55 + 0.15 * np.cos(grid[0] ** 2 / 30) * np.sin(grid[1] / 3 + grid[-1] / 4)
    image = np.where(inside, texture, 0)
    if spot:
        far = sum((g - c) ** 2 for g, c in zip(grid, (8, 3, 0), strict=False))
        image[far < 25] = 1.2
    noise = np.random.default_rng(seed).normal(0, 0.01, shape)
    return np.where(inside, image + noise, 0).astype(np.float32)


def true_spot(shape: tuple[int, ...] = (40, 48, 36)) -> np.ndarray:
    x = np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in shape], indexing="ij")
    return sum((g - c) ** 2 for g, c in zip(x, (8, 3, 0), strict=False)) < 25


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


# --- the form


class Half(Segmenter):
    def segment(self, image, spacing):
        return (image[:, :1] > 0.5).to(image)


class Beside(PairSegmenter):
    def compare(self, image, reference, spacing):
        mask = (image[:, :1] - reference[:, :1] > 0.5).to(image)
        return Segmentation(mask, entropy(mask))


def test_a_segmenter_that_compares_refuses_to_go_without() -> None:
    image = torch.rand(1, 1, 4, 5)
    with pytest.raises(ConfigError, match="give a healthy image"):
        Beside()(image, (1.0, 1.0))
    assert Beside()(image, (1.0, 1.0), torch.zeros_like(image)).shape == image.shape


def test_a_sure_mask_is_not_uncertain_and_a_coin_is() -> None:
    found = Half().find(torch.rand(1, 1, 6, 6), (1.0, 1.0))
    assert float(found.uncertainty.max()) == 0
    torch.testing.assert_close(entropy(torch.tensor([0.5, 0.0, 1.0])), torch.tensor([1.0, 0.0, 0.0]))


# --- regions


@given(st.lists(st.sampled_from([0, 1, 2, 4]), min_size=1, max_size=40))
def test_regions_of_a_label_map_give_it_back(labels: list[int]) -> None:
    map_ = np.array(labels)
    regions = regions_of(map_)
    assert (regions["ET"] <= regions["TC"]).all() and (regions["TC"] <= regions["WT"]).all()
    assert np.array_equal(labels_of(regions), map_)


def test_both_ways_to_number_the_enhancing_tumor_are_one() -> None:
    old, new = np.array([0, 1, 2, 4]), np.array([0, 1, 2, 3])
    assert all(
        np.array_equal(a, b) for a, b in zip(regions_of(old).values(), regions_of(new).values(), strict=True)
    )
    assert np.array_equal(labels_of(regions_of(old), enhancing=3), new)
    with pytest.raises(ValueError, match="which labels are lesion"):
        regions_of(np.array([0, 3, 4]))


@pytest.mark.parametrize(("count", "kept"), [(FEWEST - 1, False), (FEWEST, True)])
def test_an_enhancing_tumor_of_few_voxels_becomes_core(count: int, kept: bool) -> None:
    labels = np.zeros(100, int)
    labels[:count] = 4
    labels[50:60] = 2
    regions = without_small_core(regions_of(labels))
    assert bool(regions["ET"].any()) is kept
    assert int(regions["TC"].sum()) == count and int(regions["WT"].sum()) == count + 10


# --- evidence


def test_the_departure_does_not_know_brightness_and_contrast() -> None:
    reference = head()
    brain = reference > 0
    image = head(spot=True, seed=1)
    there = departure(normalized(image), normalized(reference), brain)
    again = departure(normalized(3 * image + 0.5 * (image > 0)), normalized(reference), brain)
    assert np.median(np.abs(there - again)[brain]) < 0.5
    inside = true_spot() & brain
    assert there[inside].mean() > 5 and np.abs(there[brain & ~true_spot()]).mean() < 2


def test_a_region_is_the_heaviest_and_ends_at_its_border() -> None:
    evidence = np.zeros((30, 30, 30), np.float32)
    evidence[3:6, 3:6, 3:6] = 6  # small
    evidence[12:24, 12:24, 12:24] = 10
    mask = region(evidence, ISO, least=4) >= 0.5
    assert mask[14:22, 14:22, 14:22].all() and not mask[:8].any()
    assert dice(mask, evidence > 8) > 0.9
    assert not region(evidence, ISO, least=20).any()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_plane_of_symmetry_is_found_wherever_it_lies(axis: int) -> None:
    image = np.moveaxis(head(), 0, axis)
    image = np.roll(image, 3, axis)
    normal, offset = find_plane(image, image > 0, ISO)
    assert abs(normal[axis]) > 0.99
    middle = 2 * ((image.shape[axis] - 1) / 2 + 3)
    assert abs(offset - middle) < 1.5
    assert np.abs(mirrored(image, normal, offset, ISO) - image)[image > 0].mean() < 0.05


# --- parts


def test_outlier_finds_what_one_side_has_alone() -> None:
    image = torch.from_numpy(head(spot=True))[None, None]
    alone = OutlierConfig(smoothing=2).build().find(image, ISO)
    assert dice(alone.mask[0, 0].numpy() >= 0.5, true_spot()) > 0.5
    assert "first guess" in alone.notes[0]
    beside = OutlierConfig(smoothing=2).build().find(image, ISO, torch.from_numpy(head(seed=2))[None, None])
    assert dice(beside.mask[0, 0].numpy() >= 0.5, true_spot()) > 0.7


def test_inconsistency_finds_what_registration_cannot_explain_and_that_it_is_no_fluid() -> None:
    shape = (32, 36, 28)
    image, reference = head(shape, spot=True), head(shape, seed=3)
    config = installed().find("segmenter", "inconsistency")(kind="inconsistency")
    found = config.build().find(
        *(torch.from_numpy(x)[None, None] for x in (image,)), ISO, torch.from_numpy(reference)[None, None]
    )
    assert dice(found.mask[0, 0].numpy() >= 0.5, true_spot(shape)) > 0.6
    assert found.history == "grew"
    same = config.build().find(
        torch.from_numpy(reference)[None, None], ISO, torch.from_numpy(head(shape, seed=4))[None, None]
    )
    assert float((same.mask >= 0.5).float().mean()) < 0.002


def test_labels_are_those_that_were_asked_for() -> None:
    image = torch.tensor([0.0, 1, 2, 4]).view(1, 1, 2, 2)
    assert LabelsConfig(lesion=(1, 4)).build()(image, (1.0, 1.0)).flatten().tolist() == [0, 1, 0, 1]
    found = LabelsConfig(brats=True).build().find(image, (1.0, 1.0))
    assert found.regions["TC"].flatten().tolist() == [0, 1, 0, 1] and found.mask.flatten().tolist() == [0, 1, 1, 1]
    with pytest.raises(InputError, match="which labels"):
        LabelsConfig(brats=True).build().find(torch.full((1, 1, 2, 2), 7.0), (1.0, 1.0))


# --- networks


def brighter_than(level: float) -> SegmenterWeights:
    """Weights of a network that is one convolution: a voxel brighter than ``level`` is lesion."""
    state = {"conv.weight": torch.full((1, 1, 1, 1, 1), 40.0), "conv.bias": torch.tensor([-40.0 * level])}
    settings = {"spatial_dims": 3, "in_channels": 1, "out_channels": 1, "kernel_size": 1, "conv_only": True}
    return SegmenterWeights(
        "monai.networks.blocks:Convolution", settings, ("t1",), ("lesion",), state, patch=(16, 16, 16),
        normalize="none", spacing=ISO,
    )  # fmt: skip


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("mmtk.segmenters.weights.KNOWN", ("monai.networks.blocks",))
    brighter_than(0.9).save(tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


def test_a_network_of_windows_is_the_network(weights: Path) -> None:
    image = torch.from_numpy(head(spot=True))[None, None]
    found = NetworkConfig(weights=str(weights)).build().find(image, ISO)
    torch.testing.assert_close(found.mask, torch.sigmoid(40 * (image - 0.9)), atol=1e-4, rtol=1e-3)
    spread = NetworkConfig(weights=str(weights), uncertainty="spread").build().find(image, ISO)
    assert float(spread.uncertainty.max()) < 1e-2  # one network, one answer, however it is flipped


def test_a_network_sees_the_spacing_of_its_training(weights: Path) -> None:
    fine = torch.from_numpy(head((80, 96, 72), spot=False)).clone()
    fine[50:60, 50:60, 30:40] = 2.0
    found = NetworkConfig(weights=str(weights)).build().find(fine[None, None], (1.0, 1.0, 1.0))
    assert found.mask.shape == (1, 1, 80, 96, 72)
    assert float(found.mask[0, 0, 53:57, 53:57, 33:37].min()) > 0.99


def test_weights_say_what_does_not_fit(weights: Path, tmp_path: Path) -> None:
    again = SegmenterWeights.load(weights)
    assert again.described() == brighter_than(0.9).described()
    with pytest.raises(ConfigError, match="no installed plugin has it"):
        SegmenterWeights("os:system", {}, ("t1",), ("WT",), {}).build()
    with pytest.raises(ConfigError, match="2 channels; the network takes 1"):
        NetworkConfig(weights=str(weights)).build().find(torch.zeros(1, 2, 8, 8, 8), ISO)
    with pytest.raises(ConfigError, match="no weights"):
        NetworkConfig().build()
    with pytest.raises(ConfigError, match="activation=soft"):
        SegmenterWeights("a:b", {}, ("t1",), ("WT",), {}, activation="soft")
    wrong = SegmenterWeights(again.network, again.settings, ("t1",), ("WT",), {"conv.weight": torch.zeros(2)})
    with pytest.raises(ConfigError, match="do not fit"):
        wrong.build()


def test_labels_of_a_softmax_become_regions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmtk.segmenters.weights.KNOWN", ("monai.networks.blocks",))
    settings = {"spatial_dims": 3, "in_channels": 1, "out_channels": 4, "kernel_size": 1, "conv_only": True}
    # Logits grow with intensity, each label the likeliest about its own: 0, 1, 2, 4 at 0, 1/3, 2/3, 1.
    at = torch.tensor([0.0, 1 / 3, 2 / 3, 1.0])
    state = {"conv.weight": (200 * at).view(4, 1, 1, 1, 1), "conv.bias": -100 * at.square()}
    SegmenterWeights(
        "monai.networks.blocks:Convolution", settings, ("t1",), ("0", "1", "2", "4"), state, "softmax", ISO,
        (16, 16, 16), "none",
    ).save(tmp_path / "w.safetensors")  # fmt: skip
    image = torch.zeros(1, 1, 16, 16, 16)
    image[..., 4:, :, :], image[..., 8:, :, :], image[..., 12:, :, :] = 1 / 3, 2 / 3, 1.0
    found = NetworkConfig(weights=str(tmp_path / "w.safetensors")).build().find(image, ISO)
    labels = labels_of({name: map_[0, 0].numpy() for name, map_ in found.regions.items()})
    assert [int(labels[i, 0, 0]) for i in (1, 5, 9, 13)] == [0, 1, 2, 4]
    few = NetworkConfig(weights=str(tmp_path / "w.safetensors"), fewest=16**3).build().find(image, ISO)
    assert not few.regions["ET"].any() and torch.equal(few.regions["TC"] >= 0.5, found.regions["TC"] >= 0.5)


def test_channels_are_scaled_over_their_foreground() -> None:
    image = torch.tensor([0.0, 0, 2, 4, 6]).view(1, 1, 1, 5)
    values = scaled(image, "zscore").flatten()
    torch.testing.assert_close(values, torch.tensor([0.0, 0, -1, 0, 1]))
    assert scaled(image, "robust").flatten().tolist() == [0, 0, 0, 0.5, 1]
    assert not scaled(torch.ones(1, 1, 2, 2), "zscore").any()
    assert probabilities(torch.zeros(1, 2, 1), "softmax").flatten().tolist() == [0.5, 0.5]
    assert float(logits_of({"logits": torch.ones(1), "features": torch.zeros(1)})) == 1
    assert float(logits_of((torch.ones(1), torch.zeros(1)))) == 1


# --- any MONAI bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle that no one of mmtk wrote: two channels of a softmax, on an isotropic grid of 2 mm."""
    folder = tmp_path / "spots"
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    network = {
        "_target_": "monai.networks.blocks.Convolution",
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 2,
    }
    network |= {"kernel_size": 1, "conv_only": True}
    config = {
        "network_def": network,
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image"},
                {"_target_": "EnsureChannelFirstd", "keys": "image"},
                {"_target_": "Orientationd", "keys": "image", "axcodes": "LPS"},
                {"_target_": "Spacingd", "keys": "image", "pixdim": [2.0, 2.0, 2.0], "mode": "bilinear"},
            ],
        },
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [16, 16, 16]},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [{"_target_": "Activationsd", "keys": "pred", "softmax": True}],
        },
    }
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    state = {"conv.weight": torch.tensor([0.0, 40.0]).view(2, 1, 1, 1, 1), "conv.bias": torch.tensor([0.0, -36.0])}
    torch.save(state, folder / "models" / "model.pt")
    return folder


@pytest.mark.filterwarnings("ignore")
def test_any_monai_bundle_serves_by_its_own_preprocessing(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="trust"):
        MonaiBundleConfig(bundle=str(bundle)).build()  # names classes that are on no list
    monkeypatch.setattr("mmtk.bundle.trust.admit", lambda found, catalogue: None)
    image = torch.from_numpy(head(spot=True))[None, None]
    segmenter = MonaiBundleConfig(bundle=str(bundle)).build()
    assert segmenter.activation == "softmax"
    found = segmenter.find(image, ISO)
    torch.testing.assert_close(found.mask, torch.sigmoid(40 * image - 36), atol=1e-3, rtol=1e-3)
    coarse = segmenter.find(image, (4.0, 4.0, 4.0)).mask  # runs on twice as many voxels, and comes back
    assert coarse.shape == image.shape
    assert dice(coarse[0, 0].numpy() >= 0.5, true_spot()) > 0.8
    with pytest.raises(ConfigError, match="returns 2 channels"):
        MonaiBundleConfig(bundle=str(bundle), lesion=(2,)).build().find(image, ISO)


# --- scans


@pytest.mark.parametrize("codes", ["RAS", "LPI", "SAR", "IPL"])
def test_a_mask_lies_where_its_scan_does_however_that_is_stored(codes: str) -> None:
    import nibabel

    image = nibabel.Nifti1Image(head(spot=True), np.diag([-2.0, -2.0, 2.0, 1.0]))
    turned = image.as_reoriented(
        nibabel.orientations.ornt_transform(
            nibabel.io_orientation(image.affine), nibabel.orientations.axcodes2ornt(codes)
        )
    )
    there = find_mask([read_image(image)], OutlierConfig(smoothing=2))
    here = find_mask([read_image(turned)], OutlierConfig(smoothing=2))
    assert here.mask.shape == turned.shape and np.allclose(here.mask.affine, turned.affine)
    back = nibabel.Nifti1Image(here.mask.data, turned.affine).as_reoriented(
        nibabel.orientations.ornt_transform(
            nibabel.io_orientation(turned.affine), nibabel.io_orientation(image.affine)
        )
    )
    assert np.abs(np.asarray(back.dataobj) - there.mask.data).max() < 1e-6


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    volume = Volume(head(spot=True), np.diag([2.0, 2, 2, 1]))
    return write_image(tmp_path / "scan.nii.gz", volume.data, volume)


def test_the_command_writes_the_mask_and_what_else_is_known(scan: Path, tmp_path: Path) -> None:
    out = tmp_path / "found" / "lesion.nii.gz"
    words = ["segment", "segmenter=outlier", f"image={scan}", f"out={out}", "smoothing=2", "template=none"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "first guess" in done.output and "The mask:" in done.output
    mask = read_image(out, name="mask")
    assert mask.shape == (40, 48, 36) and dice(mask.data > 0, true_spot()) > 0.5
    chance = read_image(out.with_name("lesion_probability.nii.gz"), name="probability")
    assert np.array_equal(chance.data >= 0.5, mask.data > 0)
    record = json.loads(out.with_name("lesion.json").read_text())
    assert record["segmenter"] == "outlier" and record["inputs"]["image"]["sha256"]
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 2 and "--overwrite" in again.output
    assert CliRunner().invoke(app, [*words, "--overwrite"]).exit_code == 0


def test_a_label_map_gives_its_regions_on_its_grid(tmp_path: Path) -> None:
    labels = np.zeros((12, 12, 12), np.float32)
    labels[2:6, 2:6, 2:6], labels[6:9, 6:9, 6:9] = 2, 4
    seg = write_image(tmp_path / "seg.nii.gz", labels, Volume(labels, np.diag([-1.0, 1, 1, 1])))
    out = tmp_path / "wt.nii.gz"
    done = CliRunner().invoke(app, ["segment", "segmenter=labels", "brats=true", f"image={seg}", f"out={out}"])
    assert done.exit_code == 0, done.output
    assert np.array_equal(read_image(out).data > 0, labels > 0)
    assert np.array_equal(read_image(tmp_path / "wt_labels.nii.gz").data, labels)
    assert read_image(tmp_path / "wt_ET.nii.gz").data.sum() == 27


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["segmenter=outlir", "image=SCAN"], "did you mean 'outlier'"),
        (["segmenter=outlier"], "image: missing"),
        (["image=SCAN"], "bundle=NAME or segmenter=NAME"),
        (["segmenter=outlier", "image=SCAN", "treshold=3"], "did you mean 'threshold'"),
        (["segmenter=inconsistency", "image=SCAN", "template=none"], "give template=FILE"),
        (["segmenter=network", "image=SCAN"], "no weights"),
        (["segmenter=network", "image=SCAN", "weights=nowhere"], "no such file, nor a bundle"),
        (["bundle=metamorph_brats", "image=SCAN"], "registers, it finds no lesions"),
        (["segmenter=outlier", "image=SCAN", "out=mask.png"], "written as NIfTI"),
        (["segmenter=outlier", "image=SCAN", "out=SCAN"], "is there already"),
        (["segmenter=outlier", "image=nowhere.nii.gz"], "no such file"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(scan: Path, words: list[str], told: str) -> None:
    done = CliRunner().invoke(app, ["segment", *(word.replace("SCAN", str(scan)) for word in words)])
    assert done.exit_code == 2
    assert told in " ".join(done.output.split())


def test_descriptions_read_text() -> None:
    config = SegmentConfig.model_validate(
        {"segmenter": "outlier", "image": __file__, "template": "none", "out": "a.nii"},
        context={"catalogue": installed()},
    )
    assert config.segmenter.kind == "outlier" and config.template == "none"
