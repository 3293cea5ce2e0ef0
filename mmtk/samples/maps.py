r"""Smooth maps with a known inverse: a B-spline free-form deformation, and growth along rays.

Neither belongs to a family that mmtk registers with (flows of smoothed velocities), so that a registration
scored against them is not marked by its own ruler. Both are given at any point, not on a grid: what a sample
calls its true displacement is evaluated, never interpolated.

    points    (dim, ...)    millimeters along the array axes; float64
    result    (dim, ...)    where they go, in the same coordinates

Here :math:`\psi = B \circ G`: first the lesion grows or shrinks round its center (``G``), then the head as a
whole is bent (``B``). ``psi`` carries a fixed point to the moving one; it is the pull-back that a registration
of moving onto fixed has to find.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

#: How many knots the lattice of a free-form deformation reaches beyond the box on every side.
_PAD = 3


@dataclass(frozen=True, eq=False)
class FreeForm:
    r"""Cubic B-spline free-form deformation, :math:`B(y) = y + \sum_k c_k \prod_a \beta^3(y_a / H - k_a)`.

    Attributes:
        coefficients: ``c``, ``(dim, *knots)`` in millimeters.
        knot: Distance ``H`` of the knots, mm. The knot of index 3 lies at point 0 on every axis.

    It is one-to-one for certain where every ``|c| < 0.4 H`` (Choi and Lee, "Injectivity conditions of 2D and 3D
    uniform cubic B-spline functions", Graphical Models 62 (2000) 411-427); :meth:`determinants` looks instead
    of trusting.
    """

    coefficients: np.ndarray
    knot: float

    @classmethod
    def draw(cls, rng: np.random.Generator, extent: Sequence[float], knot: float) -> FreeForm:
        """Draw coefficients uniformly from [-1, 1] mm over a box of ``extent`` mm; then scale by :meth:`times`."""
        import math

        knots = [math.ceil(length / knot) + 2 * _PAD + 1 for length in extent]
        return cls(rng.uniform(-1.0, 1.0, (len(knots), *knots)), float(knot))

    @classmethod
    def geodesic(cls, rng: np.random.Generator, extent: Sequence[float], sigma: float, size: float) -> FreeForm:
        r"""Draw the end of a geodesic of diffeomorphisms over a box of ``extent`` mm, and hold it by its splines.

        A random momentum :math:`p_0` is shot by the conservation law of EPDiff,

        .. math:: v_t = K p_t, \qquad p_t = |D\phi_t^{-1}|\, (D\phi_t^{-1})^T\, p_0 \circ \phi_t^{-1}

        on knots half a kernel's width apart (Miller, Trouve and Younes, "Geodesic shooting for
        computational anatomy", J. Math. Imaging Vis. 24 (2006)).

        Args:
            sigma: Width of the Gaussian kernel, mm.
            size: Largest speed at the start, mm per unit time; about the largest displacement.
        """
        import math

        import numpy as np
        from scipy.ndimage import spline_filter

        knot = sigma / 2
        knots = [math.ceil(length / knot) + 2 * _PAD + 1 for length in extent]
        momentum = _smoothed(rng.standard_normal((len(knots), *knots)), 1.0)  # what the knots can carry
        momentum *= size / knot / np.sqrt((_smoothed(momentum, sigma / knot) ** 2).sum(0)).max()
        back, _ = shoot_momentum(momentum, sigma / knot, steps=16)
        return cls(knot * np.stack([spline_filter(c, order=3, mode="mirror") for c in back]), float(knot))

    def times(self, factor: float) -> FreeForm:
        return FreeForm(self.coefficients * factor, self.knot)

    def displacement(self, points: np.ndarray) -> np.ndarray:
        """Return ``B(y) - y`` at any points."""
        import numpy as np
        from scipy.ndimage import map_coordinates

        where = points / self.knot + _PAD
        return np.stack(
            [map_coordinates(c, where, order=3, mode="nearest", prefilter=False) for c in self.coefficients]
        )

    def __call__(self, points: np.ndarray) -> np.ndarray:
        return points + self.displacement(points)

    def displacement_on_grid(self, axes: Sequence[np.ndarray]) -> np.ndarray:
        """Return ``B(y) - y`` on the product of ``axes`` (mm): one matrix an axis, much faster than points."""
        return self._tensor_product(axes, [_basis] * len(axes))

    def determinants(self, axes: Sequence[np.ndarray]) -> np.ndarray:
        """Return the Jacobian determinant of ``B`` on the product of ``axes``, by exact differentiation."""
        import numpy as np

        dim = len(axes)
        columns = []
        for j in range(dim):
            kinds = [_basis_slope if a == j else _basis for a in range(dim)]
            columns.append(self._tensor_product(axes, kinds) / self.knot)
        return determinant(np.stack(columns, axis=1))

    def inverse(self, points: np.ndarray) -> np.ndarray:
        """Return ``B^-1`` at any points, as good as :meth:`inverse_on_grid`."""
        import numpy as np
        from scipy.ndimage import map_coordinates, spline_filter

        flat = points.reshape(len(points), -1)
        ends = [np.array([low, high]) for low, high in zip(flat.min(1), flat.max(1), strict=True)]
        inverse, fine = self._inverse_on_lattice(ends)
        where = np.stack([(p - axis[0]) / (axis[1] - axis[0]) for p, axis in zip(points, fine, strict=True)])
        splines = [spline_filter(c, order=3, mode="mirror") for c in inverse]
        return points + np.stack([map_coordinates(c, where, mode="mirror", prefilter=False) for c in splines])

    def inverse_on_grid(self, axes: Sequence[np.ndarray]) -> np.ndarray:
        """Return ``B^-1(y) - y`` on the product of ``axes``, to better than 1e-3 mm at knots of 36 mm, 0.02 mm at 6."""
        inverse, fine = self._inverse_on_lattice(axes)
        return _interpolate(inverse, fine, axes)

    def _inverse_on_lattice(self, axes: Sequence[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return ``B^-1(y) - y`` on a lattice that covers ``axes``, and the lattice.

        Found by fixed-point iteration (which diverges where ``B`` stretches by more than 2; then by Newton's) on a
        lattice of a sixth of the knots, but 4 mm at least, and mended by one Newton step on one twice as fine; so smooth
        a field goes on from there by cubic B-splines.
        """
        import numpy as np

        step = max(self.knot / 6, 4.0)
        coarse = _lattice(axes, step)
        target = np.stack(np.meshgrid(*coarse, indexing="ij"))
        inverse = -self.displacement(target)
        size = np.inf
        for _ in range(60):
            last, inverse = inverse, -self.displacement(target + inverse)
            before, size = size, float(np.abs(inverse - last).max())
            if size < 1e-4 or size > before:
                break
        if size >= 1e-4:
            inverse = self._inverse_by_newton(target, step)
        fine = _lattice(axes, step / 2)
        inverse = _interpolate(inverse, coarse, fine)
        residual = -self.displacement(np.stack(np.meshgrid(*fine, indexing="ij")) + inverse) - inverse
        return inverse + _newton(inverse, residual, step / 2), fine

    def _inverse_by_newton(self, target: np.ndarray, step: float) -> np.ndarray:
        """Return ``B^-1(y) - y`` at the nodes of a lattice: a few halved fixed-point steps, then Newton's."""
        import numpy as np

        inverse = -self.displacement(target)
        for iteration in range(60):
            residual = -self.displacement(target + inverse) - inverse
            if np.abs(residual).max() < 1e-4:
                break
            change = residual / 2 if iteration < 6 else _newton(inverse, residual, step)
            inverse = inverse + change * np.minimum(1.0, step / np.maximum(np.sqrt((change**2).sum(0)), 1e-12))
        return inverse

    def _tensor_product(
        self, axes: Sequence[np.ndarray], kinds: Sequence[Callable[[np.ndarray, int], np.ndarray]]
    ) -> np.ndarray:
        sizes = self.coefficients.shape[1:]
        matrices = [kind(axis / self.knot + _PAD, n) for kind, axis, n in zip(kinds, axes, sizes, strict=True)]
        return _along_axes(self.coefficients, matrices)


@dataclass(frozen=True, eq=False)
class Lobed:
    """The form of a lesion: its radius in each direction, ``mean * (1 + unevenness * f(n))`` with ``|f| <= 1``.

    Attributes:
        mean: mm.
        unevenness: In [0, 1); 0 is a ball.
        axes: ``(count, dim)``: unit vectors round which the lobes lie.
        weights: ``(count, 2)``: of the lobes of second and of third order.
    """

    mean: float
    unevenness: float
    axes: np.ndarray
    weights: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator, dim: int, mean: float, unevenness: float) -> Lobed:
        import numpy as np

        axes = rng.normal(size=(4, dim))
        axes /= np.linalg.norm(axes, axis=1, keepdims=True)
        weights = rng.uniform(-1.0, 1.0, (4, 2))
        around = rng.normal(size=(dim, 4096))
        around /= np.linalg.norm(around, axis=0)
        form = cls(1.0, 1.0, axes, weights)
        return cls(float(mean), unevenness, axes, weights / np.abs(form(around) - 1).max())

    @property
    def largest(self) -> float:
        """An upper bound of the radius, mm (between the directions tried, ``|f|`` may pass 1 by a little)."""
        return self.mean * (1 + 1.1 * self.unevenness)

    def __call__(self, directions: np.ndarray) -> np.ndarray:
        """Return the radii ``(n,)`` in mm for unit vectors ``(dim, n)``."""
        along = self.axes @ directions
        lobes = self.weights[:, 0] @ (along**2 - 0.5) + self.weights[:, 1] @ (along**3)
        return self.mean * (1 + self.unevenness * lobes)


@dataclass(frozen=True, eq=False)
class RadialGrowth:
    r"""A lesion that grows (or collapses) along the rays from its center.

    A point at distance ``r`` in direction ``n`` goes to distance ``s(n) F(r / s(n))`` on the same ray, where
    ``s(n)`` is the lesion's radius in the fixed image, and ``F(1) = ratio``. In the volume coordinate
    ``q = (r/s)^dim`` the law is

    .. math:: F^{dim} = q + a\, \delta(q)\, e^{-(q^{1/dim} / \Lambda)^4}, \qquad
              \delta'(q) = \big(1 + e^{(q-1)/w}\big)^{-1}

    so inside the lesion volume is multiplied by about ``1 + a``, at the border that ends within ``w``, tissue
    outside keeps its volume and is pushed out (drawn in), and far away, from ``Lambda`` on, nothing moves. The
    Jacobian determinant is ``d F^dim / dq``, whatever the form ``s``.

    Attributes:
        center: ``(dim,)``, mm.
        radius: ``s``, mm.
        ratio: Radius in the moving over radius in the fixed image: above 1 growth, below 1 collapse.
        softness: ``w``.
        reach: ``Lambda``, in radii of the lesion.
    """

    center: np.ndarray
    radius: Lobed
    ratio: float
    softness: float
    reach: float

    @property
    def dim(self) -> int:
        return len(self.center)

    @property
    def limit(self) -> float:
        """Relative distance ``r / s`` beyond which nothing moves (by more than 1e-5 mm)."""
        return 1.8 * self.reach

    def polar(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return direction ``n``, distance ``r`` and lesion radius ``s(n)`` of the points ``(dim, n)``."""
        import numpy as np

        offset = points - self.center[:, None]
        r = np.sqrt((offset**2).sum(0))
        n = offset / np.maximum(r, 1e-12)
        return n, r, self.radius(n)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        return self._carry(points, self.stretch)

    def inverse(self, points: np.ndarray) -> np.ndarray:
        return self._carry(points, self.unstretch)

    def stretch(self, rho: np.ndarray) -> np.ndarray:
        """Return ``F(rho)``."""
        import numpy as np

        q = rho**self.dim
        return np.maximum(q + self._surplus(q)[0], 0.0) ** (1 / self.dim)

    def unstretch(self, relative: np.ndarray) -> np.ndarray:
        """Return ``rho`` with ``F(rho) = relative``: by table, then by Newton in the volume coordinate."""
        import numpy as np

        table = np.linspace(0.0, self.limit * 1.05, 4096)
        q_max = table[-1] ** self.dim
        target = relative**self.dim
        q = np.interp(relative, self.stretch(table), table) ** self.dim
        for _ in range(4):
            surplus, slope = self._surplus(q)
            q = np.clip(q - (q + surplus - target) / (1 + slope), 0.0, q_max)
        return np.where(relative < self.limit, q ** (1 / self.dim), relative)

    def determinant(self, rho: np.ndarray) -> np.ndarray:
        """Return the Jacobian determinant at the relative distance ``rho``."""
        return 1 + self._surplus(rho**self.dim)[1]

    def _surplus(self, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return ``F^dim - q`` and its derivative in ``q``."""
        import numpy as np

        border, fade = self._profile(q)
        one = self._profile(np.ones(1))
        gain = (self.ratio**self.dim - 1) / float(one[0][0] * one[1][0])
        slope = 1 / (1 + np.exp(np.clip((q - 1) / self.softness, -60, 60)))
        power = 4 / self.dim
        fall = -power * np.maximum(q, 1e-12) ** (power - 1) / self.reach**4 * fade
        return gain * border * fade, gain * (slope * fade + border * fall)

    def _profile(self, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        import numpy as np

        w = self.softness
        border = q - w * (np.logaddexp(0.0, (q - 1) / w) - np.logaddexp(0.0, -1 / w))
        return border, np.exp(-(q ** (4 / self.dim)) / self.reach**4)

    def _carry(self, points: np.ndarray, law: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        import numpy as np

        flat = points.reshape(self.dim, -1)
        r = np.sqrt(((flat - self.center[:, None]) ** 2).sum(0))
        near = np.flatnonzero(r < self.limit * self.radius.largest)
        n, r, s = self.polar(flat[:, near])
        rho = r / s
        moved = np.where(rho < self.limit, law(rho), rho)
        result = flat.copy()
        result[:, near] = self.center[:, None] + n * (moved * s)
        return result.reshape(points.shape)


def shoot_momentum(momentum: np.ndarray, sigma: float, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Shoot a momentum ``(dim, *space)`` on a periodic lattice; lengths in its spacings.

    Returns:
        The displacement of ``phi_1^-1``, and the momentum at time 1.
    """
    import numpy as np
    from scipy.ndimage import map_coordinates, spline_filter

    dim = len(momentum)
    grid = np.indices(momentum.shape[1:], dtype=np.float64)
    back, carried = np.zeros_like(momentum), momentum
    for _ in range(steps):
        step = -_smoothed(carried, sigma) / steps
        splines = [spline_filter(c, mode="grid-wrap") for c in back]
        there = [map_coordinates(c, grid + step, mode="grid-wrap", prefilter=False) for c in splines]
        back = step + np.stack(there)
        slopes = np.stack([np.stack([_wrapped_slope(c, axis) for axis in range(dim)]) for c in back])
        moved = np.stack([map_coordinates(c, grid + back, order=3, mode="grid-wrap") for c in momentum])
        turned = moved + np.einsum("ij...,i...->j...", slopes, moved)
        carried = determinant(slopes) * turned
    return back, carried


def _newton(inverse: np.ndarray, residual: np.ndarray, step: float) -> np.ndarray:
    """Return the Newton step, the Jacobian of the true inverse taken to be that of the one there is."""
    import numpy as np

    slopes = np.stack([np.stack(np.gradient(c, step)) for c in inverse])
    change: np.ndarray = residual + (slopes * residual).sum(1)
    return change


def _smoothed(field: np.ndarray, sigma: float) -> np.ndarray:
    import numpy as np
    from scipy.ndimage import gaussian_filter

    return np.stack([gaussian_filter(c, sigma, mode="wrap") for c in field])


def _wrapped_slope(field: np.ndarray, axis: int) -> np.ndarray:
    """Return the derivative along an axis of a periodic field, to fourth order."""
    import numpy as np

    near, far = (np.roll(field, -k, axis) - np.roll(field, k, axis) for k in (1, 2))
    slope: np.ndarray = (8 * near - far) / 12
    return slope


def determinant(slopes: np.ndarray) -> np.ndarray:
    """Return ``det(1 + slopes)`` of matrices ``(dim, dim, *space)``, written out: LAPACK is ten times slower."""
    import numpy as np

    m = slopes + np.eye(len(slopes)).reshape(slopes.shape[:2] + (1,) * (slopes.ndim - 2))
    if len(m) == 2:
        return m[0, 0] * m[1, 1] - m[0, 1] * m[1, 0]
    return sum(m[0, a] * (m[1, b] * m[2, c] - m[1, c] * m[2, b]) for a, b, c in ((0, 1, 2), (1, 2, 0), (2, 0, 1)))


def _basis(where: np.ndarray, count: int) -> np.ndarray:
    """Return the cubic B-splines of ``count`` unit knots at ``where``, ``(len(where), count)``."""
    import numpy as np

    t = np.abs(where[:, None] - np.arange(count))
    return np.where(t < 1, 2 / 3 - t**2 + t**3 / 2, np.where(t < 2, (2 - t) ** 3 / 6, 0.0))


def _basis_slope(where: np.ndarray, count: int) -> np.ndarray:
    import numpy as np

    signed = where[:, None] - np.arange(count)
    t = np.abs(signed)
    slope = np.where(t < 1, -2 * t + 1.5 * t**2, np.where(t < 2, -((2 - t) ** 2) / 2, 0.0))
    return np.sign(signed) * slope


def _lattice(axes: Sequence[np.ndarray], step: float) -> list[np.ndarray]:
    """Cover the box of ``axes`` and 6 cells around it, so that what a spline assumes at its border is not felt."""
    import numpy as np

    return [axis[0] + step * np.arange(-6, int((axis[-1] - axis[0]) / step) + 8) for axis in axes]


def _interpolate(field: np.ndarray, old: Sequence[np.ndarray], new: Sequence[np.ndarray]) -> np.ndarray:
    """Carry ``(C, *space)`` from one regular lattice to another, by cubic B-splines."""
    import numpy as np
    from scipy.ndimage import spline_filter

    splines = np.stack([spline_filter(component, order=3, mode="mirror") for component in field])
    matrices = [_basis((n - o[0]) / (o[1] - o[0]), len(o)) for n, o in zip(new, old, strict=True)]
    return _along_axes(splines, matrices)


def _along_axes(field: np.ndarray, matrices: Sequence[np.ndarray]) -> np.ndarray:
    """Apply one matrix ``(out, in)`` along each axis of ``(C, *space)``."""
    import numpy as np

    for axis, matrix in enumerate(matrices, start=1):
        field = np.moveaxis(np.tensordot(field, matrix, axes=(axis, 1)), -1, axis)
    return np.ascontiguousarray(field)
