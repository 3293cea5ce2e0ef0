"""Sampling at points, warping by a displacement, composition, inversion, the exponential of a velocity.

    image    (B, C, *space)
    points   (B, dim, *out)   voxel coordinates of ``image``'s grid, axis order i, j, k
    u        (B, dim, *space) displacement in voxels: the map is ``x -> x + u(x)``

``padding`` says what lies outside: ``border`` repeats the last voxel (images), ``zeros`` is background,
``periodic`` wraps around (fields on their padded box). Interpolation is linear unless asked otherwise; ``cubic``
is the interpolating cubic B-spline with its prefilter.
"""

from __future__ import annotations

import itertools
import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mmtk.fields.differences import jacobian, jacobian_determinant
from mmtk.fields.grid import identity
from mmtk.fields.splines import cubic_weights, prefilter

__all__ = [
    "Mode",
    "Padding",
    "compose",
    "exponential",
    "folds",
    "invert",
    "sample",
    "sample_units",
    "squarings_needed",
    "warp",
]

Mode = Literal["linear", "nearest", "cubic"]
Padding = Literal["border", "zeros", "periodic"]


def sample(image: Tensor, points: Tensor, mode: Mode = "linear", padding: Padding = "border") -> Tensor:
    """Return the image's values at points given in its own voxel coordinates.

    Args:
        image: ``(B, C, *space)``, dim 2 or 3.
        points: ``(B, dim, *out)`` voxel coordinates, ``out`` of any shape with dim axes.
        mode: ``linear``, ``nearest`` or ``cubic`` (interpolating cubic B-spline).
        padding: what lies outside the image.

    Returns:
        ``(B, C, *out)``.
    """
    if mode == "cubic":
        return _sample_cubic(image, points, padding)
    dim = image.ndim - 2
    if padding == "periodic":
        image, points = _wrap(image, points)
    # Coordinates in [-1, 1] run from the first voxel center to the last: align_corners. grid_sample wants
    # the last axis first. An axis of one voxel has no extent; every point on it is that voxel.
    grid = torch.stack(
        [points[:, a] * (2 / max(image.shape[a + 2] - 1, 1)) - 1 for a in reversed(range(dim))], dim=-1
    )
    return sample_units(image, grid, mode, padding)


def sample_units(image: Tensor, grid: Tensor, mode: Mode = "linear", padding: Padding = "border") -> Tensor:
    """Sample at points in [-1, 1], last axis first, as ``grid_sample`` counts them (corners aligned).

    On the CPU a volume is sampled by one thread for each element of the batch, so one image has one thread. Its points
    are therefore dealt out to as many copies of the image (views, no memory) as there are threads.

    Args:
        image: ``(B, C, *space)``.
        grid: ``(B, *out, dim)``.
        mode: ``linear`` or ``nearest``.
        padding: ``border`` or ``zeros``.

    Returns:
        ``(B, C, *out)``; NaN where a coordinate of a pixel is.
    """
    kind = "nearest" if mode == "nearest" else "bilinear"
    edge = "zeros" if padding == "zeros" else "border"
    parts = torch.get_num_threads()
    count = grid.shape[1]
    if image.ndim == 4 and not image.is_cuda and bool(torch.isnan(grid).any()):
        # The backward pass of this case writes where no memory is, and takes the process with it.
        lost = torch.isnan(grid).any(-1)[:, None]
        sampled = F.grid_sample(image, grid.nan_to_num(0.0), mode=kind, padding_mode=edge, align_corners=True)
        return sampled.masked_fill(lost, torch.nan)
    if image.ndim == 4 or image.is_cuda or image.shape[0] > 1 or parts == 1 or count < 2 * parts:
        return F.grid_sample(image, grid, mode=kind, padding_mode=edge, align_corners=True)
    rows = -(-count // parts)
    if rows * parts > count:
        grid = torch.cat([grid, grid[:, -1:].expand(-1, rows * parts - count, -1, -1, -1)], dim=1)
    copies = image.expand(parts, -1, -1, -1, -1)
    grid = grid.reshape(parts, rows, *grid.shape[2:])
    sampled = F.grid_sample(copies, grid, mode=kind, padding_mode=edge, align_corners=True)
    return sampled.transpose(0, 1).reshape(1, image.shape[1], rows * parts, *grid.shape[2:4])[:, :, :count]


def _wrap(image: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Repeat the first plane of each axis behind the last and bring every point into the first period."""
    for axis in range(2, image.ndim):
        image = torch.cat([image, image.narrow(axis, 0, 1)], dim=axis)
    periods = torch.tensor([n - 1 for n in image.shape[2:]], dtype=points.dtype, device=points.device)
    periods = periods.view(1, -1, *[1] * (points.ndim - 2))
    return image, points - periods * torch.floor(points.detach() / periods)


def _sample_cubic(image: Tensor, points: Tensor, padding: Padding) -> Tensor:
    """Sum the 4^dim coefficients around each point. Slow and exact: for tests, references and final images."""
    shape = image.shape[2:]
    dim = len(shape)
    coefficients = prefilter(image, periodic=padding == "periodic")
    base = torch.floor(points.detach())
    weights = [cubic_weights(points[:, a] - base[:, a]) for a in range(dim)]
    result: Tensor | None = None
    flat = coefficients.flatten(2)
    for offsets in itertools.product(range(4), repeat=dim):
        index = torch.zeros_like(base[:, 0], dtype=torch.long)
        weight = torch.ones_like(base[:, 0])
        for a, offset in enumerate(offsets):
            n = shape[a]
            position = base[:, a].long() + (offset - 1)
            position = position % n if padding == "periodic" else _mirror(position, n)
            index = index * n + position
            weight = weight * weights[a][offset]
        taken = flat.gather(2, index.flatten(1)[:, None].expand(-1, flat.shape[1], -1))
        term = taken.view(*taken.shape[:2], *index.shape[1:]) * weight[:, None]
        result = term if result is None else result + term
    assert result is not None
    if padding == "zeros":
        inside = torch.ones_like(points[:, :1], dtype=torch.bool)
        for a, n in enumerate(shape):
            inside &= ((points[:, a] >= -0.5) & (points[:, a] <= n - 0.5))[:, None]
        result = result * inside
    return result


def _mirror(position: Tensor, n: int) -> Tensor:
    """Reflect indices about the first and the last voxel center, the extension that the prefilter assumes."""
    if n == 1:
        return torch.zeros_like(position)
    period = 2 * (n - 1)
    position = position.abs() % period
    return torch.where(position >= n, period - position, position)


def warp(image: Tensor, u: Tensor, mode: Mode = "linear", padding: Padding = "border") -> Tensor:
    """Return ``image(x + u(x))``: the image, pulled back through the displacement.

    Args:
        image: ``(B, C, *space)``.
        u: ``(B, dim, *space)``, voxels.

    Returns:
        ``(B, C, *space)`` of ``u``'s space.
    """
    return sample(image, identity(tuple(u.shape[2:]), dtype=u.dtype, device=u.device) + u, mode, padding)


def compose(outer: Tensor, inner: Tensor, mode: Mode = "linear", padding: Padding = "border") -> Tensor:
    """Return the displacement of ``x -> (id + outer)((id + inner)(x))``: first ``inner``, then ``outer``.

    Args:
        outer, inner: ``(B, dim, *space)`` on one grid, voxels.
    """
    return inner + warp(outer, inner, mode, padding)


def squarings_needed(v: Tensor, bound: float = 0.5) -> int:
    """Return the least N with ``max |Dv| / 2^N < bound``: below 1/2, scaling and squaring cannot fold.

    Args:
        v: ``(B, dim, *space)``, voxels per unit time. ``|Dv|`` is the largest row sum of the Jacobian of v.
    """
    steepest = float(
        torch.stack([torch.roll(v, -1, axis) - v for axis in range(2, v.ndim)], dim=2).abs().sum(2).amax()
    )
    return max(0, math.floor(math.log2(max(steepest / bound, 1e-12))) + 1) if math.isfinite(steepest) else 0


def exponential(v: Tensor, squarings: int, mode: Mode = "linear", padding: Padding = "border") -> Tensor:
    """Return the displacement of the flow of a stationary velocity at time 1, by scaling and squaring.

    Args:
        v: ``(B, dim, *space)``, voxels per unit time.
        squarings: The flow is composed ``2 ** squarings`` times from its first small step.
    """
    u = v / 2**squarings
    for _ in range(squarings):
        u = compose(u, u, mode, padding)
    return u


def invert(
    u: Tensor,
    start: Tensor | None = None,
    *,
    iterations: int = 30,
    tolerance: float = 1e-3,
    padding: Padding = "border",
) -> Tensor:
    """Return the displacement ``w`` of the inverse map: ``(id + u)((id + w)(x)) = x``.

    Fixed-point steps first; where they have not settled (strong compression), damped Newton steps at those
    points alone.

    Args:
        u: ``(1, dim, *space)``, voxels, without folds.
        start: A first guess of the same shape, such as the flow of the negative velocity.
        iterations: At most so many steps of either kind.
        tolerance: Largest residual in voxels that is left alone.

    Returns:
        ``(1, dim, *space)``, voxels.
    """
    w = -u if start is None else start
    last = math.inf
    for _ in range(iterations):
        residual = w + warp(u, w, padding=padding)
        worst = float(residual.abs().amax())
        if worst <= tolerance:
            return w
        if worst > 0.7 * last:
            break
        w, last = w - residual, worst
    return _newton(u, w, iterations, tolerance, padding)


def _newton(u: Tensor, w: Tensor, iterations: int, tolerance: float, padding: Padding) -> Tensor:
    shape = tuple(u.shape[2:])
    dim = len(shape)
    residual = (w + warp(u, w, padding=padding)).flatten(2)[0]
    open_points = (residual.abs().amax(0) > tolerance).nonzero().flatten()
    if not len(open_points):
        return w
    derivative = jacobian(u).flatten(1, 2)
    x = identity(shape, dtype=u.dtype, device=u.device).flatten(2)[0, :, open_points]
    w = w.clone()
    here = w.flatten(2)[0, :, open_points]

    def at(field: Tensor, points: Tensor) -> Tensor:
        view = points.view(1, dim, -1, *[1] * (dim - 1))
        return sample(field, view, padding=padding).flatten(2)[0]

    def misfit(step: Tensor) -> Tensor:
        return step + at(u, x + step)

    error = misfit(here)
    size = error.abs().amax(0)
    for _ in range(iterations):
        if float(size.amax()) <= tolerance:
            break
        matrix = at(derivative, x + here).view(dim, dim, -1).permute(2, 0, 1)
        step = torch.linalg.lstsq(matrix, error.t()[..., None]).solution[..., 0].t()
        step = step.clamp(-2, 2)
        damping = torch.ones_like(size)
        for _ in range(4):
            trial = here - damping * step
            trial_error = misfit(trial)
            worse = trial_error.abs().amax(0) > size
            if not bool(worse.any()):
                break
            damping = torch.where(worse, damping / 2, damping)
        better = trial_error.abs().amax(0) < size
        here = torch.where(better, trial, here)
        error = torch.where(better, trial_error, error)
        size = error.abs().amax(0)
        if not bool(better.any()):
            break
    w.flatten(2)[0, :, open_points] = here
    return w


def folds(u: Tensor) -> int:
    """Return the number of voxels where ``x -> x + u(x)`` folds (Jacobian determinant at or below 0, or NaN)."""
    return int((~(jacobian_determinant(u) > 0)).sum())
