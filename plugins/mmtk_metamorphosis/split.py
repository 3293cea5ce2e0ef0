"""Split metamorphosis with white coefficients: coarse to fine, then the residual in closed form."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mmtk.fields import folds, warp
from mmtk.method import Pair, Progress
from mmtk.optimize import Descent, Level, LevelSampler, adam, lbfgs, level_axes, smooth_and_sample
from mmtk.regularizers import Deformation
from mmtk.result import LevelReport, Registration
from mmtk_metamorphosis.settings import LARGEST_GROWTH, LESION_PRICE, Settings
from mmtk_metamorphosis.white import WhiteFlow

__all__ = ["register_white"]


class _LevelEnergy:
    """Energy and gradient of the white coefficients on one level of the pyramid."""

    def __init__(self, pair: Pair, level: Level, flow: WhiteFlow, settings: Settings) -> None:
        self.flow, self.settings, self.level = flow, settings, level
        self.sampler = LevelSampler(level, flow.lattice, pair.fixed)
        similarity = settings.similarity
        channels = [self._moving(pair)]
        self.has_mask, self.has_edge = pair.mask is not None, pair.inside is not None
        for extra in (pair.mask, pair.inside):
            if extra is not None:
                channels.append(smooth_and_sample(extra, level.finer, level.sigma))
        self.stack = torch.cat(channels, dim=1)
        visible = None if pair.fixed_mask is None else 1 - pair.fixed_mask
        fixed = smooth_and_sample(pair.fixed, level.coarse, level.sigma, visible)
        self.weight = torch.ones_like(fixed[:, :1])
        if visible is not None:
            self.weight = smooth_and_sample(visible, level.coarse, level.sigma)
        self.fixed = similarity.prepare(fixed, self.weight)
        self.intensities = pair.moving.shape[1]
        self.floor = settings.floor
        self.price = LESION_PRICE[settings.lesion] * similarity.unit(self.fixed, self.weight)
        cells = level.grid.cell_volume
        ratio = cells / _volume(level.finer, pair)
        self.area = float(channels[1].sum()) / ratio if self.has_mask else 0.0

    def _moving(self, pair: Pair) -> Tensor:
        seen = torch.ones_like(pair.moving[:, :1])
        for hidden in (pair.mask, None if pair.inside is None else 1 - pair.inside):
            if hidden is not None:
                seen = seen * (1 - hidden)
        weighted = pair.mask is not None or pair.inside is not None
        image = smooth_and_sample(
            pair.moving, self.level.finer, self.level.sigma, seen if weighted else None
        )
        weight = smooth_and_sample(seen, self.level.finer, self.level.sigma)
        scale = tuple(c.stride // f.stride for c, f in zip(self.level.coarse, self.level.finer, strict=True))
        return self.settings.similarity.prepare(image, weight, scale)

    def __call__(self, flat: Tensor) -> tuple[float, Tensor]:
        white = flat.view(self.flow.shape).detach().requires_grad_(True)
        energy = self.energy(white)
        (gradient,) = torch.autograd.grad(energy, white)
        return float(energy.detach()), gradient.reshape(-1)

    def energy(self, white: Tensor) -> Tensor:
        """Return data + lambda * norm + lesion + regularizers, a scalar in mm^dim."""
        nodes = self.flow.displacement(white)
        warped = self.sampler(self.stack, nodes)
        moved, weight, lesion = warped[:, : self.intensities], self.weight, None
        if self.has_mask:
            lesion = warped[:, self.intensities : self.intensities + 1]
            weight = weight * (1 - (1 - self.floor) * lesion)
        if self.has_edge:
            weight = weight * warped[:, -1:]
        cells = self.level.grid.cell_volume
        energy = cells * self.settings.similarity.compare(moved, self.fixed, weight)
        energy = energy + self.settings.lam * self.flow.norm(white)
        if lesion is not None and self.price:
            energy = energy + cells * self._lesion(lesion.sum())
        return energy + self._regularizers(white, nodes)

    def _lesion(self, area: Tensor) -> Tensor:
        if self.price > 0:
            return self.price * area
        most = LARGEST_GROWTH * max(self.area, 1.0)
        return self.price * most * (1 - torch.exp(-area / most))

    def _regularizers(self, white: Tensor, nodes: Tensor) -> Tensor | float:
        if not self.settings.regularizers:
            return 0.0
        deformation = Deformation(
            displacement=nodes,
            inverse=self.flow.displacement(white, backward=True),
            velocity=self.flow.velocity(white),
            velocity_norm=self.flow.norm(white),
            grid=self.flow.lattice.box,
        )
        return sum(part(deformation) for part in self.settings.regularizers)

    def first_step(self, gradient: Tensor) -> float:
        """Return the length of a step down the gradient that moves no node by more than half a sample."""
        speed = self.flow.velocity(gradient.view(self.flow.shape)).abs().amax() * self.flow.lattice.spacing
        return float(gradient.norm() * 0.5 * max(self.level.grid.spacing) / speed.clamp_min(1e-30))


def _volume(axes: Sequence[object], pair: Pair) -> float:
    strides = [axis.stride for axis in axes]  # type: ignore[attr-defined]
    volume = 1.0
    for stride, h in zip(strides, pair.grid.spacing, strict=True):
        volume *= stride * h
    return volume


def register_white(pair: Pair, settings: Settings, progress: Progress) -> Registration:
    """Register a pair; see the module's docstring for the energy."""
    flow = WhiteFlow(
        settings.kernel, pair.grid, settings.spacing, settings.velocities, settings.squarings
    )
    unknowns = torch.zeros(flow.shape).to(pair.fixed).flatten()
    reports = []
    box = pair.box
    for number, (size, iterations) in enumerate(zip(settings.levels, settings.iterations, strict=True)):
        begin = time.perf_counter()
        objective = _LevelEnergy(pair, level_axes(pair.grid, box, size), flow, settings)
        descent = _minimize(
            objective, unknowns, iterations, settings, _watch(progress, number, len(settings.levels), iterations)
        )
        unknowns = descent.unknowns
        reports.append(
            LevelReport(
                size, tuple(descent.energies), descent.evaluations, time.perf_counter() - begin, descent.outcome
            )
        )
    with torch.no_grad():
        return _finish(pair, settings, flow, unknowns.view(flow.shape), tuple(reports))


def _watch(progress: Progress, level: int, levels: int, iterations: int) -> Callable[[int, float], None]:
    return lambda iteration, energy: progress(level, levels, iteration, iterations, energy)


def _minimize(
    objective: _LevelEnergy,
    start: Tensor,
    iterations: int,
    settings: Settings,
    watch: Callable[[int, float], None],
) -> Descent:
    if settings.optimizer == "adam":
        rate = settings.learning_rate or 0.1
        return adam(objective, start, iterations, learning_rate=rate, tolerance=settings.tolerance, watch=watch)
    return lbfgs(
        objective,
        start,
        iterations,
        first_step=objective.first_step,
        tolerance=settings.tolerance,
        watch=watch,
    )


def _finish(
    pair: Pair, settings: Settings, flow: WhiteFlow, white: Tensor, reports: tuple[LevelReport, ...]
) -> Registration:
    notes = []
    flow.squarings = max(flow.squarings, flow.steepness(white))
    nodes = flow.displacement(white)
    displacement = flow.on_grid(nodes)
    folded = folds(displacement)
    if folded:
        notes.append(
            f"the map folds at {folded} voxels; raise `lambda` or `sigma`, or add regularizers=jacobian_barrier"
        )
    inverse = flow.lattice.invert(nodes, flow.displacement(white, backward=True))
    appearance = None
    if pair.mask is not None:
        lesion = warp(pair.mask, displacement)
        appearance = lesion * (pair.fixed - warp(pair.moving, displacement)) / (1 + settings.rho)
    return Registration(
        grid=pair.grid,
        displacement=displacement,
        inverse=inverse,
        appearance=appearance,
        shape={"white": white},
        levels=reports,
        notes=tuple(notes),
    )
