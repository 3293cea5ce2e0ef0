r"""MIND-SSC: an image is described at each voxel by which of the places around it look alike.

Another scanner, sequence or modality changes intensities, but hardly changes what resembles what. So descriptors of two
images can be subtracted where their intensities cannot.

    image        (B, C, *space)
    descriptor   (B, pairs * C, *space)   12 pairs in 3-D, 4 in 2-D; those of one image channel lie together

With the neighbors :math:`x \pm e_a` a step away along each axis, and for every two of them that do not face each other,

.. math::
    D_{pq}(x) = \frac{\sum_{r} w(x+p+r)\, w(x+q+r)\, \big(I(x+p+r) - I(x+q+r)\big)^2}
                     {\sum_{r} w(x+p+r)\, w(x+q+r)}, \qquad
    S_{pq} = \exp\!\Big(-\frac{D_{pq} - \min D}{\mathrm{mean}\,(D - \min D) + \varepsilon}\Big)

over a patch of r. A pair that no voxels of the patch show has no D; it counts as an average one. What lies beyond the
border has weight 0, too.

The twelve maps D are six, seen from two sides: with :math:`J_\delta(y)` the patch mean of
:math:`(I(y) - I(y + \delta))^2`, it is :math:`D_{pq}(x) = J_{q-p}(x + p)`, and for the mirrored pair
:math:`D_{-p,-q}(x) = J_{q-p}(x - q)`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from mmtk.errors import ConfigError
from mmtk.similarity import Reduction, SquaredDifference
from mmtk.similarity.windows import box_sum, per_axis
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recomputed

__all__ = ["MindSSC", "descriptor"]

Offset = tuple[int, ...]


class MindSSC(SquaredDifference):
    """Half the squared difference of self-similarity descriptors, summed over their 12 channels (4 in 2-D).

    Blind to brightness and contrast, to the sign of the contrast, and to another contrast for each tissue. Each image
    is described once, before it is warped (``prepare``); the loop sees plain squares. Warping moves descriptors and
    does not turn them, so large rotations belong into the affine placement.

    Step and radius are in voxels of the finest axis; along a coarser axis they have fewer voxels, for as many mm.

    Args:
        step: Voxels from the center to its neighbors, 1 or more.
        radius: Voxels from the center of a patch to its side, 0 or more.
        eps: Added to the mean distance of patches, in squared intensity: contrast far below its root counts as flat.
            The default is meant for intensities in [0, 1].
        reduction: See :class:`mmtk.similarity.Similarity`.

    Raises:
        ConfigError: If one of them is out of its range.

    References:
        M. P. Heinrich, M. Jenkinson, B. W. Papież, M. Brady, J. A. Schnabel: Towards realtime multimodal fusion for
        image-guided interventions using self-similarities. MICCAI 2013. The minimum is taken off, and the mean is that
        of the differences, as in the authors' code of ConvexAdam; they bound the mean by its own average over the
        image, which lets one region change another, and have no eps and no weight.
    """

    def __init__(self, *, step: int = 2, radius: int = 1, eps: float = 1e-4, reduction: Reduction = "sum") -> None:
        super().__init__(reduction=reduction)
        problems = []
        if step < 1:
            problems.append(f"step: {step} must be 1 or more voxels")
        if radius < 0:
            problems.append(f"radius: {radius} must be 0 or more voxels")
        if not eps > 0:
            problems.append(f"eps: {eps} must be positive, or flat regions divide by 0")
        if problems:
            raise ConfigError(problems)
        self.step, self.radius, self.eps = step, radius, eps

    def extra_repr(self) -> str:
        return f"step={self.step}, radius={self.radius}, eps={self.eps}"

    def prepare(
        self,
        image: Tensor,
        weight: Tensor | None = None,
        scale: int | Sequence[int] = 1,
        spacing: Sequence[float] | None = None,
    ) -> Tensor:
        """Return the descriptors, ``(B, pairs * C, *space)``."""
        dim = image.ndim - 2
        sizes = [1.0] * dim if spacing is None else list(spacing)
        finest = min(k * h for k, h in zip(per_axis(scale, dim), sizes, strict=True))
        step = [max(1, round(self.step * finest / h)) for h in sizes]
        radius = [round(self.radius * finest / h) for h in sizes]
        if (
            image.requires_grad
        ):  # its intermediates, five times as large as itself, are computed anew on the way back
            return recomputed(
                descriptor, image, weight, step, radius, self.eps, use_reentrant=False, preserve_rng_state=False
            )
        return descriptor(image, weight, step, radius, self.eps)

    def compare(self, moved: Tensor, fixed: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the reduced cost; a weight for each channel of the images serves all of its descriptor's."""
        if weight is not None and weight.shape[1] > 1:
            weight = weight.repeat_interleave(fixed.shape[1] // weight.shape[1], dim=1)
        return super().compare(moved, fixed, weight)


def descriptor(
    image: Tensor, weight: Tensor | None, step: Sequence[int], radius: Sequence[int], eps: float
) -> Tensor:
    """Return the self-similarity context of an image.

    Args:
        image: ``(B, C, *space)``.
        weight: ``(B, 1 or C, *space)``; 1 everywhere if None. What lies at voxels of weight 0 is not looked at.
        step: Voxels to the neighbors, one number an axis.
        radius: Half width of the patches, one number an axis; 0 is one voxel.
        eps: In squared intensity, > 0.

    Returns:
        ``(B, pairs * C, *space)`` in (0, 1]; of each voxel's pairs one has 1.
    """
    if weight is None:
        weight = torch.ones_like(image[:, :1])
    seen = weight.expand(image.shape[0], -1, *image.shape[2:])
    image = torch.where(seen > 0, image, 0)
    # With a margin of one step, no pair of a voxel leaves the array, and a roll brings back weights of 0 alone.
    margin = [n for s in reversed(step) for n in (s, s)]
    image, seen = F.pad(image, margin), F.pad(seen, margin)
    maps, known = [], []
    for direction, sides in _directions(step):
        axes, shifts = tuple(range(2, image.ndim)), tuple(-d for d in direction)
        both = seen * torch.roll(seen, shifts, axes)
        distance = box_sum(both * (image - torch.roll(image, shifts, axes)).square(), radius)
        count = box_sum(both, radius)
        distance = distance / torch.where(count > 0, count, 1)
        for side in sides:
            maps.append(_inner(distance, side, step))
            known.append(_inner(count, side, step) > 0)
    return _similarities(maps, known, eps).flatten(1, 2)


def _directions(step: Sequence[int]) -> Iterator[tuple[Offset, tuple[Offset, Offset]]]:
    """Yield the offset between the neighbors of a pair, and the sides from which the pair and its mirror see it."""

    def neighbor(axis: int, sign: int) -> Offset:
        return tuple(sign * s if a == axis else 0 for a, s in enumerate(step))

    for one, other in itertools.combinations(range(len(step)), 2):
        for sign in (1, -1):
            p, q = neighbor(one, 1), neighbor(other, sign)
            yield tuple(b - a for a, b in zip(p, q, strict=True)), (p, tuple(-b for b in q))


def _inner(field: Tensor, offset: Offset, step: Sequence[int]) -> Tensor:
    """Return the part without the margin, ``offset`` away."""
    for axis, (o, s) in enumerate(zip(offset, step, strict=True), start=2):
        field = field.narrow(axis, s + o, field.shape[axis] - 2 * s)
    return field


def _similarities(maps: Sequence[Tensor], known: Sequence[Tensor], eps: float) -> Tensor:
    """Return ``exp(-(D - min D) / (mean + eps))``, stacked in dimension 2; what is not known counts as the mean."""
    least = torch.full_like(maps[0], torch.inf)
    for distance, there in zip(maps, known, strict=True):
        least = torch.where(there, torch.minimum(least, distance), least)
    least = torch.where(least.isfinite(), least, 0)
    total, count = torch.zeros_like(least), torch.zeros_like(least)
    for distance, there in zip(maps, known, strict=True):
        total = total + torch.where(there, distance - least, 0)
        count = count + there
    mean = total / count.clamp_min(1)
    pairs = zip(maps, known, strict=True)
    return torch.stack([torch.exp(-torch.where(k, d - least, mean) / (mean + eps)) for d, k in pairs], 2)
