"""The brain that every sample is made of: the embedded MNI152 T1, or one of the user's own.

The embedded one is the ICBM 2009a symmetric average with tissue labels (1.8 MB; source, changes and licence
stand in ``data/README.md`` and ``data/LICENSE.MNI.txt``). It is laid on a grid of 168 x 200 x 176 mm, which
leaves 10 mm of air round the brain, so that a deformed brain is not cut off by the edge of the image.

    image    (*space)    intensity >= 0, 0 in the air; the embedded one in [0, 1]
    labels   (*space)    0 outside, 1 CSF, 2 grey matter, 3 white matter; any positive labels for a user's own
    affine   (4, 4)      voxel to world, RAS mm; of a 2-D brain the third axis is the identity
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmtk.errors import InputError

if TYPE_CHECKING:
    import numpy as np

#: Folder of the embedded images, of their licence and of the account of where they come from.
DATA = Path(__file__).parent / "data"

#: What every folder that holds a piece of the embedded brain has to say.
NOTICE = (
    "Made from the ICBM 2009a nonlinear symmetric template, copyright (C) 1993-2009 Louis Collins, McConnell "
    "Brain Imaging Centre, Montreal Neurological Institute, McGill University; see LICENSE.MNI.txt."
)

#: Voxels of air before and behind the stored box: 145 x 181 x 155 becomes 168 x 200 x 176.
_AIR = ((11, 12), (9, 10), (10, 11))


@dataclass(frozen=True, eq=False)
class Brain:
    """A healthy brain and, where known, its tissues.

    Attributes:
        image: ``(*space)`` float32.
        labels: ``(*space)`` uint8, or None.
        affine: ``(4, 4)`` voxel to world, RAS mm.
        name: What ``sample.json`` calls it.
        tissue: The labels are 1 CSF, 2 grey, 3 white matter (else they are only carried along).
        offset: Where voxel 0 lies, mm along each array axis, in the grid that the brain came on. So that one
            seed makes one patient, maps are drawn on that grid, whatever the spacing of the sample.
    """

    image: np.ndarray
    labels: np.ndarray | None
    affine: np.ndarray
    name: str
    tissue: bool = False
    offset: tuple[float, ...] = (0.0, 0.0, 0.0)

    @property
    def dim(self) -> int:
        return self.image.ndim

    @property
    def spacing(self) -> tuple[float, ...]:
        """Voxel size along each array axis, mm."""
        import numpy as np

        return tuple(float(h) for h in np.linalg.norm(self.affine[:3, : self.dim], axis=0))

    @property
    def axes(self) -> list[np.ndarray]:
        """The positions of the voxels along each array axis, mm."""
        import numpy as np

        return [
            start + h * np.arange(n)
            for start, h, n in zip(self.offset, self.spacing, self.image.shape, strict=False)
        ]

    def voxels(self, points: np.ndarray) -> np.ndarray:
        """Return points ``(dim, n)`` in mm as voxel coordinates."""
        import numpy as np

        return (points - np.array(self.offset[: self.dim])[:, None]) / np.array(self.spacing)[:, None]

    @cached_property
    def foreground(self) -> np.ndarray:
        """Where there is a head: labelled voxels; else those above a tenth of the maximum, holes filled."""
        from scipy.ndimage import binary_fill_holes

        if self.labels is not None:
            return self.labels > 0
        return binary_fill_holes(self.image > 0.1 * self.image.max())

    def tissue_means(self) -> dict[str, float]:
        """Return the mean intensity of ``csf``, ``grey`` and ``white``.

        Without tissue labels the three are found by one-dimensional k-means over the foreground, which is right
        for a T1 (dark, middle, bright) and only a guess for other contrasts.
        """
        import numpy as np

        names = ("csf", "grey", "white")
        if self.tissue and self.labels is not None:
            return {name: float(self.image[self.labels == k].mean()) for k, name in enumerate(names, start=1)}
        values = self.image[self.foreground]
        centers = np.percentile(values, [10, 50, 90])
        for _ in range(30):
            nearest = np.abs(values[:, None] - centers).argmin(1)
            groups = [values[nearest == k] for k in range(3)]
            centers = np.array([g.mean() if g.size else c for g, c in zip(groups, centers, strict=True)])
        return dict(zip(names, (float(c) for c in np.sort(centers)), strict=True))

    def at(self, spacing: float | None) -> Brain:
        """Return the brain at ``spacing`` mm, by averaging whole blocks of voxels (labels: the most frequent).

        Raises:
            InputError: ``spacing`` is no multiple of the brain's own.
        """
        import numpy as np

        if spacing is None:
            return self
        factors = [max(1, round(spacing / h)) for h in self.spacing]
        if any(abs(f * h - spacing) > 0.01 * spacing for f, h in zip(factors, self.spacing, strict=True)):
            own = " x ".join(f"{h:g}" for h in self.spacing)
            raise InputError(
                f"spacing: {spacing:g} mm is not a multiple of this brain's own spacing of {own} mm. "
                f"Ask for a multiple, or leave `spacing` out to keep the brain's grid."
            )
        if all(f == 1 for f in factors):
            return self
        affine = self.affine.copy()
        affine[:3, : self.dim] *= factors
        affine[:3, 3] += self.affine[:3, : self.dim] @ [(f - 1) / 2 for f in factors]
        image = _block_means(self.image, factors).astype(np.float32)
        labels = None if self.labels is None else _block_modes(self.labels, factors)
        offset = tuple(o + h * (f - 1) / 2 for o, h, f in zip(self.offset, self.spacing, factors, strict=False))
        return Brain(image, labels, affine, self.name, self.tissue, offset)

    def slice(self, height: float | None = None) -> Brain:
        """Return an axial slice.

        Args:
            height: World z, mm; None: through the ventricles of the embedded brain, else the middle of the head.
        """
        import numpy as np

        from mmtk.io.space import plane_affine

        axis = int(np.abs(self.affine[2, :3]).argmax())
        if height is None:
            height = 20.0 if self.tissue else float(self.middle[2])
        through = np.linalg.solve(self.affine, [*self.middle, 1.0])
        through[axis] += (height - (self.affine @ through)[2]) / self.affine[2, axis]
        k = int(np.clip(round(through[axis]), 0, self.image.shape[axis] - 1))
        kept = [a for a in range(3) if a != axis]
        affine = np.eye(4)
        affine[:3, :2], affine[:3, 2] = self.affine[:3, kept], self.affine[:3, axis]
        affine[:3, 3] = self.affine[:3, 3] + k * self.affine[:3, axis]
        affine = plane_affine(affine)
        labels = None if self.labels is None else np.take(self.labels, k, axis)
        return Brain(np.take(self.image, k, axis), labels, affine, f"{self.name}, slice {k}", self.tissue)

    @cached_property
    def middle(self) -> np.ndarray:
        """The head's center of mass, ``(3,)`` world mm."""
        import numpy as np

        voxel = np.argwhere(self.foreground).mean(0)
        middle: np.ndarray = (self.affine @ [*voxel, *[0.0] * (3 - self.dim), 1.0])[:3]
        return middle


@cache
def embedded_brain() -> Brain:
    """Return the MNI152 T1 that comes with mmtk, at 1 mm, ``(168, 200, 176)``, intensities in [0, 1].

    It is read once; its arrays are not to be written to, and refuse it.
    """
    import nibabel as nib
    import numpy as np

    def padded(name: str) -> np.ndarray:
        return np.pad(np.asarray(nib.load(DATA / name).dataobj), _AIR)

    affine = np.array(nib.load(DATA / "mni152_t1.nii.gz").affine)
    affine[:3, 3] -= affine[:3, :3] @ [before for before, _ in _AIR]
    image = padded("mni152_t1.nii.gz").astype(np.float32) / 255
    labels = padded("mni152_tissue.nii.gz")
    for array in (image, labels, affine):
        array.setflags(write=False)
    return Brain(image, labels, affine, "ICBM 2009a T1 (embedded)", tissue=True)


def read_brain(brain: Any = None, labels: Any = None) -> Brain:
    """Return the user's own brain, or the embedded one where ``brain`` is None.

    Args:
        brain: A path, a nibabel image, or a Volume; 2-D or 3-D, one channel.
        labels: Its label map on the same grid, of the same kinds; any numbers, 0 outside the brain.

    Raises:
        InputError: The brain cannot be used, or the labels do not lie on its grid.
    """
    import numpy as np

    if brain is None:
        if labels is not None:
            raise InputError("labels: these belong to a brain of your own. Give it too: `brain=FILE`.")
        return embedded_brain()
    from mmtk.io import read_image

    volume = read_image(brain, name="brain")
    image = np.asarray(volume.data, dtype=np.float32)
    carried = None if labels is None else np.asarray(read_image(labels, name="labels").data)
    if carried is not None and carried.shape != image.shape:
        raise InputError(
            f"labels: shape {carried.shape} differs from the brain's {image.shape}. "
            f"Resample the labels onto the brain's grid first."
        )
    if carried is not None:
        carried = np.rint(carried).astype(np.uint16 if carried.max() > 255 else np.uint8)
    name = str(getattr(volume, "path", None) or "given in memory")
    return Brain(np.clip(image, 0, None), carried, np.asarray(volume.affine, dtype=np.float64), name)


def _blocks(field: np.ndarray, factors: list[int]) -> np.ndarray:
    """Cut into whole blocks, ``(*blocks, prod(factors))``; a rest at the far border is left out."""
    import math

    import numpy as np

    dim = field.ndim
    cut = field[tuple(slice(0, n // f * f) for n, f in zip(field.shape, factors, strict=True))]
    split = cut.reshape([size for n, f in zip(cut.shape, factors, strict=True) for size in (n // f, f)])
    order = [*range(0, 2 * dim, 2), *range(1, 2 * dim, 2)]
    return np.transpose(split, order).reshape(*split.shape[::2], math.prod(factors))


def _block_means(field: np.ndarray, factors: list[int]) -> np.ndarray:
    return _blocks(field, factors).mean(-1)


def _block_modes(labels: np.ndarray, factors: list[int]) -> np.ndarray:
    import numpy as np

    blocks = _blocks(labels, factors)
    best, votes = np.zeros(blocks.shape[:-1], labels.dtype), np.zeros(blocks.shape[:-1], int)
    for label in np.unique(labels):
        count = (blocks == label).sum(-1)
        best, votes = np.where(count > votes, label, best), np.maximum(count, votes)
    return best.astype(labels.dtype)
