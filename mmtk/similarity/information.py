"""Mutual information by Parzen windows: for images whose contrasts have nothing in common but the anatomy.

Every voxel enters the joint histogram through a cubic B-spline in its moved and a linear one in its fixed
intensity, so that the histogram is smooth in the moved image. No matrix of voxels times bins is ever formed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmtk.errors import ConfigError
from mmtk.fields.splines import cubic_weights
from mmtk.similarity.base import Reduction, Similarity
from mmtk.types import Image, Weight

__all__ = ["MutualInformation"]

#: Voxels that are scattered at once: their indices and weights stay in the cache and never add up to much.
_CHUNK = 1 << 17


class MutualInformation(Similarity):
    r"""Minus the mutual information, in nats, of the moved and the fixed intensities (thesis section 4.1).

    .. math:: \mathrm{MI} = \sum_{u,v} p(u,v) \log \frac{p(u,v)}{p(u)\, p(v)}

    ``p(u, v) = sum_x w(x) k_u(x) h_v(x) / sum_x w(x)``, with ``k`` and ``h`` the splines. The sum over bins can be
    read as one over voxels, ``MI = mean_x sum_uv k_u(x) h_v(x) L(u,v)`` with ``L`` the logarithm: minus the inner
    sum is the cost of a voxel. As ``sum p dL = 0``, the gradient of the total, by images and weights, is that with
    ``L`` held fixed, and so is computed. (The gradient of a single voxel's cost is thus not told.)

    A flat image shares no information: 0, with no gradient.

    An image shares most information not with itself, but with an image of the same anatomy that holds more: compared
    with itself it has a gradient, towards fuller and sharper histograms. What aligns best can so be missed by a
    fraction of a voxel.

    Args:
        bins: Along each axis of the histogram, from the least to the greatest intensity.
        limits: The intensities of the first and last bin; those outside count as the nearest. None: the range of
            each image where it has weight.
        reduction: See :class:`~mmtk.similarity.base.Similarity`.

    Raises:
        ConfigError: If there are fewer than 2 bins, or the limits do not rise.
    """

    def __init__(
        self, *, bins: int = 32, limits: tuple[float, float] | None = None, reduction: Reduction = "sum"
    ) -> None:
        super().__init__(reduction=reduction)
        if bins < 2:
            raise ConfigError(f"bins: {bins} cannot hold information; use 2 or more")
        if limits is not None and not limits[0] < limits[1]:
            raise ConfigError(f"limits: {limits} must be two rising intensities")
        self.bins, self.limits = bins, limits

    def cost(self, moved: Image, fixed: Image, weight: Weight) -> Image:
        a, b = self._positions(moved, weight), self._positions(fixed, weight)
        with torch.no_grad():
            value, by_a, by_b = _pointwise(a.detach(), b.detach(), weight.expand_as(a), self.bins, b.requires_grad)
        # The value is `value`, the derivatives are `by_a` and `by_b`.
        value = value + by_a * (a - a.detach())
        return value + by_b * (b - b.detach()) if b.requires_grad else value

    def _positions(self, image: Image, weight: Weight) -> Tensor:
        """Turn intensities into bins, in [0, bins - 1]; everything is in bin 0 if the image is flat."""
        if self.limits is None:
            space = tuple(range(2, image.ndim))
            low = torch.where(weight > 0, image, torch.inf).amin(space, keepdim=True)
            high = torch.where(weight > 0, image, -torch.inf).amax(space, keepdim=True)
            size = torch.maximum(low.abs(), high.abs())
            spread = high - low > 8 * torch.finfo(image.dtype).eps * size
            low = torch.where(spread, low, 0)
            scale = torch.where(spread, 1, 0) / torch.where(spread, high - low, 1)
        else:
            low, high = (torch.tensor(limit).to(image) for limit in self.limits)
            scale = 1 / (high - low)
        return ((image - low) * (scale * (self.bins - 1))).clamp(0, self.bins - 1)


def _pointwise(a: Tensor, b: Tensor, weight: Tensor, bins: int, by_fixed: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return the cost of each voxel and its derivatives by the two positions, all of the shape of ``a``.

    The derivative by ``b`` is 0 unless it is asked for.
    """
    images, rows, columns = a.shape[0] * a.shape[1], bins + 3, bins + 1
    flat = [t.reshape(images, -1) for t in (a, b, weight)]
    joint = torch.zeros(images * rows * columns, dtype=torch.float64, device=a.device)
    chunks = [[t[:, i : i + _CHUNK] for t in flat] for i in range(0, flat[0].shape[1], _CHUNK)]
    for ours, theirs, w in chunks:
        corner, ta, tb = _corners(ours, theirs, rows, columns)
        columnwise = (w * (1 - tb), w * tb)
        for i, cubic in enumerate(cubic_weights(ta)):
            for j, linear in enumerate(columnwise):
                joint[i * columns + j :].scatter_add_(0, corner, (cubic * linear).double().flatten())
    logs = _log_ratio(joint.view(images, rows, columns)).to(a.dtype).flatten()

    results = [torch.zeros_like(flat[0]) for _ in range(3)]
    for n, (ours, theirs, _) in enumerate(chunks):
        value, by_a, by_b = (r[:, n * _CHUNK : (n + 1) * _CHUNK] for r in results)
        corner, ta, tb = _corners(ours, theirs, rows, columns)
        for i, (cubic, slope) in enumerate(zip(cubic_weights(ta), _cubic_slopes(ta), strict=True)):
            here, there = (logs[i * columns + j :].index_select(0, corner).view_as(tb) for j in (0, 1))
            step = there.sub_(here)
            log = here.addcmul_(step, tb)
            value.addcmul_(cubic, log, value=-1)
            by_a.addcmul_(slope, log, value=-1)
            if by_fixed:
                by_b.addcmul_(cubic, step, value=-1)
    value, by_a, by_b = (r.view(a.shape) for r in results)
    return value, by_a, by_b


def _corners(a: Tensor, b: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return where voxels ``(images, voxels)`` lie in the flat histogram, and how far behind their bins.

    A voxel is shared out over four rows by two columns; the first of the eight bins has the index returned.
    """
    base_a, base_b = a.floor(), b.floor()
    image = torch.arange(len(a), device=a.device)[:, None] * (rows * columns)
    corner = (base_a * columns + base_b).long() + image
    return corner.flatten(), a - base_a, b - base_b


def _cubic_slopes(t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The derivatives of ``cubic_weights``."""
    s = 1 - t
    return -0.5 * s**2, t * (1.5 * t - 2), s * (2 - 1.5 * s), 0.5 * t**2


def _log_ratio(joint: Tensor) -> Tensor:
    """Return ``log(p(u,v) / (p(u) p(v)))`` of histograms ``(images, rows, columns)``; 0 in empty bins."""
    total = joint.sum((1, 2), keepdim=True)
    p = joint / torch.where(total > 0, total, 1)
    independent = p.sum(1, keepdim=True) * p.sum(2, keepdim=True)
    filled = p > 0
    return torch.where(filled, p / torch.where(filled, independent, 1), 1).log()
