"""Pairs to train on: dictionaries of tensors, one pair an item, which any loader can batch.

    moving, fixed    (C, *space)      float32, a channel a modality
    mask             (1, *space)      in [0, 1]: the lesion on the moving image
    displacement     (dim, *space)    the true pull-back, voxels, where it is known and asked for
    inverse          (dim, *space)    the same the other way, from moving to fixed points
    counterpart      (1, *space)      where the lesion lies on the fixed image
    labels           (1, *space)      int32: label map of the moving image, the lesion's core the highest
    fixed_labels     (1, *space)      the same of the fixed image

An item depends on its index, the seed and the options alone: not on how many workers make it, nor on what came before.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from mmtk.errors import ConfigError
from mmtk.fields import Grid
from mmtk.learned import Batch

if TYPE_CHECKING:
    from mmtk.samples import Sample

__all__ = ["EpochSampler", "SyntheticPairs", "as_batch", "prepare_batch", "prepare_unmasked"]

_NAMES = ("moving", "fixed", "mask", "fixed_mask", "displacement")
_TRUTH = ("displacement", "inverse", "counterpart")
_FIELDS = ("displacement", "inverse")
_LABELS = ("labels", "fixed_labels")
#: The modalities beside the first, ``(C - 1, *space)``, of samples that have any.
_FURTHER = ("further_moving", "further_fixed")

#: Samples that have no label maps: what was kept of them before there were any is complete.
_UNLABELED = ("c_shapes",)


def as_batch(data: Mapping[str, Any]) -> Batch:
    """Return what a loader collated as a batch."""
    return Batch(**{name: data[name] for name in _NAMES if name in data})


def prepare_batch(
    data: Mapping[str, Any], device: torch.device | str | None = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[Batch, Batch]:
    """Return input and target for MONAI's engines: a batch is both."""
    batch = as_batch(data).to(device or "cpu")
    return batch, batch


def prepare_unmasked(
    data: Mapping[str, Any], device: torch.device | str | None = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[Batch, Batch]:
    """Return :func:`prepare_batch` without the lesion's mask: ISBI 2022's "without local regularization"."""
    batch = replace(as_batch(data), mask=None).to(device or "cpu")
    return batch, batch


class SyntheticPairs(Dataset[dict[str, Tensor]]):
    """Pairs made by one of ``mmtk.samples``, each by its index.

    Args:
        sample: ``c_shapes``, ``brains`` or ``tumor_brain``.
        options: Of the sample, without its seed.
        count: How many pairs.
        seed: Two sets of different seeds share no pair.
        reduce: Average so many voxels along each axis into one; spacing grows likewise.
        truth: Give what is known of the pair, too: all but the first three of the module's table. Letters have no
            labels, nor has a brain of one's own without them.
        cache: Folder that keeps what was made, under the digest of all that it depends on; None: make it each time.
            Brains that were kept without their labels are made again when the truth is asked for.

    Raises:
        ConfigError: If the sample or an option is unknown.
    """

    def __init__(
        self,
        sample: str = "c_shapes",
        options: Mapping[str, Any] | None = None,
        *,
        count: int = 2000,
        seed: int = 0,
        reduce: int = 1,
        truth: bool = False,
        cache: str | os.PathLike[str] | None = None,
    ) -> None:
        from mmtk.samples import SAMPLES
        from mmtk.samples.options import parse

        known = [name for name, recipe in SAMPLES.items() if recipe.pairs]
        if sample not in known:
            raise ConfigError(f"no sample is called '{sample}'; of pairs there are: {', '.join(known)}")
        self.sample, self.count, self.seed, self.reduce, self.truth = sample, count, seed, reduce, truth
        given = dict(options or {})
        for own in ("seed", "count"):
            if own in given:
                raise ConfigError(f"{own}: is the set's own; give it to the set, not among the options")
        self.options = parse(SAMPLES[sample].options, given, sample)
        self.folder: Path | None = None
        if cache is not None:
            facts = {
                "sample": sample,
                "seed": seed,
                **self.options.model_dump(mode="json", exclude={"seed", "count"}),
            }
            digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
            self.folder = Path(cache) / f"{sample}-{digest}"

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < self.count:
            raise IndexError(index)
        arrays = self._arrays(index)
        names = ("moving", "fixed", "mask", *(_TRUTH if self.truth else ()))
        item = {name: self._reduced(name, arrays[name]) for name in names}
        if _FURTHER[0] in arrays:
            further = {
                name: self._reduced(f"further_{name}", arrays[f"further_{name}"]) for name in ("moving", "fixed")
            }
            item |= {name: torch.cat([item[name], channels]) for name, channels in further.items()}
        if self.truth:
            present = [name for name in _LABELS if name in arrays and arrays[name].size]
            item |= {name: _fewer_labels(arrays[name], self.reduce) for name in present}
        item["index"] = torch.tensor(index)
        return item

    def grid(self) -> Grid:
        """Return the grid that every pair lies on."""
        item, sample = self[0], self._arrays(0)
        spacing = sample["spacing"] * self.reduce
        return Grid(tuple(item["fixed"].shape[1:]), tuple(float(h) for h in spacing))

    def affine(self) -> np.ndarray:
        """Return ``(4, 4)``, from voxels of :meth:`grid` to RAS mm."""
        full = np.array(self._arrays(0)["affine"], dtype=float)
        dim = len(self._arrays(0)["spacing"])
        full[:3, 3] += full[:3, :dim].sum(1) * (self.reduce - 1) / 2  # the middle of the first group of voxels
        full[:3, :dim] *= self.reduce
        return full

    def _arrays(self, index: int) -> dict[str, np.ndarray]:
        if self.folder is None:
            return _kept(self._made(index))
        path = self.folder / f"{index:06d}.npz"
        if path.is_file():
            stored = _read(path)
            if not self.truth or self.sample in _UNLABELED or _LABELS[0] in stored:
                return stored
        self.folder.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.stem}.{os.getpid()}.part.npz")
        np.savez_compressed(part, allow_pickle=False, **_kept(self._made(index)))
        os.replace(part, path)
        return _read(path)

    def _made(self, index: int) -> Sample:
        from mmtk.samples.catalogue import one

        return one(self.sample, self.options, self.seed, index)

    def _reduced(self, name: str, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
        if name not in _FIELDS:
            tensor = (tensor if name in _FURTHER else tensor[None]) / (255 if array.dtype == np.uint8 else 1)
        if self.reduce == 1:
            return tensor
        pool = F.avg_pool2d if tensor.ndim == 3 else F.avg_pool3d
        pooled = pool(tensor[None], self.reduce)[0]
        return pooled / self.reduce if name in _FIELDS else pooled


def _read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def _fewer_labels(labels: np.ndarray, reduce: int) -> Tensor:
    """Return ``(1, *space)``: in each cell of ``reduce`` voxels along an axis its most frequent label."""
    tensor = torch.from_numpy(np.ascontiguousarray(labels, dtype=np.int32))
    if reduce == 1:
        return tensor[None]
    for axis in range(tensor.ndim):
        tensor = tensor.unfold(axis, reduce, reduce)  # cells along the axis; their voxels as a new last axis
    return tensor.flatten(labels.ndim).mode(-1).values[None]


def _kept(sample: Sample) -> dict[str, np.ndarray]:
    """Return what a pair needs, in few bytes: intensities in 255 steps, displacements in half precision.

    Label maps that the sample does not have are empty, which tells them from those that nobody kept.
    """
    none = np.zeros(0, np.uint8)

    def in_bytes(image: np.ndarray) -> np.ndarray:
        return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)

    channels = list(sample.channels.values())
    further = {
        name: in_bytes(np.stack(scans)) for name, scans in zip(_FURTHER, zip(*channels, strict=True), strict=False)
    }
    return {
        **further,
        "moving": in_bytes(sample.moving),
        "fixed": in_bytes(sample.fixed),
        "mask": sample.mask.astype(bool),
        "counterpart": sample.fixed_mask.astype(bool),
        "displacement": sample.displacement.astype(np.float16),
        "inverse": sample.inverse_displacement.astype(np.float16),
        "spacing": np.asarray(sample.spacing),
        "affine": np.asarray(sample.affine),
        "labels": none if sample.labels_moving is None else sample.labels_moving,
        "fixed_labels": none if sample.labels_fixed is None else sample.labels_fixed,
    }


class EpochSampler(Sampler[int]):
    """Every index once an epoch, in an order that the seed and the epoch alone decide.

    A run that was stopped and goes on at epoch 7 sees what the uninterrupted run saw there.

    Args:
        count: How many items there are.
        seed: Of the orders.
        rank, ranks: Which part of each order is this process's, and of how many. All get equally many; what is left
            over waits for another epoch.
    """

    def __init__(self, count: int, seed: int = 0, rank: int = 0, ranks: int = 1) -> None:
        if not 0 <= rank < ranks <= count:
            raise ValueError(f"rank {rank} of {ranks} processes for {count} items")
        self.count, self.seed, self.rank, self.ranks = count, seed, rank, ranks
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count // self.ranks

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.count)
        return iter(order[self.rank :: self.ranks][: len(self)].tolist())
