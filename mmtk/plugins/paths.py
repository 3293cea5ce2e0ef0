"""A part given by import path, ``similarity=my.module:MySimilarity``: for a notebook, before there is a plugin.

The path names a part's class, whose constructor then says what its settings are, or a
:class:`~mmtk.config.ComponentConfig`. Following it runs the module, so only what a user typed is followed, never what
a bundle or another file says: see :meth:`mmtk.plugins.Catalogue.following`.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Literal, get_type_hints

from pydantic import Field, TypeAdapter, create_model
from pydantic.errors import PydanticUserError
from pydantic.fields import FieldInfo

from mmtk.config import ComponentConfig, load_target, nearest
from mmtk.errors import ConfigError, PluginError

__all__ = ["describe", "import_paths"]

_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def import_paths(values: Iterable[Any]) -> frozenset[str]:
    """Return all that reads as ``package.module:Class`` in values of any form, as typed."""
    return frozenset(path for value in values for path in _PATH.findall(str(value)))


def describe(path: str, family: str, base: str) -> type[ComponentConfig]:
    """Import what ``path`` names and return a description of it, called ``path``.

    Args:
        path: ``"package.module:Class"``; modules of the working directory count.
        family: What it must be, as the user calls it.
        base: The class that it must derive from, ``"package.module:Class"``.

    Raises:
        ConfigError: There is no such module or class, or it is no part of this family.
        PluginError: The module fails when it is imported.
    """
    found = _follow(path)
    if isinstance(found, type) and issubclass(found, ComponentConfig):
        if ":" not in getattr(found, "target", ""):
            raise ConfigError(f"{path} has no target; give it target = 'package.module:Class'")
        return _named(found.__name__, found, found.summary, {"kind": (Literal[path], path)})
    if not (isinstance(found, type) and issubclass(found, load_target(base))):
        raise ConfigError(
            f"{path} is {_what(found)}, but a {family} is a class derived from {base.replace(':', '.')}"
        )
    summary = (inspect.getdoc(found) or "").split("\n", 1)[0].rstrip(".")
    described = _named(
        found.__name__, ComponentConfig, summary, {"kind": (Literal[path], path), **_fields(path, found)}
    )
    described.target = path
    return described


def _named(name: str, base: type[ComponentConfig], summary: str, fields: dict[str, Any]) -> type[ComponentConfig]:
    described: type[ComponentConfig] = create_model(name, __base__=base, **fields)
    described.summary = summary
    return described


def _follow(path: str) -> Any:
    module, _, name = path.partition(":")
    try:
        with _working_directory():
            place = import_module(module)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            raise ConfigError(
                f"{path}: there is no module '{error.name}'; it must be installed, or lie in '{os.getcwd()}'"
            ) from error
        raise PluginError(f"{path}: {module} needs '{error.name}', which is not installed") from error
    except (Exception, SystemExit) as error:
        words = " ".join(str(error).split())
        raise PluginError(
            f"{path}: {module} fails when it is imported: {type(error).__name__}: {words}"
        ) from error
    if not hasattr(place, name):
        raise ConfigError(f"{path}: {module} has no '{name}'{nearest(name, vars(place))}")
    return getattr(place, name)


@contextmanager
def _working_directory() -> Iterator[None]:
    """Let modules of the working directory be found, after all that is installed."""
    here = os.getcwd()
    sys.path.append(here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _fields(path: str, part: type) -> dict[str, tuple[Any, FieldInfo]]:
    """The settings that a constructor takes, with their types and defaults."""
    try:
        hints = get_type_hints(part.__init__)  # type: ignore[misc]
    except (NameError, TypeError):
        hints = {}
    fields = {}
    for name, parameter in inspect.signature(part).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if parameter.kind is parameter.POSITIONAL_ONLY or name == "kind" or name.startswith("_"):
            raise ConfigError(f"{path}: its constructor's argument '{name}' cannot be a setting; rename it")
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[name] = (_known(hints.get(name, Any)), Field(default=default, description=""))
    return fields


def _known(hint: Any) -> Any:
    """The type where pydantic can check it, and anything where it cannot."""
    try:
        TypeAdapter(hint)
    except PydanticUserError:
        return Any
    return hint


def _what(found: object) -> str:
    return f"the class {found.__name__}" if isinstance(found, type) else f"of type {type(found).__name__}"
