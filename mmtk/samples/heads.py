r"""Heads with a glioma in four modalities, and its parts as BraTS labels them; to train and to judge segmentation.

    images   (4, *space)  float32   T1, T1ce, T2, FLAIR; skull-stripped, so 0 outside the head
    labels   (*space)     uint8     0 healthy, 1 necrotic core, 2 edema, 4 enhancing tumor

The head is the embedded MNI152, bent; tissues get each modality's contrast, the T1's own texture, bias and noise. Two
generators of lesions share nothing but these, so that one may be trained on and the other held apart:

    lobed   a lobed ball with a necrotic middle and a complete rim; it pushes the tissue away; edema is a coat of even
            width, in white matter alone
    grown   reaction and diffusion from a seed, faster in white matter; core and edema are levels of its density, the
            rim is broken; nothing is pushed

The growth is Fisher and Kolmogorov's equation, :math:`\dot u = \nabla \cdot (D \nabla u) + \rho u (1 - u)`, with D by
tissue, as in P. Tracqui et al., Cell Proliferation 28 (1995), and later models of gliomas.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmtk.samples.brain import DATA, NOTICE, embedded_brain
from mmtk.samples.lesion import Texture
from mmtk.samples.maps import FreeForm, Lobed, RadialGrowth
from mmtk.samples.options import GliomasOptions, parse
from mmtk.samples.scanner import bias_field, rician

if TYPE_CHECKING:
    import numpy as np

__all__ = ["MODALITIES", "Glioma", "gliomas", "one_glioma", "save_glioma"]

#: The modalities in their order, by BraTS's names of files.
MODALITIES = ("t1", "t1ce", "t2", "flair")

#: BraTS's labels.
NECROSIS, EDEMA, ENHANCING = 1, 2, 4

#: A bending whose Jacobian determinant falls below this is drawn again, a fifth weaker.
_SMALLEST = 0.4

#: What tissues and lesion show in each modality, in units of white matter on T1: csf, grey, white; necrosis, edema,
#: enhancing. Edema is hardly seen on T1, and enhancement on T1ce alone.
_CONTRASTS = {
    "t1": ((0.30, 0.68, 1.00), (0.45, 0.84, 0.70)),
    "t1ce": ((0.30, 0.70, 1.00), (0.42, 0.86, 1.45)),
    "t2": ((1.25, 0.75, 0.55), (1.10, 1.00, 0.85)),
    "flair": ((0.20, 0.75, 0.62), (0.55, 1.15, 0.95)),
}


@dataclass(frozen=True, eq=False)
class Glioma:
    """See the module's table.

    Attributes:
        affine: ``(4, 4)`` voxel to world, RAS mm.
        facts: What was asked and drawn, in plain data.
    """

    images: np.ndarray
    labels: np.ndarray
    affine: np.ndarray
    facts: Mapping[str, Any] = field(default_factory=dict)


def gliomas(
    *,
    count: int = 1,
    seed: int = 0,
    spacing: float = 2.0,
    lesion: str = "lobed",
    deformation: tuple[float, float] = (2.0, 8.0),
    radius: tuple[float, float] = (8.0, 20.0),
    edema: tuple[float, float] = (3.0, 14.0),
    noise: tuple[float, float] = (0.01, 0.05),
    bias: tuple[float, float] = (0.0, 0.2),
) -> Iterator[Glioma]:
    """Yield ``count`` heads; every pair of numbers is a range to draw from.

    Args:
        count: How many. The n-th is the same whatever the count.
        seed: The same seed and options give the same heads.
        spacing: mm, a whole number.
        lesion: ``lobed`` or ``grown``, see the module.
        deformation: Largest displacement of the head's bending, mm.
        radius: Of the core, that of a ball of its volume, mm.
        edema: Mean width of its coat, mm; of a grown lesion the width of its front.
        noise: Rician, in units of white matter.
        bias: Relative amplitude of each modality's bias field.

    Raises:
        ConfigError: An option is unknown or out of range.
    """
    asked = parse(GliomasOptions, dict(locals()), "gliomas")
    return (one_glioma(asked, index) for index in range(asked.count))


def one_glioma(options: GliomasOptions, index: int) -> Glioma:
    """Return the ``index``-th head that the options describe, whatever their ``count``."""
    import numpy as np

    rng = np.random.default_rng([options.seed, index, 7])
    head = _head(options.spacing)
    drawn = {name: float(rng.uniform(*getattr(options, name))) for name in ("radius", "edema", "noise", "bias")}
    points = _bent(options, head, rng)
    center = head.place(rng, drawn["radius"])
    if options.lesion == "lobed":
        parts, source = _lobed(rng, head, points, center, drawn)
    else:
        parts, source = _grown(rng, head, points, center, drawn), points
    tissues, texture = head.seen(source)
    necrosis, edema, enhancing = parts
    inside = tissues.sum(0) > 0.5
    labels = np.zeros(inside.shape, np.uint8)
    labels[(edema > 0.5) & inside] = EDEMA
    labels[(necrosis > 0.5) & inside] = NECROSIS
    labels[(enhancing > 0.5) & inside] = ENHANCING
    images = np.stack(
        [_scanned(name, options.lesion, tissues, texture, parts, inside, head, drawn, rng) for name in MODALITIES]
    )
    facts = {
        "sample": "gliomas",
        "lesion": options.lesion,
        "seed": options.seed,
        "index": index,
        "spacing": options.spacing,
        **{name: round(value, 4) for name, value in drawn.items()},
        "center_voxel": [round(float(c / options.spacing), 2) for c in center],
        "voxels": {str(k): int((labels == k).sum()) for k in (NECROSIS, EDEMA, ENHANCING)},
        "notice": NOTICE,
    }
    return Glioma(images.astype(np.float32), labels, head.affine.copy(), facts)


@dataclass(frozen=True, eq=False)
class _Head:
    """The embedded head on a grid: shares of csf, grey and white matter, and what the T1 has beside their means."""

    shares: np.ndarray
    texture: np.ndarray
    affine: np.ndarray
    spacing: float

    @property
    def axes(self) -> list[np.ndarray]:
        """Positions of the voxels along each axis, mm from the first."""
        import numpy as np

        return [self.spacing * np.arange(n, dtype=float) for n in self.texture.shape]

    def points(self) -> np.ndarray:
        """``(3, *space)`` mm."""
        import numpy as np

        return np.stack(np.meshgrid(*self.axes, indexing="ij"))

    def seen(self, source: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the shares ``(3, *space)`` and the texture at the points ``(3, *space)``."""
        import numpy as np
        from scipy.ndimage import map_coordinates

        where = source / self.spacing
        maps = [map_coordinates(m, where, order=1) for m in (*self.shares, self.texture)]
        return np.stack(maps[:3]), maps[3]

    def place(self, rng: np.random.Generator, radius: float) -> np.ndarray:
        """Draw a lesion's center, mm: in white matter, two thirds of its radius under the surface at least."""
        import numpy as np

        inside, below = _depths(self.spacing)
        deep = np.flatnonzero(below >= min(0.67 * radius, below.max() - self.spacing))
        place: np.ndarray = inside[rng.choice(deep)] * self.spacing
        return place


@lru_cache(maxsize=4)
def _head(spacing: float) -> _Head:
    import numpy as np

    brain = embedded_brain()
    coarse = brain.at(spacing)
    assert brain.labels is not None
    shares = [
        type(brain)((brain.labels == k).astype(np.float32), None, brain.affine, brain.name).at(spacing).image
        for k in (1, 2, 3)
    ]
    means = brain.tissue_means()
    expected = sum(means[name] * share for name, share in zip(("csf", "grey", "white"), shares, strict=True))
    texture = np.where(sum(shares) > 0.5, (coarse.image - expected) / means["white"], 0.0)
    return _Head(np.stack(shares), texture.astype(np.float32), coarse.affine, float(spacing))


@lru_cache(maxsize=4)
def _depths(spacing: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the voxels of white matter ``(n, 3)`` and how far under the surface each lies, mm."""
    import numpy as np
    from scipy.ndimage import distance_transform_edt

    head = _head(spacing)
    below = distance_transform_edt(np.pad(head.shares.sum(0) > 0.5, 1))[1:-1, 1:-1, 1:-1] * spacing
    inside = np.argwhere(head.shares[2] > 0.6)
    return inside, below[tuple(inside.T)]


def _bent(options: GliomasOptions, head: _Head, rng: np.random.Generator) -> np.ndarray:
    """Return the points of the straight head that the voxels show, ``(3, *space)`` mm."""
    bend = FreeForm.draw(rng, [axis[-1] for axis in head.axes], float(rng.uniform(30.0, 45.0)))
    coarse = [axis[:: max(1, round(6.0 / head.spacing))] for axis in head.axes]
    size = float(rng.uniform(*options.deformation))
    bend = bend.times(size / float((bend.displacement_on_grid(coarse) ** 2).sum(0).max() ** 0.5))
    while bend.determinants(coarse).min() < _SMALLEST:
        bend = bend.times(0.8)
    bent: np.ndarray = head.points() + bend.displacement_on_grid(head.axes)
    return bent


def _ramp(t: np.ndarray) -> np.ndarray:
    import numpy as np

    t = np.clip(t, 0.0, 1.0)
    return t * t * (3 - 2 * t)


def _lobed(
    rng: np.random.Generator, head: _Head, points: np.ndarray, center: np.ndarray, drawn: Mapping[str, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the shares of necrosis, edema and enhancing tumor, and the points that the pushed tissue came from."""
    import numpy as np

    radius, coat = drawn["radius"], drawn["edema"]
    ratio = float(rng.uniform(1.05, 1.6))
    growth = RadialGrowth(
        center=center,
        radius=Lobed.draw(rng, 3, radius / ratio, float(rng.uniform(0.1, 0.35))),
        ratio=ratio,
        softness=0.2,
        reach=40.0 * ratio / radius,
    )
    _, r, before = growth.polar(points.reshape(3, -1))
    border = before * ratio
    depth, relative = border - r, r / border
    extent = 2.0 * radius + 2.0 * coat
    wave = np.zeros_like(r)
    near = np.flatnonzero((np.abs(points.reshape(3, -1) - center[:, None]) < extent).all(0))
    wave[near] = Texture.draw(rng, center, extent, 5.0)(points.reshape(3, -1)[:, near])
    core = _ramp((depth + 0.75) / 1.5)
    middle = float(rng.uniform(0.35, 0.8)) if rng.random() < 0.9 else 0.0  # a tenth have no necrosis
    dead = _ramp((middle + 0.08 * wave - relative) / 0.15) if middle else np.zeros_like(r)
    source = growth.inverse(points)
    white = head.seen(source)[0][2].reshape(-1)
    halo = _ramp((depth + coat * (1 + 0.4 * np.clip(wave, -1, 1))) / 3.0) * (1 - core)
    halo = halo * _ramp((white - 0.25) / 0.4)
    shares = np.stack([core * dead, halo, core * (1 - dead)])
    return shares.reshape(3, *points.shape[1:]), source


def _grown(
    rng: np.random.Generator, head: _Head, points: np.ndarray, center: np.ndarray, drawn: Mapping[str, float]
) -> np.ndarray:
    """Return the shares of necrosis, edema and enhancing tumor of a lesion that grew."""
    import numpy as np
    from scipy.ndimage import gaussian_filter

    h = head.spacing
    csf, grey, white = head.seen(points)[0]
    tissue = csf + grey + white
    start = np.unravel_index(((points - center[:, None, None, None]) ** 2).sum(0).argmin(), tissue.shape)
    rough = gaussian_filter(rng.standard_normal(tissue.shape), 7.0 / h)
    rough = np.exp(1.4 * rough / rough.std())
    diffusion = rough * (white + 0.2 * grey + 0.02 * csf) * (tissue > 0.5)
    diffusion /= max(float(np.percentile(diffusion, 98)), 1e-6)
    diffusion = np.minimum(diffusion, 1.0)
    front = max(drawn["edema"] / (3.0 * h), 0.8)  # sqrt(D / rho), voxels
    rate = 1.0 / front**2
    density = np.zeros_like(tissue)
    density[start] = 1.0
    density = np.minimum(gaussian_filter(density, 1.0) * 15.0, 1.0)
    target, step = 4 / 3 * np.pi * (drawn["radius"] / h) ** 3, 0.15
    for _ in range(600):
        flow = np.zeros_like(density)
        for axis in range(3):
            between = 0.5 * (np.roll(diffusion, -1, axis) + diffusion)
            flux = between * (np.roll(density, -1, axis) - density)
            flow += flux - np.roll(flux, 1, axis)
        density = density + step * (flow + rate * density * (1 - density) * (tissue > 0.5))
        if (density > 0.6).sum() >= target:
            break
    core = _ramp((density - 0.5) / 0.2)
    patches = gaussian_filter(rng.standard_normal(tissue.shape), 4.0 / h)
    patches /= patches.std()
    old = density > np.quantile(density[density > 0.6], float(rng.uniform(0.3, 0.7)))
    broken = patches < float(rng.uniform(-1.6, -0.5))  # core that does not enhance
    dead = gaussian_filter((old | broken).astype(float), 0.4) * core
    halo = _ramp((density - 0.03) / 0.06) * (1 - core) * _ramp((white + 0.4 * grey - 0.2) / 0.4)
    return np.stack([dead, halo, core - dead])


def _scanned(
    name: str,
    lesion: str,
    tissues: np.ndarray,
    texture: np.ndarray,
    parts: np.ndarray,
    inside: np.ndarray,
    head: _Head,
    drawn: Mapping[str, float],
    rng: np.random.Generator,
) -> np.ndarray:
    """Return the head as one modality shows it."""
    import numpy as np
    from scipy.ndimage import gaussian_filter

    healthy, sick = (np.array(values) for values in _CONTRASTS[name])
    healthy = healthy * rng.uniform(0.93, 1.07, 3)
    spread = 0.08 if lesion == "lobed" else 0.15
    sick = sick * rng.uniform(1 - spread, 1 + spread, 3)
    sign = 1.0 if name in ("t1", "t1ce") else -0.6  # what is bright on T1 is dark on T2
    image = np.tensordot(healthy, tissues, 1) + sign * texture
    necrosis, edema, enhancing = parts
    # Edema is water in tissue that stays: it shifts what is there. Core takes the tissue's place.
    white = max(float(healthy[2]), 1e-6)
    image = image * (1 + edema * (sick[1] / white - 1))
    core = necrosis + enhancing
    inner = gaussian_filter(rng.standard_normal(image.shape), 1.0)
    inner *= (0.05 if lesion == "lobed" else 0.09) / inner.std()
    painted = (necrosis * sick[0] + enhancing * sick[2]) / np.maximum(core, 1e-6) + inner
    image = image + core * (painted - image)
    image = np.clip(image, 0.02, None) ** float(rng.uniform(0.85, 1.15))
    if drawn["bias"] > 0:
        image = image * bias_field(rng, head.axes, drawn["bias"], inside)
    return np.where(inside, rician(rng, image, drawn["noise"]), 0.0)


def save_glioma(case: Glioma, folder: Path) -> Path:
    """Write a head as BraTS lays it out: ``NAME/NAME_t1.nii.gz``, ..., ``NAME/NAME_seg.nii.gz``, NAME the folder's."""
    from mmtk.io import Volume, write_image, write_json
    from mmtk.samples.files import refuse_full

    refuse_full(folder)
    folder.mkdir(parents=True, exist_ok=True)
    like = Volume(case.images[0], case.affine, name="t1")
    for name, image in zip(MODALITIES, case.images, strict=True):
        write_image(folder / f"{folder.name}_{name}.nii.gz", image, like, "float32")
    write_image(folder / f"{folder.name}_seg.nii.gz", case.labels, like, "uint8")
    (folder / "LICENSE.MNI.txt").write_bytes((DATA / "LICENSE.MNI.txt").read_bytes())
    write_json(folder / "sample.json", dict(case.facts))
    return folder
