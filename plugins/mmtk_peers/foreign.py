"""What the methods of other programs share: the pair as plain arrays, and a displacement in mm as a result.

Other programs see the images on the fixed grid, after the placement, with the first voxel at 0, the axes in the order
of the array and its spacing: orientation is no matter of theirs, and a vector's components are along the array's axes.

    fixed, moving    (*space)        float32
    vectors          (*space, dim)   mm: the point x of the fixed grid is found at x + vectors(x)
"""

from __future__ import annotations

import time
from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmtk.errors import ConfigError, MmtkError
from mmtk.fields import folds, invert
from mmtk.method import Method, Pair, Progress, silent
from mmtk.result import LevelReport, Outcome, Registration

__all__ = ["Foreign", "Found", "Scans"]


@dataclass(frozen=True, eq=False)
class Scans:
    """A pair as another program takes it.

    Attributes:
        fixed, moving: ``(*space)``, float32.
        spacing: mm per voxel along each axis.
        fixed_use, moving_use: ``(*space)``, 1 where the image may be compared, else 0; None if everywhere.
        threads: Threads to be used.
        seed: Of everything that is drawn, from mmtk's own; in [1, 2^31).
    """

    fixed: np.ndarray
    moving: np.ndarray
    spacing: tuple[float, ...]
    fixed_use: np.ndarray | None
    moving_use: np.ndarray | None
    threads: int
    seed: int

    @property
    def dim(self) -> int:
        """Number of axes."""
        return self.fixed.ndim

    @classmethod
    def of(cls, pair: Pair, masked: bool) -> Scans:
        """Return what a program sees of a pair.

        Not every program knows a mask of the fixed image. Under it, therefore, lies what the moving image has there,
        so that nothing of what it covers can matter.
        """
        moving, fixed = _plain(pair.moving), _plain(pair.fixed)
        fixed_use = moving_use = None
        if pair.fixed_mask is not None:
            fixed_use = (_plain(pair.fixed_weight) > 0.5).astype(np.float32)
            fixed = np.where(fixed_use > 0, fixed, moving)
        weight = pair.moving_weight if masked else pair.inside
        if weight is not None and bool((weight < 1).any()):
            moving_use = (_plain(weight) > 0.5).astype(np.float32)
        seed = torch.initial_seed() % (2**31 - 1) + 1
        return cls(fixed, moving, pair.grid.spacing, fixed_use, moving_use, torch.get_num_threads(), seed)


@dataclass(frozen=True, eq=False)
class Found:
    """What a program found.

    Attributes:
        vectors: ``(*space, dim)``, mm, fixed to moving.
        backward: The same of the inverse map, as far as the program tells it; it is refined here. None: found here.
        exact: ``backward`` is the inverse to all digits, and is left alone.
        notes: Sentences for the user.
    """

    vectors: np.ndarray
    backward: np.ndarray | None = None
    exact: bool = False
    notes: tuple[str, ...] = ()


class Foreign(Method):
    """A method that another program carries out, on the CPU.

    Args:
        masked: Leave what the lesion mask covers out of the comparison.
    """

    def __init__(self, *, masked: bool = False) -> None:
        super().__init__()
        self.masked = masked

    @abstractmethod
    def find(self, scans: Scans) -> Found:
        """Run the program."""

    def register(self, pair: Pair, progress: Progress = silent) -> Registration:
        """Register a pair.

        Raises:
            ConfigError: The images have several channels.
            MmtkError: The program stopped, or found no finite map.
        """
        if pair.moving.shape[1] != 1:
            raise ConfigError(
                f"moving has {pair.moving.shape[1]} channels; this method takes one: give one channel of it, or "
                "method=lcc_demons"
            )
        begin = time.perf_counter()
        scans = Scans.of(pair, self.masked)
        found = _checked(self.find(scans), scans)
        with torch.no_grad():
            return self._result(pair, found, begin)

    def _result(self, pair: Pair, found: Found, begin: float) -> Registration:
        displacement = _voxels(found.vectors, pair)
        start = None if found.backward is None else _voxels(found.backward, pair)
        inverse = start if found.exact and start is not None else invert(displacement, start)
        notes = list(found.notes)
        if pair.mask is not None and not self.masked:
            notes.append("the lesion was compared like all else: the mask is not used without masked=true")
        if folded := folds(displacement):
            notes.append(f"the map folds at {folded:,} voxels, so it has no inverse there")
        seconds = time.perf_counter() - begin
        report = LevelReport(max(pair.grid.spacing), (), 0, seconds, Outcome.FOREIGN)
        return Registration(pair.grid, displacement, inverse, None, {}, (report,), tuple(notes))


def _checked(found: Found, scans: Scans) -> Found:
    """Return what was found if it is finite: of two images that are one, some programs divide by their difference."""
    if np.isfinite(found.vectors).all() and (found.backward is None or np.isfinite(found.backward).all()):
        return found
    if np.array_equal(scans.fixed, scans.moving):
        still = np.zeros((*scans.fixed.shape, scans.dim), dtype=np.float32)
        return Found(still, still, exact=True)
    raise MmtkError("the program found no finite map; try other settings of it, or look at the images")


def _plain(image: Tensor) -> np.ndarray:
    return np.ascontiguousarray(image[0, 0].detach().cpu().numpy(), dtype=np.float32)


def _voxels(vectors: np.ndarray, pair: Pair) -> Tensor:
    u = torch.from_numpy(np.ascontiguousarray(np.moveaxis(vectors, -1, 0))[None]).to(pair.fixed)
    return u / pair.grid.per_axis(u)
