"""From one form of a transform to another: file to file, a run to a file, runs to what a challenge or BIDS wants."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmtk.config import nearest
from mmtk.errors import ConfigError, InputError
from mmtk.io.bids import write_bids
from mmtk.io.formats import FORMATS, Format, Steps, format_of, read_steps, stored_dimension, write_steps
from mmtk.io.formats.request import Image
from mmtk.io.formats.runs import RunFolder, free_to_write, is_run
from mmtk.io.formats.submission import write_brats_reg, write_learn2reg_submission
from mmtk.io.transforms import AffineStep, FieldStep

__all__ = ["FOLDERS", "KEYS", "Conversion", "convert"]

#: Settings that every conversion understands, and those of one form of result alone.
KEYS = ("out", "format", "input_format", "fixed", "moving", "convention")
FOLDERS: Mapping[str, tuple[str, ...]] = {
    "bids": ("subject", "session", "from", "to", "suffix"),
    "brats-reg": ("landmarks",),
    "learn2reg": ("shape",),
}


@dataclass(frozen=True)
class Conversion:
    """What was written, and what a user should know about it.

    Attributes:
        files: In the order in which they were written.
        format: Name of the format.
        notes: Sentences.
    """

    files: Sequence[Path]
    format: str
    notes: Sequence[str] = field(default_factory=tuple)


def convert(
    sources: Sequence[str], out: Path, settings: Mapping[str, str], *, overwrite: bool = False
) -> Conversion:
    """Convert transforms or runs.

    Args:
        sources: A transform file, what stands for ANTs' pair of them, or folders of runs.
        out: The file, ANTs' prefix, or the folder, for ``bids``, ``brats-reg`` and submissions of ``learn2reg``.
        settings: By key, as typed: ``KEYS`` but ``out``, and those of ``FOLDERS``.
        overwrite: Whether files may be replaced.

    Raises:
        ConfigError: If a setting is wrong; nothing is written.
        InputError: If a file cannot be read, or the format cannot hold what is in it; nothing is written.
    """
    form = settings.get("format")
    folder = form in ("bids", "brats-reg") or (form == "learn2reg" and not _is_file(out))
    _check(settings, form if folder else None)
    if folder:
        return _to_folder(sources, out, str(form), settings, overwrite)
    if len(sources) != 1:
        raise ConfigError(
            f"{len(sources)} sources, but a file holds one transform; give one, or format=learn2reg, brats-reg or "
            f"bids with a folder as out="
        )
    return _to_file(sources[0], out, settings, overwrite)


def _is_file(out: Path) -> bool:
    return out.name.lower().endswith(FORMATS["learn2reg"].extensions)


def _check(settings: Mapping[str, str], folder: str | None) -> None:
    known = [*KEYS, *(FOLDERS[folder] if folder else ())]
    problems = []
    for key in settings:
        if key not in known:
            home = next((name for name, keys in FOLDERS.items() if key in keys), None)
            hint = f"; it belongs to format={home} with a folder as out=" if home else nearest(key, known)
            problems.append(f"{key}={settings[key]}: unknown key{hint or '; there are ' + ', '.join(known)}")
    if problems:
        raise ConfigError(problems)


def _images(settings: Mapping[str, str]) -> dict[str, Path]:
    return {name: Path(settings[name]) for name in ("fixed", "moving") if name in settings}


def _to_folder(
    sources: Sequence[str], out: Path, form: str, settings: Mapping[str, str], overwrite: bool
) -> Conversion:
    if out.exists() and not out.is_dir():
        raise InputError(f"out={out}: is a file, but format={form} writes a folder; name one")
    if len(sources) > 1 and (stated := [key for key in settings if key not in ("format", "shape")]):
        raise ConfigError(
            f"{', '.join(stated)}: cannot be the same for {len(sources)} runs; convert them one by one"
        )
    runs = [RunFolder.open(source, **_images(settings)) for source in sources]
    if form == "learn2reg":
        shape = _shape(settings["shape"]) if "shape" in settings else None
        files = write_learn2reg_submission(runs, out, shape=shape, overwrite=overwrite)
        return Conversion(files, form, (f"upload the folder as a zip: (cd {out} && zip -r ../submission.zip .)",))
    written: list[Path] = []
    given = {key: settings[key] for key in FOLDERS["bids"] if key in settings}
    landmarks = Path(settings["landmarks"]) if "landmarks" in settings else None
    write: Callable[[RunFolder], list[Path]] = {
        "bids": lambda run: write_bids(run, out, given=given, overwrite=overwrite),
        "brats-reg": lambda run: write_brats_reg(run, out, landmarks=landmarks, overwrite=overwrite),
    }[form]
    for run in runs:
        written += write(run)
    return Conversion(written, form)


def _shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(word) for word in text.replace("x", ",").split(","))
    except ValueError:
        shape = ()
    if len(shape) != 3 or min(shape) < 1:
        raise ConfigError(f"shape={text}: give the three numbers of voxels, such as shape=160,224,192")
    return shape


def _to_file(source: str, out: Path, settings: Mapping[str, str], overwrite: bool) -> Conversion:
    chosen = format_of(out, format=settings.get("format"), writing=True)
    if out.is_dir() and chosen.extensions:
        raise InputError(f"out={out}: is a folder, but format {chosen.name} is one file; name it")
    free_to_write(_targets(out, chosen), overwrite)
    images: dict[str, Image] = dict(_images(settings))
    dim = 3
    if is_run(source):
        run = RunFolder.open(source, **_images(settings))
        steps = run.steps()
        images |= {name: run.image(name) for name in ("fixed", "moving") if name in chosen.images}
    else:
        read = format_of(source, format=settings.get("input_format"), convention=settings.get("convention"))
        steps = read_steps(source, format=read.name, convention=settings.get("convention"), **images)
        dim = stored_dimension(Path(source)) if read.name in ("itk-h5", "itk-text", "itk-mat") else 3
    write_steps(out, steps, format=chosen.name, dim=dim, **images)
    files = [file for file in _targets(out, chosen) if file.exists()]
    return Conversion(files, chosen.name, _notes(steps, chosen))


def _targets(out: Path, chosen: Format) -> list[Path]:
    if chosen.name != "ants":
        return [out]
    return [Path(f"{out}1Warp.nii.gz"), Path(f"{out}0GenericAffine.mat")]


def _notes(steps: Steps, chosen: Format) -> tuple[str, ...]:
    fields = sum(isinstance(step, FieldStep) for step in steps)
    affines = sum(isinstance(step, AffineStep) for step in steps)
    if chosen.holds == "field" and fields and (affines or fields > 1):
        return (
            "the whole chain is in one field now: exact at the voxel centers of its grid, linear between them, and "
            "nothing beyond",
        )
    if chosen.holds == "field" and not fields:
        return ("an affine matrix became a field: exact on its grid, and nothing beyond",)
    return ()
