"""The docstring of a class that is not imported: the source is read, so that nothing heavy is loaded."""

from __future__ import annotations

import ast
import inspect
import re
from importlib.util import find_spec
from pathlib import Path

__all__ = ["docstring", "references"]


def docstring(target: str) -> str:
    """Return the docstring of ``"package.module:Class"``; empty where there is none or no source."""
    module, _, name = target.partition(":")
    seen: set[str] = set()
    while module not in seen:
        seen.add(module)
        tree = _source(module)
        if tree is None:
            return ""
        for node in tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
                return inspect.cleandoc(ast.get_docstring(node) or "")
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    if (alias.asname or alias.name) == name and node.module and node.level == 0:
                        module, name = node.module, alias.name
    return ""


def references(target: str) -> list[str]:
    """Return the lines of the ``References:`` section of a class's docstring."""
    found = re.search(r"^References:\n((?:[ \t]+.*\n|\n)+)", docstring(target) + "\n", re.MULTILINE)
    return inspect.cleandoc(found[1]).splitlines() if found else []


def _source(module: str) -> ast.Module | None:
    """Parse a module. Only its outermost package is asked of the import system, which imports nothing for that."""
    top, *rest = module.split(".")
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin)
    if rest:
        below = path.parent.joinpath(*rest)
        path = below / "__init__.py" if below.is_dir() else below.with_suffix(".py")
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, UnicodeDecodeError):
        return None
