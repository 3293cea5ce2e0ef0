r"""The first half of ConvexAdam: every displacement of a set is tried at every node, and the best are made to agree.

With the cost :math:`C(x, d)` of carrying x by d, and a smooth field s, what is sought is

.. math:: \min_{u, s} \sum_x C(x, u(x)) + \theta\, |u(x) - s(x)|^2, \qquad s \text{ smooth},

by turns: for a given s, u is found at every node by looking at all displacements, so that no minimum is too far away;
for a given u, s is its average over neighbors. The two are tied to one another ever more tightly.

    candidates   (K, dim)       displacements in nodes, the nearest first
    costs        (K, *nodes)
    field        (1, dim, *nodes), in nodes
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from mmtk.errors import ConfigError
from mmtk.similarity import Similarity
from mmtk.similarity.windows import box_sum
from torch import Tensor

__all__ = ["candidates", "costs", "coupled"]

#: How tightly u and s are tied, turn by turn: cost of a distance of one node, as in the authors' code.
TIES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
#: Least share of a window that has to be seen for its cost to count in full.
SEEN = 0.25


def candidates(reach: int, like: Tensor, dim: int) -> Tensor:
    """Return all displacements of up to ``reach`` nodes along each axis, ``(K, dim)``; of equal ones, the first wins."""
    steps = sorted(itertools.product(range(-reach, reach + 1), repeat=dim), key=lambda d: sum(n * n for n in d))
    return torch.tensor(steps, dtype=like.dtype, device=like.device)


def costs(
    similarity: Similarity,
    moving: Tensor,
    fixed: Tensor,
    moving_weight: Tensor,
    fixed_weight: Tensor,
    tried: Tensor,
) -> Tensor:
    """Return what each displacement costs around each node, ``(K, *nodes)``.

    The cost of a node is the weighted mean over the window of its neighbors. What a mask hides, or what lies beyond the
    image, has no cost: it must neither attract nor repel, and gets the mean of all displacements that can be seen.

    Args:
        similarity: Compares voxel by voxel.
        moving, fixed: Prepared images on the nodes, ``(1, C, *nodes)``.
        moving_weight, fixed_weight: ``(1, 1, *nodes)``.
        tried: Of :func:`candidates`.

    Raises:
        ConfigError: If the similarity has no cost at every voxel.
    """
    space = tuple(fixed.shape[2:])
    reach, window = int(tried.max()), (1,) * len(space)
    margin = [reach] * 2 * len(space)
    moving, moving_weight = F.pad(moving, margin), F.pad(moving_weight, margin)
    total, seen = (fixed.new_empty(len(tried), *space) for _ in range(2))
    for k, displacement in enumerate(tried.long().tolist()):
        there = [slice(reach + d, reach + d + n) for d, n in zip(displacement, space, strict=True)]
        image, weight = (t[(slice(None), slice(None), *there)] for t in (moving, moving_weight))
        weight = weight * fixed_weight
        cost = similarity.cost(*similarity.blinded(image, fixed, weight), weight)
        if tuple(cost.shape[2:]) != space:
            raise ConfigError(f"similarity: {similarity} has no cost at every voxel, which a search needs")
        total[k] = box_sum((weight * cost).sum(1, keepdim=True), window)[0, 0]
        seen[k] = box_sum(weight, window)[0, 0]
    usual = total.sum(0) / seen.sum(0).clamp_min(1e-6)
    enough = SEEN * 3 ** len(space)
    missing = (enough - seen).clamp_min(0)
    return (total + missing * usual) / (seen + missing)


def coupled(cost: Tensor, tried: Tensor) -> Tensor:
    """Return the smooth field of the cheapest displacements, ``(1, dim, *nodes)`` in nodes."""
    space = tuple(cost.shape[1:])
    flat = cost.flatten(1)
    smooth = tried.new_zeros(flat.shape[1], tried.shape[1])
    lengths = tried.square().sum(1, keepdim=True)
    for tie in TIES:
        # |d - s|^2 without |s|^2, which is the same for all d
        chosen = (flat + tie * (lengths - 2 * tried @ smooth.t())).argmin(0)
        field = tried[chosen].t().reshape(1, -1, *space)
        smooth = _average(field).flatten(2)[0].t()
    return smooth.t().reshape(1, -1, *space)


def _average(field: Tensor) -> Tensor:
    """Return the mean over each node and its neighbors, of which there are fewer at the border."""
    window = (1,) * (field.ndim - 2)
    return box_sum(field, window) / box_sum(torch.ones_like(field[:, :1]), window)
