"""Which foreign bundles a user trusts: by what is in them, not by what they are called.

A bundle's digest covers every name and every byte that it holds, so a bundle that changes is trusted no longer. The
list is ``trusted_bundles.json`` in the user's own folder, which no bundle can reach:

    MMTK_CONFIG_DIR     another folder; otherwise what the system provides for settings
"""

from __future__ import annotations

import hashlib
import os
import shlex
import stat
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from mmtk.bundle.reading import read_config
from mmtk.bundle.scan import files_of, scan
from mmtk.bundle.search import Found
from mmtk.errors import ConfigError, InputError
from mmtk.plugins import Catalogue

__all__ = ["admit", "config_folder", "digest", "is_trusted", "standing", "trust", "untrust"]

#: Findings that a refusal names; the others are counted.
SHOWN = 5


def config_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """The user's folder for settings of mmtk; it need not exist."""
    if own := environ.get("MMTK_CONFIG_DIR"):
        return Path(own)
    if sys.platform == "win32":
        return Path(environ.get("APPDATA", Path.home() / "AppData" / "Roaming")) / "mmtk"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "mmtk"
    return Path(environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "mmtk"


def digest(folder: Path) -> str:
    """Return the SHA-256 of all that a bundle holds, names and contents.

    Raises:
        InputError: It cannot be read, or holds a link, a pipe or a device: what these give may change.
    """
    total = hashlib.sha256()
    for path, name in files_of(folder):
        if not stat.S_ISREG(path.lstat().st_mode):
            raise InputError(
                f"{path}: not a plain file, so the bundle has no fixed content; put a copy in its place"
            )
        content = hashlib.sha256()
        with open(path, "rb") as file:
            while chunk := file.read(1 << 20):
                content.update(chunk)
        encoded = os.fsencode(name)
        total.update(len(encoded).to_bytes(8, "big") + encoded + content.digest())
    return total.hexdigest()


def is_trusted(folder: Path) -> bool:
    """Whether the user trusts what the folder holds now."""
    records = _records()
    return bool(records) and digest(folder) in records


def trust(found: Found) -> str:
    """Trust a bundle as it is now, and return its digest.

    Raises:
        InputError: It has no fixed content.
    """
    from mmtk.io import write_json

    value = digest(found.folder)
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    record = {"name": found.name, "folder": str(found.folder.resolve()), "since": now}
    write_json(_store(), {**_records(), value: record})
    return value


def untrust(name: str) -> list[str]:
    """Trust no longer what is recorded under a name, a folder or a digest's beginning; return the digests.

    Raises:
        ConfigError: Nothing is recorded so.
    """
    from mmtk.io import write_json

    records = _records()
    folder = str(Path(name).expanduser().resolve())
    gone = [
        value
        for value, record in records.items()
        if name in (record.get("name"), value) or record.get("folder") == folder
        or (len(name) >= 8 and value.startswith(name))
    ]  # fmt: skip
    if not gone:
        known = ", ".join(sorted({str(record.get("name")) for record in records.values()})) or "none"
        raise ConfigError(f"no bundle '{name}' is trusted. Trusted: {known}")
    write_json(_store(), {value: record for value, record in records.items() if value not in gone})
    return gone


def admit(found: Found, catalogue: Catalogue) -> None:
    """Let a bundle through that is installed, trusted, or nothing but data.

    Raises:
        ConfigError: It is none of these; every place that asks for trust is named, the first few in words.
    """
    if found.installed:
        return
    findings = scan(found.folder, catalogue)
    if not findings or is_trusted(found.folder):
        return
    problems = [f"bundle '{found.name}' is not trusted: {finding}" for finding in findings[:SHOWN]]
    if len(findings) > SHOWN:
        problems.append(f"bundle '{found.name}' is not trusted: {len(findings) - SHOWN} more places")
    command = shlex.join(["mmtk", "bundles", "trust", str(found.folder.resolve())])
    problems.append(f"read it, and if you would run its author's code, `{command}`")
    raise ConfigError(problems)


def standing(found: Found, catalogue: Catalogue) -> str:
    """Return what lets a bundle run, in a word: installed, data or trusted; or "not trusted"."""
    if found.installed:
        return "installed"
    try:
        return (
            "data"
            if not scan(found.folder, catalogue)
            else "trusted"
            if is_trusted(found.folder)
            else "not trusted"
        )
    except InputError:
        return "not trusted"


def _store() -> Path:
    return config_folder() / "trusted_bundles.json"


def _records() -> dict[str, Any]:
    """What is trusted, by digest. A list that cannot be read stops whoever asks; it is not taken for empty."""
    if not _store().exists():
        return {}
    records = read_config(_store())
    if not all(isinstance(record, dict) for record in records.values()):
        raise ConfigError(f"{_store()}: not a list of trusted bundles; mend or delete it")
    return records
