"""How well a C was registered, where it can be seen.

Along the stroke a C is uniform: no method can know how far a point slid along it. So the error is taken across
the visible edges, near the cut, and in it, and not as a plain mean.
"""

from __future__ import annotations

from typing import Any

from mmtk.errors import GridMismatch
from mmtk.samples.maps import determinant
from mmtk.samples.sample import Sample


def shape_scores(sample: Sample, displacement: Any, *, near: float = 10.0) -> dict[str, float]:
    """Score a registration of a C's ``moving`` onto ``fixed``; lengths in pixels, intensities in [0, 1].

    Args:
        sample: From :func:`mmtk.samples.c_shapes`.
        displacement: ``(2, h, w)`` or ``(1, 2, h, w)``, array or tensor: pull-back in pixels, the affine (if any)
            included.
        near: Width of the band round the cut.

    Returns:
        ``normal``: mean error across the edges of the template, the cut's own left out.
        ``near``: mean error within ``near`` of the cut, on the letter and 3 pixels beyond its border.
        ``in_cut``: mean error in the cut.
        ``outside``: squared error of the shape-only image, summed over what is more than 2 pixels from the cut.
        ``total``: the same over the whole image: an L2 of the thesis's table 5.2 for a method without appearance.
        ``s``: ``|| Id - psi_1 o (x + u) ||`` of the thesis, 5.3.2, as the root of the sum of squares over all
        pixels; its normalization is not published.
        ``folds``: pixels whose Jacobian determinant is not positive.

    The cut is meant as it is, whatever the size of the mask that a method was given.

    Raises:
        GridMismatch: The displacement is not on the image.
    """
    import numpy as np
    from scipy.ndimage import distance_transform_edt, map_coordinates

    from mmtk.io.space import as_numpy
    from mmtk.metrics import edge_error

    u = as_numpy(displacement).astype(np.float64)
    u = u[0] if u.ndim == 4 else u
    if u.shape != sample.displacement.shape:
        raise GridMismatch("displacement", u.shape, "fixed", sample.displacement.shape)
    where = np.indices(sample.fixed.shape) + u
    letter = np.maximum(sample.fixed, sample.fixed - sample.appearance)
    off = u - sample.displacement
    error = np.hypot(*off)
    gap = distance_transform_edt(sample.appearance == 0)
    band = (gap > 0) & (gap <= near) & (distance_transform_edt(letter <= 0.5) <= 3)
    squares = (map_coordinates(sample.moving, where, order=1, mode="nearest") - sample.fixed) ** 2
    back = [map_coordinates(c, where, order=3, mode="nearest") for c in sample.inverse_displacement]
    return {
        "normal": edge_error(off, letter, (1.0, 1.0), gap > 2),
        "near": float(error[band].mean()),
        "in_cut": float(error[(gap == 0) & (letter > 0.5)].mean()),
        "outside": float(squares[gap > 2].sum()),
        "total": float(squares.sum()),
        "s": float(np.sqrt(((u + np.stack(back)) ** 2).sum())),
        "folds": float((determinant(np.stack([np.stack(np.gradient(c)) for c in u])) <= 0).sum()),
    }
