"""What a metric of a plugin is: what was registered and what was found in, named numbers out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from mmtk.errors import GridMismatch

if TYPE_CHECKING:
    from mmtk.method import Pair
    from mmtk.result import Registration

__all__ = ["Metric"]


class Metric(ABC):
    """Judges a finished registration. Its docstring says formula, unit and which direction is good.

    Attributes:
        perfect: Every number, by name, of an image that is registered with itself, without a lesion, and stays where
            it is: an overlap of 1, an error of 0. NaN for one that such a pair does not define.
    """

    perfect: ClassVar[Mapping[str, float]] = {}

    @abstractmethod
    def measure(self, pair: Pair, found: Registration) -> Mapping[str, float]:
        """Return numbers by name; NaN for one that these images do not define."""

    def __call__(self, pair: Pair, found: Registration) -> dict[str, float]:
        """Return the numbers of a registration of a pair.

        Raises:
            GridMismatch: If the maps or the appearance do not lie on the pair's grid.
        """
        for name in ("displacement", "inverse", "appearance"):
            tensor = getattr(found, name)
            if tensor is not None and tensor.shape[2:] != pair.fixed.shape[2:]:
                raise GridMismatch(name, tensor.shape[2:], "fixed", pair.fixed.shape[2:])
        return dict(self.measure(pair, found))
