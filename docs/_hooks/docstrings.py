"""Docstrings as the site shows them: the few marks of reStructuredText that they hold, as Markdown.

:class:`~a.b.Name`      `Name`
:math:`x`               $x$
.. math::  + block      $$ block $$
For example::  + block  a fenced block
moved, fixed: Images.   an entry for each, as griffe knows parameters
"""

from __future__ import annotations

import re
from textwrap import dedent
from typing import Any

import griffe

_ROLE = re.compile(r":\w+:`(?P<tilde>~?)(?P<path>[^`]+)`")
_INLINE = re.compile(r":math:`([^`]+)`")
_MATH = re.compile(
    r"^(?P<indent>[ ]*)\.\. math::(?P<block>[^\n]*(?:\n|\Z)(?:[ ]*\n|(?P=indent)[ ]+\S.*(?:\n|\Z))*)", re.MULTILINE
)
_CODE = re.compile(
    r"^(?P<indent>[ ]*)(?P<words>\S.*)::\n[ ]*\n(?P<block>(?:[ ]*\n|(?P=indent)[ ]{4}.*(?:\n|\Z))+)", re.MULTILINE
)
#: Several parameters of one meaning; they are indented by one step below ``Args:``.
_SEVERAL = re.compile(r"^    (?P<names>\w+(?:, \w+)+): (?P<words>.*(?:\n {8}.*)*)", re.MULTILINE)
_ARGUMENTS = re.compile(r"^Args:\n(?:(?: {4}.*)?(?:\n|\Z))+", re.MULTILINE)


def as_markdown(text: str) -> str:
    """Return a docstring in Markdown."""
    text = _ARGUMENTS.sub(lambda section: _SEVERAL.sub(_each, section[0]), text)
    text = _MATH.sub(_formula, text)
    text = _CODE.sub(_fenced, text)
    text = _INLINE.sub(r"$\1$", text)
    return _ROLE.sub(lambda m: f"`{m['path'].rpartition('.')[2] if m['tilde'] else m['path']}`", text)


def _each(found: re.Match[str]) -> str:
    return "\n".join(f"    {name}: {found['words']}" for name in found["names"].split(", "))


def _formula(found: re.Match[str]) -> str:
    indent, block = found["indent"], dedent(found["block"]).strip()
    if "&" in block and "\\begin" not in block:
        block = f"\\begin{{aligned}}\n{block}\n\\end{{aligned}}"
    return "\n".join(indent + line for line in ("", "$$", *block.splitlines(), "$$", "")) + "\n"


def _fenced(found: re.Match[str]) -> str:
    indent = found["indent"]
    words = "**Example**" if found["words"] == "Example" else found["words"] + ":"
    lines = (words, "", "```python", *dedent(found["block"]).strip("\n").splitlines(), "```", "")
    return "\n".join(indent + line for line in lines) + "\n"


class PlainMarkup(griffe.Extension):
    """Rewrites every docstring once, when its package is loaded."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)
