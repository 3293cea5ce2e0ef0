"""What the solvers need, built from the config: kernels and parts are objects here, no longer descriptions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmtk.fields import Grid, Kernel
from mmtk.regularizers import Regularizer
from mmtk.similarity import Similarity

if TYPE_CHECKING:
    from mmtk.integrators import Integrator

__all__ = ["Settings"]


@dataclass(frozen=True)
class Settings:
    """What the solvers need; the plugin's config describes each of these for the user."""

    kernel: Kernel
    spacing: float | None
    similarity: Similarity
    lam: float
    mu: float = 0.1
    coupled: bool = False
    lesion: str = "unknown"
    velocities: int = 1
    squarings: int = 3
    steps: int = 15
    integrator: Integrator | None = None
    levels: Sequence[float] = (8.0, 4.0, 2.0)
    iterations: Sequence[int] = (12, 12, 10)
    regularizers: Sequence[Regularizer] = ()
    optimizer: str = "lbfgs"
    learning_rate: float | None = None
    tolerance: float = 0.0
    checkpoint: bool = True
    detail: float = 0.0

    def node_spacing(self, grid: Grid) -> float:
        """Return the distance of the control nodes in mm.

        Half the kernel's finest width, unless it was set; but nodes denser than 2.5 voxels find nothing to hold on to.
        """
        return self.spacing or max(self.kernel.finest / 2, 2.5 * min(grid.spacing))

    @property
    def rho(self) -> float:
        """Price of the squared residual against the squared mismatch: 2 lambda / mu^2 (infinite at mu = 0)."""
        return 2 * self.lam / self.mu**2 if self.mu > 0 else float("inf")

    @property
    def floor(self) -> float:
        """Weight that the data term keeps inside the mask once the residual is eliminated: rho / (1 + rho).

        At mu = 0 there is no residual; the mask then only hides the lesion (cost-function masking), weight 0.
        """
        return 0.0 if self.mu == 0 else self.rho / (1 + self.rho)
