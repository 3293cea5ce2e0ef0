"""What the site does beyond mkdocs.yml: pages made from the code, files of the root as pages, formulas as MathML.

A page may link to a file of the root, ``../SECURITY.md``, as a reader of the repository needs it; the site has a page
for each of them, and the link is turned to it.
"""

from __future__ import annotations

import re
from pathlib import Path
from posixpath import dirname, normpath, relpath

import mathfont
import mathml
import reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]

#: Files of the root, and the pages that they become.
FROM_ROOT = {"SECURITY.md": "security.md", "CHANGELOG.md": "changelog.md"}

_LINK = re.compile(r"(?<=\]\()(?P<path>[^)#\s:]+)(?P<anchor>#[^)\s]*)?(?=\))")
_PIECE = re.compile(r"^<!-- generated: (?P<name>\w+) -->$", re.MULTILINE)


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add what is generated, and the files of the root."""
    for source, page in FROM_ROOT.items():
        files.append(File.generated(config, page, content=_from_root((ROOT / source).read_text(encoding="utf-8"))))
    for page, make in reference.PAGES.items():
        files.append(File.generated(config, page, content=make()))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to files of the root to their pages, and put in what is made from the code."""
    markdown = _PIECE.sub(lambda found: reference.PIECES[found["name"]](), markdown)
    folder = dirname(page.file.src_uri)

    def turned(link: re.Match[str]) -> str:
        root = normpath(f"docs/{folder}/{link['path']}")
        if root not in FROM_ROOT:
            return link[0]
        return relpath(FROM_ROOT[root], folder or ".") + (link["anchor"] or "")

    return _LINK.sub(turned, markdown)


def on_page_content(html: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Set the formulas, those of headings in the table of contents, too."""
    waiting = list(page.toc)
    while waiting:
        entry = waiting.pop()
        entry.title = mathml.set_inline(entry.title, page.file.src_uri)
        waiting += entry.children
    return mathml.set_formulas(html, page.file.src_uri)


def on_post_build(*, config: MkDocsConfig) -> None:
    """Write the font of the formulas, of the signs that they hold."""
    site = Path(config.site_dir)
    mathfont.write_font(site, site / "assets" / "math.woff")


def _from_root(text: str) -> str:
    """Links of a file of the root lead into docs/, where its page is already, or to another such file."""

    def turned(link: re.Match[str]) -> str:
        path = FROM_ROOT.get(link["path"], link["path"].removeprefix("docs/"))
        return path + (link["anchor"] or "")

    return _LINK.sub(turned, text)
