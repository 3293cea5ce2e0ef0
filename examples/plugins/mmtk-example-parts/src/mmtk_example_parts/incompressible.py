r"""A price on every change of volume, in the lesion or everywhere."""

from __future__ import annotations

import math

from mmtk.errors import ConfigError
from mmtk.fields import jacobian_determinant
from mmtk.regularizers import Deformation, Regularizer
from torch import Tensor

__all__ = ["Incompressible"]


class Incompressible(Regularizer):
    r"""The integral of the squared logarithm of the volume change, over the lesion of the moving image.

    .. math:: E = w \int m(y)\, \log^2 |D\phi(y)|\; dy

    with :math:`\phi` the map that carries the moving image's voxels and m its lesion mask; without a mask, m is 1
    everywhere. Twice the volume costs as much as half of it. What a mask hides moves as its surroundings do, and
    nothing keeps its size; this term says that a tumor, say, is as large on the template as it is in the patient.
    Bending and shearing are free as long as volume stays.

    In mm^dim. Determinants by central differences, one-sided at the border.

    Args:
        weight: ``w``, >= 0; 0 switches the term off.
        least: Determinant in (0, 1) below which the price goes on along its tangent, so that folds have a finite price
            that grows with them, and can be undone.

    Raises:
        ConfigError: If one of them is out of its range.
    """

    needs = ("inverse",)

    def __init__(self, *, weight: float = 1.0, least: float = 0.1) -> None:
        super().__init__()
        problems = []
        if not weight >= 0:
            problems.append(f"weight: {weight} must be 0 or more")
        if not 0 < least < 1:
            problems.append(f"least: {least} must lie between 0 and 1")
        if problems:
            raise ConfigError(problems)
        self.weight, self.least = weight, least

    def extra_repr(self) -> str:
        return f"weight={self.weight}, least={self.least}"

    def energy(self, deformation: Deformation) -> Tensor:
        assert deformation.inverse is not None
        determinant = jacobian_determinant(deformation.inverse)
        safe = determinant.clamp_min(self.least)
        slope = 2 * math.log(self.least) / self.least
        price = safe.log().square() + slope * (determinant - safe)
        if deformation.mask is not None:
            price = deformation.mask * price
        return self.weight * price.sum() * deformation.grid.cell_volume
