"""Links of README.md and the pages: every file and every heading that they lead to is there, on disk as on the site."""

from __future__ import annotations

import re
from pathlib import Path
from posixpath import dirname, join, normpath

import docs_snippets as snippets
import pytest
import yaml

ROOT = snippets.ROOT
PAGES = [*snippets.pages(), ROOT / "SECURITY.md", ROOT / "CHANGELOG.md"]

_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\((?P<to>[^()\s]+)(?:\s+\"[^\"]*\")?\)")
_SITE = re.compile(r"^(https?|mailto):")


def prose(page: Path) -> str:
    """The text of a page without its code."""
    kept, inside = [], False
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.lstrip().startswith(("```", "~~~")):
            inside = not inside
        elif not inside:
            kept.append(re.sub(r"`[^`]*`", lambda code: code[0].replace("[", "").replace("(", ""), line))
    return "\n".join(kept)


def anchors(page: Path) -> set[str]:
    """What a link may name behind ``#``, as GitHub and the site make it of headings."""
    found: set[str] = set()
    for line in prose_with_code_words(page).splitlines():
        if heading := re.match(r"^#{1,6} +(.*?)(?: *\{ *#([\w-]+) *\})? *$", line):
            words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1])
            slug = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
            found.add(heading[2] or slug)
    return found | set(re.findall(r'id="([\w-]+)"', page.read_text(encoding="utf-8")))


def prose_with_code_words(page: Path) -> str:
    inside, kept = False, []
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.lstrip().startswith(("```", "~~~")):
            inside = not inside
        elif not inside:
            kept.append(line)
    return "\n".join(kept)


def generated() -> set[str]:
    """Pages that exist on the site alone, by their path in docs/."""
    text = (ROOT / "docs" / "_hooks" / "reference.py").read_text(encoding="utf-8")
    named = set(re.findall(r'^    "(reference/[\w/]+\.md)":', text, re.MULTILINE))
    modules = re.findall(r'"mmtk(?:\.(\w+))?",', text.partition("MODULES = (")[2].partition(")")[0] + ",")
    return named | {f"reference/api/{module or 'mmtk'}.md" for module in modules}


GENERATED = generated()


def links(page: Path) -> list[str]:
    return [link["to"] for link in _LINK.finditer(prose(page)) if not _SITE.match(link["to"])]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page: Path) -> None:
    dead = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = normpath(join(dirname(name(page)), path)) if path else name(page)
        if target.removeprefix("docs/") in GENERATED:
            continue  # a strict build of the site looks after these
        file = ROOT / target
        if not file.exists() or target.startswith("..") or (anchor and anchor not in anchors(file)):
            dead.append(link)
    assert not dead, f"{name(page)}: {dead}"


def test_links_are_found_and_dead_ones_seen(tmp_path: Path) -> None:
    page = tmp_path / "p.md"
    page.write_text(
        "[a](b.md) ![c](d.png) `[no](x.md)`\n```text\n[no](y.md)\n```\n[`code`](e.md#f) [g](https://h)\n"
    )
    assert links(page) == ["b.md", "d.png", "e.md#f"]
    page.write_text("# One & `two`\n## Going on: `--resume`\n### named { #own }\n")
    assert anchors(page) == {"one--two", "going-on---resume", "own"}


def nav() -> list[str]:
    """Every page of the navigation, in order."""
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    told = yaml.safe_load(text.replace("!!python/object/apply:pymdownx.slugs.slugify", ""))["nav"]

    def walk(entry: object) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        inner = entry.values() if isinstance(entry, dict) else entry
        return [page for one in inner for page in walk(one)]  # type: ignore[attr-defined]

    return walk(told)


def test_every_page_is_in_the_navigation_once() -> None:
    written = {str(page.relative_to(ROOT / "docs")) for page in snippets.pages() if page.name != "README.md"}
    named = nav()
    assert len(named) == len(set(named))
    assert written - set(named) == set()


def test_the_navigation_names_no_page_that_is_not_there() -> None:
    there = {str(page.relative_to(ROOT / "docs")) for page in snippets.pages() if page.name != "README.md"}
    assert set(nav()) - there - GENERATED - {"security.md", "changelog.md"} == set()


def test_the_readme_links_the_site_and_every_group_of_pages() -> None:
    told = links(ROOT / "README.md")
    for page in ("docs/get-started.md", "docs/how-to/my-scan.md", "docs/plugins.md", "docs/benchmarks.md"):
        assert page in told
