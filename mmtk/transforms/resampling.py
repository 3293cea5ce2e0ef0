"""An image carried through a transform onto another grid, by one interpolation.

Every voxel of the reference is a point that goes through the whole chain, and the image is read where it arrives:
nothing is resampled twice. The work is done a chunk of voxels at a time, so that memory is that of the image, of
the result and little more.

Where the reference is much coarser than the image, a voxel would read one place of the many that it covers, and
thin things fall between. ``antialias`` reads several places in every voxel and takes their mean: a mask becomes the
share of each voxel that it covers, and its volume stays.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mmtk.errors import ConfigError, InputError
from mmtk.io import Header, Volume
from mmtk.io.headers import where
from mmtk.io.space import LPS
from mmtk.transforms.displaced import voxels_of, within
from mmtk.transforms.interpolate import INTERPOLATIONS, KEEPS_VALUES, Interpolation, prepared, sampled
from mmtk.transforms.layers import Layers, read_layers, write_layers
from mmtk.transforms.transform import CHUNK, Placed, Transform, voxel_points

__all__ = ["REORIENTATIONS", "Reorientation", "Resampled", "resample"]

Reorientation = Literal["none", "rotation", "jacobian"]
REORIENTATIONS: tuple[str, ...] = ("none", "rotation", "jacobian")

#: Voxels of all layers that are made ready at a time.
BATCH = 1 << 27
#: Along each axis a voxel is read at no more places than this.
MOST_READINGS = 32
#: Below this stretch a voxel covers hardly more than one of the image, and nothing is said.
COARSE = 2.0
#: Voxels by which the stretch is judged.
PROBES = 4096
#: Step of the differences that give the Jacobian, in mm: within one cell of any field.
NUDGE = 1e-3
#: Labels that are gone are named up to this many.
MOST_NAMED = 8


@dataclass(frozen=True, eq=False)
class Resampled:
    """An image on another grid.

    Attributes:
        data: ``(*space)``, or ``(count, *space)`` of a series or a vector image; float32, or the image's own type
            where no new values arise.
        reference: The grid.
        image: What was carried.
        notes: Sentences that a user may want to read.
    """

    data: np.ndarray
    reference: Header
    image: Layers
    notes: tuple[str, ...]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it as NIfTI, with the axes and the intent that the image had, and return the path."""
        layers = self.data if self.image.tail else self.data[None]
        return write_layers(path, layers, self.image, self.reference)


def resample(
    image: Any,
    transform: Transform,
    reference: Any = None,
    *,
    space: str | None = None,
    interpolation: Interpolation = "linear",
    outside: float = 0,
    antialias: bool = False,
    reorient: Reorientation = "none",
) -> Resampled:
    """Carry an image onto the grid of a reference.

    Args:
        image: A path, a nibabel image, an array, a :class:`~mmtk.io.Volume` or :class:`Layers`.
        transform: Between the image's space and the reference's; which way round it is given does not matter.
        reference: An image, of which only the grid is used; None for the grid that the transform knows.
        space: In which of the transform's spaces the image lies; None for the one that points are taken to, as
            is a registration's moving image.
        interpolation: ``linear``, ``cubic``, ``sinc``, ``nearest`` or ``labels``; see
            :mod:`mmtk.transforms.interpolate`.
        outside: The value where the image does not reach.
        antialias: Average over the voxels of a coarser grid; for images and masks, not for labels.
        reorient: What happens to vectors in space: ``none`` interpolates their components, ``rotation`` turns them
            as the map turns their surroundings, ``jacobian`` stretches them too, as a displacement wants it.

    Raises:
        InputError: If the image or the reference cannot be used.
        ConfigError: If the options do not go together.
    """
    layers = image if isinstance(image, Layers) else read_layers(image)
    start = transform.points_to if space is None else space
    end = transform.other(start)
    grid = _reference(transform, end) if reference is None else _header(reference)
    problems = check_options(layers, grid, transform, interpolation, outside, antialias, reorient)
    if problems:
        raise ConfigError(problems)
    job = _Job(layers, grid, transform.mapping(end, start), interpolation, outside, reorient)
    return job.run(antialias)


def check_options(
    layers: Layers,
    grid: Placed,
    transform: Transform | None,
    interpolation: str,
    outside: float,
    antialias: bool,
    reorient: str,
) -> list[str]:
    """Return a sentence for everything that does not go together; no voxel is read."""
    problems = []
    if interpolation not in INTERPOLATIONS:
        problems.append(f"interpolation={interpolation}: must be one of {', '.join(INTERPOLATIONS)}")
    if reorient not in REORIENTATIONS:
        problems.append(f"reorient={reorient}: must be one of {', '.join(REORIENTATIONS)}")
    dim = len(layers.shape)
    if len(grid.shape) != dim:
        problems.append(
            f"the image is {dim}-D but the reference is {len(grid.shape)}-D; give two of the same dimension"
        )
    if transform is not None and transform.dim not in (None, dim):
        problems.append(
            f"the image is {dim}-D but the transform is {transform.dim}-D; give one made for such images"
        )
    keeps = interpolation in KEEPS_VALUES
    if antialias and keeps:
        problems.append(
            f"antialias=on averages, which interpolation={interpolation} must not; leave it out, or carry each mask "
            f"with interpolation=linear to get the share of each voxel that it covers"
        )
    if reorient != "none" and layers.frame is None:
        problems.append(
            f"reorient={reorient}: the image does not say that it holds vectors in space; leave it out, or give a "
            f"vector image (X, Y, Z, 1, {dim}) with intent {1007} (LPS) or {1006} (RAS)"
        )
    if reorient != "none" and keeps:
        problems.append(f"reorient={reorient}: turned vectors have new values; use interpolation=linear")
    dtype = layers.header.storage.dtype
    if keeps and dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if outside != int(outside) or not limits.min <= outside <= limits.max:
            problems.append(
                f"outside={outside:g}: the image holds whole numbers from {limits.min} to {limits.max}; give one"
            )
    return problems


def _header(reference: Any) -> Header:
    if isinstance(reference, Header):
        return reference
    if isinstance(reference, Volume):
        return Header(reference.shape, reference.affine, reference.storage, "reference", reference.path)
    return read_layers(reference, name="reference").header


def _reference(transform: Transform, end: str) -> Header:
    grid = transform.grids.get(end)
    if not isinstance(grid, Header):
        raise InputError(
            f"reference: the transform does not say on which grid '{end}' lies; give an image of that space"
        )
    return grid


@dataclass(frozen=True, eq=False)
class _Job:
    layers: Layers
    grid: Header
    map: Transform
    interpolation: Interpolation
    outside: float
    reorient: Reorientation

    def run(self, antialias: bool) -> Resampled:
        layers, grid = self.layers, self.grid
        stretch = self._stretch()
        readings = np.clip(np.ceil(stretch - 0.05), 1, MOST_READINGS).astype(int) if antialias else None
        shifts = _shifts(len(grid.shape) * [1] if readings is None else readings)
        keeps = self.interpolation in KEEPS_VALUES
        data = layers.data
        self._check(data)
        size = int(np.prod(grid.shape))
        out = np.empty((layers.count, size), data.dtype if keeps else np.float32)
        lost = 0
        for first, last in _batches(layers):
            ready = [prepared(data[n], self.interpolation) for n in range(first, last)]
            lost = 0
            for begin in range(0, size, CHUNK):
                part = slice(begin, min(begin + CHUNK, size))
                out[first:last, part], torn = self._chunk(ready, part, shifts)
                lost += torn
        notes = [*layers.header.notes, *self._notes(out, data, stretch, antialias, lost, size)]
        shaped = out.reshape(layers.count, *grid.shape)
        return Resampled(shaped if layers.tail else shaped[0], grid, layers, tuple(notes))

    def _chunk(self, ready: list[np.ndarray], part: slice, shifts: list[np.ndarray]) -> tuple[np.ndarray, int]:
        """Return the values ``(layers, n)`` of some voxels, and at how many the map is torn."""
        total: np.ndarray | float = 0.0
        torn = 0
        for shift in shifts:
            here = voxel_points(self.grid, part.start, part.stop, shift)
            there = self.map.points(here)
            voxels = voxels_of(there, self.layers.affine)
            inside = within(voxels, self.layers.shape)
            torn += int(np.isnan(there).any(axis=1).sum())
            values = self._read(ready, voxels[:, inside], inside)
            if self.reorient != "none":
                values[:, inside] = self._turned(values[:, inside], here[inside])
            if len(shifts) == 1:
                return values, torn
            total = total + values
        return np.asarray(total) / len(shifts), torn // len(shifts)

    def _read(self, ready: list[np.ndarray], voxels: np.ndarray, inside: np.ndarray) -> np.ndarray:
        kind = ready[0].dtype if self.interpolation in KEEPS_VALUES else np.float64
        values = np.full((len(ready), len(inside)), self.outside, kind)
        for row, coefficients in zip(values, ready, strict=True):
            row[inside] = sampled(coefficients, voxels, self.interpolation)
        return values

    def _turned(self, vectors: np.ndarray, here: np.ndarray) -> np.ndarray:
        """Return vectors ``(dim, n)`` as they are on this side of the map."""
        dim = len(vectors)
        ahead, behind = (
            np.stack([self.map.points(here + sign * NUDGE * np.eye(dim)[a]) for a in range(dim)], axis=-1)
            for sign in (1, -1)
        )
        jacobian = (ahead - behind) / (2 * NUDGE)
        jacobian[~np.isfinite(jacobian).all(axis=(1, 2))] = np.eye(dim)
        if self.reorient == "rotation":
            left, _, right = np.linalg.svd(jacobian)
            jacobian = left @ right
        if self.layers.frame == "LPS":
            flip = LPS[:dim, :dim]
            jacobian = flip @ jacobian @ flip
        upright = np.abs(np.linalg.det(jacobian)) > 1e-6
        jacobian[~upright] = np.eye(dim)
        return np.linalg.solve(jacobian, vectors.T[:, :, None])[:, :, 0].T

    def _stretch(self) -> np.ndarray:
        """Return how many voxels of the image one of the grid spans along each axis, all but the most extreme."""
        grid = self.grid
        dim, size = len(grid.shape), int(np.prod(grid.shape))
        picked = np.linspace(0, size - 1, min(size, PROBES)).astype(np.intp)
        voxels = np.stack(np.unravel_index(picked, grid.shape)).astype(np.float64)

        def arrive(nodes: np.ndarray) -> np.ndarray:
            points = (grid.affine[:dim, :dim] @ nodes).T + grid.affine[:dim, 3]
            return voxels_of(self.map.points(points), self.layers.affine)

        spans = []
        for axis in range(dim):
            half = 0.5 * np.eye(dim)[:, [axis]]
            span = np.abs(arrive(voxels + half) - arrive(voxels - half)).max(axis=0)
            span = span[np.isfinite(span)]
            spans.append(float(np.percentile(span, 95)) if len(span) else 1.0)
        return np.array(spans)

    def _check(self, data: np.ndarray) -> None:
        name, label = self.layers.header.name, where(self.layers.header.path, "image")
        if data.dtype.kind != "f":
            return
        if self.interpolation == "cubic" and not np.isfinite(data).all():
            raise InputError(
                f"{name}: {label} has {int((~np.isfinite(data)).sum()):,} voxels that are NaN or infinite, which a "
                f"cubic spline would spread over all others; replace them, or use interpolation=linear"
            )
        if self.interpolation == "labels" and not _whole(data):
            raise InputError(
                f"{name}: {label} holds fractions, but interpolation=labels takes labels, which are whole numbers; "
                f"use interpolation=linear, or give a label map"
            )

    def _notes(
        self, out: np.ndarray, data: np.ndarray, stretch: np.ndarray, antialias: bool, lost: int, size: int
    ) -> Iterator[str]:
        if lost:
            yield (
                f"{lost:,} of {size:,} voxels have no counterpart in '{self.map.points_to}', since the field folds "
                f"there or ends; they hold {self.outside:g}."
            )
        if stretch.max() >= COARSE and not antialias and self.interpolation not in KEEPS_VALUES:
            yield (
                f"a voxel of the reference spans up to {stretch.max():.2g} voxels of the image; add antialias=on so "
                f"that each is the mean over all of them and thin things are not missed."
            )
        if self.interpolation in KEEPS_VALUES and data.dtype.kind in "iu":
            gone = sorted(_values(data) - _values(out) - {0})
            if gone:
                named = ", ".join(map(str, gone[:MOST_NAMED])) + (", ..." if len(gone) > MOST_NAMED else "")
                yield (
                    f"{len(gone)} of the labels have no voxel on the reference ({named}): they lie outside it, or "
                    f"are smaller than its voxels; carry such a one alone, with interpolation=linear antialias=on."
                )


def _shifts(readings: Any) -> list[np.ndarray]:
    """Return where in a voxel it is read, in voxels from its center: the middles of equal parts."""
    along = [(np.arange(n) + 0.5) / n - 0.5 for n in readings]
    return [np.array(place) for place in product(*along)]


def _batches(layers: Layers) -> Iterator[tuple[int, int]]:
    several = max(1, BATCH // max(1, int(np.prod(layers.shape))))
    for first in range(0, layers.count, several):
        yield first, min(first + several, layers.count)


def _whole(data: np.ndarray) -> bool:
    return all(bool((layer == np.rint(layer)).all()) for layer in data)


def _values(data: np.ndarray) -> set[int]:
    flat = data.reshape(-1)
    parts = (np.unique(flat[begin : begin + (1 << 20)]).tolist() for begin in range(0, len(flat), 1 << 20))
    return set().union(*parts)
