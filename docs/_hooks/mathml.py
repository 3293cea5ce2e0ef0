"""Formulas, from TeX to MathML when the site is built: a browser shows them without a script and without a network.

pymdownx.arithmatex marks what is a formula; this puts MathML in its place. What the converter does not know is a
warning, and so stops a strict build.
"""

from __future__ import annotations

import html
import logging
import re

from latex2mathml.converter import convert

_log = logging.getLogger("mkdocs.hooks.mathml")

_MARKED = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">(?:\\\((?P<inline>.*?)\\\)|\\\[(?P<block>.*?)\\\])</(?P=tag)>',
    re.DOTALL,
)
#: A command that stayed as it was typed.
_UNKNOWN = re.compile(r"<m\w+[^>]*>\\(\w+)</m\w+>")


def set_formulas(page: str, name: str) -> str:
    """Return the HTML of a page with MathML for TeX; ``name`` is for warnings."""

    def formula(marked: re.Match[str]) -> str:
        block = marked["block"] is not None
        tex = html.unescape(marked["block"] if block else marked["inline"]).strip()
        try:
            made = convert(tex, display="block" if block else "inline")
        except Exception as error:  # the converter has no error of its own
            _log.warning("%s: the formula %r cannot be set: %r", name, tex, error)
            return marked[0]
        for unknown in _UNKNOWN.findall(made):
            _log.warning("%s: \\%s is not known, in the formula %r", name, unknown, tex)
        return f'<div class="formula">{made}</div>' if block else made

    return _MARKED.sub(formula, page)
