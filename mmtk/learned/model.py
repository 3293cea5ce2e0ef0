r"""What a learned registration is: a batch of pairs in, their maps and their energy out.

A model is a network and the energy that it was trained by. It lives on one grid, which belongs to its weights; the
method around it (:mod:`mmtk.learned.method`) brings pairs onto that grid and back.

    moving, fixed   (B, C, *space)    intensities on one scale
    mask            (B, 1, *space)    in [0, 1]: the lesion, on the moving image
    displacement    (B, dim, *space)  voxels: the pull-back ``x -> x + u(x)``
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn

from mmtk.errors import GridMismatch
from mmtk.fields import Grid, warp
from mmtk.types import Displacement, Image, Mask

__all__ = ["Batch", "Model", "Prediction"]


@dataclass(frozen=True, eq=False)
class Batch:
    """Pairs of images on one grid.

    Attributes:
        moving, fixed: ``(B, C, *space)``.
        mask: ``(B, 1, *space)`` in [0, 1], the lesion on the moving image; None if there is none.
        fixed_mask: Its twin on the fixed image; there the two are not compared.
        displacement: ``(B, dim, *space)``, the true pull-back in voxels, where it is known. No energy sees it.
    """

    moving: Image
    fixed: Image
    mask: Mask | None = None
    fixed_mask: Mask | None = None
    displacement: Displacement | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            tensor = getattr(self, field.name)
            if tensor is not None and tensor.shape[2:] != self.fixed.shape[2:]:
                raise GridMismatch(field.name, tensor.shape[2:], "fixed", self.fixed.shape[2:])

    def __len__(self) -> int:
        return self.fixed.shape[0]

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on a device."""
        present = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}
        return replace(self, **{name: tensor.to(device, non_blocking=True) for name, tensor in present.items()})


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model says of a batch.

    Attributes:
        warped: ``(B, C, *space)``, shape and appearance.
        displacement: Of the pull-back, ``(B, dim, *space)`` voxels.
        data: ``(B,)``, how ill the images match, an integral in mm^dim.
        cost: ``(B,)``, what shape and appearance cost, likewise, its weights included.
        lesion: ``(B, 1, *space)``, the mask carried along; None without one.
        inverse: Of the map, if it was asked for.
        path: What else a model needs to go on from here: its momenta, by name.
    """

    warped: Image
    displacement: Displacement
    data: Tensor
    cost: Tensor
    lesion: Mask | None = None
    inverse: Displacement | None = None
    path: tuple[Tensor, ...] = ()

    @property
    def energy(self) -> Tensor:
        """``(B,)``: what training and refinement lower."""
        return self.data + self.cost

    def deformed(self, moving: Image) -> Image:
        """Return ``moving`` by shape alone, in one resampling."""
        return warp(moving, self.displacement)


class Model(nn.Module, ABC):
    """A network that registers, and the energy that trains it.

    Attributes:
        grid: The grid that it works on.
        one_template: It knows one fixed image, and registers onto no other.
    """

    grid: Grid
    one_template: bool = False

    @abstractmethod
    def forward(self, batch: Batch, *, maps: bool = False) -> Prediction:
        """Register a batch; with ``maps`` the prediction has the inverse, too."""

    @abstractmethod
    def predict(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return what the network alone decides for a batch: momenta or velocities."""

    @abstractmethod
    def follow(self, batch: Batch, path: tuple[Tensor, ...], *, maps: bool = False) -> Prediction:
        """Register a batch by given momenta or velocities in the network's place, by the same energy.

        ``follow(batch, predict(batch))`` is the forward pass. This is what refinement optimizes.
        """

    def check(self, batch: Batch) -> None:
        """Refuse a batch on another grid.

        Raises:
            GridMismatch: If it is.
        """
        if tuple(batch.fixed.shape[2:]) != self.grid.shape:
            raise GridMismatch("fixed", batch.fixed.shape[2:], "model's grid", self.grid.shape)
