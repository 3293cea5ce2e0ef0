"""A first guess without training: what is not as on the other side of the head, and not as in a template.

    mirror      the image, reflected in its mid-sagittal plane: the plane in which it is most like itself
    asymmetry   image minus mirror, smoothed; of two sides that differ, the one less usual for the head counts
    intensity   image minus the template, smoothed, once both are on one scale

Each is divided by its robust deviation within the brain. Where a template is given, both have to speak; what is in the
middle of the head has no other side, and is found by its intensity alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from scipy import ndimage

from mmtk.segmenters import PairSegmenter, Segmentation, entropy
from mmtk.types import Image
from mmtk_segment.evidence import (
    NOISE,
    QUIET,
    brain_of,
    cut_out,
    departure,
    foreground,
    normalized,
    region,
    robust_scale,
    smoothed,
)

__all__ = ["Outlier", "find_plane", "mirrored"]

#: Distance of the lattice, mm, on which the plane is looked for, and how far it may be turned, radians.
COARSE, TURN = 6.0, 0.35
#: To this many mm its place is found.
FINEST = 0.01
#: A difference between the sides that counts as any larger one, in units of the brightest tissue: a lesion must not
#: decide where the plane lies.
ODD = 0.1
GUESS = (
    "the mask is a first guess, made of asymmetry and intensity alone: look at it before you use it, and draw one, or "
    "take a trained segmenter, where the lesion matters."
)


class Outlier(PairSegmenter):
    """See the module; the arguments are the fields of ``OutlierConfig``."""

    alone = True

    def __init__(
        self,
        *,
        smoothing: float = 2.0,
        threshold: float = 4.0,
        share: float = 0.25,
        components: int = 1,
        smallest: float = 0.3,
    ) -> None:
        super().__init__()
        self.smoothing, self.threshold, self.share = smoothing, threshold, share
        self.components, self.smallest = components, smallest

    def extra_repr(self) -> str:
        return f"smoothing={self.smoothing:g}, threshold={self.threshold:g}"

    def compare(self, image: Image, reference: Image | None, spacing: tuple[float, ...]) -> Segmentation:
        """Return the mask of each image of the batch by itself."""
        ours = image.detach()[:, 0].float().cpu().numpy()
        others = [None] * len(ours) if reference is None else list(reference.detach()[:, 0].float().cpu().numpy())
        masks = np.stack([self._one(one, other, spacing) for one, other in zip(ours, others, strict=True)])
        mask = torch.from_numpy(masks)[:, None].to(image)
        return Segmentation(mask, entropy(mask), notes=(GUESS,))

    def _one(self, image: np.ndarray, reference: np.ndarray | None, spacing: tuple[float, ...]) -> np.ndarray:
        brain = brain_of(image, reference, spacing)
        if not brain.any() or not np.ptp(image[brain]) > 0:
            return np.zeros(image.shape, np.float32)
        scaled = normalized(cut_out(image, brain))
        evidence = self._asymmetry(scaled, brain, spacing)
        if reference is not None and np.ptp(reference) > 0:
            unlike = self._intensity(scaled, reference, brain, spacing)
            evidence = np.sqrt(np.maximum(evidence, 1) * unlike)
        return region(
            evidence * brain,
            spacing,
            least=self.threshold,
            share=self.share,
            components=self.components,
            smallest=self.smallest,
        )

    def _asymmetry(self, image: np.ndarray, brain: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
        normal, offset = find_plane(image, brain, spacing)
        other = mirrored(image, normal, offset, spacing)
        both = brain & (mirrored(brain.astype(np.float32), normal, offset, spacing) > 0.5)
        ours, theirs = (smoothed(np.where(both, x, 0), self.smoothing, spacing) for x in (image, other))
        share = np.maximum(smoothed(both.astype(np.float32), self.smoothing, spacing), 1e-3)
        ours, theirs = ours / share, theirs / share
        usual = float(np.median(image[brain]))
        less_usual = np.abs(ours - usual) > np.abs(theirs - usual)
        apart = np.abs(ours - theirs) * both
        return apart / robust_scale(apart[both], NOISE) * less_usual

    def _intensity(
        self, image: np.ndarray, reference: np.ndarray, brain: np.ndarray, spacing: tuple[float, ...]
    ) -> np.ndarray:
        seen = brain & foreground(reference)
        apart = np.abs(smoothed(departure(image, reference, seen), self.smoothing, spacing)) * seen
        return apart / robust_scale(apart[seen], QUIET)


def find_plane(image: np.ndarray, brain: np.ndarray, spacing: Sequence[float]) -> tuple[np.ndarray, float]:
    """Return the unit normal and the offset of the plane in which an image is most like itself, mm from its first voxel.

    Planes across every axis are tried, through the middle of the brain; the best is turned and moved.
    """
    dim, h = image.ndim, np.asarray(spacing, float)
    shape = np.asarray(image.shape)
    step = np.maximum(1, np.round(COARSE / h)).astype(int)
    count = (shape - 1) // step + 1
    # The lattice lies in the middle of the image, between voxels where need be, so that it does not know which way the
    # array runs.
    first_voxel = (shape - 1 - step * (count - 1)) / 2
    lattice = np.stack(np.meshgrid(*map(np.arange, count), indexing="ij"))
    column = (-1, *[1] * dim)
    voxels = first_voxel.reshape(column) + step.reshape(column) * lattice
    soft, within = (
        ndimage.map_coordinates(field, voxels, order=1)
        for field in (smoothed(np.where(brain, image, 0), COARSE / 2, spacing), brain.astype(np.float32))
    )
    inside, coarse, corner = within > 0.5, h * step, h * first_voxel
    places = corner + np.argwhere(inside) * coarse
    center = places.mean(0)
    values = soft[inside]

    def cost(axis: int, moved: np.ndarray) -> float:
        normal, offset = _plane(axis, moved, center)
        there = (places - 2 * (places @ normal - offset)[:, None] * normal - corner) / coarse
        seen = ndimage.map_coordinates(soft, there.T, order=1, mode="constant")
        return float(np.minimum((seen - values) ** 2, ODD**2).mean())

    starts = [(cost(axis, np.zeros(dim)), axis) for axis in range(dim)]
    found = [
        (*_descended(partial(cost, axis), np.array([4.0, *[0.05] * (dim - 1)])), axis)
        for _, axis in sorted(starts)[:2]
    ]
    _, moved, axis = min(found, key=lambda one: one[0])
    return _plane(axis, moved, center)


def _descended(cost: Callable[[np.ndarray], float], steps: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the least cost near 0 and its place: steps either way along the axis that gains most, halved if none does.

    A simplex leans to one side, and so would find another plane in an image that is flipped.
    """
    at = np.zeros(len(steps))
    least = cost(at)
    while steps[0] > FINEST:
        trials = [at + sign * steps[k] * np.eye(len(steps))[k] for k in range(len(steps)) for sign in (-1.0, 1.0)]
        costs = [cost(trial) if (np.abs(trial[1:]) <= TURN).all() else np.inf for trial in trials]
        best = int(np.argmin(costs))
        if costs[best] < least:
            least, at = costs[best], trials[best]
        else:
            steps = steps / 2
    return least, at


def _plane(axis: int, moved: np.ndarray, center: np.ndarray) -> tuple[np.ndarray, float]:
    """Return normal and offset of the plane across an axis, moved along it and turned about the others."""
    normal = np.zeros(len(center))
    normal[[a for a in range(len(center)) if a != axis]] = np.tan(np.clip(moved[1:], -1, 1))
    normal[axis] = 1.0
    normal /= np.linalg.norm(normal)
    return normal, float(normal @ center + moved[0])


def mirrored(image: np.ndarray, normal: np.ndarray, offset: float, spacing: Sequence[float]) -> np.ndarray:
    """Return an image reflected in a plane; 0 beyond its border.

    Args:
        normal: Unit normal, in mm.
        offset: Distance of the plane from the first voxel along it, mm.
    """
    h = np.asarray(spacing, float)
    matrix = (np.eye(image.ndim) - 2 * np.outer(normal, normal)) * h / h[:, None]
    return ndimage.affine_transform(image, matrix, 2 * offset * normal / h, order=1, mode="constant")
