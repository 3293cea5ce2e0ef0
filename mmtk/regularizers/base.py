"""What a regularizer is given, and the one method that it has.

All regularizers are integrals over the grid in millimeters: sums carry the cell volume and displacements are
turned from voxels into mm, so that one weight means the same at every resolution. None has a factor of 1/2; the
data term has one.

    displacement, inverse   (B, dim, *space)   voxels of ``grid``, components in axis order i, j, k
    residual                (B, C, *space)     intensity
    mask                    (B, 1, *space)     in [0, 1]
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from mmtk.errors import ConfigError, GridMismatch
from mmtk.fields import Grid
from mmtk.types import Displacement, Image, Mask, Scalar

__all__ = ["Deformation", "Regularizer"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Deformation:
    """What a method has found so far; it fills in what it has, the rest is None.

    Attributes:
        grid: On which all fields but ``velocity`` live.
        displacement: The pull-back ``phi^-1 = id + u``, ``(B, dim, *space)``, voxels.
        inverse: The forward map ``phi = id + w`` in the same form.
        velocity: In whatever parametrization the method has, ``(B, dim, *nodes)``; no built-in part reads it.
        velocity_norm: ``||v||_V^2`` integrated over time, in mm^(2 + dim); a scalar.
        residual: The free intensity change, in the frame of ``mask``.
        mask: Where it is allowed, on the moving image: the lesion; None is everywhere.

    Raises:
        GridMismatch: If a field does not lie on ``grid``.
    """

    grid: Grid
    displacement: Displacement | None = None
    inverse: Displacement | None = None
    velocity: Tensor | None = None
    velocity_norm: Scalar | None = None
    residual: Image | None = None
    mask: Mask | None = None

    def __post_init__(self) -> None:
        for name in ("displacement", "inverse", "residual", "mask"):
            field = getattr(self, name)
            if field is None:
                continue
            vector = name in ("displacement", "inverse")
            fits = tuple(field.shape[2:]) == self.grid.shape
            if not fits or (vector and field.shape[1] != self.grid.dim):
                raise GridMismatch(name, tuple(field.shape), "grid", self.grid.shape)


class Regularizer(nn.Module, ABC):
    """A price on deformations; at least 0, and 0 where nothing moves or changes."""

    #: The fields of :class:`Deformation` that ``energy`` reads.
    needs: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def energy(self, deformation: Deformation) -> Scalar:
        """Return the price, summed over the batch; what ``needs`` names is there."""

    def forward(self, deformation: Deformation) -> Scalar:
        """Return the price of a deformation.

        Raises:
            ConfigError: If the method gives no field that the regularizer needs.
        """
        missing = [name for name in self.needs if getattr(deformation, name) is None]
        if missing:
            raise ConfigError(
                f"{type(self).__name__} needs `{'` and `'.join(missing)}`, which this method does not give. "
                "Choose another regularizer, or a method that gives it."
            )
        return self.energy(deformation)
