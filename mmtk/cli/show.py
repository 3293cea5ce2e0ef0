"""``mmtk show``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmtk.cli.completion import complete_name
from mmtk.cli.refusal import refusals

if TYPE_CHECKING:
    from pydantic import BaseModel

    from mmtk.plugins import Catalogue

__all__ = ["show"]


def show(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="A bundle, a method or another part.", autocompletion=complete_name
        ),
    ],
) -> None:
    """List the settings of a bundle, a method or a part."""
    from mmtk.plugins import installed

    with refusals():
        typer.echo(_page(name, installed()))


def _page(name: str, catalogue: Catalogue) -> str:
    from mmtk.config import nearest
    from mmtk.errors import ConfigError

    offers = [offer for offer in catalogue.offers() if name in (offer.name, offer.full_name)]
    if offers:
        heads = [f"{offer.family} {offer.name}: {offer.config.summary}" for offer in offers]
        pages = [f"{head}\n{_settings(o.config, {})}" for head, o in zip(heads, offers, strict=True)]
        return "\n\n".join(pages)
    if name in catalogue.bundles:
        return _bundle_page(name, catalogue)
    known = [*catalogue.bundles, *(offer.name for offer in catalogue.offers())]
    raise ConfigError(f"nothing is called '{name}'{nearest(name, known) or ';'} `mmtk plugins` lists all names")


def _bundle_page(name: str, catalogue: Catalogue) -> str:
    from mmtk.bundle import read_recipe
    from mmtk.config import Recipe, RunConfig

    base, _ = read_recipe(catalogue.bundle(name))
    recipe = Recipe.model_validate(base, context={"catalogue": catalogue})
    method = recipe.method
    return (
        f"bundle {name}\n{_settings(RunConfig, dict(recipe), skip=('method',))}\n\n"
        f"method {method.name()}: {method.summary}\n{_settings(type(method), dict(method))}"
    )


def _settings(model: type[BaseModel], values: dict[str, Any], skip: tuple[str, ...] = ()) -> str:
    rows = []
    for name, field in model.model_fields.items():
        if name != "kind" and name not in skip:
            given = not field.is_required() or name in values
            value = values.get(name, field.get_default(call_default_factory=True)) if given else ""
            rows.append((field.alias or name, _text(value), field.description or ""))
    if not rows:
        return "  no settings"
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(f"  {key:{widths[0]}}  {value:{widths[1]}}  {what}".rstrip() for key, value, what in rows)


def _text(value: Any) -> str:
    """A value as a user would type it."""
    if isinstance(value, tuple):
        return ",".join(_text(item) for item in value) or "[]"
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:g}"
    return str(getattr(value, "kind", value))
