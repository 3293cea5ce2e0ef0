"""``mmtk show``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmtk.cli.completion import complete_name
from mmtk.cli.refusal import refusals

if TYPE_CHECKING:
    from pydantic import BaseModel

    from mmtk.config import Capabilities
    from mmtk.plugins import Catalogue, Offer

__all__ = ["show"]


def show(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="A bundle, a method or another part.", autocompletion=complete_name),
    ],
) -> None:
    """List the settings of a bundle, a method or a part: default, type, range, unit, meaning; and where it is from."""
    from mmtk.plugins import installed

    with refusals():
        typer.echo(_page(name, installed()))


def _page(name: str, catalogue: Catalogue) -> str:
    from mmtk.config import nearest
    from mmtk.errors import ConfigError

    offers = [o for o in catalogue.offers() if name in (o.name, o.full_name, f"{o.plugin}:{o.name}")]
    if offers:
        return "\n\n".join(_part_page(offer, catalogue) for offer in offers)
    if name in catalogue.bundles:
        return _bundle_page(name, catalogue)
    known = [*catalogue.bundles, *(offer.name for offer in catalogue.offers())]
    raise ConfigError(f"nothing is called '{name}'{nearest(name, known) or ';'} `mmtk plugins` lists all names")


def _part_page(offer: Offer, catalogue: Catalogue) -> str:
    from string import Template

    from mmtk.plugins.docstrings import references
    from mmtk.plugins.writing import KINDS

    config = offer.config
    version = next(plugin.version for plugin in catalogue.plugins if plugin.name == offer.plugin)
    example = Template(KINDS[offer.family]).substitute(part=offer.name)
    lines = [f"{offer.family} {offer.name}: {config.summary}", _settings(config, {}), ""]
    lines += [f"for   {_capable(config.capabilities)}", f"from  {offer.distribution} {version}, {config.target}"]
    lines += [f"note  {config.missing()}"] if config.missing() else []
    lines += [f"try   {example}"] if example.startswith(("mmtk run", "mmtk segment")) else []
    if cited := references(config.target):
        lines += ["", "References", *(f"  {line}" for line in cited)]
    return "\n".join(lines)


def _capable(can: Capabilities) -> str:
    words = [" and ".join(f"{dim}-D" for dim in can.dims)]
    words += ["one channel"] * (not can.multichannel) + ["needs a lesion mask"] * can.needs_mask
    words += ["learned: needs weights"] * can.learned + ["diffeomorphic"] * can.diffeomorphic
    return ", ".join([*words, *["may move an image on itself"] * (not can.stationary)])


def _bundle_page(name: str, catalogue: Catalogue) -> str:
    from mmtk.bundle.recipe import read_recipe, read_segmenter, segments
    from mmtk.config import Recipe, RunConfig

    if segments(folder := catalogue.bundle(name)):
        said = read_segmenter(folder)
        chosen = catalogue.find("segmenter", str(said["kind"]))
        return (
            f"bundle {name}\n\nsegmenter {chosen.name()}: {chosen.summary}\n{_settings(chosen, said)}\n\n"
            f"try  mmtk segment bundle={name} image=IMAGE out=mask.nii.gz"
        )
    base, _ = read_recipe(catalogue.bundle(name))
    recipe = Recipe.model_validate(base, context={"catalogue": catalogue})
    method = recipe.method
    return (
        f"bundle {name}\n{_settings(RunConfig, dict(recipe), skip=('method',))}\n\n"
        f"method {method.name()}: {method.summary}\n{_settings(type(method), dict(method))}\n\n"
        f"try  mmtk run bundle={name} moving=MOVING fixed=FIXED"
    )


def _settings(model: type[BaseModel], values: dict[str, Any], skip: tuple[str, ...] = ()) -> str:
    from mmtk.plugins.words import accepted, as_typed, unit

    rows: list[tuple[str, ...]] = []
    for name, field in model.model_fields.items():
        if name != "kind" and name not in skip:
            given = not field.is_required() or name in values
            value = values.get(name, field.get_default(call_default_factory=True)) if given else ""
            rows.append(
                (field.alias or name, as_typed(value), accepted(field), unit(field), field.description or "")
            )
    if not rows:
        return "  no settings"
    if not any(row[3] for row in rows):  # no column where nothing has a unit
        rows = [(*row[:3], row[4]) for row in rows]
    widths = [*(max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)), 0]
    return "\n".join(
        "  " + "  ".join(f"{word:{width}}" for word, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
