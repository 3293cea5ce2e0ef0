r"""The two layers that the network is trained through: the exponential of a velocity, and the symmetric correlation.

.. math::
    \phi_0 = id + 2^{-N} v, \qquad \phi_k = \phi_{k-1} \circ \phi_{k-1}, \qquad \exp(v) = \phi_N

The paper's equation 2 prints its weight twice, in the criterion and in the likelihood; here it is in the energy alone:

.. math::
    D(F, M, v) = 1 - \frac{\overline{a b}^2}{\overline{a^2} \; \overline{b^2} + \epsilon}, \qquad
    a = M \circ \exp(v/2), \quad b = F \circ \exp(-v/2)

with means :math:`\overline{f}` under a Gaussian window, and 1 added, so that what matches costs nothing.

References:
    J. Krebs, T. Mansi, B. Mailhé, N. Ayache, H. Delingette: Learning structured deformations using diffeomorphic
    registration. 2018, section 2 and equation 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from mmtk.fields import along_axes, compose, exponential, squarings_needed
from mmtk.types import Displacement, Image, Weight

__all__ = ["Exponentiation", "Flow", "GaussianCorrelation"]


@dataclass(frozen=True, eq=False)
class Flow:
    """The displacements of a velocity's flow, each ``(B, dim, *space)`` in voxels.

    Attributes:
        whole: Of ``exp(v)``.
        half, half_back: Of ``exp(v/2)`` and ``exp(-v/2)``.
    """

    whole: Displacement
    half: Displacement
    half_back: Displacement

    @property
    def back(self) -> Displacement:
        """Of ``exp(-v)``."""
        return compose(self.half_back, self.half_back)


class Exponentiation(nn.Module):
    """Scaling and squaring as a layer; differentiable, without parameters.

    Args:
        squarings: ``N``, 1 or more: the flow is composed of ``2 ** N`` equal steps. ``auto``: the least N by which no
            step can fold, ``max |Dv| / 2^N < 1/2`` over the batch.
    """

    def __init__(self, squarings: int | Literal["auto"] = 4) -> None:
        super().__init__()
        self.squarings = squarings

    def count(self, velocity: Tensor) -> int:
        """Return ``N`` for a velocity ``(B, dim, *space)`` in voxels per unit time."""
        if self.squarings == "auto":
            return max(1, squarings_needed(velocity.detach()))
        return self.squarings

    def forward(self, velocity: Tensor) -> Displacement:
        """Return the displacement of the flow at time 1, ``(B, dim, *space)`` in voxels."""
        return exponential(velocity, self.count(velocity))

    def halves(self, velocity: Tensor) -> Flow:
        """Return the flow at time 1, and half-way from either end.

        The last squaring of ``exp(v)`` is of ``exp(v/2)``, so that all share their steps.
        """
        count = self.count(velocity) - 1
        half, half_back = exponential(velocity / 2, count), exponential(-velocity / 2, count)
        return Flow(compose(half, half), half, half_back)


class GaussianCorrelation(nn.Module):
    """One minus the squared local correlation under a Gaussian window, see the module's docstring.

    Args:
        sigma: Width of the Gaussian, voxels.
        window: Its support, an odd number of voxels along each axis.
        eps: Added to the denominator: the fourth power of an intensity. Far below it nothing is compared, and D is 1.
        centered: Less the local means, so that D is the correlation coefficient's and is blind to brightness; as
            printed the means are not taken off, and bright regions match whatever they hold. It has ``eps`` in
            variances and covariance, which makes D 0 where both are flat.
    """

    def __init__(self, *, sigma: float = 2.0, window: int = 9, eps: float = 1e-5, centered: bool = False) -> None:
        super().__init__()
        self.eps, self.centered = eps, centered
        offsets = torch.arange(window, dtype=torch.float64) - window // 2
        bell = torch.exp(-0.5 * (offsets / sigma).square())
        self.register_buffer("bell", bell / bell.sum(), persistent=False)

    def forward(self, a: Image, b: Image, weight: Weight) -> Image:
        """Return ``D``, ``(B, C, *space)``; voxels of weight 0 are in no mean, and the map is not yet weighted."""
        share = self._smoothed(weight).clamp_min(1e-6)

        def mean(f: Tensor) -> Tensor:
            return self._smoothed(f * weight) / share

        ab, aa, bb = mean(a * b), mean(a * a), mean(b * b)
        if not self.centered:
            return 1 - ab.square() / (aa * bb + self.eps)
        mean_a, mean_b = mean(a), mean(b)
        variances = [(f - m.square()).clamp_min(0) + self.eps for f, m in ((aa, mean_a), (bb, mean_b))]
        return 1 - (ab - mean_a * mean_b + self.eps).square() / (variances[0] * variances[1])

    def _smoothed(self, field: Tensor) -> Tensor:
        """Convolve along each axis, by one banded matrix each; beyond the border is 0, which the weight makes up for."""
        return along_axes(field, [self._band(size).to(field.dtype) for size in field.shape[2:]])

    def _band(self, size: int) -> Tensor:
        """Return the window as a symmetric matrix ``(size, size)``."""
        bell = self.get_buffer("bell")
        places = torch.arange(size, device=bell.device)
        offsets = places[:, None] - places + len(bell) // 2
        return torch.where((offsets >= 0) & (offsets < len(bell)), bell[offsets.clamp(0, len(bell) - 1)], 0)
