r"""One round of a template: every case registered to the present image, added up, and the bias of the average removed.

A case is mapped by :math:`T_i = A_i \circ \varphi_i`: first a deformation in the template's space, then an affine. With
the mean velocity :math:`\bar v` of the deformations and the mean stretch :math:`\bar S` of the affines, the average
image :math:`\bar I` of the :math:`I_i \circ T_i` becomes

.. math::
    \bar I \circ B, \qquad B = \exp(-\bar v) \circ \bar S^{-1}, \qquad
    T_i \circ B = (A_i \bar S^{-1}) \circ \left(\bar S \circ \varphi_i \circ \exp(-\bar v) \circ \bar S^{-1}\right)

so that to first order neither velocities nor stretches have a mean any more. (ANTs does so with the mean displacement.)
Rotations and positions are kept: where in a scanner heads lay is no shape.

    HOME/cohort/                      the registrations, as `mmtk cohort run` leaves them
    HOME/sums.npz, shapes.rows        see :mod:`mmtk.atlas.running`
    HOME/mean, spread, weight (.nii.gz)   the average without bias, its standard deviation, and of how many cases
    HOME/template.nii.gz              the same, sharpened: what the next round registers to
    HOME/drift.h5                     B: points of these images to points of the image that cases were registered to
    HOME/round.json                   written last
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmtk.atlas.reading import digest, refuse_others
from mmtk.atlas.running import RunningSums, share_that_counts
from mmtk.atlas.sharpness import content, sharpened, sharpness
from mmtk.cohort.records import CaseRecord
from mmtk.io import (
    AffineStep,
    FieldStep,
    Header,
    Volume,
    probe_image,
    read_image,
    read_mask,
    to_voxels,
    to_world,
    voxel_to_voxel,
    write_composite,
    write_image,
    write_json,
)  # fmt: skip
from mmtk.io.images import load

if TYPE_CHECKING:
    from mmtk.atlas.shapes import ShapeSpace

__all__ = ["Deformed", "Round", "read_deformed"]

#: So many cases are added between two savings of the sums.
BETWEEN = 20

#: Beyond the edge of a scan a voxel counts if what the edge repeats is background: this near to it, of the range 0 to 1.
BACKGROUND = 0.05


@dataclass(frozen=True)
class Deformed:
    """A case on the grid of the image that it was registered to.

    Attributes:
        image: On the common scale, ``(*space)``; lesion and all.
        lesion: The mask carried along; None without one.
        seen: False where the scan ends.
        displacement: ``(1, dim, *space)``, voxels, without the affine.
        matrix: The affine, 4x4, world mm.
    """

    image: np.ndarray
    lesion: np.ndarray | None
    seen: np.ndarray
    displacement: Any
    matrix: np.ndarray


def read_deformed(folder: Path, record: CaseRecord, fixed: Volume) -> Deformed:
    """Read what a registration left of a case.

    Intensities are scaled by the scan's own range, which the lesion has no part in.
    """
    import torch

    from mmtk.atlas.shapes import voxels_through
    from mmtk.intensity import robust
    from mmtk.transforms import load_transform

    scan = read_image(record.files["moving"].path, name="moving")
    drawn = record.files.get("mask")
    scale = robust(scan.data, None if drawn is None else read_mask(drawn.path, like=scan, name="mask").data)
    image = scale.apply(load(folder / "deformed.nii.gz", name="deformed").data).astype(np.float64)
    carried = folder / "warped_mask.nii.gz"
    lesion = load(carried, name="mask").data if carried.is_file() else None
    field, affine = load_transform(folder).steps
    assert isinstance(field, FieldStep) and isinstance(affine, AffineStep)
    u = torch.from_numpy(np.ascontiguousarray(to_voxels(field.vectors, field.affine)))[None]
    places = voxels_through(fixed.shape, u, voxel_to_voxel(fixed, scan, affine.matrix))
    last = np.array(scan.shape).reshape(-1, *[1] * scan.dim) - 0.5
    inside = ((places >= -0.5) & (places <= last)).all(axis=0)
    return Deformed(image, lesion, inside | (np.abs(image) < BACKGROUND), u, affine.matrix)


@dataclass(frozen=True)
class Round:
    """A round.

    Attributes:
        number: 0 is the affine one.
        home: Its folder.
        fixed: The image that cases are registered to.
        before: The round before; None for the first.
        nodes, length, sharpen: As of :class:`mmtk.atlas.settings.TemplateConfig`.
    """

    number: int
    home: Path
    fixed: Path
    before: Round | None
    nodes: float
    length: float
    sharpen: float

    @property
    def cohort(self) -> Path:
        """The folder of its registrations."""
        return self.home / "cohort"

    @property
    def finished(self) -> bool:
        """Whether it has come to its end, with the cases of that time."""
        return (self.home / "round.json").is_file()

    def space(self) -> ShapeSpace:
        """Return where its shapes live."""
        from mmtk.atlas.shapes import ShapeSpace
        from mmtk.fields import Grid

        header = self._header()
        return ShapeSpace(Grid(header.shape, header.spacing), self.nodes, self.length)

    def sums(self) -> RunningSums:
        """Return what has been added up."""
        return RunningSums.open(self.home, self._header().shape, self.space().size)

    def add(self, records: Mapping[str, CaseRecord], tell: Callable[[str], None] = lambda _: None) -> RunningSums:
        """Add the cases that are not in the sums yet.

        Raises:
            ConfigError: If one that is in them has gone or was run anew.
        """
        from mmtk.atlas.shapes import stretch_of

        fixed = read_image(self.fixed, name="template")
        sums, space = self.sums(), self.space()
        digests = {name: digest(record) for name, record in records.items()}
        refuse_others(sums.cases, digests)
        mean, spread = self._last()
        fresh = [name for name in records if name not in sums.cases]
        for done, name in enumerate(fresh, 1):
            one = read_deformed(self.cohort / "cases" / name, records[name], fixed)
            counts = np.where(one.seen, share_that_counts(one.image, one.lesion, mean, spread), 0.0)
            white = space.white(space.logarithm(one.displacement)) if self.number else np.zeros(space.size)
            sums.add(name, digests[name], one.image, counts, white, stretch_of(one.matrix, fixed.dim))
            if done % BETWEEN == 0:
                sums.save()
            tell(name)
        if fresh:
            sums.save()
        return sums

    def finish(self, sums: RunningSums, left_out: Mapping[str, str]) -> dict[str, Any]:
        """Remove the bias, write the images, and return what ``round.json`` holds."""
        from mmtk.atlas.shapes import mean_stretch

        fixed = read_image(self.fixed, name="template")
        dim, cases, space = fixed.dim, len(sums.cases), self.space()
        old, _ = self._last()
        # Where no case counts, as under a lesion that all have, the image of before stands, or what surrounds it.
        average = np.where(sums.weight > 0, sums.mean, _surrounded(sums) if old is None else old)
        velocity = space.velocity(sums.white / cases)
        u = space.displacement(-velocity).float()
        shrink = mean_stretch(sums.stretch / cases, _centroid(average, fixed), back=True)
        places = _through(fixed, u, shrink)
        mean = np.clip(_pulled(average, places, 3), average.min(), average.max())
        spread, weight = _pulled(sums.spread, places, 1), _pulled(sums.weight, places, 1)
        brain = content(mean)
        drift = np.sqrt((to_world(u, fixed.affine) ** 2).sum(axis=0))
        told = {
            "round": self.number,
            "registered_to": str(self.fixed),
            "cases": list(sums.cases),
            "left_out": dict(left_out),
            "drift_mm": float(np.sqrt((drift[brain] ** 2).mean())) if brain.any() else 0.0,
            "stretch": [float(value) for value in np.exp(np.linalg.eigvalsh(sums.stretch / cases))],
            "spread": float(spread[brain].mean()) if brain.any() else 0.0,
            "sharpness": sharpness(mean, fixed.spacing, brain),
        }
        field = FieldStep(to_world(u, fixed.affine).astype(np.float32), fixed.affine)
        write_composite(self.home / "drift.h5", [AffineStep(shrink), field], dim=dim)
        for name, data in (
            ("mean", mean),
            ("spread", spread),
            ("weight", weight),
            ("template", sharpened(mean, self.sharpen)),
        ):
            write_image(self.home / f"{name}.nii.gz", data.astype(np.float32), fixed)
        write_json(self.home / "round.json", told)
        return told

    def _header(self) -> Header:
        return probe_image(self.fixed, name="template")

    def _last(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Return mean and spread of the round before; None in the first."""
        if self.before is None:
            return None, None
        mean, spread = (load(self.before.home / f"{name}.nii.gz", name=name).data for name in ("mean", "spread"))
        return mean, spread


def _surrounded(sums: RunningSums) -> np.ndarray:
    """Return the mean, and where no case counts what its surroundings tell."""
    import torch

    from mmtk.fields import filled

    mean, hidden = (torch.from_numpy(part)[None, None] for part in (sums.mean, (sums.weight == 0).astype(float)))
    return np.asarray(filled(mean, hidden)[0, 0])


def _centroid(image: np.ndarray, like: Volume) -> np.ndarray:
    """Return the center of mass of an image, world mm, ``(dim,)``."""
    from scipy.ndimage import center_of_mass

    voxel = np.array([*center_of_mass(np.maximum(image - image.min(), 0)), 1.0])
    dim = like.dim
    return np.asarray(like.affine[:dim, :dim] @ voxel[:dim] + like.affine[:dim, 3])


def _through(fixed: Volume, u: Any, shrink: np.ndarray) -> np.ndarray:
    """Return where voxels lie after the stretch and then the flow, ``(dim, *space)``, voxels."""
    import torch

    from mmtk.atlas.shapes import voxels_through
    from mmtk.fields import sample

    zero = torch.zeros_like(u)
    places = voxels_through(fixed.shape, zero, voxel_to_voxel(fixed, fixed, shrink))
    return places + sample(u, torch.from_numpy(places)[None].to(u))[0].numpy()


def _pulled(image: np.ndarray, places: np.ndarray, order: int) -> np.ndarray:
    from scipy.ndimage import map_coordinates

    return np.asarray(map_coordinates(image, places, np.float64, order=order, mode="nearest"))
