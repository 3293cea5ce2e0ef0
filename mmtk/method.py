"""What a registration method is: two images on one grid in, a :class:`~mmtk.result.Registration` out.

Files, orientation, affine placement and intensity scales are dealt with before (``mmtk.register``); a method
sees tensors, millimeters per voxel and a mask.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from mmtk.errors import GridMismatch
from mmtk.fields import Grid
from mmtk.result import LevelReport, Registration

__all__ = ["Method", "Milestone", "Milestones", "Pair", "Progress", "forgetful", "silent"]

#: Called as ``progress(level, levels, iteration, iterations, energy)``.
Progress = Callable[[int, int, int, int, float], None]


def silent(level: int, levels: int, iteration: int, iterations: int, energy: float) -> None:
    """Report nothing."""


@dataclass(frozen=True, eq=False)
class Milestone:
    """What stands when a level is finished: enough to go on with the next one as if nothing had happened.

    Attributes:
        state: Tensors by name; only the method that made them knows what they are.
        levels: The reports of all finished levels.
    """

    state: Mapping[str, Tensor]
    levels: tuple[LevelReport, ...]


class Milestones:
    """Where a method leaves its milestones. This one forgets; ``mmtk run`` keeps them in a file."""

    def last(self) -> Milestone | None:
        """Return where an earlier run with the same settings and images came to; None: begin at the beginning."""
        return None

    def reached(self, milestone: Milestone) -> None:
        """Keep a milestone in place of the one before."""


#: Keeps nothing.
forgetful = Milestones()


@dataclass(frozen=True, eq=False)
class Pair:
    """Two images on the fixed image's grid.

    Attributes:
        moving: ``(1, C, *space)``, affinely placed, normalized intensity.
        fixed: ``(1, C, *space)``, normalized intensity on the same scale.
        grid: Shape and spacing in mm.
        mask: ``(1, 1, *space)`` in [0, 1]: the lesion on the moving side, placed; None if there is none.
        fixed_mask: Its twin on the fixed side; there the images are not compared.
        inside: ``(1, 1, *space)``, 1 where the placed moving image has data; None if everywhere.
        affine: ``(4, 4)``, from voxels of the grid to RAS mm, for a method whose weights know which way is up; None if
            nobody knows.
    """

    moving: Tensor
    fixed: Tensor
    grid: Grid
    mask: Tensor | None = None
    fixed_mask: Tensor | None = None
    inside: Tensor | None = None
    affine: np.ndarray | None = None

    def __post_init__(self) -> None:
        for name in ("moving", "mask", "fixed_mask", "inside"):
            tensor = getattr(self, name)
            if tensor is not None and tensor.shape[2:] != self.fixed.shape[2:]:
                raise GridMismatch(name, tensor.shape[2:], "fixed", self.fixed.shape[2:])

    @property
    def moving_weight(self) -> Tensor:
        """``(1, 1, *space)``, 1 where the moving image may be compared: off its lesion, and where it has data.

        It belongs to the moving image, and so moves with it.
        """
        weight = torch.ones_like(self.moving[:, :1])
        if self.mask is not None:
            weight = weight * (1 - self.mask)
        return weight if self.inside is None else weight * self.inside

    @property
    def fixed_weight(self) -> Tensor:
        """``(1, 1, *space)``, 1 where the fixed image may be compared: off its lesion."""
        weight = torch.ones_like(self.fixed[:, :1])
        return weight if self.fixed_mask is None else weight * (1 - self.fixed_mask)

    @property
    def box(self) -> tuple[slice, ...]:
        """The part of the grid worth comparing: where either image differs from its background, and 10 mm more.

        The background is the value that fills both ends of the first axis; an image without one fills its grid.
        """
        busy = torch.zeros(self.grid.shape, dtype=torch.bool, device=self.fixed.device)
        for image in (self.moving, self.fixed):
            corner = image[0].flatten(1)[:, 0]
            busy |= (image[0] != corner.view(-1, *[1] * self.grid.dim)).any(0)
        parts = []
        for axis, (n, h) in enumerate(zip(self.grid.shape, self.grid.spacing, strict=True)):
            others = tuple(a for a in range(self.grid.dim) if a != axis)
            used = busy.any(dim=others).nonzero().flatten() if others else busy.nonzero().flatten()
            margin = int(10 / h) + 1
            first, last = (int(used[0]), int(used[-1])) if len(used) else (0, n - 1)
            parts.append(slice(max(0, first - margin), min(n, last + margin + 1)))
        return tuple(parts)


class Method(nn.Module, ABC):
    """A way to register two images. A method never returns something worse than its start by its own energy.

    Attributes:
        milestones: Set by the caller before :meth:`register`. A method that goes through levels may begin at
            ``milestones.last()`` and tell ``milestones.reached(...)`` after each level, and so can be resumed; one
            that does neither begins anew each time.
    """

    milestones: Milestones = forgetful

    @abstractmethod
    def register(self, pair: Pair, progress: Progress = silent) -> Registration:
        """Register ``pair.moving`` onto ``pair.fixed``."""
