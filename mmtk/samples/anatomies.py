"""Pairs of brains to train on: lesion, deformation, contrast and scanner of each drawn from ranges.

    anatomy    the embedded MNI152 with its T1 or with tissues in random greys; or label maps of the user's own, painted
    shape      the end of a geodesic (or a free-form deformation), and the mass effect of the lesion
    lesion     none, a bright tumor in edema, one as grey as cortex, a cavity
    scanner    bias field, noise, a power of the intensities, thick slices

A pair depends on the seed and its number alone. Everything but what is drawn here is :mod:`mmtk.samples.tumor`'s, and so
is the truth.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mmtk.errors import InputError
from mmtk.samples.brain import Brain, embedded_brain
from mmtk.samples.maps import FreeForm
from mmtk.samples.options import BrainsOptions, TumorBrainOptions, parse
from mmtk.samples.sample import Sample
from mmtk.samples.scanner import thick_slices
from mmtk.samples.tumor import patient

if TYPE_CHECKING:
    import numpy as np

__all__ = ["brains", "one_brain"]

#: A bending whose Jacobian determinant falls below this is drawn again, a fifth weaker.
_SMALLEST = 0.3


def brains(
    *,
    count: int = 1,
    seed: int = 0,
    dim: int = 3,
    spacing: float = 2.0,
    labels: Any = None,
    contrast: str = "t1",
    fixed: str = "template",
    lesions: Sequence[str] = ("none", "bright", "lookalike", "resected"),
    height: tuple[float, float] = (20.0, 20.0),
    deformation: tuple[float, float] = (2.0, 10.0),
    bending: str = "geodesic",
    sigma: tuple[float, float] = (12.0, 24.0),
    radius: tuple[float, float] = (6.0, 18.0),
    push: tuple[float, float] = (1.0, 2.0),
    noise: tuple[float, float] = (0.0, 0.04),
    bias: tuple[float, float] = (0.0, 0.2),
    gamma: tuple[float, float] = (0.85, 1.2),
    thickness: tuple[float, float] = (0.0, 0.0),
) -> Iterator[Sample]:
    """Yield ``count`` pairs of a patient and a healthy brain; every pair of numbers is a range to draw from.

    Args:
        count: How many. The n-th is the same whatever the count.
        seed: The same seed and options give the same pairs.
        dim: 3, or 2 for an axial slice.
        spacing: mm, a multiple of the anatomy's own.
        labels: A label map or a folder of them; None: the embedded MNI152 with its tissues.
        contrast: ``t1`` or ``random``: every tissue its own grey. Label maps are always painted.
        fixed: ``template``: the anatomy as it is; ``deformed``: bent, too.
        lesions: Kinds to draw from.
        height: Of a slice, world z in mm; of label maps from the head's middle.
        deformation: Largest displacement of the bending, mm.
        bending: ``geodesic`` or ``splines``.
        sigma: Width of the geodesic's kernel, mm.
        radius: Mean radius of the lesion in the patient, mm.
        push: Factor that a tumor's radius grew by, or a cavity's shrank by.
        noise: In units of the brightest tissue.
        bias: Relative amplitude of the bias field.
        gamma: Power of the moving image's intensities.
        thickness: Of the moving image's slices along one axis, mm.

    Yields:
        Samples; :class:`mmtk.samples.options.BrainsOptions` has the limits.

    Raises:
        ConfigError: An option is unknown or out of range (at once, not at the first pair).
        InputError: A label map cannot be used.
    """
    asked = parse(BrainsOptions, dict(locals()), "brains")
    return (one_brain(asked, index) for index in range(asked.count))


def one_brain(options: BrainsOptions, index: int) -> Sample:
    """Return the ``index``-th pair that the options describe, whatever their ``count``.

    Raises:
        InputError: A label map cannot be used.
    """
    import numpy as np

    rng = np.random.default_rng([options.seed, index])

    def drawn(name: str) -> float:
        return float(rng.uniform(*getattr(options, name)))

    kind = str(rng.choice(options.lesions))
    radius, push = drawn("radius"), drawn("push")
    brain = _anatomy(options, rng)
    bends = [_bending(options, brain, rng) for _ in range(2)]
    scan = {name: drawn(name) for name in ("noise", "bias", "gamma", "thickness")}
    normal = int(rng.integers(options.dim))
    asked = TumorBrainOptions(
        kind="bright" if kind == "none" else kind,
        dim=options.dim,
        spacing=options.spacing,
        seed=int(rng.integers(2**31)),
        growth=(radius, radius / push) if kind == "resected" else (radius / push, radius),
        noise=scan["noise"],
        bias=scan["bias"],
    )
    made = patient(
        asked,
        brain,
        healthy=kind == "none",
        bend=bends[0],
        other=bends[1] if options.fixed == "deformed" else None,
    )
    moving = made.moving ** np.float32(scan["gamma"])
    if scan["thickness"] > made.spacing[normal]:
        moving = thick_slices(moving, scan["thickness"] / made.spacing[normal], normal)
    facts = {
        **made.facts,
        **{name: round(value, 4) for name, value in scan.items()},
        "sample": "brains",
        "lesion": kind,
        "contrast": options.contrast,
        "seed": options.seed,
        "index": index,
    }
    return replace(made, moving=moving.astype(np.float32), facts=facts)


def _bending(options: BrainsOptions, brain: Brain, rng: np.random.Generator) -> FreeForm:
    """Return a bending without folds, weaker than drawn if need be."""
    extent = [axis[-1] for axis in brain.axes]
    size, sigma = float(rng.uniform(*options.deformation)), float(rng.uniform(*options.sigma))
    coarse = [axis[:: max(1, round(4.0 / h))] for axis, h in zip(brain.axes, brain.spacing, strict=True)]
    while True:
        if options.bending == "geodesic":
            bend = FreeForm.geodesic(rng, extent, sigma, size)
        else:
            bend = FreeForm.draw(rng, extent, 3 * sigma)
            reached = (bend.displacement_on_grid(coarse) ** 2).sum(0).max() ** 0.5
            bend = bend.times(size / float(reached))
        if bend.determinants(coarse).min() >= _SMALLEST:
            return bend
        size *= 0.8


def _anatomy(options: BrainsOptions, rng: np.random.Generator) -> Brain:
    height = float(rng.uniform(*options.height))
    if options.labels is None:
        brain = embedded_brain().slice(height) if options.dim == 2 else embedded_brain()
        return _painted(brain, rng) if options.contrast == "random" else brain
    maps = _label_maps(str(options.labels))
    chosen = maps[int(rng.integers(len(maps)))]
    brain, pairs = _read(chosen, maps[0]), _pairs(chosen, maps[0])
    if options.dim == 2 and brain.dim == 3:
        brain = brain.slice(float(brain.middle[2]) + height)
    return _painted(brain, rng, pairs)


def _label_maps(given: str) -> list[Path]:
    path = Path(given).expanduser()
    found = sorted(p for p in path.iterdir() if p.name.endswith((".nii", ".nii.gz"))) if path.is_dir() else [path]
    if not found or not all(p.is_file() for p in found):
        raise InputError(
            f"labels={given}: no such label map, nor a folder with any; give a .nii.gz or a folder of them"
        )
    return found


@lru_cache(maxsize=4)
def _read(path: Path, frame: Path) -> Brain:
    """Return the labels of a file as a brain whose image is yet to be painted.

    Args:
        frame: The label map whose grid all share: others are laid on it head over head, by their places in the world.
    """
    import numpy as np
    from scipy.ndimage import affine_transform

    from mmtk.io import read_image

    volume = read_image(path, name="labels")
    data, affine = np.asarray(volume.data), np.asarray(volume.affine, dtype=float)
    if not np.allclose(data, np.rint(data)) or data.min() < 0 or data.max() == 0:
        raise InputError(
            f"labels={path}: is no label map; whole numbers, 0 outside and some above it, are expected"
        )
    carried = np.rint(data).astype(np.uint16 if data.max() > 255 else np.uint8)
    brain = Brain(np.zeros(carried.shape, np.float32), carried, affine, path.name)
    if path == frame:
        return brain
    first = _read(frame, frame)
    if first.dim != brain.dim:
        raise InputError(f"labels={path}: is {brain.dim}-D, {frame.name} is {first.dim}-D; give maps of one kind")
    to_first = np.eye(4)
    to_first[:3, 3] = brain.middle - first.middle
    matrix = np.linalg.solve(affine, to_first @ first.affine)
    dim = brain.dim
    laid = affine_transform(carried, matrix[:dim, :dim], matrix[:dim, 3], first.image.shape, order=0)
    return Brain(first.image, laid, first.affine, path.name)


@lru_cache(maxsize=4)
def _pairs(path: Path, frame: Path) -> dict[int, int]:
    """Return, for every label, the one that it shares a tissue with: its mirror image across the head's middle.

    Two labels are mirror images where each overlaps the other's reflection more than any other label's.
    """
    import numpy as np
    from scipy.ndimage import affine_transform

    brain = _read(path, frame)
    assert brain.labels is not None
    mirror = np.diag([-1.0, 1.0, 1.0, 1.0])
    mirror[0, 3] = 2 * brain.middle[0]
    matrix = np.linalg.solve(brain.affine, mirror @ brain.affine)
    dim = brain.dim
    reflected = affine_transform(brain.labels, matrix[:dim, :dim], matrix[:dim, 3], order=0)
    count = int(brain.labels.max()) + 1
    overlap = np.bincount(brain.labels.astype(np.int64).ravel() * count + reflected.ravel(), minlength=count**2)
    overlap = overlap.reshape(count, count)[1:, 1:]
    best = overlap.argmax(1) + 1
    return {k: min(k, int(best[k - 1])) if best[best[k - 1] - 1] == k else k for k in range(1, count)}


def _painted(brain: Brain, rng: np.random.Generator, pairs: Mapping[int, int] = MappingProxyType({})) -> Brain:
    """Give every label a grey of its own, with the texture that there is, and blur where tissues meet.

    The tissues of the embedded brain keep the T1's deviations from their means, turned up, down or over.
    """
    import numpy as np
    from scipy.ndimage import gaussian_filter

    labels = brain.labels
    assert labels is not None
    count = max([int(labels.max()), *pairs]) + 1
    grey = rng.uniform(0.15, 0.95, count)
    for label, twin in pairs.items():
        grey[label] = grey[twin]
    grey[0] = 0.0
    image = grey[labels]
    if brain.tissue:
        means = np.array([0.0, *brain.tissue_means().values()])
        texture = (brain.image - means[labels]) * rng.uniform(-1.0, 1.0)
    else:
        texture = 0.25 * gaussian_filter(rng.standard_normal(labels.shape), 1.0) * rng.uniform(0, 1)
    image = gaussian_filter(image, 0.7) + texture
    image = np.where(labels > 0, np.clip(image, 0.02, 1.0), 0.0)
    return replace(brain, image=image.astype(np.float32), name=f"{brain.name}, painted")
