"""From ``key=value``, as typed, to a checked description.

    mu=0.1                      a setting of the method, for short
    method.mu=0.1               the same, in full
    similarity=lncc             another part: the settings of the one it replaces go with it
    similarity.radius=3         a setting of the part in use
    regularizers=bending,diffusion
    regularizers.bending.weight=2

The first ``=`` separates; what follows stays text until the type of its field is known, so that ``moving=007``
is a file and ``mu=1e-3`` a number. A value that begins with ``$``, ``@`` or ``%`` is refused: MONAI would
evaluate it.

Everything that is wrong is found before anything is refused: one sentence each, at the place where it was typed.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from mmtk.config import ComponentConfig, Part, Parts, from_text, nearest
from mmtk.errors import ConfigError, MmtkError

__all__ = ["Setting", "mapping", "read_settings", "resolve", "slip"]

Model = TypeVar("Model", bound=BaseModel)
Location = tuple[Any, ...]

_EVALUATED = ("$", "@", "%")


@dataclass(frozen=True)
class Setting:
    """One ``key=value``. From a command line the value is text; from Python it may be anything."""

    key: str
    value: Any

    @property
    def path(self) -> tuple[str, ...]:
        return tuple(self.key.split("."))

    def __str__(self) -> str:
        return f"{self.key}={self.value}"


def read_settings(arguments: Iterable[str], options: Iterable[str] = ()) -> tuple[list[Setting], list[str]]:
    """Split arguments into settings; return them, and a sentence for each that cannot be one.

    ``options`` are those that the command does know, to be suggested for a slip.
    """
    settings, problems = [], []
    words = list(arguments)
    while words:
        word = words.pop(0)
        key, equals, value = word.partition("=")
        if word.startswith("-"):
            # "--mu 3": the next word was meant as the value.
            if not equals and words and "=" not in words[0] and not words[0].startswith("-"):
                value = words.pop(0)
                word = f"{word} {value}"
            problems.append(_stray_option(word, key, value, options))
        elif not equals:
            problems.append(f"{word}: settings are written key=value, such as moving={word}")
        elif not all(key.split(".")):
            problems.append(f"{word}: there is no key before the '='")
        elif not value:
            problems.append(f"{word}: no value; leave the key out to keep its default")
        elif value.startswith(_EVALUATED):
            problems.append(f"{word}: a value must not begin with $, @ or %, which MONAI would evaluate")
        else:
            settings.append(Setting(key, value))
    return settings, problems


def mapping(settings: Iterable[Setting], problems: Sequence[str] = ()) -> tuple[dict[str, Any], list[str]]:
    """Return settings by key, for what has no parts; keys that are given twice join the problems."""
    chosen: dict[str, Setting] = {}
    problems = list(problems)
    for setting in settings:
        if setting.key in chosen:
            problems.append(f"{chosen[setting.key]} and {setting}: both set {setting.key}; give one of them")
        chosen[setting.key] = setting
    return {key: setting.value for key, setting in chosen.items()}, problems


def _stray_option(word: str, name: str, value: str, options: Iterable[str]) -> str:
    known = {option.lstrip("-"): option for option in options}
    if close := nearest(name.lstrip("-"), known).replace("'", "'--", 1):
        return f"{word}: no such option{close}"
    return f"{word}: no such option; use {name.lstrip('-')}={value or 'VALUE'} (run settings are key=value)"


def resolve(
    settings: Sequence[Setting],
    base: Mapping[str, Any] | None,
    catalogue: Parts,
    model: type[Model],
    problems: Sequence[str] = (),
) -> Model:
    """Lay ``settings`` over ``base`` and check the whole.

    Args:
        settings: What the user said.
        base: What holds where the user said nothing, as plain data: a bundle's recipe. None: the bundle is not
            known, which is among ``problems``; settings that may be its method's are let pass.
        catalogue: The parts that are installed.
        model: :class:`~mmtk.config.Recipe`, or :class:`~mmtk.config.RunConfig` where images are files; or another
            description with one part whose settings may be given for short, which it names as ``lead``.
        problems: What is known to be wrong already, to be told together with what is found here.

    Raises:
        ConfigError: One sentence for each thing that is wrong.
    """
    return _Resolution(base, catalogue, model, problems).run(settings)


class _Resolution:
    """The tree that settings are laid into, and which setting each of its places came from."""

    def __init__(
        self, base: Mapping[str, Any] | None, catalogue: Parts, model: type[BaseModel], problems: Sequence[str]
    ) -> None:
        #: The part that does the work, whose settings need no prefix.
        self.lead = str(getattr(model, "lead", "method"))
        self.tree: dict[str, Any] = deepcopy(dict(base or {}))
        self.lost = base is None
        self.catalogue = catalogue
        self.model = model
        self.problems = list(problems)
        self.origin: dict[Location, Setting] = {}
        self.method: type[ComponentConfig] | None = None

    def run(self, settings: Sequence[Setting]) -> Any:
        self._choose_method(settings)
        for setting in sorted(settings, key=lambda s: len(s.path)):
            path = self._place(setting)
            if path is not None:
                self._insert(setting, path)
        try:
            checked = self.model.model_validate(self.tree, context={"catalogue": self.catalogue})
        except ValidationError as error:
            for detail in error.errors():
                if self.method is not None or detail["loc"][:1] != (self.lead,):
                    self.problems += self._sentence(detail).splitlines()
        if self.problems:
            raise ConfigError(self.problems)
        return checked

    # --- where a setting belongs

    def _choose_method(self, settings: Sequence[Setting]) -> None:
        chosen = next((s for s in settings if s.path in ((self.lead,), (self.lead, "kind"))), None)
        name = _kind(chosen.value if chosen else self.tree.get(self.lead))
        if name is None:
            if not self.lost:
                verb = {"method": "register", "segmenter": "segment"}[self.lead]
                self.problems.append(f"nothing says how to {verb}: give bundle=NAME or {self.lead}=NAME")
            return
        try:
            self.method = self.catalogue.find(self.lead, name)
        except MmtkError as error:
            self.problems.append(f"{chosen or self.lead}: {error}")

    def _place(self, setting: Setting) -> Location | None:
        """Return the path in full, or note why there is none."""
        first, *rest = setting.path
        if rest[-1:] == ["kind"]:
            rest = rest[:-1]
        if first in self.model.model_fields:
            return (first, *rest)
        if self.method is None:
            # Without a method its settings cannot be told from slips, and the missing method is noted already.
            return None
        if (name := _field_name(self.method, first)) is not None:
            return (self.lead, name, *rest)
        known = [*self.model.model_fields, *_names(self.method), "bundle"]
        hint = nearest(first, known) or f"; `mmtk show {self.method.name()}` lists the keys"
        self.problems.append(f"{setting}: unknown key{hint}")
        return None

    def _insert(self, setting: Setting, path: Location) -> None:
        try:
            where = self._walk(self.tree, self.model, path, (), setting.value)
        except MmtkError as error:
            self.problems.append(f"{setting}: {error}")
            return
        if where in self.origin:
            self.problems.append(
                f"{self.origin[where]} and {setting}: both set {'.'.join(path)}; give one of them"
            )
        self.origin[where] = setting

    def _walk(
        self, node: dict[str, Any], model: type[BaseModel], path: Location, above: Location, value: Any
    ) -> Location:
        """Put ``value`` at ``path`` below ``node``; return its place in the tree."""
        name, *rest = path
        name = _field_name(model, name) or name
        here = (*above, name)
        field = model.model_fields.get(name)
        family, several = _family(field)
        if field is not None and field.alias in node:
            node[name] = node.pop(field.alias)
        if not rest:
            node[name] = self._choice(node.get(name), value) if family and not several else value
            return here
        if field is None or family is None:
            if field is None:
                raise ConfigError(f"unknown key{nearest(name, _names(model))}")
            raise ConfigError(f"'{name}' is a value and has no settings of its own; write {name}=VALUE")
        if several:
            items = node[name] = self._items(node.get(name), field)
            kind, *rest = rest
            index = next((i for i, item in enumerate(items) if item.get("kind") == kind), len(items))
            if index == len(items):
                items.append({"kind": kind})
            part, here = items[index], (*here, index)
        else:
            part = node[name] = self._settings_of(node.get(name), field)
        try:
            chosen = self.catalogue.find(family, str(part["kind"]))
        except MmtkError:
            return (*here, *rest)  # the check of the whole tree says so, once
        if not rest:
            raise ConfigError(f"'{chosen.name()}' is a part; set one of {', '.join(_names(chosen))} in it")
        return self._walk(part, chosen, tuple(rest), here, value)

    def _choice(self, old: Any, new: Any) -> Any:
        """A part asked for by name keeps the settings it has; another name starts from its own defaults."""
        if isinstance(new, str) and new.startswith("{"):
            new = from_text(dict[str, Any], new)
        if isinstance(new, ComponentConfig) or _kind(new) is None:
            return new
        settings = {"kind": new} if isinstance(new, str) else dict(new)
        return {**old, **settings} if isinstance(old, Mapping) and _kind(old) == _kind(new) else settings

    def _settings_of(self, old: Any, field: FieldInfo) -> dict[str, Any]:
        if old is None:
            old = None if field.is_required() else field.get_default(call_default_factory=True)
        if old is None:
            raise ConfigError("choose the part first, by its name")
        return _plain(old)

    def _items(self, old: Any, field: FieldInfo) -> list[dict[str, Any]]:
        if old is None:
            old = () if field.is_required() else field.get_default(call_default_factory=True)
        if isinstance(old, str):
            old = from_text(list[Any], old)
        return [_plain(item) for item in old]

    # --- what is wrong, in words

    def _sentence(self, detail: Any) -> str:
        location = tuple(detail["loc"])
        kind, context = detail["type"], detail.get("ctx", {})
        setting, rest = self._typed(location)
        if kind == "missing":
            return f"{_dotted(location)}: missing; give {_dotted(location)}=FILE"
        if kind == "extra_forbidden":
            return f"{setting or _dotted(location)}: unknown key{self._known_at(location)}"
        words = slip(kind, context, detail)
        if kind == "value_error" and isinstance(self._at(location), Mapping) and (setting is None or rest):
            return words
        item = f"item {rest[-1] + 1} " if rest and isinstance(rest[-1], int) else ""
        return f"{setting or _dotted(location)}: {item}{words}"

    def _typed(self, location: Location) -> tuple[Setting | None, Location]:
        """The setting that put a value at ``location`` or above it, and what of the location it leaves over."""
        for length in range(len(location), 0, -1):
            if location[:length] in self.origin:
                return self.origin[location[:length]], location[length:]
        return None, location

    def _at(self, location: Location) -> Any:
        node: Any = self.tree
        for step in location:
            try:
                node = node[step]
            except (KeyError, IndexError, TypeError):
                return None
        return node

    def _known_at(self, location: Location) -> str:
        model = self._model_at(location[:-1])
        if model is None:
            return ""
        slip = str(location[-1])
        setting, _ = self._typed(location)
        prefix = setting.key.rpartition(".")[0] if setting else _dotted(location).rpartition(".")[0]
        close = nearest(slip, _names(model))
        if close:
            return close.replace("mean '", f"mean '{prefix}.") if prefix else close
        owner = model.name() if issubclass(model, ComponentConfig) else "a run"
        return f"; {owner} has {', '.join(_names(model)) or 'no settings'}"

    def _model_at(self, location: Location) -> type[BaseModel] | None:
        model: type[BaseModel] | None = self.model
        node: Any = self.tree
        family = None
        for step in location:
            if isinstance(step, str):
                family, _ = _family(model.model_fields.get(step)) if model else (None, False)
            node = node[step]
            if not isinstance(node, list):
                kind = _kind(node)
                model = self.catalogue.find(family, kind) if family and kind else None
        return model


def slip(kind: str, context: Mapping[str, Any], detail: Mapping[str, Any]) -> str:
    """Return what is wrong with a value, in words; the arguments are of an entry of pydantic's ``errors()``."""
    seen = detail.get("input")
    match kind:
        case "greater_than_equal":
            return f"must be >= {context['ge']:g}"
        case "greater_than":
            return f"must be > {context['gt']:g}"
        case "less_than_equal":
            return f"must be <= {context['le']:g}"
        case "less_than":
            return f"must be < {context['lt']:g}"
        case "float_parsing" | "float_type":
            return f"'{seen}' is not a number"
        case "int_parsing" | "int_type" | "int_from_float":
            return f"'{seen}' is not a whole number"
        case "finite_number":
            return "must be a finite number"
        case "bool_parsing" | "bool_type":
            return f"'{seen}' is neither on nor off"
        case "tuple_type" | "list_type":
            return "must be a list, such as 4,2,1 or [4, 2, 1]"
        case "too_short":
            return f"must have at least {context['min_length']} items"
        case "too_long":
            return f"must have at most {context['max_length']} items"
        case "literal_error":
            choices = context["expected"].replace("'", "").replace(" or ", ", ")
            return f"must be one of {choices}{nearest(str(seen), choices.split(', '))}"
        case "value_error":
            return str(context["error"])
    return str(detail["msg"])


def _dotted(location: Location) -> str:
    """The key that a user would type."""
    steps = location[1:] if len(location) > 1 and location[0] in ("method", "segmenter") else location
    return ".".join(str(step) for step in steps)


def _kind(node: Any) -> str | None:
    if isinstance(node, str):
        return node
    if isinstance(node, ComponentConfig):
        return node.kind
    kind = node.get("kind") if isinstance(node, Mapping) else None
    return kind if isinstance(kind, str) else None


def _plain(node: Any) -> dict[str, Any]:
    if isinstance(node, ComponentConfig):
        return node.model_dump()
    return {"kind": node} if isinstance(node, str) else dict(node)


def _names(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items() if name != "kind"]


def _field_name(model: type[BaseModel], key: str) -> str | None:
    """The field that ``key`` names, by its name or its alias."""
    return next((n for n, f in model.model_fields.items() if key in (n, f.alias)), None)


def _family(field: FieldInfo | None) -> tuple[str | None, bool]:
    """The family of parts that a field holds, and whether it holds several."""
    if field is None:
        return None, False
    for marker in field.metadata:
        if isinstance(marker, Part):
            return marker.family, False
    several = get_origin(field.annotation) not in (Union, types.UnionType)  # else it is one, or none
    for argument in get_args(field.annotation):
        for marker in get_args(argument):
            if isinstance(marker, Part):
                return marker.family, several
    return None, False
