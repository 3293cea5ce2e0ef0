"""What a round of a template adds up, so that its memory does not grow with the cohort and a patient can join later.

    weight, first, second   (*space)       sums of w, w I and w I^2 over the cases
    white                   (numbers,)     sum of the shapes, see :mod:`mmtk.atlas.shapes`
    stretch                 (dim, dim)     sum of the logarithms of the affines' stretches
    shapes.rows             (cases, numbers) float32, on disk: what modes are made of

One case is in memory at a time. The sums are written with the names of the cases that are in them, in one file that is
there whole or not at all; rows beyond those cases, of a command that was killed, are cut off.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mmtk.errors import ConfigError
from mmtk.io import replacing

__all__ = ["RunningSums", "share_that_counts"]

#: From so many standard deviations on, an intensity counts less the farther it is off (Huber).
FAR = 2.0

#: No standard deviation is taken for less, as a share of the range of intensities.
LEAST_SPREAD = 0.02


def share_that_counts(
    image: np.ndarray, lesion: np.ndarray | None, mean: np.ndarray | None, spread: np.ndarray | None
) -> np.ndarray:
    """Return how much each voxel of a case counts, ``(*space)`` in [0, 1].

    Nothing where the lesion is; where a mean is known, Huber's weight: less than 1 beyond ``FAR`` standard deviations.

    Args:
        image: On the common scale.
        lesion: The mask carried along, in [0, 1]; None without one.
        mean, spread: Of the round before, on the same grid; None in the first.
    """
    counts = np.ones(image.shape)
    if mean is not None and spread is not None:
        off = np.abs(image - mean) / np.maximum(spread, LEAST_SPREAD)
        counts = np.minimum(1.0, FAR / np.maximum(off, FAR))
    return counts if lesion is None else np.where(lesion > 0, 0.0, counts)


@dataclass
class RunningSums:
    """Sums over the cases of a round, kept in a folder.

    Args:
        folder: Where ``sums.npz`` and ``shapes.rows`` are.
        shape: Of the template.
        numbers: In a row of ``shapes.rows``.

    Attributes:
        cases: Names in the order of their rows, and the digest of each one's files.
    """

    folder: Path
    shape: tuple[int, ...]
    numbers: int
    weight: np.ndarray = field(init=False)
    first: np.ndarray = field(init=False)
    second: np.ndarray = field(init=False)
    white: np.ndarray = field(init=False)
    stretch: np.ndarray = field(init=False)
    cases: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.weight, self.first, self.second = (np.zeros(self.shape) for _ in range(3))
        self.white = np.zeros(self.numbers)
        self.stretch = np.zeros((len(self.shape),) * 2)
        self.cases = {}

    @property
    def rows(self) -> Path:
        """The file of the shapes."""
        return self.folder / "shapes.rows"

    @property
    def mean(self) -> np.ndarray:
        """Weighted mean of the intensities; 0 where no case counts."""
        return np.divide(self.first, self.weight, out=np.zeros(self.shape), where=self.weight > 0)

    @property
    def spread(self) -> np.ndarray:
        """Weighted standard deviation of the intensities."""
        square = np.divide(self.second, self.weight, out=np.zeros(self.shape), where=self.weight > 0)
        return np.asarray(np.sqrt(np.maximum(square - self.mean**2, 0)))

    @classmethod
    def open(cls, folder: Path, shape: tuple[int, ...], numbers: int) -> RunningSums:
        """Return what a folder holds, or empty sums.

        Raises:
            ConfigError: If they are of another grid, or rows are missing.
        """
        sums = cls(folder, shape, numbers)
        path = folder / "sums.npz"
        if not path.is_file():
            sums.rows.unlink(missing_ok=True)
            return sums
        with np.load(path) as kept:
            if kept["weight"].shape != shape or kept["white"].shape != (numbers,):
                raise ConfigError(f"'{folder}' holds sums of another grid; add --rebuild, or name another --out")
            for name in ("weight", "first", "second", "white", "stretch"):
                setattr(sums, name, kept[name])
            sums.cases = dict(json.loads(str(kept["cases"])))
        length = 4 * numbers * len(sums.cases)
        if not sums.rows.is_file() or sums.rows.stat().st_size < length:
            raise ConfigError(f"'{sums.rows}' is shorter than its sums say; add --rebuild")
        with open(sums.rows, "r+b") as file:
            file.truncate(length)
        return sums

    def add(
        self, name: str, digest: str, image: np.ndarray, counts: np.ndarray, white: np.ndarray, stretch: np.ndarray
    ) -> None:
        """Add a case.

        Args:
            image: On the common scale, ``(*space)``.
            counts: How much each voxel counts.
            white: Its shape.
            stretch: Logarithm of its affine's stretch.
        """
        assert name not in self.cases and image.shape == self.shape and white.shape == (self.numbers,)
        self.weight += counts
        self.first += counts * image
        self.second += counts * image**2
        self.white += white
        self.stretch += stretch
        with open(self.rows, "ab") as file:
            file.write(white.astype(np.float32).tobytes())
        self.cases[name] = digest

    def save(self) -> None:
        """Write the sums and whose they are."""
        sums: Mapping[str, np.ndarray] = {
            name: getattr(self, name) for name in ("weight", "first", "second", "white", "stretch")
        }
        with replacing(self.folder / "sums.npz") as temporary:
            np.savez(temporary, **sums, cases=np.array(json.dumps(list(self.cases.items()))))  # type: ignore[arg-type]

    def table(self) -> np.ndarray:
        """Return the shapes as ``(cases, numbers)``, float32, left on disk."""
        return np.memmap(self.rows, dtype=np.float32, mode="r", shape=(len(self.cases), self.numbers))
