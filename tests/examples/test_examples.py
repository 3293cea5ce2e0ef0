"""The examples: their pages are those of their scripts, the scripts run, and what the pages say is what came out."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def _build() -> Any:
    spec = importlib.util.spec_from_file_location("examples_build", ROOT / "examples/build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


build = _build()

SMALL = {"size": 64, "iterations": 3, "many_steps": [3, 5]}

TINY = """\
# %% [markdown]
# # A title
#
# Words.

# %% tags=["parameters"]
size = 5

# %% A curve, seen from the side tags=["hide-input"]
import matplotlib.pyplot as plt

plt.plot(range(size))
print("before")
plt.show()
print("after")

# %% tags=["remove-cell"]
assert size == 5, "the claim"
"""


@pytest.fixture
def tiny(tmp_path):
    script = tmp_path / "tiny.py"
    script.write_text(TINY)
    return script


# --- the pages


@pytest.mark.parametrize("name", build.NAMES)
def test_the_page_is_that_of_the_script(name):
    assert build.problems(name) == []


@pytest.mark.parametrize("name", build.NAMES)
def test_numbers_that_were_measured_are_printed_and_not_written(name):
    """Words hold none with a decimal point or a percent sign: those come from the code, which is run."""
    for cell in build.read(name):
        if cell.words:
            words = re.sub(r"`[^`]*`|^ {4}.*$|algorithm 5\.2", "", cell.text, flags=re.MULTILINE)
            assert not re.findall(r"\d\.\d|\d ?%", words), f"line {cell.line}"


def test_every_script_has_a_page_and_the_overview_names_it():
    overview = (build.PAGES / "index.md").read_text(encoding="utf-8")
    scripts = {path.stem for path in (ROOT / "examples").glob("*.py")} - {"build"}
    assert scripts == set(build.NAMES) == {path.stem for path in build.PAGES.glob("*.md")} - {"index"}
    assert all(f"({name}.md)" in overview for name in build.NAMES)
    pictures = {path.name.rpartition("-")[0] for path in build.PICTURES.glob("*")}
    assert pictures == set(build.NAMES)


@pytest.mark.parametrize("name", build.NAMES)
def test_pictures_are_small_and_told_in_words(name):
    from PIL import Image

    page = (build.PAGES / f"{name}.md").read_text(encoding="utf-8")
    shown = re.findall(r"!\[([^\]]*)\]\(([^)]*)\)", page)
    assert shown
    for words, path in shown:
        file = build.PAGES / path
        assert len(words) > 20
        assert file.stat().st_size < 200_000
        with Image.open(file) as picture:
            assert picture.width < 1400


# --- the builder


def test_cells_are_read_with_title_tags_and_place():
    words, parameters, picture, claim = build.read_cells("# %%\n" + TINY)[1:]
    assert words.words and words.text == "# A title\n\nWords."
    assert parameters.tags == {"parameters"} and parameters.text == "size = 5"
    assert picture.title == "A curve, seen from the side" and picture.tags == {"hide-input"}
    assert ("# %%\n" + TINY).splitlines()[claim.line - 1] == claim.text


@pytest.mark.parametrize(
    ("script", "told"),
    [("x = 1\n# %%\n", "before the first"), ("# %% [markdown]\nwords\n", "line 2: words of a markdown cell")],
)
def test_a_script_that_is_no_notebook_is_refused(script, told):
    with pytest.raises(ValueError, match=told):
        build.read_cells(script)


def test_a_page_has_what_its_script_prints_and_draws_in_that_order(tiny, tmp_path):
    outputs = build.run(tiny, tmp_path / "out")
    assert outputs[1] == [build.Output("before"), build.Output(picture="tiny-1.png"), build.Output("after")]
    assert (tmp_path / "out/tiny-1.png").is_file()
    page = build.page_of("tiny", build.read_cells(TINY), outputs)
    places = [
        page.index(part) for part in ("```text\nbefore", "![A curve, seen from the side](", "```text\nafter")
    ]
    assert places == sorted(places)
    assert "the claim" not in page and "<summary>Code: A curve" in page
    assert build.without_outputs(page) == build.page_of("tiny", build.read_cells(TINY))
    other = build.page_of("tiny", build.read_cells(TINY.replace("Words", "Others")))
    assert build.without_outputs(page) != other


def test_claims_are_held_unless_parameters_are_others(tiny, tmp_path):
    begin, end = TINY.index("import matplotlib"), TINY.index('# %% tags=["remove')
    tiny.write_text((TINY[:begin] + "print(size)\n\n" + TINY[end:]).replace("size = 5", "size = 6"))
    assert build.run(tiny, tmp_path / "out", {"size": 7}) == [[], [build.Output("7")], []]
    with pytest.raises(RuntimeError, match=r"line 13(.|\n)*the claim"):
        build.run(tiny, tmp_path / "out")
    with pytest.raises(RuntimeError, match=r"tiny.py has no parameter sise"):
        build.run(tiny, tmp_path / "out", {"sise": 7})


def test_a_warning_and_a_figure_that_is_not_shown_stop_the_builder(tiny, tmp_path):
    tiny.write_text(TINY.replace("plt.show()", "pass"))
    with pytest.raises(RuntimeError, match="a figure is not shown"):
        build.run(tiny, tmp_path / "out")
    tiny.write_text("# %%\nimport warnings\nwarnings.warn('old')\n")
    with pytest.raises(RuntimeError, match="UserWarning: old"):
        build.run(tiny, tmp_path / "out")


@pytest.mark.parametrize(
    ("again", "same"),
    [
        ("error 1.02 mm, 9.9 s", True),
        ("error 1.20 mm, 1.0 s", False),
        ("errors 1.00 mm, 1.0 s", False),
        ("error  1.00 mm,  1.0 s", True),
        ("error −1.00 mm, 1.0 s", False),
        ("error 1.00 mm, 1.0 s\nmore", False),
    ],
)
def test_numbers_may_differ_by_rounding_and_seconds_by_anything(again, same):
    page, other = (
        f"# A title\n\n<!-- output -->\n```text\n{text}\n```\n\n<!-- end of output -->\n\n"
        for text in ("error 1.00 mm, 1.0 s", again)
    )
    assert (build.changed(page, other) == []) is same


def test_the_command_says_which_pages_are_stale(tmp_path):
    words = [sys.executable, str(ROOT / "examples/build.py")]
    done = subprocess.run([*words, "--check"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    asked = subprocess.run([*words, "--check", "tumour"], capture_output=True, text=True, check=False)
    assert asked.returncode == 2 and "no example is called tumour; there are tumor, pre_post" in asked.stderr


# --- the scripts


def test_an_example_runs_at_small_size(tmp_path):
    outputs = build.run(ROOT / "examples/cut_c.py", tmp_path, SMALL)
    drawn = [output.picture for cell in outputs for output in cell if output.picture]
    assert drawn == ["cut_c-1.png", "cut_c-2.png", "cut_c-3.png"]
    printed = "\n".join(output.text for cell in outputs for output in cell)
    assert re.findall(r"^(\w+) +0 +0\.00 ", printed, re.MULTILINE) == [
        "eulerian", "semi_lagrangian", "sharp", "lagrangian", "particles"
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", build.NAMES)
def test_an_example_says_what_its_page_says(name, tmp_path):
    """At full size, every claim asserted."""
    again = build.page_of(name, build.read(name), build.run(ROOT / f"examples/{name}.py", tmp_path))
    assert build.changed((build.PAGES / f"{name}.md").read_text(encoding="utf-8"), again) == []


@pytest.mark.slow
def test_an_example_runs_as_plain_python(tmp_path):
    """This one has a part in ``__main__`` and reads its own source."""
    environ = {**os.environ, "MPLBACKEND": "Agg", "TMPDIR": str(tmp_path)}
    words = [sys.executable, "-W", "ignore", "examples/write_a_plugin.py"]
    done = subprocess.run(words, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "edge_directions, installed" in done.stdout
