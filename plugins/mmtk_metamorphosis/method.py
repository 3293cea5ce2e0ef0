"""The methods that this plugin offers: metamorphosis, split or coupled, and LDDMM, which is mu = 0."""

from __future__ import annotations

from collections.abc import Sequence

from mmtk.config import ComponentConfig
from mmtk.errors import ConfigError
from mmtk.fields import Gaussian, Kernel, Sobolev, Sum
from mmtk.method import Method, Pair, Progress, silent
from mmtk.result import Registration
from mmtk_metamorphosis.primal import register_white
from mmtk_metamorphosis.settings import Settings

__all__ = ["Metamorphosis", "make_kernel"]

#: Regularization weights that serve each data term, in mm units; found on synthetic tumors and on pairs of people.
LAMBDA = {
    "ssd": 2e-6, "local_ssd": 5e-5, "lncc": 5e-5, "ncc": 5e-5, "mi": 5e-5, "vir": 5e-5,
}  # fmt: skip


def make_kernel(kind: str, sigma: Sequence[float], weights: Sequence[float], order: float) -> Kernel:
    """Return the kernel: a Gaussian, a weighted sum of several, or Sobolev of length ``sigma[0]``."""
    if kind == "sobolev":
        return Sobolev(sigma[0], order)
    if len(sigma) == 1:
        return Gaussian(sigma[0])
    return Sum(tuple(Gaussian(s) for s in sigma), tuple(weights))


class Metamorphosis(Method):
    """Metamorphosis (thesis eq. 5.2, 5.3, 5.11), coupled as published or split into shape and residual.

    The arguments are the fields of ``MetamorphosisConfig``, which describes each of them.
    """

    def __init__(
        self,
        *,
        similarity: ComponentConfig,
        integrator: ComponentConfig | None = None,
        regularizers: Sequence[ComponentConfig] = (),
        momentum: str = "split",
        shape: str = "white",
        lesion: str = "unknown",
        mu: float = 0.1,
        lam: float | None = None,
        kernel: str = "gaussian",
        sigma: Sequence[float] = (24.0, 12.0),
        sigma_weights: Sequence[float] = (1.0, 0.1),
        order: float = 2.0,
        stride: float | None = 6.0,
        velocities: int = 1,
        steps: int = 15,
        squarings: int = 3,
        levels: Sequence[float] = (8.0, 4.0, 2.0),
        iterations: Sequence[int] = (12, 12, 10),
        optimizer: str = "lbfgs",
        learning_rate: float | None = None,
        tolerance: float = 0.0,
        checkpoint: bool = True,
    ) -> None:
        super().__init__()
        core = make_kernel(kernel, sigma, sigma_weights, order)
        self.shape = shape
        self.settings = Settings(
            kernel=core,
            spacing=stride or core.finest / 2,
            similarity=similarity.build(),
            lam=LAMBDA.get(similarity.kind, 5e-5) if lam is None else lam,
            mu=mu,
            coupled=momentum == "coupled",
            lesion=lesion,
            velocities=velocities,
            squarings=squarings,
            steps=steps,
            integrator=None if integrator is None else integrator.build(),
            levels=tuple(levels),
            iterations=tuple(iterations),
            regularizers=tuple(part.build() for part in regularizers),
            optimizer=optimizer,
            learning_rate=learning_rate,
            tolerance=tolerance,
            checkpoint=checkpoint,
        )

    def register(self, pair: Pair, progress: Progress = silent) -> Registration:
        """Register a pair; see :mod:`mmtk_metamorphosis.primal` and :mod:`mmtk_metamorphosis.momentum`."""
        if self.shape == "white":
            return register_white(pair, self.settings, progress)
        from mmtk_metamorphosis.momentum import register_momentum

        if self.settings.integrator is None:
            raise ConfigError(
                "integrator=none: a scalar momentum is integrated in time; choose integrator=lagrangian"
            )
        return register_momentum(pair, self.settings, progress)
