"""A bundle as data: its folder, and the recipe in its ``configs/inference.json``.

    network_def::method         the method and its settings
    preprocessing::init         placement;  likewise normalize, spacing
    sample                      what stands in where no images are given

Nothing here evaluates anything: expressions and ``_target_`` stay the strings that they are. So a folder from
anybody may be read; it can say how to register, and what it says is checked as if it had been typed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmtk.errors import ConfigError
from mmtk.plugins import Catalogue

__all__ = ["NETWORK", "find_bundle", "inference_config", "read_metadata", "read_recipe", "shipped_bundle"]

#: What ``network_def`` targets in every bundle that holds a recipe of mmtk.
NETWORK = "mmtk.bundle.workflow.RegistrationNetwork"

_PREPARATION = ("init", "normalize", "spacing")


def shipped_bundle(name: str) -> Path:
    """The folder of a bundle that comes with mmtk: inside the wheel, or beside the package in a source tree."""
    package = Path(__file__).parents[1]
    installed = package / "_bundles" / name
    return installed if installed.is_dir() else package.parent / "bundles" / name


def find_bundle(name: str, catalogue: Catalogue) -> Path:
    """Return the folder of a bundle, by its name or by its path.

    Raises:
        ConfigError: There is no such bundle.
    """
    path = Path(name).expanduser()
    if inference_config(path).is_file():
        return path
    if path.is_dir():
        raise ConfigError(f"'{name}' is a folder without configs/inference.json, so it is no bundle")
    return catalogue.bundle(name)


def inference_config(folder: Path) -> Path:
    """The file that says how the bundle runs."""
    return folder / "configs" / "inference.json"


def read_metadata(folder: Path) -> dict[str, Any]:
    """Return the bundle's metadata.

    Raises:
        ConfigError: The file is missing or is not JSON.
    """
    return _read_json(folder / "configs" / "metadata.json")


def read_recipe(folder: Path) -> tuple[dict[str, Any], str | None]:
    """Return a bundle's recipe as plain data, and the sample that stands in for missing images.

    Raises:
        ConfigError: The bundle's configuration cannot be read, or is not a recipe of mmtk.
    """
    config = _read_json(inference_config(folder))
    network = config.get("network_def")
    target = network.get("_target_") if isinstance(network, dict) else None
    if not isinstance(network, dict) or target != NETWORK:
        raise ConfigError(
            f"bundle '{folder.name}' runs {target or 'an unknown network'}, not {NETWORK}; "
            f"run it with `python -m monai.bundle run --config_file {inference_config(folder)}`"
        )
    recipe: dict[str, Any] = {"method": network.get("method")}
    preparation = config.get("preprocessing", {})
    recipe.update({key: preparation[key] for key in _PREPARATION if key in preparation})
    return recipe, config.get("sample")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a JSON object")
    return content
