"""What is installed: every plugin, what it offers, and what is wrong with it.

pluggy's own loader stops at the first plugin that fails to import, and so one broken package would take the whole
toolkit down. Here every plugin is loaded, registered and asked under guard. One that fails is kept with its error:
it is listed, it offers nothing, and it stops only a run that asks for something it might have offered.

    MMTK_LOAD_PLUGINS=a,b       load these only; empty: none
    MMTK_DISABLE_PLUGINS=x      leave these out

Both take names of entry points or of distributions.

A part may also be given by import path, ``my.module:MyClass``, where a user typed it: see ``mmtk.plugins.paths``.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pluggy

from mmtk.config import ComponentConfig, nearest
from mmtk.errors import ConfigError, PluginError
from mmtk.plugins import hookspecs
from mmtk.plugins.hookspecs import OLDEST_API, PLUGIN_API, PROJECT, Command
from mmtk.plugins.paths import describe, import_paths

__all__ = ["BASES", "FAMILIES", "GROUP", "Catalogue", "Offer", "PluginRecord", "installed", "load"]

GROUP = "mmtk.plugins"

#: Family of parts, as descriptions name it, and the hook that gathers it.
FAMILIES = {
    "method": "mmtk_methods",
    "integrator": "mmtk_integrators",
    "similarity": "mmtk_similarities",
    "regularizer": "mmtk_regularizers",
    "segmenter": "mmtk_segmenters",
    "loss": "mmtk_losses",
    "metric": "mmtk_metrics",
}

#: What the class of a part derives from.
BASES = {
    "method": "mmtk.method:Method",
    "integrator": "mmtk.integrators:Integrator",
    "similarity": "mmtk.similarity:Similarity",
    "regularizer": "mmtk.regularizers:Regularizer",
    "segmenter": "mmtk.segmenters:Segmenter",
    "loss": "torch.nn:Module",
    "metric": "mmtk.metrics:Metric",
}


@dataclass(frozen=True)
class Offer:
    """A part that a plugin offers, under a name, in a family."""

    family: str
    name: str
    config: type[ComponentConfig]
    plugin: str
    distribution: str

    @property
    def full_name(self) -> str:
        """The name that stays clear where two distributions offer ``name``."""
        return f"{self.distribution}:{self.name}"


@dataclass(frozen=True)
class PluginRecord:
    """One plugin: where it came from, what it offers, or why it cannot.

    Attributes:
        status: ``"ok"``, ``"broken"`` or ``"disabled"``.
        error: What went wrong, in one line; empty unless broken.
    """

    name: str
    distribution: str
    version: str
    status: str = "ok"
    error: str = ""
    offers: tuple[Offer, ...] = ()
    bundles: tuple[Path, ...] = ()
    benchmarks: tuple[type[ComponentConfig], ...] = ()
    trainings: tuple[type[ComponentConfig], ...] = ()
    commands: tuple[Command, ...] = ()


@dataclass(frozen=True)
class Catalogue:
    """Everything that the installed plugins offer.

    Attributes:
        paths: Import paths that may be followed, because a user typed them.
    """

    plugins: tuple[PluginRecord, ...] = field(default=())
    paths: frozenset[str] = frozenset()

    def following(self, typed: Iterable[Any]) -> Catalogue:
        """Return a catalogue that follows the import paths among values that a user typed.

        Following a path runs code. What comes from a file, such as a bundle's recipe, must not be given here.
        """
        return replace(self, paths=self.paths | import_paths(typed))

    def offers(self, family: str | None = None) -> list[Offer]:
        """All offers, or those of one family, by name."""
        every = [offer for plugin in self.plugins for offer in plugin.offers]
        chosen = [offer for offer in every if family in (None, offer.family)]
        return sorted(chosen, key=lambda offer: (list(FAMILIES).index(offer.family), offer.name))

    @property
    def broken(self) -> list[PluginRecord]:
        """The plugins that could not be loaded."""
        return [plugin for plugin in self.plugins if plugin.status == "broken"]

    @property
    def bundles(self) -> dict[str, list[Path]]:
        """The folders of all bundles, by the bundle's name."""
        found: dict[str, list[Path]] = {}
        for plugin in self.plugins:
            for folder in plugin.bundles:
                found.setdefault(folder.name, []).append(folder)
        return found

    @property
    def benchmarks(self) -> dict[str, list[type[ComponentConfig]]]:
        """The benchmarks of all plugins, by name."""
        found: dict[str, list[type[ComponentConfig]]] = {}
        for plugin in self.plugins:
            for config in plugin.benchmarks:
                found.setdefault(config.name(), []).append(config)
        return found

    @property
    def trainings(self) -> dict[str, type[ComponentConfig]]:
        """What else than registrations can be trained, by name; of several of one name the first."""
        found: dict[str, type[ComponentConfig]] = {}
        for plugin in self.plugins:
            for config in plugin.trainings:
                found.setdefault(config.name(), config)
        return found

    def find(self, family: str, name: str) -> type[ComponentConfig]:
        """Return the description of one part.

        Args:
            family: A key of :data:`FAMILIES`.
            name: The part's name, ``distribution:name``, ``plugin:name``, or an import path in ``paths``.

        Raises:
            ConfigError: There is no such part, or more than one.
            PluginError: There is none, but a plugin that is broken may have offered it.
        """
        owner, colon, short = name.rpartition(":")
        offers = self.offers(family)
        found = [o for o in offers if o.name == short and (not colon or owner in (o.distribution, o.plugin))]
        if len(found) == 1:
            return found[0].config
        if found:
            raise ConfigError(_clash(short, found))
        if name in self.paths:
            return describe(name, family, BASES[family])
        known = sorted({offer.name for offer in offers})
        message = f"no {family} is called '{name}'{_advice(short, known)}"
        blamed = [p for p in self.broken if not colon or owner in (p.distribution, p.name)]
        if blamed:
            why = "; ".join(f"plugin '{p.name}' ({p.distribution} {p.version}): {p.error}" for p in blamed)
            raise PluginError(f"{message}. Not loaded: {why}")
        raise ConfigError(message)

    def bundle(self, name: str) -> Path:
        """Return the folder of the bundle ``name``.

        Raises:
            ConfigError: No bundle is called so, or several are.
        """
        folders = self.bundles.get(name, [])
        if len(folders) == 1:
            return folders[0]
        if folders:
            raise ConfigError(
                f"several bundles are called '{name}': {', '.join(map(str, folders))}; give a folder"
            )
        known = sorted(self.bundles)
        raise ConfigError(f"no bundle is called '{name}'{_advice(name, known)}")


@cache
def installed() -> Catalogue:
    """The catalogue of this environment, read once."""
    return load(importlib.metadata.entry_points(group=GROUP), os.environ)


def load(entry_points: Iterable[Any], environ: Mapping[str, str]) -> Catalogue:
    """Load every plugin under guard.

    Args:
        entry_points: As :func:`importlib.metadata.entry_points` gives them.
        environ: Where ``MMTK_LOAD_PLUGINS`` and ``MMTK_DISABLE_PLUGINS`` are read.
    """
    return Catalogue(tuple(_read(entry_point, environ) for entry_point in entry_points))


def _read(entry_point: Any, environ: Mapping[str, str]) -> PluginRecord:
    name = entry_point.name
    distribution = getattr(entry_point.dist, "name", "unknown")
    version = getattr(entry_point.dist, "version", "unknown")
    if not _wanted({name, distribution}, environ):
        return PluginRecord(name, distribution, version, "disabled")
    try:
        hooks = _hooks(name, entry_point.load())
        return PluginRecord(
            name,
            distribution,
            version,
            offers=tuple(
                Offer(family, config.name(), config, name, distribution)
                for family, hook in FAMILIES.items()
                for config in _configs(hook, hooks)
            ),
            bundles=tuple(Path(folder) for folder in hooks.get("mmtk_bundles", [])),
            benchmarks=tuple(_configs("mmtk_benchmarks", hooks)),
            trainings=tuple(_configs("mmtk_trainings", hooks)),
            commands=tuple(hooks.get("mmtk_commands", [])),
        )
    except (Exception, SystemExit) as error:
        words = " ".join(str(error).split())
        return PluginRecord(name, distribution, version, "broken", f"{type(error).__name__}: {words}")


def _clash(name: str, found: list[Offer]) -> str:
    owners = [offer.distribution for offer in found]
    choices = [offer.full_name for offer in found]
    if len(set(owners)) < len(owners):
        owners = [f"plugin {offer.plugin} of {offer.distribution}" for offer in found]
        choices = [f"{offer.plugin}:{offer.name}" for offer in found]
    return f"'{name}' is offered by {' and '.join(owners)}; choose one: {' or '.join(choices)}"


def _advice(name: str, known: list[str]) -> str:
    return f"{nearest(name, known) or '.'} Installed: {', '.join(known) or 'none'}"


def _wanted(names: set[str], environ: Mapping[str, str]) -> bool:
    def listed(variable: str) -> set[str]:
        return {item.strip() for item in environ.get(variable, "").split(",")} - {""}

    if names & listed("MMTK_DISABLE_PLUGINS"):
        return False
    return "MMTK_LOAD_PLUGINS" not in environ or bool(names & listed("MMTK_LOAD_PLUGINS"))


def _hooks(name: str, plugin: object) -> dict[str, list[Any]]:
    """Ask one plugin, alone, for all that it offers: the answer of each of its hooks.

    Raises:
        PluginError: It was written for another mmtk, or implements a hook that does not exist.
    """
    _check_api(getattr(plugin, "requires_api", PLUGIN_API))
    known = {spec for spec in vars(hookspecs) if spec.startswith("mmtk_")}
    _check_marks(plugin, known)
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(plugin, name)
    answers = {}
    for caller in manager.get_hookcallers(plugin) or []:
        if caller.name not in known:
            raise PluginError(f"there is no hook called '{caller.name}'{nearest(caller.name, known)}")
        answers[caller.name] = [item for answer in caller() for item in _several(caller.name, answer)]
    return answers


def _several(hook: str, answer: Any) -> list[Any]:
    if isinstance(answer, str) or not isinstance(answer, Iterable):
        raise PluginError(f"{hook} returned {answer!r}; expected a list")
    return list(answer)


def _check_api(wanted: object) -> None:
    """Accept this version of the hooks and the one before.

    Raises:
        PluginError: The plugin was written for a newer version, or for one that is too old.
    """
    if not str(wanted).isdecimal():
        raise PluginError(f"requires_api is {wanted!r}; expected the number of a version, such as '{PLUGIN_API}'")
    if int(str(wanted)) > int(PLUGIN_API):
        raise PluginError(f"it needs plugin API {wanted}, and this mmtk has {PLUGIN_API}; upgrade mmtk")
    if int(str(wanted)) < int(OLDEST_API):
        raise PluginError(
            f"it was written for plugin API {wanted}, and this mmtk knows {OLDEST_API} to {PLUGIN_API}; "
            "upgrade the plugin"
        )


def _check_marks(plugin: object, known: set[str]) -> None:
    """Refuse a function that is called like a hook and not marked as one: it would never be asked.

    Raises:
        PluginError: There is one.
    """
    for name in sorted(known):
        function = getattr(plugin, name, None)
        if inspect.isroutine(function) and not hasattr(function, f"{PROJECT}_impl"):
            raise PluginError(f"{name} is not marked as a hook; write @mmtk.hookimpl above it")


def _configs(hook: str, hooks: Mapping[str, list[Any]]) -> list[type[ComponentConfig]]:
    configs = hooks.get(hook, [])
    names: dict[str, type[ComponentConfig]] = {}
    for config in configs:
        if not (isinstance(config, type) and issubclass(config, ComponentConfig)):
            raise PluginError(f"{hook} returned {config!r}; expected classes derived from mmtk.ComponentConfig")
        if not isinstance(config.model_fields["kind"].default, str):
            raise PluginError(f"{config.__name__} has no name; give it kind: Literal['name'] = 'name'")
        if ":" not in getattr(config, "target", ""):
            raise PluginError(f"{config.__name__} has no target; give it target = 'package.module:Class'")
        if (other := names.setdefault(config.name(), config)) is not config:
            raise PluginError(f"{other.__name__} and {config.__name__} are both called '{config.name()}'")
    return list(names.values())
