"""Every piece of code on the pages is run, as docs_snippets.py says; and what is not run is counted.

`MMTK_DOCS_PASTE=1 pytest tests/docs -k shows` writes what was printed into the pages, where it is no longer the same.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import docs_snippets as snippets
import pytest
import yaml

#: Blocks that are shown and never run. Whoever adds one must raise this, and say why in the mark.
UNRUN = 12

FOUND = {page: snippets.blocks(page.read_text(encoding="utf-8"), str(page.relative_to(snippets.ROOT)))
         for page in snippets.pages()}  # fmt: skip
EVERY = [block for found in FOUND.values() for block in found]


def runnable(found: list[snippets.Block], slow: bool) -> list[snippets.Block]:
    code = [b for b in found if (b.language in snippets.SHELL or b.language == "python") and not b.unrun]
    return [b for b in code if slow or not b.slow]


def name(page: Path) -> str:
    return str(page.relative_to(snippets.ROOT))


WRITTEN = {page: found for page, found in FOUND.items() if snippets.script_of(page) is None}
SCRIPTED = [page for page in FOUND if page not in WRITTEN]
QUICK = [page for page, found in WRITTEN.items() if runnable(found, slow=False)]
SLOW = [page for page, found in WRITTEN.items() if any(b.slow for b in runnable(found, slow=True))]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[snippets.Stage]:
    made = snippets.Stage(tmp_path_factory.mktemp("stage") / "at", sys.executable)
    yield made
    made.close()


@pytest.mark.parametrize("page", QUICK, ids=name)
def test_the_code_of_the_page_runs(page: Path, stage: snippets.Stage, tmp_path: Path) -> None:
    some = runnable(FOUND[page], slow=False)
    printed = stage.play(some, tmp_path / "page")
    compare(FOUND[page], some, printed)


@pytest.mark.slow
@pytest.mark.parametrize("page", SLOW, ids=name)
def test_the_code_of_the_page_runs_with_what_takes_long(page: Path, stage: snippets.Stage, tmp_path: Path) -> None:
    some = runnable(FOUND[page], slow=True)
    printed = stage.play(some, tmp_path / "page", timeout=1800)
    compare(FOUND[page], some, printed)


@pytest.mark.parametrize("page", SCRIPTED, ids=name)
def test_the_code_of_an_example_is_that_of_its_script(page: Path) -> None:
    """The script is what is run; see examples/build.py."""
    script = "\n".join(line.strip() for line in snippets.script_of(page).read_text(encoding="utf-8").splitlines())
    for block in FOUND[page]:
        theirs = block.language in ("python", "text") or block.unrun
        assert theirs, f"{block.page}:{block.line}: only the script's code can be here"
        if block.language == "python":
            code = "\n".join(line.strip() for line in block.text.strip().splitlines())
            assert code in script, f"{block.page}:{block.line}: {page.stem}.py does not say so"


def compare(found: list[snippets.Block], some: list[snippets.Block], printed: list[str]) -> None:
    """Compare what was printed with what the page shows."""
    for block in found:
        if not block.is_output:
            continue
        before = [b for b in found if b.line < block.line and b.language in (*snippets.SHELL, "python")]
        assert before, f"{block.page}:{block.line}: the output of nothing"
        if before[-1] in some:
            was = printed[some.index(before[-1])]
            wrong = snippets.differs(block.text, was)
            if wrong and os.environ.get("MMTK_DOCS_PASTE"):
                paste(block, was)
            else:
                assert not wrong, f"{block.page}:{block.line}: {wrong}\nAll that was printed:\n{was}"


def paste(block: snippets.Block, was: str) -> None:
    page = snippets.ROOT / block.page
    old = f"```text\n{block.text}\n```"
    text = page.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{block.page}:{block.line}: not pasted; the block stands there twice"
    page.write_text(text.replace(old, f"```text\n{was.rstrip()}\n```"), encoding="utf-8")


# --- nothing escapes


def test_there_are_pages_and_blocks() -> None:
    assert len(FOUND) > 20 and len(runnable(EVERY, slow=True)) > 60


@pytest.mark.parametrize("block", EVERY, ids=lambda b: f"{b.page}:{b.line}")
def test_every_block_is_of_a_kind_that_is_looked_at(block: snippets.Block) -> None:
    where = f"{block.page}:{block.line}"
    assert block.language in snippets.LANGUAGES, f"{where}: say which language it is, one of {snippets.LANGUAGES}"
    for mark in block.marks:
        assert snippets.known_mark(mark), f"{where}: what does the mark '{mark}' mean?"
    if block.language == "json":
        json.loads(block.text)
    elif block.language == "yaml":
        yaml.safe_load(block.text)
    elif block.language == "toml":
        pytest.importorskip("tomllib", reason="Python 3.10 reads no TOML").loads(block.text)
    elif block.language == "text":
        told = re.search(r"^(\$ |>>> )|\b(mmtk|python|pip|make) [a-z-]+ \S*[=-]", block.text, re.MULTILINE)
        shown = block.is_output or snippets.script_of(snippets.ROOT / block.page) is not None
        assert shown or not told, f"{where}: a command in a block that is not run; make it ```sh"
    elif block.language == "python" and block.unrun:
        compile(block.text, where, "exec")


def test_what_is_never_run_is_counted() -> None:
    unrun = [f"{b.page}:{b.line}: {b.unrun}" for b in EVERY if b.unrun]
    assert len(unrun) <= UNRUN, "\n".join(unrun)


@pytest.mark.parametrize("page", FOUND, ids=name)
def test_no_code_hides_in_an_indented_block(page: Path) -> None:
    outside, inside = [], False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if line.lstrip().startswith(("```", "~~~")):
            inside = not inside
        elif not inside and re.match(r"^ {4,}(mmtk|python|pip|make|import|from) \S", line):
            outside.append(f"{name(page)}:{number}: {line.strip()}")
    assert not outside, "fence these:\n" + "\n".join(outside)


def test_every_mark_belongs_to_a_block() -> None:
    for page, found in FOUND.items():
        written = len(re.findall(r"<!--\s*snippet:", page.read_text(encoding="utf-8")))
        assert written == sum(len(b.marks) for b in found), f"{name(page)}: a mark is not directly before a block"


# --- and what is broken is seen


def played(text: str, stage: snippets.Stage, folder: Path) -> list[str]:
    found = snippets.blocks(text, "a page")
    some = runnable(found, slow=True)
    printed = stage.play(some, folder)
    compare(found, some, printed)
    return printed


BROKEN = {
    "an option that does not exist": ("```sh\nmmtk plugins --kinds similarity\n```", "code 2, not 0"),
    "a slip in a key": ("```sh\nmmtk apply transfrom=out\n```", "did you mean"),
    "a name that is gone": ("```python\nfrom mmtk import Registrar\n```", "Registrar"),
    "a line in the middle of several": ("```sh\ntrue\nfalse\ntrue\n```", "code 1, not 0"),
    "a later block": ("```python\nx = 1\n```\n\n```python\nassert x == 2\n```", "a page:5"),
    "a code that is not the one": ("<!-- snippet: exit 2 -->\n```sh\ntrue\n```", "code 0, not 2"),
    "a target": ("```sh\nmake everything\n```", "no target everything"),
    "an extra": ("```sh\npip install 'mmtk[all]'\n```", "no extra all"),
    "another output": ("```sh\necho 1 fold\n```\n<!-- snippet: output -->\n```text\n0 folds\n```", "0 folds"),
}  # fmt: skip


@pytest.mark.parametrize("page, told", BROKEN.values(), ids=BROKEN)
def test_a_broken_page_fails_and_says_where(page: str, told: str, stage: snippets.Stage, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"a page:\d+") as failed:
        played(page, stage, tmp_path / "page")
    assert told in str(failed.value)


def test_a_page_that_works_is_run_in_one_folder_and_one_namespace(stage: snippets.Stage, tmp_path: Path) -> None:
    page = """
```sh
mmtk --version > told.txt
```

```python
from pathlib import Path
told = Path("told.txt").read_text()
```

```python
# package/inner.py
VALUE = 3
```

```python
import mmtk
from package.inner import VALUE
assert told == f"mmtk {mmtk.__version__}\\n" and VALUE == 3
print("error 0.25 mm in 3.1 s")
```
<!-- snippet: output -->
```text
error 0.26 mm in 99 s
```

<!-- snippet: with out -->
```sh
test -s out/report.html -a -s patient_t1.nii.gz
```
"""
    assert played(page, stage, tmp_path / "page")[-2] == "error 0.25 mm in 3.1 s\n"


def test_an_open_fence_is_refused() -> None:
    with pytest.raises(ValueError, match=r"p\.md:2: the block is never closed"):
        snippets.blocks("text\n```sh\nmmtk run\n", "p.md")


def test_marks_are_read_from_the_lines_before() -> None:
    code = "```sh\ntrue\n```"
    marks = "<!-- snippet: slow -->\n<!-- snippet: with out, run1 -->\n"
    text = f"{marks}{code}\n\n<!-- snippet: slow -->\nwords\n{code}"
    first, second = snippets.blocks(text, "p.md")
    assert first.slow and first.runs == ["out", "run1"] and first.line == 3
    assert not second.marks


@pytest.mark.parametrize(
    "shown, printed, same",
    [
        ("a 1.00", "a 1.05", True),
        ("a 1.00", "a 1.30", False),
        ("a 1", "b 1", False),
        ("a\n...\nz", "a\nb\nc\nz", True),
        ("a\n...\nz", "a\nb\nc", False),
        ("a", "a\nb", False),
        ("...\nb", "a\nb", True),
        ("took (3.0 s)", "took (45.1 s)", True),
        ("1.2 GB free", "20.5 GB free", True),
        ("v1.2.3 x", "v1.2.4 x", False),
    ],
)
def test_output_is_compared_by_words_and_numbers(shown: str, printed: str, same: bool) -> None:
    assert (snippets.differs(shown, printed) == "") is same
