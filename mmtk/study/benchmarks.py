"""Benchmarks: cases that come with mmtk or with a plugin, what is measured on them, and what others have published.

A plugin offers one as it offers any part: a description with its settings, returned from the hook ``mmtk_benchmarks``,
whose ``target`` is a :class:`Benchmark`. A study names it by its ``kind``. Those of mmtk are described in
``plugins/mmtk_core``; their classes are here, in ``mmtk.study.synthetic`` and in ``mmtk.study.cohorts``.
"""

from __future__ import annotations

import os
import secrets
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmtk.errors import ConfigError
from mmtk.study.cases import Case, one_folder

__all__ = ["APART", "COST", "Benchmark", "Measure", "Published", "Samples", "made"]

#: Whether shape and appearance were kept apart; columns that a study has no numbers for are left out of the page.
APART = (
    "lesion.volume_kept",
    "disentanglement.appearance_outside_mask",
    "disentanglement.appearance_energy_outside",
    "disentanglement.share_explained_by_shape",
)

#: What it cost; last on every page.
COST = ("cost.register_s", "cost.peak_memory_mb")


@dataclass(frozen=True)
class Measure:
    """A number that a benchmark measures itself.

    Attributes:
        label: Heads a column.
        meaning: One sentence.
        better: -1 where less is better, 1 where more is, 0 where neither.
    """

    label: str
    meaning: str
    better: int = -1


@dataclass(frozen=True)
class Published:
    """Numbers that others have published. The page shows them as rows that were not run here.

    Attributes:
        title: What the table is.
        source: Where it stands.
        remark: What may be compared with it, and what not.
        columns: Heads, that of the methods left out.
        rows: Method and cells, as printed there.
    """

    title: str
    source: str
    remark: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, ...]]


class Benchmark(ABC):
    """Cases to compare methods on. Its constructor takes the settings of its description."""

    #: Columns of the page, in their order, the first the one that counts; none: what the cases give. Those that no run
    #: has a number for are left out.
    metrics: Sequence[str] = ()

    #: What :meth:`measure` returns, by name; in tables it stands as ``KIND.NAME``.
    measures: Mapping[str, Measure] = {}

    #: Remarks for the page.
    notes: Sequence[str] = ()

    #: Rows of others.
    published: Sequence[Published] = ()

    def check(self) -> None:  # noqa: B027
        """Find what is wrong with the settings before anything is made; load neither torch nor numpy.

        Raises:
            ConfigError: With everything that is.
        """

    @abstractmethod
    def cases(self, folder: Path) -> Sequence[Case]:
        """Return the cases; what must be made goes into ``folder``, whole or not at all, and stays there.

        The same settings give the same cases. A second call finds what the first has made.
        """

    def measure(self, case: Case, run: Path) -> Mapping[str, float]:
        """Return numbers of a finished run beyond those of ``mmtk evaluate``, by the names in ``measures``.

        Called in the process of the run. NaN where a number has no meaning.

        Args:
            case: One of :meth:`cases`.
            run: Its folder, as ``mmtk run`` leaves it.
        """
        return {}


class Samples(Benchmark):
    """Samples of mmtk: see ``plugins/mmtk_core`` for the settings."""

    def __init__(self, sample: str, count: int, seed: int, options: Mapping[str, Any]) -> None:
        self.sample, self.count, self.seed, self.options = sample, count, seed, dict(options)

    def check(self) -> None:
        self._asked = options_of(self.sample, self.options, ("seed", "count"))

    def cases(self, folder: Path) -> Sequence[Case]:
        self.check()
        return [self._case(folder, index) for index in range(self.count)]

    def _case(self, folder: Path, index: int) -> Case:
        def make(place: Path) -> None:
            from mmtk.samples.catalogue import one
            from mmtk.samples.files import save

            save(one(self.sample, self._asked, self.seed, index), place)

        return made(folder / f"{self.sample}-{index:03d}", make)


def options_of(sample: str, options: Mapping[str, Any], own: Sequence[str]) -> Any:
    """Return the options of a sample, checked.

    Args:
        own: Those that the benchmark has a setting of its own for.

    Raises:
        ConfigError: One is unknown, wrong, or among ``own``.
    """
    from mmtk.samples import SAMPLES
    from mmtk.samples.options import parse

    for key in own:
        if key in options:
            raise ConfigError(f"options.{key}: is said of the benchmark itself; give {key}= beside options")
    return parse(SAMPLES[sample].options, options, sample)


def made(place: Path, make: Callable[[Path], None]) -> Case:
    """Return the case in a folder; where there is none, ``make(folder)`` makes it, whole or not at all.

    Raises:
        ConfigError: The folder is there and holds no case.
    """
    if not place.is_dir():
        partial = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
        try:
            make(partial)
            os.replace(partial, place)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    case = one_folder(place)
    if case is None:
        raise ConfigError(f"'{place}' holds no case any more; remove the folder, and it is made again")
    return case
