"""Where bundles are found: what is installed, the folders of ``MMTK_BUNDLE_PATH``, or a path.

    MMTK_BUNDLE_PATH=a:b        folders that hold bundles, one a subfolder, separated as in PATH

An installed bundle came with mmtk or with a plugin, and whoever installed that could run any code: it is trusted by
being installed. Every other bundle is foreign, wherever it lies, and a folder in the working directory does not
take an installed bundle's name.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mmtk.bundle.recipe import inference_config
from mmtk.config import nearest
from mmtk.errors import ConfigError
from mmtk.plugins import Catalogue

__all__ = ["VARIABLE", "Found", "find", "find_bundle", "search"]

VARIABLE = "MMTK_BUNDLE_PATH"


@dataclass(frozen=True)
class Found:
    """A bundle and where it came from.

    Attributes:
        origin: The distribution that installed it, ``MMTK_BUNDLE_PATH`` or ``path``.
        installed: Whether it came with mmtk or a plugin, and is trusted for that.
    """

    folder: Path
    origin: str
    installed: bool = False

    @property
    def name(self) -> str:
        """The bundle's name, which is its folder's."""
        return self.folder.resolve().name


def search(catalogue: Catalogue, environ: Mapping[str, str] = os.environ) -> list[Found]:
    """Return every bundle that has a name: what is installed first, then the search path in its order."""
    found = [
        Found(folder, plugin.distribution, installed=True)
        for plugin in catalogue.plugins
        for folder in sorted(plugin.bundles)
    ]
    known = {bundle.folder.resolve() for bundle in found}
    for place in environ.get(VARIABLE, "").split(os.pathsep):
        if not place or not Path(place).expanduser().is_dir():
            continue
        for folder in sorted(Path(place).expanduser().iterdir()):
            if inference_config(folder).is_file() and folder.resolve() not in known:
                known.add(folder.resolve())
                found.append(Found(folder, VARIABLE))
    return found


def find(name: str, catalogue: Catalogue, environ: Mapping[str, str] = os.environ) -> Found:
    """Return a bundle, by its name or by its path.

    Raises:
        ConfigError: There is no such bundle, or several have the name.
    """
    everything = search(catalogue, environ)
    named = [bundle for bundle in everything if bundle.name == name]
    if len(named) == 1:
        return named[0]
    if named:
        places = " and ".join(f"'{bundle.folder}' ({bundle.origin})" for bundle in named)
        raise ConfigError(f"several bundles are called '{name}': {places}; give the folder of one")
    path = Path(name).expanduser()
    if path.is_dir():
        if not inference_config(path).is_file():
            raise ConfigError(f"'{name}' is a folder without configs/inference.json, so it is no bundle")
        same = [bundle for bundle in everything if bundle.folder.resolve() == path.resolve()]
        return Found(path, "path") if not same else Found(path, same[0].origin, same[0].installed)
    if path.is_file():
        raise ConfigError(f"'{name}' is a file; unpack it with `mmtk bundles unpack {name} FOLDER`")
    known = sorted(bundle.name for bundle in everything)
    advice = nearest(name, known) or "."
    raise ConfigError(f"no bundle is called '{name}'{advice} Installed: {', '.join(known) or 'none'}")


def find_bundle(name: str, catalogue: Catalogue) -> Path:
    """Return the folder of a bundle, by its name or by its path.

    Raises:
        ConfigError: There is no such bundle, or several have the name.
    """
    return find(name, catalogue).folder
