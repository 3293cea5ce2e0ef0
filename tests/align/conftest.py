"""A head that is known at every point of space, so that any grid can look at it without interpolation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pytest

from mmtk.io import Volume

Scene = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Head:
    """An ellipsoid of tissue with blobs in it, dark outside; its center at the origin, sizes in mm."""

    halves: np.ndarray
    centers: np.ndarray
    sizes: np.ndarray
    heights: np.ndarray
    bright: float = 100.0

    @property
    def dim(self) -> int:
        return len(self.halves)

    def at(self, points: np.ndarray) -> np.ndarray:
        """Intensity at ``(..., dim)`` mm."""
        depth = 1 - np.linalg.norm(points / self.halves, axis=-1)
        tissue = np.ones(points.shape[:-1])
        for center, size, height in zip(self.centers, self.sizes, self.heights, strict=True):
            tissue += height * np.exp(-0.5 * ((points - center) ** 2).sum(-1) / size**2)
        return self.bright * np.clip(tissue, 0.05, 3) / (1 + np.exp(-np.clip(depth * 60, -50, 50)))

    def seen(
        self,
        shape: tuple[int, ...],
        spacing: tuple[float, ...],
        placed: np.ndarray | None = None,
        turned: np.ndarray | None = None,
        shifted: tuple[float, ...] | None = None,
        contrast: Callable[[np.ndarray], np.ndarray] = lambda x: x,
        name: str = "moving",
    ) -> Volume:
        """The head, carried by ``placed`` (4x4, mm), on a grid centered at ``shifted`` with axes ``turned``."""
        dim = self.dim
        affine = np.eye(4)
        affine[:dim, :dim] = (np.eye(dim) if turned is None else turned) @ np.diag(spacing)
        middle = (np.array(shape) - 1) / 2
        affine[:dim, 3] = (np.zeros(dim) if shifted is None else np.array(shifted)) - affine[:dim, :dim] @ middle
        index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
        back = (np.eye(4) if placed is None else np.linalg.inv(placed)) @ affine
        points = index @ back[:dim, :dim].T + back[:dim, 3]
        return Volume(contrast(self.at(points)).astype(np.float32), affine, name=name)


def _head(dim: int, seed: int) -> Head:
    rng = np.random.default_rng(seed)
    halves = np.array([65.0, 80.0, 60.0][:dim])
    count = 20 * dim
    centers = rng.uniform(-0.85, 0.85, (count, dim)) * halves / dim**0.25
    return Head(halves, centers, rng.uniform(5, 14, count), rng.choice([-0.5, 0.5], count))


@pytest.fixture(scope="session")
def head() -> Head:
    return _head(3, 1)


@pytest.fixture(scope="session")
def slice_of_head() -> Head:
    return _head(2, 2)


@pytest.fixture(scope="session")
def fixed(head: Head) -> Volume:
    return head.seen((60, 70, 56), (3.0, 3.0, 3.0), name="fixed")


def motion(
    dim: int = 3,
    degrees: float = 0.0,
    shift: tuple[float, ...] = (0.0, 0.0, 0.0),
    stretch: tuple[float, ...] = (1.0, 1.0, 1.0),
    shear: float = 0.0,
) -> np.ndarray:
    """4x4: stretch and shear, then a turn in every plane, then a shift."""
    linear = np.diag(stretch[:dim]).astype(float)
    linear[0, 1] += shear
    angle = np.deg2rad(degrees) / (1 if dim == 2 else 3**0.5)
    for a, b in combinations(range(dim), 2):
        turn = np.eye(dim)
        turn[[a, a, b, b], [a, b, a, b]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        linear = turn @ linear
    matrix = np.eye(4)
    matrix[:dim, :dim], matrix[:dim, 3] = linear, shift[:dim]
    return matrix


def distance(head: Head, found: np.ndarray, true: np.ndarray) -> float:
    """The largest distance, mm, between two placements over the box around the head."""
    corners = np.stack(np.meshgrid(*[(-half, half) for half in head.halves]), -1).reshape(-1, head.dim)
    points = np.zeros((len(corners), 4))
    points[:, : head.dim], points[:, 3] = corners, 1
    return float(np.linalg.norm(points @ (found - true).T, axis=1).max())


@pytest.fixture(name="motion", scope="session")
def _motion() -> Callable[..., np.ndarray]:
    return motion


@pytest.fixture(name="distance", scope="session")
def _distance() -> Callable[..., float]:
    return distance
