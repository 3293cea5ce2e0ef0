"""A bundle as data: its folder, and the recipe in its ``configs/inference.json``.

    network_def::method         the method and its settings
    preprocessing::init         placement;  likewise normalize, spacing
    sample                      what stands in where no images are given

Nothing here evaluates anything: expressions and ``_target_`` stay the strings that they are. So a folder from
anybody may be read; it can say how to register, and what it says is checked as if it had been typed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmtk.bundle.reading import read_config
from mmtk.errors import ConfigError

__all__ = ["NETWORK", "inference_config", "read_metadata", "read_recipe", "shipped_bundle"]

#: What ``network_def`` targets in every bundle that holds a recipe of mmtk.
NETWORK = "mmtk.bundle.workflow.RegistrationNetwork"

_PREPARATION = ("init", "normalize", "spacing")


def shipped_bundle(name: str) -> Path:
    """The folder of a bundle that comes with mmtk: inside the wheel, or beside the package in a source tree."""
    package = Path(__file__).parents[1]
    installed = package / "_bundles" / name
    return installed if installed.is_dir() else package.parent / "bundles" / name


def inference_config(folder: Path) -> Path:
    """The file that says how the bundle runs."""
    return folder / "configs" / "inference.json"


def read_metadata(folder: Path) -> dict[str, Any]:
    """Return the bundle's metadata.

    Raises:
        ConfigError: The file is missing or is not JSON.
    """
    return read_config(folder / "configs" / "metadata.json")


def read_recipe(folder: Path) -> tuple[dict[str, Any], str | None]:
    """Return a bundle's recipe as plain data, and the sample that stands in for missing images.

    Raises:
        ConfigError: The bundle's configuration cannot be read, or is not a recipe of mmtk.
    """
    config = read_config(inference_config(folder))
    network = config.get("network_def")
    target = network.get("_target_") if isinstance(network, dict) else None
    if not isinstance(network, dict) or target != NETWORK:
        raise ConfigError(
            f"bundle '{folder.name}' runs {target or 'an unknown network'}, not {NETWORK}; "
            f"run it with `python -m monai.bundle run --config_file {inference_config(folder)}`"
        )
    recipe: dict[str, Any] = {"method": network.get("method")}
    preparation = config.get("preprocessing", {})
    if not isinstance(preparation, dict):
        raise ConfigError(f"{inference_config(folder)}: preprocessing must be an object")
    if not isinstance(preparation.get("init", ""), str):
        raise ConfigError(f"{inference_config(folder)}: preprocessing::init must be a word or the name of a file")
    sample = config.get("sample")
    if not (sample is None or isinstance(sample, str)):
        raise ConfigError(f"{inference_config(folder)}: sample must be the name of a sample, or null")
    recipe.update({key: preparation[key] for key in _PREPARATION if key in preparation})
    return recipe, sample
