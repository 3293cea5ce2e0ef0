r"""The metamorphic auto-encoder of Bone et al. (MICCAI 2020), 2-D and 3-D.

An image is the template T, changed in intensity and then deformed:

.. math::
    I \approx (T + n) \circ \exp(-v), \qquad v = K_s v^*, \quad n = K_a n^*, \qquad
    \|v\|_V = \|s\|, \quad \|n\|_N = \|a\|

Two latent vectors, s of the shape and a of the appearance, are decoded into dual fields, smoothed, and rescaled so that
the norms of the fields are those of the vectors: lengths in the latent spaces are those of velocities and residuals. An
encoder sees I - T. Trained as a variational auto-encoder,

.. math::
    E = \tfrac{1}{2} \|I - (T + n) \circ \exp(-v)\|_2^2
        + \sigma^2 h\, [KL(q(s) \| N(0, \lambda_s^2)) + KL(q(a) \| N(0, \lambda_a^2))]

with the cell volume h, so that it is the published evidence bound at 1 mm, times the variance of the noise. The
appearance is free to change everywhere: a mask means nothing here.

To register, T is the fixed image: :math:`\exp(v)` is the pull-back from it, and ``-n`` the change of appearance.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmtk.fields import Gaussian, Grid, Smoother, exponential, warp
from mmtk.learned import Batch, Model, Prediction

__all__ = ["MetamorphicAutoencoder"]

#: What the log variances begin at. From 0, the vectors that are drawn in training would be noise of the size of all
#: that there is to learn.
SURE = -5.0


class _Encoder(nn.Module):
    """From an image to means and log variances of its latent vector."""

    def __init__(self, grid: Grid, channels: int, widths: Sequence[int], latent: int) -> None:
        super().__init__()
        conv = nn.Conv2d if grid.dim == 2 else nn.Conv3d
        layers: list[nn.Module] = []
        for before, after in zip([channels, *widths], widths, strict=False):
            layers += [conv(before, after, 4, stride=2, padding=1), nn.Tanh()]
        self.convolutions = nn.Sequential(*layers)
        with torch.no_grad():
            size = self.convolutions(torch.zeros(1, channels, *grid.shape)).numel()
        self.answer = nn.Linear(size, 2 * latent)
        with torch.no_grad():
            self.answer.bias[:latent] = 0
            self.answer.bias[latent:] = SURE

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.answer(self.convolutions(image).flatten(1)).chunk(2, dim=1)
        return mean, log_variance.clamp(-12, 12)


class _Decoder(nn.Module):
    """From a latent vector to a field on a grid, through ever finer ones.

    Without biases and with odd functions alone, so that opposite vectors are opposite fields. Otherwise the field of a
    small vector, once it is rescaled, would not depend on where the vector points.
    """

    def __init__(self, shape: Sequence[int], latent: int, widths: Sequence[int], out: int) -> None:
        super().__init__()
        conv = nn.Conv2d if len(shape) == 2 else nn.Conv3d
        self.shapes = [tuple(max(2, -(-n // 2**k)) for n in shape) for k in range(len(widths), -1, -1)]
        self.first = nn.Linear(latent, widths[-1] * prod(self.shapes[0]), bias=False)
        down = [*reversed(widths), out]
        self.convolutions = nn.ModuleList(
            conv(before, after, 3, padding=1, bias=False) for before, after in pairwise(down)
        )

    def forward(self, vector: Tensor) -> Tensor:
        field = torch.tanh(self.first(vector).view(len(vector), -1, *self.shapes[0]))
        for number, (convolution, shape) in enumerate(zip(self.convolutions, self.shapes[1:], strict=True)):
            field = convolution(_resized(field, shape))
            if number < len(self.convolutions) - 1:
                field = torch.tanh(field)
        return field


class MetamorphicAutoencoder(Model):
    """Shape and appearance of an image as two short vectors.

    Args:
        grid: The grid that the weights belong to.
        shape_latent, appearance_latent: Lengths of the vectors.
        shape_scale, appearance_scale: ``lambda_s``, ``lambda_a``: standard deviations that the vectors are expected to
            have; the larger, the freer. Of the shape in mm^(1 + dim/2) per unit time, of the appearance in intensity
            times mm^(dim/2).
        shape_sigma, appearance_sigma: Widths of the Gaussian kernels, mm.
        noise: Standard deviation of what neither explains, in intensity.
        channels: Of each image.
        widths: Channels of the encoder's levels, finest first; the decoders go back up through them.
        squarings: The flow is composed from ``2 ** squarings`` steps.

    References:
        Bone, Vernhet, Colliot, Durrleman: Learning joint shape and appearance representations with metamorphic
        auto-encoders. MICCAI 2020. Maillard's thesis (2023), table 5.2 and figure 5.8.
    """

    one_template = True

    def __init__(
        self,
        grid: Grid,
        *,
        shape_latent: int = 128,
        appearance_latent: int = 32,
        shape_scale: float = 269.0,
        appearance_scale: float = 10.0,
        shape_sigma: float = 6.0,
        appearance_sigma: float = 3.0,
        noise: float = 0.1,
        channels: int = 1,
        widths: Sequence[int] = (8, 16, 32, 32),
        squarings: int = 5,
    ) -> None:
        super().__init__()
        self.grid, self.noise, self.squarings = grid, noise, squarings
        self.split = shape_latent
        self.scales = (shape_scale, appearance_scale)
        # Both fields are decoded, and velocities live, on every other voxel.
        half = tuple(-(-n // 2) for n in grid.shape)
        spacing = tuple(h * (n - 1) / (m - 1) for n, m, h in zip(grid.shape, half, grid.spacing, strict=True))
        self.nodes = Grid(half, spacing)
        self.shape_kernel = Smoother(Gaussian(shape_sigma), self.nodes, 3 * shape_sigma)
        self.appearance_kernel = Smoother(Gaussian(appearance_sigma), grid, 3 * appearance_sigma)
        self.encoder = _Encoder(grid, channels, widths, shape_latent + appearance_latent)
        self.shape_decoder = _Decoder(half, shape_latent, widths[:-1], grid.dim)
        self.appearance_decoder = _Decoder(half, appearance_latent, widths[:-1], channels)

    def forward(self, batch: Batch, *, maps: bool = False) -> Prediction:
        self.check(batch)
        mean, log_variance = self.encoder(batch.moving - batch.fixed)
        if not self.training:
            return self.follow(batch, (mean,), maps=maps)
        drawn = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
        return self._decoded(batch, drawn, divergence, maps)

    def follow(self, batch: Batch, path: tuple[Tensor, ...], *, maps: bool = False) -> Prediction:
        self.check(batch)
        (latent,) = path
        return self._decoded(batch, latent, 0.5 * latent.square().sum(1), maps)

    @torch.no_grad()
    def predict(self, batch: Batch) -> tuple[Tensor, ...]:
        return (self.encoder(batch.moving - batch.fixed)[0],)

    def decode(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Return velocity, in nodes per unit time on every other voxel, and appearance, of vectors ``(B, latent)``.

        The vectors are in units of ``lambda_s`` and ``lambda_a``.
        """
        shape, appearance = latent[:, : self.split], latent[:, self.split :]
        velocity = _of_length(self.shape_decoder(shape), self.shape_kernel, self.nodes, self.scales[0] * shape)
        dual = _resized(self.appearance_decoder(appearance), self.grid.shape)
        residual = _of_length(dual, self.appearance_kernel, self.grid, self.scales[1] * appearance)
        return velocity / self.nodes.per_axis(velocity), residual

    def _decoded(self, batch: Batch, latent: Tensor, price: Tensor, maps: bool) -> Prediction:
        velocity, residual = self.decode(latent)
        inverse = self._flow(-velocity)
        seen = warp(batch.fixed + residual, inverse)
        cells = self.grid.cell_volume
        data = 0.5 * cells * (batch.moving - seen).square().flatten(1).sum(1)
        with torch.no_grad():  # the energy does without
            displacement = self._flow(velocity)
            warped = warp(batch.moving, displacement) - residual
        return Prediction(
            warped=warped,
            displacement=displacement,
            data=data,
            cost=self.noise**2 * cells * price,
            lesion=None if batch.mask is None else warp(batch.mask, displacement),
            inverse=inverse if maps else None,
            path=(latent.detach(),),
        )

    def _flow(self, velocity: Tensor) -> Tensor:
        """Return the displacement of a velocity on the nodes, in voxels of the full grid."""
        flow = _resized(exponential(velocity, self.squarings), self.grid.shape)
        return flow * (self.nodes.per_axis(flow) / self.grid.per_axis(flow))


def _of_length(dual: Tensor, kernel: Smoother, grid: Grid, vector: Tensor) -> Tensor:
    """Return ``K dual``, scaled so that its norm in the kernel's space is the Euclidean norm of the latent vector."""
    field = kernel(dual)
    squared = grid.cell_volume * (dual * field).flatten(1).sum(1)
    factor = vector.norm(dim=1) / squared.clamp_min(1e-20).sqrt()
    return field * factor.view(-1, *[1] * (field.ndim - 1))


def _resized(field: Tensor, shape: Sequence[int]) -> Tensor:
    mode = "bilinear" if field.ndim == 4 else "trilinear"
    return F.interpolate(field, size=tuple(shape), mode=mode, align_corners=True)
