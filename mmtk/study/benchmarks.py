"""Benchmarks: cases that come with mmtk or with a plugin.

A plugin offers one as it offers any part: a description with its settings, returned from the hook ``mmtk_benchmarks``,
whose ``target`` is a :class:`Benchmark`. A study names it by its ``kind``.
"""

from __future__ import annotations

import os
import secrets
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmtk.errors import ConfigError
from mmtk.study.cases import Case, one_folder

__all__ = ["Benchmark", "Samples"]


class Benchmark(ABC):
    """Cases to compare methods on. Its constructor takes the settings of its description."""

    #: Metrics that the benchmark is about, the first the one that counts; none: what the cases give.
    metrics: Sequence[str] = ()

    #: Remarks for the page, such as published rows and what may be compared with them.
    notes: Sequence[str] = ()

    def check(self) -> None:  # noqa: B027
        """Find what is wrong with the settings before anything is made.

        Raises:
            ConfigError: With everything that is.
        """

    @abstractmethod
    def cases(self, folder: Path) -> Sequence[Case]:
        """Return the cases; what must be made goes into ``folder``, whole or not at all, and stays there.

        The same settings give the same cases. A second call finds what the first has made.
        """


class Samples(Benchmark):
    """Samples of mmtk: see ``plugins/mmtk_core`` for the settings."""

    def __init__(self, sample: str, count: int, seed: int, options: Mapping[str, Any]) -> None:
        self.sample, self.count, self.seed, self.options = sample, count, seed, dict(options)

    def check(self) -> None:
        from mmtk.samples import SAMPLES
        from mmtk.samples.options import parse

        for key in ("seed", "count"):
            if key in self.options:
                raise ConfigError(f"options.{key}: is said of the benchmark itself; give {key}= beside options")
        self._asked = parse(SAMPLES[self.sample].options, self.options, self.sample)

    def cases(self, folder: Path) -> Sequence[Case]:
        self.check()
        return [self._case(folder, index) for index in range(self.count)]

    def _case(self, folder: Path, index: int) -> Case:
        from mmtk.samples.catalogue import one
        from mmtk.samples.files import save

        place = folder / f"{self.sample}-{index:03d}"
        if not place.is_dir():
            partial = folder / f".{place.name}.{secrets.token_hex(4)}"
            try:
                save(one(self.sample, self._asked, self.seed, index), partial)
                os.replace(partial, place)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        case = one_folder(place)
        if case is None:
            raise ConfigError(f"'{place}' holds no case any more; remove the folder, and it is made again")
        return case
