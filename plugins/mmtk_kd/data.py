"""Heads to learn segmentation from: dictionaries of tensors, one head or a patch of it an item.

    image     (4, *space)  float32   T1, T1ce, T2, FLAIR, each with mean 0 and deviation 1 over its foreground, 0 outside
    labels    (1, *space)  int64     class of :data:`mmtk_kd.networks.CLASSES`: healthy, necrosis, edema, enhancing

Read as BraTS lays them out, ``NAME/NAME_t1.nii.gz`` and so on (since 2023 ``NAME-t1n.nii.gz``), labels 1, 2, 4 or
1, 2, 3; or made by :func:`mmtk.samples.gliomas`. What augmentation draws comes from torch's generator, which the engine
seeds for each epoch.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mmtk.errors import ConfigError, InputError
from mmtk_kd.networks import CLASSES

__all__ = ["Augment", "BratsHeads", "HeadFiles", "Heads", "Patches", "SyntheticHeads", "list_brats", "zscored"]

MODALITIES = ("t1", "t1ce", "t2", "flair")

#: What the files of a head end in, by the years' customs.
_ENDINGS = {
    "t1": ("_t1", "-t1n"),
    "t1ce": ("_t1ce", "-t1c"),
    "t2": ("_t2", "-t2w"),
    "flair": ("_flair", "-t2f"),
    "seg": ("_seg", "-seg"),
}


@dataclass(frozen=True)
class HeadFiles:
    """The files of one head: four modalities, and the labels."""

    name: str
    images: tuple[Path, ...]
    seg: Path


def list_brats(folder: Path) -> list[HeadFiles]:
    """Return the heads of a folder as BraTS lays them out, in the order of their names.

    Raises:
        ConfigError: One sentence for each file that is missing; or there is no head at all.
    """
    if not folder.is_dir():
        raise ConfigError(f"data={folder}: no such folder; give one of heads as BraTS lays them out, or gliomas")
    heads, problems = [], []
    for place in sorted(p for p in folder.iterdir() if p.is_dir()):
        found = {kind: _file(place, endings) for kind, endings in _ENDINGS.items()}
        if not any(found.values()):
            continue
        lacking = [kind for kind, path in found.items() if path is None]
        if lacking:
            problems.append(
                f"data={folder}: {place.name} has no {', '.join(lacking)}; each head needs all five files"
            )
            continue
        paths = {kind: path for kind, path in found.items() if path is not None}
        heads.append(HeadFiles(place.name, tuple(paths[m] for m in MODALITIES), paths["seg"]))
    if not heads and not problems:
        problems.append(
            f"data={folder}: holds no head; each is a folder NAME with NAME_t1.nii.gz, ..., NAME_seg.nii.gz"
        )
    if problems:
        raise ConfigError(problems)
    return heads


def _file(place: Path, endings: Sequence[str]) -> Path | None:
    for ending in endings:
        for suffix in (".nii.gz", ".nii"):
            if (path := place / f"{place.name}{ending}{suffix}").is_file():
                return path
    return None


def zscored(image: np.ndarray) -> np.ndarray:
    """Return an image with mean 0 and deviation 1 over its voxels that are not 0, which stay 0."""
    inside = image != 0
    if not inside.any():
        return image.astype(np.float32)
    values = image[inside].astype(np.float64)
    scaled = np.where(inside, (image - values.mean()) / max(float(values.std()), 1e-8), 0.0)
    return scaled.astype(np.float32)


def classes(labels: np.ndarray, name: str = "labels") -> np.ndarray:
    """Return the index of each voxel's class, for BraTS's labels 1, 2, 4 or 1, 2, 3.

    Raises:
        InputError: There is another label, or both 3 and 4.
    """
    values = {int(v) for v in np.unique(np.rint(labels))}
    if not values <= {0, 1, 2, 3, 4} or {3, 4} <= values:
        raise InputError(
            f"{name}: has the labels {', '.join(map(str, sorted(values)))}; BraTS's are 1, 2, 4 or 1, 2, 3"
        )
    index = np.zeros(5, np.int64)
    index[[1, 2, 3, 4]] = CLASSES.index(1), CLASSES.index(2), CLASSES.index(4), CLASSES.index(4)
    return index[np.rint(labels).astype(np.int64)]


class Heads(Dataset[dict[str, Tensor]]):
    """Whole heads on grids of one spacing.

    Attributes:
        spacing: mm along each axis.
    """

    spacing: tuple[float, ...]

    def __len__(self) -> int:
        raise NotImplementedError

    def arrays(self, index: int) -> dict[str, np.ndarray]:
        """Return ``images (4, *space)``, scaled, ``labels (*space)`` of classes and ``affine``."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        head = self.arrays(index)
        return {
            "image": torch.from_numpy(head["images"].astype(np.float32)),
            "labels": torch.from_numpy(head["labels"].astype(np.int64))[None],
        }


def _cached(folder: Path | None, facts: Mapping[str, Any], make: Any) -> dict[str, np.ndarray]:
    """Return what ``make()`` returns, kept in a folder under the digest of all that it depends on."""
    if folder is None:
        return _kept(make())
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:20]
    path = folder / f"head-{digest}.npz"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"head-{digest}.{os.getpid()}.part.npz"
        np.savez(part, allow_pickle=False, **_kept(make()))
        os.replace(part, path)
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def _kept(head: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {
        "images": head["images"].astype(np.float16),
        "labels": head["labels"].astype(np.uint8),
        "affine": head["affine"],
    }


class SyntheticHeads(Heads):
    """Heads of :func:`mmtk.samples.gliomas`, each by its index.

    Args:
        options: Of the sample, without its seed and count.
        count: How many.
        seed: Two sets of different seeds share no head.
        cache: Folder that keeps what was made; None: make it each time.
    """

    def __init__(
        self,
        options: Mapping[str, Any] | None = None,
        *,
        count: int = 100,
        seed: int = 0,
        cache: str | os.PathLike[str] | None = None,
    ) -> None:
        from mmtk.samples.options import GliomasOptions, parse

        given = dict(options or {})
        for own in ("seed", "count"):
            if own in given:
                raise ConfigError(f"{own}: is the set's own; give it to the set, not among the options")
        self.options = parse(GliomasOptions, {**given, "seed": seed}, "gliomas")
        self.count = count
        self.folder = None if cache is None else Path(cache)
        self.spacing = (self.options.spacing,) * 3

    def __len__(self) -> int:
        return self.count

    def arrays(self, index: int) -> dict[str, np.ndarray]:
        facts = {"sample": "gliomas", "form": 1, "index": index, **self.options.model_dump(exclude={"count"})}
        return _cached(self.folder, facts, lambda: self._made(index))

    def _made(self, index: int) -> dict[str, np.ndarray]:
        from mmtk.samples.heads import one_glioma

        head = one_glioma(self.options, index)
        images = np.stack([zscored(image) for image in head.images])
        return {"images": images, "labels": classes(head.labels), "affine": head.affine}


class BratsHeads(Heads):
    """Heads from files, axes as nearly as they can along RAS.

    Args:
        heads: Their files.
        reduce: Average so many voxels along each axis into one; labels: the most frequent.
        cache: Folder that keeps what was prepared; None: prepare each time.
    """

    def __init__(
        self, heads: Sequence[HeadFiles], *, reduce: int = 1, cache: str | os.PathLike[str] | None = None
    ) -> None:
        self.heads, self.reduce = list(heads), reduce
        self.folder = None if cache is None else Path(cache)
        affine = self.arrays(0)["affine"]
        self.spacing = tuple(float(h) for h in np.linalg.norm(affine[:3, :3], axis=0))

    def __len__(self) -> int:
        return len(self.heads)

    def arrays(self, index: int) -> dict[str, np.ndarray]:
        files = self.heads[index]
        facts = {
            "files": [
                [str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns] for p in (*files.images, files.seg)
            ],
            "reduce": self.reduce,
        }
        return _cached(self.folder, facts, lambda: self._read(files))

    def _read(self, files: HeadFiles) -> dict[str, np.ndarray]:
        read = [_canonical(path) for path in (*files.images, files.seg)]
        shapes = {array.shape for array, _ in read}
        if len(shapes) > 1:
            told = ", ".join(" x ".join(map(str, shape)) for shape in sorted(shapes))
            raise InputError(f"{files.name}: its images are of {told} voxels; all five must lie on one grid")
        affine = read[0][1].copy()
        affine[:3, 3] += affine[:3, :3].sum(1) * (self.reduce - 1) / 2
        affine[:3, :3] *= self.reduce
        images = np.stack([zscored(_averaged(array, self.reduce)) for array, _ in read[:4]])
        labels = _most_frequent(classes(read[4][0], str(files.seg)), self.reduce)
        return {"images": images, "labels": labels, "affine": affine}


def _canonical(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the voxels and the affine of a file, its axes flipped and ordered as in RAS."""
    import nibabel as nib

    from mmtk.io import read_image

    volume = read_image(path, name=path.name)
    image = nib.as_closest_canonical(nib.Nifti1Image(np.asarray(volume.data, np.float32), volume.affine))
    return np.asarray(image.dataobj, dtype=np.float32), np.array(image.affine, dtype=float)


def _averaged(image: np.ndarray, reduce: int) -> np.ndarray:
    if reduce == 1:
        return image
    pooled: np.ndarray = torch.nn.functional.avg_pool3d(torch.from_numpy(image)[None, None], reduce)[0, 0].numpy()
    return pooled


def _most_frequent(labels: np.ndarray, reduce: int) -> np.ndarray:
    if reduce == 1:
        return labels
    tensor = torch.from_numpy(labels)
    for axis in range(3):
        tensor = tensor.unfold(axis, reduce, reduce)
    found: np.ndarray = tensor.flatten(3).mode(-1).values.numpy()
    return found


@dataclass(frozen=True)
class Augment:
    """What changes at each sight of a head (thesis 3.5.2): mirrors, a shift of intensities, gamma.

    Attributes:
        flip: Probability of a mirror, along each axis.
        shift: Largest shift of a modality's intensities, in deviations.
        gamma: Range of the power, taken of intensities scaled to [0, 1].
    """

    flip: float = 0.5
    shift: float = 0.1
    gamma: tuple[float, float] = (0.8, 1.25)

    def __call__(self, image: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return both changed; 0 outside the head stays 0."""
        axes = [axis + 1 for axis in range(image.ndim - 1) if float(torch.rand(())) < self.flip]
        if axes:
            image, labels = image.flip(axes), labels.flip(axes)
        shape = (len(image), *[1] * (image.ndim - 1))
        inside = image != 0
        low, high = (f(1).values.reshape(shape) for f in (image.flatten(1).min, image.flatten(1).max))
        span = (high - low).clamp(min=1e-6)
        least, most = np.log(self.gamma)
        power = torch.exp(least + (most - least) * torch.rand(shape))
        curved = low + span * ((image - low) / span).clamp(0, 1).pow(power)
        shift = self.shift * (2 * torch.rand(shape) - 1)
        return torch.where(inside, curved + shift, torch.zeros_like(image)), labels


class Patches(Dataset[dict[str, Tensor]]):
    """One patch of each head, drawn at each sight; heads that are smaller are padded by 0.

    Args:
        heads: Whole ones.
        patch: Voxels along each axis.
        on_tumor: Probability that a voxel of the tumor is in the patch's middle, as near as the head's border allows.
        augment: What else changes; None: the patch lies in the head's middle and stays as it is.
    """

    def __init__(
        self, heads: Heads, patch: Sequence[int], augment: Augment | None = None, on_tumor: float = 0.5
    ) -> None:
        self.heads, self.patch, self.augment, self.on_tumor = heads, tuple(patch), augment, on_tumor

    def __len__(self) -> int:
        return len(self.heads)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        item = self.heads[index]
        image, labels = item["image"], item["labels"]
        missing = [max(0, p - n) for p, n in zip(self.patch, image.shape[1:], strict=True)]
        if any(missing):
            padding = [side for m in reversed(missing) for side in (m // 2, m - m // 2)]
            image, labels = (torch.nn.functional.pad(t, padding) for t in (image, labels))
        room = [n - p for n, p in zip(image.shape[1:], self.patch, strict=True)]
        if self.augment is None:
            start = [r // 2 for r in room]
        else:
            start = [int(torch.randint(r + 1, ())) for r in room]
            tumor = torch.nonzero(labels[0])
            if len(tumor) and float(torch.rand(())) < self.on_tumor:
                middle = tumor[int(torch.randint(len(tumor), ()))].tolist()
                start = [min(max(m - p // 2, 0), r) for m, p, r in zip(middle, self.patch, room, strict=True)]
        cut = (slice(None), *(slice(s, s + p) for s, p in zip(start, self.patch, strict=True)))
        image, labels = image[cut], labels[cut]
        if self.augment is not None:
            image, labels = self.augment(image, labels)
        return {"image": image.contiguous(), "labels": labels.contiguous(), "index": torch.tensor(index)}
