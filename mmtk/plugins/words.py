"""What a setting may be, in words: its type, its range and its unit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from mmtk.config import ComponentConfig, Part

__all__ = ["accepted", "as_typed", "unit"]

_PLAIN = {int: "integer", float: "number", bool: "true|false", str: "text", Path: "file"}
_RANGES = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


def accepted(field: FieldInfo) -> str:
    """Return what a field takes, such as ``integer >= 1``, ``lbfgs|adam``, ``list of number > 0, or none``."""
    return _words(field.annotation, field.metadata)


def unit(field: FieldInfo) -> str:
    """Return the unit that a field states, ``Field(..., json_schema_extra={"unit": "mm"})``; empty if it states none."""
    stated = field.json_schema_extra
    return str(stated.get("unit", "")) if isinstance(stated, dict) else ""


def as_typed(value: Any) -> str:
    """A value as a user would type it."""
    if isinstance(value, tuple):
        return ",".join(as_typed(item) for item in value) or "[]"
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return str(getattr(value, "kind", value))


def _words(annotation: Any, metadata: Sequence[Any]) -> str:
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        inside = [bound for m in more for bound in (m.metadata if isinstance(m, FieldInfo) else [m])]
        return _words(inner, [*metadata, *inside])
    part = next((m.family for m in metadata if isinstance(m, Part)), None)
    if part is not None:
        return part
    if get_origin(annotation) in (Union, UnionType):
        choices = [choice for choice in get_args(annotation) if choice is not NoneType]
        told = " or ".join(_words(choice, metadata) for choice in choices)
        return f"{told}, or none" if len(choices) < len(get_args(annotation)) else told
    if get_origin(annotation) is Literal:
        return "|".join(map(str, get_args(annotation)))
    if get_origin(annotation) in (tuple, list):
        inner = [argument for argument in get_args(annotation) if argument is not Ellipsis]
        kinds = list(dict.fromkeys(_words(argument, ()) for argument in inner))
        return f"list of {' and '.join(kinds)}"
    if isinstance(annotation, type) and issubclass(annotation, ComponentConfig):
        return "part"
    bounds = [
        f"{sign} {getattr(m, name):g}" for m in metadata for name, sign in _RANGES.items() if hasattr(m, name)
    ]
    plain = _PLAIN.get(annotation, "value") if isinstance(annotation, type) else "value"
    return " ".join([plain, " and ".join(bounds)]).strip()
