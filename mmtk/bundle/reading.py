"""A bundle's JSON and YAML, read as data from anybody: bounded in size, depth and number, and one meaning each.

What two parsers read differently is refused, since a scan that reads one thing does not protect from a parser that
reads another: keys given twice, YAML's anchors and tags, bytes that are not UTF-8. A link, a pipe or a device in the
place of a file is refused before it is opened, so that nothing waits and nothing outside the folder is read.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from mmtk.errors import ConfigError

__all__ = ["FORMATS", "read_config"]

#: Suffixes of configurations, as MONAI knows them, and how many bytes one may have.
FORMATS = {".json": 1 << 22, ".yaml": 1 << 18, ".yml": 1 << 18}

#: How deep a configuration may be nested.
DEPTH = 64


def read_config(path: Path) -> dict[str, Any]:
    """Return a configuration as plain data; nothing in it is evaluated.

    Raises:
        ConfigError: It cannot be read, is too large or too deep, or has no single meaning.
    """
    text = _text(path, FORMATS.get(path.suffix, 1 << 18))
    try:
        content = _json(text) if path.suffix == ".json" else _yaml(text)
    except RecursionError:
        raise ConfigError(f"{path}: nested too deep; a configuration has at most {DEPTH} levels") from None
    except ValueError as error:
        kind = "JSON" if path.suffix == ".json" else "YAML"
        raise ConfigError(f"{path}: not valid {kind} ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a {'JSON object' if path.suffix == '.json' else 'YAML mapping'}")
    if _deeper(content, DEPTH):
        raise ConfigError(f"{path}: nested too deep; a configuration has at most {DEPTH} levels")
    return content


def _text(path: Path, limit: int) -> str:
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode):
            raise ConfigError(f"{path}: not a plain file; put a copy of the file in its place")
        if found.st_size > limit:
            raise ConfigError(f"{path}: {found.st_size} bytes; a configuration has at most {limit}")
        # Between the look and the opening the file may have changed into a pipe, which must not be waited for.
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            return file.read(limit).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 ({error.reason} at byte {error.start})") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error


def _json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key '{key}' is given twice")
        found[key] = value
    return found


def _yaml(text: str) -> Any:
    import yaml

    class Plain(yaml.SafeLoader):
        """Mappings, lists and scalars; no anchors, which multiply, and no tags."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            event = self.peek_event()
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                raise ValueError(f"an anchor or alias in line {event.start_mark.line + 1}; write it out")
            if (tag := getattr(event, "tag", None)) is not None:
                raise ValueError(f"the tag {tag} in line {event.start_mark.line + 1}; leave it out")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [getattr(key, "value", None) for key, _ in node.value]
            if twice := [key for at, key in enumerate(keys) if key in keys[:at]]:
                raise ValueError(f"the key '{twice[0]}' is given twice")
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Plain)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _deeper(content: Any, depth: int) -> bool:
    """Whether ``content`` is nested deeper than ``depth``; without recursion of its own."""
    level = [content]
    for _ in range(depth):
        level = [
            child
            for node in level
            if isinstance(node, (dict, list))
            for child in (node.values() if isinstance(node, dict) else node)
        ]
        if not level:
            return False
    return True
