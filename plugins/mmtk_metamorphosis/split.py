"""Split metamorphosis with white coefficients: coarse to fine, then the residual in closed form."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from mmtk.fields import folds, warp
from mmtk.method import Pair, Progress
from mmtk.optimize import Level, LevelSampler, level_axes, minimize, smooth_and_sample
from mmtk.regularizers import Deformation
from mmtk.result import LevelReport, Registration
from mmtk.similarity import LocalSquaredDifference, Similarity
from mmtk.similarity.squares import normalize_locally
from mmtk.similarity.windows import per_axis
from mmtk_metamorphosis.lesion import lesion_price
from mmtk_metamorphosis.settings import Settings
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
        mask = None if pair.mask is None else smooth_and_sample(pair.mask, level.coarse, level.sigma)
        self.lesion = lesion_price(settings, self.fixed, self.weight, level.grid, mask)

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
        return prepared(self.settings.similarity, image, weight, scale)

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
        if lesion is not None:
            energy = energy + self.lesion(lesion)
        return energy + self._regularizers(white, nodes)

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


def prepared(similarity: Similarity, image: Tensor, weight: Tensor, scale: Sequence[int]) -> Tensor:
    """Prepare an image whose samples lie ``scale`` times as dense as those it is compared at.

    A window of the finer image has to span the same millimeters as its twin on the coarse one.
    """
    if isinstance(similarity, LocalSquaredDifference):
        radius = [r * k for r, k in zip(per_axis(similarity.radius, len(scale)), scale, strict=True)]
        return normalize_locally(image, weight, radius, similarity.eps)
    return similarity.prepare(image, weight)


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
        descent = minimize(objective, unknowns, iterations, settings, progress, number)
        unknowns = descent.unknowns
        reports.append(LevelReport.of(size, descent, time.perf_counter() - begin))
    with torch.no_grad():
        return _finish(pair, settings, flow, unknowns.view(flow.shape), tuple(reports))


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
