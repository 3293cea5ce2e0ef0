"""What a plugin must keep, apart from the laws of its parts: ``mmtk plugins check DIST``."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import ValidationError

from mmtk.config import ComponentConfig, load_target, nearest
from mmtk.errors import ConfigError, MmtkError
from mmtk.plugins.catalogue import BASES, GROUP, Catalogue, Offer, PluginRecord

__all__ = ["Check", "check_plugins", "find_plugins"]

#: What must not be loaded by a plugin that only says what it offers.
HEAVY = ("torch", "monai")


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. ``problem`` says what is wrong and what to do; empty if nothing is."""

    about: str
    problem: str = ""


def find_plugins(name: str, catalogue: Catalogue) -> list[PluginRecord]:
    """Return the plugins of a distribution, or the one plugin of that name.

    Raises:
        ConfigError: Nothing is called so.
    """
    found = [plugin for plugin in catalogue.plugins if name in (plugin.distribution, plugin.name)]
    if not found:
        known = sorted({n for plugin in catalogue.plugins for n in (plugin.distribution, plugin.name)})
        raise ConfigError(
            f"no plugin is installed from '{name}'{nearest(name, known) or '.'} "
            f"To be found, it must be installed by pip and have an entry point of the group {GROUP}. "
            f"Installed: {', '.join(known)}"
        )
    return found


def check_plugins(plugins: list[PluginRecord], catalogue: Catalogue) -> Iterator[Check]:
    """Look at plugins and at every part that they offer; each is built, which loads torch."""
    for plugin in plugins:
        yield Check(f"plugin {plugin.name} loads", _unloaded(plugin))
        if plugin.status != "ok":
            continue
        yield Check(f"plugin {plugin.name} offers something", _nothing(plugin))
        yield Check(f"plugin {plugin.name} loads no torch", _heavy(plugin))
        for command in plugin.commands:
            yield Check(f"command {command.name} is there", _missing(command.target))
        for offer in plugin.offers:
            what = f"{offer.family} {offer.name}"
            yield Check(f"{what} has a name of its own", _shared(offer, catalogue))
            yield Check(f"{what} is described", _undescribed(offer.config))
            yield Check(f"{what} is built", _unbuilt(offer, catalogue))


def _unloaded(plugin: PluginRecord) -> str:
    if plugin.status == "disabled":
        return "it is left out; see MMTK_LOAD_PLUGINS and MMTK_DISABLE_PLUGINS"
    return plugin.error


def _nothing(plugin: PluginRecord) -> str:
    if plugin.offers or plugin.bundles or plugin.commands:
        return ""
    return "none of its hooks returned anything; write one, such as mmtk_similarities, under @mmtk.hookimpl"


def _heavy(plugin: PluginRecord) -> str:
    """Import the plugin's module in a process of its own and see what came with it."""
    points = importlib.metadata.entry_points(group=GROUP, name=plugin.name)
    module = next((point.module for point in points), None)
    if module is None:
        return ""
    program = (
        f"import sys, importlib; importlib.import_module({module!r}); "
        f"print(*[name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    loaded = done.stdout.split()
    if not loaded:
        return ""
    return (
        f"importing {module} loads {' and '.join(loaded)}, so that every listing waits for it; "
        "import the classes in the module that `target` names"
    )


def _missing(target: str) -> str:
    try:
        load_target(target)
    except (Exception, SystemExit) as error:
        return f"{target} cannot be imported: {_told(error)}"
    return ""


def _shared(offer: Offer, catalogue: Catalogue) -> str:
    others = [o for o in catalogue.offers(offer.family) if o.name == offer.name and o.plugin != offer.plugin]
    owners = ", ".join(f"{o.plugin} ({o.distribution})" for o in others)
    return f"{owners} offers it, too; users will have to write {offer.full_name}" if others else ""


def _undescribed(config: type[ComponentConfig]) -> str:
    silent = [name for name, field in config.model_fields.items() if name != "kind" and not field.description]
    wants = [] if config.summary else ["a docstring, whose first line is listed"]
    if silent:
        wants.append(f"Field(description=...) for {', '.join(silent)}")
    return f"{config.__name__} needs {' and '.join(wants)}" if wants else ""


def _unbuilt(offer: Offer, catalogue: Catalogue) -> str:
    needed = [name for name, field in offer.config.model_fields.items() if field.is_required() and name != "kind"]
    if needed:
        return (
            f"{offer.config.__name__} has no default for {', '.join(needed)}; a part must work by its name alone"
        )
    base = BASES[offer.family]
    try:
        if offer.config.capabilities.learned:  # without weights there is nothing to build
            made = load_target(offer.config.target)
            good = isinstance(made, type) and issubclass(made, load_target(base))
            return "" if good else f"{offer.config.target} is no class derived from {base.replace(':', '.')}"
        part = offer.config.model_validate({}, context={"catalogue": catalogue}).build()
    except (MmtkError, ValidationError) as error:
        return f"its defaults are refused: {_told(error)}"
    except (Exception, SystemExit) as error:
        return f"building it fails: {_told(error)}"
    if isinstance(part, load_target(base)):
        return ""
    return f"{offer.config.target} makes a {type(part).__name__}; derive it from {base.replace(':', '.')}"


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
