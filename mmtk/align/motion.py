"""Rigid and affine motions as exponentials of small matrices, in units in which every parameter weighs alike.

A step multiplies the motion from the right, ``A <- A exp(delta)``, so that the derivative is always taken at
the identity. Lengths are measured from the center of the fixed image's foreground in units of its radius:
there, one unit of translation, rotation, scale or shear moves the foreground by about as many millimetres,
and the normal equations are balanced without a preconditioner.

    A       (d + 1, d + 1)    millimetres to millimetres, homogeneous
    delta   (p,)              p = d (d + 1) for affine, d (d + 1) / 2 for rigid
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
import torch

__all__ = ["Freedom", "Motion"]

Freedom = Literal["translation", "rigid", "affine"]


@dataclass(frozen=True, eq=False)
class Motion:
    """A family of motions around a center.

    Attributes:
        center: ``(d,)`` millimetres; rotations turn about it.
        radius: Millimetres; the unit of length.
        freedom: Which motions the family holds.
    """

    center: np.ndarray
    radius: float
    freedom: Freedom

    @property
    def generators(self) -> np.ndarray:
        """``(p, d, d + 1)``: velocity ``G [x, 1]`` in the family's own unit of length, one a parameter."""
        dim = len(self.center)
        found = [_unit(dim, {(axis, dim): 1.0}) for axis in range(dim)]
        if self.freedom != "translation":
            root = 0.5**0.5
            planes = list(combinations(range(dim), 2))
            found += [_unit(dim, {(a, b): -root, (b, a): root}) for a, b in planes]
            if self.freedom == "affine":
                found += [_unit(dim, {(axis, axis): 1.0}) for axis in range(dim)]
                found += [_unit(dim, {(a, b): root, (b, a): root}) for a, b in planes]
        return np.stack(found)

    def to_unit(self) -> np.ndarray:
        """``(d + 1, d + 1)``: from millimetres to the family's own unit of length."""
        dim = len(self.center)
        matrix = np.eye(dim + 1) / self.radius
        matrix[:dim, dim] = -self.center / self.radius
        matrix[dim, dim] = 1.0
        return matrix

    def exponential(self, delta: np.ndarray) -> np.ndarray:
        """``(d + 1, d + 1)`` in millimetres: the motion that ``delta`` stands for; at zero, the identity."""
        dim = len(self.center)
        small = np.zeros((dim + 1, dim + 1))
        small[:dim] = np.tensordot(delta, self.generators, axes=1)
        unit = self.to_unit()
        return np.linalg.inv(unit) @ torch.matrix_exp(torch.from_numpy(small)).numpy() @ unit


def _unit(dim: int, entries: dict[tuple[int, int], float]) -> np.ndarray:
    matrix = np.zeros((dim, dim + 1))
    for place, value in entries.items():
        matrix[place] = value
    return matrix
