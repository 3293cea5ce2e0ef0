r"""How sharp an average is, and unsharp masking.

    gradient    mean length of the gradient inside the content, per mm, in units of the contrast there (the
                difference between the 5th and the 95th percentile)
    fine        share of the variance inside the content that lies in details finer than a Gaussian of 2 mm, or of
                one voxel where voxels are larger
    entropy     of the histogram inside the content in 64 bins of the contrast, bits: blur mixes tissues, and fills
                the gaps between their peaks

Contrast is divided out: an average that is merely brighter is no sharper.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["content", "sharpened", "sharpness"]

#: What is brighter than this share of the 99th percentile is content: brain, and not air.
FROM = 0.15

#: Standard deviation of the Gaussian that details are finer than, mm, and bins of the histogram.
DETAIL, BINS = 2.0, 64


def content(image: np.ndarray) -> np.ndarray:
    """Return where an image shows something, ``(*space)``."""
    return np.asarray(image > FROM * np.percentile(image, 99))


def sharpness(image: np.ndarray, spacing: Sequence[float], inside: np.ndarray) -> dict[str, float]:
    """Return the three numbers; see above.

    Args:
        image: ``(*space)``, in any unit.
        spacing: mm.
        inside: Where it counts, such as :func:`content`.
    """
    from scipy.ndimage import gaussian_filter

    if not inside.any():
        return {"gradient": 0.0, "fine": 0.0, "entropy": 0.0}
    low, high = np.percentile(image[inside], (5, 95))
    scaled = (np.asarray(image, dtype=np.float64) - low) / max(high - low, 1e-12)
    steep = np.sqrt(sum(part**2 for part in np.gradient(scaled, *spacing)))
    blurred = gaussian_filter(scaled, [max(DETAIL / h, 1.0) for h in spacing])
    variance = scaled[inside].var()
    counts = np.histogram(np.clip(scaled[inside], 0, 1), BINS, (0, 1))[0]
    shares = counts[counts > 0] / counts.sum()
    return {
        "gradient": float(steep[inside].mean()),
        "fine": float((scaled - blurred)[inside].var() / max(variance, 1e-12)),
        "entropy": float(-(shares * np.log2(shares)).sum()),
    }


def sharpened(image: np.ndarray, share: float) -> np.ndarray:
    """Return ``image + share * (image - blurred)``, within the range of each voxel's neighbors: edges, no halos.

    Args:
        image: ``(*space)``.
        share: 0 leaves the image as it is.
    """
    from scipy.ndimage import gaussian_filter, maximum_filter, minimum_filter

    if share == 0:
        return image
    steeper = image + share * (image - gaussian_filter(image, 1.0))
    return np.asarray(np.clip(steeper, minimum_filter(image, 3), maximum_filter(image, 3)))
