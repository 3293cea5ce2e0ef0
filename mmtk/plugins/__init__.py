"""Plugins: what they may offer (``hookspecs``) and what is installed (``catalogue``)."""

from mmtk.plugins.catalogue import FAMILIES, Catalogue, Offer, PluginRecord, installed, load
from mmtk.plugins.hookspecs import PLUGIN_API, Command, hookimpl

__all__ = [
    "FAMILIES",
    "PLUGIN_API",
    "Catalogue",
    "Command",
    "Offer",
    "PluginRecord",
    "hookimpl",
    "installed",
    "load",
]
