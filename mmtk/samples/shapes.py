r"""Deformed letters C with a cut: algorithm 5.2 of Maillard's thesis.

A white C on black, 200 x 200, loses its topology to a rectangle that cuts it, and is then carried by the shooting
equations of LDDMM (thesis, eq. 5.2 with mu = 0) from a momentum that is noise:

.. math::
    v_t &= -K \star (z_t \nabla I_t), \qquad
    \varphi_{t+1} = \varphi_t \circ (\mathrm{Id} - v_t / T), \\
    I_{t+1} &= I_0 \circ \varphi_{t+1}, \qquad\quad
    z_{t+1} = z_t - \nabla \cdot (z_t v_t) / T

The deformation is strong along the contour, next to nothing in the black, and knows nothing of the cut but its
edges. Directions: the sample's ``moving`` is :math:`I_T = I_0 \circ \varphi_T`, so :math:`\varphi_T` maps moving
points to template points: it is the thesis's ground truth :math:`\psi_1`, here ``inverse_displacement``. A
registration of ``moving`` onto ``fixed`` has to find its inverse, here ``displacement``, found numerically to
1e-5 pixel.

What the thesis leaves open, and what is chosen here:

- the C: an arc of mean radius 52 and thickness 26 pixels, open by 70 degrees to the right, with round ends and
  an edge that is one pixel soft; intensities in [0, 1];
- the cut: a rectangle across the stroke, its direction uniform over the arc but 25 degrees away from its ends,
  turned against the radius by up to 20 degrees, its width uniform in [8, 20] pixels;
- the kernel: a Gaussian of unit sum, sigma 6 pixels, on the periodic image; T = 60 steps;
- differences: central, with a divergence that is the exact negative transpose of the gradient; maps are composed
  with cubic B-splines; ``I_0`` is a formula and is evaluated, not interpolated, at ``phi_T``;
- a shape whose deformation folds (determinant <= 0 anywhere, either way) is drawn again, and counted.

The ISBI 2022 paper does it the other way round: the sources are deformed whole letters and the target is cut
(``cut="target"``). There the lesion is in the fixed image; ``mask`` is its counterpart in the moving one.

    points    (2, h, w)    pixels, axis order i (down), j (right)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmtk.errors import ConfigError
from mmtk.samples.options import CShapesOptions, parse
from mmtk.samples.sample import Sample, jacobian_minimum

if TYPE_CHECKING:
    import numpy as np

#: How often one shape is drawn again before the settings are to blame.
_DRAWS = 50


def c_shapes(
    count: int = 1,
    *,
    cut: str = "source",
    seed: int = 0,
    size: int = 200,
    sigma: float = 6.0,
    steps: int = 60,
    amplitude: float = 1000.0,
    width: tuple[float, float] = (8.0, 20.0),
    mask_area: float = 1.0,
) -> Iterator[Sample]:
    """Yield ``count`` pairs of a deformed C and the template, one of the two cut.

    Args:
        count: How many. The n-th is the same whatever the count.
        cut: ``source``: the deformed C is cut (thesis); ``target``: the template is (ISBI 2022).
        seed: The same seed and options give the same shapes.
        size: Side of the image in pixels; the C grows with it, the kernel does not.
        sigma: Of the Gaussian kernel, pixels.
        steps: ``T``.
        amplitude: The momentum is uniform in [-amplitude, amplitude]; 0 leaves the C in place.
        width: Range of the cut's width, pixels at size 200.
        mask_area: Area of the mask, in units of the smallest that covers the cut and its soft edge.

    Yields:
        Samples of spacing 1 mm a pixel. ``facts["redrawn"]`` counts the folded draws that were thrown away.

    Raises:
        ConfigError: An option is unknown or out of range (at once, not at the first shape), or every draw folds.
    """
    options = parse(CShapesOptions, dict(locals()), "c_shapes")
    return (shape(options, index) for index in range(options.count))


@dataclass(frozen=True)
class _Letter:
    """The template, as formulas of the position: distances are negative inside."""

    size: int
    half_opening: float = 0.61  # radians; 35 degrees to either side of the right

    def scaled(self, pixels_at_200: float) -> float:
        return pixels_at_200 * self.size / 200

    def polar(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        import numpy as np

        down, right = points - (self.size - 1) / 2
        return np.hypot(down, right), np.arctan2(down, right)

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Return the signed distance to the border of the C, pixels."""
        import numpy as np

        r, angle = self.polar(points)
        radius, half = self.scaled(52), self.scaled(13)
        beyond = np.maximum(self.half_opening - np.abs(angle), 0.0)
        # In the opening the nearest point of the arc is one of its ends, at the angle `beyond`.
        from_end = np.sqrt(np.maximum(r**2 + radius**2 - 2 * r * radius * np.cos(beyond), 0.0))
        return np.where(beyond > 0, from_end, np.abs(r - radius)) - half

    def __call__(self, points: np.ndarray) -> np.ndarray:
        return _soft(self.distance(points))


@dataclass(frozen=True)
class _Cut:
    """A rectangle across the stroke.

    Attributes:
        center, along: ``(2,)``: its middle, and the unit vector of its length.
        half_width, half_length: Pixels.
    """

    center: np.ndarray
    along: np.ndarray
    half_width: float
    half_length: float

    @classmethod
    def draw(cls, rng: np.random.Generator, letter: _Letter, width: tuple[float, float]) -> _Cut:
        import numpy as np

        margin = letter.half_opening + np.deg2rad(25)
        angle = rng.uniform(margin, 2 * np.pi - margin)
        turned = angle + rng.uniform(-1, 1) * np.deg2rad(20)
        middle = (letter.size - 1) / 2 + letter.scaled(52) * np.array([np.sin(angle), np.cos(angle)])
        along = np.array([np.sin(turned), np.cos(turned)])
        # Long enough to leave the stroke on both sides, however it is turned.
        return cls(middle, along, letter.scaled(rng.uniform(*width)) / 2, letter.scaled(13 / np.cos(0.35) + 8))

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Return the signed (maximum-norm) distance to the rectangle, pixels."""
        import numpy as np

        down, right = points - self.center.reshape(2, 1, 1)
        length = down * self.along[0] + right * self.along[1]
        across = right * self.along[0] - down * self.along[1]
        return np.maximum(np.abs(length) - self.half_length, np.abs(across) - self.half_width)

    def margin(self, area: float) -> float:
        """Return by how much the mask exceeds the rectangle: 1.5 pixels, and more for ``area`` times that."""
        import math

        short, long = 2 * self.half_width + 3, 2 * self.half_length + 3
        both = short + long
        return 1.5 + (math.sqrt(both**2 + 4 * short * long * (area - 1)) - both) / 4


def shape(options: CShapesOptions, index: int) -> Sample:
    """Return the ``index``-th pair that the options describe, whatever their ``count``.

    Raises:
        ConfigError: If every draw folds.
    """
    import numpy as np

    rng = np.random.default_rng([options.seed, index])
    letter = _Letter(options.size)
    grid = np.indices((options.size, options.size), dtype=np.float64)
    for redrawn in range(_DRAWS):  # noqa: B007 (told in the facts)
        cut = _Cut.draw(rng, letter, options.width)

        def lesioned(points: np.ndarray, cut: _Cut = cut) -> np.ndarray:
            return letter(points) * (1 - _soft(cut.distance(points)))

        start, template = (lesioned, letter) if options.cut == "source" else (letter, lesioned)
        momentum = rng.uniform(-options.amplitude, options.amplitude, grid.shape[1:])
        psi = _shoot(start, momentum, grid, options.sigma, options.steps)
        if jacobian_minimum(psi) <= 0:
            continue
        displacement = _invert(psi)
        if jacobian_minimum(displacement) > 0:
            break
    else:
        raise ConfigError(
            f"amplitude: {_DRAWS} draws with {options.amplitude:g} at sigma {options.sigma:g} all folded. "
            f"Lower `amplitude` or raise `sigma` or `steps`."
        )
    margin = cut.margin(options.mask_area)
    fixed_mask, mask = cut.distance(grid) < margin, cut.distance(grid + psi) < margin
    healed = letter(grid) - lesioned(grid)
    appearance = healed if options.cut == "source" else -healed
    facts = {
        "sample": "c_shapes",
        **options.model_dump(exclude={"count"}),
        "index": index,
        "redrawn": redrawn,
        "cut_width": 2 * cut.half_width,
        "jacobian_minimum": jacobian_minimum(displacement),
        "endpoint_error_before": float(np.sqrt((displacement**2).sum(0))[letter(grid) > 0.5].mean()),
    }
    return Sample(
        moving=start(grid + psi).astype(np.float32),
        fixed=template(grid).astype(np.float32),
        mask=mask,
        fixed_mask=fixed_mask,
        displacement=displacement.astype(np.float32),
        inverse_displacement=psi.astype(np.float32),
        appearance=appearance.astype(np.float32),
        affine=np.eye(4),
        facts=facts,
    )


def _shoot(image: Any, momentum: np.ndarray, grid: np.ndarray, sigma: float, steps: int) -> np.ndarray:
    """Return ``phi_T(x) - x`` of the module's equations, ``(2, h, w)``."""
    import numpy as np

    spectrum = _gaussian_spectrum(grid.shape[1:], sigma)
    z, phi = momentum, np.zeros_like(grid)
    for _ in range(steps):
        z_gradient = z * _gradient(image(grid + phi))
        step = np.fft.irfft2(spectrum * np.fft.rfft2(z_gradient), s=grid.shape[1:]) / steps  # -v / T
        z = z + _divergence(z * step)
        phi = step + _compose(phi, grid + step)
    return phi


def _compose(displacement: np.ndarray, points: np.ndarray) -> np.ndarray:
    import numpy as np
    from scipy.ndimage import map_coordinates

    return np.stack([map_coordinates(c, points, order=3, mode="grid-wrap") for c in displacement])


def _invert(displacement: np.ndarray) -> np.ndarray:
    """Return ``u`` with ``u(x) = -d(x + u(x))``: Newton on the splines of ``d``, by at most 2 pixels at a time.

    A fixed-point iteration would not do: it diverges wherever ``d`` stretches by more than 2.
    """
    import numpy as np
    from scipy.ndimage import map_coordinates, spline_filter

    grid = np.indices(displacement.shape[1:], dtype=np.float64)
    splines = [spline_filter(c, order=3, mode="grid-wrap") for c in displacement]
    slopes = np.stack([_gradient(c) for c in displacement])
    inverse = -displacement
    for _ in range(60):
        where = grid + inverse
        there = np.stack([map_coordinates(s, where, order=3, mode="grid-wrap", prefilter=False) for s in splines])
        residual = inverse + there
        if np.abs(residual).max() < 1e-5:
            break
        rows = [[map_coordinates(s, where, order=1, mode="grid-wrap") for s in row] for row in slopes]
        matrix = np.moveaxis(np.array(rows), (0, 1), (-2, -1)) + np.eye(2)
        change = np.linalg.solve(matrix, np.moveaxis(residual, 0, -1)[..., None])[..., 0]
        change = np.moveaxis(change, -1, 0)
        inverse = inverse - change * np.minimum(1.0, 2.0 / np.maximum(np.hypot(*change), 1e-12))
    return inverse


def _gaussian_spectrum(shape: tuple[int, ...], sigma: float) -> np.ndarray:
    """Return the transform of the periodic Gaussian, unit sum, on the half plane of ``rfft2``."""
    import numpy as np

    profiles = []
    for n in shape:
        offset = np.minimum(np.arange(n), n - np.arange(n))
        profile = np.exp(-0.5 * (offset / sigma) ** 2)
        profiles.append(profile / profile.sum())
    return np.fft.rfft2(np.multiply.outer(*profiles)).real


def _gradient(field: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.stack([(np.roll(field, -1, a) - np.roll(field, 1, a)) / 2 for a in range(2)])


def _divergence(field: np.ndarray) -> np.ndarray:
    import numpy as np

    return sum((np.roll(c, -1, a) - np.roll(c, 1, a)) / 2 for a, c in enumerate(field))


def _soft(distance: np.ndarray) -> np.ndarray:
    """Return 1 inside, 0 outside, and a ramp one pixel wide on the border."""
    import numpy as np

    return np.clip(0.5 - distance, 0.0, 1.0)
