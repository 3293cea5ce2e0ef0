"""The identity as a method."""

from __future__ import annotations

import torch

from mmtk.method import Method, Pair, Progress, silent
from mmtk.result import Registration

__all__ = ["Identity"]


class Identity(Method):
    """Leaves the moving image where the affine placed it."""

    def register(self, pair: Pair, progress: Progress = silent) -> Registration:
        still = torch.zeros_like(pair.fixed[:, :1]).repeat(1, pair.grid.dim, *[1] * pair.grid.dim)
        return Registration(pair.grid, still, still.clone(), None, {}, ())
