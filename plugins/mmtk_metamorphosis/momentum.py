r"""Metamorphosis by shooting: the unknown is the initial momentum, one scalar for each voxel.

Coupled, as published (thesis eq. 5.2, 5.3, 5.11), the momentum drives the shape and fills the lesion:

.. math::
    E(z_0) = D(I_1, J) + \lambda \int_0^1 \|v_t\|_V^2 + \mu^2 \|\sqrt{m_t} z_t\|^2 \, dt

Several channels have one velocity, ``-K * sum_c w_c z^c grad I^c``, and each its own residual (thesis eq. 6.2); both
sums of the energy carry the weights.

Split, only :math:`(1 - m) p` drives the shape; what the mask hides is left out of the data term but for the weight
:math:`\rho / (1 + \rho)` that a free residual leaves there, and painted afterwards (see ``white``).

    z    (1, C, *space)   of the level's grid; a density per mm^dim, so that finer levels start from its values
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from mmtk.equations import Metamorphosis, NodeMaps
from mmtk.fields import along_axes, folds, invert, warp
from mmtk.integrators import Context, Integrator
from mmtk.method import Milestone, Milestones, Pair, Progress, forgetful, silent
from mmtk.optimize import Level, level_axes, minimize, smooth_and_sample
from mmtk.regularizers import Deformation, JacobianBarrier
from mmtk.result import LevelReport, Registration
from mmtk.shooting import Shot, shoot_energy
from mmtk.similarity import ChannelSimilarity
from mmtk_metamorphosis.lesion import lesion_price
from mmtk_metamorphosis.settings import Settings

__all__ = ["register_momentum"]

#: A path whose map folds is followed again in twice the steps, and then shortened to these shares, one by one.
SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0)


#: Before that, what folds is mended: descent goes on with this price per mm^dim on determinants below `TIGHT`, and again
#: with the next.
PRICES, TIGHT = (1.0, 10.0), 0.2


class _LevelEnergy:
    """Energy and gradient of the initial momentum on one level of the pyramid.

    Attributes:
        price: What a voxel that is squeezed to nothing costs, per mm^dim; 0 but while a fold is mended.
    """

    price = 0.0

    def __init__(self, pair: Pair, level: Level, settings: Settings, integrator: Integrator) -> None:
        self.settings, self.level, self.integrator, self.coupled = settings, level, integrator, settings.coupled
        # Image and momentum move together, so both images lie on the coarse lattice here.
        self.mask = _sampled(pair.mask, level)
        self.moving = smooth_and_sample(pair.moving, level.coarse, level.sigma)
        self.fixed = smooth_and_sample(pair.fixed, level.coarse, level.sigma)
        weight = torch.ones_like(self.fixed[:, :1])
        if pair.fixed_mask is not None:
            weight = weight * (1 - smooth_and_sample(pair.fixed_mask, level.coarse, level.sigma))
        if pair.inside is not None:
            weight = weight * smooth_and_sample(pair.inside, level.coarse, level.sigma)
        self.weight = weight
        mu = settings.mu if settings.coupled else 0.0
        stride = settings.spacing or settings.kernel.finest / 2
        weights = settings.similarity.weights if isinstance(settings.similarity, ChannelSimilarity) else None
        self.equation = Metamorphosis.from_kernel(settings.kernel, level.grid, mu, stride=stride, weights=weights)
        self.shape = self.moving.shape
        self.lesion = lesion_price(settings, self.fixed, self.weight, level.grid, self.mask)

    def __call__(self, flat: Tensor) -> tuple[float, Tensor]:
        momentum = flat.view(self.shape).detach().requires_grad_(True)
        energy = self.energy(momentum)
        if not bool(torch.isfinite(energy)):  # nothing to follow, and torch may crash on the way back
            return float("inf"), torch.zeros_like(flat)
        (gradient,) = torch.autograd.grad(energy, momentum)
        return float(energy.detach()), gradient.reshape(-1)

    def driving(self, momentum: Tensor) -> Tensor:
        """Return the part of the momentum that acts: all of it if coupled, what the mask leaves if split."""
        return momentum if self.coupled or self.mask is None else momentum * (1 - self.mask)

    def shoot(self, momentum: Tensor, *, maps: bool = False, finer: int = 1) -> Shot:
        """Return the path of a momentum, in ``finer`` times as many steps as the settings say."""
        wants_map = maps or bool(self.settings.regularizers) or self.price > 0
        context = Context(mask=self.mask, fixed=self.fixed, back=wants_map, maps=wants_map)
        return shoot_energy(
            self.equation,
            self.integrator,
            self.moving,
            self.driving(momentum),
            finer * self.settings.steps,
            context,
            checkpoint=self.settings.checkpoint,
        )

    def energy(self, momentum: Tensor) -> Tensor:
        """Return data + lambda * (kinetic + residual) + lesion + regularizers, a scalar in mm^dim."""
        shot = self.shoot(momentum)
        weight, lesion = self.weight, shot.state.mask
        if lesion is not None:
            floor = 1.0 if self.coupled and self.settings.mu > 0 else self.settings.floor
            weight = weight * (1 - (1 - floor) * lesion)
        grid = self.level.grid
        data = grid.cell_volume * self.settings.similarity(shot.image, self.fixed, weight, grid.spacing)
        energy = data + self.settings.lam * shot.energy
        if lesion is not None:
            energy = energy + self.lesion(lesion)
        if self.settings.regularizers:
            state = shot.state
            deformation = Deformation(
                grid=self.level.grid,
                displacement=state.displacement,
                inverse=state.inverse,
                velocity_norm=shot.kinetic.sum(),
                residual=self.driving(momentum),
                mask=None if self.mask is None else self.mask.amax(1, keepdim=True),
            )
            energy = energy + sum(part(deformation) for part in self.settings.regularizers)
        if self.price > 0:
            squeezed = Deformation(grid=self.level.grid, displacement=shot.state.displacement)
            energy = energy + self.price * JacobianBarrier(threshold=TIGHT)(squeezed)
        return energy

    def first_step(self, gradient: Tensor) -> float:
        """Return the length of a step down the gradient that first moves no voxel by more than half a voxel."""
        direction = self.driving(gradient.view(self.shape))
        with torch.no_grad():
            box = self.equation.maps.box
            speed = (self.equation.motion(self.moving, direction).velocity * box.per_axis(direction)).abs().amax()
            change = self.settings.mu**2 * direction.abs().amax() if self.coupled else torch.zeros(())
        step = 0.5 * max(self.level.grid.spacing) / float(speed.clamp_min(1e-30))
        if float(change) > 0:
            step = min(step, 0.5 / float(change))
        return float(gradient.norm()) * step


def _sampled(image: Tensor | None, level: Level) -> Tensor | None:
    return None if image is None else smooth_and_sample(image, level.coarse, level.sigma)


def register_momentum(
    pair: Pair, settings: Settings, progress: Progress, milestones: Milestones = forgetful
) -> Registration:
    """Register a pair by its initial momentum; see the module's docstring for the energy."""
    assert settings.integrator is not None
    box = pair.box
    momentum: Tensor | None = None
    previous: Level | None = None
    reports: list[LevelReport] = []
    if (past := milestones.last()) is not None:
        momentum, reports = past.state["momentum"].to(pair.fixed), list(past.levels)
    for number, (size, iterations) in enumerate(zip(settings.levels, settings.iterations, strict=True)):
        begin = time.perf_counter()
        level = level_axes(pair.grid, box, size)
        objective = _LevelEnergy(pair, level, settings, settings.integrator)
        if number < len(reports):  # finished by an earlier run
            previous = level
            continue
        if momentum is None or previous is None:
            momentum = torch.zeros_like(objective.moving)
        else:
            momentum = _upsampled(momentum, previous, level)
        previous = level
        descent = minimize(objective, momentum.flatten(), iterations, settings, progress, number)
        momentum = descent.unknowns.view(objective.shape)
        reports.append(LevelReport.of(size, descent, time.perf_counter() - begin))
        milestones.reached(Milestone({"momentum": momentum}, tuple(reports)))
    assert momentum is not None
    momentum = _mended(pair, settings, objective, momentum)
    with torch.no_grad():
        return _finish(pair, settings, objective, momentum, tuple(reports))


def _positions(source: Level, voxels: Sequence[Tensor]) -> list[Tensor]:
    """Return voxel coordinates of the full grid in samples of a level, kept within the level."""
    return [
        ((v - axis.first) / axis.stride).clamp(0, axis.count - 1)
        for v, axis in zip(voxels, source.coarse, strict=True)
    ]


def _interpolated(image: Tensor, positions: Sequence[Tensor]) -> Tensor:
    """Return an image at the points of a lattice along its axes, linearly, one sparse product an axis."""
    matrices = []
    for position, n in zip(positions, image.shape[2:], strict=True):
        matrices.append(
            (1 - (position[:, None] - torch.arange(n, dtype=position.dtype)).abs()).clamp_min(0).to(image)
        )
    return along_axes(image, matrices)


def _upsampled(momentum: Tensor, source: Level, target: Level) -> Tensor:
    return _interpolated(momentum, _positions(source, [axis.voxels for axis in target.coarse]))


def _mended(pair: Pair, settings: Settings, objective: _LevelEnergy, momentum: Tensor) -> Tensor:
    """Return a momentum whose map does not fold, if a few more evaluations lead to one; otherwise the momentum."""
    positions = _positions(objective.level, [torch.arange(n, dtype=torch.float64) for n in pair.grid.shape])

    def whole(some: Tensor) -> bool:
        with torch.no_grad():
            return not folds(_on_grid(pair, objective, objective.shoot(some, maps=True), positions)[0])

    if whole(momentum):
        return momentum
    trial = momentum
    for objective.price in PRICES:
        descent = minimize(objective, trial.flatten(), settings.iterations[-1], settings, silent, 0)
        trial = descent.unknowns.view(objective.shape)
        if whole(trial):
            break
    objective.price = 0.0
    return trial if whole(trial) else momentum


def _finish(
    pair: Pair, settings: Settings, objective: _LevelEnergy, momentum: Tensor, reports: tuple[LevelReport, ...]
) -> Registration:
    positions = _positions(objective.level, [torch.arange(n, dtype=torch.float64) for n in pair.grid.shape])
    shot = objective.shoot(momentum, maps=True)
    displacement, inverse = _on_grid(pair, objective, shot, positions)
    folded, share, notes = folds(displacement), 1.0, []
    for share in SHARES if folded else ():
        shot = objective.shoot(share * momentum, maps=True, finer=2)
        displacement, inverse = _on_grid(pair, objective, shot, positions)
        folded = folds(displacement)
        if not folded:
            break
    if share < 1:
        momentum = share * momentum
        notes.append(
            f"the momentum was shortened to {share:.0%} so that the map does not fold; for a smoother one raise "
            f"`lambda` or `sigma`"
        )
    if folded:
        notes.append(f"the map still folds at {folded} voxels; raise `lambda`, `sigma` or `steps`")
    else:
        inverse = invert(displacement, inverse, tolerance=0.02)
    return Registration(
        grid=pair.grid,
        displacement=displacement,
        inverse=inverse,
        appearance=_appearance(pair, settings, objective, shot, displacement, positions),
        shape={"momentum": momentum},
        levels=reports,
        notes=tuple(notes),
    )


def _on_grid(
    pair: Pair, objective: _LevelEnergy, shot: Shot, positions: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the pull-back and its inverse in voxels of the full grid."""
    flow, maps = shot.state.flow, objective.equation.maps
    assert flow is not None and flow.forth is not None
    if isinstance(maps, NodeMaps):
        back, forth = (
            maps.lattice.prolong(nodes, positions) * (maps.lattice.spacing / pair.grid.per_axis(nodes))
            for nodes in (flow.back, flow.forth)
        )
    else:
        back, forth = (
            _interpolated(nodes, positions) * (maps.box.per_axis(nodes) / pair.grid.per_axis(nodes))
            for nodes in (flow.back, flow.forth)
        )
    return back, forth


def _appearance(
    pair: Pair,
    settings: Settings,
    objective: _LevelEnergy,
    shot: Shot,
    displacement: Tensor,
    positions: Sequence[Tensor],
) -> Tensor | None:
    """Return the intensity change on the full grid, exactly 0 where the warped mask is."""
    if settings.mu == 0:
        return None
    lesion = None if pair.mask is None else warp(pair.mask, displacement)
    if not objective.coupled:
        if lesion is None:
            return None
        return lesion * (pair.fixed - warp(pair.moving, displacement)) / (1 + settings.rho)
    change = _interpolated(shot.image - warp(objective.moving, shot.state.displacement), positions)
    return change if lesion is None else torch.where(lesion > 0, change, 0)
