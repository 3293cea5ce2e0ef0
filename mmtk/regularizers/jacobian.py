"""A barrier against folds."""

from __future__ import annotations

from mmtk.errors import ConfigError
from mmtk.fields import jacobian_determinant
from mmtk.regularizers.base import Deformation, Regularizer
from mmtk.types import Scalar

__all__ = ["JacobianBarrier"]


class JacobianBarrier(Regularizer):
    """The integral of ``max(0, 1 - det / threshold)^2`` over the grid, in mm^dim.

    A voxel whose Jacobian determinant (central differences, one-sided at the border) is at least the threshold
    costs nothing, so that a tame deformation is not biased at all; one squeezed to nothing costs its own volume, a
    fold more. It is finite everywhere, so that it can also undo folds, but it forbids none: a logarithm would, and
    would start infinite.

    Args:
        threshold: Determinant below which compression is priced, positive: 0.1 is a tenth of the volume.

    Raises:
        ConfigError: If the threshold is not positive.
    """

    needs = ("displacement",)

    def __init__(self, *, threshold: float = 0.1) -> None:
        super().__init__()
        if not threshold > 0:
            raise ConfigError(f"threshold: {threshold} must be positive; 0.1 allows to a tenth of the volume")
        self.threshold = threshold

    def energy(self, deformation: Deformation) -> Scalar:
        assert deformation.displacement is not None
        determinant = jacobian_determinant(deformation.displacement)
        return (1 - determinant / self.threshold).clamp_min(0).square().sum() * deformation.grid.cell_volume
