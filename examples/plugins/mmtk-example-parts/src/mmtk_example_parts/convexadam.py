r"""ConvexAdam: a discrete search that no local minimum stops, refined by Adam; here as a flow, so that nothing folds.

Both halves compare self-similarity descriptors (or what else ``similarity`` prepares), voxel by voxel, and both leave
out what the masks hide. The unknown of the second half is a velocity, G w with a Gaussian G, and the map is its flow:

.. math:: E(w) = \frac{\sum_x m(x)\, c(x)}{\sum_x m(x)} + \lambda\, \overline{|D u|^2}, \qquad
          \phi^{-1} = \mathrm{id} + u = \exp(G w),

with the cost c and the weight m of what is compared at x, and the mean square of all slopes of u. The mean cost, and not
the sum: or it would pay to hide voxels under the mask.

What differs from the authors' code: they optimize the displacement itself, which may fold and has no inverse to hand
over; and where they make the two searches inverse to one another, here their antisymmetric half is taken.
"""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from mmtk.config import ComponentConfig
from mmtk.errors import ConfigError
from mmtk.fields import Gaussian, Lattice, Smoother, folds, sample, squarings_needed
from mmtk.method import Method, Milestone, Pair, Progress, silent
from mmtk.optimize import LevelSampler, adam, level_axes, smooth_and_sample
from mmtk.regularizers import Deformation, Diffusion
from mmtk.result import LevelReport, Outcome, Registration
from mmtk.similarity import Similarity
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recomputed

from mmtk_example_parts.search import candidates, costs, coupled

__all__ = ["ConvexAdam"]

#: Distance of the velocity's nodes, in widths of the Gaussian, which leaves 4e-5 of the finest wave that they can hold;
#: and the least distance in voxels: closer nodes find nothing to hold on to.
NODES, SPARSE = 0.7, 2.0
#: A flow is composed of 2^SQUARINGS steps, or more where it is steep.
SQUARINGS = 3
#: A flow whose map folds between its nodes is slowed down to these shares, one by one.
SHARES = (0.95, 0.9, 0.8, 0.7, 0.5, 0.3, 0.1)


class ConvexAdam(Method):
    """Coupled convex search, then Adam over a stationary velocity; see the module for the energy.

    The arguments are the fields of ``ConvexAdamConfig``, which describes each of them.

    References:
        H. Siebert, C. Großbröhmer, L. Hansen, M. P. Heinrich: ConvexAdam: self-configuring dual-optimisation-based 3D
        multitask medical image registration. IEEE Transactions on Medical Imaging, 2024.
        M. P. Heinrich, B. W. Papież, J. A. Schnabel, H. Handels: Non-parametric discrete registration with convex
        optimisation. WBIR 2014.
    """

    def __init__(
        self,
        *,
        similarity: ComponentConfig,
        search: float = 12.0,
        grid: float = 6.0,
        resolution: float = 2.0,
        sigma: float = 8.0,
        lam: float = 0.1,
        iterations: int = 80,
        learning_rate: float = 0.25,
    ) -> None:
        super().__init__()
        self.similarity: Similarity = similarity.build()
        self.search, self.grid, self.resolution, self.sigma = search, grid, resolution, sigma
        self.lam, self.iterations, self.learning_rate = lam, iterations, learning_rate

    def register(self, pair: Pair, progress: Progress = silent) -> Registration:
        """Register ``pair.moving`` onto ``pair.fixed``."""
        problem = _Problem(pair, self)
        with torch.no_grad():
            if (past := self.milestones.last()) is not None:
                unknowns, reports = past.state["unknowns"].to(pair.fixed), list(past.levels)
            else:
                unknowns, report = self._searched(problem, progress)
                reports = [report]
                self.milestones.reached(Milestone({"unknowns": unknowns}, tuple(reports)))
        if len(reports) == 1:
            begin = time.perf_counter()
            with torch.enable_grad():  # whatever the caller has set
                found = adam(
                    problem,
                    unknowns.flatten(),
                    self.iterations + 1,
                    learning_rate=self.learning_rate,
                    watch=lambda k, energy: progress(1, 2, k, self.iterations + 1, energy),
                )
            unknowns = found.unknowns.view(problem.shape)
            found.energies.append(found.energy)  # the iterate that is kept
            reports.append(LevelReport.of(self.resolution, found, time.perf_counter() - begin))
            self.milestones.reached(Milestone({"unknowns": unknowns}, tuple(reports)))
        with torch.no_grad():
            return problem.result(unknowns, tuple(reports))

    def _searched(self, problem: _Problem, progress: Progress) -> tuple[Tensor, LevelReport]:
        """Return where the refinement begins: what the search found, if that is better than rest."""
        begin = time.perf_counter()
        rest = torch.zeros(problem.shape).to(problem.fixed)
        found = problem.searched(self.search, self.grid)
        before, after = (float(problem.energy(w)) for w in (rest, found))
        progress(0, 2, 1, 1, min(before, after))
        best = found if after < before else rest
        report = LevelReport(
            self.grid, (before, min(before, after)), 2, time.perf_counter() - begin, Outcome.EXHAUSTED
        )
        return best, report


class _Problem:
    """The images as they are compared, and the energy of unknowns w on the nodes, ``(1, dim, *nodes)`` in mm."""

    def __init__(self, pair: Pair, method: ConvexAdam) -> None:
        self.pair, self.similarity, self.lam = pair, method.similarity, method.lam
        level = level_axes(pair.grid, pair.box, method.resolution)
        self.level = replace(level, finer=level.coarse)
        # Warped in one go: what is compared of the moving image, and its weight.
        self.stack = torch.cat(self._prepared(pair.moving, pair.moving_weight), 1)
        self.moving, self.moving_weight = self.stack[:, :-1], self.stack[:, -1:]
        self.fixed, self.fixed_weight = self._prepared(pair.fixed, pair.fixed_weight)
        if not bool(((self.moving_weight > 0) & (self.fixed_weight > 0)).any()):
            raise ConfigError("mask: nothing of the images is left to compare; give smaller masks")
        nodes = max(NODES * method.sigma, SPARSE * min(pair.grid.spacing))
        self.lattice = Lattice(pair.grid, nodes, 4 * method.sigma, pair.box)
        self.smoother = Smoother(Gaussian(method.sigma), self.lattice.box)
        self.sampler = LevelSampler(self.level, self.lattice, pair.fixed)
        self.smooth = Diffusion()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the unknowns."""
        return (1, self.lattice.grid.dim, *self.lattice.nodes)

    def _prepared(self, image: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Return an image as the similarity wants it, and its weight, at the samples."""
        inner = (slice(None), slice(None), *self.pair.box)
        image, seen, sigma = image[inner], seen[inner], self.level.sigma
        axes = [
            replace(a, first=a.first - part.start)
            for a, part in zip(self.level.coarse, self.pair.box, strict=True)
        ]
        prepared = self.similarity.prepare(image, seen, spacing=self.pair.grid.spacing)
        return smooth_and_sample(prepared, axes, sigma, seen), smooth_and_sample(seen, axes, sigma)

    def searched(self, reach: float, size: float) -> Tensor:
        """Return unknowns from a search over displacements of up to ``reach`` mm, on nodes ``size`` mm apart."""
        samples = self.level.grid
        coarse = level_axes(samples, [slice(0, n) for n in samples.shape], size)
        sides = [
            (
                smooth_and_sample(image, coarse.coarse, coarse.sigma, weight),
                smooth_and_sample(weight, coarse.coarse, coarse.sigma),
            )
            for image, weight in ((self.moving, self.moving_weight), (self.fixed, self.fixed_weight))
        ]
        (moving, moving_weight), (fixed, fixed_weight) = sides
        tried = candidates(round(reach / size), fixed, samples.dim)
        there = coupled(costs(self.similarity, moving, fixed, moving_weight, fixed_weight, tried), tried)
        back = coupled(costs(self.similarity, fixed, moving, fixed_weight, moving_weight, tried), tried)
        field = 0.5 * (there - back) * coarse.grid.per_axis(there)
        # The lattice's nodes, in voxels of the full grid, in samples, in places of the search.
        points = self.lattice.points(field)
        for axes in (self.level.coarse, coarse.coarse):
            points = torch.stack([(points[:, a] - axis.first) / axis.stride for a, axis in enumerate(axes)], 1)
        return sample(field, points, padding="zeros")

    def velocity(self, unknowns: Tensor) -> Tensor:
        """Return the velocity in node spacings per unit time."""
        return self.smoother.smooth(unknowns) / self.lattice.spacing

    def flow(self, velocity: Tensor) -> Tensor:
        """Return the displacement of its flow on the nodes, in node spacings."""
        squarings = max(SQUARINGS, squarings_needed(velocity.detach()))
        if velocity.requires_grad:  # its steps are cheap to compute anew, and many to keep
            return recomputed(self.lattice.exponential, velocity, squarings, use_reentrant=False)
        return self.lattice.exponential(velocity, squarings)

    def energy(self, unknowns: Tensor) -> Tensor:
        """Return the mean cost of what is compared, and the price of the slopes; without unit."""
        nodes = self.flow(self.velocity(unknowns))
        moved = self.sampler(self.stack, nodes)
        weight = moved[:, -1:] * self.fixed_weight
        cost = self.similarity.compare(moved[:, :-1], self.fixed, weight) / weight.sum().clamp_min(1e-6)
        box = self.lattice.box
        return cost + self.lam * self.smooth(Deformation(grid=box, displacement=nodes)) / (
            box.size * box.cell_volume
        )

    def __call__(self, flat: Tensor) -> tuple[float, Tensor]:
        """Return energy and gradient of flat unknowns."""
        unknowns = flat.view(self.shape).detach().requires_grad_()
        energy = self.energy(unknowns)
        if not bool(energy.isfinite()):  # nothing to follow
            return float("inf"), torch.zeros_like(flat)
        (gradient,) = torch.autograd.grad(energy, unknowns)
        return float(energy.detach()), gradient.flatten()

    def result(self, unknowns: Tensor, reports: tuple[LevelReport, ...]) -> Registration:
        """Return both maps on the full grid."""
        lattice, notes = self.lattice, []
        velocity = self.velocity(unknowns)
        nodes = self.flow(velocity)
        displacement = lattice.in_voxels(lattice.prolong(nodes))
        for share in SHARES if folds(displacement) else ():
            slower = share * velocity
            nodes = self.flow(slower)
            displacement = lattice.in_voxels(lattice.prolong(nodes))
            if not folds(displacement):
                velocity = slower
                notes.append(f"the flow was slowed down to {share:.0%} so that it does not fold; raise `lambda`")
                break
        return Registration(
            grid=self.pair.grid,
            displacement=displacement,
            inverse=lattice.invert(nodes, self.flow(-velocity)),
            appearance=None,
            shape={"velocity": velocity},
            levels=reports,
            notes=tuple(notes),
        )
