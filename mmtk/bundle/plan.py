"""What a command line asks for, checked to the end before anything heavy is loaded or written."""

from __future__ import annotations

import json
import math
import re
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmtk.bundle.recipe import inference_config, read_recipe, template_of
from mmtk.bundle.search import find
from mmtk.bundle.trust import admit
from mmtk.config import Recipe, RunConfig
from mmtk.errors import ConfigError, MmtkError
from mmtk.plugins import Catalogue, import_paths
from mmtk.settings import Setting, read_settings, resolve

__all__ = ["Plan", "make_plan"]

#: Keys of :class:`RunConfig` that name a file, in the order in which they are shown.
FILES = ("moving", "fixed", "mask", "fixed_mask", "labels", "fixed_labels")

#: Those of them that may be lists, one for each channel.
CHANNELED = ("moving", "fixed", "mask")

#: What of a sample is registered, and under which key.
SAMPLE_FILES = {
    "moving": "moving.nii.gz",
    "fixed": "fixed.nii.gz",
    "mask": "mask.nii.gz",
    "labels": "labels_moving.nii.gz",
    "fixed_labels": "labels_fixed.nii.gz",
}

#: Samples that come with label maps.
LABELED = ("tumor_brain", "brains")

_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


@dataclass(frozen=True)
class Plan:
    """A run that can be carried out.

    Attributes:
        recipe: A :class:`RunConfig`; a bare :class:`Recipe` where the images are those of ``sample``.
        out: Folder for the results.
        bundle: Folder of the bundle that the run started from, if any.
        sample: The sample that stands in for images, if none were given: its name, and its options behind it
            (``tumor_brain dim=2``).
        start: What the bundle alone says, resolved.
        said: The same as the bundle's file has it.
        follows: A part was typed as an import path, which a bundle does not follow.
    """

    recipe: Recipe
    out: Path
    bundle: Path | None = None
    sample: str | None = None
    start: Recipe | None = None
    said: dict[str, Any] = field(default_factory=dict)
    follows: bool = False

    @property
    def sample_folder(self) -> Path:
        """Where the sample goes."""
        return self.out / "sample"

    def ready(self, seed: int) -> RunConfig:
        """The description of the run with its images, made first where they are those of a sample."""
        if isinstance(self.recipe, RunConfig):
            return self.recipe
        assert self.sample is not None
        from mmtk.samples import make

        if (self.sample_folder / "sample.json").is_file():
            shutil.rmtree(self.sample_folder)
        name, *options = self.sample.split()
        make(name, self.sample_folder, {**dict(word.split("=", 1) for word in options), "seed": seed})
        return RunConfig(**self._sample_files(), **dict(self.recipe))

    def _sample_files(self) -> dict[str, Any]:
        assert self.sample is not None
        labeled = self.sample.split()[0] in LABELED
        names = {k: n for k, n in SAMPLE_FILES.items() if "labels" not in k or labeled}
        files: dict[str, Any] = {key: self.sample_folder / name for key, name in names.items()}
        for name in self._sample_channels():
            for side in ("moving", "fixed"):
                files.setdefault(f"more_{side}", []).append(self.sample_folder / f"{side}_{name}.nii.gz")
        return files

    def _sample_channels(self) -> list[str]:
        assert self.sample is not None
        asked = dict(word.split("=", 1) for word in self.sample.split()[1:])
        return [name for name in asked.get("modalities", "").split(",") if name]

    def data(self) -> dict[str, Any]:
        """The resolved description as plain data, files first."""
        everything = self.recipe.model_dump(mode="json")
        files = {name: everything.pop(name) for name in FILES if name in everything}
        return {**({"sample": self.sample} if self.sample else files), **everything}

    def as_json(self) -> str:
        """The description, and the same run without mmtk's command."""
        return json.dumps({"config": self.data(), "monai": self.monai_command()}, indent=2)

    def as_yaml(self) -> str:
        """As :meth:`as_json`, to be read by people."""
        import yaml

        command = self.monai_command()
        same = f"\n# The same without mmtk's command:\n# {command}" if command else ""
        return yaml.safe_dump(self.data(), sort_keys=False, default_flow_style=None).rstrip() + same

    def monai_command(self) -> str | None:
        """The same run without mmtk's command; None if it started from no bundle, follows an import path, or does what a
        bundle alone does not: find a mask, and register several times.
        """
        if self.bundle is None or self.start is None or self.follows:
            return None
        if self.recipe.segmenter is not None or self.recipe.mask_sensitivity:
            return None
        if getattr(self.recipe, "mask", None) == "auto":
            return None
        now, then = self.recipe.model_dump(mode="json"), self.start.model_dump(mode="json")
        options: dict[str, Any] = {name: now[name] for name in FILES if now.get(name) is not None}
        for name in CHANNELED:
            more = now.get(f"more_{name}") or ()
            if more:
                options[name] = ",".join(path or "none" for path in (options[name], *more))
        if self.sample:
            files = self._sample_files()
            options = {key: str(path) for key, path in files.items() if not key.startswith("more_")}
            for name in CHANNELED:
                more = files.get(f"more_{name}", ())
                options[name] = ",".join(map(str, (options[name], *more)))
        options["output_dir"] = str(self.out)
        options.update(
            {f"preprocessing::{k}": now[k] for k in ("init", "normalize", "spacing") if now[k] != then[k]}
        )
        options.update(self._changes(now["method"], then["method"]))
        weights = now["method"].get("weights")
        if weights and Path(weights).is_absolute() and now["method"]["kind"] == then["method"]["kind"]:
            options["network_def::method::weights"] = weights  # which a bundle may name from its own folder
        words = ["python", "-m", "monai.bundle", "run", "--config_file", str(inference_config(self.bundle))]
        for key, value in options.items():
            words += [f"--{key}", str(value).replace("'", '"')]  # a literal that a shell quotes legibly
        return shlex.join(words)

    def _changes(self, now: dict[str, Any], then: dict[str, Any]) -> dict[str, Any]:
        if now["kind"] != then["kind"]:
            return {"network_def::method": now}
        said = self.said["method"]
        names = {name: field.alias for name, field in type(self.recipe.method).model_fields.items()}
        return {
            f"network_def::method::{names[key] if names[key] in said else key}": value
            for key, value in now.items()
            if value != then[key]
        }


def make_plan(
    arguments: Sequence[str],
    *,
    out: Path,
    overwrite: bool,
    device: str,
    catalogue: Catalogue,
    options: Sequence[str] = (),
) -> Plan:
    """Check everything that can be checked without torch.

    Args:
        arguments: ``key=value``, as typed, ``bundle=NAME`` among them.
        out: Folder for the results; must be new or empty unless ``overwrite``.
        device: As typed.
        catalogue: What is installed.
        options: The options of the command, to be suggested for a slip.

    Raises:
        ConfigError: One sentence for each thing that is wrong.
    """
    settings, problems = read_settings(arguments, options)
    if problems and not settings:
        raise ConfigError(problems)
    problems += _full_folder(out, overwrite) + _unknown_device(device)
    named = [s for s in settings if s.key == "bundle"]
    settings = [s for s in settings if s.key != "bundle"]
    bundle, base, sample = _start(named, catalogue, problems)
    given = base
    if any(s.key in FILES for s in settings):
        sample = None
        template = None if bundle is None else template_of(bundle)
        if template is not None and base is not None:
            given = {"fixed": str(template), **base}
    model = Recipe if sample else RunConfig
    # Only what was typed: a bundle that names an import path does not get it followed.
    following = catalogue.following(s.value for s in settings)
    recipe = resolve(settings, given, following, model, problems)
    recipe.method.ready()
    if isinstance(recipe, RunConfig):
        _probe(recipe)
    start = None if bundle is None else resolve([], base, catalogue, Recipe)
    follows = bool(import_paths([recipe.method.model_dump()]) & following.paths)
    return Plan(recipe, out, bundle, sample, start, base or {}, follows)


def _start(
    named: Sequence[Setting], catalogue: Catalogue, problems: list[str]
) -> tuple[Path | None, dict[str, Any] | None, str | None]:
    if len(named) > 1:
        problems.append(f"{named[0]} and {named[1]}: both choose the bundle; give one of them")
    if not named:
        return None, {}, None
    try:
        found = find(str(named[0].value), catalogue)
        admit(found, catalogue)
        return found.folder, *read_recipe(found.folder)
    except MmtkError as error:
        told = error.problems if isinstance(error, ConfigError) else [str(error)]
        problems += [f"{named[0]}: {problem}" for problem in told]
        return None, None, None


def _full_folder(out: Path, overwrite: bool) -> list[str]:
    if out.exists() and not out.is_dir():
        return [f"--out {out}: is a file; give a folder"]
    if overwrite or not out.is_dir():
        return []
    from mmtk.io import holds_something

    if holds_something(out, beside={"sample"}):
        return [f"--out {out}: the folder is not empty; give another one, or --overwrite"]
    return []


def _unknown_device(device: str) -> list[str]:
    if _DEVICE.fullmatch(device):
        return []
    return [f"--device {device}: must be auto, cpu, cuda, cuda:N or mps"]


def _probe(config: RunConfig) -> None:
    """Read the headers of the images: what they show to be unusable is refused before anything heavy is loaded."""
    from mmtk.io import check_run_memory, probe_image

    problems, dims, voxels = [], {}, {}
    for name, path in config.files().items():
        try:
            header = probe_image(path, name=name, spacing=config.spacing)
            dims[name], voxels[name] = header.dim, math.prod(header.shape)
        except ConfigError as error:
            problems += error.problems
    if len({dims[name] for name in ("moving", "fixed") if name in dims}) > 1:
        problems.append(
            f"moving is {dims['moving']}-D but fixed is {dims['fixed']}-D; give two images of the same dimension"
        )
    if not problems:
        check_run_memory(
            sum(n for name, n in voxels.items() if name.startswith("moving")),
            sum(n for name, n in voxels.items() if name.startswith("fixed") and "_" not in name),
        )
    if problems:
        raise ConfigError(problems)
