"""Pages of the reference, made from the code when the site is built: commands, parts, settings, bundles, Python.

Nothing here is written twice: commands come from typer, settings from the pydantic models, parts from the catalogue of
what this distribution offers, public names from ``__all__``. None of it imports torch.
"""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import docstrings
import typer
from pydantic import BaseModel

import mmtk
from mmtk.bundle.recipe import read_metadata, read_recipe, segments
from mmtk.cli.app import app
from mmtk.cli.show import _capable
from mmtk.config import Recipe, RunConfig
from mmtk.evaluation.request import KEYS as EVALUATE_KEYS
from mmtk.io.formats.catalogue import FORMATS
from mmtk.plugins.catalogue import FAMILIES, GROUP, Catalogue, load
from mmtk.plugins.docstrings import docstring
from mmtk.plugins.words import accepted, as_typed, unit
from mmtk.plugins.writing import KINDS
from mmtk.samples.catalogue import SAMPLES
from mmtk.transforms.apply import KEYS as APPLY_KEYS

__all__ = ["MODULES", "PAGES", "PIECES"]

ROOT = Path(__file__).parents[2]
PACKAGE = Path(mmtk.__file__).parent

#: Modules whose public names make the Python reference.
MODULES = (
    "mmtk", "mmtk.config", "mmtk.equations", "mmtk.fields", "mmtk.integrators", "mmtk.io", "mmtk.method", "mmtk.metrics",
    "mmtk.plugins", "mmtk.regularizers", "mmtk.report", "mmtk.samples", "mmtk.shooting", "mmtk.similarity",
    "mmtk.testing", "mmtk.transforms",
)  # fmt: skip


def catalogue() -> Catalogue:
    """What this distribution offers; plugins of others that happen to be installed do not belong on the site."""
    ours = [point for point in importlib.metadata.entry_points(group=GROUP) if point.dist.name == "mmtk"]
    return load(ours, {})


# --- words


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown."""
    lines = [list(head), *(list(row) for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines
    )


def code(text: str) -> str:
    """Text as code, or nothing. A bar would end the cell of a table, even within backquotes."""
    if "|" in text:
        return f"<code>{escape(text).replace('|', '&#124;')}</code>"
    return f"`{text}`" if text else ""


def settings(
    model: type[BaseModel], values: dict[str, Any] | None = None, skip: tuple[str, ...] = ("kind",)
) -> str:
    """The fields of a description: name, default, what is accepted, unit, meaning."""
    values = values or {}
    rows: list[tuple[str, ...]] = []
    for name, field in model.model_fields.items():
        if name in skip:
            continue
        given = name in values or not field.is_required()
        value = values.get(name, field.get_default(call_default_factory=True)) if given else None
        default = code(as_typed(value)) if given else "required"
        kind = (
            f"[{accepted(field)}](parts.md#{accepted(field)})"
            if accepted(field) in FAMILIES
            else code(accepted(field))
        )
        rows.append((code(field.alias or name), default, kind, unit(field), field.description or ""))
    if not rows:
        return "It has no settings."
    head: tuple[str, ...] = ("setting", "default", "accepts", "unit", "meaning")
    if not any(row[3] for row in rows):
        head, rows = (*head[:3], head[4]), [(*row[:3], row[4]) for row in rows]
    return table(head, rows)


# --- commands


def commands() -> str:
    """Every command with its arguments and options, as typer knows them."""
    root = typer.main.get_command(app)
    page = [
        "# Commands",
        "Settings are `key=value`, options begin with `--`. Everything that is wrong is told at once, one line each, "
        "and ends in [exit code](exit-codes.md) 2 before anything is computed. `mmtk COMMAND --help` prints what "
        "stands here.",
    ]
    keys = {"mmtk apply": APPLY_KEYS, "mmtk evaluate": EVALUATE_KEYS}
    more = {
        "mmtk run": "Keys: [settings of a run](settings.md). What it leaves: "
        "[the folder of a run](formats.md#the-folder-of-a-run).",
        "mmtk apply": "In full: [carry images and points](../transforms.md).",
        "mmtk evaluate": "In full: [metrics](../metrics.md).",
        "mmtk convert": "In full: [other programs' transforms](../interchange.md).",
        "mmtk report": "In full: [the report](../report.md).",
        "mmtk sample": "Keys: [samples](samples.md).",
        "mmtk compare": "In full: [compare methods](../how-to/compare.md).",
        "mmtk benchmarks": "In full: [benchmarks to compare on](benchmarks.md).",
        "mmtk plugins": "In full: [plugins](../plugins.md).",
        "mmtk bundles": "In full: [bundles](../bundles.md).",
    }
    for name, command in _walk("mmtk", root):
        level = "##" if name.count(" ") < 2 else "###"
        page.append(f"{level} {name}" if name != "mmtk" else "## mmtk itself")
        page.append(_help(command))
        if rows := list(_parameters(command)):
            page.append(table(("option", "default", "meaning"), rows))
        if name in keys:
            page.append(table(("key", "meaning"), ((code(key), text) for key, text in keys[name].items())))
        if name in more:
            page.append(more[name])
    return "\n\n".join(page) + "\n"


def _walk(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    yield name, command
    for child, below in getattr(command, "commands", {}).items():
        if not below.hidden:
            yield from _walk(f"{name} {child}", below)


def _help(command: Any) -> str:
    paragraphs = (command.help or "").strip().split("\n\n")
    lines = []
    for paragraph in paragraphs:
        words = " ".join(paragraph.split())
        start, found, example = words.partition("For instance: ")
        if found and ", or" not in example:
            lines += [start.strip(), f"```sh\n{example}\n```"]
        else:
            lines.append(words)
    return "\n\n".join(line for line in lines if line)


def _parameters(command: Any) -> Iterator[tuple[str, str, str]]:
    for parameter in command.params:
        argument = not any(option.startswith("-") for option in parameter.opts)
        if argument:
            name = code(parameter.metavar or parameter.name.upper())
        else:
            name = ", ".join(code(option) for option in parameter.opts)
            if not parameter.is_flag:
                name += f" {code(_kind(parameter))}"
        default = parameter.default
        plain = default is None or default is False or default in ((), []) or argument or callable(default)
        shown = "" if plain else code(str(default))
        yield name, "required" if parameter.required else shown, getattr(parameter, "help", None) or ""


def _kind(parameter: Any) -> str:
    told = getattr(getattr(parameter, "type_descriptor", None), "annotation", None)
    return {Path: "PATH", int: "N"}.get(told, "VALUE")


# --- settings, parts, bundles, samples


def run_settings() -> str:
    """What ``mmtk run`` takes beside the settings of the method."""
    bundles = ", ".join(f"[`{name}`](bundles.md#{name})" for name in sorted(catalogue().bundles))
    methods = ", ".join(
        f"[`{offer.name}`](parts.md#method-{offer.name})" for offer in catalogue().offers("method")
    )
    return f"""# Settings of a run

`mmtk run bundle=NAME key=value ...` lays what you type over the bundle's recipe. `mmtk.register(...)` takes the same as
keywords. All keys are checked together before torch is loaded; `--dry-run` prints the result.

## Images and preparation

{settings(RunConfig, skip=("method",))}

`bundle=` chooses a recipe ({bundles}), `method=` a method ({methods}). Every setting of the method is a key as well.

## How values are written

| value | how |
| --- | --- |
| a list | `levels=8,4,2` or `levels=[8,4,2]` |
| nothing | `sigma=none` |
| on and off | `checkpoint=true`, `checkpoint=off` |
| a file | `moving=scan.nii.gz`; `~` and `$HOME` within a path are expanded |
| a part | `similarity=lncc`, by its name; `DISTRIBUTION:NAME` where two have it; `module:Class` to try one |
| a setting of a part | `similarity=lncc similarity.radius=3`; the second alone where the part is chosen already |
| several parts | `regularizers=bending,jacobian_barrier regularizers.bending.weight=0.1` |
| a part at once | `similarity='{{"kind": "lncc", "radius": 3}}'` |

A value that begins with `$`, `@` or `%` is refused, since MONAI would evaluate it. A key given twice is refused.
"""


def parts() -> str:
    """Every part in the catalogue, as ``mmtk show`` has it, and more of its docstring."""
    page = [
        "# Parts",
        "What mmtk brings. `mmtk plugins` lists what is installed on your machine, plugins included, and "
        "`mmtk show NAME` prints what stands here.",
    ]
    for family in FAMILIES:
        offers = catalogue().offers(family)
        if not offers:
            continue
        page.append(f"## {family.capitalize()}")
        page.append(
            table(
                (family, "what it is"), ((f"[`{o.name}`](#{family}-{o.name})", o.config.summary) for o in offers)
            )
        )
        for offer in offers:
            page += _part(offer)
    return "\n\n".join(page) + "\n"


def _part(offer: Any) -> Iterator[str]:
    config = offer.config
    yield f"### {offer.name} {{ #{offer.family}-{offer.name} }}"
    yield f"{config.summary}."
    yield settings(config)
    example = Template(KINDS[offer.family]).substitute(part=offer.name)
    if example.startswith("mmtk run"):
        yield f"```sh\n{example}\n```"
    yield f"For {_capable(config.capabilities)}. Class `{config.target}`."
    about = docstrings.as_markdown(docstring(config.target)).strip()
    if about:
        indented = "\n".join(f"    {line}" if line else "" for line in _sections(about).splitlines())
        yield f'??? note "What the class says"\n\n{indented}'


def _sections(text: str) -> str:
    """A docstring's sections, ``Args:`` and the like, as bold words with lists."""
    lines: list[str] = []
    within = False
    for line in text.splitlines():
        if line in ("Args:", "Attributes:", "Returns:", "Raises:", "References:"):
            lines += [f"**{line.removesuffix(':')}**", ""]
            within = True
        elif within and line.startswith("    ") and not line.startswith("     "):
            lines.append(f"- {line.strip()}")
        elif within and line.startswith("     "):
            lines.append(f"  {line.strip()}")
        else:
            within = within and not line.strip()
            lines.append(line)
    return "\n".join(lines)


def _card(folder: Path) -> str:
    """Return a bundle's card, folded up."""
    readme = (folder / "docs" / "README.md").read_text(encoding="utf-8")
    body = re.sub(r"^## (.*)$", r"**\1**", readme.partition("\n")[2].strip(), flags=re.MULTILINE)
    indented = "\n".join(f"    {line}" if line else "" for line in body.splitlines())
    return f'??? note "Its card"\n\n{indented}'


def bundles() -> str:
    """Every bundle that comes with mmtk: what it is for, and its settings where they differ from the method's."""
    page = [
        "# Bundles",
        "A bundle is a recipe with its papers. These come with mmtk; how to write one of your own: "
        "[bundles](../bundles.md).",
    ]
    known = catalogue()
    for name in sorted(known.bundles):
        folder = known.bundle(name)
        if segments(folder):
            metadata = read_metadata(folder)
            page += [
                f"## {name}",
                f"{metadata['description'].rstrip('.')}.",
                f"*For*: {metadata['intended_use'].rstrip('.')}.",
                f"```sh\nmmtk segment bundle={name} image=IMAGE out=mask.nii.gz\n```",
                _card(folder),
            ]
            continue
        base, sample = read_recipe(folder)
        recipe = Recipe.model_validate(base, context={"catalogue": known})
        metadata = read_metadata(folder)
        method = recipe.method
        page += [
            f"## {name}",
            f"{metadata['description'].rstrip('.')}.",
            f"*For*: {metadata['intended_use'].rstrip('.')}.",
        ]
        changed = {
            key: value
            for key, value in (*dict(recipe).items(), *dict(method).items())
            if key not in ("method", "kind") and _differs(type(method), key, value)
        }
        alias = {key: field.alias for key, field in type(method).model_fields.items() if field.alias}
        rows = [(code(alias.get(key, key)), code(as_typed(value))) for key, value in changed.items()]
        page.append(f"Method [`{method.name()}`](parts.md#method-{method.name()}), version {metadata['version']}.")
        page.append(table(("setting", "value"), rows) if rows else "All settings are the method's defaults.")
        page.append(f"```sh\nmmtk run bundle={name} moving=MOVING fixed=FIXED\n```")
        page.append(f"Without images it runs on the sample `{sample}`." if sample else "")
        page.append(_card(folder))
    return "\n\n".join(part for part in page if part) + "\n"


def _differs(method: type[BaseModel], key: str, value: Any) -> bool:
    for model in (method, Recipe):
        if key in model.model_fields:
            return bool(model.model_fields[key].get_default(call_default_factory=True) != value)
    return True


def samples() -> str:
    """What ``mmtk sample`` can make."""
    page = [
        "# Samples",
        "`mmtk sample NAME key=value ...` makes images whose truth is known: pairs with the deformation between "
        "them, and heads with a labeled glioma; in Python, `mmtk.samples`. The "
        "brain that comes with mmtk is the MNI ICBM152 template.",
    ]
    for name, entry in SAMPLES.items():
        page += [f"## {name}", f"{_summary(entry.options)}", settings(entry.options)]
    return "\n\n".join(page) + "\n"


def _summary(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().split("\n", 1)[0]


def benchmarks() -> str:
    """The cases that ``mmtk compare`` brings along: settings, columns, and the tables that others have published."""
    from mmtk.report.words import METRICS
    from mmtk.study.analysis import COST

    page = [
        "# Benchmarks to compare on",
        '`cases: {benchmark: NAME, ...}` in a study, or `cases="NAME key=value ..."` behind '
        "[`mmtk compare`](../how-to/compare.md); `mmtk benchmarks` lists them. Each says which columns head the page, "
        "in which order; a column that no run has a number for is left out. A plugin adds one by the hook "
        "[`mmtk_benchmarks`](../plugins.md). What came of them here: [benchmarks](../benchmarks.md).",
    ]
    nowhere = {"folder": Path("FOLDER"), "template": Path("TEMPLATE")}
    for name, models in catalogue().benchmarks.items():
        for model in models:
            built = model.model_validate({k: v for k, v in nowhere.items() if k in model.model_fields}).build()
            about = (inspect.getdoc(type(built)) or "").partition("\n")[2].strip()
            page += [f"## {name}", f"{model.summary}.", docstrings.as_markdown(about), settings(model)]
            rows = []
            for column in built.metrics:
                metric = column.partition(".")[2]
                own = built.measures.get(metric) if column.startswith(f"{name}.") else None
                label, meaning = (own.label, own.meaning) if own else COST.get(metric) or METRICS[metric]
                rows.append((code(column), label, meaning))
            page.append(
                table(("column", "on the page", "meaning"), rows) if rows else "Columns: what the cases give."
            )
            page += [
                f"Published rows, shown beside and not run: {one.title} ({one.source})." for one in built.published
            ]
    return "\n\n".join(part for part in page if part) + "\n"


# --- files


def formats() -> str:
    """Every format of transforms, as a table."""
    held = {"affine": "one matrix", "field": "one field", "chain": "any chain"}
    rows = [
        (
            code(one.name),
            one.summary,
            ", ".join(code(end) for end in one.extensions) or "a prefix",
            held[one.holds],
            " and ".join(one.images),
            "yes" if one.read else "no",
            "yes" if one.write else "no",
        )
        for one in FORMATS.values()
    ]
    return table(("`format=`", "what it is", "files", "holds", "needs", "read", "written"), rows)


#: What stands for ``<!-- generated: NAME -->`` on a page that is otherwise written by hand.
PIECES: dict[str, Callable[[], str]] = {"transforms": formats}


# --- Python


def public(module: str) -> list[str]:
    """The public names of a module, read from its source: importing most would load torch."""
    if module == "mmtk":
        return [name for name in mmtk.__all__ if not name.startswith("__")]
    if module == "mmtk.samples":
        from mmtk import samples

        return list(samples.__all__)
    path = PACKAGE.joinpath(*module.split(".")[1:])
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and any(getattr(t, "id", None) == "__all__" for t in node.targets):
            return list(ast.literal_eval(node.value))
    raise ValueError(f"{path} has no __all__")


def api(module: str) -> str:
    """One page for the public names of one module."""
    path = PACKAGE.joinpath(*module.split(".")[1:])
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    about = docstrings.as_markdown(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "")
    names = "\n\n".join(f"::: {module}.{name}" for name in public(module))
    return f"# {module}\n\n{about}\n\n{names}\n"


def api_index() -> str:
    """The modules, and what each is for."""
    rows = []
    for module in MODULES:
        path = PACKAGE.joinpath(*module.split(".")[1:])
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        first = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n", 1)[0]
        rows.append((f"[`{module}`]({module.rpartition('.')[2]}.md)", first))
    return (
        "# Python\n\nWhat is listed here is public: it changes only with a line in the [changelog](../../changelog.md). "
        "Everything else may change at any time. Importing `mmtk` loads neither torch nor MONAI; the names do, on their "
        f"first use.\n\n{table(('module', 'what it is'), rows)}\n"
    )


#: Every page that is made, by its path in docs/.
PAGES: dict[str, Callable[[], str]] = {
    "reference/cli.md": commands,
    "reference/settings.md": run_settings,
    "reference/parts.md": parts,
    "reference/bundles.md": bundles,
    "reference/samples.md": samples,
    "reference/benchmarks.md": benchmarks,
    "reference/api/index.md": api_index,
    **{f"reference/api/{module.rpartition('.')[2]}.md": partial(api, module) for module in MODULES},
}
