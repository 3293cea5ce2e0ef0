"""What a command line asks for, checked to the end before anything heavy is loaded or written."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmtk.bundle.recipe import find_bundle, inference_config, read_recipe
from mmtk.config import Recipe, RunConfig
from mmtk.errors import ConfigError, MmtkError
from mmtk.plugins import Catalogue
from mmtk.settings import Setting, read_settings, resolve

__all__ = ["Plan", "make_plan"]

#: Keys of :class:`RunConfig` that name a file, in the order in which they are shown.
FILES = ("moving", "fixed", "mask", "fixed_mask", "labels", "fixed_labels")

_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


@dataclass(frozen=True)
class Plan:
    """A run that can be carried out.

    Attributes:
        recipe: A :class:`RunConfig`; a bare :class:`Recipe` where the images are those of ``sample``.
        out: Folder for the results.
        bundle: Folder of the bundle that the run started from, if any.
        sample: Name of the sample that stands in for images, if none were given.
    """

    recipe: Recipe
    out: Path
    bundle: Path | None
    sample: str | None

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
        """The same run without mmtk's command; None if it started from no bundle."""
        if self.bundle is None:
            return None
        base, _ = read_recipe(self.bundle)
        described = self.recipe.model_dump(mode="json")
        options: dict[str, Any] = {name: described[name] for name in FILES if described.get(name) is not None}
        if self.sample:
            options = {name: f"{self.out}/sample/{name}.nii.gz" for name in ("moving", "fixed", "mask")}
        options["output_dir"] = str(self.out)
        for name in ("init", "normalize", "spacing"):
            if described[name] != base.get(name, Recipe.model_fields[name].default):
                options[f"preprocessing::{name}"] = described[name]
        changed = {k: v for k, v in described["method"].items() if base["method"].get(k) != v}
        options.update({f"network_def::method::{key}": value for key, value in changed.items()})
        words = ["python", "-m", "monai.bundle", "run", "--config_file", str(inference_config(self.bundle))]
        for key, value in options.items():
            words += [f"--{key}", str(value)]
        return shlex.join(words)


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
    if any(s.key in FILES for s in settings):
        sample = None
    model = Recipe if sample else RunConfig
    recipe = resolve(settings, base, catalogue, model, problems)
    if isinstance(recipe, RunConfig):
        _probe(recipe)
    return Plan(recipe, out, bundle, sample)


def _start(
    named: Sequence[Setting], catalogue: Catalogue, problems: list[str]
) -> tuple[Path | None, dict[str, Any] | None, str | None]:
    if len(named) > 1:
        problems.append(f"{named[0]} and {named[1]}: both choose the bundle; give one of them")
    if not named:
        return None, {}, None
    try:
        folder = find_bundle(str(named[0].value), catalogue)
        return folder, *read_recipe(folder)
    except MmtkError as error:
        problems.append(f"{named[0]}: {error}")
        return None, None, None


def _full_folder(out: Path, overwrite: bool) -> list[str]:
    if out.exists() and not out.is_dir():
        return [f"--out {out}: is a file; give a folder"]
    if not overwrite and out.is_dir() and any(out.iterdir()):
        return [f"--out {out}: the folder is not empty; give another one, or --overwrite"]
    return []


def _unknown_device(device: str) -> list[str]:
    if _DEVICE.fullmatch(device):
        return []
    return [f"--device {device}: must be auto, cpu, cuda, cuda:N or mps"]


def _probe(config: RunConfig) -> None:
    """Read the headers of the images: what they show to be unusable is refused before anything heavy is loaded."""
    from mmtk.io import probe_image

    problems, dims = [], {}
    for name in FILES:
        path = getattr(config, name)
        if path is None:
            continue
        try:
            dims[name] = probe_image(path, name=name, spacing=config.spacing).dim
        except ConfigError as error:
            problems += error.problems
    if len({dims[name] for name in ("moving", "fixed") if name in dims}) > 1:
        problems.append(
            f"moving is {dims['moving']}-D but fixed is {dims['fixed']}-D; give two images of the same dimension"
        )
    if problems:
        raise ConfigError(problems)
