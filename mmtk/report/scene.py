"""The volumes of the page's viewer: small enough to travel inside it, true enough to be read.

Everything lies in one box around the head, with axes along the patient's (the nearest to R, A, S), so that the viewer
need not turn anything and the crosshair means the same voxel in all of them.

    scans        8 bit, native resolution; moving, deformed and warped share one scale. Warped is stored as its
                 difference from deformed, byte by byte: 0 outside the lesion
    masks        8 bit, native resolution, 0 to 1
    maps         8 bit, about 2 mm, symmetric about 0 and exact there
    displacement 8 bit signed, about 4 mm, mm along the axes of the box

    step         (3,) whole voxels of the fixed grid that one voxel of a volume spans
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mmtk.fields import sample
from mmtk.io import Volume
from mmtk.io.space import as_numpy
from mmtk.prepare import affine_points, tensor
from mmtk.report.findings import Findings
from mmtk.report.planes import nearest_axes
from mmtk.report.views import LEAST_DETERMINANT

__all__ = ["Box", "Scene", "Store", "make_map_scene", "make_scene"]

#: What differs from the background by more than this share of the image's range is the head, and the margin, mm.
CONTENT, MARGIN = 0.05, 4.0

#: Sizes of voxels in mm: of maps and of the displacement.
MAPS, FIELD = 2.0, 4.0

#: Most voxels of a scan, and most bytes of all that is stored.
MOST_VOXELS, MOST_BYTES = 10_000_000, 7_500_000

#: log2 determinants beyond this are shown as this.
MOST_GROWTH = 4.0


@dataclass(frozen=True)
class Store:
    """One volume, ready for the page.

    Attributes:
        name: What it is.
        data: gzip of a NIfTI file (of bare voxels for the displacement).
        onto: The volume to whose bytes these are added, modulo 256; empty if there is none.
        lowest, step: A voxel of ``n`` is worth ``lowest + step * n``.
        shape: Voxels along R, A, S.
    """

    name: str
    data: bytes
    onto: str
    lowest: float
    step: float
    shape: tuple[int, ...]

    @property
    def text(self) -> str:
        """The data in base64."""
        return base64.b64encode(self.data).decode("ascii")


@dataclass(frozen=True)
class Box:
    """The part of the fixed grid that is shown, with its axes turned along R, A, S.

    Attributes:
        axes: For R, A and S, the array axis nearest to it.
        signs: Whether that axis runs along it, 1, or against it, -1.
        start, shape: In voxels of the fixed grid, by array axis; a whole number of the largest steps.
        affine: 4x4 of the fixed grid, voxel to world.
    """

    axes: tuple[int, ...]
    signs: tuple[int, ...]
    start: tuple[int, ...]
    shape: tuple[int, ...]
    affine: np.ndarray

    def cut(self, data: Any) -> np.ndarray:
        """Return the box of an array or tensor ``(*space)``; beyond the grid its border is repeated."""
        array = as_numpy(data[self.slices(data.shape)])
        lacking = [(0, n - got) for n, got in zip(self.shape, array.shape, strict=True)]
        return np.pad(array, lacking, mode="edge") if any(after for _, after in lacking) else array

    def slices(self, grid: Sequence[int]) -> tuple[slice, ...]:
        """Return the box's part of the grid as slices; it may begin within and end beyond."""
        return tuple(slice(s, min(s + n, g)) for s, n, g in zip(self.start, self.shape, grid, strict=True))

    def turned(self, data: np.ndarray) -> np.ndarray:
        """Return an array of the box with its axes along R, A, S."""
        return data.transpose(self.axes)[tuple(slice(None, None, sign) for sign in self.signs)]

    def turned_affine(self, step: np.ndarray) -> np.ndarray:
        """Return voxel to world of a volume of this box after :meth:`turned`."""
        matrix = np.zeros((4, 4))
        matrix[3, 3] = 1
        for world, (axis, sign) in enumerate(zip(self.axes, self.signs, strict=True)):
            first = (step[axis] - 1) / 2
            matrix[axis, world] = sign * step[axis]
            matrix[axis, 3] = self.start[axis] + (first if sign > 0 else self.shape[axis] - 1 - first)
        return self.affine @ matrix


@dataclass(frozen=True)
class Scene:
    """All that the viewer shows.

    Attributes:
        stores: The volumes by name.
        spacing: Of the scans, mm along R, A, S.
        start: Where the crosshair starts, as a share of the box along R, A, S.
        affine: 4x4, voxel of the scans to world.
        located: Whether the fixed image says where its voxels lie.
        field_spacing: Of the displacement, mm along R, A, S.
    """

    stores: dict[str, Store]
    spacing: tuple[float, ...]
    start: tuple[float, ...]
    affine: np.ndarray
    located: bool
    field_spacing: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Width over height of the axial, coronal and sagittal plane in a row."""
        x, y, z = (n * h for n, h in zip(self.stores["deformed"].shape, self.spacing, strict=True))
        return round((2 * x + y) / max(y, z), 4)

    def described(self) -> dict[str, Any]:
        """Return what the page's script reads of it; the volumes themselves stand beside it."""
        return {
            "stores": [
                {"name": s.name, "onto": s.onto, "lowest": s.lowest, "step": s.step, "shape": s.shape}
                for s in self.stores.values()
            ],
            "spacing": self.spacing,
            "center": self.start,
            "affine": self.affine.tolist(),
            "located": self.located,
            "fieldSpacing": self.field_spacing,
        }


def make_scene(found: Findings, center: Sequence[int], room: int = MOST_BYTES) -> Scene | None:
    """Return the volumes for the viewer; None of a 2-D image, which its pictures show whole.

    Args:
        found: What to show.
        center: The voxel of the fixed grid that the crosshair starts at.
        room: Most bytes that all volumes may take together; for less they are made coarser.
    """
    if found.space.dim != 3:
        return None
    head = _head(found)
    size = np.array([part.stop - part.start for part in head])
    step = _coarser(np.ones(3, dtype=int), size, found.space.spacing, MOST_VOXELS)
    while True:
        scene = _pack(found, head, step, center)
        bytes_ = sum(len(store.data) for store in scene.stores.values())
        if bytes_ <= room or (step >= size).all():
            return scene
        step = _coarser(step, size, found.space.spacing, np.prod(size / step) * min(0.95, room / bytes_))


def make_map_scene(
    space: Volume,
    maps: Mapping[str, tuple[np.ndarray, float, float]],
    center: Sequence[int],
    room: int = MOST_BYTES,
) -> Scene | None:
    """Return the volumes of an image and of maps over it; None of a 2-D image.

    Args:
        space: The image, under the name ``deformed``.
        maps: By name, ``(*space)`` with the least and the greatest value that is told apart.
        center: As for :func:`make_scene`.
        room: Likewise.
    """
    if space.dim != 3:
        return None
    step, size = np.ones(3, dtype=int), np.array(space.shape)
    while True:
        box = _box(space, [slice(0, n) for n in space.shape], step)
        stores = _scan(box, step, {"deformed": _mean(box.cut(space.data), step)})
        for name, (data, least, most) in maps.items():
            worth = (most - least) / 255 or 1.0
            stores.append(_store(box, step, name, _bytes(_mean(box.cut(data), step), least, worth), least, worth))
        bytes_ = sum(len(store.data) for store in stores)
        if (bytes_ <= room and np.prod(size / step) <= MOST_VOXELS) or (step >= size).all():
            break
        step = _coarser(step, size, space.spacing, float(np.prod(size / step)) * min(0.95, room / bytes_))
    where = [(c - s + 0.5) / n for c, s, n in zip(center, box.start, box.shape, strict=True)]
    spacing = tuple(float(step[a] * space.spacing[a]) for a in box.axes)
    return Scene(
        stores={store.name: store for store in stores},
        spacing=spacing,
        start=tuple(where[a] if sign > 0 else 1 - where[a] for a, sign in zip(box.axes, box.signs, strict=True)),
        affine=box.turned_affine(step),
        located=space.storage.located,
        field_spacing=spacing,
    )


def _coarser(step: np.ndarray, size: np.ndarray, spacing: Sequence[float], most: float) -> np.ndarray:
    """Return the steps, made larger until a box of so many voxels has no more than ``most`` of the large ones."""
    larger = step.copy()
    while np.prod(size / larger) > most and (larger < size).any():
        larger[np.argmin(larger * np.array(spacing))] += 1
    return larger


def _head(found: Findings) -> tuple[slice, ...]:
    """Return the box of what is no background in the fixed or in the warped image, and a margin."""
    spacing = found.space.spacing
    thin = [max(1, round(MAPS / h)) for h in spacing]
    images: list[Any] = [found.warped] if found.fixed is None else [found.warped, found.fixed.data]
    content = np.logical_or.reduce(
        [_content(as_numpy(i[tuple(slice(None, None, s) for s in thin)])) for i in images]
    )
    box = []
    for axis, (n, s, h) in enumerate(zip(found.space.shape, thin, spacing, strict=True)):
        used = np.flatnonzero(content.any(axis=tuple(a for a in range(3) if a != axis)))
        grow = s + round(MARGIN / h)
        first, last = (int(used[0]) * s - grow, int(used[-1]) * s + 1 + grow) if len(used) else (0, n)
        box.append(slice(max(first, 0), min(last, n)))
    return tuple(box)


def _content(image: np.ndarray) -> np.ndarray:
    away = np.abs(image - image[(0,) * image.ndim])
    return away > CONTENT * np.percentile(away, 99)


def _pack(found: Findings, head: Sequence[slice], step: np.ndarray, center: Sequence[int]) -> Scene:
    spacing = np.array(found.space.spacing)
    coarse, field = (step * np.maximum(1, np.round(size / (step * spacing))).astype(int) for size in (MAPS, FIELD))
    box = _box(found.space, head, np.lcm.reduce([step, coarse, field]))
    stores = _scans(found, box, step)
    stores += [_map(box, coarse, "growth", _growth(found, box), MOST_GROWTH)]
    if found.appearance is not None:
        change = box.cut(found.appearance)
        stores += [_map(box, coarse, "appearance", change, float(np.abs(change).max()))]
    for name, mask in (
        ("lesion_before", found.mask),
        ("lesion", found.lesion),
        ("fixed_lesion", found.fixed_mask),
    ):
        if mask is not None:
            data = (
                _placed(mask, found, box) if isinstance(mask, Volume) and mask is found.mask else _cut(mask, box)
            )
            stores.append(_store(box, step, name, _bytes(_mean(data, step), 0, 1 / 255), 0.0, 1 / 255))
    stores.append(_field(found, box, field))
    where = [(c - s + 0.5) / n for c, s, n in zip(center, box.start, box.shape, strict=True)]
    return Scene(
        stores={store.name: store for store in stores},
        spacing=tuple(float(step[a] * spacing[a]) for a in box.axes),
        start=tuple(where[a] if sign > 0 else 1 - where[a] for a, sign in zip(box.axes, box.signs, strict=True)),
        affine=box.turned_affine(step),
        located=found.space.storage.located,
        field_spacing=tuple(float(field[a] * spacing[a]) for a in box.axes),
    )


def _cut(image: Any, box: Box) -> np.ndarray:
    return box.cut(image.data if isinstance(image, Volume) else image)


def _box(space: Volume, head: Sequence[slice], whole: np.ndarray) -> Box:
    nearest = nearest_axes(space.affine[:3, :3])
    shape = [int(-(-(part.stop - part.start) // w) * w) for part, w in zip(head, whole, strict=True)]
    room = zip(head, shape, space.shape, strict=True)
    start = [max(0, min(part.start, n - size)) for part, size, n in room]
    return Box(
        tuple(nearest[w][0] for w in range(3)),
        tuple(nearest[w][1] for w in range(3)),
        tuple(start),
        tuple(shape),
        space.affine,
    )


def _placed(volume: Volume, found: Findings, box: Box) -> np.ndarray:
    """Return an image of the moving side through the affine alone, in the box."""
    axes = [torch.arange(s, s + n, dtype=torch.float32) for s, n in zip(box.start, box.shape, strict=True)]
    points = affine_points(torch.stack(torch.meshgrid(*axes, indexing="ij"))[None], found.voxel_map)
    seen = sample(tensor(volume), points, padding="zeros" if volume is found.mask else "border")
    return seen[0, 0].numpy()


def _scans(found: Findings, box: Box, step: np.ndarray) -> list[Store]:
    stores = []
    if found.fixed is not None:
        stores.append(_scan(box, step, {"fixed": _mean(box.cut(found.fixed.data), step)})[0])
    moved = {"deformed": box.cut(found.deformed)}
    if found.moving is not None:
        moved["moving"] = _placed(found.moving, found, box)
    if found.appearance is not None:
        moved["warped"] = box.cut(found.warped)
    return stores + _scan(box, step, {name: _mean(data, step) for name, data in moved.items()})


def _scan(box: Box, step: np.ndarray, images: dict[str, np.ndarray]) -> list[Store]:
    """Return images on one scale, from their least value to about their greatest; single hot voxels are clipped."""
    least = min(float(image.min()) for image in images.values())
    most = max(float(image.max()) for image in images.values())
    usual = max(float(np.percentile(image, 99.9)) for image in images.values())
    worth = (min(most, least + 1.5 * (usual - least)) - least) / 255 or 1.0
    stores, bytes_of = [], {name: _bytes(image, least, worth) for name, image in images.items()}
    for name, voxels in bytes_of.items():
        onto = "deformed" if name == "warped" else ""
        voxels = voxels - bytes_of[onto] if onto else voxels
        stores.append(_store(box, step, name, voxels, least, worth, onto))
    return stores


def _growth(found: Findings, box: Box) -> np.ndarray:
    return np.log2(np.maximum(box.cut(found.jacobian) / found.scaling, LEAST_DETERMINANT))


def _map(box: Box, step: np.ndarray, name: str, data: np.ndarray, most: float) -> Store:
    worth = (most or 1.0) / 127
    return _store(box, step, name, _bytes(_mean(data, step), -128 * worth, worth), -128 * worth, worth)


def _field(found: Findings, box: Box, step: np.ndarray) -> Store:
    """Return the displacement in mm along R, A, S of the box, its three parts one behind the other."""
    parts = []
    for axis, sign in zip(box.axes, box.signs, strict=True):
        part = _mean(box.cut(found.displacement[axis]), step) * found.space.spacing[axis] * sign
        parts.append(box.turned(part))
    worth = max(float(np.abs(part).max()) for part in parts) / 127 or 1.0
    voxels = [_bytes(part, -128 * worth, worth).tobytes(order="F") for part in parts]
    return Store("displacement", _gzip(b"".join(voxels)), "", -128 * worth, worth, parts[0].shape)


def _mean(data: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Return the means of blocks."""
    if all(s == 1 for s in step):
        return data
    blocks = [part for n, s in zip(data.shape, step, strict=True) for part in (n // s, s)]
    return data.reshape(blocks).mean(axis=(1, 3, 5), dtype=np.float32)


def _bytes(data: np.ndarray, lowest: float, worth: float) -> np.ndarray:
    return np.clip(np.rint((data - lowest) / worth), 0, 255).astype(np.uint8)


def _store(
    box: Box,
    step: np.ndarray,
    name: str,
    voxels: np.ndarray,
    lowest: float,
    worth: float,
    onto: str = "",
) -> Store:
    from nibabel import Nifti1Image

    turned = box.turned(voxels)
    header = Nifti1Image(turned, box.turned_affine(step)).header
    header.set_slope_inter(worth, lowest)
    header.set_data_offset(352)
    header.set_xyzt_units("mm")
    # By hand: nibabel chooses a scale of its own for what it writes.
    data = header.binaryblock + bytes(4) + turned.tobytes(order="F")
    return Store(name, _gzip(data), onto, lowest, worth, turned.shape)


def _gzip(data: bytes) -> bytes:
    packer = zlib.compressobj(3, zlib.DEFLATED, 31)
    return packer.compress(data) + packer.flush()
