"""The site builds with warnings as errors, holds what the code offers, and asks the network for nothing."""

from __future__ import annotations

import ast
import html
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from docs_snippets import ROOT

pytest.importorskip("mkdocs", reason="the site is built with mkdocs-material: pip install 'mmtk[docs]'")

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)


def build(folder: Path, source: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "mkdocs",
            "build",
            "--config-file",
            str(source / "mkdocs.yml"),
            "--site-dir",
            folder,
        ],
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built") / "site"
    done = build(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def page(site: Path, name: str) -> str:
    return (site / name).read_text(encoding="utf-8")


def words(site: Path, name: str) -> str:
    """What a reader sees of a page."""
    return html.unescape(re.sub(r"<[^>]+>", "", page(site, name)))


def test_a_warning_stops_the_build(tmp_path: Path) -> None:
    """On a copy with a few pages: a dead link, and a formula that cannot be set."""
    for name in ("_hooks", "assets"):
        shutil.copytree(ROOT / "docs" / name, tmp_path / "docs" / name)
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    for name in ("SECURITY.md", "CHANGELOG.md"):
        (tmp_path / name).write_text("# A page\n")
    text = (tmp_path / "mkdocs.yml").read_text().partition("\nnav:")[0]
    text = text.replace("strict: true", "strict: true\nvalidation: {nav: {omitted_files: info}}", 1)
    text = re.sub(r"\nvalidation:\n(  .*\n)+", "\n", text).replace("paths: [., plugins]", f"paths: [{ROOT}]")
    hooks = tmp_path / "docs" / "_hooks" / "pages.py"
    hooks.write_text(hooks.read_text().replace("reference.PAGES.items()", "()"))
    (tmp_path / "mkdocs.yml").write_text(text + "\nnav: [index.md]\n")
    index = tmp_path / "docs" / "index.md"

    index.write_text("# One\n\n$v = -K \\star z$\n")
    done = build(tmp_path / "good", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for slip, told in (("[two](two.md)", "two.md"), ("$\\nosuchsign x$", "nosuchsign is not known")):
        index.write_text(f"# One\n\n{slip}\n")
        done = build(tmp_path / "bad", tmp_path)
        assert done.returncode != 0 and told in done.stderr, done.stderr


# --- what the code offers is there


def test_every_command_and_option_is_on_its_page(site: Path) -> None:
    import typer

    from mmtk.cli.app import app

    text = words(site, "reference/cli.html")

    def walk(name: str, command: object) -> None:
        assert name in text
        for parameter in command.params:  # type: ignore[attr-defined]
            for option in parameter.opts:
                if option.startswith("--"):
                    assert option in text, f"{name} {option}"
        for child, below in getattr(command, "commands", {}).items():
            walk(f"{name} {child}", below)

    walk("mmtk", typer.main.get_command(app))


def test_every_part_and_setting_is_on_its_page(site: Path) -> None:
    from mmtk.plugins import installed

    text, source = words(site, "reference/parts.html"), page(site, "reference/parts.html")
    ours = [offer for offer in installed().offers() if offer.distribution == "mmtk"]
    assert len(ours) > 15
    for offer in ours:
        assert f'id="{offer.family}-{offer.name}"' in source
        for field in offer.config.model_fields.values():
            assert " ".join((field.description or "").replace("`", "").split()) in " ".join(text.split())


def test_the_example_of_every_part_is_a_run_that_is_accepted(tmp_path: Path) -> None:
    import nibabel
    import numpy as np

    from mmtk.bundle.plan import make_plan
    from mmtk.plugins import installed
    from mmtk.plugins.writing import KINDS

    image = tmp_path / "image.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.eye(8, dtype=np.float32), np.eye(4)), image)
    tried = 0
    for offer in installed().offers():
        if offer.config.missing():
            continue  # refused before any work, with the command that installs it
        words = KINDS[offer.family].replace("$part", offer.full_name).split()
        if words[:2] == ["mmtk", "run"]:
            words = [word.replace("MOVING", str(image)).replace("FIXED", str(image)) for word in words[2:]]
            make_plan(words, out=tmp_path / "out", overwrite=False, device="auto", catalogue=installed())
            tried += 1
    assert tried > 15


def test_every_setting_of_a_run_is_on_its_page(site: Path) -> None:
    from mmtk.config import RunConfig

    text = words(site, "reference/settings.html")
    for name, field in RunConfig.model_fields.items():
        assert name == "method" or (name in text and (field.description or "").replace("`", "") in text)


def test_every_bundle_is_on_its_page(site: Path) -> None:
    from mmtk.plugins import installed

    ours = [folder for plugin in installed().plugins if plugin.distribution == "mmtk" for folder in plugin.bundles]
    assert len(ours) >= 3
    for folder in ours:
        assert f'id="{folder.name}"' in page(site, "reference/bundles.html")


def test_every_benchmark_and_its_settings_are_on_its_page(site: Path) -> None:
    from mmtk.plugins import installed

    text = page(site, "reference/benchmarks.html")
    for name, (model, *_) in installed().benchmarks.items():
        assert f'id="{name}"' in text
        part = text.partition(f'id="{name}"')[2].partition("<h2")[0]
        for setting in model.model_fields:
            assert setting == "kind" or f"<code>{setting}</code>" in part, f"{name}: {setting}"


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    import importlib

    for made in sorted((site / "reference" / "api").glob("*.html")):
        if made.stem == "index":
            continue
        module = importlib.import_module("mmtk" if made.stem == "mmtk" else f"mmtk.{made.stem}")
        text = made.read_text(encoding="utf-8")
        for name in module.__all__:
            if not name.startswith("__"):
                assert f'id="{module.__name__}.{name}"' in text, f"{module.__name__}.{name}"


def test_every_format_of_transforms_is_on_its_page(site: Path) -> None:
    from mmtk.io.formats.catalogue import FORMATS

    text = words(site, "reference/formats.html")
    assert all(name in text for name in FORMATS) and "generated:" not in page(site, "reference/formats.html")


def test_every_environment_variable_of_the_code_is_on_its_page() -> None:
    text = (ROOT / "docs" / "reference" / "environment.md").read_text()
    found = set()
    for file in [*(ROOT / "mmtk").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")]:
        found |= set(re.findall(r"\bMMTK_[A-Z_]+\b", file.read_text(encoding="utf-8")))
    assert found and not {name for name in found if f"`{name}`" not in text}


def test_every_doubt_of_the_report_is_told_in_my_scan() -> None:
    """The longest piece of each sentence that holds no number, by its first words."""
    text = (ROOT / "docs" / "how-to" / "my-scan.md").read_text().replace("**", "").replace("\n", " ")
    source = ast.parse((ROOT / "mmtk" / "report" / "doubts.py").read_text())
    calls = [n for n in ast.walk(source) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "Doubt"]
    told = []
    for call in calls:
        sentence = call.args[0]
        parts = sentence.values if isinstance(sentence, ast.JoinedStr) else [sentence]
        first = [p.value for p in parts if isinstance(p, ast.Constant) and len(p.value.split()) > 2]
        if first:
            told.append(" ".join(re.split(r"[:;,.]", first[0].strip(" %"))[0].split()[:5]))
    assert len(told) >= 12
    assert not [words for words in told if words not in text]


# --- nothing leaves


class Requests(HTMLParser):
    """What a browser fetches for a page, as far as its tags say it."""

    def __init__(self) -> None:
        super().__init__()
        self.wanted: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        told = dict(attributes)
        self.wanted += [value for key in ("src", "srcset", "poster") if (value := told.get(key))]
        if tag == "link" and told.get("rel") not in ("canonical", "next", "prev"):
            self.wanted.append(told.get("href") or "")
        if style := told.get("style"):
            self.wanted += re.findall(r"url\(([^)]*)\)", style)


def test_no_page_asks_another_host(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 40
    for made in pages:
        seen = Requests()
        seen.feed(made.read_text(encoding="utf-8"))
        assert len(seen.wanted) > 3
        for wanted in seen.wanted:
            assert not re.match(r"(\w+:)?//", wanted), f"{made.name}: {wanted}"
    for style in site.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        for wanted in re.findall(r"url\(\s*['\"]?([^)'\"]*)", text) + re.findall(
            r"@import\s+['\"]([^'\"]*)", text
        ):
            assert not re.match(r"(https?:)?//", wanted), f"{style.name}: {wanted}"


def test_nothing_on_the_pages_makes_a_script_fetch_another(site: Path) -> None:
    """Material fetches mermaid where a page has a diagram, and a shim for search where it finds none of ours."""
    for made in site.rglob("*.html"):
        text = made.read_text(encoding="utf-8")
        assert 'class="mermaid"' not in text and "assets/iframe-worker.js" in text, made.name


#: What the browser fetched for the page, put at its end once it has settled.
TELL = """<script>addEventListener("load", () => setTimeout(() => {
  const told = document.createElement("pre");
  told.id = "fetched";
  told.textContent = performance.getEntriesByType("resource").map((one) => one.name).join("\\n");
  document.body.append(told);
}, 4000));</script></body>"""


def opened(address: str, profile: Path) -> str:
    """The document that a browser has after it opened an address and ran the scripts there."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += [f"--user-data-dir={profile}", "--virtual-time-budget=15000", "--dump-dom", address]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=True).stdout


def found_documents(document: str) -> bool:
    return re.search(r'md-search-result__meta">\s*\d+ matching documents', document) is not None


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")
def test_search_works_from_disk(site: Path, tmp_path: Path) -> None:
    assert found_documents(opened(f"{site.as_uri()}/index.html?q=lagrangian", tmp_path / "profile"))


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")
@pytest.mark.parametrize(
    "start", ["index.html?q=lagrangian", "how-to/my-scan.html", "reference/api/integrators.html"]
)
def test_a_browser_fetches_files_of_the_site_alone(site: Path, start: str, tmp_path: Path) -> None:
    """Served by a server of our own, since of pages from disk a browser keeps no list of what it fetched."""
    name, question, asked = start.partition("?")
    copy = (site / name).with_name("visited.html")
    copy.write_text((site / name).read_text(encoding="utf-8").replace("</body>", TELL), encoding="utf-8")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    home = f"http://127.0.0.1:{server.server_port}/"
    with server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            document = opened(f"{home}{copy.relative_to(site)}{question}{asked}", tmp_path / "profile")
        finally:
            server.shutdown()
            thread.join()
            copy.unlink()
    told = re.search(r'<pre id="fetched">(.*?)</pre>', document, re.DOTALL)
    assert told is not None
    fetched = html.unescape(told[1]).split()
    assert len(fetched) > 3 and any("bundle" in one for one in fetched)
    assert not [one for one in fetched if not one.startswith((home, "data:", "blob:"))]


class Quiet(SimpleHTTPRequestHandler):
    """Serves without a word."""

    def log_message(self, *words: object) -> None:
        pass
