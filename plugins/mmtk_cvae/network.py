r"""The diffeomorphic conditional variational auto-encoder of Krebs et al. (2018), 2-D and 3-D.

An encoder sees both images and says mean and variance of a code z; a decoder makes a stationary velocity of the code,
and sees the moving image, sub-sampled, at each of its levels. So the code need not tell the anatomy, and may be put
beside another one.

.. math::
    E = |\Omega| \, \Big( \lambda \, \overline{D(F, M, v)} + \tfrac{1}{d} KL[q(z | F, M) \,\|\, N(0, I)] \Big), \qquad
    v = dec(z, M)

with the symmetric local correlation D of :mod:`mmtk_cvae.layers` and the volume :math:`|\Omega|`. The paper does not say
whether its terms are sums or means. Both are means here, over voxels and over the d numbers of the code: with the
published lambda and a sum over the code nothing is worth its price, and the code dies out. There is no other
regularization, but for a Gaussian on the velocity, which the paper does not have and which is off by itself.

In training z is drawn. Otherwise it is the mean, its price is that of the prior alone, :math:`|z|^2 / (2 d)`, and
nothing is left to chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmtk.fields import Gaussian, Grid, Smoother, warp
from mmtk.learned import Batch, Model, Prediction
from mmtk.types import Image
from mmtk_cvae.layers import Exponentiation, Flow, GaussianCorrelation

__all__ = ["DiffeomorphicCVAE"]

#: Channels of the coarsest map that a code is unfolded to.
SEED_CHANNELS = 4
#: What the log variances begin at: codes that are drawn in the first steps shall tell something.
SURE = -3.0


def _conv(dim: int) -> type[nn.Conv2d] | type[nn.Conv3d]:
    return nn.Conv2d if dim == 2 else nn.Conv3d


def _norm(dim: int, channels: int) -> nn.Module:
    return (nn.BatchNorm2d if dim == 2 else nn.BatchNorm3d)(channels)


class _Encoder(nn.Module):
    """Four convolutions, three poolings, and one layer for mean and log variance."""

    def __init__(self, shape: Sequence[int], channels: int, widths: Sequence[int], latent: int) -> None:
        super().__init__()
        dim = len(shape)
        pool = nn.MaxPool2d if dim == 2 else nn.MaxPool3d
        layers: list[nn.Module] = []
        for number, (before, after) in enumerate(pairwise([2 * channels, *widths])):
            layers += [_conv(dim)(before, after, 3, padding=1), _norm(dim, after), nn.LeakyReLU(0.2)]
            if number < len(widths) - 1:
                layers.append(pool(2))
        self.convolutions = nn.Sequential(*layers)
        self.answer = nn.Linear(widths[-1] * prod(shape) // 2 ** (dim * (len(widths) - 1)), 2 * latent)
        with torch.no_grad():
            self.answer.bias[:latent] = 0
            self.answer.bias[latent:] = SURE

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.answer(self.convolutions(images).flatten(1)).chunk(2, dim=1)
        return mean, log_variance.clamp(-12, 12)


class _Decoder(nn.Module):
    """Three deconvolutions, each beside the moving image at its size, and a convolution; untrained, it answers 0."""

    def __init__(self, shape: Sequence[int], channels: int, widths: Sequence[int], latent: int) -> None:
        super().__init__()
        dim, levels = len(shape), len(widths)
        deconv = nn.ConvTranspose2d if dim == 2 else nn.ConvTranspose3d
        self.coarse = tuple(n // 2**levels for n in shape)
        self.first = nn.Linear(latent, SEED_CHANNELS * prod(self.coarse))
        self.levels = nn.ModuleList()
        before = SEED_CHANNELS
        for width in widths:
            self.levels.append(
                nn.Sequential(deconv(before, width, 4, stride=2, padding=1), _norm(dim, width), nn.LeakyReLU(0.2))
            )
            before = width + channels
        self.answer = _conv(dim)(before, dim, 3, padding=1)
        nn.init.zeros_(self.answer.weight)
        nn.init.zeros_(self.answer.bias)  # type: ignore[arg-type]

    def forward(self, code: Tensor, moving: Tensor) -> Tensor:
        field = F.leaky_relu(self.first(code), 0.2).view(len(code), SEED_CHANNELS, *self.coarse)
        for number, level in enumerate(self.levels):
            scale = 2 ** (len(self.levels) - 1 - number)
            field = torch.cat([level(field), _sub_sampled(moving, scale).to(field.dtype)], dim=1)
        return self.answer(field)


def _sub_sampled(image: Tensor, scale: int) -> Tensor:
    """Return the mean of every ``scale ** dim`` voxels."""
    if scale == 1:
        return image
    return F.avg_pool2d(image, scale) if image.ndim == 4 else F.avg_pool3d(image, scale)


class DiffeomorphicCVAE(Model):
    """A code of a deformation, the velocity that it stands for on a moving image, and the map.

    Args:
        grid: The grid that the weights belong to.
        latent: Length of the code, ``d``.
        lam: Weight of the similarity against the divergence from the prior.
        sigma, window, eps, centered: See :class:`~mmtk_cvae.layers.GaussianCorrelation`; in voxels of the grid.
        smoothing: Width in mm of a Gaussian on the velocity; 0, as published: none.
        masked: Leave the lesion out of the cost and of what the network sees.
        channels: Of each image.
        widths: Channels of the encoder's convolutions; the decoder goes back up through all but the last.
        squarings: See :class:`~mmtk_cvae.layers.Exponentiation`.
        half: Convolve in bfloat16.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        latent: int = 144,
        lam: float = 82.0,
        sigma: float = 2.0,
        window: int = 9,
        eps: float = 1e-5,
        centered: bool = False,
        smoothing: float = 0.0,
        masked: bool = False,
        channels: int = 1,
        widths: Sequence[int] = (16, 32, 32, 16),
        squarings: int | Literal["auto"] = 4,
        half: bool = False,
    ) -> None:
        super().__init__()
        self.grid, self.latent, self.lam, self.masked, self.narrow = grid, latent, lam, masked, half
        self.likeness = GaussianCorrelation(sigma=sigma, window=window, eps=eps, centered=centered)
        self.exponentiation = Exponentiation(squarings)
        self.smoother = Smoother(Gaussian(smoothing), grid, 3 * smoothing) if smoothing > 0 else None
        multiple = 2 ** (len(widths) - 1)
        missing = [-n % multiple for n in grid.shape]
        self.padding = [side for m in reversed(missing) for side in (0, m)]
        shape = [n + m for n, m in zip(grid.shape, missing, strict=True)]
        self.encoder = _Encoder(shape, channels, widths, latent)
        self.decoder = _Decoder(shape, channels, tuple(reversed(widths[:-1])), latent)
        self.format = torch.channels_last if grid.dim == 2 else torch.channels_last_3d
        for part in (self.encoder, self.decoder):
            part.to(memory_format=self.format)  # type: ignore[call-overload]

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of the code of each pair, ``(B, latent)``."""
        self.check(batch)
        images = torch.cat([self._seen(batch), batch.fixed], dim=1)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.narrow):
            mean, log_variance = self.encoder(self._padded(images))
        return mean.to(images.dtype), log_variance.to(images.dtype)

    def decode(self, code: Tensor, moving: Image) -> Tensor:
        """Return the velocity of a code on a moving image, ``(B, dim, *space)`` in voxels per unit time.

        Args:
            code: ``(B, latent)``.
            moving: ``(B, C, *space)`` on the grid: of the pair that the code is of, or of another.
        """
        padded = self._padded(moving)
        with torch.autocast(moving.device.type, torch.bfloat16, enabled=self.narrow):
            velocity = self.decoder(code, padded)
        kept = (slice(None), slice(None), *(slice(0, n) for n in self.grid.shape))
        velocity = velocity[kept].to(moving.dtype).contiguous()
        return velocity if self.smoother is None else self.smoother(velocity)

    def flow(self, code: Tensor, moving: Image) -> Flow:
        """Return the maps that a code stands for on a moving image."""
        return self.exponentiation.halves(self.decode(code, moving))

    def forward(self, batch: Batch, *, maps: bool = False) -> Prediction:
        mean, log_variance = self.encode(batch)
        if not self.training:
            return self.follow(batch, (mean,), maps=maps)
        drawn = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean(1)
        return self._decoded(batch, drawn, divergence, maps)

    @torch.no_grad()
    def predict(self, batch: Batch) -> tuple[Tensor, ...]:
        return (self.encode(batch)[0],)

    def follow(self, batch: Batch, path: tuple[Tensor, ...], *, maps: bool = False) -> Prediction:
        self.check(batch)
        (code,) = path
        return self._decoded(batch, code, 0.5 * code.square().mean(1), maps)

    def _padded(self, images: Tensor) -> Tensor:
        return F.pad(images, self.padding, mode="replicate").to(memory_format=self.format)

    def _seen(self, batch: Batch) -> Image:
        """Return the moving image as the network sees it."""
        if self.masked and batch.mask is not None:
            return batch.moving * (1 - batch.mask)
        return batch.moving

    def _decoded(self, batch: Batch, code: Tensor, price: Tensor, maps: bool) -> Prediction:
        flow = self.flow(code, self._seen(batch))
        weight = torch.ones_like(batch.fixed[:, :1])
        if batch.fixed_mask is not None:
            weight = 1 - warp(batch.fixed_mask, flow.half_back)
        moving, fixed, lesion = batch.moving, batch.fixed, None
        if batch.mask is not None:
            lesion = warp(batch.mask, flow.whole)
            if self.masked:
                weight = weight * (1 - warp(batch.mask, flow.half))
        halfway = warp(moving, flow.half), warp(fixed, flow.half_back)
        cost = (weight * self.likeness(*halfway, weight)).flatten(1).sum(1) / batch.fixed.shape[1]
        return Prediction(
            warped=warp(moving, flow.whole),
            displacement=flow.whole,
            data=self.lam * self.grid.cell_volume * cost,
            cost=self.grid.size * self.grid.cell_volume * price,
            lesion=lesion,
            inverse=flow.back if maps else None,
            path=(code.detach(),),
        )
