"""The front door: register two images, in Python or for the command line.

``register`` takes anything that is an image and returns a :class:`Result`; ``run`` takes the description of a run and
leaves a folder. Both go the same way: prepare, register, sample the native images.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mmtk
from mmtk import io
from mmtk.config import ComponentConfig, Recipe, RunConfig
from mmtk.errors import ConfigError
from mmtk.fields import identity, sample
from mmtk.masking.finding import FoundMask, find_mask
from mmtk.masking.sensitivity import sensitivity
from mmtk.measure import measure
from mmtk.method import Milestones, Progress, forgetful, silent
from mmtk.modalities import spread
from mmtk.outputs import Warped, warp_native
from mmtk.prepare import Prepared, affine_points, prepare, tensor
from mmtk.record import FILES, check_folder, save, write
from mmtk.resources import Clock, memory_told
from mmtk.result import Outcome, Registration
from mmtk.resume import KeptMilestones
from mmtk.transforms import PairedFieldStep, Transform

__all__ = ["Result", "register", "run", "save"]

#: Where a description has the further channels.
CHANNELS = ("more_moving", "more_fixed", "more_mask")


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """What a registration of two images gives.

    Attributes:
        images: Warped, deformed, appearance, mask, Jacobian on the native fixed grid.
        registration: Displacement, inverse, coefficients, energies: what the method found.
        prepared: The native images, the affine placement, the intensity scales.
        metrics: How well it went, in plain numbers.
        seconds: How long each stage took.
        notes: Sentences that a user should read.
        settings: The method and the preparation, as plain data.
        label_maps: ``labels`` and ``fixed_labels`` as they were read, if given.
        looked_for: The mask that a segmenter found, and how sure it was; None if it was given, or there is none.
    """

    images: Warped
    registration: Registration
    prepared: Prepared
    metrics: Mapping[str, Any]
    seconds: Mapping[str, float]
    notes: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    label_maps: Mapping[str, io.Volume] = field(default_factory=dict)
    looked_for: FoundMask | None = None

    @property
    def outcome(self) -> Outcome:
        """Why the optimization stopped."""
        return self.registration.outcome

    @property
    def placed(self) -> np.ndarray:
        """The moving image by the affine alone, on the fixed grid: what the others began as."""
        fixed = self.prepared.fixed
        points = affine_points(identity(fixed.shape), self.prepared.voxel_map)
        return sample(tensor(self.prepared.moving), points)[0, 0].numpy()

    @property
    def warped(self) -> np.ndarray:
        """The moving image with shape and appearance, on the fixed grid."""
        return self.images.warped.cpu().numpy()

    @property
    def deformed(self) -> np.ndarray:
        """The moving image with shape alone."""
        return self.images.deformed.cpu().numpy()

    @property
    def appearance(self) -> np.ndarray | None:
        """The intensity change, 0 outside the warped mask; None without appearance."""
        return None if self.images.appearance is None else self.images.appearance.cpu().numpy()

    @property
    def warped_mask(self) -> np.ndarray | None:
        """The lesion mask carried along, in [0, 1]; None without one."""
        return None if self.images.mask is None else self.images.mask.cpu().numpy()

    @property
    def jacobian(self) -> np.ndarray:
        """The determinant of the whole map, affine included: below 1 where moving tissue is smaller."""
        return self.images.jacobian.cpu().numpy()

    @property
    def displacement(self) -> np.ndarray:
        """The pull-back ``(dim, *space)`` in voxels of the fixed grid; the affine acts after it."""
        return self.registration.displacement[0].cpu().numpy()

    @property
    def transform(self) -> Transform:
        """The whole map, as the files of a run hold it: it carries points, and through :func:`mmtk.resample` images."""
        fixed, matrix = self.prepared.fixed, self.prepared.alignment.matrix
        there, back = (
            io.FieldStep(io.to_world(u, fixed.affine), fixed.affine)
            for u in (self.registration.displacement, self.registration.inverse)
        )
        steps = (PairedFieldStep(there.vectors, there.affine, back), io.AffineStep(matrix))
        grids = {
            volume.name: io.Header(volume.shape, volume.affine, volume.storage, volume.name, volume.path)
            for volume in (fixed, self.prepared.moving)
        }
        return Transform(steps, grids=grids)

    @property
    def doubts(self) -> tuple[str, ...]:
        """What a careful reader would ask about, the gravest first: the warnings that head the report."""
        from mmtk.report.doubts import doubts

        return tuple(doubt.text for doubt in doubts(self) if doubt.rank != "note")

    def __repr__(self) -> str:
        kind = self.settings.get("method", {}).get("kind", "unknown")
        return f"Result({kind}: {self.prepared.moving!r} onto {self.prepared.fixed!r}, {self.outcome.name})"

    def summary(self) -> str:
        """Return notes, every number with its meaning, and why the optimization stopped, as text."""
        from mmtk.report.tables import as_table

        notes = "".join(f"note: {note}\n" for note in self.notes)
        return f"{notes}{as_table(self.metrics)}\n\n{self.outcome.value} ({sum(self.seconds.values()):.1f} s)"

    def save(self, out: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write every file of a run into a folder; see :func:`save`."""
        return save(self, Path(out), overwrite=overwrite)


def register(
    *,
    moving: Any,
    fixed: Any,
    mask: Any = None,
    fixed_mask: Any = None,
    labels: Any = None,
    fixed_labels: Any = None,
    method: str | Mapping[str, Any] | ComponentConfig = "metamorphosis",
    segmenter: str | Mapping[str, Any] | ComponentConfig | None = None,
    mask_sensitivity: bool = False,
    init: str | os.PathLike[str] = "affine",
    normalize: str = "robust",
    spacing: tuple[float, ...] | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: Progress = silent,
    **settings: Any,
) -> Result:
    """Register ``moving`` onto ``fixed``.

    Args:
        moving, fixed: Path, nibabel image, array or :class:`~mmtk.io.Volume`, 2-D or 3-D; or a list of them, one for
            each channel, None where that side lacks it; or the folder of a patient, named as BraTS names it.
        mask: Lesion on the moving image; any non-zero voxel counts, and fractions are probabilities. A list: one for
            each channel. ``"auto"``: a segmenter looks for it.
        fixed_mask: Lesion on the fixed image; there the two are not compared.
        labels, fixed_labels: Label maps; the first is carried along, with both overlaps are reported.
        method: Name of an installed method, or its description.
        segmenter: Name of an installed segmenter, or its description: what finds the mask. With ``labels``, what takes
            it from the label map that ``mask`` is.
        mask_sensitivity: Register three times more, with other masks, and report what changes.
        init: ``none``, ``center``, ``rigid``, ``affine`` or a transform file.
        normalize: ``robust``, ``histogram`` or ``none``.
        spacing: mm per pixel, for images whose file does not say.
        device: ``auto`` takes CUDA where there is one.
        seed: Of everything random.
        progress: Called while the optimizer runs.
        settings: Settings of the method, such as ``mu=0.1``.

    Returns:
        A frozen :class:`Result`.

    Raises:
        ConfigError: If the description or an input is wrong; nothing was computed.
    """
    recipe = _recipe(method, segmenter, mask_sensitivity, init, normalize, spacing, settings)
    if recipe.segmenter is not None and mask is None:
        mask = "auto"
    if recipe.segmenter is not None and recipe.segmenter.kind != "labels" and not _is_auto(mask):
        raise ConfigError(
            f"mask and segmenter={recipe.segmenter.kind}: both say where the lesion is; give one of them"
        )
    given, channels = _dealt_out({"moving": moving, "fixed": fixed, "mask": mask}, recipe)
    return _register(
        recipe,
        **given,
        channels=channels,
        fixed_mask=fixed_mask,
        labels=labels,
        fixed_labels=fixed_labels,
        device=device,
        seed=seed,
        progress=progress,
    )


def _dealt_out(images: Mapping[str, Any], recipe: Recipe) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the images of the first channel, and the further ones."""
    try:
        dealt = spread({name: image for name, image in images.items() if image is not None})
    except ValueError as error:
        raise ConfigError(str(error)) from error
    channels = {name: dealt.pop(name) for name in CHANNELS if name in dealt}
    if channels.get("more_moving") and not recipe.method.capabilities.multichannel:
        count = 1 + len(channels["more_moving"])
        raise ConfigError(f"moving: {count} channels, but method={recipe.method.kind} registers one; name one")
    return {**dict.fromkeys(images), **dealt}, channels


def _is_auto(mask: Any) -> bool:
    return isinstance(mask, str) and mask == "auto"


def _recipe(
    method: Any,
    segmenter: Any,
    mask_sensitivity: bool,
    init: Any,
    normalize: str,
    spacing: Any,
    settings: Mapping[str, Any],
) -> Recipe:
    from mmtk.plugins import installed
    from mmtk.settings import Setting, resolve

    start = {"method": method} if isinstance(method, ComponentConfig) else {}
    typed = [] if start else _typed("method", method)
    typed += [Setting(f"method.{key}", value) for key, value in settings.items()]
    if isinstance(segmenter, ComponentConfig):
        start["segmenter"] = segmenter
    elif segmenter is not None:
        typed += _typed("segmenter", segmenter)
    typed += [
        Setting("init", init),
        Setting("normalize", normalize),
        Setting("mask_sensitivity", mask_sensitivity),
    ]
    if spacing is not None:
        typed.append(Setting("spacing", spacing))
    catalogue = installed().following(setting.value for setting in typed)
    return resolve(typed, start, catalogue, Recipe)


def _typed(key: str, value: Any) -> list[Any]:
    from mmtk.settings import Setting

    if not isinstance(value, Mapping):
        return [Setting(key, value)]
    return [Setting(key if name == "kind" else f"{key}.{name}", item) for name, item in value.items()]


def pick_device(device: str) -> torch.device:
    """Return the device; ``auto`` is CUDA where there is one.

    Raises:
        ConfigError: If it is not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device={device}: no such device; use auto, cpu, cuda or cuda:0") from error
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device={device}: {torch.cuda.device_count()} CUDA devices were found; use device=cpu")
    return chosen


def _register(
    recipe: Recipe,
    *,
    moving: Any,
    fixed: Any,
    mask: Any,
    fixed_mask: Any,
    labels: Any,
    fixed_labels: Any,
    device: str,
    seed: int,
    progress: Progress,
    milestones: Milestones = forgetful,
    channels: Mapping[str, Any] | None = None,
) -> Result:
    recipe.method.ready()
    if told := recipe.method.unmasked(mask):
        raise ConfigError(told)
    torch.manual_seed(seed)
    place = pick_device(device)
    seconds: dict[str, float] = {}
    clock = Clock(seconds)
    looked: FoundMask | None = None
    if _is_auto(mask) or (recipe.segmenter is not None and mask is not None):
        with clock("segment"), memory_told("looking for the lesion"):
            looked = _looked_for(recipe, moving, fixed, mask, channels or {}, place)
        mask = None if looked.empty else looked.mask
        recipe = _told_of_the_lesion(recipe, looked)
    with clock("prepare"), memory_told("preparing the images"):
        prepared = prepare(
            moving=moving,
            fixed=fixed,
            mask=mask,
            fixed_mask=fixed_mask,
            init=str(recipe.init),
            normalize=recipe.normalize,
            spacing=recipe.spacing,
            device=place,
            **(channels or {}),
        )
        carried, target = (
            None if given is None else io.read_image(given, name=name, spacing=recipe.spacing)
            for given, name in ((labels, "labels"), (fixed_labels, "fixed_labels"))
        )
    with clock("register"), memory_told("registering"):
        method = recipe.method.build()
        method.milestones = milestones
        found = method.register(prepared.pair, progress)
    with clock("warp"), torch.no_grad(), memory_told("sampling the results"):
        images = warp_native(prepared, found, carried)
        metrics = measure(prepared, found, images, target)
    if recipe.mask_sensitivity and prepared.mask is not None:
        with clock("mask sensitivity"), memory_told("registering with other masks"):
            metrics = {**metrics, "mask_sensitivity": sensitivity(prepared, recipe.method, found)}
    if looked is not None:
        metrics = {**metrics, "mask": looked.metrics()}
    return Result(
        images=images,
        registration=found,
        prepared=prepared,
        metrics=metrics,
        seconds=seconds,
        notes=(
            *([] if looked is None else [*looked.notes, *looked.told(recipe.method)]),
            *prepared.notes,
            *found.notes,
            *_folds_told(metrics, found),
        ),
        settings=recipe.model_dump(mode="json"),
        label_maps={
            name: volume for name, volume in (("labels", carried), ("fixed_labels", target)) if volume is not None
        },
        looked_for=looked,
    )


def _looked_for(
    recipe: Recipe, moving: Any, fixed: Any, mask: Any, channels: Mapping[str, Any], place: torch.device
) -> FoundMask:
    """Return what the segmenter finds on the moving image, or in the label map that ``mask`` is."""
    from mmtk.masking import automatic
    from mmtk.plugins import installed

    source = io.read_image(moving, name="moving", spacing=recipe.spacing)
    if not _is_auto(mask):
        assert recipe.segmenter is not None
        drawn = io.read_image(mask, name="mask", spacing=recipe.spacing)
        return find_mask([drawn], recipe.segmenter, device=place)
    target = io.read_image(fixed, name="fixed", spacing=recipe.spacing)
    more = [
        io.read_image(given, name=f"moving[{number}]", spacing=recipe.spacing)
        for number, given in enumerate(channels.get("more_moving", ()), 2)
        if given is not None
    ]
    tried = (recipe.segmenter,) if recipe.segmenter is not None else automatic(installed(), source.dim)
    notes: list[str] = []
    for number, part in enumerate(tried, 1):
        looked = find_mask([source, *more], part, reference=target, init=str(recipe.init), device=place)
        if not looked.empty or number == len(tried):
            return replace(looked, notes=(*notes, *looked.notes))
        notes.append(f"{looked.segmenter} found no lesion, so {tried[number].kind} looked for one.")
    raise AssertionError("there is always one segmenter to try")


def _told_of_the_lesion(recipe: Recipe, looked: FoundMask) -> Recipe:
    """Tell a method that can be told so, and was not, that the lesion grew.

    That it collapsed is not passed on: with a kernel that knows detail, that term overshoots (``docs/benchmarks.md``).
    """
    if looked.empty or looked.history != "grew" or getattr(recipe.method, "lesion", None) != "unknown":
        return recipe
    return recipe.model_copy(update={"method": recipe.method.model_copy(update={"lesion": looked.history})})


def _folds_told(metrics: Mapping[str, Any], found: Registration) -> list[str]:
    """Say that the map folds, for a method that did not say so itself."""
    folded = metrics.get("deformation", {}).get("folds", 0)
    if not folded or any("fold" in note for note in found.notes):
        return []
    return [f"the map folds at {folded:,} voxels, so it has no inverse there; ask the method for a smoother one"]


def run(
    config: RunConfig,
    out: Path,
    *,
    device: str = "auto",
    seed: int = 0,
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress = silent,
    command: str | None = None,
) -> Result:
    """Do what a description says and leave its files in ``out``, all of them or none.

    Args:
        config: The description; its files exist.
        out: Folder, made if missing. One that holds files is refused unless ``overwrite``; then the files of an older
            run are replaced at the very end, and whatever else is there stays.
        device, seed, progress: See :func:`register`.
        resume: Go on from the last level that a run into ``out`` had finished when it was stopped, if there is one.
        command: What the user typed, for ``run.json``.

    Raises:
        ConfigError: If an input is wrong, the folder is in use, or the run to be resumed was another one; nothing
            was written.
        ResourceError: If memory or disk gave out; nothing was written that looks finished.
    """
    check_folder(out, overwrite)
    with io.making(out, ours=FILES, record="run.json", overwrite=overwrite, resume=resume) as place:
        milestones = KeptMilestones(place, _key(config, device, seed))
        result = _register(
            config,
            moving=config.moving,
            fixed=config.fixed,
            mask=config.mask,
            fixed_mask=config.fixed_mask,
            labels=config.labels,
            fixed_labels=config.fixed_labels,
            device=device,
            seed=seed,
            progress=progress,
            milestones=milestones,
            channels={name: getattr(config, name) for name in CHANNELS},
        )
        result = _scored(result, config)
        if milestones.finished:
            result = replace(result, notes=(*result.notes, f"resumed after level {milestones.finished}."))
        write(result, place, seed, command)
    return result


def _key(config: RunConfig, device: str, seed: int) -> dict[str, Any]:
    """Return all that a level's state depends on; a run with the same key gives the same result."""
    settings = config.model_dump(mode="json")
    files = {name: path for name, path in config.files().items() if "labels" not in name}
    if isinstance(config.init, Path):
        files["init"] = config.init
    for name in ("moving", "fixed", "mask", "fixed_mask", "labels", "fixed_labels", *CHANNELS):
        settings.pop(name)
    return {
        "settings": settings,
        "images": {name: io.sha256(path) for name, path in files.items()},
        "seed": seed,
        "device": str(pick_device(device)),
        "versions": {"mmtk": mmtk.__version__, "torch": torch.__version__},
    }


def _scored(result: Result, config: RunConfig) -> Result:
    """Add the true error where the images are those of one sample of ours, whose folder knows the truth."""
    from mmtk.samples import Truth, error_against_truth

    folder = config.fixed.parent
    if not all(_same_file(getattr(config, name), folder / f"{name}.nii.gz") for name in ("moving", "fixed")):
        return result
    truth = Truth.read(folder)
    if truth is None or truth.displacement.shape != result.displacement.shape:
        return result
    errors = error_against_truth(truth, result.displacement, affine=result.prepared.alignment.matrix)
    return replace(result, metrics={**result.metrics, "truth": {f"{name}_mm": e for name, e in errors.items()}})


def _same_file(one: Path, other: Path) -> bool:
    return other.is_file() and one.samefile(other)
