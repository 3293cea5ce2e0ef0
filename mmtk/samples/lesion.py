r"""What a lesion looks like, given as a function of the *fixed* position.

A painter colors healthy tissue at fixed points ``x``; the moving image at ``y`` is then the painting at
``x = psi^-1(y)``. So one function makes the moving image, its mask, the mask on the fixed grid and the true
appearance, and these cannot disagree. Distances are those of the grown lesion, in millimeters of the patient.

    bright     enhancing rim, necrotic core with a wavy border, edema that follows the white matter
    lookalike  the intensity of cortex, with a texture; a method that trusts intensities alone takes it for tissue
    resected   a dark cavity, filled with fluid
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmtk.samples.maps import RadialGrowth

if TYPE_CHECKING:
    import numpy as np

#: Width of the soft border of a lesion, mm.
BORDER = 1.5

#: A voxel belongs to the mask where the lesion's share exceeds this; below it, nothing is painted.
_SHARE = 0.02


@dataclass(frozen=True)
class Palette:
    """Intensities of a lesion's parts, in the moving image's contrast; ``edema`` is a factor on the tissue."""

    rim: float
    necrosis: float
    grey: float
    cavity: float
    edema: float

    @classmethod
    def like_t1(cls, tissue: dict[str, float], remap: Callable[[float], float]) -> Palette:
        """Bright after contrast agent, dark necrosis, dark edema; ``remap`` is monotone."""
        return cls(
            rim=1.2 * remap(tissue["white"]),
            necrosis=remap(0.5 * (tissue["csf"] + tissue["grey"]) * 0.85),
            grey=remap(tissue["grey"]),
            cavity=remap(0.6 * tissue["csf"]),
            edema=0.75,
        )

    @classmethod
    def like_t2(cls, tissue: dict[str, float], remap: Callable[[float], float]) -> Palette:
        """Water is bright: necrosis and edema brighter than tissue, the cavity brightest."""
        grey, csf = remap(tissue["grey"]), remap(tissue["csf"])
        return cls(rim=0.5 * (grey + csf), necrosis=0.95 * csf, grey=grey, cavity=csf, edema=1.5)


@dataclass(frozen=True, eq=False)
class Texture:
    """Smooth random field of unit standard deviation, ``knot`` mm coarse, round a center."""

    knots: np.ndarray
    knot: float
    center: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator, center: np.ndarray, extent: float, knot: float) -> Texture:
        count = 2 * int(extent / knot) + 7
        dim = len(center)
        # A cubic B-spline keeps 0.479 of the variance of its white coefficients per axis.
        return cls(rng.normal(size=(count,) * dim) / 0.479 ** (dim / 2), knot, center)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        from scipy.ndimage import map_coordinates

        where = (points - self.center[:, None]) / self.knot + (self.knots.shape[0] - 1) / 2
        return map_coordinates(self.knots, where, order=3, mode="nearest", prefilter=False)


@dataclass(frozen=True, eq=False)
class Lesion:
    """Paints one lesion.

    Attributes:
        kind: ``bright``, ``lookalike`` or ``resected``.
        growth: Its place, form and mass effect.
        palette: Its intensities.
        texture: Its unevenness, drawn in the patient's millimeters.
        edema: Mean width of the edema, mm; 0 for none.
        white: Share of white matter at fixed points ``(dim, n)``, in [0, 1].
        variation: Standard deviation of its texture, in intensity.
    """

    kind: str
    growth: RadialGrowth
    palette: Palette
    texture: Texture
    edema: float
    white: Callable[[np.ndarray], np.ndarray]
    variation: float

    @property
    def _outer(self) -> float:
        return 1.5 * self.edema + BORDER

    def reaches(self, points: np.ndarray) -> np.ndarray:
        """Return the indices of those of the fixed points ``(dim, n)`` that it may color."""
        import numpy as np

        limit = self.growth.radius.largest * max(1.0, self.growth.ratio) + self._outer
        box = np.flatnonzero((np.abs(points - self.growth.center[:, None]) < limit).all(0))
        return box[self._depth(points[:, box])[0] > -self._outer]

    def paint(self, points: np.ndarray, healthy: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Color ``healthy`` intensities ``(n,)`` at fixed points ``(dim, n)``.

        Returns:
            The intensities with the lesion, where its core is, and where it is (core and edema).
        """
        import numpy as np

        depth, relative = self._depth(points)
        wave = self.texture(self.growth(points))
        core = _ramp((depth + BORDER / 2) / BORDER)
        core = np.where(core > _SHARE, core, 0.0)
        painted, halo = healthy, np.zeros_like(core)
        if self.edema > 0:
            fingers = self.edema * (1 + 0.5 * np.clip(wave, -1, 1))
            halo = _ramp((depth + fingers) / (0.6 * self.edema)) * self.white(points)
            halo = np.where(halo > _SHARE, halo, 0.0)
            painted = painted * (1 + halo * (self.palette.edema - 1))
        inside = np.maximum(self._inside(relative, wave), 0.0)
        painted = painted + core * (inside - painted)
        return painted, core > 0.5, (core > 0) | (halo > 0)

    def _inside(self, relative: np.ndarray, wave: np.ndarray) -> np.ndarray:
        p = self.palette
        if self.kind == "resected":
            return p.cavity + 0.3 * self.variation * wave
        if self.kind == "lookalike":
            return p.grey + self.variation * wave
        necrosis = _ramp((0.7 + 0.08 * wave - relative) / 0.2)
        return p.rim + necrosis * (p.necrosis - p.rim) + 0.7 * self.variation * wave

    def _depth(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the patient's millimeters under the lesion's border, and the radii from its center."""
        _, r, radius = self.growth.polar(points)
        grown = self.growth.stretch(r / radius)
        return (self.growth.ratio - grown) * radius, grown / self.growth.ratio


def _ramp(t: np.ndarray) -> np.ndarray:
    """Return 0 below 0, 1 above 1 and a cubic between."""
    import numpy as np

    t = np.clip(t, 0.0, 1.0)
    return t * t * (3 - 2 * t)
