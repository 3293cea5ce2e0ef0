"""Two images made ready to be compared: standardized, small, weighted by what is to be seen in each.

Only where **both** foregrounds lie are images compared. A scan with its skull can then be placed on one without, and
no image gains by hiding behind the other's background; the silhouettes still count, because the windows of
the local contrast reach across them. Contrast is normalized locally, which weighs the folds of the cortex like
the rim of the head and forgives the gain of the coil.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from mmtk.align.descent import Report, descend
from mmtk.align.lattice import Lattice
from mmtk.align.likeness import Likeness
from mmtk.align.motion import Freedom, Motion
from mmtk.align.search import placements, sphere
from mmtk.errors import GridMismatch, InputError
from mmtk.io import Volume

__all__ = ["Scene"]

#: The working images have about so many samples along their longest axis.
SAMPLES = 128
#: Step of the lattice on which the search begins, as a part of the foreground's radius: 10 mm for a brain.
SEARCH = 5.5
#: Linearizations at most, from each start of the search and on each level.
TRIES, ITERATIONS = 12, 15
#: Dark gaps narrower than twice this part of the radius belong to the foreground.
CLOSING = 1 / 7
#: Contrast, as a share of an image's range, below which a neighborhood counts as flat.
FLAT = 0.03
#: Placements that the search over translations contributes.
CANDIDATES = 4


class Scene:
    """A moving and a fixed image, with the center and the radius of what is to be seen in the fixed one."""

    def __init__(self, moving: Lattice, fixed: Lattice) -> None:
        self.moving, self.fixed = moving, fixed
        extent = max(n * h for n, h in zip(fixed.shape, fixed.spacing, strict=True))
        rough = fixed.coarser(extent / 32, extent / 64)
        rough = rough.weighed(rough.foreground(extent / 32))
        self.center = sphere(rough)[0]
        weight = rough.weight.reshape(-1)
        offset = rough.positions() - torch.as_tensor(self.center).to(weight)
        spread = (offset.square().sum(1) * weight).sum() / weight.sum().clamp_min(1e-12)
        self.radius = max(float(spread.sqrt()), float(min(fixed.spacing)))

    def centers(self) -> np.ndarray:
        """The translation that joins the centers of the two foregrounds, ``(d + 1, d + 1)``."""
        fixed, moving = self.pair(SEARCH, contrasted=False)
        matrix = np.eye(len(self.center) + 1)
        matrix[:-1, -1] = sphere(moving)[0] - sphere(fixed)[0]
        return matrix

    def search(self, report: Report | None = None) -> np.ndarray:
        """A rigid placement: the best of several starts, after a short descent from each."""
        matrices = [np.eye(len(self.center) + 1), self.centers()]
        matrices += placements(*self.pair(SEARCH, contrasted=False), CANDIDATES)
        likeness = self.likeness(SEARCH)
        rigid = Motion(self.center, self.radius, "rigid")
        ends = [descend(likeness, matrix, rigid, TRIES, report) for matrix in matrices]
        return min(ends, key=likeness.mismatch)

    def refine(
        self, likeness: Likeness, start: np.ndarray, freedom: Freedom, report: Report | None = None
    ) -> np.ndarray:
        """The best placement that a descent from ``start`` reaches."""
        return descend(likeness, start, Motion(self.center, self.radius, freedom), ITERATIONS, report)

    def likeness(self, level: float) -> Likeness:
        """The comparison of the two on lattices of step ``radius / level``."""
        return Likeness(*self.pair(level, contrasted=True))

    def pair(self, level: float, *, contrasted: bool) -> tuple[Lattice, Lattice]:
        """The fixed and the moving image on the lattices of a level, weighted by their foregrounds.

        Both are smoothed alike, but the moving one keeps twice the samples: it will be interpolated.
        """
        step, pair = self.radius / level, []
        for image, own in ((self.fixed, step), (self.moving, step / 2)):
            had = 0.5 * float(min(image.spacing))  # what smoothing the working image has already
            thin = image.coarser(own, math.sqrt(max((0.5 * step) ** 2 - had**2, 0.0)))
            seen = thin.foreground(CLOSING * self.radius)
            pair.append((thin.contrasted(step, FLAT) if contrasted else thin).weighed(seen))
        return pair[0], pair[1]

    @classmethod
    def of(
        cls,
        moving: Volume,
        fixed: Volume,
        moving_mask: Volume | None,
        fixed_mask: Volume | None,
        weight: Volume | None,
        device: torch.device | str,
    ) -> Scene:
        """Make a scene of two volumes; see :func:`mmtk.align.align` for its arguments and errors."""
        return cls(
            _working(moving, moving_mask, None, "moving", device),
            _working(fixed, fixed_mask, weight, "fixed", device),
        )


def _working(
    image: Volume, mask: Volume | None, weight: Volume | None, name: str, device: torch.device | str
) -> Lattice:
    """An image on a lattice that a search can afford, less its background, in units of its range."""
    data = _tensor(image, device)
    seen = torch.ones_like(data)
    for factor, label in ((mask, "mask"), (weight, "weight")):
        if factor is None:
            continue
        if factor.shape != image.shape:
            raise GridMismatch(f"{name}_{label}", factor.shape, name, image.shape)
        share = _tensor(factor, device).clamp(0, 1)
        seen = seen * (1 - share if factor is mask else share)
    if not bool(seen.any()):
        raise InputError(
            f"{name}: every voxel is masked, so it cannot be placed; check the mask, or use init=none"
        )
    dim = image.dim
    affine = np.eye(dim + 1)
    affine[:dim, :dim], affine[:dim, dim] = image.affine[:dim, :dim], image.affine[:dim, 3]
    untouched = mask is None and weight is None
    full = Lattice(data if untouched else torch.where(seen > 0, data * seen, 0.0), seen, affine)
    step = max(n * h for n, h in zip(full.shape, full.spacing, strict=True)) / SAMPLES
    thin = full.coarser(step, 0.5 * step).standardized()
    if not bool(thin.mass.isfinite().all()):
        raise InputError(f"{name}: some voxels are NaN or infinite, so it cannot be placed; mask or mend them")
    if not bool(thin.mass.any()):
        raise InputError(f"{name}: nothing differs from its background, so it cannot be placed; use init=none")
    return thin


def _tensor(volume: Volume, device: torch.device | str) -> torch.Tensor:
    return torch.from_numpy(np.require(volume.data, np.float32, ("C", "W"))).to(device)
