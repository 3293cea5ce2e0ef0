"""Two images made ready to be compared: standardized, small, weighted by what is to be seen in each.

Only where **both** foregrounds lie are images compared. A scan with its skull can then be placed on one without, and
no image gains by hiding behind the other's background; the silhouettes still count, because the windows of
the local contrast reach across them. Contrast is normalized
locally, which weighs the folds of the cortex like the rim of the head and forgives the gain of the coil. Drawings
whose foreground is flat have nothing but their rims, and are compared as they are.
"""

from __future__ import annotations

import math
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor

from mmtk.align.descent import Report, descend
from mmtk.align.lattice import EMPTY, Lattice
from mmtk.align.likeness import Likeness
from mmtk.align.motion import Freedom, Motion
from mmtk.align.search import placements, sphere
from mmtk.errors import GridMismatch, InputError
from mmtk.io import Volume

__all__ = ["Scene"]

#: The working images have about so many samples along their longest axis, in 2-D and in 3-D.
SAMPLES = {2: 512, 3: 128}
#: Step of the lattice on which the search begins, as a part of the foreground's radius: 10 mm for a brain.
SEARCH = 5.5
#: Linearizations at most, from each start of the search and on each level.
TRIES, ITERATIONS = 12, 15
#: Dark gaps narrower than twice this part of the radius belong to the foreground.
CLOSING = 1 / 7
#: Size of the windows of local contrast, in steps.
WINDOW = 1.5
#: Bends of the line that takes the intensities of one contrast to those of another.
BENDS = 4
#: Contrast, as a share of an image's range, below which a neighborhood counts as flat.
FLAT = 0.03
#: An image is flat where less than this share of its foreground has contrast.
TEXTURED = 0.25
#: Placements that explain as much but for this share are equally good; the earliest (the headers' first) is taken.
TIE = 0.03
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
        self.flat = any(_is_flat(image, self.radius) for image in (moving, fixed))

    def centers(self) -> np.ndarray:
        """The translation that joins the centers of the two foregrounds, ``(d + 1, d + 1)``."""
        fixed, moving = (sphere(image)[0] for image in self._rough)
        matrix = np.eye(len(self.center) + 1)
        matrix[:-1, -1] = moving - fixed
        return matrix

    def sizes(self) -> np.ndarray:
        """The centers joined, and the fixed foreground scaled to the size of the moving one."""
        fixed, moving = (sphere(image)[1] for image in self._rough)
        scale = np.eye(len(self.center) + 1)
        scale[:-1] *= moving / max(fixed, 1e-12)
        scale[:-1, -1] = self.center - scale[:-1, :-1] @ self.center
        return self.centers() @ scale

    def search(self, *, scaled: bool = False, report: Report | None = None) -> np.ndarray:
        """A rigid placement (``scaled``: or a similar one), the best of several after a short descent from each."""
        matrices = [np.eye(len(self.center) + 1), self.centers()]
        if scaled:
            matrices.append(self.sizes())
        matrices += placements(*self._rough, CANDIDATES)
        likeness = self.likeness(SEARCH)
        rigid = Motion(self.center, self.radius, "rigid")
        ends = [descend(likeness, matrix, rigid, TRIES, report) for matrix in matrices]
        explained = [1 - likeness.mismatch(end) for end in ends]
        enough = (1 - TIE) * max(explained)
        return next(end for end, share in zip(ends, explained, strict=True) if share >= enough)

    def refine(
        self, level: float, start: np.ndarray, freedom: Freedom, report: Report | None = None
    ) -> np.ndarray:
        """The best placement that a descent from ``start`` reaches on the lattices of a level."""
        motion = Motion(self.center, self.radius, freedom)
        return descend(self.likeness(level), start, motion, ITERATIONS, report)

    @lru_cache(maxsize=4)  # noqa: B019 (a scene lives as long as one alignment)
    def likeness(self, level: float) -> Likeness:
        """The comparison of the two on lattices of step ``radius / level``.

        The moving image's local contrast is explained by the fixed one's, by its intensity (contrasts differ), and by
        the rim of its foreground (which a skull, or its absence, turns bright or dark).
        """
        step = self.radius / level
        (fixed, seen), (moving, other) = self._views(level)
        image = fixed.weighed(seen)
        if self.flat:
            return Likeness(image, (), moving.weighed(other), step)
        window = WINDOW * step
        rim = Lattice(fixed.smoothed(step / 2)(seen) * fixed.weight, fixed.weight, fixed.affine)
        features = [feature.contrasted(window, FLAT).weighed(seen) for feature in (fixed, rim)]
        return Likeness(image, features, moving.contrasted(window, FLAT).weighed(other), step, BENDS)

    @cached_property
    def _rough(self) -> tuple[Lattice, Lattice]:
        """Both as the search for translations sees them."""
        (fixed, seen), (moving, other) = self._views(SEARCH)
        return fixed.weighed(seen), moving.weighed(other)

    def _views(self, level: float) -> list[tuple[Lattice, Tensor]]:
        """The fixed and the moving image as a level sees them, each with the region in which it is compared.

        Each is smoothed for lattices of step ``radius / level`` and kept on one of half that step, to be interpolated.
        """
        step, gap, views = self.radius / level, CLOSING * self.radius, []
        for image in (self.fixed, self.moving):
            had = 0.5 * float(min(image.spacing))  # what smoothing the working image has already
            thin = image.coarser(step / 2, math.sqrt(max((0.5 * step) ** 2 - had**2, 0.0)))
            seen = thin.foreground(gap)
            if self.flat:
                seen = thin.grown(seen, gap) if image is self.fixed else torch.ones_like(seen)
            views.append((thin, seen))
        return views

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


def _is_flat(image: Lattice, radius: float) -> bool:
    """Whether nothing is to be seen inside the foreground, as in drawings of shapes: then its rim must do."""
    thin = image.coarser(radius / 10, radius / 20)
    inside = thin.grown(thin.foreground(CLOSING * radius), -radius / 5) * (thin.weight > EMPTY)
    rough = (thin.texture(radius / 10) > FLAT).to(inside)
    return bool((rough * inside).sum() < TEXTURED * inside.sum().clamp_min(1))


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
    step = max(n * h for n, h in zip(full.shape, full.spacing, strict=True)) / SAMPLES[dim]
    thin = full.coarser(step, 0.5 * step).standardized()
    if not bool(thin.mass.isfinite().all()):
        raise InputError(f"{name}: some voxels are NaN or infinite, so it cannot be placed; mask or mend them")
    if not bool(thin.mass.any()):
        raise InputError(f"{name}: nothing differs from its background, so it cannot be placed; use init=none")
    return thin


def _tensor(volume: Volume, device: torch.device | str) -> torch.Tensor:
    return torch.from_numpy(np.require(volume.data, np.float32, ("C", "W"))).to(device)
