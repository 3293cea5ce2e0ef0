"""How far two maps are from being each other's inverse."""

from __future__ import annotations

from mmtk.fields import compose
from mmtk.regularizers.base import Deformation, Regularizer
from mmtk.types import Scalar

__all__ = ["InverseConsistency"]


class InverseConsistency(Regularizer):
    """``||Id - phi^-1 o phi||^2`` (thesis section 5.2.1): squared distances in mm^2, integrated; in mm^(2 + dim).

    ``phi^-1`` is the displacement and ``phi`` the inverse that the method gives; the thesis estimates the latter
    from the negative velocities. Sampling is linear, with border values outside of the grid.
    """

    needs = ("displacement", "inverse")

    def energy(self, deformation: Deformation) -> Scalar:
        assert deformation.displacement is not None and deformation.inverse is not None
        error = compose(deformation.displacement, deformation.inverse)
        grid = deformation.grid
        return (error * grid.per_axis(error)).square().sum() * grid.cell_volume
