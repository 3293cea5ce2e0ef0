r"""MetaMorph-R and MetaMorph-G: one energy, two ways to get at the momenta.

.. math::
    E = D(I_T, J) + \frac{\lambda}{T} \sum_t \|v_t\|_V^2 + \mu^2 \|\sqrt{m_t} z_t\|^2
        \; [+ \gamma \|Id - \phi_T^{-1} \circ \hat\phi_T\|^2]

(thesis eq. 5.4 and 5.7 with 5.11). Coupled, the momentum drives the shape and fills the lesion. Split, ``(1 - m) z``
drives the shape and the lesion is filled by the residual that is best for that shape, which leaves the data term a
weight there (:mod:`mmtk_metamorphosis.primal` has the derivation). Masked, nothing is filled, that weight is 0, and
where the lesion was network and equations see what its surroundings suggest.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from mmtk.equations import Metamorphosis
from mmtk.errors import ConfigError
from mmtk.fields import Gaussian, Grid, Kernel, Sum, filled, warp
from mmtk.integrators import Context, Integrator
from mmtk.learned import Backbone, Batch, Model, Prediction
from mmtk.shooting import shoot
from mmtk.similarity import Similarity
from mmtk_metamorph.blocks import residual_blocks
from mmtk_metamorph.resnet import Given, ResNet

__all__ = ["MetaMorph", "MetaMorphG", "MetaMorphR"]


class MetaMorph(Model):
    """What both share: the equation, the energy, the path.

    Args:
        grid: The grid that the weights belong to.
        similarity: Of the data term, with the reduction ``none``.
        sigma: Widths of the kernel in mm; several: a sum, each a tenth of the last.
        lam, mu: ``lambda`` and ``mu`` of the energy.
        momentum: ``coupled`` or ``split``.
        masked: Leave the lesion out of the cost and of what the network sees; no intensity changes.
        steps: T.
        inverse_weight: ``gamma`` of the inverse-consistency term (thesis 5.2.1).
        checkpoint: Keep each step's state alone in training, and compute the step again on the way back.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        similarity: Similarity,
        sigma: Sequence[float] = (6.0,),
        lam: float = 3e-6,
        mu: float = 0.05,
        momentum: str = "coupled",
        masked: bool = False,
        steps: int = 15,
        inverse_weight: float = 0.0,
        checkpoint: bool = True,
    ) -> None:
        super().__init__()
        if momentum == "split" and mu == 0 and not masked:
            raise ConfigError("mu=0: split momentum paints a residual, which mu = 0 forbids; give mu > 0")
        self.grid, self.similarity = grid, similarity
        self.masked = masked
        self.lam, self.mu, self.split, self.steps = lam, mu, masked or momentum == "split", steps
        self.inverse_weight, self.checkpoint = inverse_weight, checkpoint
        kernel: Kernel = Gaussian(sigma[0])
        if len(sigma) > 1:
            kernel = Sum(tuple(Gaussian(s) for s in sigma), tuple(0.1**k for k in range(len(sigma))))
        self.equation = Metamorphosis.from_kernel(
            kernel, grid, 0.0 if self.split else mu, stride=kernel.finest / 2
        )

    @abstractmethod
    def begin(self, batch: Batch) -> tuple[Integrator, Tensor]:
        """Return what integrates the network's path, and the momentum that it begins with."""

    @abstractmethod
    def given(self, path: tuple[Tensor, ...]) -> tuple[Integrator, Tensor]:
        """Return what integrates a path that is given, and the momentum that it begins with."""

    def forward(self, batch: Batch, *, maps: bool = False) -> Prediction:
        self.check(batch)
        return self._shot(batch, *self.begin(self._seen(batch)), maps=maps)

    def follow(self, batch: Batch, path: tuple[Tensor, ...], *, maps: bool = False) -> Prediction:
        self.check(batch)
        return self._shot(batch, *self.given(path), maps=maps)

    def _seen(self, batch: Batch) -> Batch:
        """Return the batch without what its lesion shows, if that is to be left out."""
        if not self.masked or batch.mask is None:
            return batch
        return replace(batch, moving=filled(batch.moving, batch.mask))

    def _shot(self, batch: Batch, integrator: Integrator, momentum: Tensor, *, maps: bool) -> Prediction:
        both = maps or self.inverse_weight > 0
        context = Context(mask=batch.mask, fixed=batch.fixed, back=True, maps=both)
        start = integrator.begin(self.equation, self._seen(batch).moving, momentum, context)
        path: list[Tensor] = []
        checkpoint = self.checkpoint and torch.is_grad_enabled()
        for state in shoot(self.equation, integrator, start, self.steps, checkpoint=checkpoint):
            if not self.training and len(path) < self.wanted:
                path.append(state.momentum.detach().to(torch.float16 if maps else state.momentum.dtype))
        lesion, cells = state.mask, self.grid.cell_volume
        cost = self.lam * (state.kinetic + state.residual)
        weight = torch.ones_like(batch.fixed[:, :1]) if batch.fixed_mask is None else 1 - batch.fixed_mask
        if self.split and lesion is not None:
            # What the best residual leaves of the data term, and of itself: (1 - m) + m rho / (1 + rho).
            weight = weight * (1 - lesion * (1 if self.masked else 1 / (1 + self.rho)))
        data = cells * self.similarity(state.image, batch.fixed, weight).flatten(1).sum(1)
        if self.inverse_weight > 0:
            there_and_back = state.inverse + warp(state.displacement, state.inverse)
            cost = cost + self.inverse_weight * cells * there_and_back.square().flatten(1).sum(1)
        warped = state.image
        if self.masked:
            warped = warp(batch.moving, state.displacement)
        elif self.split and lesion is not None:
            warped = warped + lesion * (batch.fixed - warped) / (1 + self.rho)
        return Prediction(
            warped=warped,
            displacement=state.displacement,
            data=data,
            cost=cost,
            lesion=lesion,
            inverse=state.inverse if both else None,
            path=tuple(path),
        )

    @property
    def wanted(self) -> int:
        """How many momenta of a path, from its first on, determine it. With maps asked for, the end of a registration,
        they are kept in half precision: of a volume they are the largest thing to keep, in memory and in files."""
        return self.steps

    @property
    def rho(self) -> float:
        """Price of the squared residual against the squared mismatch."""
        return 2 * self.lam / self.mu**2

    @torch.no_grad()
    def predict(self, batch: Batch) -> tuple[Tensor, ...]:
        training = self.training
        self.eval()
        try:
            return self(batch).path
        finally:
            self.train(training)


class MetaMorphR(MetaMorph):
    """A residual network in place of the momentum's equation; its first momentum is one learned image.

    Args:
        grid, ...: See :class:`MetaMorph`.
        carrier: How images are resampled, one of ``mmtk_metamorph.resnet.CARRIERS``.
        channels: Of each image.
        hidden: Channels within a block.
        scale: Size of momenta as the network sees them.
        half: Convolve in bfloat16.

    References:
        Maillard et al., ISBI 2022, eq. 5-7; Maillard's thesis (2023), section 5.2.2.
    """

    one_template = True

    def __init__(
        self,
        grid: Grid,
        *,
        carrier: str = "lagrangian",
        channels: int = 1,
        hidden: int = 32,
        scale: float = 100.0,
        half: bool = False,
        **energy: object,
    ) -> None:
        super().__init__(grid, **energy)  # type: ignore[arg-type]
        self.carrier, self.scale = carrier, scale
        self.blocks = residual_blocks(self.steps, grid.dim, channels, hidden, scale, half)
        #: ``z_0 / scale``.
        self.start = nn.Parameter(torch.zeros(1, channels, *grid.shape))

    def begin(self, batch: Batch) -> tuple[Integrator, Tensor]:
        momentum = (self.scale * self.start).expand(len(batch), *self.start.shape[1:])
        return ResNet(self.blocks, self.carrier, self.split), momentum

    def given(self, path: tuple[Tensor, ...]) -> tuple[Integrator, Tensor]:
        whole = tuple(momentum.to(self.start) for momentum in path)
        return Given(whole, self.carrier, self.split), whole[0]


class MetaMorphG(MetaMorph):
    """A U-Net predicts the initial momentum; the equations of metamorphosis do the rest.

    Args:
        grid, ...: See :class:`MetaMorph`.
        integrator: Of the shooting; the thesis has ``semi_lagrangian``.
        channels: Of each image.
        widths: Channels of the U-Net's levels, finest first.
        scale: The U-Net's answer is multiplied by it.
        half: Convolve in bfloat16.

    References:
        Maillard's thesis (2023), section 5.2.1, eq. 5.4, algorithm 5.1.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        integrator: Integrator,
        channels: int = 1,
        widths: Sequence[int] = (16, 32, 32, 32),
        scale: float = 100.0,
        half: bool = False,
        **energy: object,
    ) -> None:
        super().__init__(grid, **energy)  # type: ignore[arg-type]
        self.integrator, self.scale = integrator, scale
        self.backbone = Backbone(grid.dim, 2 * channels, channels, widths, half)

    def begin(self, batch: Batch) -> tuple[Integrator, Tensor]:
        momentum = self.scale * self.backbone(torch.cat([batch.moving, batch.fixed], dim=1))
        return self.integrator, self.drive(momentum, batch)

    def given(self, path: tuple[Tensor, ...]) -> tuple[Integrator, Tensor]:
        return self.integrator, path[0]

    def follow(self, batch: Batch, path: tuple[Tensor, ...], *, maps: bool = False) -> Prediction:
        return super().follow(batch, (self.drive(path[0].to(batch.moving), batch),), maps=maps)

    def drive(self, momentum: Tensor, batch: Batch) -> Tensor:
        """Return the part of the momentum that acts."""
        return momentum * (1 - batch.mask) if self.split and batch.mask is not None else momentum

    @property
    def wanted(self) -> int:
        return 1
