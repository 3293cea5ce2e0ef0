"""The hooks of mmtk: one a family, each returns descriptions and does no work.

A plugin is a module named by an entry point of group ``mmtk.plugins``. It marks functions with ``@hookimpl`` and
imports pydantic at most: torch is not loaded, no weight is read and no device touched until a part is built.

    from mmtk import ComponentConfig, hookimpl

    @hookimpl
    def mmtk_similarities():
        return [MySimilarityConfig]

It may say ``requires_api = "1"``, the version of the hooks that it was written for. This version and the one before
it are accepted; a plugin for any other is listed as broken, and the listing says why.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pluggy

from mmtk.config import ComponentConfig

__all__ = ["OLDEST_API", "PLUGIN_API", "PROJECT", "Command", "hookimpl", "hookspec"]

#: Version of the hooks below. It changes where a hook loses an argument or means something else.
PLUGIN_API = "1"

#: The oldest version that is still accepted: the one before, once there is one.
OLDEST_API = str(max(1, int(PLUGIN_API) - 1))

PROJECT = "mmtk"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@dataclass(frozen=True)
class Command:
    """A command that a plugin adds: ``mmtk x NAME``.

    Attributes:
        target: ``"package.module:app"``, a ``typer.Typer`` or a function, imported when the command is called.
    """

    name: str
    summary: str
    target: str


@hookspec
def mmtk_methods() -> Iterable[type[ComponentConfig]]:
    """Offer registration methods; ``target`` is a subclass of ``mmtk.method.Method``."""


@hookspec
def mmtk_integrators() -> Iterable[type[ComponentConfig]]:
    """Offer time integrators; ``target`` is a subclass of ``mmtk.integrators.Integrator``."""


@hookspec
def mmtk_similarities() -> Iterable[type[ComponentConfig]]:
    """Offer costs of an ill match; ``target`` is a subclass of ``mmtk.similarity.Similarity``."""


@hookspec
def mmtk_regularizers() -> Iterable[type[ComponentConfig]]:
    """Offer further terms of the energy; ``target`` is a subclass of ``mmtk.regularizers.Regularizer``."""


@hookspec
def mmtk_segmenters() -> Iterable[type[ComponentConfig]]:
    """Offer makers of a lesion mask; ``target`` is a subclass of ``mmtk.segmenters.Segmenter``."""


@hookspec
def mmtk_losses() -> Iterable[type[ComponentConfig]]:
    """Offer losses for training; ``target`` is a ``torch.nn.Module``, called as ``loss(prediction, truth)``."""


@hookspec
def mmtk_metrics() -> Iterable[type[ComponentConfig]]:
    """Offer numbers that judge a finished registration; ``target`` is a subclass of ``mmtk.metrics.Metric``."""


@hookspec
def mmtk_bundles() -> Iterable[Path]:
    """Offer MONAI bundles: the folder of each. Its name is the bundle's."""


@hookspec
def mmtk_benchmarks() -> Iterable[type[ComponentConfig]]:
    """Offer cases to compare methods on; ``target`` is a subclass of ``mmtk.study.Benchmark``."""


@hookspec
def mmtk_trainings() -> Iterable[type[ComponentConfig]]:
    """Offer what else ``mmtk train task=NAME`` trains; derived from ``mmtk.training.config.Training``."""


@hookspec
def mmtk_commands() -> Iterable[Command]:
    """Offer commands, shown as ``mmtk x NAME``."""
