"""From a map of evidence to a mask: how far from usual a voxel is, and which region that makes.

evidence    (*space)   0 or above; the larger, the less a voxel looks like healthy tissue. 0 outside of the brain
probability (*space)   in [0, 1]; 1/2 where the mask ends

All in NumPy, on one image: thresholds come from the image's own distribution, so no element of a batch sees another.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from mmtk.intensity import robust

__all__ = [
    "NOISE",
    "QUIET",
    "brain_of",
    "cut_out",
    "departure",
    "foreground",
    "normalized",
    "region",
    "robust_scale",
    "smoothed",
]

#: Of a normal distribution, the standard deviation over the median of absolute values.
MAD = 1.4826
#: An image differs from its background where it does so by more than this share of its range.
CONTENT = 0.05
#: Distance in mm over which a mask fades; and the probability that counts as none.
SOFT, FAINT = 1.0, 0.05
#: Least deviation of a smoothed departure: noise under a Gaussian of two voxels has about that.
QUIET = 0.1
#: Bins of the reference's intensities, voxels without which one says nothing, and the departure that counts as any
#: larger one: a bright core must not hide its edema.
BINS, FEW, MOST = 24, 20, 20.0
#: Least deviation of an image's intensities, in units of its brightest tissue: no scan is better.
NOISE = 0.01


def smoothed(image: np.ndarray, sigma: float, spacing: Sequence[float]) -> np.ndarray:
    """Return an image under a Gaussian of ``sigma`` mm."""
    return ndimage.gaussian_filter(image, [sigma / h for h in spacing], mode="nearest", truncate=3.0)


def normalized(image: np.ndarray) -> np.ndarray:
    """Return an image on a scale on which its background is 0 and its brightest tissue 1; a constant one is 0."""
    return robust(image).apply(image) if np.ptp(image) > 0 else np.zeros_like(image)


def foreground(image: np.ndarray) -> np.ndarray:
    """Return where an image differs from its background, holes filled: the largest connected part."""
    faces = np.concatenate([np.take(image, end, axis).ravel() for axis in range(image.ndim) for end in (0, -1)])
    away = np.abs(image - np.median(faces))
    content = away > CONTENT * away.max() if away.max() > 0 else np.zeros(image.shape, bool)
    return _largest(ndimage.binary_fill_holes(content))


def brain_of(
    image: np.ndarray, reference: np.ndarray | None, spacing: Sequence[float], margin: float = 4.0
) -> np.ndarray:
    """Return where there is tissue to be judged.

    A reference without its skull says where the brain of a scan with one lies; ``margin`` mm are allowed for what an
    affine placement misses.
    """
    there = foreground(image)
    if reference is None or not np.ptp(reference) > 0:
        return there
    near = ndimage.distance_transform_edt(~foreground(reference), sampling=spacing) <= margin
    return there & near


def robust_scale(values: np.ndarray, least: float) -> float:
    """Return the standard deviation of most of the values, by the median of their absolute ones, or ``least``."""
    return max(MAD * float(np.median(np.abs(values))), least) if values.size else least


def cut_out(image: np.ndarray, within: np.ndarray) -> np.ndarray:
    """Return an image that shows its darkest value beyond a region, so that a skull counts for nothing."""
    return image if within.all() else np.where(within, image, image[~within].min())


def _largest(mask: np.ndarray) -> np.ndarray:
    labels, count = ndimage.label(mask)
    if count < 2:
        return mask
    sizes = np.bincount(labels.ravel())[1:]
    return labels == 1 + int(np.argmax(sizes))


def departure(image: np.ndarray, carried: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """Return how far an image is from what its reference, carried onto it, lets expect; in robust deviations.

    What to expect of a voxel is the median of the image where the carried reference has that intensity, and the
    deviation is theirs, too. So neither brightness nor contrast of the two need agree, a lesion that stretches the range
    of intensities does no harm, and gray matter, whose folds never match, is judged less strictly than white.

    Args:
        image, carried: On one grid, scaled by :func:`normalized`.
        brain: Where they are compared; beyond it the departure is 0.
    """
    x, y = carried[brain], image[brain]
    count = min(BINS, max(1, len(x) // (2 * FEW)))
    edges = np.unique(np.quantile(x, np.linspace(0, 1, count + 1)))
    if len(edges) < 2:
        return np.zeros(image.shape, np.float32)
    bins = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, len(edges) - 2)
    rows = []
    for at in range(len(edges) - 1):
        there = bins == at
        if there.sum() >= FEW:
            middle = float(np.median(y[there]))
            rows.append((float(np.median(x[there])), middle, MAD * float(np.median(np.abs(y[there] - middle)))))
    if not rows:
        return np.zeros(image.shape, np.float32)
    at, middles, spreads = np.array(rows).T
    spreads = np.maximum(spreads, max(0.5 * float(np.median(spreads)), NOISE))
    away = (image - np.interp(carried, at, middles)) / np.interp(carried, at, spreads)
    return np.where(brain, np.clip(away, -MOST, MOST), 0).astype(np.float32)


def region(
    evidence: np.ndarray,
    spacing: Sequence[float],
    *,
    least: float,
    share: float = 0.25,
    components: int = 1,
    smallest: float = 0.3,
    closing: float = 3.0,
) -> np.ndarray:
    """Return the probability that a voxel is lesion: the regions in which most of the evidence lies.

    A region begins where the evidence exceeds ``least``; the heaviest ones, by the sum of its squares, are kept. Each
    ends where the evidence falls under ``share`` of what the region reaches: smoothing spreads a strong lesion beyond
    its border. The probability is a logistic function of the distance to that border and of the evidence against what
    it has there; it is no posterior of any model.

    Args:
        evidence: In units of its own robust deviation.
        spacing: mm.
        least: Evidence that a lesion has at its border, at least.
        share: Of the region's 95th percentile.
        components: Regions that are kept at most.
        smallest: ml, or cm^2 of a slice; a smaller region is none.
        closing: Gaps of up to twice so many mm are closed.
    """
    cell = float(np.prod(spacing)) / 10 ** len(spacing)
    probability = np.zeros(evidence.shape, np.float32)
    labels, count = ndimage.label(evidence > least)
    if not count:
        return probability
    index = np.arange(1, count + 1)
    weights = ndimage.sum_labels(evidence.astype(np.float64) ** 2, labels, index)
    for at in index[np.argsort(-weights)][:components]:
        inside = labels == at
        border = max(least, share * float(np.percentile(evidence[inside], 95)))
        core = _closed(_largest(inside & (evidence > border)), closing, spacing)
        if core.sum() * cell < smallest:
            continue
        depth = _depth(core, spacing)
        logit = depth / SOFT + 2 * np.log(np.clip(evidence / border, 0.25, 4.0))
        chance = 1 / (1 + np.exp(-np.clip(logit, -30, 30)))
        chance[(chance < FAINT) | (depth < -2 * SOFT)] = 0
        probability = np.maximum(probability, chance.astype(np.float32))
    return probability


def _closed(mask: np.ndarray, distance: float, spacing: Sequence[float]) -> np.ndarray:
    """Return a mask whose gaps of up to twice ``distance`` mm, and whose holes, are closed."""
    if not mask.any():
        return mask
    edge = [int(np.ceil(distance / h)) + 1 for h in spacing]
    wide = np.pad(mask, [(n, n) for n in edge])
    grown = ndimage.distance_transform_edt(~wide, sampling=spacing) <= distance
    shut = ndimage.distance_transform_edt(grown, sampling=spacing) > distance
    inner = shut[tuple(slice(n, -n) for n in edge)]
    return ndimage.binary_fill_holes(inner | mask)


def _depth(mask: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Return the signed distance to the border of a mask, mm, positive inside."""
    half = 0.5 * float(np.mean(spacing))  # the border lies between two voxels
    return np.where(
        mask,
        ndimage.distance_transform_edt(mask, sampling=spacing) - half,
        half - ndimage.distance_transform_edt(~mask, sampling=spacing),
    )
