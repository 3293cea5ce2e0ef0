"""What a metric of a plugin is: what was registered and what was found in, named numbers out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmtk.method import Pair
    from mmtk.result import Registration

__all__ = ["Metric"]


class Metric(ABC):
    """Judges a finished registration. Its docstring says formula, unit and which direction is good."""

    @abstractmethod
    def measure(self, pair: Pair, found: Registration) -> Mapping[str, float]:
        """Return numbers by name; NaN for one that these images do not define."""
