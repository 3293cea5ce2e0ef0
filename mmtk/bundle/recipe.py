"""A bundle as data: its folder, and the recipe in its ``configs/inference.json``.

    network_def::method         the method and its settings
    preprocessing::init         placement;  likewise normalize, spacing
    sample                      what stands in where no images are given, such as "tumor_brain dim=2"
    network_def::segmenter      likewise, of a bundle that finds lesions
    models/template.nii.gz      the fixed image of whoever gives none (a file of the bundle, not of its recipe)

Nothing here evaluates anything: expressions and ``_target_`` stay the strings that they are. So a folder from
anybody may be read; it can say how to register, and what it says is checked as if it had been typed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmtk.bundle.reading import read_config
from mmtk.errors import ConfigError

__all__ = [
    "NETWORK",
    "SEGMENTATION",
    "inference_config",
    "read_metadata",
    "read_recipe",
    "read_segmenter",
    "segments",
    "shipped_bundle",
    "template_of",
]

#: What ``network_def`` targets in every bundle that holds a recipe of mmtk.
NETWORK = "mmtk.bundle.workflow.RegistrationNetwork"
#: The same in a bundle that finds lesions instead.
SEGMENTATION = "mmtk.bundle.segmentation.SegmentationNetwork"

_PREPARATION = ("init", "normalize", "spacing")


def shipped_bundle(name: str) -> Path:
    """The folder of a bundle that comes with mmtk: inside the wheel, or beside the package in a source tree."""
    package = Path(__file__).parents[1]
    installed = package / "_bundles" / name
    return installed if installed.is_dir() else package.parent / "bundles" / name


def inference_config(folder: Path) -> Path:
    """The file that says how the bundle runs."""
    return folder / "configs" / "inference.json"


def template_of(folder: Path) -> Path | None:
    """The image that the bundle's weights know as the fixed one; None if it has none."""
    path = folder / "models" / "template.nii.gz"
    return path if path.is_file() else None


def _is_sample(given: object) -> bool:
    if not isinstance(given, str) or not given.split():
        return False
    return all("=" in word for word in given.split()[1:])


def read_metadata(folder: Path) -> dict[str, Any]:
    """Return the bundle's metadata.

    Raises:
        ConfigError: The file is missing or is not JSON.
    """
    return read_config(folder / "configs" / "metadata.json")


def _with_own_weights(method: Any, folder: Path) -> Any:
    """Return a method whose weights, where they name a file of the bundle, are that file wherever the run is started."""
    weights = method.get("weights") if isinstance(method, dict) else None
    if not isinstance(weights, str) or not (folder / weights).is_file():
        return method
    return {**method, "weights": str((folder / weights).resolve())}


def read_recipe(folder: Path) -> tuple[dict[str, Any], str | None]:
    """Return a bundle's recipe as plain data, and the sample that stands in for missing images.

    Weights may be given as a path from the bundle's folder, ``models/model.safetensors``; a file there is taken before
    one of that path from the working directory.

    Raises:
        ConfigError: The bundle's configuration cannot be read, or is not a recipe of mmtk.
    """
    config = read_config(inference_config(folder))
    network = config.get("network_def")
    target = network.get("_target_") if isinstance(network, dict) else None
    if target == SEGMENTATION:
        raise ConfigError(
            f"bundle '{folder.name}' finds lesions, it does not register; run it with "
            f"`mmtk segment bundle={folder.name} image=FILE`, or give mask=auto to a run"
        )
    if not isinstance(network, dict) or target != NETWORK:
        raise ConfigError(
            f"bundle '{folder.name}' runs {target or 'an unknown network'}, not {NETWORK}; "
            f"run it with `python -m monai.bundle run --config_file {inference_config(folder)}`"
        )
    recipe: dict[str, Any] = {"method": _with_own_weights(network.get("method"), folder)}
    preparation = config.get("preprocessing", {})
    if not isinstance(preparation, dict):
        raise ConfigError(f"{inference_config(folder)}: preprocessing must be an object")
    if not isinstance(preparation.get("init", ""), str):
        raise ConfigError(f"{inference_config(folder)}: preprocessing::init must be a word or the name of a file")
    sample = config.get("sample")
    if not (sample is None or _is_sample(sample)):
        raise ConfigError(
            f"{inference_config(folder)}: sample must be the name of a sample, with options behind it if need be "
            f"('tumor_brain dim=2'), or null"
        )
    recipe.update({key: preparation[key] for key in _PREPARATION if key in preparation})
    return recipe, sample


def segments(folder: Path) -> bool:
    """Whether a bundle says that it finds lesions by a segmenter of mmtk; False where it cannot be read."""
    try:
        network = read_config(inference_config(folder)).get("network_def")
    except ConfigError:
        return False
    return isinstance(network, dict) and network.get("_target_") == SEGMENTATION


def read_segmenter(folder: Path) -> dict[str, Any]:
    """Return a bundle's segmenter as plain data: one of mmtk, or the adapter of any other segmentation bundle.

    Raises:
        ConfigError: The bundle's configuration cannot be read, or it registers.
    """
    config = read_config(inference_config(folder))
    network = config.get("network_def", config.get("network", config.get("net")))
    target = network.get("_target_") if isinstance(network, dict) else None
    if target == NETWORK:
        raise ConfigError(
            f"bundle '{folder.name}' registers, it finds no lesions; run it with `mmtk run bundle={folder.name}`"
        )
    if target != SEGMENTATION:
        if not isinstance(network, dict):
            raise ConfigError(
                f"bundle '{folder.name}': its configuration has no network_def, so there is no network"
            )
        return {"kind": "monai_bundle", "bundle": str(folder)}
    said = network.get("segmenter") if isinstance(network, dict) else None
    if not isinstance(said, dict | str):
        raise ConfigError(f"{inference_config(folder)}: network_def::segmenter must be a name or an object")
    whole = {"kind": said} if isinstance(said, str) else said
    return dict(_with_own_weights(whole, folder))
