"""A package of one's own, of any kind: a part, a command, or a bundle that it brings along."""

from __future__ import annotations

from pathlib import Path

from mmtk.bundle.new import new_bundle
from mmtk.bundle.search import find
from mmtk.bundle.trust import admit
from mmtk.errors import ConfigError
from mmtk.plugins import Catalogue
from mmtk.plugins.writing import write_package

__all__ = ["START", "new_package"]

#: The bundle that another is begun from, unless one is named.
START = "metamorph_brats"


def new_package(name: str, kind: str, folder: Path, catalogue: Catalogue, *, start: str | None = None) -> Path:
    """Write a package with one part or one bundle, and return its folder, ``folder / name``.

    Args:
        name, kind, folder, catalogue: As for :func:`mmtk.plugins.writing.write_package`.
        start: The bundle to begin from, its name or its folder; for a bundle only.

    Raises:
        ConfigError: Something will not do, or is in the way. Nothing was written.
    """
    if kind != "bundle":
        if start is not None:
            raise ConfigError(f"--from {start}: a {kind} is not begun from a bundle; it is for --kind bundle")
        return write_package(name, kind, folder, catalogue)
    begun = find(start or START, catalogue)
    admit(begun, catalogue)

    def fill(place: Path, package: str) -> None:
        new_bundle(begun, place / "src" / package / "bundles" / package)

    return write_package(name, kind, folder, catalogue, fill=fill)
