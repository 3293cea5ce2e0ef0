"""One transform: a chain of affines and fields that takes points from one named space to another.

A map between two images is used in two ways that run against each other: points go with it, images against it,
since every voxel of the new grid is asked where it comes from. Here a transform says of *points* from which space
they come and to which they go, and whoever carries an image asks by the same names. So nobody needs to know which
of two files is "the inverse".

    points    (n, dim), world (RAS), mm, with the first step first
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from mmtk.errors import InputError
from mmtk.io import AffineStep, FieldStep
from mmtk.transforms.displaced import displaced, undisplaced

__all__ = ["CHUNK", "InverseFieldStep", "PairedFieldStep", "Placed", "Step", "Transform", "voxel_points"]

#: Points that are treated at a time: a few tens of MB, however large the image.
CHUNK = 1 << 17


class Placed(Protocol):
    """Anything that has a grid: a shape, and an affine from voxel to world."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def affine(self) -> np.ndarray: ...


@dataclass(frozen=True, eq=False)
class PairedFieldStep(FieldStep):
    """A field that comes with an approximate inverse, from which the search for the exact one starts.

    Attributes:
        back: The approximate inverse.
    """

    back: FieldStep | None = None


@dataclass(frozen=True, eq=False)
class InverseFieldStep:
    """A point to the one that ``field`` takes to it; NaN where there is none.

    Attributes:
        field: The field whose map is inverted.
    """

    field: FieldStep


Step = AffineStep | FieldStep | InverseFieldStep


@dataclass(frozen=True, eq=False)
class Transform:
    """Takes points from one space to another, and images the other way.

    Attributes:
        steps: What a point goes through, first one first; none is the identity.
        points_from, points_to: Names of the spaces. A file for resampling takes points of the fixed image to the
            moving one, which are the names that are used where nothing better is known.
        grids: The grids of these spaces, by name, as far as they are known.
        notes: Sentences that a user may want to read.
        dim_stated: 2 or 3 if a file of affines alone says so, which themselves are 4x4 in both.
    """

    steps: tuple[Step, ...]
    points_from: str = "fixed"
    points_to: str = "moving"
    grids: Mapping[str, Placed] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    dim_stated: int | None = None

    @classmethod
    def load(cls, path: str | os.PathLike[str], *more: str | os.PathLike[str]) -> Transform:
        """Read the folder of a run, or a file; see :func:`mmtk.transforms.load_transform`."""
        from mmtk.transforms.load import load_transform

        return load_transform(path, *more)

    def __repr__(self) -> str:
        steps = ", ".join(_described(step) for step in self.steps) or "identity"
        return f"Transform(points {self.points_from} -> {self.points_to}: {steps})"

    @property
    def dim(self) -> int | None:
        """2 or 3 where a field or a file says so, else None."""
        return next((len(f.vectors) for f in map(_field_of, self.steps) if f is not None), self.dim_stated)

    def then(self, other: Transform) -> Transform:
        """Return this map followed by another, exactly: no field is resampled.

        Raises:
            InputError: If the other does not begin where this one ends.
        """
        if other.points_from != self.points_to:
            raise InputError(
                f"a transform that takes points to '{self.points_to}' cannot be followed by one that takes them "
                f"from '{other.points_from}'; give transforms whose spaces fit, or rename one by `renamed`"
            )
        if self.dim and other.dim and self.dim != other.dim:
            raise InputError(
                f"a {self.dim}-D transform cannot be followed by a {other.dim}-D one; give two of the same dimension"
            )
        return replace(
            self,
            steps=(*self.steps, *other.steps),
            points_to=other.points_to,
            grids={**other.grids, **self.grids},
            notes=(*self.notes, *other.notes),
            dim_stated=self.dim or other.dim,
        )

    def inverse(self) -> Transform:
        """Return the map from ``points_to`` back to ``points_from``: affines exactly, fields point by point.

        Raises:
            InputError: If an affine is singular.
        """
        steps = tuple(_backwards(step) for step in reversed(self.steps))
        return replace(self, steps=steps, points_from=self.points_to, points_to=self.points_from)

    def mapping(self, points_from: str, points_to: str) -> Transform:
        """Return the map between two spaces: this one or its inverse, as their names demand.

        Raises:
            InputError: If the transform does not lead from one to the other.
        """
        if (points_from, points_to) == (self.points_from, self.points_to):
            return self
        if (points_from, points_to) == (self.points_to, self.points_from):
            return self.inverse()
        raise InputError(
            f"the transform leads between '{self.points_to}' and '{self.points_from}', not from '{points_from}' "
            f"to '{points_to}'; name these two spaces"
        )

    def other(self, space: str) -> str:
        """Return the space at the other end.

        Raises:
            InputError: If ``space`` is neither end.
        """
        ends = {self.points_from: self.points_to, self.points_to: self.points_from}
        if space not in ends:
            raise InputError(
                f"'{space}' is no space of the transform, which leads between '{self.points_to}' and "
                f"'{self.points_from}'; name one of these"
            )
        return ends[space]

    def renamed(self, *, points_from: str | None = None, points_to: str | None = None) -> Transform:
        """Return the same map between spaces of other names."""
        names = {self.points_from: points_from or self.points_from, self.points_to: points_to or self.points_to}
        grids = {names.get(space, space): grid for space, grid in self.grids.items()}
        return replace(self, points_from=names[self.points_from], points_to=names[self.points_to], grids=grids)

    def points(self, points: Any) -> np.ndarray:
        """Return where points go: ``(n, dim)``, world (RAS), mm; NaN where a field has no inverse.

        Args:
            points: ``(n, dim)``, of the space ``points_from``.

        Raises:
            InputError: If they have not the dimension of the transform.
        """
        given = np.asarray(points, dtype=np.float64)
        if given.ndim != 2 or given.shape[1] not in (2, 3) or given.shape[1] != (self.dim or given.shape[1]):
            raise InputError(
                f"points of shape {given.shape} do not fit a transform of {self.dim or '2 or 3'} dimensions; give an "
                f"array of one row a point"
            )
        moved = np.empty_like(given)
        for begin in range(0, len(given), CHUNK):
            moved[begin : begin + CHUNK] = self._carry(given[begin : begin + CHUNK])
        return moved

    def _carry(self, points: np.ndarray) -> np.ndarray:
        dim = points.shape[1]
        for step in self.steps:
            if isinstance(step, AffineStep):
                points = points @ step.matrix[:dim, :dim].T + step.matrix[:dim, 3]
            elif isinstance(step, FieldStep):
                points = displaced(step, points)
            else:
                points = undisplaced(step.field, points, getattr(step.field, "back", None))
        return points

    def displacement_on(self, grid: Placed) -> np.ndarray:
        """Return how far the voxels of a grid go: ``(dim, *space)``, RAS, mm, float32.

        Args:
            grid: An image or header in the space ``points_from``.
        """
        dim, size = len(grid.shape), int(np.prod(grid.shape))
        flat = np.empty((dim, size), np.float32)
        for begin in range(0, size, CHUNK):
            here = voxel_points(grid, begin, min(begin + CHUNK, size))
            flat[:, begin : begin + CHUNK] = (self.points(here) - here).T
        return flat.reshape(dim, *grid.shape)

    def as_field(self, grid: Placed) -> FieldStep:
        """Return the whole map as one field on a grid, for programs that know no chains."""
        return FieldStep(self.displacement_on(grid), np.array(grid.affine, dtype=np.float64))


def voxel_points(
    grid: Placed, begin: int, end: int, shift: tuple[float, ...] | np.ndarray | None = None
) -> np.ndarray:
    """Return the places of the voxels ``begin`` to ``end`` of a grid in C order: ``(n, dim)``, world, mm.

    Args:
        shift: Added to each voxel, in voxels.
    """
    dim = len(grid.shape)
    voxels = np.stack(np.unravel_index(np.arange(begin, end), grid.shape)).astype(np.float64)
    if shift is not None:
        voxels += np.asarray(shift)[:, None]
    return (grid.affine[:dim, :dim] @ voxels).T + grid.affine[:dim, 3]


def _backwards(step: Step) -> Step:
    if isinstance(step, InverseFieldStep):
        return step.field
    if isinstance(step, FieldStep):
        return InverseFieldStep(step)
    if not np.isfinite(step.matrix).all() or not abs(np.linalg.det(step.matrix)) > 0:
        raise InputError("an affine of the transform is singular and has no inverse; write the transform again")
    return AffineStep(np.linalg.inv(step.matrix))


def _field_of(step: Step) -> FieldStep | None:
    if isinstance(step, AffineStep):
        return None
    return step if isinstance(step, FieldStep) else step.field


def _described(step: Step) -> str:
    found = _field_of(step)
    if found is None:
        return "affine"
    shape = "x".join(map(str, found.vectors.shape[1:]))
    return f"field {shape}" if isinstance(step, FieldStep) else f"inverse of field {shape}"
