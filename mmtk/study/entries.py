"""The methods of a study: each with all of its settings, and how it is called."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmtk.config import LearnedConfig, Recipe, nearest
from mmtk.errors import ConfigError, MmtkError
from mmtk.modalities import KNOWN
from mmtk.plugins import Catalogue
from mmtk.settings import Setting, mapping, read_settings, resolve
from mmtk.study.oracle import ORACLE
from mmtk.study.typed import bare, items

if TYPE_CHECKING:
    from mmtk.study.description import StudyConfig

__all__ = ["Entry", "read_entries", "words_of"]

#: Keys of a method's mapping that are not settings of it.
OWN = ("name", "method", "kind", "bundle", "masked", "told", "modalities")


@dataclass(frozen=True)
class Entry:
    """A method of the study.

    Attributes:
        label: Its name in tables, which is that of a folder, too.
        recipe: The method and the preparation, resolved.
        masked: Whether it is given the lesions' masks. Where a study says ``masked: true``, a method that can leaves the
            lesion out of its cost, too (cost-function masking).
        told: Whether it is told what is known of each case, such as whether the lesion grew.
        modalities: Further ones of each case that it is given beside the leading one.
        missing: Why it cannot run here: a library that is not installed, and how to get it; empty if it can.
    """

    label: str
    recipe: Recipe
    masked: bool = True
    told: bool = False
    missing: str = ""
    modalities: tuple[str, ...] = ()

    def data(self) -> dict[str, Any]:
        """The entry as a study's file may hold it, nothing left to defaults."""
        settings = self.recipe.model_dump(mode="json", exclude={"method"})
        # What was not said of a learned method is for its weights to say.
        learned = isinstance(self.recipe.method, LearnedConfig)
        method = self.recipe.method.model_dump(mode="json", exclude_unset=learned)
        method["kind"] = self.recipe.method.kind
        settings = {key: value for key, value in settings.items() if value is not None}
        said: dict[str, Any] = {
            **({} if self.masked else {"masked": False}),
            **({"told": True} if self.told else {}),
        }
        if self.modalities:
            said["modalities"] = list(self.modalities)
        return {"name": self.label, "method": method, **said, **settings}


def words_of(methods: Any) -> list[str]:
    """Return the values that were typed for ``methods=``: import paths among them may be followed."""
    text = methods if isinstance(methods, str) else ""
    return [word.partition("=")[2] or word for part in items(text) for word in part.split()]


def read_entries(config: StudyConfig, catalogue: Catalogue, problems: list[str]) -> list[Entry]:
    """Return the methods of a study; what is wrong with one is added to ``problems``."""
    entries: list[Entry] = []
    for number, raw in enumerate(config.methods, 1):
        said = _as_mapping(raw)
        label = str(said.get("name") or _default_label(said))
        if re.fullmatch(r"\w[\w.+=-]*", label) is None:
            problems.append(
                f"methods: item {number}: the name '{label}' is to be that of a folder, too; use letters, digits, "
                f"'-', '_' and '.' and give it as name:"
            )
            continue
        if label in (entry.label for entry in entries):
            problems.append(f"methods: two are called '{label}'; give one of them another name:")
            continue
        try:
            entries.append(_entry(label, said, catalogue))
        except ConfigError as error:
            problems += [f"methods: {label}: {problem}" for problem in error.problems]
        except MmtkError as error:
            problems.append(f"methods: {label}: {error}")
    return entries


def _as_mapping(raw: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return a method's entry as a mapping; text is a name, or settings as they are typed."""
    if isinstance(raw, Mapping):
        return dict(raw)
    words = shlex.split(raw)
    if not any("=" in word for word in words):
        return {"method": raw}
    name = {} if "=" in words[0] else {"method": words.pop(0)}
    said, problems = mapping(*read_settings(words))
    if problems:
        raise ConfigError([f"methods: {raw}: {problem}" for problem in problems])
    return {**name, **{key: bare(value) for key, value in said.items()}}


def _default_label(said: Mapping[str, Any]) -> str:
    chosen = said.get("bundle") or said.get("method") or said.get("kind") or "method"
    name = str(chosen.get("kind")) if isinstance(chosen, Mapping) else str(chosen)
    changed = [
        f"{key}={value}" for key, value in said.items() if key not in OWN and isinstance(value, str | int | float)
    ]
    label = "-".join([Path(name).name.rpartition(":")[2], *changed])
    return re.sub(r"[:/]+", ".", re.sub(r"[\[\]\s\"']", "", label)).replace(",", "+")


def _entry(label: str, said: dict[str, Any], catalogue: Catalogue) -> Entry:
    from mmtk.bundle.recipe import read_recipe
    from mmtk.bundle.search import find
    from mmtk.bundle.trust import admit

    chosen = [key for key in ("method", "kind", "bundle") if said.get(key) is not None]
    if len(chosen) != 1:
        told = " and ".join(chosen) or "nothing"
        raise ConfigError(f"{told} says how to register; give one of method: and bundle:")
    masked, knows = _flag(said, "masked", True), _flag(said, "told", False)
    base: dict[str, Any] = {}
    settings: list[Setting] = []
    name = said[chosen[0]]
    if chosen == ["bundle"] or (isinstance(name, str) and _only_a_bundle(name, catalogue)):
        found = find(str(name), catalogue)
        admit(found, catalogue)
        base, _ = read_recipe(found.folder)
    else:
        settings.append(Setting("method", name))
    if name == ORACLE:
        base = {"init": "none"}  # the truth is the whole map
    settings += [Setting(str(key), value) for key, value in said.items() if key not in OWN]
    evaluated = [str(s) for s in settings if isinstance(s.value, str) and s.value.startswith(("$", "@", "%"))]
    if evaluated:
        raise ConfigError(f"{evaluated[0]}: a value must not begin with $, @ or %, which MONAI would evaluate")
    recipe = resolve(settings, base, catalogue, Recipe)
    if masked and "masked" in said and "masked" in type(recipe.method).model_fields:
        recipe = resolve([*settings, Setting("method.masked", True)], base, catalogue, Recipe)
    if knows and "lesion" not in type(recipe.method).model_fields:
        raise ConfigError(f"told: {recipe.method.kind} has no setting `lesion`; leave `told` out")
    return Entry(label, recipe, masked, knows, recipe.method.missing(), _modalities(said.get("modalities")))


def _modalities(given: Any) -> tuple[str, ...]:
    """Return the further modalities of an entry: ``flair,t2`` or a list."""
    names = items(given) if isinstance(given, str) else list(given or ())
    for name in names:
        if name not in KNOWN:
            raise ConfigError(f"modalities={name}: must be some of {', '.join(KNOWN)}{nearest(str(name), KNOWN)}")
    return tuple(dict.fromkeys(names))


def _flag(said: Mapping[str, Any], key: str, usual: bool) -> bool:
    found = {"true": True, "false": False}.get(str(said.get(key, usual)).lower())
    if found is None:
        raise ConfigError(f"{key}={said[key]}: must be true or false")
    return found


def _only_a_bundle(name: str, catalogue: Catalogue) -> bool:
    """Whether a name is that of a bundle, and of no method."""
    methods = {offer.name for offer in catalogue.offers("method")}
    return name not in methods and name in catalogue.bundles
