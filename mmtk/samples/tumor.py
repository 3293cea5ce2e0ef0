"""A brain with a lesion, and the healthy brain that it was.

``fixed`` is the healthy brain as it is. ``moving`` is the patient: the same brain after the lesion has pushed
(or drawn in) the tissue round it and a free-form deformation has bent the whole head, see ``maps``; painted with
the lesion, see ``lesion``; and scanned, see ``scanner``. The image is resampled once, by cubic B-splines, at the
numerically inverted map; the stored displacement is the map itself, evaluated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mmtk.errors import ConfigError
from mmtk.samples.brain import NOTICE, Brain, read_brain
from mmtk.samples.lesion import Lesion, Palette, Texture
from mmtk.samples.maps import FreeForm, Lobed, RadialGrowth
from mmtk.samples.options import TumorBrainOptions, parse
from mmtk.samples.sample import Sample, jacobian_minimum
from mmtk.samples.scanner import Contrast, bias_field, rician, thick_slices

if TYPE_CHECKING:
    import numpy as np

#: Radii (fixed, moving) in mm of a lesion whose ``growth`` is not given.
RADII = {"bright": (8.0, 15.0), "lookalike": (8.0, 15.0), "resected": (14.0, 9.0)}

#: A bending whose Jacobian determinant falls below this anywhere is drawn again, up to ``_DRAWS`` times.
_SMALLEST, _DRAWS = 0.3, 30

#: Independent streams of random numbers: changing the lesion leaves the bending, the place and the noise alone.
#: The axis that a modality's slices lie across.
_ACROSS = {"t1": 2, "t1ce": 2, "t2": 1, "flair": 0}
_MODALITIES = ("t1ce", "t2", "flair")
_STREAMS = ("bending", "place", "form", "texture", "bias", "noise")


def tumor_brain(
    *,
    kind: str = "bright",
    dim: int = 3,
    spacing: float | None = None,
    seed: int = 0,
    brain: Any = None,
    labels: Any = None,
    deformation: float = 8.0,
    knots: float = 36.0,
    growth: tuple[float, float] | None = None,
    reach: float = 40.0,
    unevenness: float = 0.15,
    edema: float = 4.0,
    noise: float = 0.02,
    bias: float = 0.0,
    contrast: str = "same",
    modalities: tuple[str, ...] = (),
    thickness: float = 0.0,
) -> Sample:
    """Make a patient with a lesion and the healthy brain to register it onto.

    Args:
        kind: ``bright`` (core with a necrotic center, in edema), ``lookalike`` (as grey as cortex) or
            ``resected`` (a dark cavity with the tissue round it collapsed).
        dim: 3, or 2 for an axial slice.
        spacing: mm, a multiple of the brain's own; None keeps that (1 mm for the embedded brain).
        seed: The same seed and options give the same sample, voxel for voxel. Samples that differ in ``kind``
            alone share bending, place and noise.
        brain: Healthy, skull-stripped brain of your own: a path, a nibabel image or a Volume.
        labels: Its label map, on the same grid.
        deformation: Largest displacement of the bending, mm; 0 for none.
        knots: Distance of its control points, mm.
        growth: Mean radius of the lesion in the fixed and in the moving image, mm. None: (8, 15), and (14, 9)
            for a resection. Equal radii: no mass effect.
        reach: Distance from the lesion's center beyond which it displaces next to nothing, mm.
        unevenness: Relative height of its lobes; 0 is a ball.
        edema: Mean width of the edema of a bright tumor, mm; 0 for none.
        noise: Standard deviation of the Rician noise in units of the 99.5th percentile of the brain.
        bias: Relative amplitude of the bias field; 0 for none.
        contrast: ``same``, ``gamma`` (a monotone change) or ``other`` (like a T2).
        modalities: Of ``t1ce``, ``t2``, ``flair``: further scans of both brains, each with noise and bias of its own;
            they share shape and lesion, and what one hides another may show.
        thickness: Of the patient's slices, mm: T1 and T1ce are axial, T2 is coronal, FLAIR sagittal. 0: as the grid.

    Raises:
        ConfigError: An option is unknown or out of range, or no map without folds can be drawn from them.
        InputError: The brain or its labels cannot be used.
    """
    asked = dict(locals())
    options = parse(TumorBrainOptions, asked, "tumor_brain")
    whole = read_brain(options.brain, options.labels)
    if options.dim > whole.dim:
        raise ConfigError("dim: this brain is a 2-D image. Ask for dim=2, or give a 3-D brain.")
    return patient(options, whole.slice() if options.dim < whole.dim else whole)


@dataclass(frozen=True, eq=False)
class _Scene:
    """The healthy brain on its grid, and the maps that make the patient of it."""

    brain: Brain
    bend: FreeForm
    growth: RadialGrowth
    redrawn: int
    other: FreeForm | None = None  # bends the fixed image, too

    def points(self) -> np.ndarray:
        """Return the voxels' positions, ``(dim, *space)`` in mm."""
        import numpy as np

        return np.stack(np.meshgrid(*self.brain.axes, indexing="ij"))

    def seen(self, points: np.ndarray) -> np.ndarray:
        """Return where the fixed image, at ``points``, sees the healthy brain."""
        return points if self.other is None else points + self.other.displacement_on_grid(self.brain.axes)

    def pull_back(self, points: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """Return ``psi(x) - x`` at the voxels, mm."""
        import numpy as np

        if self.other is not None:
            return self.bend(self.growth(seen)) - points
        displacement = self.bend.displacement_on_grid(self.brain.axes)
        grown = self.growth(points)
        near = (np.abs(grown - points) > 1e-7).any(0)
        displacement[:, near] = self.bend(grown[:, near]) - points[:, near]
        return displacement

    def source(self, points: np.ndarray) -> np.ndarray:
        """Return the places in the healthy brain that the moving image shows at ``points``, mm."""
        return self.growth.inverse(points + self.bend.inverse_on_grid(self.brain.axes))

    def push_forward(self, points: np.ndarray, source: np.ndarray) -> np.ndarray:
        """Return ``psi^-1(y) - y`` at the voxels, mm."""
        return (source if self.other is None else self.other.inverse(source)) - points


def patient(
    options: TumorBrainOptions,
    brain: Brain,
    *,
    healthy: bool = False,
    bend: FreeForm | None = None,
    other: FreeForm | None = None,
) -> Sample:
    """Make the patient that the options describe of a healthy brain.

    Args:
        options: Their ``dim``, ``brain`` and ``labels`` do not count: the brain is given.
        brain: At its own spacing; 2-D or 3-D.
        healthy: Leave the lesion out.
        bend: How the patient is bent; drawn as the options say if None.
        other: How the fixed image is bent; as it is if None.

    Raises:
        ConfigError: No map without folds can be drawn.
    """
    import numpy as np

    streams = {name: np.random.default_rng([options.seed, k]) for k, name in enumerate(_STREAMS)}
    scene, native = _draw_scene(options, streams, brain, bend, other), brain
    brain, points = scene.brain, scene.points()
    seen, source = scene.seen(points), scene.source(points)
    pull_back, push_forward = scene.pull_back(points, seen), scene.push_forward(points, source)
    tissue, top = brain.tissue_means(), float(np.percentile(brain.image[brain.foreground], 99.5))
    contrast = Contrast.named(options.contrast, tissue, top)
    lesion = None if healthy else _draw_lesion(scene, options, tissue, contrast, streams["texture"])

    sources = source.reshape(brain.dim, -1)
    moving, mask, core, air = _patient(brain, lesion, contrast, sources)
    clean = _modalities(scene, options, native, tissue, top, sources, seen, healthy=healthy)
    fixed = brain.image
    if other is not None:
        fixed = np.clip(_sample(brain.image, brain.voxels(seen.reshape(brain.dim, -1)), order=3), 0, None)
        fixed = fixed.reshape(brain.image.shape)
    appearance, fixed_mask = _true_appearance(fixed, lesion, contrast, seen.reshape(brain.dim, -1))

    def scanned(image: np.ndarray, name: str, bias: np.random.Generator, noise: np.random.Generator) -> np.ndarray:
        across = min(_ACROSS[name], brain.dim - 1)
        if options.thickness > brain.spacing[across]:
            image = thick_slices(image, options.thickness / brain.spacing[across], across)
        if options.bias > 0:
            image = image * bias_field(bias, brain.axes, options.bias, ~air)
        if options.noise > 0:
            image = rician(noise, image, options.noise * top)
        return np.where(air, 0.0, image).astype(np.float32)

    channels = {}
    for name, (image, healthy_scan) in clean.items():
        draws = [np.random.default_rng([options.seed, _MODALITIES.index(name), what]) for what in (11, 12)]
        channels[name] = scanned(image, name, *draws), healthy_scan
    moving = scanned(moving, "t1", streams["bias"], streams["noise"])

    h = np.array(brain.spacing).reshape(-1, *[1] * brain.dim)
    displacement = (pull_back / h).astype(np.float32)
    before = np.sqrt((pull_back**2).sum(0))[brain.foreground & ~fixed_mask]
    facts = {
        "sample": "tumor_brain",
        **options.model_dump(exclude={"brain", "labels"}),
        "brain": brain.name,
        "growth": [scene.growth.radius.mean, scene.growth.radius.mean * scene.growth.ratio],
        "lesion_center_world_mm": _to_world(brain, scene.growth.center),
        "bendings_redrawn": scene.redrawn,
        "jacobian_minimum": jacobian_minimum(displacement),
        "inversion_error_voxels": _inversion_error(scene, points, source, streams["place"]),
        "endpoint_error_before_mm": float(before.mean()),
        "notice": NOTICE if options.brain is None else None,
    }
    return Sample(
        moving=moving.astype(np.float32),
        fixed=fixed.astype(np.float32),
        mask=mask,
        fixed_mask=fixed_mask,
        displacement=displacement,
        inverse_displacement=(push_forward / h).astype(np.float32),
        appearance=appearance.astype(np.float32),
        affine=brain.affine.copy(),
        labels_moving=_carry_labels(brain, sources, core),
        labels_fixed=_fixed_labels(scene, seen),
        channels=channels,
        facts=facts,
    )


def _draw_scene(
    options: TumorBrainOptions,
    streams: dict[str, Any],
    brain: Brain,
    bend: FreeForm | None,
    other: FreeForm | None,
) -> _Scene:
    import numpy as np

    scanned, redrawn = brain.at(options.spacing), 0
    if bend is None:
        bend, redrawn = _draw_bending(brain, options, streams["bending"])
    before, after = options.growth or RADII[options.kind]
    center = _place(streams["place"], brain, max(before, after, *RADII["bright"]) + 5.0)
    ratio = after / before
    growth = RadialGrowth(
        center=center,
        radius=Lobed.draw(streams["form"], brain.dim, before, options.unevenness),
        ratio=ratio,
        # The border must end within the lesion's own volume, or the center of a strong collapse would fold.
        softness=min(0.2, 0.6 * ratio**brain.dim),
        reach=options.reach / before,
    )
    if growth.determinant(np.linspace(0, growth.limit, 4096)).min() < 0.01:
        raise ConfigError(
            f"growth: from {before:g} to {after:g} mm cannot fade out within {options.reach:g} mm without a fold. "
            f"Choose radii that are closer to each other, or raise `reach`."
        )
    return _Scene(scanned, bend, growth, redrawn, other)


def _draw_bending(brain: Brain, options: TumorBrainOptions, rng: np.random.Generator) -> tuple[FreeForm, int]:
    """Return a bending of the asked size without folds, and how many were thrown away for it."""
    import numpy as np

    every = tuple(slice(None, None, max(1, round(4.0 / h))) for h in brain.spacing)
    axes = [axis[cut] for axis, cut in zip(brain.axes, every, strict=True)]
    extent = [axis[-1] for axis in brain.axes]
    head = brain.foreground[every]
    for redrawn in range(_DRAWS):
        bend = FreeForm.draw(rng, extent, options.knots)
        size = np.sqrt((bend.displacement_on_grid(axes) ** 2).sum(0))
        bend = bend.times(options.deformation / float(size[head].max()))
        if bend.determinants(axes).min() >= _SMALLEST:
            return bend, redrawn
    raise ConfigError(
        f"deformation: none of {_DRAWS} bendings of {options.deformation:g} mm with control points "
        f"{options.knots:g} mm apart kept its Jacobian above {_SMALLEST}. Lower `deformation` or raise `knots`."
    )


def _place(rng: np.random.Generator, brain: Brain, depth: float) -> np.ndarray:
    """Draw the lesion's center, mm: ``depth`` under the surface, in upper white matter, off the midline.

    Where a small or a sliced head has no such place, the conditions are dropped one by one, depth last.
    """
    import numpy as np
    from scipy.ndimage import distance_transform_edt

    every = tuple(slice(None, None, max(1, round(2.0 / h))) for h in brain.spacing)
    steps = np.array(brain.spacing) * [cut.step for cut in every]
    head = np.pad(brain.foreground[every], 1)
    below = distance_transform_edt(head, sampling=steps)[(slice(1, -1),) * brain.dim]
    inside = np.argwhere(below > 0)
    below = below[tuple(inside.T)]
    world = (inside * steps) @ (brain.affine[:3, : brain.dim] / brain.spacing).T
    middle = np.median(world, axis=0)
    tests = [np.abs(world[:, 0] - middle[0]) > 15.0, world[:, 2] >= middle[2] - 1e-3]
    if brain.tissue and brain.labels is not None:
        tests.insert(0, brain.labels[every][tuple(inside.T)] == 3)
    for kept in range(len(tests), -1, -1):
        fit = np.flatnonzero(np.logical_and.reduce([below >= depth, *tests[:kept]]))
        if fit.size:
            break
    else:
        fit = np.flatnonzero(below >= 0.9 * below.max())
    return inside[rng.choice(fit)] * steps


def _modalities(
    scene: _Scene,
    options: TumorBrainOptions,
    native: Brain,
    tissue: dict[str, float],
    top: float,
    sources: np.ndarray,
    seen: np.ndarray,
    *,
    healthy: bool,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the patient's and the healthy brain's further scans, without noise.

    Each is what the ``native`` brain shows in that modality, brought to the spacing afterwards, as a scanner would: an
    average over a voxel does not change places with a contrast.
    """
    import numpy as np

    made: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name in options.modalities:
        contrast = Contrast.named("same" if name == "t1ce" else name, tissue, top)
        scan = replace(native, image=contrast(native.image).astype(np.float32)).at(options.spacing)
        shown = options.model_copy(update={"contrast": "same" if name == "t1ce" else "other"})
        stream = np.random.default_rng([options.seed, _STREAMS.index("texture")])  # one lesion in all of them
        lesion = None if healthy else _draw_lesion(scene, shown, tissue, contrast, stream)
        moving = _patient(scan, lesion, lambda values: values, sources)[0]
        fixed = scan.image
        if scene.other is not None:
            fixed = np.clip(_sample(fixed, scan.voxels(seen.reshape(scan.dim, -1)), order=3), 0, None)
            fixed = fixed.reshape(scan.image.shape)
        made[name] = moving, fixed.astype(np.float32)
    return made


def _draw_lesion(
    scene: _Scene,
    options: TumorBrainOptions,
    tissue: dict[str, float],
    contrast: Contrast,
    rng: np.random.Generator,
) -> Lesion:
    import numpy as np
    from scipy.ndimage import gaussian_filter

    brain, growth = scene.brain, scene.growth
    palette = (Palette.like_t2 if options.contrast == "other" else Palette.like_t1)(tissue, contrast)
    extent = growth.radius.largest * max(1.0, growth.ratio) + 1.5 * options.edema + 2.0

    def white(points: np.ndarray) -> np.ndarray:
        if not brain.tissue or brain.labels is None:
            return np.ones(points.shape[1])
        share = gaussian_filter((brain.labels == 3).astype(np.float32), [1.0 / h for h in brain.spacing])
        return _sample(share, brain.voxels(points), order=1)

    return Lesion(
        kind=options.kind,
        growth=growth,
        palette=palette,
        texture=Texture.draw(rng, growth.center, extent, knot=2.5 if options.kind == "lookalike" else 3.5),
        edema=options.edema if options.kind == "bright" else 0.0,
        white=white,
        variation=0.08 * tissue["white"],
    )


def _patient(
    brain: Brain, lesion: Lesion | None, contrast: Callable[[Any], Any], sources: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the patient before noise, the mask, the core and the air, from the fixed points ``(dim, n)`` seen."""
    import numpy as np

    shape, voxels = brain.image.shape, brain.voxels(sources)
    head = _sample(brain.foreground.astype(np.float32), voxels, order=1) > 0.5
    moving, mask, core = np.zeros(head.shape), np.zeros_like(head), np.zeros_like(head)
    moving[head] = contrast(np.clip(_sample(brain.image, voxels[:, head], order=3), 0, None))
    if lesion is not None:
        at = lesion.reaches(sources)
        moving[at], core[at], mask[at] = lesion.paint(sources[:, at], moving[at])
    return moving.reshape(shape), mask.reshape(shape), core.reshape(shape), ~(head | mask).reshape(shape)


def _true_appearance(
    fixed: np.ndarray, lesion: Lesion | None, contrast: Contrast, points: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return what undoes the lesion, and its mask, at the points ``(dim, n)`` that the fixed image's voxels see."""
    import numpy as np

    shown = contrast(fixed).reshape(-1)
    appearance, mask = np.zeros(shown.shape), np.zeros(shown.shape, bool)
    if lesion is not None:
        at = lesion.reaches(points)
        painted, _, mask[at] = lesion.paint(points[:, at], shown[at])
        appearance[at] = shown[at] - painted
    return appearance.reshape(fixed.shape), mask.reshape(fixed.shape)


def _sample(image: np.ndarray, voxels: np.ndarray, *, order: int) -> np.ndarray:
    """Interpolate at voxel coordinates ``(dim, n)``; 0 outside the image."""
    from scipy.ndimage import map_coordinates

    return map_coordinates(image, voxels, order=order, mode="constant")


def _carry_labels(brain: Brain, sources: np.ndarray, core: np.ndarray) -> np.ndarray | None:
    """Return the labels of the moving image; the lesion's core gets the first free number."""
    import numpy as np

    if brain.labels is None:
        return None
    carried = _sample(brain.labels, brain.voxels(sources), order=0).reshape(core.shape)
    free = int(brain.labels.max()) + 1
    return np.where(core, free, carried).astype(np.uint16 if free > 255 else np.uint8)


def _fixed_labels(scene: _Scene, seen: np.ndarray) -> np.ndarray | None:
    labels = scene.brain.labels
    if labels is None or scene.other is None:
        return None if labels is None else labels.copy()
    there = _sample(labels, scene.brain.voxels(seen.reshape(labels.ndim, -1)), order=0)
    return there.reshape(labels.shape).astype(labels.dtype)


def _inversion_error(scene: _Scene, points: np.ndarray, source: np.ndarray, rng: np.random.Generator) -> float:
    """Return the largest ``|psi(psi^-1(y)) - y|`` over 20 000 voxels of the image, in voxels."""
    import numpy as np

    dim = scene.brain.dim
    some = rng.integers(0, points[0].size, 20_000)
    target, seen = points.reshape(dim, -1)[:, some], source.reshape(dim, -1)[:, some]
    error = (scene.bend(scene.growth(seen)) - target) / np.array(scene.brain.spacing)[:, None]
    return float(np.sqrt((error**2).sum(0)).max())


def _to_world(brain: Brain, point: np.ndarray) -> list[float]:
    import numpy as np

    voxel = np.array([*brain.voxels(point[:, None])[:, 0], *[0.0] * (3 - brain.dim), 1.0])
    return [round(float(c), 3) for c in (brain.affine @ voxel)[:3]]
