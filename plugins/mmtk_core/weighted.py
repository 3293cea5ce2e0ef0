"""A regularizer with its weight, which is a regularizer again."""

from __future__ import annotations

from mmtk.regularizers import Deformation, Regularizer
from mmtk.types import Scalar

__all__ = ["Weighted"]


class Weighted(Regularizer):
    """``weight`` times the price that ``term`` asks."""

    def __init__(self, term: Regularizer, weight: float) -> None:
        super().__init__()
        self.term, self.weight = term, weight

    def energy(self, deformation: Deformation) -> Scalar:
        return self.weight * self.term(deformation)
