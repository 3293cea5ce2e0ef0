"""A bundle of one's own, begun from one that is there."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from pathlib import Path

from mmtk.bundle.recipe import inference_config, read_metadata
from mmtk.bundle.search import Found
from mmtk.errors import ConfigError
from mmtk.io import write_json

__all__ = ["new_bundle"]


def new_bundle(start: Found, folder: Path) -> Path:
    """Write a bundle that registers as ``start`` does, for its author to change, and return its folder.

    Raises:
        ConfigError: The folder exists, or its name cannot be a bundle's.
    """
    folder = Path(folder)
    if not re.fullmatch(r"[A-Za-z_]\w*", folder.name):
        raise ConfigError(f"'{folder.name}' cannot name a bundle; give letters, digits and underscores")
    if os.path.lexists(folder):
        raise ConfigError(f"{folder}: exists; give a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = folder.with_name(f".{secrets.token_hex(4)}.{folder.name}")
    try:
        shutil.copytree(start.folder, fresh)
        metadata = read_metadata(fresh)
        metadata.update(
            version="0.1.0",
            changelog={"0.1.0": f"begun from {start.name} {metadata.get('version')}"},
            name=folder.name,
            description=f"TODO: what it registers, of whom and for what. Was: {metadata.get('description')}",
            authors="TODO: who made it",
            copyright="TODO: whose it is",
        )
        write_json(fresh / "configs" / "metadata.json", metadata)
        (fresh / "docs" / "README.md").write_text(_readme(folder, start), encoding="utf-8")
        os.rename(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return folder


def _readme(folder: Path, start: Found) -> str:
    return f"""# {folder.name}

TODO: what is registered, of whom, and for what; which images it was tried on.

Begun from the bundle {start.name}. The method and its settings stand in `{inference_config(Path())}` under
`network_def::method`, and the preparation of the images under `preprocessing`.

## Run it

    mmtk run bundle={folder.name} moving=patient.nii.gz fixed=template.nii.gz mask=tumor.nii.gz --out result

## Limits

TODO: where it fails. For research. Not for clinical decisions.
"""
