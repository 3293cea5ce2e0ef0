"""What a frequency atlas adds up, so that its memory does not grow with the cohort and a patient can join later.

    counts     (layers, *space)      of how many cases the voxel is lesion, and is each tissue of it
    lesions    (cases, bytes)        a row of bits a case, on disk: what permutation tests look at, a block of voxels
                                     at a time

One case is in memory at a time. The counts are written with the names of the cases that are in them, in one file that
is there whole or not at all; rows of bits beyond those cases, of a build that was killed, are cut off.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mmtk.errors import ConfigError
from mmtk.io import replacing

__all__ = ["LESION", "Sums"]

#: The layer of the whole lesion.
LESION = "lesion"

#: Bytes that a block of voxels of all cases may take in memory.
BLOCK = 1 << 26


@dataclass
class Sums:
    """Counts over cases, kept in a folder.

    Args:
        folder: Where ``sums.npz`` and ``lesions.bits`` are.
        shape: Of the template.
        layers: ``lesion`` and, after it, tissues.

    Attributes:
        counts: ``(layers, *shape)``, uint32.
        cases: Names of the cases in the order of their rows, and the digest of each one's files.
    """

    folder: Path
    shape: tuple[int, ...]
    layers: tuple[str, ...] = (LESION,)
    counts: np.ndarray = field(init=False)
    cases: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = np.zeros((len(self.layers), *self.shape), dtype=np.uint32)
        self.cases = {}

    @property
    def width(self) -> int:
        """Bytes of a case's row."""
        return -(-int(np.prod(self.shape)) // 8)

    @property
    def bits(self) -> Path:
        """The file of the rows."""
        return self.folder / "lesions.bits"

    @classmethod
    def open(cls, folder: Path, shape: tuple[int, ...], layers: tuple[str, ...]) -> Sums:
        """Return what a folder holds, or empty sums.

        Raises:
            ConfigError: If they are of another template or of other tissues.
        """
        sums = cls(folder, shape, layers)
        path = folder / "sums.npz"
        if not path.is_file():
            sums.bits.unlink(missing_ok=True)
            return sums
        with np.load(path) as kept:
            told = json.loads(str(kept["about"]))
            if tuple(told["shape"]) != shape or tuple(told["layers"]) != layers:
                raise ConfigError(
                    f"'{folder}' holds an atlas of {'x'.join(map(str, told['shape']))} voxels with "
                    f"{', '.join(told['layers'])}, but this one has {'x'.join(map(str, shape))} voxels with "
                    f"{', '.join(layers)}; add --rebuild, or name another --out"
                )
            sums.counts = kept["counts"]
        sums.cases = dict(told["cases"])
        length = len(sums.cases) * sums.width
        if not sums.bits.is_file() or sums.bits.stat().st_size < length:
            raise ConfigError(f"'{sums.bits}' is shorter than its atlas says; add --rebuild")
        with open(sums.bits, "r+b") as file:
            file.truncate(length)
        return sums

    def add(
        self, name: str, digest: str, lesion: np.ndarray, tissues: Mapping[str, np.ndarray] | None = None
    ) -> None:
        """Add a case.

        Args:
            lesion: ``(*shape)``, True where it is.
            tissues: The same for each layer after the first.
        """
        assert name not in self.cases and lesion.shape == self.shape
        for number, layer in enumerate(self.layers):
            self.counts[number] += lesion if layer == LESION else (tissues or {})[layer]
        with open(self.bits, "ab") as file:
            file.write(np.packbits(lesion.reshape(-1)).tobytes())
        self.cases[name] = digest

    def save(self) -> None:
        """Write the counts and whose they are."""
        about = json.dumps({"shape": self.shape, "layers": self.layers, "cases": list(self.cases.items())})
        with replacing(self.folder / "sums.npz") as temporary:
            np.savez_compressed(temporary, counts=self.counts, about=np.array(about))

    def rows(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield name and lesion of each case, ``(*shape)``, True where it is."""
        voxels = int(np.prod(self.shape))
        with open(self.bits, "rb") as file:
            for name in self.cases:
                row = np.frombuffer(file.read(self.width), dtype=np.uint8)
                yield name, np.unpackbits(row, count=voxels).astype(bool).reshape(self.shape)

    def blocks(self, kept: np.ndarray, most: int = BLOCK) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield voxels, flat indices, and their lesions, ``(cases, voxels)`` uint8, a block at a time.

        Args:
            kept: ``(*shape)``, True where voxels are wanted.
            most: Bytes of a block.
        """
        if not self.cases:
            return
        table = np.memmap(self.bits, dtype=np.uint8, mode="r", shape=(len(self.cases), self.width))
        step = max(
            1, most // (9 * len(self.cases))
        )  # bits once, and eight bytes a number where they are multiplied
        wanted = kept.reshape(-1)
        voxels = np.flatnonzero(wanted)
        for start in range(0, len(voxels), step):
            some = voxels[start : start + step]
            shift = (7 - (some & 7)).astype(np.uint8)
            yield some, (table[:, some >> 3] >> shift) & 1
