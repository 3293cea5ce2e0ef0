"""Benchmarks whose truth is known: letters with a cut, and brains with a lesion."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmtk.study.benchmarks import APART, COST, Benchmark, Measure, Published, made, options_of
from mmtk.study.cases import Case

if TYPE_CHECKING:
    import numpy as np

    from mmtk.samples import Sample

__all__ = ["CShapes", "TumorBrain"]

#: In a case of letters: psi_1 of the thesis, which takes moving points to fixed ones; voxels, ``(2, h, w)``.
INVERSE = "truth_inverse.npz"


class CShapes(Benchmark):
    """Deformed letters C with a cut onto the whole letter: table 5.2 of Maillard's thesis.

    Letters are made at 1 mm a pixel and averaged to ``spacing``.
    """

    metrics = (
        "c_shapes.l2",
        "c_shapes.s",
        "deformation.folds",
        "c_shapes.l2_outside",
        "truth.edges_mm",
        "truth.near_mm",
        "truth.inside_mm",
        *APART,
        *COST,
    )
    measures = {
        "l2": Measure("L2", "integral of (total image − fixed)² over all pixels, mm²; images in [0, 1]"),
        "s": Measure("s", "‖Id − ψ₁∘φ⁻¹‖: distance from the true deformation, root of an integral, mm²"),
        "l2_outside": Measure(
            "L2 away from the cut", "integral of (shape only − fixed)² where the true lesion is not, mm²"
        ),
    }
    notes = (
        "c_shapes: letters of algorithm 5.2 of Maillard's thesis. Seeds 0 and 2 have trained and chosen the weights for "
        "letters that come with mmtk; take others to score.",
    )
    published = (
        Published(
            "Table 5.2: C shapes",
            "M. Maillard, thesis, 2023",
            "Mean (standard deviation) of the thesis's own letters at 200 x 200. Template, width of the cut and the "
            "unit of s are not published: orderings may be compared, figures may not.",
            ("L2", "s", "folds"),
            (
                ("Rigid", "1616 (236)", "4575 (2110)", "0 (0)"),
                ("Rigid-CFM", "1605 (250)", "18271 (17141)", "0 (0)"),
                ("SyN", "282 (113)", "3904 (1989)", "0.23 (2.02)"),
                ("SyN-CFM", "538 (177)", "623 (110)", "0 (0)"),
                ("VoxelMorph, lambda 0.1", "97.18 (33.6)", "2195 (580)", "13.9 (38.9)"),
                ("VoxelMorph, lambda 0.5", "331 (115)", "1932 (742)", "0 (0)"),
                ("VoxelMorph-CFM, lambda 0.1", "576 (184)", "443 (86)", "0 (0)"),
                ("Metamorphosis, sigma 4", "17.1 (13.9)", "390 (38)", "0 (0)"),
                ("Metamorphosis, sigma 6", "45.3 (21)", "386 (35)", "0 (0)"),
                ("Metamorphosis, sigma 10", "53 (28)", "277 (30)", "0 (0)"),
                ("MetaMorph-G, sigma 4", "30.9 (12.5)", "370 (29)", "0 (0)"),
                ("MetaMorph-G, sigma 6", "45.4 (16.7)", "320 (32)", "0 (0)"),
                ("MetaMorph-G, sigma 10", "70.5 (32.3)", "282 (28)", "0 (0)"),
                ("MetaMorph-R, sigma 4", "9.65 (7.64)", "381 (41.8)", "0 (0)"),
                ("MetaMorph-R, sigma 6", "20.95 (11.9)", "352 (35)", "0 (0)"),
                ("MetaMorph-R, sigma 10", "69.7 (24.5)", "265 (37)", "0 (0)"),
                ("MetaMorph-R, lambda 3e-5", "37.7 (9.5)", "275 (26)", "0 (0)"),
                ("MetaMorph-R, lambda 3e-7", "8.16 (3.2)", "601 (31)", "4.9 (18)"),
                ("MetaMorph-R, mu 0.03", "60 (128)", "297 (40)", "0 (0)"),
                ("MetaMorph-R, mu 0.1", "16.4 (4.9)", "442 (45)", "0 (0)"),
                ("Metamorphic auto-encoder, lambda_s 269", "77 (32)", "4492 (1501)", "15543 (12005)"),
                ("Metamorphic auto-encoder, lambda_s 269.5", "2003 (511)", "3051 (985)", "0 (0)"),
            ),
        ),
    )

    def __init__(self, count: int, seed: int, spacing: int, options: Mapping[str, Any]) -> None:
        self.count, self.seed, self.spacing, self.options = count, seed, spacing, dict(options)

    def check(self) -> None:
        from mmtk.errors import ConfigError

        self._asked = options_of("c_shapes", self.options, ("seed", "count"))
        if self._asked.size % self.spacing:
            raise ConfigError(
                f"spacing={self.spacing}: does not divide the side of the image, {self._asked.size} pixels; take a "
                "size that it divides"
            )

    def cases(self, folder: Path) -> Sequence[Case]:
        self.check()
        return [self._case(folder, index) for index in range(self.count)]

    def _case(self, folder: Path, index: int) -> Case:
        def make(place: Path) -> None:
            import numpy as np

            from mmtk.samples.catalogue import one
            from mmtk.samples.files import save

            sample = averaged(one("c_shapes", self._asked, self.seed, index), self.spacing)
            save(sample, place)
            np.savez_compressed(place / INVERSE, inverse=sample.inverse_displacement.astype(np.float32))

        return made(folder / f"letter-{index:03d}", make)

    def measure(self, case: Case, run: Path) -> Mapping[str, float]:
        import numpy as np
        from scipy.ndimage import map_coordinates

        from mmtk.io import read_image
        from mmtk.samples.truth import Truth

        folder = case.fixed.parent
        truth = Truth.read(folder)
        assert truth is not None
        fixed, warped, deformed = (
            read_image(path).data for path in (case.fixed, run / "warped.nii.gz", run / "deformed.nii.gz")
        )
        u = found_displacement(run, truth.fixed_mask.shape)
        h = float(self.spacing)
        with np.load(folder / INVERSE) as stored:
            inverse = stored["inverse"]
        where = np.indices(u.shape[1:]) + u
        back = np.stack([map_coordinates(one, where, order=1, mode="nearest") for one in inverse])
        return {
            "l2": h**2 * float(((warped - fixed) ** 2).sum()),
            "s": math.sqrt(h**2 * float(((h * (u + back)) ** 2).sum())),
            "l2_outside": h**2 * float(((deformed - fixed)[~truth.fixed_mask] ** 2).sum()),
        }


class TumorBrain(Benchmark):
    """A deformed brain with a lesion onto the healthy brain that it was; the deformation is known."""

    metrics = (
        "truth.outside_mm",
        "truth.near_mm",
        "truth.far_mm",
        "truth.inside_mm",
        "truth.edges_mm",
        "overlap.dice_mean",
        "overlap.hd95_mean_mm",
        "deformation.folds",
        "deformation.sdlogj",
        *APART,
        *COST,
    )
    notes = (
        "tumor_brain: the true deformation is a free-form bending with a radial push by the lesion, a family that no "
        "method of mmtk registers with; moving and fixed image are one brain, so that intensities match better than "
        "those of two people do.",
    )

    def __init__(
        self, kinds: Sequence[str], spacing: float, cases: int, dim: int, seed: int, options: Mapping[str, Any]
    ) -> None:
        self.kinds, self.count, self.seed = tuple(dict.fromkeys(kinds)), cases, seed
        self.given, self.options = {"spacing": spacing, "dim": dim}, dict(options)

    def check(self) -> None:
        own = ("seed", "kind", *self.given)
        self._asked = {
            kind: options_of("tumor_brain", self.options, own).model_copy(update={"kind": kind, **self.given})
            for kind in self.kinds
        }

    def cases(self, folder: Path) -> Sequence[Case]:
        self.check()
        return [self._case(folder, kind, index) for kind in self.kinds for index in range(self.count)]

    def _case(self, folder: Path, kind: str, index: int) -> Case:
        def make(place: Path) -> None:
            from mmtk.samples.catalogue import one
            from mmtk.samples.files import save

            save(one("tumor_brain", self._asked[kind], self.seed, index), place)

        case = made(folder / f"{kind}-{self.given['spacing']:g}mm-{index:03d}", make)
        return replace(case, group=kind, known={"lesion": "collapsed" if kind == "resected" else "grew"})


def averaged(sample: Sample, by: int) -> Sample:
    """Return a sample with ``by`` voxels along each axis averaged into one, its spacing grown likewise.

    A voxel is in a mask that is so in any part.
    """
    if by == 1:
        return sample

    def mean(array: np.ndarray) -> np.ndarray:
        dim = sample.dim
        lead, space = array.shape[: array.ndim - dim], array.shape[array.ndim - dim :]
        cells = array.reshape(*lead, *(k for n in space for k in (n // by, by)))
        averages: np.ndarray = cells.mean(tuple(len(lead) + 2 * axis + 1 for axis in range(dim)))
        return averages

    affine = sample.affine.astype(float)
    affine[:3, 3] += affine[:3, : sample.dim].sum(1) * (by - 1) / 2  # the middle of the first voxels
    affine[:3, : sample.dim] *= by
    return replace(
        sample,
        moving=mean(sample.moving).astype("float32"),
        fixed=mean(sample.fixed).astype("float32"),
        mask=mean(sample.mask) > 0,
        fixed_mask=mean(sample.fixed_mask) > 0,
        displacement=mean(sample.displacement) / by,
        inverse_displacement=mean(sample.inverse_displacement) / by,
        appearance=mean(sample.appearance).astype("float32"),
        affine=affine,
        facts={**sample.facts, "averaged": by},
    )


def found_displacement(run: Path, shape: Sequence[int]) -> np.ndarray:
    """Return the whole map of a run, affine included, as ``(dim, *space)`` in voxels of the fixed grid."""
    from mmtk.io import FieldStep, read_transform, to_voxels

    (field,) = read_transform(run / "displacement.nii.gz")
    assert isinstance(field, FieldStep) and tuple(field.vectors.shape[1:]) == tuple(shape)
    found: np.ndarray = to_voxels(field.vectors, field.affine)
    return found
