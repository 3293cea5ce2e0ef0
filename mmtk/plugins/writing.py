"""A package of one's own: what ``mmtk plugins new`` writes, from the templates beside this file.

NAME/
  pyproject.toml          the entry point by which mmtk finds it
  README.md
  .github/workflows/test.yml
  src/PACKAGE/plugin.py   what is offered; no torch
  src/PACKAGE/PART.py     the part; or src/PACKAGE/bundles/PART/, the bundle
  tests/test_PART.py      the laws of its family, and one of its own
"""

from __future__ import annotations

import importlib.util
import keyword
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from string import Template

from mmtk import __version__
from mmtk.config import nearest
from mmtk.errors import ConfigError
from mmtk.plugins.catalogue import Catalogue
from mmtk.plugins.hookspecs import PLUGIN_API

__all__ = ["KINDS", "write_package"]

_TEMPLATES = Path(__file__).parent / "template"

#: What a package can be written for, and how its part is then used.
KINDS = {
    "similarity": "mmtk run bundle=metamorph_brats similarity=$part",
    "regularizer": "mmtk run bundle=metamorph_brats regularizers=$part",
    "integrator": "mmtk run bundle=metamorphosis integrator=$part",
    "method": "mmtk run method=$part moving=MOVING fixed=FIXED",
    "segmenter": "mmtk segment segmenter=$part image=SCAN out=mask.nii.gz",
    "metric": "mmtk show $part",
    "loss": "mmtk show $part",
    "command": "mmtk x $part IMAGE",
    "bundle": "mmtk run bundle=$part moving=MOVING fixed=FIXED",
}

_FILES = {
    "pyproject.toml": "common/pyproject.toml",
    "README.md": "common/README.md",
    ".gitignore": "common/gitignore",
    ".github/workflows/test.yml": "common/ci.yml",
    "src/$package/__init__.py": "common/init.py",
    "src/$package/plugin.py": "$kind/plugin.py",
    "src/$package/$part.py": "$kind/part.py",
    "tests/test_$part.py": "$kind/test.py",
}

#: What is otherwise for one kind; None: there is no such file.
_OTHERWISE: dict[str, dict[str, str | None]] = {
    "bundle": {"README.md": "bundle/README.md", "src/$package/$part.py": None}
}

#: Called with the package's folder in the making and its module's name, to write what no template can.
Fill = Callable[[Path, str], object]


def write_package(name: str, kind: str, folder: Path, catalogue: Catalogue, *, fill: Fill | None = None) -> Path:
    """Write a package with one part, and return its folder, ``folder / name``.

    Args:
        name: Of the distribution, such as ``my-similarity``; package and part are called ``my_similarity``.
        kind: A key of :data:`KINDS`.
        folder: Where the new folder goes; must exist.
        catalogue: What is installed, so that the new name is not one of these.
        fill: Writes the rest, such as the bundle.

    Raises:
        ConfigError: Name or kind will not do, or something is in the way. Nothing was written.
    """
    words = _words(name, kind, catalogue)
    place = folder / name
    problems = [] if folder.is_dir() else [f"--out {folder}: there is no such folder; make it first"]
    if place.exists():
        problems.append(f"{place}: exists already; choose another name or another --out")
    if problems:
        raise ConfigError(problems)
    partial = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=folder))
    try:
        for path, template in {**_FILES, **_OTHERWISE.get(kind, {})}.items():
            if template is None:
                continue
            file = partial / Template(path).substitute(words)
            file.parent.mkdir(parents=True, exist_ok=True)
            text = (_TEMPLATES / f"{Template(template).substitute(words)}.tmpl").read_text(encoding="utf-8")
            file.write_text(Template(text).substitute(words), encoding="utf-8")
        if fill is not None:
            fill(partial, words["package"])
        partial.chmod(0o755)
        partial.rename(place)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return place


def _words(name: str, kind: str, catalogue: Catalogue) -> dict[str, str]:
    """What stands in the place of each ``$word``."""
    problems = []
    if kind not in KINDS:
        problems.append(f"--kind {kind}: must be one of {', '.join(KINDS)}{nearest(kind, KINDS)}")
    package = name.replace("-", "_")
    if not re.fullmatch(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", name) or keyword.iskeyword(package):
        problems.append(f"{name}: must be lower-case words joined by hyphens, such as my-similarity")
    elif package in sys.stdlib_module_names or importlib.util.find_spec(package) is not None:
        problems.append(f"{name}: there is a module called '{package}' already; choose another name")
    taken = [offer for offer in catalogue.offers() if (offer.family, offer.name) == (kind, package)]
    owners = [offer.distribution for offer in taken]
    if kind == "bundle":
        owners = [plugin.distribution for plugin in catalogue.plugins for b in plugin.bundles if b.name == package]
    problems += [f"{name}: {owner} offers a {kind} of that name; choose another" for owner in owners]
    if problems:
        raise ConfigError(problems)
    cls = "".join(word.capitalize() for word in package.split("_"))
    words = {"name": name, "package": package, "part": package, "cls": cls, "kind": kind}
    example = Template(KINDS[kind]).substitute(part=package)
    return {**words, "example": example, "api": PLUGIN_API, "version": __version__}
