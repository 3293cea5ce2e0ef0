"""The pages of the examples: a script is run cell by cell, and what it prints and draws goes onto its page.

    python examples/build.py                  every page
    python examples/build.py tumor cut_c      these
    python examples/build.py --check          which pages do not show what their scripts say; runs nothing

A script is in the percent format of jupytext and VS Code, runs as plain Python, and opens as a notebook. Its cells:

    # %% [markdown]                     words
    # %% A title                        code, shown; the title says in words what its picture shows
    # %% A title tags=["hide-input"]    code that a reader unfolds
    # %% tags=["parameters"]            what a test sets otherwise, to be quick
    # %% tags=["remove-cell"]           not shown: what the words claim, asserted; left out where parameters were set

Pages go to ``docs/examples``, pictures to ``docs/images/examples``. Whoever edits a script builds its page again; tests
compare the two, and (slowly) what the script prints with what its page says.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PAGES, PICTURES = HERE.parent / "docs/examples", HERE.parent / "docs/images/examples"
NAMES = ("tumor", "pre_post", "cut_c", "write_a_plugin")

#: Pixels an inch.
DPI = 120

#: Colors of lines, outlines and marks: those of mmtk's own pictures and of Matplotlib's dark style.
LINES = (
    "#ffd23f", "#4fe0ff", "#ff2bd6", "#8fd3ff",
    "#8dd3c7", "#feffb3", "#bfbbd9", "#fa8174", "#81b1d2", "#fdb462", "#b3de69", "#bc82bd",
)  # fmt: skip

#: Numbers of a page and of a new run may differ by this share, or by this much: machines round differently. Seconds and
#: memory may be anything.
CLOSE, NEAR = 0.05, 0.02

_CELL = re.compile(
    r"^# %%(?P<words>[^\[\n]*?)(?P<markdown>\[markdown\])?\s*(?:tags=(?P<tags>\[.*\]))?\s*$",
    re.MULTILINE,
)
_OUTPUT = re.compile(r"<!-- output -->\n(.*?)<!-- end of output -->\n\n", re.DOTALL)
_NUMBER = re.compile(
    r"(?<![\w.])[-+−]?\d[\d\u202f]*(?:\.\d+)?(?:e[-+]?\d+)?(?P<unit>\s?(?:s|MB|GB)\b)?"
)


@dataclass(frozen=True)
class Cell:
    """A cell of a script.

    Attributes:
        words: Whether it is markdown.
        text: What it holds; of markdown, without the comment signs.
        line: Of its first line of text, from 1.
        title: Behind ``%%``.
        tags: Such as ``hide-input``.
    """

    words: bool
    text: str
    line: int
    title: str
    tags: frozenset[str]


@dataclass(frozen=True)
class Output:
    """What a cell printed, or the name of a picture that it drew."""

    text: str = ""
    picture: str = ""


def read_cells(script: str) -> list[Cell]:
    """Return the cells of a script in the percent format.

    Raises:
        ValueError: If code stands before the first cell, or words are no comment.
    """
    heads = list(_CELL.finditer(script))
    before = script[: heads[0].start()] if heads else script
    if any(line.strip() and not line.startswith("#") for line in before.splitlines()):
        raise ValueError("there is code before the first '# %%'; begin a cell")
    cells = []
    for head, end in zip(
        heads, [*(h.start() for h in heads[1:]), len(script)], strict=True
    ):
        text, line = (
            script[head.end() : end].strip("\n"),
            script.count("\n", 0, head.end()) + 2,
        )
        if head["markdown"]:
            lines = text.splitlines()
            odd = [
                one for one in lines if one.rstrip() and not re.match(r"#( |$)", one)
            ]
            if odd:
                raise ValueError(
                    f"line {line + lines.index(odd[0])}: words of a markdown cell are comments: {odd[0]!r}"
                )
            text = "\n".join(one.removeprefix("#").removeprefix(" ") for one in lines)
        tags = frozenset(json.loads(head["tags"] or "[]"))
        cells.append(
            Cell(
                bool(head["markdown"]),
                text.strip("\n"),
                line,
                head["words"].strip(),
                tags,
            )
        )
    return cells


def read(name: str) -> list[Cell]:
    """Return the cells of an example."""
    return read_cells((HERE / f"{name}.py").read_text(encoding="utf-8"))


# --- running


def run(
    script: Path, folder: Path, settings: Mapping[str, Any] | None = None
) -> list[list[Output]]:
    """Run a script in a process of its own and return the outputs of its code cells; pictures go into ``folder``.

    Args:
        script: In the percent format.
        folder: Made if missing.
        settings: In place of what the cell tagged ``parameters`` says; the claims are then left out.

    Raises:
        RuntimeError: If a cell fails; the message ends with its traceback.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        report = Path(place) / "outputs.json"
        asked = [str(script), str(folder), str(report), json.dumps(settings or {})]
        environ = {
            **os.environ,
            "OMP_WAIT_POLICY": "passive",
            "MPLBACKEND": "Agg",
            "TMPDIR": place,
        }
        done = subprocess.run(
            [sys.executable, str(Path(__file__).resolve()), "--in-here", *asked],
            env=environ,
            cwd=script.parent,
            text=True,
            capture_output=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{script.name} failed:\n{done.stderr[-4000:]}")
        return [
            [Output(**one) for one in cell]
            for cell in json.loads(report.read_text(encoding="utf-8"))
        ]


def _run_here(
    script: Path, folder: Path, report: Path, settings: Mapping[str, Any]
) -> None:
    """Run a script in this process as Python would, and as a notebook would show it."""
    import matplotlib.pyplot as plt

    warnings.simplefilter("error")
    warnings.filterwarnings(
        "ignore", ".torch\\.jit", DeprecationWarning
    )  # by ignite, which MONAI imports
    main = types.ModuleType("__main__")
    main.__dict__["__file__"] = str(script)
    sys.modules["__main__"], sys.argv = main, [str(script)]
    outputs: list[list[Output]] = []
    count = 0

    def show(*args: Any, **kwargs: Any) -> None:
        nonlocal count
        for number in plt.get_fignums():
            count += 1
            picture = f"{script.stem}-{count}.png"
            _save(plt.figure(number), folder / picture)
            outputs[-1] += [*_flushed(printed), Output(picture=picture)]
        plt.close("all")

    plt.show = show
    for cell in read_cells(script.read_text(encoding="utf-8")):
        if cell.words:
            continue
        outputs.append([])
        if settings and "remove-cell" in cell.tags:
            continue
        printed = io.StringIO()
        code = compile(
            "\n" * (cell.line - 1) + cell.text, str(script), "exec", dont_inherit=True
        )
        with contextlib.redirect_stdout(printed):
            exec(code, main.__dict__)
        outputs[-1] += _flushed(printed)
        if plt.get_fignums():
            raise RuntimeError(
                f"{script.name}, line {cell.line}: a figure is not shown; end the cell with plt.show()"
            )
        if "parameters" in cell.tags:
            unknown = set(settings) - set(main.__dict__)
            if unknown:
                raise RuntimeError(
                    f"{script.name} has no parameter {', '.join(sorted(unknown))}"
                )
            main.__dict__.update(settings)
    report.write_text(
        json.dumps([[vars(one) for one in cell] for cell in outputs]), encoding="utf-8"
    )


def _flushed(printed: io.StringIO) -> list[Output]:
    text = printed.getvalue().strip("\n")
    printed.seek(0)
    printed.truncate()
    return (
        [Output("\n".join(line.rstrip() for line in text.splitlines()))]
        if text.strip()
        else []
    )


def _save(figure: Any, path: Path) -> None:
    """Write a figure as a small PNG: on its own ground, so that it reads on a light and on a dark page."""
    from PIL import Image

    file = io.BytesIO()
    figure.savefig(file, dpi=DPI, bbox_inches="tight", pad_inches=0.12)
    palette = Image.new("P", (1, 1))
    palette.putpalette([level for color in _palette() for level in color])
    picture = (
        Image.open(file)
        .convert("RGB")
        .quantize(palette=palette, dither=Image.Dither.NONE)
    )
    picture.save(path, "PNG", optimize=True)


def _palette() -> list[tuple[int, ...]]:
    """Return the 256 colors of every picture: gray scans, two color maps, lines.

    A palette of a picture's own would have steps in the gray that one sees.
    """
    import numpy as np
    from matplotlib.colors import LinearSegmentedColormap, to_rgb

    from mmtk.report.plots import COLORS

    ramps = [
        LinearSegmentedColormap.from_list(name, COLORS[name])(np.linspace(0, 1, count))[
            :, :3
        ]
        for name, count in (("gray", 96), ("signed", 64), ("lengths", 60))
    ]
    lines = np.array([to_rgb(color) for color in LINES])
    every = np.concatenate([*ramps, lines, 0.66 * lines, 0.33 * lines])
    return [tuple(round(255 * level) for level in color) for color in every]


# --- pages


def page_of(
    name: str, cells: Sequence[Cell], outputs: Sequence[Sequence[Output]] | None = None
) -> str:
    """Return the page of a script; without ``outputs``, what of it does not depend on them."""
    parts = [
        f"<!-- Made by `python examples/build.py {name}` from examples/{name}.py. Edit that. -->\n\n"
    ]
    code = iter(outputs if outputs is not None else [[]] * len(cells))
    for cell in cells:
        if cell.words:
            parts.append(f"{cell.text}\n\n")
            continue
        made = next(code)
        if "remove-cell" in cell.tags:
            continue
        block = f"```python\n{cell.text}\n```\n\n"
        if "hide-input" in cell.tags:
            block = f'<details markdown="1">\n<summary>Code: {cell.title}</summary>\n\n{block}</details>\n\n'
        parts.append(block)
        if made:
            shown = "".join(_shown(one, cell) for one in made)
            parts.append(f"<!-- output -->\n{shown}<!-- end of output -->\n\n")
    return "".join(parts).rstrip("\n") + "\n"


def _shown(output: Output, cell: Cell) -> str:
    if output.text:
        return f"```text\n{output.text}\n```\n\n"
    if not cell.title:
        raise ValueError(
            f"line {cell.line}: a cell that draws needs a title that says in words what is seen"
        )
    return f"![{cell.title}](../images/examples/{output.picture})\n\n"


def without_outputs(page: str) -> str:
    """Return what of a page does not depend on how its script ran."""
    return _OUTPUT.sub("", page + "\n").rstrip("\n") + "\n"


def outputs_of(page: str) -> list[str]:
    """Return what the cells of a page printed and drew, cell by cell, as it stands there."""
    return _OUTPUT.findall(page + "\n")


def problems(name: str) -> list[str]:
    """Say in what a page is not that of its script, by name alone: nothing is run."""
    path = PAGES / f"{name}.md"
    again = f"run `python examples/build.py {name}`"
    if not path.is_file():
        return [f"docs/examples/{name}.md is missing; {again}"]
    page = path.read_text(encoding="utf-8")
    found = []
    if without_outputs(page) != page_of(name, read(name)):
        found.append(
            f"docs/examples/{name}.md does not show the cells of examples/{name}.py; {again}"
        )
    named = set(re.findall(r"images/examples/([\w.-]+)\)", page))
    there = {file.name for file in PICTURES.glob(f"{name}-*.png")}
    if named != there:
        found.append(
            f"pictures of docs/examples/{name}.md are {sorted(named)} but there are {sorted(there)}; {again}"
        )
    return found


def changed(page: str, again: str) -> list[str]:
    """Say where the outputs of two pages of one script differ by more than rounding; seconds and memory may."""
    before, after = outputs_of(page), outputs_of(again)
    if len(before) != len(after):
        return [
            f"{len(before)} cells of the page have outputs, of the new run {len(after)}"
        ]
    found = []
    for one, other in zip(before, after, strict=True):
        lines = one.splitlines(), other.splitlines()
        if len(lines[0]) != len(lines[1]):
            found.append(f"the page says {one!r}, the new run {other!r}")
            continue
        found += [
            f"the page says {a!r}, the new run {b!r}"
            for a, b in zip(*lines, strict=True)
            if not _same(a, b)
        ]
    return found


def _same(one: str, other: str) -> bool:
    numbers = [list(_NUMBER.finditer(line)) for line in (one, other)]
    words = [re.sub(r"\s+", " ", _NUMBER.sub("0", line)) for line in (one, other)]
    if words[0] != words[1] or one.startswith("!["):
        return one == other
    pairs = zip(*numbers, strict=True)
    return all(
        a["unit"] or abs(_value(a) - _value(b)) <= max(NEAR, CLOSE * abs(_value(a)))
        for a, b in pairs
    )


def _value(number: re.Match[str]) -> float:
    return float(number[0].replace("−", "-").replace("\u202f", ""))


def build(name: str) -> None:
    """Run a script and write its page and its pictures, in place of those that are there."""
    with tempfile.TemporaryDirectory() as place:
        pictures = Path(place)
        page = page_of(name, read(name), run(HERE / f"{name}.py", pictures))
        PAGES.mkdir(parents=True, exist_ok=True)
        PICTURES.mkdir(parents=True, exist_ok=True)
        for old in PICTURES.glob(f"{name}-*.png"):
            old.unlink()
        for picture in sorted(pictures.glob("*.png")):
            shutil.copy(picture, PICTURES / picture.name)
        (PAGES / f"{name}.md").write_text(page, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the pages of the examples.")
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"of {', '.join(NAMES)}; all by default",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="say which pages are stale, and run nothing",
    )
    parser.add_argument("--in-here", nargs=4, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    unknown = set(asked.names) - set(NAMES)
    if unknown:
        parser.error(
            f"no example is called {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}"
        )
    if asked.in_here:
        script, pictures, report, settings = asked.in_here
        _run_here(Path(script), Path(pictures), Path(report), json.loads(settings))
    elif asked.check:
        found = [problem for name in asked.names or NAMES for problem in problems(name)]
        sys.exit("\n".join(found) or 0)
    else:
        for name in asked.names or NAMES:
            start = time.perf_counter()
            build(name)
            print(
                f"docs/examples/{name}.md: {time.perf_counter() - start:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
