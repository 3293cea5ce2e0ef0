"""What a shell offers when Tab is pressed: keys, then values, then files.

A shell may split ``bundle=met`` at the ``=`` (bash does) or leave it whole (zsh and fish do). What is offered is
always the rest of what the shell regards as one word. Files behind a ``=`` are bash's own business; to the others
the word is no file, so they are offered here.

Behind a word that is the only one offered a shell sets a space, which would part ``bundle=`` from its value. So a key
never comes alone: its values come with it, or its default.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, get_args

import typer

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

    from mmtk.plugins import Catalogue

__all__ = [
    "complete_bundle",
    "complete_kind",
    "complete_name",
    "complete_plugin",
    "complete_plugin_kind",
    "complete_segment",
    "complete_setting",
]


def complete_kind(incomplete: str) -> list[str]:
    """Kinds of what is installed."""
    from mmtk.plugins import FAMILIES

    return [kind for kind in (*FAMILIES, "bundle") if kind.startswith(incomplete)]


def complete_plugin_kind(incomplete: str) -> list[str]:
    """Kinds of packages that can be written."""
    from mmtk.plugins.writing import KINDS

    return [kind for kind in KINDS if kind.startswith(incomplete)]


def complete_plugin(incomplete: str) -> list[str]:
    """Distributions of plugins."""
    from mmtk.plugins import installed

    names = {plugin.distribution for plugin in installed().plugins}
    return sorted(name for name in names if name.startswith(incomplete))


def complete_bundle(incomplete: str) -> list[str]:
    """Names of bundles, of plugins and on MMTK_BUNDLE_PATH."""
    from mmtk.bundle.search import search
    from mmtk.plugins import installed

    return sorted({bundle.name for bundle in search(installed()) if bundle.name.startswith(incomplete)})


def complete_name(incomplete: str) -> list[tuple[str, str]]:
    """Names of bundles and parts, each with what it is."""
    from mmtk.plugins import installed

    catalogue = installed()
    named = {name: "bundle" for name in catalogue.bundles}
    named.update({offer.name: f"{offer.family}: {offer.config.summary}" for offer in catalogue.offers()})
    return sorted((name, what) for name, what in named.items() if name.startswith(incomplete))


def complete_setting(context: typer.Context, incomplete: str) -> list[Any]:
    """Keys of ``mmtk run``, and the values of the one that was typed."""
    words = _joined(context.params.get("settings") or [])
    if words and (words[-1].endswith("=") or ("=" not in words[-1] and not incomplete)):
        # bash split the word at its "="; typer keeps that back while it is the last character.
        word = f"{words.pop().rstrip('=')}={incomplete}"
    else:
        word = incomplete
    key, equals, value = word.partition("=")
    typed = dict(w.split("=", 1) for w in words if "=" in w)
    if not equals:
        found = {name: what for name, what in _keys(typed).items() if name.startswith(key)}
        keys: list[Any] = [(f"{name}=", what) for name, what in found.items()]
        if len(found) == 1:
            (name,) = found
            keys += [f"{name}={value}" for value in _values(typed, name) or [_example(typed, name)]]
        return keys
    if "=" in incomplete and _takes_a_file(typed, key):
        lists = [choice for choice in _values(typed, key) if choice.startswith(value)]
        return [f"{key}={choice}" for choice in [*lists, *_files(value)]]
    lead, _, last = value.rpartition(",")
    lead = f"{lead}," if lead else ""
    before = f"{key}=" if "=" in incomplete else ""
    return [f"{before}{lead}{choice}" for choice in _values(typed, key) if choice.startswith(last)]


def complete_segment(context: typer.Context, incomplete: str) -> list[Any]:
    """Keys of ``mmtk segment``, and the values of the one that was typed."""
    from mmtk.config import ComponentConfig
    from mmtk.errors import MmtkError
    from mmtk.masking import SegmentConfig
    from mmtk.plugins import installed

    words = _joined(context.params.get("settings") or [])
    if words and (words[-1].endswith("=") or ("=" not in words[-1] and not incomplete)):
        word = f"{words.pop().rstrip('=')}={incomplete}"
    else:
        word = incomplete
    typed = dict(w.split("=", 1) for w in words if "=" in w)
    part: type[ComponentConfig] | None = None
    with suppress(MmtkError):
        part = installed().find("segmenter", typed["segmenter"]) if "segmenter" in typed else None
    models: list[type[BaseModel]] = [SegmentConfig, *([] if part is None else [part])]
    fields = {f.alias or name: f for m in models for name, f in m.model_fields.items() if name != "kind"}
    known = {"bundle": "bundle to start from", **{name: f.description or "" for name, f in fields.items()}}
    key, equals, value = word.partition("=")
    choices = {
        "bundle": complete_bundle(""),
        "segmenter": [offer.name for offer in installed().offers("segmenter")],
        **{name: _choices(f.annotation) for name, f in fields.items() if name != "segmenter"},
    }
    if not equals:
        found = {n: what for n, what in known.items() if n.startswith(key) and n not in typed}
        keys: list[Any] = [(f"{name}=", what) for name, what in found.items()]
        if len(found) == 1:
            (name,) = found
            keys += [f"{name}={choice}" for choice in choices.get(name) or ["FILE"]]
        return keys
    before = f"{key}=" if "=" in incomplete else ""
    files = _files(value) if "=" in incomplete and key in _SCANS else []
    return [f"{before}{c}" for c in [*(c for c in choices.get(key, []) if c.startswith(value)), *files]]


#: Keys of ``mmtk segment`` that name a file.
_SCANS = ("image", "t1", "t1ce", "t2", "flair", "template", "out")


def _joined(words: list[str]) -> list[str]:
    """Put together what bash took apart: ``bundle``, ``=``, ``met``."""
    whole: list[str] = []
    for word in words:
        if (word == "=" and whole) or (whole and whole[-1].endswith("=") and "=" not in word):
            whole[-1] += word
        else:
            whole.append(word)
    return whole


def _keys(typed: dict[str, str]) -> dict[str, str]:
    """Every key that may follow what was typed, with what it means."""
    from mmtk.config import RunConfig
    from mmtk.plugins import installed

    keys = {"bundle": "bundle to start from", **_described(RunConfig)}
    method = _method(typed, installed())
    if method is not None:
        keys.update(_described(method))
        for name, field in method.model_fields.items():
            part = _part(typed, method, field.alias or name, installed())
            if part is not None:
                keys.update({f"{field.alias or name}.{key}": what for key, what in _described(part).items()})
    return {key: what for key, what in keys.items() if key not in typed}


def _values(typed: dict[str, str], key: str) -> list[str]:
    """What may stand behind ``key=``; nothing where the shell should offer files."""
    from mmtk.config import INITS
    from mmtk.plugins import installed

    if key == "bundle":
        return complete_bundle("")
    if key == "init":
        return list(INITS)
    field = _field(typed, key)
    if field is None:
        return []
    family = _family_of(field)
    if family is not None:
        return sorted({offer.name for offer in installed().offers(family)})
    return _choices(field.annotation)


def _field(typed: dict[str, str], key: str) -> FieldInfo | None:
    """The setting that a key names: of the run, of the method, or of one of its parts."""
    from mmtk.config import RunConfig
    from mmtk.plugins import installed

    catalogue = installed()
    model: type[BaseModel] | None = RunConfig
    first, _, rest = key.partition(".")
    if first not in RunConfig.model_fields:
        model = _method(typed, catalogue)
    if rest and model is not None:
        model, first = _part(typed, model, first, catalogue), rest
    if model is None:
        return None
    return next((f for name, f in model.model_fields.items() if first in (name, f.alias)), None)


def _example(typed: dict[str, str], key: str) -> str:
    """A value that the key takes: its default, or what it wants."""
    from mmtk.plugins.words import as_typed

    field = _field(typed, key)
    if field is None or field.is_required() or _takes_a_file(typed, key):
        return "FILE"
    return as_typed(field.get_default(call_default_factory=True))


def _takes_a_file(typed: dict[str, str], key: str) -> bool:
    """Whether a key names a file."""
    from pathlib import Path

    def has_path(annotation: Any) -> bool:
        return annotation is Path or any(has_path(argument) for argument in get_args(annotation))

    field = _field(typed, key)
    return field is not None and has_path(field.annotation)


def _files(start: str) -> list[str]:
    """Files and folders whose path begins as typed; a folder that stands alone is followed by what is in it."""
    from pathlib import Path

    folder, _, name = start.rpartition("/")
    place = Path(f"{folder}/" if "/" in start else ".").expanduser()
    lead = f"{folder}/" if "/" in start else ""
    try:
        entries = sorted(e for e in place.iterdir() if e.name.startswith(name) and (name or e.name[0] != "."))
    except OSError:
        return []
    found = [f"{lead}{entry.name}{'/' * entry.is_dir()}" for entry in entries]
    return [*found, *_files(found[0])] if len(found) == 1 and found[0].endswith("/") else found


def _choices(annotation: Any) -> list[str]:
    """The values of a type that has few."""
    from types import NoneType
    from typing import Literal, get_origin

    if annotation is bool:
        return ["true", "false"]
    if annotation is NoneType:
        return ["none"]
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    if get_origin(annotation) in (tuple, list, dict):
        return []
    return [choice for argument in get_args(annotation) for choice in _choices(argument)]


def _described(model: type[BaseModel]) -> dict[str, str]:
    return {f.alias or name: f.description or "" for name, f in model.model_fields.items() if name != "kind"}


def _method(typed: dict[str, str], catalogue: Catalogue) -> type[BaseModel] | None:
    """The method that was typed, or the bundle's; None where there is none or it cannot be told."""
    from mmtk.bundle import read_recipe
    from mmtk.errors import MmtkError

    try:
        if "method" in typed:
            return catalogue.find("method", typed["method"])
        if "bundle" in typed:
            chosen = read_recipe(catalogue.bundle(typed["bundle"]))[0]["method"]
            return catalogue.find("method", chosen if isinstance(chosen, str) else chosen["kind"])
    except (MmtkError, KeyError, TypeError):
        pass
    return None


def _part(typed: dict[str, str], model: type[BaseModel], key: str, catalogue: Catalogue) -> type[BaseModel] | None:
    """The part at ``key``: the one that was typed, or the default."""
    from mmtk.config import ComponentConfig
    from mmtk.errors import MmtkError

    field = next((f for name, f in model.model_fields.items() if key in (name, f.alias)), None)
    family = None if field is None else _family_of(field)
    if field is None or family is None:
        return None
    try:
        if key in typed:
            return catalogue.find(family, typed[key])
    except MmtkError:
        return None
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    return type(default) if isinstance(default, ComponentConfig) else None


def _family_of(field: Any) -> str | None:
    """The family of the part, or of the parts, that a field holds."""
    from mmtk.config import Part

    markers = [*field.metadata, *(m for argument in get_args(field.annotation) for m in get_args(argument))]
    return next((marker.family for marker in markers if isinstance(marker, Part)), None)
