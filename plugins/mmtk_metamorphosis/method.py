"""The methods that this plugin offers: metamorphosis, split or coupled, and LDDMM, which is mu = 0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mmtk.config import ComponentConfig
from mmtk.errors import ConfigError
from mmtk.fields import Gaussian, Kernel, Sobolev, Sum, filled
from mmtk.method import Method, Pair, Progress, silent
from mmtk.result import Registration
from mmtk_metamorphosis.channels import Channels
from mmtk_metamorphosis.primal import register_white
from mmtk_metamorphosis.settings import Settings

__all__ = ["Metamorphosis", "make_kernel"]

#: Kind and width of the kernel, in mm. Two brains differ in every fold, so their kernel has to know detail; one brain
#: before and after moves smoothly, and a kernel that knows detail would follow noise. Found on pairs of people, and on
#: synthetic deformations that were not drawn from either kernel.
SUBJECTS: dict[str, tuple[str, tuple[float, ...]]] = {
    "another": ("sobolev", (8.0,)),
    "same": ("gaussian", (24.0, 12.0)),
}

#: Regularization weights that serve each kernel and data term, in mm units, found likewise.
LAMBDA = {"gaussian": {"ssd": 2e-6, "default": 5e-5}, "sobolev": {"ssd": 2e-5, "default": 1e-4}}

#: Width in mm of the finer kernel around a lesion, and the weight of the intensity change, found on the same cases.
#: Two people: their kernel knows detail already, and the freer the lesion may be painted, the less it is distorted.
DETAIL = {"another": 0.0, "same": 7.0}
MU = {"another": 0.15, "same": 0.1}
#: The coupled model has its published weight.
COUPLED_MU = 0.1

UNUSED = "the lesion was compared like all else: the mask is not used without masked=true"


def make_kernel(
    subject: str,
    kind: str | None,
    sigma: Sequence[float] | None,
    weights: Sequence[float] | None,
    order: float,
) -> tuple[str, Kernel]:
    """Return the kernel and its kind: a Gaussian, a weighted sum of several, or Sobolev of length ``sigma[0]``.

    Args:
        subject: Whose images: sets what is None.
        kind: ``gaussian`` or ``sobolev``; with widths alone, Gaussian.
        sigma: Widths in mm.
        weights: One for each width; if None, 1, 0.1, 0.01, ...
        order: Of a Sobolev kernel.
    """
    usual, width = SUBJECTS[subject]
    if kind is None:
        kind = usual if sigma is None else "gaussian"
    if sigma is None:
        sigma = width if kind == usual else dict(SUBJECTS.values())[kind]
    if kind == "sobolev":
        return kind, Sobolev(sigma[0], order)
    if len(sigma) == 1:
        return kind, Gaussian(sigma[0])
    shares = weights or tuple(0.1**k for k in range(len(sigma)))
    return kind, Sum(tuple(Gaussian(s) for s in sigma), tuple(shares))


class Metamorphosis(Method):
    """Metamorphosis (thesis eq. 5.2, 5.3, 5.11), coupled as published or split into shape and residual.

    The arguments are the fields of ``MetamorphosisConfig``, which describes each of them.
    """

    def __init__(
        self,
        *,
        similarity: ComponentConfig,
        channel_similarity: Sequence[ComponentConfig] = (),
        channel_weights: Sequence[float] | None = None,
        integrator: ComponentConfig | None = None,
        regularizers: Sequence[ComponentConfig] = (),
        momentum: str = "split",
        shape: str = "white",
        lesion: str = "unknown",
        mu: float | None = None,
        lam: float | None = None,
        subject: str = "another",
        kernel: str | None = None,
        sigma: Sequence[float] | None = None,
        sigma_weights: Sequence[float] | None = None,
        order: float = 2.0,
        detail: float | None = None,
        stride: float | None = None,
        velocities: int = 1,
        steps: int = 15,
        squarings: int = 3,
        levels: Sequence[float] = (8.0, 4.0, 2.0),
        iterations: Sequence[int] = (12, 12, 10),
        optimizer: str = "lbfgs",
        learning_rate: float | None = None,
        tolerance: float = 0.0,
        checkpoint: bool = True,
        engine: str = "optimize",
        weights: str | None = None,
        refine_steps: int = 20,
        masked: bool | None = None,
    ) -> None:
        super().__init__()
        self.engine, self.learned = engine, None
        self.masked = masked
        if (
            masked
        ):  # nothing is painted, so nothing couples; and what lies beside the lesion is averaged without it
            momentum, mu, lesion = "split", 0.0, "replaced" if lesion == "unknown" else lesion
        if weights is not None and engine != "optimize":
            from mmtk.learned import learned_method

            self.learned = learned_method(weights)
            levels, iterations = levels[-1:], (refine_steps,)
        kind, core = make_kernel(subject, kernel, sigma, sigma_weights, order)
        usual, coupled = LAMBDA[kind], momentum == "coupled"
        self.shape = shape
        parts = tuple(channel_similarity) or (similarity,)
        self.parts = tuple(part.build() for part in parts)
        self.channel_weights = channel_weights
        self.settings = Settings(
            kernel=core,
            spacing=stride,
            similarity=self.parts[0],
            lam=usual.get(parts[0].kind, usual["default"]) if lam is None else lam,
            mu=(COUPLED_MU if coupled else MU[subject]) if mu is None else mu,
            coupled=coupled,
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
            detail=DETAIL[subject] if detail is None else detail,
        )

    def register(self, pair: Pair, progress: Progress = silent) -> Registration:
        """Register a pair; see :mod:`mmtk_metamorphosis.primal` and :mod:`mmtk_metamorphosis.momentum`."""
        if self.learned is None:
            start = None
        else:
            found = self.learned.register(pair)
            if self.engine == "network":
                return found
            start = found.displacement
        notes: tuple[str, ...] = ()
        lesion = pair.mask
        if lesion is not None and self.settings.mu == 0:
            if self.masked is False:
                pair, notes = replace(pair, mask=None), (UNUSED,)
            else:  # in averages and slopes, too, the lesion is not there
                pair = replace(pair, moving=filled(pair.moving, lesion))
        with torch.enable_grad():  # whatever the caller has set: the descent needs them
            found = self._register(pair, progress, start)
        return replace(found, notes=(*found.notes, *notes))

    def _register(self, pair: Pair, progress: Progress, start: Tensor | None) -> Registration:
        channels = Channels(pair.moving.shape[1], self.channel_weights, self.parts)
        pair, settings = channels.of(pair), replace(self.settings, similarity=channels.similarity)
        return channels.back(self._solved(pair, settings, progress, start))

    def _solved(self, pair: Pair, settings: Settings, progress: Progress, start: Tensor | None) -> Registration:
        if self.shape == "white":
            return register_white(pair, settings, progress, self.milestones, start)
        from mmtk_metamorphosis.momentum import register_momentum

        if settings.integrator is None:
            raise ConfigError(
                "integrator=none: a scalar momentum is integrated in time; choose integrator=lagrangian"
            )
        return register_momentum(pair, settings, progress, self.milestones)
