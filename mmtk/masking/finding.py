"""Finding the lesion of a patient: read, turn, place a template, ask the segmenter, turn back.

A segmenter sees the array with its axes turned to right, forward and up as nearly as they can be, at the scan's own
resolution, intensities as they were read. What it finds comes back on the scan's own grid. A template is placed
affinely, without any mask, for there is none yet.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmtk import io
from mmtk.align import align
from mmtk.config import ComponentConfig
from mmtk.errors import InputError
from mmtk.io import Volume
from mmtk.masking.description import SegmentConfig, scans_of
from mmtk.masking.files import outputs_of
from mmtk.prepare import place, tensor
from mmtk.segmenters import PairSegmenter, Segmentation
from mmtk.segmenters.regions import labels_of

__all__ = ["FoundMask", "embedded_template", "find_mask", "segment", "write_mask"]


@dataclass(frozen=True, eq=False)
class FoundMask:
    """A mask that a segmenter found, on the grid of the scan.

    Attributes:
        mask: Probability of the lesion.
        uncertainty: In [0, 1].
        regions: Probabilities by the name of the region.
        segmenter: Its name.
        settings: Its description, as plain data.
        history: What the lesion probably did to its neighbors, see :class:`~mmtk.segmenters.Segmentation`.
        notes: Sentences for the user.
        seconds: That it took.
    """

    mask: Volume
    uncertainty: Volume
    regions: Mapping[str, Volume]
    segmenter: str
    settings: Mapping[str, Any]
    history: str = "unknown"
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def empty(self) -> bool:
        """Whether no voxel is more probably lesion than not."""
        return not bool((self.mask.data >= 0.5).any())

    def volume_ml(self, level: float = 0.5) -> float:
        """Return the lesion's volume in ml, or its area in cm^2."""
        return float((self.mask.data >= level).sum()) * float(np.prod(self.mask.spacing)) / 10**self.mask.dim

    def numbers(self) -> dict[str, Any]:
        """Return where the mask came from and how sure it is, as plain data."""
        inside = self.mask.data >= 0.5
        return {
            "segmenter": self.segmenter,
            "settings": dict(self.settings),
            "volume_ml": self.volume_ml(),
            "uncertain_ml": float((self.uncertainty.data > 0.5).sum())
            * float(np.prod(self.mask.spacing))
            / 10**self.mask.dim,
            "mean_uncertainty": float(self.uncertainty.data[inside].mean()) if inside.any() else None,
            "history": self.history,
            "seconds": round(self.seconds, 3),
        }

    def metrics(self) -> dict[str, float]:
        """Return its numbers alone, for ``metrics.json``."""
        numbers = {name: value for name, value in self.numbers().items() if isinstance(value, float)}
        return {
            name: numbers[name] for name in ("volume_ml", "uncertain_ml", "mean_uncertainty") if name in numbers
        }

    def told(self, method: ComponentConfig) -> list[str]:
        """Return the sentences that head a run whose mask this is."""
        if self.empty:
            return [
                f"mask=auto: {self.segmenter} found no lesion, so nothing was left out, and no intensity was changed."
            ]
        unit = "ml" if self.mask.dim == 3 else "cm^2"
        notes = [
            f"nobody drew the mask: {self.segmenter} found {self.volume_ml():.3g} {unit} of lesion, and is in doubt "
            f"about {self.numbers()['uncertain_ml']:.3g} {unit} at its border; look at it first."
        ]
        if self.history == "grew" and getattr(method, "lesion", None) == "grew":
            notes.append(
                "lesion=grew: its intensities are those of tissue, not of fluid, so it was taken for one that grew; "
                "lesion=replaced if it pushed nothing."
            )
        if self.history == "collapsed":
            notes.append(
                "its intensities are those of fluid: a cavity; if tissue sank into it, try lesion=collapsed."
            )
        return notes


def find_mask(
    scans: Sequence[Volume],
    segmenter: ComponentConfig,
    *,
    reference: Volume | None = None,
    init: str = "affine",
    device: torch.device | str = "cpu",
) -> FoundMask:
    """Return the lesion of one patient.

    Args:
        scans: One for each channel of the segmenter; the others are brought onto the first one's grid.
        segmenter: Its description.
        reference: A healthy image, anywhere in space, for a segmenter that compares; others are not given it.
        init: How the reference is placed: as of :func:`mmtk.register`, from this scan to the reference.
        device: Where to compute.

    Raises:
        ConfigError: The segmenter does not take such scans, or needs a reference.
    """
    start = time.perf_counter()
    first = scans[0]
    built = segmenter.build()
    if isinstance(built, torch.nn.Module):
        built = built.to(device)
    channels = [tensor(first, device)]
    for other in scans[1:]:
        if other.dim != first.dim:
            raise InputError(
                f"{other.name}: is {other.dim}-D but {first.name} is {first.dim}-D; give scans of one patient"
            )
        channels.append(place(tensor(other, device), io.voxel_to_voxel(first, other), first.shape))
    placed = None
    notes: list[str] = []
    if isinstance(built, PairSegmenter) and reference is not None:
        placement = align(first, reference, kind=init, device=device)
        if placement.note:
            notes.append(f"template: {placement.note}")
        there = np.linalg.inv(placement.matrix)  # from the scan to the reference, in world mm
        placed = place(tensor(reference, device), io.voxel_to_voxel(first, reference, there), first.shape)
    order, flips = _turn(first)
    spacing = tuple(first.spacing[axis] for axis in order)
    with torch.no_grad():
        found: Segmentation = built.find(
            _turned(torch.cat(channels, 1), order, flips),
            spacing,
            None if placed is None else _turned(placed, order, flips),
        )

    def volume(map_: Tensor, name: str) -> Volume:
        data = _turned_back(map_, order, flips)[0, 0].float().cpu().numpy()
        return Volume(data, first.affine, first.storage, name)

    return FoundMask(
        mask=volume(found.mask, "mask"),
        uncertainty=volume(found.uncertainty, "uncertainty"),
        regions={name: volume(map_, name) for name, map_ in found.regions.items()},
        segmenter=segmenter.kind,
        settings=segmenter.model_dump(mode="json"),
        history=found.history,
        notes=(*notes, *found.notes),
        seconds=time.perf_counter() - start,
    )


def _turn(image: Volume) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the order of axes, and those then to be flipped, that bring a located volume to RAS; nothing in 2-D."""
    if image.dim == 2 or not image.storage.located:
        return tuple(range(image.dim)), ()
    from nibabel.orientations import io_orientation

    ways = io_orientation(image.affine)
    order = tuple(int(np.flatnonzero(ways[:, 0] == axis)[0]) for axis in range(3))
    return order, tuple(axis for axis in range(3) if ways[order[axis], 1] < 0)


def _turned(image: Tensor, order: Sequence[int], flips: Sequence[int]) -> Tensor:
    return image.permute(0, 1, *[2 + a for a in order]).flip([2 + a for a in flips]).contiguous()


def _turned_back(image: Tensor, order: Sequence[int], flips: Sequence[int]) -> Tensor:
    back = [int(np.flatnonzero(np.asarray(order) == a)[0]) for a in range(len(order))]
    return image.flip([2 + a for a in flips]).permute(0, 1, *[2 + a for a in back])


def embedded_template() -> Volume:
    """Return the MNI152 T1 that comes with mmtk, 1 mm, without its skull."""
    from mmtk import samples

    return io.read_image(Path(samples.__file__).parent / "data" / "mni152_t1.nii.gz", name="template")


def segment(
    config: SegmentConfig, *, device: str = "cpu", overwrite: bool = False, command: str | None = None
) -> tuple[FoundMask, list[Path]]:
    """Do what a description says; return what was found and the files that hold it.

    Files: the mask (0 and 1), the probability, the uncertainty; where regions are known their probabilities and BraTS's
    label map; and a record in JSON.

    Raises:
        InputError: A file is there already and ``overwrite`` is not set, or a scan cannot be used; nothing was written.
    """
    _free(config, overwrite)
    named = list(scans_of(config))
    scans = [io.read_image(path, name=name, spacing=config.spacing) for name, path in named]
    reference = _reference(config, scans[0])
    found = find_mask(
        scans, config.segmenter, reference=reference, init=str(config.init), device=torch.device(device)
    )
    notes = [note for scan in scans for note in scan.notes]
    found = replace(found, notes=(*notes, *found.notes))
    return found, write_mask(found, config, scans[0], overwrite=overwrite, command=command)


def write_mask(
    found: FoundMask, config: SegmentConfig, like: Volume, *, overwrite: bool = False, command: str | None = None
) -> list[Path]:
    """Write what was found beside one another, and return the files; see :func:`segment`.

    Raises:
        InputError: A file is there already and ``overwrite`` is not set.
    """
    import mmtk

    files = _free(config, overwrite)
    written = [io.write_image(files["mask"], found.mask.data >= config.level, like, dtype=np.uint8)]
    written.append(io.write_image(files["probability"], found.mask.data, like))
    written.append(io.write_image(files["uncertainty"], found.uncertainty.data, like))
    if found.regions:
        regions = {name: volume.data for name, volume in found.regions.items()}
        written += [io.write_image(files[n], map_, like) for n, map_ in regions.items() if n in files]
        if "WT" in regions:
            labels = labels_of({n: r + (0.5 - config.level) for n, r in regions.items()}, config.enhancing)
            written.append(io.write_image(files["labels"], labels, like, dtype=np.uint8))
    record = {
        "command": command,
        **found.numbers(),
        "notes": found.notes,
        "inputs": {name: {"path": str(path), "sha256": io.sha256(path)} for name, path in scans_of(config)},
        "template": str(config.template),
        "level": config.level,
        "files": [path.name for path in written],
        "versions": {"mmtk": mmtk.__version__, "torch": torch.__version__},
    }
    stale = set(files.values()) - {files["record"], *written}
    for path in stale:  # of an earlier segmentation, which knew more
        path.unlink(missing_ok=True)
    return [*written, io.write_json(files["record"], record)]


def _free(config: SegmentConfig, overwrite: bool) -> dict[str, Path]:
    """Return the files by what they hold, or refuse.

    Raises:
        InputError: One is there already.
    """
    files = outputs_of(config)
    there = [path for path in files.values() if path.exists()]
    if there and not overwrite:
        raise InputError(f"out={config.out}: '{there[0]}' is there already; name another, or add --overwrite")
    return files


def _reference(config: SegmentConfig, scan: Volume) -> Volume | None:
    if config.template == "none" or (config.template == "auto" and scan.dim == 2):
        return None
    if config.template == "auto":
        return embedded_template()
    return io.read_image(config.template, name="template", spacing=config.spacing)
