r"""The linear + deformable CNN: a dilated encoder, an affine head, a head of spatial gradients.

.. math::
    E = \overline{(R - W(S, G))^2} + \alpha \|A - A_I\|_1 + \beta \|\Phi - \Phi_I\|_1
    \qquad W(S, G) = W(W(S, G_N), G_A)

(eq. 3 and 4), times the volume of the grid, so that energies are integrals as everywhere in mmtk. Norms are sums and the
squares are averaged, as the paper's words have it.

    merged features    (B, 2 C + sum of widths, *space)    the images, and what every layer says of them
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmtk.fields import Grid, filled, folds, invert, warp
from mmtk.learned import Batch, Model, Prediction
from mmtk.similarity import Similarity
from mmtk_lindef.layers import affine_displacement, combined, identity_matrix, integrated, slopes_of

__all__ = ["LinearDeformable", "receptive_field"]


def receptive_field(dilations: Sequence[int]) -> int:
    """Return how many voxels along an axis a feature sees through layers of 3 voxels with these dilations."""
    return 1 + 2 * sum(dilations)


class _Layer(nn.Sequential):
    """Convolution of 3 voxels, instance normalization, leaky ReLU."""

    def __init__(self, dim: int, channels: int, out: int, dilation: int = 1) -> None:
        conv, norm = (nn.Conv2d, nn.InstanceNorm2d) if dim == 2 else (nn.Conv3d, nn.InstanceNorm3d)
        super().__init__(
            conv(channels, out, 3, padding=dilation, dilation=dilation),
            norm(out, affine=True),
            nn.LeakyReLU(0.2),
        )


class _Excitation(nn.Module):
    """Squeeze and excitation: every map is weighed by what all maps are on average."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.weigh = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels), nn.Sigmoid()
        )

    def forward(self, maps: Tensor) -> Tensor:
        weights = self.weigh(maps.flatten(2).mean(2))
        return maps * weights.view(*weights.shape, *[1] * (maps.ndim - 2))


class LinearDeformable(Model):
    """One pass, two transformations; untrained it is the identity.

    Args:
        grid: The grid that the weights belong to.
        similarity: Of the data term, with the reduction ``none``.
        alpha, beta: Weights of the matrix's and of the slopes' distance from the identity.
        linear: Predict the matrix, too.
        masked: Leave the lesion out of the cost and of what the network sees.
        channels: Of each image.
        widths, dilations: Of the encoder's layers. Published: 290 merged maps that see 25 voxels; how the 288 are dealt
            out to five layers is not, nor are the dilations, which are those of the encoder that the paper cites.
        decoder: Maps of the layers between the merged maps and the slopes.
        squeeze: Maps for one unit of the squeeze-excitation.
        reduce: Voxels along an axis that the network sees as one (axes of fewer than 16 voxels stay).
        half: Convolve in bfloat16.

    References:
        S. Christodoulidis, M. Sahasrabudhe, M. Vakalopoulou, G. Chassagnon, M.-P. Revel, S. Mougiakakou, N. Paragios:
        Linear and Deformable Image Registration with 3D Convolutional Neural Networks (2018).
    """

    def __init__(
        self,
        grid: Grid,
        *,
        similarity: Similarity,
        alpha: float = 1e-6,
        beta: float = 1e-6,
        linear: bool = True,
        masked: bool = False,
        channels: int = 1,
        widths: Sequence[int] = (32, 64, 64, 64, 64),
        dilations: Sequence[int] = (1, 1, 2, 3, 5),
        decoder: Sequence[int] = (64, 32),
        squeeze: int = 16,
        reduce: int = 1,
        half: bool = False,
    ) -> None:
        super().__init__()
        dim = grid.dim
        self.grid, self.similarity, self.alpha, self.beta = grid, similarity, alpha, beta
        self.linear, self.masked, self.narrow = linear, masked, half
        self.seen = tuple(-(-n // reduce) if n >= 16 else n for n in grid.shape)
        sizes = [2 * channels, *widths]
        self.encoder = nn.ModuleList(
            _Layer(dim, a, b, d) for a, b, d in zip(sizes, sizes[1:], dilations, strict=False)
        )
        self.merged = sum(sizes)
        self.excitation = _Excitation(self.merged, squeeze)
        down = [self.merged, *decoder]
        self.decoder = nn.Sequential(*(_Layer(dim, a, b) for a, b in itertools.pairwise(down)))
        self.slopes = (nn.Conv2d if dim == 2 else nn.Conv3d)(decoder[-1], dim, 3, padding=1)
        self.matrix = nn.Linear(self.merged, dim * (dim + 1)) if linear else None
        for head in (self.slopes, *([self.matrix] if self.matrix is not None else [])):
            nn.init.zeros_(head.weight)
            assert head.bias is not None
            nn.init.zeros_(head.bias)

    def features(self, images: Tensor) -> Tensor:
        """Return the merged maps of the images that the network sees, ``(B, merged, *seen)``."""
        kept = [images]
        for layer in self.encoder:
            kept.append(layer(kept[-1]))
        return torch.cat(kept, dim=1)

    def forward(self, batch: Batch, *, maps: bool = False) -> Prediction:
        self.check(batch)
        moving = batch.moving
        if self.masked and batch.mask is not None:
            moving = moving * (1 - batch.mask)
        images, dim = torch.cat([moving, batch.fixed], dim=1), self.grid.dim
        if self.seen != self.grid.shape:
            pool: Any = F.adaptive_avg_pool2d if dim == 2 else F.adaptive_avg_pool3d
            images = pool(images, self.seen)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.narrow):
            merged = self.features(images)
            answer = self.slopes(self.decoder(self.excitation(merged)))
        answer = answer.to(batch.fixed.dtype)
        if self.seen != self.grid.shape:
            mode = "bilinear" if dim == 2 else "trilinear"
            answer = F.interpolate(answer, size=self.grid.shape, mode=mode, align_corners=False)
        matrix = identity_matrix(dim, answer).expand(len(batch), dim, dim + 1)
        if self.matrix is not None:
            with torch.autocast(images.device.type, enabled=False):
                pooled = merged.to(answer.dtype).flatten(2).mean(2)
                matrix = matrix + self.matrix(pooled).view(-1, dim, dim + 1)
        return self.follow(batch, (answer, matrix), maps=maps)

    def follow(self, batch: Batch, path: tuple[Tensor, ...], *, maps: bool = False) -> Prediction:
        self.check(batch)
        answer, matrix = path
        slopes = slopes_of(answer)
        displacement = integrated(slopes)
        if self.linear:
            displacement = combined(displacement, affine_displacement(matrix, self.grid.shape))
        warped, lesion = warp(batch.moving, displacement), None
        weight = torch.ones_like(batch.fixed[:, :1]) if batch.fixed_mask is None else 1 - batch.fixed_mask
        compared = warped
        if batch.mask is not None:
            lesion = warp(batch.mask, displacement)
            if self.masked:  # its rim, which interpolation shares out, shows what is beside it
                weight = weight * (1 - lesion)
                compared = warp(filled(batch.moving, batch.mask), displacement)
        cells = self.grid.cell_volume
        # Half of the mean square and half of the weights: mmtk's squared difference is halved.
        data = cells * self.similarity(compared, batch.fixed, weight).flatten(1).sum(1)
        far = self.beta * (slopes - 1).abs().flatten(1).sum(1)
        if self.linear:
            far = far + self.alpha * (matrix - identity_matrix(self.grid.dim, matrix)).abs().flatten(1).sum(1)
        return Prediction(
            warped=warped,
            displacement=displacement,
            data=data,
            cost=0.5 * cells * self.grid.size * far,
            lesion=lesion,
            inverse=_inverse(displacement.detach()) if maps else None,
            path=(answer.detach(), matrix.detach()),
        )

    @torch.no_grad()
    def predict(self, batch: Batch) -> tuple[Tensor, ...]:
        return self(batch).path

    def residual(self, batch: Batch) -> Any:
        """Return :math:`G_\\delta = G - G_I`, what the classifier of fig. 3 sees: ``(B, dim, *space)`` voxels."""
        with torch.no_grad():
            return self(batch).displacement


def _inverse(displacement: Tensor) -> Tensor:
    """Return the inverse of each map of a batch, as near as there is one: where a map folds there is none."""
    return torch.cat([invert(u[None], tolerance=0.05 if not folds(u[None]) else 0.5) for u in displacement])
