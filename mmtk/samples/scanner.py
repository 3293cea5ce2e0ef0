"""What a scanner adds to anatomy: a contrast, a bias field, noise. Air stays 0, as after skull-stripping."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmtk.samples.maps import FreeForm

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Contrast:
    """Maps intensities by a broken line; 0 stays 0.

    Attributes:
        seen: Intensities of the brain, increasing.
        shown: What the scanner makes of them; not monotone for ``other``.
    """

    seen: tuple[float, ...]
    shown: tuple[float, ...]

    @classmethod
    def named(cls, name: str, tissue: dict[str, float], top: float) -> Contrast:
        """``same`` (``t1``, ``t1ce``), ``gamma`` (monotone, darker in the middle), ``other`` (``t2``: fluid is
        brightest) or ``flair`` (fluid is darkest, grey matter brighter than white)."""
        if name == "flair":
            seen = (
                0.0,
                0.3 * tissue["csf"],
                tissue["csf"],
                tissue["grey"],
                tissue["white"],
                max(top, 1.01 * tissue["white"]),
            )
            return cls(seen, (0.0, 0.12 * top, 0.45 * top, 0.75 * top, 0.6 * top, 0.58 * top))
        if name in ("other", "t2"):
            # The darkest fluid of a T1 lies far below the mean of its class, which is half brain.
            fluid, csf, grey, white = 0.3 * tissue["csf"], tissue["csf"], tissue["grey"], tissue["white"]
            seen = (0.0, fluid, csf, grey, white, max(top, 1.01 * white))
            return cls(seen, (0.0, top, 0.85 * top, 0.6 * top, 0.38 * top, 0.34 * top))
        knots = tuple(top * k / 16 for k in range(25))
        power = 1.6 if name == "gamma" else 1.0
        return cls(knots, tuple(top * (knot / top) ** power for knot in knots))

    def __call__(self, intensity: Any) -> Any:
        import numpy as np

        return np.interp(intensity, self.seen, self.shown)


def bias_field(
    rng: np.random.Generator, axes: Sequence[np.ndarray], amplitude: float, head: np.ndarray
) -> np.ndarray:
    """Return a smooth factor on the product of ``axes`` (mm), within ``1 +- amplitude`` in the head."""
    import numpy as np

    field = FreeForm.draw(rng, [axis[-1] for axis in axes], 60.0).displacement_on_grid(axes)[0]
    return 1 + amplitude * field / max(float(np.abs(field[head]).max()), 1e-12)


def rician(rng: np.random.Generator, image: np.ndarray, sigma: float) -> np.ndarray:
    """Return the magnitude of ``image`` with complex Gaussian noise of ``sigma`` in both channels."""
    import numpy as np

    real = image + sigma * rng.standard_normal(image.shape)
    return np.hypot(real, sigma * rng.standard_normal(image.shape))


def thick_slices(image: np.ndarray, factor: float, axis: int) -> np.ndarray:
    """Return the image as thick slices along one axis would show it, brought back to its grid by lines between them.

    Args:
        factor: Thickness of a slice, in voxels.
    """
    import numpy as np
    from scipy.ndimage import gaussian_filter1d, map_coordinates

    blurred = gaussian_filter1d(image, factor / 2.355, axis=axis, mode="nearest")  # full width at half maximum
    n = image.shape[axis]
    places = np.arange((n - 1) % factor / 2, n, factor)
    where = np.indices((*image.shape[:axis], len(places), *image.shape[axis + 1 :]), dtype=np.float64)
    where[axis] = np.expand_dims(places, tuple(a for a in range(image.ndim) if a != axis))
    slices = map_coordinates(blurred, where, order=1, mode="nearest")
    back = np.indices(image.shape, dtype=np.float64)
    back[axis] = (back[axis] - places[0]) / factor
    shown: np.ndarray = map_coordinates(slices, back, order=1, mode="nearest")
    return np.where(image > 0, shown, 0.0)
