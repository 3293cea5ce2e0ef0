"""How well the fixed image explains the moved one, with the normal equations of Gauss and Newton.

The moved image is regressed on features of the fixed one, and the cost is the share of its variance that stays
unexplained, ``1 - R^2``. With the image itself as the only feature it is one minus the squared correlation; with
a bent line through its intensities, a correlation ratio, which compares T2 with T1. The coefficients are eliminated
from the cost and from its derivatives (variable projection), so a step of the motion knows how they will follow.

    matrix     (d + 1, d + 1)     mm -> mm, fixed -> moving
    weights    (N,)               of the fixed samples, times that of the moving image where each lands
    columns    (N, K)             1, the image, its bends, further features
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from mmtk.align.lattice import EMPTY, Lattice, moved
from mmtk.align.motion import Motion

__all__ = ["Likeness", "Slope"]


@dataclass(frozen=True, eq=False)
class Slope:
    """The cost, and how it changes with a motion's parameters.

    Attributes:
        cost: In [0, 1].
        gradient: ``(p,)``, half the derivative of the cost.
        hessian: ``(p, p)``, half its Gauss-Newton approximation.
    """

    cost: float
    gradient: np.ndarray
    hessian: np.ndarray


class Likeness:
    """A moving image and what may explain it, at samples of the fixed one.

    Args:
        fixed: The fixed image.
        features: Images on the same lattice.
        moving: What is to be explained.
        step: Distance of the samples, mm.
        bends: At how many quantiles the line through the fixed intensities may bend.
    """

    def __init__(
        self, fixed: Lattice, features: Sequence[Lattice], moving: Lattice, step: float, bends: int = 0
    ) -> None:
        self._dim, self.step = moving.dim, step
        self.points, self.volume = fixed.spots(step)
        # The fixed image is interpolated just as the moving one will be: of two equal images at their true place the
        # cost is zero, and lowest.
        still = np.eye(moving.dim + 1)
        values, weights, _ = zip(
            *(_Sampler(image).at(self.points, still, slope=False) for image in (fixed, *features)), strict=True
        )
        chosen = weights[0] > 0.5
        self.points, self.weight = self.points[chosen], weights[0][chosen]
        self.known = _columns([value[chosen] for value in values], self.weight, bends)
        self._moving = _Sampler(moving)
        self.moving_mass = float(moving.weight.sum()) * float(np.prod(moving.spacing))

    def cost(self, matrix: np.ndarray) -> float:
        """``1 - R^2`` in [0, 1]; 1 where the images do not meet."""
        moved_image, weight, _ = self._sample(matrix, slope=False)
        gram = _gram(self._with(moved_image), weight)
        return self._explained(gram)[0]

    def overlap(self, matrix: np.ndarray) -> float:
        """Share of the smaller of the two weighted regions that lies in the other."""
        _, weight, _ = self._sample(matrix, slope=False)
        scale = abs(np.linalg.det(matrix))
        smaller = min(float(self.weight.sum()) * self.volume, self.moving_mass / scale)
        return min(1.0, float(weight.sum()) * self.volume / max(smaller, 1e-12))

    def mismatch(self, matrix: np.ndarray) -> float:
        """The cost by which placements are chosen: ``1 - R^2 sqrt(overlap)``; hiding one image does not pay."""
        return 1.0 - (1.0 - self.cost(matrix)) * self.overlap(matrix) ** 0.5

    def slope(self, matrix: np.ndarray, motion: Motion) -> Slope:
        """Cost and derivatives at ``matrix``, for steps of ``motion`` that come before it."""
        moved_image, weight, gradient = self._sample(matrix, slope=True)
        generators = torch.as_tensor(motion.generators, dtype=moved_image.dtype, device=moved_image.device)
        place = moved(self.points, motion.to_unit())
        place = torch.cat([place, torch.ones_like(place[:, :1])], 1)
        moments = (gradient[:, :, None] * place[:, None, :]).reshape(len(place), -1)
        change = moments @ (motion.radius * generators.reshape(len(generators), -1).T)
        gram = _gram(torch.cat([self._with(moved_image), change], 1), weight)
        cost, left, total = self._explained(gram)
        n = self.known.shape[1]
        step = (left[0, 1:] - cost * gram[n, n + 1 :]) / total
        return Slope(cost, step, left[1:, 1:] / total)

    def _explained(self, gram: np.ndarray) -> tuple[float, np.ndarray, float]:
        """The cost, what the regression leaves of the moved image and its derivatives, and the total variance."""
        n = self.known.shape[1]
        total = gram[n, n]
        if gram[0, 0] <= 0 or total <= 1e-9 * gram[0, 0]:
            return 1.0, np.zeros_like(gram[n:, n:]), 1.0
        # A feature that is flat where the images meet explains nothing; the ridge is below the rounding of the others.
        known = gram[:n, :n] + 1e-6 * np.diag(np.diag(gram[:n, :n]) + gram[0, 0] * 1e-6)
        left = gram[n:, n:] - gram[n:, :n] @ np.linalg.solve(known, gram[:n, n:])
        return float(np.clip(left[0, 0] / total, 0.0, 1.0)), left, total

    def _with(self, moved_image: Tensor) -> Tensor:
        return torch.cat([self.known, moved_image[:, None]], 1)

    def _sample(self, matrix: np.ndarray, *, slope: bool) -> tuple[Tensor, Tensor, Tensor]:
        """The moving image at the fixed samples, their common weights, and its gradient in the fixed image's mm."""
        image, weight, gradient = self._moving.at(self.points, matrix, slope=slope)
        weight = self.weight * weight
        return _standardized(image, weight), weight, gradient


class _Sampler:
    """Linear interpolation of a lattice, a quotient of mass and weight."""

    def __init__(self, image: Lattice) -> None:
        self.to_index = np.linalg.inv(image.affine)
        self.fields = torch.stack([image.mass, image.weight])[None]
        extent = torch.tensor(image.shape, dtype=image.mass.dtype, device=image.mass.device) - 1
        self.unit = 2.0 / extent.clamp_min(1)

    def at(self, points: Tensor, matrix: np.ndarray, *, slope: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Value, weight and the value's gradient, ``(N,)``, ``(N,)``, ``(N, d)``, at ``matrix @ points``."""
        dim = points.shape[1]
        place = self.to_index @ matrix
        where = (moved(points, place) * self.unit - 1).flip(-1).view(1, -1, *[1] * (dim - 1), dim)
        with torch.enable_grad():
            where.requires_grad_(slope)
            both = grid_sample(self.fields, where, padding_mode="zeros", align_corners=True)
            mass, weight = both.reshape(2, -1)
            image = torch.where(weight > EMPTY, mass / weight.clamp_min(EMPTY), 0.0)
            gradient = torch.autograd.grad(image.sum(), where)[0] if slope else torch.zeros_like(where)
        linear = torch.as_tensor(place[:dim, :dim]).to(points)
        return image.detach(), weight.detach(), (gradient.view(-1, dim).flip(-1) * self.unit) @ linear


def _columns(values: Sequence[Tensor], weight: Tensor, bends: int) -> Tensor:
    image = values[0]
    columns = [image, *values[1:]]
    if bends and len(image):
        ordered = image.sort().values
        knots = ordered[((torch.arange(bends) + 1) * (len(ordered) - 1)) // (bends + 1)]
        columns += [(image - knot).clamp_min(0) for knot in knots]
    return torch.stack([torch.ones_like(weight), *(_standardized(column, weight) for column in columns)], 1)


def _standardized(values: Tensor, weight: Tensor) -> Tensor:
    """Less its weighted mean: the sums of squares that follow then cancel in no digit that counts."""
    return values - (values * weight).sum() / weight.sum().clamp_min(1e-12)


def _gram(columns: Tensor, weight: Tensor) -> np.ndarray:
    """``(k, k)`` weighted products of the columns 1, fixed, moved, and its derivatives."""
    return (columns.T @ (columns * weight[:, None])).double().cpu().numpy()
