r"""Metamorphosis with white velocity coefficients as unknowns, coarse to fine; the residual in closed form.

For a given path of velocities the best intensity change is known at every voxel, so it needs no unknowns. Put back, it
leaves the data term with a weight. With :math:`\rho = 2\lambda / \mu^2` and the warped mask m:

.. math::
    \text{split:}\quad   r = \frac{m\,(J - I \circ \phi^{-1})}{1 + \rho}, \qquad
        w = 1 - \frac{m}{1 + \rho}
    \\
    \text{coupled:}\quad r = \frac{m E\,(J - I \circ \phi^{-1})}{\rho + m E}, \qquad
        w = \frac{\rho}{\rho + m E}, \qquad E = D_1 \int_0^1 \frac{ds}{D_s} \circ \phi_1^{-1}

The second follows from the published energy (thesis eq. 5.3 with 5.11): in the moving frame the residual adds up to
:math:`R = \mu^2 m_0 \int z_t \circ \phi_t`, and among all :math:`z_t` with that sum the cheapest is the geodesic's own,
:math:`z_t \circ \phi_t = z_0 / D_t`, at the price :math:`\lambda R^2 / (\mu^2 m_0 \int ds / D_s)`. So the minimizer over
a path of velocities is the coupled model's, seen from its well-conditioned side; a single stationary velocity
restricts the path. E is taken by the trapezoidal rule from both ends of the path, (1 + D_1) / 2.

Where the lesion is, the split form compares J with what an image without texture would show there, and not with the
lesion: its intensities do not drive the shape. The coupled form compares J with the lesion, as published.

Several channels have one velocity and each its own residual (thesis eq. 6.2): the weighted sum of their energies is
taken, and what is said above holds for each, with the mask of each where they have several.

Next to the lesion an average over neighbors (smoothing, windows) leaves it out on the moving side and has all of J on
the other. So what lies there differs even between identical images, and draws the mask in, by a fifth of its volume.
Where nothing is known of the lesion that is no bad guess: without it 2 to 7 % more error is left within 10 mm of
synthetic tumors and resections. But a lesion that took the place of tissue moved nothing (``lesion=replaced``), and the
coupled energy says itself what a lesion costs. There J is averaged without what the mask covers, carried by the map that
the level begins with.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from mmtk.fields import folds, jacobian_determinant, sample, warp
from mmtk.method import Milestone, Milestones, Pair, Progress, forgetful
from mmtk.optimize import Axis, Level, LevelSampler, level_axes, minimize, smooth_and_sample
from mmtk.regularizers import Deformation
from mmtk.result import LevelReport, Registration
from mmtk_metamorphosis.detail import Detail
from mmtk_metamorphosis.lesion import lesion_price
from mmtk_metamorphosis.settings import Settings
from mmtk_metamorphosis.start import nearest_flow
from mmtk_metamorphosis.white import WhiteFlow

__all__ = ["register_white"]


#: Node spacings; far less than any image changes in.
ASIDE = 1e-3


#: A velocity that folds at some voxels is shortened, the whole of it, in small steps at first: by `FIRST` of what it is
#: until `FAR` of it is left, then by `THEN`. Below `SHORTEST` it is given up.
FIRST, FAR, THEN, SHORTEST = 0.95, 0.7, 0.8, 0.05

#: Weight of what the mask covers in averages of the fixed image: as good as none, unless it covers all that is averaged.
FAINT = 1e-4


class _LevelEnergy:
    """Energy and gradient of the white coefficients on one level of the pyramid, which begins with ``start``, or 0."""

    def __init__(
        self, pair: Pair, level: Level, flow: WhiteFlow, settings: Settings, start: Tensor | None = None
    ) -> None:
        self.flow, self.settings, self.level = flow, settings, level
        self.sampler = LevelSampler(level, flow.lattice, pair.fixed)
        self.coupled = settings.coupled and settings.mu > 0
        channels = [self._moving(pair)]
        self.compared = channels[0].shape[1]  # a similarity may make several channels of one
        self.masks, self.has_edge = 0 if pair.mask is None else pair.mask.shape[1], pair.inside is not None
        for extra in (pair.mask, pair.inside):
            if extra is not None:
                channels.append(smooth_and_sample(extra, level.finer, level.sigma))
        self.stack = torch.cat(channels, dim=1)
        fixed, weight = self._fixed(pair, start)
        self.fixed, self.weight = level.thin(fixed).contiguous(), level.thin(weight).contiguous()
        self.floor = settings.floor
        mask = None if pair.mask is None else smooth_and_sample(pair.mask, level.coarse, level.sigma)
        self.lesion = lesion_price(settings, self.fixed, self.weight, level.grid, mask)
        self.mask = None
        if settings.regularizers and pair.mask is not None:
            sigma = [0.4 * flow.lattice.spacing / h for h in pair.grid.spacing]
            lesion = pair.mask.amax(1, keepdim=True)
            blurred = smooth_and_sample(lesion, [Axis(0, 1, n) for n in pair.grid.shape], sigma)
            self.mask = sample(blurred, flow.lattice.points(blurred), padding="zeros")

    def _moving(self, pair: Pair) -> Tensor:
        masked = pair.mask is not None or pair.inside is not None
        moving = self._prepared(pair.moving, pair.moving_weight, masked=masked)[0]
        if pair.mask is None or not self.coupled:
            return moving
        # What the lesion shows is part of the coupled energy, though not of what its neighbors are compared by.
        seen = torch.ones_like(pair.mask) if pair.inside is None else pair.inside
        own = self._prepared(pair.moving, seen, masked=pair.inside is not None)[0]
        return torch.lerp(moving, own, smooth_and_sample(pair.mask, self.level.finer, self.level.sigma))

    def _fixed(self, pair: Pair, start: Tensor | None) -> tuple[Tensor, Tensor]:
        fixed, weight = self._prepared(pair.fixed, pair.fixed_weight, masked=pair.fixed_mask is not None)
        if pair.mask is None or not (self.coupled or self.settings.lesion == "replaced"):
            return fixed, weight
        mask = pair.mask
        if start is not None and bool(start.any()):
            with torch.no_grad():
                mask = warp(mask, self.flow.on_grid(self.flow.displacement(start)))
        beside = self._prepared(pair.fixed, pair.fixed_weight * (1 - mask).clamp_min(FAINT), masked=True)[0]
        if not self.coupled:
            return beside, weight
        return torch.lerp(beside, fixed, smooth_and_sample(mask, self.level.finer, self.level.sigma)), weight

    def _prepared(self, image: Tensor, seen: Tensor, *, masked: bool) -> tuple[Tensor, Tensor]:
        """Smooth, sample and prepare an image on the finer lattice; return it and its weight there."""
        level = self.level
        weight = smooth_and_sample(seen, level.finer, level.sigma)
        image = smooth_and_sample(image, level.finer, level.sigma, seen if masked else None)
        spacing = [axis.stride * h for axis, h in zip(level.finer, self.flow.lattice.grid.spacing, strict=True)]
        return self.settings.similarity.prepare(image, weight, level.ratio, spacing), weight

    def __call__(self, flat: Tensor) -> tuple[float, Tensor]:
        white = flat.view(self.flow.shape).detach().requires_grad_(True)
        # At rest every point lies on a sample, where linear interpolation has a kink and its derivative one side only.
        # The mean of both sides does not depend on which way the array runs.
        sides = (0.0,) if bool(flat.any()) else (ASIDE, -ASIDE)
        energy = torch.stack([self.energy(white, aside) for aside in sides]).mean()
        if not bool(torch.isfinite(energy)):  # nothing to follow, and torch may crash on the way back
            return float("inf"), torch.zeros_like(flat)
        (gradient,) = torch.autograd.grad(energy, white)
        return float(energy.detach()), gradient.reshape(-1)

    def energy(self, white: Tensor, aside: float = 0.0) -> Tensor:
        """Return data + lambda * norm + lesion + regularizers, a scalar in mm^dim."""
        nodes = self.flow.displacement(white)
        warped = self.sampler(self.stack, nodes, aside)
        moved, weight, lesion = warped[:, : self.compared], self.weight, None
        if self.masks:
            lesion = warped[:, self.compared : self.compared + self.masks]
            weight = (
                weight * (1 - (1 - self.floor) * lesion)
                if not self.coupled
                else weight * self._kept(lesion, nodes)
            )
        if self.has_edge:
            weight = weight * warped[:, -1:]
        cells = self.level.grid.cell_volume
        energy = cells * self.settings.similarity.compare(moved, self.fixed, weight)
        energy = energy + self.settings.lam * self.flow.norm(white)
        if lesion is not None:
            energy = energy + self.lesion(lesion)
        return energy + self._regularizers(white, nodes)

    def _kept(self, lesion: Tensor, nodes: Tensor) -> Tensor:
        """Return the weight that the coupled model's cheapest residual leaves in the data term."""
        room = lesion * _room(self.flow.on_grid(nodes, self.sampler.voxels), self.level)
        return self.settings.rho / (self.settings.rho + room)

    def _regularizers(self, white: Tensor, nodes: Tensor) -> Tensor | float:
        if not self.settings.regularizers:
            return 0.0
        deformation = Deformation(
            displacement=nodes,
            inverse=self.flow.displacement(white, backward=True),
            velocity=self.flow.velocity(white),
            velocity_norm=self.flow.norm(white),
            mask=self.mask,
            grid=self.flow.lattice.box,
        )
        return sum(part(deformation) for part in self.settings.regularizers)

    def first_step(self, gradient: Tensor) -> float:
        """Return the length of a step down the gradient that moves no node by more than half a sample."""
        speed = self.flow.velocity(gradient.view(self.flow.shape)).abs().amax() * self.flow.lattice.spacing
        return float(gradient.norm() * 0.5 * max(self.level.grid.spacing) / speed.clamp_min(1e-30))


def _room(displacement: Tensor, level: Level | None = None) -> Tensor:
    """Return ``E``, how much room the residual had on its way, from a displacement in voxels of the full grid."""
    if level is not None:
        strides = [axis.stride for axis in level.coarse]
        displacement = displacement / displacement.new_tensor(strides).view(1, -1, *[1] * len(strides))
    return 0.5 * (1 + 1 / jacobian_determinant(displacement).clamp_min(0.05))


def register_white(
    pair: Pair,
    settings: Settings,
    progress: Progress,
    milestones: Milestones = forgetful,
    start: Tensor | None = None,
) -> Registration:
    """Register a pair; see the module's docstring for the energy.

    Args:
        start: ``(1, dim, *space)``, voxels: a pull-back to begin near to, see :mod:`mmtk_metamorphosis.start`.
    """
    box = pair.box
    flow = WhiteFlow(
        settings.kernel, pair.grid, settings.node_spacing(pair.grid), settings.velocities, settings.squarings, box
    )
    if pair.mask is not None and settings.detail > 0:
        flow.detail = Detail.around(
            pair.mask.amax(1, keepdim=True), flow.lattice, settings.kernel, settings.detail
        )
    unknowns = torch.zeros(flow.shape).to(pair.fixed).flatten()
    reports: list[LevelReport] = []
    if (past := milestones.last()) is not None:
        unknowns, reports = past.state["white"].to(unknowns), list(past.levels)
        flow.squarings = int(past.state["squarings"])
    elif start is not None:
        unknowns = nearest_flow(flow, start)
    for number, (size, iterations) in enumerate(zip(settings.levels, settings.iterations, strict=True)):
        if number < len(reports):
            continue
        begin = time.perf_counter()
        # As many compositions as this flow needs in order not to fold; a flow that steepens gets more.
        flow.squarings = max(settings.squarings, flow.steepness(unknowns.view(flow.shape)))
        objective = _LevelEnergy(pair, level_axes(pair.grid, box, size), flow, settings, unknowns.view(flow.shape))
        descent = minimize(objective, unknowns, iterations, settings, progress, number)
        unknowns = descent.unknowns
        reports.append(LevelReport.of(size, descent, time.perf_counter() - begin))
        state = {"white": unknowns, "squarings": torch.tensor(flow.squarings)}
        milestones.reached(Milestone(state, tuple(reports)))
    with torch.no_grad():
        return _finish(pair, settings, flow, unknowns.view(flow.shape), tuple(reports))


def _share(lesion: Tensor, displacement: Tensor, settings: Settings) -> Tensor:
    """Return the share of the mismatch that is painted, exactly 0 where the warped mask is."""
    if not settings.coupled:
        return lesion / (1 + settings.rho)
    room = lesion * _room(displacement)
    return room / (settings.rho + room)


def _finish(
    pair: Pair, settings: Settings, flow: WhiteFlow, white: Tensor, reports: tuple[LevelReport, ...]
) -> Registration:
    notes = []
    flow.squarings = max(flow.squarings, flow.steepness(white))
    nodes = flow.displacement(white)
    displacement = flow.on_grid(nodes)
    folded, share = folds(displacement), 1.0
    while folded and share > SHORTEST:
        share *= FIRST if share > FAR else THEN
        nodes = flow.displacement(share * white)
        displacement = flow.on_grid(nodes)
        folded = folds(displacement)
    if share < 1:
        white = share * white
        notes.append(
            f"the velocity was shortened to {share:.0%} so that the map does not fold; for a smoother one raise `lambda`"
        )
    if folded:
        notes.append(f"the map still folds at {folded} voxels; raise `lambda` or `sigma`, or lower `stride`")
    inverse = flow.lattice.invert(nodes, flow.displacement(white, backward=True))
    appearance = None
    if pair.mask is not None and settings.mu > 0:
        appearance = pair.fixed - warp(pair.moving, displacement)
        appearance = appearance * _share(warp(pair.mask, displacement), displacement, settings)
    return Registration(
        grid=pair.grid,
        displacement=displacement,
        inverse=inverse,
        appearance=appearance,
        shape={"white": white, **({} if flow.detail is None else {"window": flow.detail.window})},
        levels=reports,
        notes=tuple(notes),
    )
