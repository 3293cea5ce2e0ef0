"""Plugins: what they may offer (``hookspecs``) and what is installed (``catalogue``)."""

from mmtk.plugins.catalogue import BASES, FAMILIES, Catalogue, Offer, PluginRecord, installed, load
from mmtk.plugins.hookspecs import PLUGIN_API, Command, hookimpl
from mmtk.plugins.paths import import_paths

__all__ = [
    "BASES",
    "FAMILIES",
    "PLUGIN_API",
    "Catalogue",
    "Command",
    "Offer",
    "PluginRecord",
    "hookimpl",
    "import_paths",
    "installed",
    "load",
]
