r"""LCC-demons: a stationary velocity climbs the symmetric local correlation, smoothed like a fluid and like rubber.

With the images seen from half-way, :math:`a = M \circ \exp(v/2)` and :math:`b = F \circ \exp(-v/2)`, the energy is

.. math:: E(v) = \overline{1 - \rho^2(a, b)}

with :math:`\rho` the correlation in windows. A step is of Gauss-Newton's kind, of limited length, and is smoothed:

.. math::
    h        &= \tfrac{1}{4} (\partial_a E \, \nabla a - \partial_b E \, \nabla b) \qquad
    J         = \tfrac{1}{2} (\nabla a / s_a + \nabla b / s_b) \\
    \delta   &= -h \, / \, (|J|^2 + |h|^2 / (|J|^2 \tau^2)) \\
    v        &\leftarrow G_{elastic} \star (v + G_{fluid} \star \delta)

where :math:`s` are standard deviations in windows and no step is longer than :math:`\tau / 2`. Local correlation acts
like squared differences of images that are normalized in windows, and of these this is the demons' step. Velocities are
added, without the brackets of the Baker-Campbell-Hausdorff series.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmtk.fields import Gaussian, Grid, Smoother, exponential, folds, identity, sample, squarings_needed, warp
from mmtk.method import Method, Pair, Progress, silent
from mmtk.optimize import Axis, level_axes, smooth_and_sample
from mmtk.result import LevelReport, Outcome, Registration
from mmtk.similarity import LocalCorrelation
from mmtk.similarity.windows import gather

__all__ = ["LCCDemons"]

_Report = Callable[[int, float], None]
_Smoothing = Callable[[Tensor], Tensor]

#: Added to variances, as the similarity does: squared intensity.
EPS = 1e-3
#: Weight of what the lesion covers in averages of the fixed image: as good as none, unless it covers all of them.
FAINT = 1e-4
#: A level ends once so many iterations lowered the energy by less than this share of it.
PATIENCE, TOLERANCE = 5, 1e-3


class LCCDemons(Method):
    """Symmetric log-domain demons on the local correlation coefficient.

    Args:
        radius: Half width of the windows, in samples of a level.
        fluid: Width of the Gaussian that smooths a step, in sample distances of a level; 0: none.
        elastic: Width of the one that smooths the velocity after it, likewise.
        step: Twice the longest step, in sample distances of a level.
        levels: Sample distance of each level in mm, coarse to fine; where voxels are larger, theirs.
        iterations: At most, on each level.
        squarings: The flow is composed of ``2 ** squarings`` steps at least.
        masked: Leave the lesion out of the comparison; on the fixed image it always is. None: wherever there is one.

    References:
        M. Lorenzi, N. Ayache, G. B. Frisoni, X. Pennec, "LCC-Demons: a robust and accurate symmetric diffeomorphic
        registration algorithm", NeuroImage 81 (2013) 470-483: the idea; the step here is our own.
        The criterion as a baseline has it: J. Krebs, T. Mansi, B. Mailhé, N. Ayache, H. Delingette, "Unsupervised
        probabilistic deformation modeling for robust diffeomorphic registration", DLMIA 2018, eq. 2.
    """

    def __init__(
        self,
        *,
        radius: int = 2,
        fluid: float = 1.0,
        elastic: float = 1.0,
        step: float = 1.0,
        levels: Sequence[float] = (8.0, 4.0, 2.0),
        iterations: Sequence[int] = (30, 20, 10),
        squarings: int = 3,
        masked: bool | None = None,
    ) -> None:
        super().__init__()
        self.radius, self.fluid, self.elastic, self.step = radius, fluid, elastic, step
        self.levels, self.iterations = tuple(levels), tuple(iterations)
        self.squarings, self.masked = squarings, masked is not False

    def register(self, pair: Pair, progress: Progress = silent) -> Registration:
        velocity: Tensor | None = None
        axes: tuple[Axis, ...] = ()
        reports = []
        for index, (size, count) in enumerate(zip(self.levels, self.iterations, strict=True)):
            level = _Level.of(pair, size, self, self._hidden(pair, velocity, axes))
            shape = level.grid.shape
            start = torch.zeros_like(level.fixed[:, :1]).repeat(1, len(shape), *[1] * len(shape))
            if velocity is not None:
                start = _carried(velocity, axes, level.axes)
            begin = time.perf_counter()

            def report(i: int, energy: float, index: int = index, count: int = count) -> None:
                progress(index, len(self.levels), i, count, energy)

            velocity, energies, outcome = level.descend(start, count, report)
            axes = level.axes
            seconds = time.perf_counter() - begin
            reports.append(LevelReport(size, tuple(energies), len(energies), seconds, outcome))
            if not outcome.ok:
                break
        assert velocity is not None
        with torch.no_grad():
            whole = _carried(velocity, axes, tuple(Axis(0, 1, n) for n in pair.grid.shape))
            whole, there, back, kept = self._unfolded(whole)
        notes = []
        if kept < 1:
            notes.append(f"the map would have folded: its velocity was shortened to {kept:.0%}; raise `elastic`")
        if pair.mask is not None and not self.masked:
            notes.append("the lesion was compared like all else: the mask is not used without masked=true")
        return Registration(pair.grid, there, back, None, {"velocity": whole}, tuple(reports), tuple(notes))

    def _hidden(self, pair: Pair, velocity: Tensor | None, axes: Sequence[Axis]) -> Tensor | None:
        """Return the lesion's mask as the velocity so far carries it, ``(1, 1, *space)``; None if it counts."""
        if pair.mask is None or not self.masked:
            return None
        if velocity is None:
            return pair.mask
        with torch.no_grad():
            whole = _carried(velocity, axes, tuple(Axis(0, 1, n) for n in pair.grid.shape))
            return warp(pair.mask, exponential(whole, max(self.squarings, squarings_needed(whole))))

    def _unfolded(self, velocity: Tensor) -> tuple[Tensor, Tensor, Tensor, float]:
        """Return the velocity, its two maps and the share of it that is left: the longest that folds nowhere.

        The flow itself never folds, but what is interpolated of it may.
        """
        kept = 1.0
        while True:
            whole = velocity * kept
            squarings = max(self.squarings, squarings_needed(whole))
            there, back = exponential(whole, squarings), exponential(-whole, squarings)
            if kept < 1e-3 or not (folds(there) or folds(back)):
                return whole, there, back, kept
            kept *= 0.9


@dataclass(frozen=True, eq=False)
class _Level:
    """Both images on one lattice.

    Attributes:
        axes: Where its samples lie among the voxels of the full grid.
        grid: The lattice.
        moving, fixed: ``(1, C, *lattice)``, 0 where their weight is.
        moving_weight, fixed_weight: ``(1, 1, *lattice)``.
        size: mm between samples that count: steps and Gaussians are told in it.
        method: The settings.
    """

    axes: tuple[Axis, ...]
    grid: Grid
    moving: Tensor
    fixed: Tensor
    moving_weight: Tensor
    fixed_weight: Tensor
    size: float
    method: LCCDemons

    @classmethod
    def of(cls, pair: Pair, size: float, method: LCCDemons, hidden: Tensor | None = None) -> _Level:
        """Sample a pair; ``hidden`` is left out of averages of the fixed image, as its twin is of the moving one."""
        level = level_axes(pair.grid, [slice(0, n) for n in pair.grid.shape], size)
        inside = torch.ones_like(pair.fixed[:, :1]) if pair.inside is None else pair.inside
        weights = pair.moving_weight if method.masked else inside, pair.fixed_weight
        thin = [smooth_and_sample(weight, level.coarse, level.sigma) for weight in weights]
        beside = weights[1] if hidden is None else weights[1] * (1 - hidden).clamp_min(FAINT)
        images = [
            smooth_and_sample(image, level.coarse, level.sigma, weight) * share
            for image, weight, share in zip((pair.moving, pair.fixed), (weights[0], beside), thin, strict=True)
        ]
        size = max(size, *level.grid.spacing)
        return cls(level.coarse, level.grid, images[0], images[1], thin[0], thin[1], size, method)

    def descend(self, velocity: Tensor, count: int, report: _Report) -> tuple[Tensor, list[float], Outcome]:
        """Return the best velocity, the lowest energy so far after each iteration, and why it ended."""
        smooth_step, smooth_all = self._smoother(self.method.fluid), self._smoother(self.method.elastic)
        energy, step = self._energy_and_step(velocity)
        best, energies = velocity, [energy]
        for i in range(count):
            if not torch.isfinite(step).all():
                return best, energies, Outcome.NONFINITE
            velocity = smooth_all(velocity + smooth_step(step))
            energy, step = self._energy_and_step(velocity)
            if energy < energies[-1]:
                best = velocity
            energies.append(min(energy, energies[-1]))
            report(i, energies[-1])
            if len(energies) > PATIENCE and energies[-1 - PATIENCE] - energies[-1] <= TOLERANCE * energies[-1]:
                return best, energies, Outcome.CONVERGED
        return best, energies, Outcome.EXHAUSTED

    def _smoother(self, width: float) -> _Smoothing:
        if width == 0:
            return lambda field: field
        sigma = width * self.size
        return Smoother(Gaussian(sigma), self.grid, padding=3 * sigma)

    def _energy_and_step(self, velocity: Tensor) -> tuple[float, Tensor]:
        """Return the energy and the step downhill in voxels of the lattice, not yet smoothed."""
        with torch.no_grad():
            half = velocity / 2
            squarings = max(self.method.squarings, squarings_needed(half))
            a, a_weight = self._seen(self.moving, self.moving_weight, exponential(half, squarings))
            b, b_weight = self._seen(self.fixed, self.fixed_weight, exponential(-half, squarings))
            weight = a_weight * b_weight
        with torch.enable_grad():
            a, b = a.requires_grad_(), b.requires_grad_()
            likeness = LocalCorrelation(radius=self.method.radius, eps=EPS, reduction="sum")
            cost = likeness(a, b, weight)
            by_a, by_b = torch.autograd.grad(cost, (a, b))
        with torch.no_grad():
            a, b = a.detach(), b.detach()
            slope_a, slope_b = self._slope(a), self._slope(b)
            h = 0.25 * (by_a[:, :, None] * slope_a - by_b[:, :, None] * slope_b).sum(1)
            j = 0.5 * (slope_a / self._spread(a, weight) + slope_b / self._spread(b, weight))
            steep = j.square().sum((1, 2))[:, None] + 1e-6
            length = self.method.step * self.size
            force = h.square().sum(1, keepdim=True)
            step = -h / (steep + force / (steep * length**2))
        counted = float(weight.sum()) * self.fixed.shape[1]
        return float(cost.detach()) / max(counted, 1e-6), step / self.grid.per_axis(step)

    def _seen(self, image: Tensor, weight: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return image and weight through a map; what has no weight does not bleed into what has."""
        moved, share = warp(image, u), warp(weight, u)
        return moved / share.clamp_min(1e-3), share

    def _slope(self, image: Tensor) -> Tensor:
        """Return ``(1, C, dim, *lattice)``, intensity per mm."""
        return torch.stack(
            [torch.gradient(image, dim=axis + 2)[0] / h for axis, h in enumerate(self.grid.spacing)], dim=2
        )

    def _spread(self, image: Tensor, weight: Tensor) -> Tensor:
        """Return the standard deviation in windows, ``(1, C, 1, *lattice)``."""
        radius = (self.method.radius,) * self.grid.dim
        share = gather(weight, radius).clamp_min(1e-6)
        mean, square = (gather(f * weight, radius) / share for f in (image, image.square()))
        return (square - mean.square()).clamp_min(0).add(EPS).sqrt()[:, :, None]


def _carried(velocity: Tensor, old: Sequence[Axis], new: Sequence[Axis]) -> Tensor:
    """Return a velocity of one lattice on another, in voxels of the latter."""
    at = identity(tuple(axis.count for axis in new), dtype=velocity.dtype, device=velocity.device)
    view = (1, -1, *[1] * len(new))

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=velocity.dtype, device=velocity.device).view(view)

    ratio = column([n.stride / o.stride for n, o in zip(new, old, strict=True)])
    offset = column([(n.first - o.first) / o.stride for n, o in zip(new, old, strict=True)])
    return sample(velocity, at * ratio + offset) / ratio
