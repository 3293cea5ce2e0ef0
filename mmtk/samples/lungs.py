r"""Breathing lungs: the end of an inhalation and the end of the exhalation after it, with masks and landmarks.

    fixed     exhalation: a torso, two dark lungs over the domes of the diaphragm, vessels that branch in them, a heart
    moving    inhalation: the same, pulled down and outward by a map that is known at every point

The map :math:`\psi` carries a point of the exhalation to where it was in the inhalation. Downward it moves by the
diaphragm's excursion :math:`e`, as far as the share of the lung's height that lies above the point, and the ribs go
outward and forward by a fraction of it; a bending drawn at random comes on top. All of it is held by one cubic B-spline
(:class:`~mmtk.samples.maps.FreeForm`), whose determinants are looked at, so that nothing folds.

With fibrosis the bases of the lungs are stiff: there the motion falls to ``stiffness`` of what it would be, more at the
back than in front, while the rest breathes as in anybody. What tells the two apart is where lungs move, not how far: the
excursion is drawn from one range for both.

Lungs here do not slide along the ribs: the motion is smooth across the pleura, unlike a person's.

    points     (dim, ...)    mm from the first voxel; axes run to the right, (to the front,) upward
    labels     1, 2          the left lung, the right one
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmtk.errors import ConfigError
from mmtk.samples.maps import FreeForm
from mmtk.samples.options import LungsOptions, parse
from mmtk.samples.sample import Sample, jacobian_minimum
from mmtk.samples.scanner import rician

if TYPE_CHECKING:
    import numpy as np

__all__ = ["lungs", "one_breath"]

#: Of the field of view, mm: to the right, to the front, upward.
EXTENT = (304.0, 216.0, 272.0)
#: mm from the lower end of the field to the lungs' bases at rest, and from there to their apices.
BASE, HEIGHT = 76.0, 172.0
#: Distance of the control points of the map, mm, and the smallest determinant that it may have.
KNOT, SMALLEST = 24.0, 0.25
#: Landmarks in each case, as in the paper's data.
LANDMARKS = 11
_DRAWS = 20


def lungs(
    *,
    count: int = 1,
    dim: int = 3,
    spacing: float = 4.0,
    seed: int = 0,
    excursion: Sequence[float] = (12.0, 36.0),
    bending: Sequence[float] = (1.0, 5.0),
    fibrosis: str = "drawn",
    stiffness: float = 0.35,
    noise: Sequence[float] = (0.01, 0.04),
) -> Iterator[Sample]:
    """Yield ``count`` pairs of an inhalation (moving) and an exhalation (fixed).

    Args:
        count: How many persons.
        dim: 3, or 2 for a coronal slice.
        spacing: mm.
        seed: The same seed and options give the same persons, voxel for voxel.
        excursion: Range of the diaphragm's way, mm.
        bending: Range of the largest displacement of the random part, mm.
        fibrosis: ``none``, ``all``, or ``drawn``: every person has it by the toss of a coin.
        stiffness: Share of the motion that is left at the bases of a fibrotic lung.
        noise: Range of the Rician noise's standard deviation, in units of the liver.

    Raises:
        ConfigError: An option is unknown or out of range, or no map without folds can be drawn from them.
    """
    asked = dict(locals())
    options = parse(LungsOptions, asked, "lungs")
    for index in range(options.count):
        yield one_breath(options, index)


@dataclass(frozen=True, eq=False)
class _Torso:
    """A person at the end of an exhalation.

    Attributes:
        middle: Of the torso across and from back to front, mm.
        girth: Its half widths.
        lung: Half widths of a lung, and ``apart``, how far its axis lies from the middle.
        dome: How far the middle of the diaphragm rises above the bases.
        starts, ends: ``(dim, n)`` of the vessels, which leave for the apex, the base and the side; and their radii.
    """

    dim: int
    middle: np.ndarray
    girth: np.ndarray
    lung: np.ndarray
    apart: float
    dome: float
    starts: np.ndarray
    ends: np.ndarray
    radii: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator, dim: int) -> _Torso:
        import numpy as np

        size = rng.uniform(0.9, 1.1, 3)
        middle = np.array(EXTENT[:2]) / 2 + rng.uniform(-4, 4, 2)
        lung, apart = np.array([50.0, 68.0]) * size[:2], 63.0 * size[0]
        starts, ends, radii = _tree(rng, middle, lung, apart)
        if dim == 2:  # all that lies in a slab about the slice
            starts, ends = starts[[0, 2]], ends[[0, 2]]
        return cls(
            dim, middle, np.array([132.0, 92.0]) * size[:2], lung, apart, rng.uniform(18, 30), starts, ends, radii
        )

    def split(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the coordinates across, to the front and upward; in a slice all lie in its plane."""
        import numpy as np

        if self.dim == 3:
            return points[0], points[1], points[2]
        return points[0], np.full_like(points[0], self.middle[1]), points[1]

    def lungs(self, points: np.ndarray) -> np.ndarray:
        """Return 1 in the left lung, 2 in the right one, else 0."""
        import numpy as np

        x, y, z = self.split(points)
        labels = np.zeros(x.shape, np.uint8)
        for label, side in ((1, -1.0), (2, 1.0)):
            across = (x - self.middle[0] - side * self.apart) / self.lung[0]
            forward = (y - self.middle[1]) / self.lung[1]
            upward = np.clip((z - BASE) / HEIGHT, -1.0, None)
            width = 1 - np.clip(upward, 0, None) ** 3  # narrow toward the apex
            round_ = across**2 + forward**2
            floor = BASE + self.dome * (1 - round_)
            labels[(round_ < width) & (z > floor) & (upward < 1)] = label
        heart = self._heart(x, y, z) < 1
        labels[heart] = 0
        return labels

    def _heart(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        return (
            ((x - self.middle[0] + 14) / 44) ** 2
            + ((y - self.middle[1] - 14) / 46) ** 2
            + ((z - BASE - 48) / 42) ** 2
        )

    def image(self, points: np.ndarray) -> np.ndarray:
        """Return the intensities at points: air 0, lung 0.15, vessels 0.85, muscle 0.5, liver 0.8, heart 0.7."""
        import numpy as np

        x, y, z = self.split(points)
        around = ((np.abs(x - self.middle[0]) / self.girth[0]) ** 2.6) + (
            (np.abs(y - self.middle[1]) / self.girth[1]) ** 2.6
        )
        shown = np.where(around < 1, 0.5, 0.0)
        shown = np.where((around >= 0.84) & (around < 1), 0.75, shown)  # fat
        below = (around < 0.8) & (z < BASE + self.dome)
        shown = np.where(below, np.where(x > self.middle[0] - 20, 0.8, 0.65), shown)  # liver, and spleen
        shown = np.where(self._heart(x, y, z) < 1, 0.7, shown)
        inside = self.lungs(points) > 0
        dark = 0.15 + 0.05 * np.clip((self.middle[1] - y) / self.lung[1], -1, 1)  # denser at the back
        return np.where(inside, np.maximum(dark, 0.85 * self._vessels(points, inside)), shown)

    def _vessels(self, points: np.ndarray, where: np.ndarray) -> np.ndarray:
        """Return how much of a vessel there is at each point, in [0, 1]; 0 outside ``where``."""
        import numpy as np
        from scipy.spatial import cKDTree

        share = np.linspace(0, 1, 25)[:, None, None]  # a vessel is 34 mm long at most
        axis = (self.starts + share * (self.ends - self.starts)).transpose(0, 2, 1)
        far, nearest = cKDTree(axis.reshape(-1, self.dim)).query(points[:, where].T)
        radius = np.tile(self.radii, 25)[nearest]
        shown = np.zeros(where.shape)
        shown[where] = np.exp(-0.5 * (far / radius) ** 2)
        return shown


def _tree(
    rng: np.random.Generator, middle: np.ndarray, lung: np.ndarray, apart: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw vessels that branch from the hilum of each lung: starts, ends ``(3, n)`` and radii ``(n,)``, mm."""
    import numpy as np

    starts, ends, radii = [], [], []
    for side in (-1.0, 1.0):
        hilum = np.array([middle[0] + side * (apart - 0.55 * lung[0]), middle[1], BASE + 0.45 * HEIGHT])
        tips = [(hilum, 5.0, None)] * 5
        for generation in range(4):
            following = []
            for start, radius, course in tips:
                for _ in range(1 if generation == 0 else 2):
                    if course is None:
                        aim = np.array([side * rng.uniform(0.1, 1.0), rng.uniform(-0.9, 0.9), rng.uniform(-1, 1)])
                    else:
                        aim = course + rng.normal(0, 0.55, 3)
                    aim = aim / np.linalg.norm(aim)
                    end = start + aim * rng.uniform(18, 34) * np.array([0.8, 0.9, 1.2])
                    starts.append(start)
                    ends.append(end)
                    radii.append(radius)
                    following.append((end, 0.72 * radius, aim))
            tips = following
    return np.array(starts).T, np.array(ends).T, np.array(radii)


def _breathing(torso: _Torso, points: np.ndarray, excursion: float, stiff: float) -> np.ndarray:
    """Return ``psi(x) - x`` without the random part, at points ``(dim, ...)`` in mm; ``stiff`` 1: a healthy lung."""
    import numpy as np

    x, y, z = torso.split(points)
    height = np.clip((z - BASE) / HEIGHT, 0, 1)
    down = (1 - height) ** 1.3
    outside = 1 / (1 + np.exp((np.abs(x - torso.middle[0]) - torso.girth[0]) / 12))
    down = down * outside * np.clip((z + 40) / (BASE + 40), 0, 1)  # deep in the belly everything rests
    basal = np.exp(-0.5 * ((z - BASE) / 40) ** 2)
    behind = 1 / (1 + np.exp((y - torso.middle[1] - 10) / 20))
    motion = 1 - (1 - stiff) * basal * (0.5 + 0.5 * behind)
    ribs = 0.22 * excursion * np.sin(np.pi * np.clip(height, 0.0, 1.0)) * motion
    move = {
        "across": ribs * np.tanh((x - torso.middle[0]) / 60),
        "forward": 1.2 * ribs * np.clip((y - torso.middle[1] + torso.girth[1]) / (2 * torso.girth[1]), 0, 1),
        "upward": -excursion * down * motion,
    }
    names = ("across", "forward", "upward") if torso.dim == 3 else ("across", "upward")
    return np.stack([move[name] for name in names])


def one_breath(options: LungsOptions, index: int) -> Sample:
    """Return the person that the seed and an index decide.

    Raises:
        ConfigError: No map without folds can be drawn.
    """
    import numpy as np

    rng = np.random.default_rng([options.seed, index, 26])
    dim, spacing = options.dim, options.spacing
    extent = [EXTENT[a] for a in ((0, 1, 2) if dim == 3 else (0, 2))]
    axes = [np.arange(int(length // spacing) // 4 * 4) * spacing for length in extent]
    torso = _Torso.draw(rng, dim)
    excursion = float(rng.uniform(*options.excursion))
    ill = {"none": False, "all": True, "drawn": bool(rng.random() < 0.5)}[options.fibrosis]
    psi, redrawn = _draw_map(torso, options, rng, excursion, axes, options.stiffness if ill else 1.0)

    points = np.stack(np.meshgrid(*axes, indexing="ij"))
    there = psi.displacement_on_grid(axes)
    back = _inverse(psi, points, axes)
    scale = float(rng.uniform(0.9, 1.1))  # the two scans are not equally bright
    level = float(rng.uniform(*options.noise)) * 0.8
    fixed, moving = _shown(torso, points, spacing), scale * _shown(torso, points + back, spacing)
    fixed, moving = (rician(rng, image, level) for image in (fixed, moving))
    labels = torso.lungs(points)
    marks = _landmarks(torso, rng, axes, psi)
    h = np.full((dim, *[1] * dim), spacing)
    displacement = (there / h).astype(np.float32)
    affine = np.diag([spacing, spacing, spacing, 1.0])
    # A slice has a plane of its own, as any image of two axes: its points lie in z = 0, and y runs upward.
    axis = (0, 1, 2) if dim == 3 else (0, 2)
    affine[:dim, 3] = [-EXTENT[a] / 2 for a in axis]
    moved = psi(marks) if marks.size else marks
    nothing = np.zeros(points.shape[1:], bool)
    return Sample(
        moving=moving.astype(np.float32),
        fixed=fixed.astype(np.float32),
        mask=nothing,
        fixed_mask=nothing.copy(),
        displacement=displacement,
        inverse_displacement=(back / h).astype(np.float32),
        appearance=np.zeros(points.shape[1:], np.float32),
        affine=affine,
        labels_moving=torso.lungs(points + back),
        labels_fixed=labels,
        landmarks=(_world(affine, moved / spacing), _world(affine, marks / spacing)),
        facts={
            "sample": "lungs",
            **options.model_dump(),
            "index": index,
            "fibrosis_drawn": ill,
            "excursion_mm": excursion,
            "maps_redrawn": redrawn,
            "jacobian_minimum": jacobian_minimum(displacement),
            "endpoint_error_before_mm": float(np.sqrt((there**2).sum(0))[labels > 0].mean()),
        },
    )


def _shown(torso: _Torso, points: np.ndarray, spacing: float) -> np.ndarray:
    """Return the image at points, each the average of two: edges that a scanner would see."""
    import numpy as np

    off = np.array([0.25 * spacing] * len(points)).reshape(-1, *[1] * (points.ndim - 1))
    shown: np.ndarray = 0.5 * (torso.image(points - off) + torso.image(points + off))
    return shown


def _draw_map(
    torso: _Torso,
    options: LungsOptions,
    rng: np.random.Generator,
    excursion: float,
    axes: Sequence[Any],
    stiff: float,
) -> tuple[FreeForm, int]:
    """Return a map without folds, and how many were thrown away for it."""
    import numpy as np

    extent = [float(axis[-1]) for axis in axes]
    coarse = [axis[:: max(1, round(8 / options.spacing))] for axis in axes]
    size = float(rng.uniform(*options.bending))
    for redrawn in range(_DRAWS):
        bend = FreeForm.draw(rng, extent, KNOT)
        knots = [(np.arange(n) - 3) * KNOT for n in bend.coefficients.shape[1:]]
        breath = _breathing(torso, np.stack(np.meshgrid(*knots, indexing="ij")), excursion, stiff)
        length = np.sqrt((bend.displacement_on_grid(coarse) ** 2).sum(0)).max()
        psi = FreeForm(breath + bend.coefficients * (size / float(length)), KNOT)
        if psi.determinants(coarse).min() >= SMALLEST:
            return psi, redrawn
    raise ConfigError(
        f"excursion={options.excursion[0]:g},{options.excursion[1]:g}: none of {_DRAWS} breaths of {excursion:.0f} mm "
        f"with a bending of {size:.1f} mm kept its determinants above {SMALLEST}; lower one of the two"
    )


def _inverse(psi: FreeForm, points: np.ndarray, axes: Sequence[Any]) -> np.ndarray:
    """Return ``psi^-1(y) - y`` at the voxels, mm: by fixed points, which settle where breath is all that moves."""
    import numpy as np

    back = -psi.displacement(points)
    for _ in range(40):
        last, back = back, -psi.displacement(points + back)
        if float(np.abs(back - last).max()) < 1e-3:
            return back
    return psi.inverse_on_grid(axes)


def _landmarks(torso: _Torso, rng: np.random.Generator, axes: Sequence[Any], psi: FreeForm) -> np.ndarray:
    """Return branchings of vessels in the lungs, ``(dim, n)`` mm on the fixed image: eleven, where there are as many."""
    import numpy as np

    ends = torso.ends
    kept = torso.lungs(ends) > 0
    for points in (ends, psi(ends)):
        for p, axis in zip(points, axes, strict=True):
            kept &= (p > axis[1]) & (p < axis[-2])
    some = rng.permutation(np.flatnonzero(kept))[:LANDMARKS]
    chosen: np.ndarray = ends[:, np.sort(some)]
    return chosen


def _world(affine: np.ndarray, voxels: np.ndarray) -> np.ndarray:
    """Return points ``(n, 3)`` in RAS mm."""
    import numpy as np

    dim = len(voxels)
    full = np.concatenate([voxels, np.zeros((3 - dim, voxels.shape[1]))])
    world: np.ndarray = (affine[:3, :3] @ full + affine[:3, 3:]).T
    return world
