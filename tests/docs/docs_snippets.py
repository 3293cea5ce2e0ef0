"""The code on the pages: which blocks there are, how they are marked, and how a page is run.

Every fenced block of README.md and docs/ is one of these, and nothing else:

    ```sh, ```shell     run by bash, which stops at the first command that fails
    ```python           run in one namespace a page; if its first line is `# folder/name.py`, written to that file
    ```json, ```yaml, ```toml    must be read by a parser
    ```text             shown; compared with what the block before it printed, if it is marked so

All blocks of a page run one after another in one new folder, which holds the files of :data:`GIVEN`. A comment before a
block, which no reader of the page sees, says what else there is to know:

    <!-- snippet: slow -->              left out of the quick tests
    <!-- snippet: no-run, REASON -->    not run; these are counted
    <!-- snippet: exit 2 -->            ends with this code
    <!-- snippet: with result, run1 --> finished runs are put into the folder, under these names
    <!-- snippet: output -->            a text block is what the block before it prints; `...` stands for any lines

``mmtk`` in a block is the real command. It runs in a fork of a process that has loaded torch already (``stage.py``),
since loading it anew for each of a hundred lines would take minutes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHELL = ("sh", "shell")
DATA = ("json", "yaml", "toml")
LANGUAGES = (*SHELL, *DATA, "python", "text")

_FENCE = re.compile(r"^(?P<indent>[ ]*)(?P<fence>`{3,}|~{3,})(?P<info>[^`\n]*)$")
_MARK = re.compile(r"^\s*<!--\s*snippet:\s*(?P<words>.*?)\s*-->\s*$")
_FILE = re.compile(r"^# (?P<path>[\w./-]+\.py)$")
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?![\w.]*\w)")


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        page: Relative to the root of the repository.
        line: Of the opening fence, from 1.
        language: As it stands there.
        text: Without the fences, and without their indentation.
        marks: What the comments before it say.
    """

    page: str
    line: int
    language: str
    text: str
    marks: tuple[str, ...] = ()

    @property
    def slow(self) -> bool:
        return "slow" in self.marks

    @property
    def unrun(self) -> str:
        """Why it is not run; empty if it is."""
        said = [mark for mark in self.marks if mark.startswith("no-run")]
        return said[0].removeprefix("no-run").lstrip(", ") or "no reason" if said else ""

    @property
    def code(self) -> int:
        """The exit code that is expected."""
        said = [mark for mark in self.marks if mark.startswith("exit ")]
        return int(said[0].split()[1]) if said else 0

    @property
    def runs(self) -> list[str]:
        """Names under which finished runs are put beside it."""
        said = [mark.removeprefix("with ") for mark in self.marks if mark.startswith("with ")]
        return [name.strip() for names in said for name in names.split(",")]

    @property
    def file(self) -> str:
        """The file that a block of Python is written to; empty if it is run."""
        found = _FILE.match(self.text.split("\n", 1)[0])
        return found["path"] if found and self.language == "python" else ""

    @property
    def is_output(self) -> bool:
        return self.language == "text" and "output" in self.marks


def pages() -> list[Path]:
    """Every page that is written by hand."""
    written = (page for page in (ROOT / "docs").rglob("*.md") if "_hooks" not in page.parts)
    return [ROOT / "README.md", *sorted(written)]


def script_of(page: Path) -> Path | None:
    """The script that makes a page of the examples, and is run by the tests of the examples; None for other pages."""
    script = ROOT / "examples" / f"{page.stem}.py"
    return script if page.parent == ROOT / "docs" / "examples" and script.is_file() else None


def blocks(text: str, page: str) -> list[Block]:
    """Return the fenced blocks of a page, in order.

    Raises:
        ValueError: If a fence is never closed.
    """
    found, marks = [], []
    lines = iter(enumerate(text.splitlines(), 1))
    for number, line in lines:
        if mark := _MARK.match(line):
            marks.append(mark["words"])
        elif opening := _FENCE.match(line):
            inside = []
            for _, line in lines:
                if line.strip().startswith(opening["fence"]) and not line.strip().strip(opening["fence"][0]):
                    break
                inside.append(line)
            else:
                raise ValueError(f"{page}:{number}: the block is never closed")
            indent = len(opening["indent"])
            text_inside = "\n".join(line[indent:] if not line[:indent].strip() else line for line in inside)
            words = opening["info"].split()
            language = words[0] if words else ""
            found.append(Block(page, number, language, text_inside, tuple(marks)))
            marks = []
        elif line.strip():
            marks = []
    return found


def known_mark(mark: str) -> bool:
    """Whether a mark is one that this module knows."""
    return bool(re.fullmatch(r"slow|output|exit \d+|with [\w./-]+(, *[\w./-]+)*|no-run, .{8,}", mark))


# --- files that the pages take for the reader's own


@dataclass
class Stage:
    """A place where pages are run.

    Attributes:
        folder: Where shims, the given files and the finished run lie.
        given: Files that every page finds, in a folder.
        finished: Finished runs; ``result`` stands in for every name that is not there.
        programs: Stand in for programs: mmtk itself, pip, make and a few more.
        socket: By which ``mmtk`` reaches the process that has torch loaded.
    """

    folder: Path
    python: str
    given: Path = field(init=False)
    finished: Path = field(init=False)
    programs: Path = field(init=False)
    server: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.given, self.finished = self.folder / "given", self.folder / "finished"
        self.programs = self.folder / "bin"
        for place in (self.given, self.programs):
            place.mkdir(parents=True)
        socket = self.folder / "stage.socket"
        here = Path(__file__).parent
        self.server = subprocess.Popen(
            [self.python, str(here / "stage.py"), str(socket)], env=self.environment(), stdout=subprocess.PIPE
        )
        assert self.server.stdout is not None and self.server.stdout.readline() == b"ready\n"
        words = {"@PYTHON@": self.python, "@SOCKET@": str(socket), "@ROOT@": str(ROOT)}
        for program in sorted((here / "programs").iterdir()):
            text = program.read_text(encoding="utf-8")
            for word, value in words.items():
                text = text.replace(word, value)
            made = self.programs / program.name
            made.write_text(text, encoding="utf-8")
            made.chmod(0o755)
        self.shell(f"{self.python} {here / 'given.py'} {self.given}")
        self.shell(f"bash {here / 'finish.sh'} {self.finished} {ROOT}", self.given)

    def environment(self) -> dict[str, str]:
        """What a reader's shell would have, and none of the tests' own."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "MMTK", "COV"))}
        path = os.pathsep.join([str(self.programs), str(Path(self.python).parent), kept.get("PATH", "")])
        return {
            **kept,
            "PATH": path,
            "HOME": str(self.folder),
            "MMTK_CONFIG_DIR": str(self.folder / "settings"),
            "MMTK_DOCS_SITE": str(self.folder / "site"),
            "PYTHONPATH": str(self.folder / "site"),
            "MPLBACKEND": "agg",
            "OMP_WAIT_POLICY": "passive",
            "GOMP_SPINCOUNT": "0",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def shell(self, text: str, folder: Path | None = None, timeout: float = 600) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
        return done.stdout

    def close(self) -> None:
        self.server.terminate()
        self.server.wait()
        if self.server.stdout is not None:
            self.server.stdout.close()

    def play(self, some: list[Block], folder: Path, timeout: float = 600) -> list[str]:
        """Run blocks in a new folder, in order, and return what each printed.

        Raises:
            AssertionError: One failed; page, line, code and what was printed are named.
        """
        shutil.copytree(self.given, folder, symlinks=True)
        shutil.rmtree(self.folder / "site", ignore_errors=True)
        script = folder.with_name(folder.name + ".json")
        told = folder.with_name(folder.name + ".told")
        acts = [
            {
                "line": b.line,
                "do": "write" if b.file else "python" if b.language == "python" else "shell",
                "file": b.file,
                "text": b.text,
                "code": b.code,
                "runs": b.runs,
            }
            for b in some
        ]
        script.write_text(json.dumps({"page": some[0].page, "finished": str(self.finished), "acts": acts}))
        done = subprocess.run(
            [str(self.programs / "mmtk-page"), str(script), str(told)],
            cwd=folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        printed = [json.loads(line) for line in told.read_text().splitlines()] if told.exists() else []
        failed = next((one for one in printed if one["failed"]), None)
        if failed is not None:
            block = next(b for b in some if b.line == failed["line"])
            code = textwrap.indent(block.text, "    ")
            raise AssertionError(
                f"{block.page}:{block.line}: {failed['failed']}\n{code}\nIt printed:\n{failed['out']}"
            )
        assert done.returncode == 0 and len(printed) == len(some), f"{some[0].page}: {done.stdout}{done.stderr}"
        return [one["out"] for one in printed]


# --- what is shown


def differs(shown: str, printed: str) -> str:
    """Say where the text of a page is not what was printed; empty if it is.

    Words must be the same. Numbers may differ by a tenth, since machines do, and times as they like. A line of `...`
    stands for any number of lines.
    """
    have = [line.rstrip() for line in printed.strip().splitlines()]
    want = [line.rstrip() for line in shown.strip().splitlines()]
    at = 0
    skipping = False
    for line in want:
        if line.strip() == "...":
            skipping = True
            continue
        tried = range(at, len(have)) if skipping else range(at, min(at + 1, len(have)))
        met = next((n for n in tried if _same(line, have[n])), None)
        if met is None:
            nearby = have[at] if at < len(have) else "nothing"
            return f"the page shows\n    {line}\nand printed was\n    {nearby}"
        at, skipping = met + 1, False
    if at < len(have) and not skipping:
        return f"printed was also\n    {have[at]}"
    return ""


def _same(line: str, other: str) -> bool:
    if " ".join(_NUMBER.sub("#", line).split()) != " ".join(_NUMBER.sub("#", other).split()):
        return False
    for mine, theirs in zip(_NUMBER.finditer(line), _NUMBER.finditer(other), strict=True):
        after = line[mine.end() : mine.end() + 3]
        a, b = float(mine[0]), float(theirs[0])
        if not re.match(r" s\b| GB| MB", after) and abs(a - b) > max(0.1 * max(abs(a), abs(b)), 2e-3):
            return False
    return True
