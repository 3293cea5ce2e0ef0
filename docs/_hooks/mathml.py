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
#: A command that stayed as it was typed, or a column that did not become one.
_UNKNOWN = re.compile(r"<m\w+[^>]*>(\\[^<]+|&(?:amp;)?)</m\w+>")
#: The same environment under a name that the converter knows.
_KNOWN = {"{aligned}": "{split}"}
#: Browsers know no variants of letters but the letters themselves.
_BOLD = re.compile(r'<mi mathvariant="bold-italic">([A-Za-z])</mi>')
#: Large bars, which the converter knows only as the sign.
_NORM = re.compile(r"(\\[bB]igg?[lr]?)\s*(?:\\\||\\[lr]?Vert\b)")
#: A large fence with an exponent; alone in its base it would be centered anew and fall below its partner.
_FENCE = re.compile(r'(<m(?:sup|sub|subsup)>)(<mo [^>]*minsize="[^"]*"[^>]*>[^<]*</mo>)')
#: A sign, not a difference: what follows a relation, a bracket or a comma.
_SIGN = re.compile(r"(<mo[^>]*>(?:&#x0003D;|&#x00028;|&#x0002C;|=|\(|,)</mo>)<mo>(&#x02212;|\+)</mo>")
#: Bars are fences here, and browsers set them apart as if they were relations.
_BAR = re.compile(r"<mo([^>]*)>(&#x0007C;|&#x02016;|&#x02225;|\||‖|∥)</mo>")


def set_inline(title: str, name: str) -> str:
    """Return a title with MathML for ``\\(TeX\\)``."""
    return re.sub(
        r"\\\((.*?)\\\)", lambda tex: set_formulas(f'<span class="arithmatex">{tex[0]}</span>', name), title
    )


def set_formulas(page: str, name: str) -> str:
    """Return the HTML of a page with MathML for TeX; ``name`` is for warnings."""

    def formula(marked: re.Match[str]) -> str:
        block = marked["block"] is not None
        tex = html.unescape(marked["block"] if block else marked["inline"]).strip()
        for name_of_it, known in _KNOWN.items():
            tex = tex.replace(name_of_it, known)
        tex = _NORM.sub(r"\1‖", tex)
        try:
            made = convert(tex, display="block" if block else "inline")
        except Exception as error:  # the converter has no error of its own
            _log.warning("%s: the formula %r cannot be set: %r", name, tex, error)
            return marked[0]
        for unknown in _UNKNOWN.findall(made):
            _log.warning("%s: %s is not known, in the formula %r", name, unknown, tex)
        made = _BOLD.sub(lambda letter: f"<mi>{_bold(letter[1])}</mi>", made)
        made = _FENCE.sub(r"\1<mrow><mi></mi>\2</mrow>", made)
        made = _SIGN.sub(r'\1<mo form="prefix">\2</mo>', made)
        made = _BAR.sub(r'<mo lspace="0" rspace="0"\1>\2</mo>', made)
        return f'<div class="formula">{made}</div>' if block else made

    return _MARKED.sub(formula, page)


def _bold(letter: str) -> str:
    first = 0x1D468 - ord("A") if letter <= "Z" else 0x1D482 - ord("a")
    return chr(first + ord(letter))
