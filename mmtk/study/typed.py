"""How a study is typed: lists with commas, values in quotes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["bare", "items", "listed"]


def bare(value: Any) -> Any:
    """Return ``[a,b]``, which needs its brackets in a list alone and quotes nowhere, as ``a,b``."""
    plain = isinstance(value, str) and value.startswith("[") and value.endswith("]")
    return value[1:-1] if plain and not set(value[1:-1]) & set('[{"') else value


def items(text: str) -> list[str]:
    """Split ``a levels=[8,4],b`` at the commas that stand in no bracket."""
    items, depth = [""], 0
    for letter in text:
        depth += (letter in "[{(") - (letter in "]})")
        if letter == "," and depth <= 0:
            items.append("")
        else:
            items[-1] += letter
    return [item.strip() for item in items]


def listed(raw: Any) -> Any:
    """A list of one may be written without brackets."""
    return [raw] if isinstance(raw, str | int | float | Mapping) else raw
