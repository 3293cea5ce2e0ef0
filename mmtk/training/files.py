"""Pairs from files, prepared for training.

Each pair is prepared as a run prepares it: placed, brought to one intensity scale, masks blinded; then it is brought
onto the training grid, which is the first fixed image's, averaged by ``reduce`` and cropped to its content.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mmtk import io
from mmtk.fields import Grid, identity, sample
from mmtk.prepare import Prepared, affine_points, place, prepare, tensor
from mmtk.training.listing import PairFiles

__all__ = ["FilePairs", "Frame", "training_grid"]

#: mm of background that the training grid keeps around its content, and what its size in voxels must be a multiple of.
MARGIN, MULTIPLE = 8.0, 8

_LABELS = ("labels", "fixed_labels")


@dataclass(frozen=True, eq=False)
class Frame:
    """A training grid in space.

    Attributes:
        grid: Shape and spacing.
        affine: ``(4, 4)``, voxel to RAS mm.
    """

    grid: Grid
    affine: np.ndarray


def training_grid(fixed: Path, reduce: int, spacing: tuple[float, ...] | None = None) -> Frame:
    """Return the grid of a fixed image, coarser by ``reduce``, cropped to its content and ``MARGIN`` mm around it."""
    volume = io.read_image(fixed, name="fixed", spacing=spacing)
    dim, data = volume.dim, np.asarray(volume.data)
    busy = data != data.flat[0]
    affine, shape = np.array(volume.affine, dtype=float), []
    start = np.zeros(dim)
    for axis in range(dim):
        others = tuple(a for a in range(dim) if a != axis)
        used = np.flatnonzero(busy.any(axis=others))
        margin = int(np.ceil(MARGIN / volume.spacing[axis]))
        first = max(0, int(used[0]) - margin) if len(used) else 0
        last = min(data.shape[axis] - 1, int(used[-1]) + margin) if len(used) else data.shape[axis] - 1
        cells = -(-(last - first + 1) // reduce)
        cells += -cells % MULTIPLE
        shape.append(cells)
        start[axis] = (first + last) / 2 - reduce * (cells - 1) / 2
    affine[:3, 3] = affine[:3, :dim] @ start + affine[:3, 3]
    affine[:3, :dim] *= reduce
    return Frame(Grid(tuple(shape), tuple(h * reduce for h in volume.spacing)), affine)


class FilePairs(Dataset[dict[str, Tensor]]):
    """Prepared pairs of files, on one grid.

    Args:
        pairs: Their files.
        frame: The training grid.
        init, normalize, spacing: As for a run.
        labels: Give the label maps, too, of pairs that have them, if any of the set has.
        cache: Folder that keeps what was prepared, under the digest of files and settings; None: prepare each time.
    """

    def __init__(
        self,
        pairs: Sequence[PairFiles],
        frame: Frame,
        *,
        init: str = "affine",
        normalize: Any = "robust",
        spacing: tuple[float, ...] | None = None,
        labels: bool = False,
        cache: str | os.PathLike[str] | None = None,
    ) -> None:
        self.pairs, self.frame = list(pairs), frame
        self.labels = labels and any(pair.labels for pair in self.pairs)
        self.settings = {"init": init, "normalize": normalize, "spacing": spacing}
        self.cache = None if cache is None else Path(cache)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        files = self.pairs[index]
        if self.cache is None:
            return self._prepared(files, index)
        path = self.cache / f"pair-{self._digest(files)}.pt"
        if not path.is_file():
            self.cache.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(f".{os.getpid()}.part")
            torch.save(self._prepared(files, index), part)
            os.replace(part, path)
        stored: dict[str, Tensor] = torch.load(path, weights_only=True)
        return {**stored, "index": torch.tensor(index)}

    def _digest(self, files: PairFiles) -> str:
        names = ("moving", "fixed", "mask", *(_LABELS if self.labels else ()))
        named = {name: getattr(files, name) for name in names}
        for number, path in enumerate((*files.more_moving, *files.more_fixed)):
            named[f"further {number}"] = path
        facts = {
            "files": {name: path and io.sha256(path) for name, path in named.items()},
            "settings": {name: str(value) for name, value in self.settings.items()},
            "shape": self.frame.grid.shape,
            "affine": self.frame.affine.tolist(),
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:20]

    def _prepared(self, files: PairFiles, index: int) -> dict[str, Tensor]:
        known = prepare(
            moving=files.moving,
            fixed=files.fixed,
            mask=files.mask,
            more_moving=files.more_moving,
            more_fixed=files.more_fixed,
            **self.settings,
        )
        item = {**_on_grid(known, self.frame), "index": torch.tensor(index)}
        return {**item, **_labels_on_grid(known, files, self.frame)} if self.labels else item


def _labels_on_grid(known: Prepared, files: PairFiles, frame: Frame) -> dict[str, Tensor]:
    """Return both label maps by nearest neighbor, the moving one placed as its image is; zeros where there are none."""
    to_fixed = np.linalg.solve(known.fixed.affine, frame.affine)
    item = {}
    for name, placed in zip(_LABELS, (known.alignment.matrix, np.eye(4)), strict=True):
        path = getattr(files, name)
        if path is None:
            item[name] = torch.zeros(1, *frame.grid.shape, dtype=torch.int32)
            continue
        volume = io.read_image(path, name=name)
        points = affine_points(
            identity(frame.grid.shape), io.voxel_to_voxel(known.fixed, volume, placed) @ to_fixed
        )
        item[name] = sample(tensor(volume, "cpu"), points, "nearest", "zeros")[0].round().int()
    return item


def _on_grid(known: Prepared, frame: Frame) -> dict[str, Tensor]:
    pair, to_fixed = known.pair, np.linalg.solve(known.fixed.affine, frame.affine)
    item = {name: place(getattr(pair, name), to_fixed, frame.grid.shape)[0] for name in ("moving", "fixed")}
    # A batch holds pairs with and without a lesion: no mask is a mask of nothing.
    mask = torch.zeros_like(pair.fixed[:, :1]) if pair.mask is None else pair.mask
    item["mask"] = place(mask, to_fixed, frame.grid.shape)[0].clamp(0, 1)
    seen = pair.fixed_weight if pair.inside is None else pair.fixed_weight * pair.inside
    item["fixed_mask"] = 1 - place(seen, to_fixed, frame.grid.shape)[0].clamp(0, 1)
    return item
