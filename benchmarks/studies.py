"""The tables of studies that `mmtk compare` has run, for the benchmarks' page.

    mmtk compare examples/studies/cardiac.yaml --out FOLDER
    python -m benchmarks.studies cardiac FOLDER

keeps the study's tables in ``results/studies/``. What they say is written by hand in ``words/NAME.md``.
"""

from __future__ import annotations

import argparse
import re
import shutil
from pathlib import Path

from benchmarks import store

__all__ = ["NAMES", "keep", "render"]

#: The studies, in the order of the page.
NAMES = ("table_5_2", "tumor_brain", "brains", "cardiac", "three_papers", "lungs", "brain_slices")
WORDS = Path(__file__).parent / "words"

#: Sections of ``tables.md`` that the page leaves to the study's own report.
_LONG = ("Median [quartiles]",)


def keep(name: str, folder: Path, results: Path = store.RESULTS) -> None:
    """Copy what the page needs of a study's folder."""
    target = results / "studies"
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / "tables.md", target / f"{name}.md")


def render(results: Path = store.RESULTS) -> str:
    """Return every study that was kept: its words, and its tables one level deeper."""
    parts = []
    for name in NAMES:
        tables = results / "studies" / f"{name}.md"
        if not tables.is_file():
            parts.append(f"### `examples/studies/{name}.yaml`\n\nNot run yet.\n")
            continue
        parts.append(f"### `examples/studies/{name}.yaml`\n")
        words = WORDS / f"{name}.md"
        if words.is_file():
            parts.append(words.read_text(encoding="utf-8"))
        parts.append(_shorter(tables.read_text(encoding="utf-8")))
    return "\n".join(parts)


def _shorter(text: str) -> str:
    """Return the tables of means, and the tests of the first metric."""
    sections = re.split(r"(?m)^## ", text)
    kept, tests = [sections[0].strip()], 0
    for section in sections[1:]:
        title = section.split("\n", 1)[0]
        if title in _LONG:
            continue
        if ": against " in title:
            tests += 1
            if tests > 1:
                continue
        kept.append(f"#### {section.strip()}")
    return "\n\n".join(kept).strip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("folder", type=Path)
    asked = parser.parse_args()
    keep(asked.name, asked.folder)


if __name__ == "__main__":
    main()
