"""What a bundle holds, and that its files say what MONAI and mmtk expect. Loads neither torch nor monai."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

import mmtk
from mmtk.bundle import find_bundle, read_metadata, read_recipe
from mmtk.bundle.recipe import NETWORK, inference_config, segments
from mmtk.config import Recipe
from mmtk.errors import ConfigError
from mmtk.plugins import installed
from mmtk.samples import SAMPLES
from mmtk.samples.options import parse
from mmtk.settings import resolve

EVERY = sorted(folder for folders in installed().bundles.values() for folder in folders)
#: Those that register; what finds lesions is tested beside its plugin.
BUNDLES = [folder for folder in EVERY if not segments(folder)]

#: The specification's mandatory keys.
METADATA = (
    "version",
    "monai_version",
    "pytorch_version",
    "numpy_version",
    "required_packages_version",
    "task",
    "description",
    "authors",
    "copyright",
    "network_data_format",
)
TENSOR = (
    "type",
    "format",
    "modality",
    "num_channels",
    "spatial_shape",
    "dtype",
    "value_range",
    "is_patch_data",
    "channel_def",
)
INFERENCE = (
    "bundle_root",
    "device",
    "dataset_dir",
    "dataset",
    "evaluator",
    "network_def",
    "inferer",
    "preprocessing",
    "postprocessing",
    "output_dir",
    "handlers",
    "initialize",
    "run",
)
#: Every expression that a bundle of ours evaluates.
IDIOMS = (
    r"import (json|monai|os|pathlib)",
    r"torch\.device\('cuda:0' if torch\.cuda\.is_available\(\) else 'cpu'\)",
    r"torch\.device\('cpu'\)",
    r"torch\.device\('cuda', int\(os\.environ\['LOCAL_RANK'\]\)\) if torch\.cuda\.is_available\(\) "
    r"else torch\.device\('cpu'\)",
    r"@network_def\.to\(@device\)",
    r"@bundle_root \+ '/eval'",
    r"monai\.utils\.set_determinism\(seed=@seed\)",
    r"@evaluator\.run\(\)",
    r"json\.loads\(pathlib\.Path\(@pairs_file\)\.read_text\(encoding='utf-8'\)\)",
    r"@pairs\[int\(os\.environ\['RANK'\]\)::int\(os\.environ\['WORLD_SIZE'\]\)\]",
)


@pytest.fixture(params=BUNDLES, ids=lambda folder: folder.name)
def bundle(request) -> Path:
    return request.param


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def leaves(node: Any) -> list[str]:
    """All strings of a configuration."""
    if isinstance(node, dict):
        return [leaf for value in node.values() for leaf in leaves(value)]
    if isinstance(node, list):
        return [leaf for value in node for leaf in leaves(value)]
    return [node] if isinstance(node, str) else []


def test_the_bundles_are_installed():
    names = [
        "affine", "cvae_diffeomorphic", "deep_image_prior", "lcc_demons", "lddmm", "linear_deformable_cnn",
        "metamorph_brats", "metamorph_g", "metamorph_r", "metamorphic_autoencoder", "metamorphosis",
        "metamorphosis_multimodal", "rigid", "rigid_cfm", "syn", "syn_cfm", "voxelmorph", "voxelmorph_cfm",
    ]  # fmt: skip
    assert [folder.name for folder in BUNDLES] == names


def test_a_bundle_is_complete_and_holds_no_python(bundle):
    files = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    learned = {"models/model.safetensors", "configs/train.json", "configs/multi_gpu_train.json"}
    assert not learned & files or learned <= files
    variants = {f"models/{name}.safetensors" for name in ("brains", "letters", "lungs")}
    assert files - learned - variants - {"models/template.nii.gz"} == {
        "LICENSE",
        "configs/inference.json",
        "configs/inference_cpu.json",
        "configs/inference_multi_gpu.json",
        "configs/metadata.json",
        "docs/README.md",
        "models/model.pt",
    }
    assert "Apache License" in (bundle / "LICENSE").read_text()


def test_the_metadata_is_complete(bundle):
    metadata = read_metadata(bundle)
    assert not [key for key in METADATA if not metadata.get(key)]
    for key in ("version", "monai_version", "pytorch_version", "numpy_version"):
        assert re.fullmatch(r"\d+\.\d+\.\d+", metadata[key])
    assert metadata["version"] in metadata["changelog"]
    assert Version(metadata["required_packages_version"]["mmtk"]) <= Version(mmtk.__version__)
    formats = metadata["network_data_format"]
    for tensor in (formats["inputs"]["image"], formats["outputs"]["pred"]):
        assert set(tensor) == set(TENSOR)
        assert len(tensor["channel_def"]) == tensor["num_channels"]


def test_the_configuration_has_every_id_that_monai_names(bundle):
    config = read(inference_config(bundle))
    assert not [key for key in INFERENCE if key not in config]
    assert config["network_def"]["_target_"] == NETWORK
    assert config["evaluator"]["amp"] is False


@pytest.mark.parametrize("name", ["inference", "inference_cpu", "inference_multi_gpu"])
def test_only_known_idioms_are_evaluated(bundle, name):
    expressions = [leaf[1:] for leaf in leaves(read(bundle / "configs" / f"{name}.json")) if leaf.startswith("$")]
    assert expressions
    for expression in expressions:
        assert any(re.fullmatch(idiom, expression) for idiom in IDIOMS), expression


def test_overlays_change_only_what_is_there(bundle):
    config = read(inference_config(bundle))
    assert set(read(bundle / "configs" / "inference_cpu.json")) <= set(config)
    assert set(read(bundle / "configs" / "inference_multi_gpu.json")) - set(config) == {
        "pairs_file",
        "dataset::data",
    }


def test_the_recipe_is_one_that_mmtk_accepts(bundle):
    base, sample = read_recipe(bundle)
    recipe = resolve([], base, installed(), Recipe)
    assert recipe.method.kind == base["method"]["kind"]
    assert sample is not None
    name, *options = sample.split()
    # These know no brains.
    letters = bundle.name in ("cvae_diffeomorphic", "linear_deformable_cnn", "metamorphic_autoencoder")
    assert name == ("c_shapes" if letters else "brains" if recipe.method.capabilities.learned else "tumor_brain")
    parse(SAMPLES[name].options, dict(word.split("=", 1) for word in options), name)


def test_the_published_settings():
    base, _ = read_recipe(installed().bundle("metamorphosis"))
    method = resolve([], base, installed(), Recipe).method
    assert (method.momentum, method.shape) == ("coupled", "momentum")
    assert (method.steps, method.mu, method.lam) == (15, 0.1, 1e-7)
    assert (method.sigma, method.similarity.kind) == ((8.0,), "ssd")


def test_the_card_says_how_to_run_it(bundle):
    card = (bundle / "docs" / "README.md").read_text(encoding="utf-8")
    assert f"mmtk run bundle={bundle.name}" in card
    assert "python -m monai.bundle run" in card


def test_a_folder_that_is_no_bundle_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"is a folder without configs/inference.json, so it is no bundle"):
        find_bundle(str(tmp_path), installed())
    configs = tmp_path / "configs"
    configs.mkdir()
    (configs / "inference.json").write_text("{")
    with pytest.raises(ConfigError, match="not valid JSON"):
        read_recipe(find_bundle(str(tmp_path), installed()))
    (configs / "inference.json").write_text("[]")
    with pytest.raises(ConfigError, match="expected a JSON object"):
        read_recipe(tmp_path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_metadata(tmp_path)
