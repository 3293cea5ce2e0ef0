"""The font of the formulas: a browser sets MathML well only in a font made for it, and few machines have one.

STIX Two Math (SIL Open Font License) comes with the package ziamath. Of its 1.5 MB the site gets the glyphs that its
formulas use, with their taller and wider forms.
"""

from __future__ import annotations

import html
import re
from importlib.util import find_spec
from pathlib import Path

from fontTools import subset

_MATH = re.compile(r"<math\b.*?</math>", re.DOTALL)
_TAG = re.compile(r"<[^>]*>")
#: Fences and accents that a browser may add itself, and letters that a style makes italic.
ALWAYS = "()[]{}|‖∥⌊⌋⌈⌉⟨⟩√∑∏∫^~¯‾˙¨→.,:;=+-−*/<>0123456789"


def write_font(site: Path, file: Path) -> None:
    """Write the font for all pages below ``site`` to ``file``."""
    used = set(ALWAYS)
    for page in site.rglob("*.html"):
        for formula in _MATH.findall(page.read_text(encoding="utf-8")):
            used |= set(html.unescape(_TAG.sub("", formula)))
    codes = {ord(sign) for sign in used} | {italic for sign in used if (italic := _italic(sign))}
    options = subset.Options(flavor="woff", layout_features=["*"], name_IDs=["*"], notdef_outline=True)
    source = Path(str(find_spec("ziamath").origin)).parent / "fonts" / "STIXTwoMath-Regular.ttf"
    font = subset.load_font(str(source), options)
    chosen = subset.Subsetter(options)
    chosen.populate(unicodes=codes)
    chosen.subset(font)
    file.parent.mkdir(parents=True, exist_ok=True)
    subset.save_font(font, str(file), options)


def _italic(sign: str) -> int:
    """The mathematical italic of a letter; browsers use it for an identifier of one letter."""
    code = ord(sign)
    if "A" <= sign <= "Z":
        return 0x1D434 + code - ord("A")
    if sign == "h":
        return 0x210E
    if "a" <= sign <= "z":
        return 0x1D44E + code - ord("a")
    if "Α" <= sign <= "Ω":
        return 0x1D6E2 + code - ord("Α")
    if "α" <= sign <= "ω":
        return 0x1D6FC + code - ord("α")
    return {"∂": 0x1D715, "ϵ": 0x1D716, "ϕ": 0x1D719, "ϑ": 0x1D717}.get(sign, 0)
