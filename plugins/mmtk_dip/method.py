r"""Registration with an untrained network as its prior.

.. math:: \arg \min_\theta \; \mathcal{L}(T, (x + f_\theta(z)) \circ I) \qquad z \sim \mathcal{N}(0, 0.1)

(eq. 2; I is our moving image, T the fixed one). There is no regularizer: which displacements a generator of this form
can answer, and how soon, is the prior. In the diffeomorphic form the network answers a stationary velocity, and the map
is its exponential.

The start is the identity. Of the maps on the way the cheapest is kept, so that no result is worse than the placement; of
those that fold none is kept in the diffeomorphic form.
"""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor

from mmtk.errors import ConfigError
from mmtk.fields import exponential, filled, folds, invert, squarings_needed, warp
from mmtk.learned import part
from mmtk.method import Method, Pair, Progress, silent
from mmtk.result import LevelReport, Outcome, Registration
from mmtk_dip.generator import SHORTEST, Generator, strides

__all__ = ["DeepImagePrior"]

#: Steps over which the cost must fall by the tolerance, a share of what it was at the start.
PATIENCE = 20
#: Steps that are taken in any case: the first ones, away from nearly nothing, lower the cost slowly.
LEAST = 60


class DeepImagePrior(Method):
    """Fits an untrained generator to one pair by Adam.

    Args:
        similarity: What is minimized, its mean over what may be compared.
        iterations: Steps of Adam at most.
        learning_rate: Of Adam.
        tolerance: It ends where ``PATIENCE`` steps lowered the cost by less than this share of the first one.
        diffeomorphic: The answer is a velocity; else a displacement.
        squarings: The exponential has ``2 ** squarings`` steps at least; a steep velocity takes more.
        masked: Leave the lesion out of the comparison; on the fixed image it always is.
        widths, skip, inputs, spread: Of the generator.
        noise: Standard deviation of what goes into it.
        redraw: Draw that anew for every step.
        seed: Of weights and noise.

    Answers are in mean lengths of a voxel, so that oblong voxels do not matter.

    References:
        M.-H. Laves, S. Ihler, T. Ortmaier: Deformable Medical Image Registration Using a Randomly-Initialized CNN as
        Regularization Prior. MIDL 2019, extended abstract.
    """

    def __init__(
        self,
        *,
        similarity: Any,
        iterations: int = 150,
        learning_rate: float = 3e-3,
        tolerance: float = 0.02,
        diffeomorphic: bool = False,
        squarings: int = 6,
        masked: bool = False,
        widths: tuple[int, ...] = (16, 32, 32, 32, 32),
        skip: int = 4,
        inputs: int = 8,
        noise: float = 0.1,
        spread: float = 0.01,
        redraw: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.similarity = part("similarity", similarity, reduction="mean")
        self.iterations, self.learning_rate, self.tolerance = iterations, learning_rate, tolerance
        self.diffeomorphic, self.squarings, self.masked = diffeomorphic, squarings, masked
        self.widths, self.skip, self.inputs, self.spread = tuple(widths), skip, inputs, spread
        self.noise, self.redraw, self.seed = noise, redraw, seed

    def register(self, pair: Pair, progress: Progress = silent) -> Registration:
        """Register a pair.

        Raises:
            ConfigError: If no axis has voxels enough for a level of the network.
        """
        begin = time.perf_counter()
        grid = pair.grid
        factors = strides(grid.shape, grid.spacing, len(self.widths))
        if not factors:
            raise ConfigError(
                f"fixed: has {' x '.join(map(str, grid.shape))} voxels; deep_image_prior needs {SHORTEST} along an axis"
            )
        search = _Search(self, pair)
        unit = math.prod(grid.spacing) ** (1 / grid.dim) / grid.per_axis(pair.fixed)
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(self.seed)
            network = Generator(factors, self.inputs, grid.dim, self.widths, self.skip, self.spread)
            network.to(pair.fixed)
            draw = torch.Generator().manual_seed(self.seed)
            optimizer = torch.optim.Adam(network.parameters(), lr=self.learning_rate)
            outcome, z = Outcome.EXHAUSTED, self._noise(pair, draw)
            for iteration in range(self.iterations):
                if self.redraw and iteration:
                    z = self._noise(pair, draw)
                cost = search.cost(unit * network(z))
                if not math.isfinite(float(cost.detach())):
                    outcome = Outcome.NONFINITE if iteration == 0 else Outcome.STALLED
                    break
                optimizer.zero_grad(set_to_none=True)
                cost.backward()
                optimizer.step()
                progress(0, 1, iteration + 1, self.iterations, search.costs[-1])
                if self._settled(search.costs):
                    outcome = Outcome.CONVERGED
                    break
        report = LevelReport(
            max(grid.spacing),
            tuple(search.costs),
            len(search.costs) - 1,
            time.perf_counter() - begin,
            outcome,
        )
        return search.result(report)

    def _noise(self, pair: Pair, draw: torch.Generator) -> Tensor:
        z = torch.randn(1, self.inputs, *pair.grid.shape, generator=draw)
        return self.noise * z.to(pair.fixed)

    def _settled(self, costs: list[float]) -> bool:
        if self.tolerance == 0 or len(costs) <= LEAST:
            return False
        return costs[-1 - PATIENCE] - costs[-1] <= self.tolerance * costs[0]


class _Search:
    """The cost of a field on one pair, and the best field so far.

    Attributes:
        costs: The lowest so far, at the start and after each step.
    """

    def __init__(self, method: DeepImagePrior, pair: Pair) -> None:
        self.method, self.pair = method, pair
        self.hidden = pair.mask if method.masked else None
        self.moving = pair.moving if self.hidden is None else filled(pair.moving, self.hidden)
        self.best = torch.zeros(1, pair.grid.dim, *pair.grid.shape).to(pair.fixed)
        self.folded = 0
        with torch.no_grad():
            self.costs = [float(self._compared(self.best))]

    def map_of(self, field: Tensor) -> Tensor:
        """Return the displacement that a field stands for."""
        if not self.method.diffeomorphic:
            return field
        return exponential(field, max(self.method.squarings, squarings_needed(field.detach())))

    def cost(self, field: Tensor) -> Tensor:
        """Return the cost with its gradient; the field is kept if it is the cheapest, and may be."""
        displacement = self.map_of(field)
        cost = self._compared(displacement)
        value = float(cost.detach())
        lowest = self.costs[-1]
        if value < lowest:
            if self.method.diffeomorphic and self._folds(field.detach(), displacement.detach()):
                self.folded += 1
            else:
                self.best, lowest = field.detach().clone(), value
        self.costs.append(lowest)
        return cost

    def _folds(self, field: Tensor, displacement: Tensor) -> bool:
        return bool(folds(displacement)) or bool(folds(self.map_of(-field)))

    def _compared(self, displacement: Tensor) -> Tensor:
        pair, weight = self.pair, self.pair.fixed_weight
        if pair.inside is not None:
            weight = weight * warp(pair.inside, displacement)
        if self.hidden is not None:
            weight = weight * (1 - warp(self.hidden, displacement))
        cost: Tensor = self.method.similarity(warp(self.moving, displacement), pair.fixed, weight)
        return cost

    @torch.no_grad()
    def result(self, report: LevelReport) -> Registration:
        notes = []
        displacement = self.map_of(self.best)
        if self.method.diffeomorphic:
            inverse = self.map_of(-self.best)
            if self.folded:
                notes.append(f"{self.folded} maps on the way would have folded, and were passed over")
        else:
            folded = folds(displacement)
            inverse = invert(displacement, tolerance=0.5 if folded else 1e-2)
            if folded:
                notes.append(f"the map folds at {folded} voxels; diffeomorphic=true keeps it from that")
        if self.pair.mask is not None and not self.method.masked:
            notes.append("the lesion was compared like all else: the mask is not used without masked=true")
        return Registration(
            grid=self.pair.grid,
            displacement=displacement,
            inverse=inverse,
            appearance=None,
            shape={"velocity" if self.method.diffeomorphic else "displacement": self.best},
            levels=(report,),
            notes=tuple(notes),
        )
