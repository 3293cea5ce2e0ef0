"""What a command line asks of ``mmtk segment``, checked to the end before anything heavy is loaded or written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmtk.bundle.recipe import read_segmenter
from mmtk.bundle.search import find
from mmtk.bundle.trust import admit
from mmtk.config import nearest
from mmtk.errors import ConfigError, MmtkError
from mmtk.io import probe_image
from mmtk.masking.description import SegmentConfig, scans_of
from mmtk.plugins import Catalogue
from mmtk.settings import Setting, read_settings, resolve

__all__ = ["plan_segmentation"]


def plan_segmentation(
    arguments: Sequence[str],
    *,
    catalogue: Catalogue,
    overwrite: bool,
    options: Sequence[str] = (),
) -> SegmentConfig:
    """Check everything that can be checked without torch.

    Args:
        arguments: ``key=value``, as typed, ``bundle=NAME`` among them.
        catalogue: What is installed.
        overwrite: Whether files of an earlier segmentation may be replaced.
        options: The options of the command, to be suggested for a slip.

    Raises:
        ConfigError: One sentence for each thing that is wrong.
    """
    settings, problems = read_settings(arguments, options)
    if problems and not settings:
        raise ConfigError(problems)
    named = [s for s in settings if s.key == "bundle"]
    settings = [s for s in settings if s.key != "bundle"]
    base = _start(named, settings, catalogue, problems)
    following = catalogue.following(s.value for s in settings)
    config = resolve(settings, base, following, SegmentConfig, problems)
    config.segmenter.ready()
    _probe(config, catalogue, overwrite)
    return config


def _start(
    named: Sequence[Setting], settings: Sequence[Setting], catalogue: Catalogue, problems: list[str]
) -> dict[str, Any] | None:
    if len(named) > 1:
        problems.append(f"{named[0]} and {named[1]}: both choose the bundle; give one of them")
    if not named:
        return {}
    chosen = next((s for s in settings if s.path in (("segmenter",), ("segmenter", "kind"))), None)
    if chosen is not None:
        problems.append(f"{named[0]} and {chosen}: both choose what segments; give one of them")
        return None
    try:
        found = find(str(named[0].value), catalogue)
        admit(found, catalogue)
        return {"segmenter": read_segmenter(found.folder)}
    except MmtkError as error:
        told = error.problems if isinstance(error, ConfigError) else [str(error)]
        problems += [f"{named[0]}: {problem}" for problem in told]
        return None


def _probe(config: SegmentConfig, catalogue: Catalogue, overwrite: bool) -> None:
    """Read headers, and look where the files would go."""
    problems: list[str] = []
    headers = {}
    for name, path in scans_of(config):
        try:
            headers[name] = probe_image(path, name=name, spacing=config.spacing)
        except ConfigError as error:
            problems += error.problems
    if len({header.dim for header in headers.values()}) > 1:
        told = ", ".join(f"{name} is {header.dim}-D" for name, header in headers.items())
        problems.append(f"{told}; give scans of one patient")
    if config.template not in ("auto", "none"):
        try:
            probe_image(Path(config.template), name="template", spacing=config.spacing)
        except ConfigError as error:
            problems += error.problems
    dims = {header.dim for header in headers.values()}
    compares = config.segmenter.capabilities.needs_fixed
    if compares and (config.template == "none" or (config.template == "auto" and dims == {2})):
        problems.append(
            f"segmenter={config.segmenter.kind}: compares the scan with a healthy image, and there is none "
            f"{'in 2-D' if dims == {2} else 'with template=none'}; give template=FILE"
        )
    problems += _missing_weights(config, catalogue)
    from mmtk.masking.files import outputs_of

    there = [path for path in outputs_of(config).values() if path.exists()]
    if there and not overwrite:
        problems.append(f"out={config.out}: '{there[0]}' is there already; name another, or add --overwrite")
    if not config.out.parent.is_dir() and config.out.parent.exists():
        problems.append(f"out={config.out}: '{config.out.parent}' is no folder")
    if problems:
        raise ConfigError(problems)


def _missing_weights(config: SegmentConfig, catalogue: Catalogue) -> list[str]:
    """Say that a network has no weights, before torch is loaded to find that out."""
    part = config.segmenter
    if part.kind == "monai_bundle" and getattr(part, "bundle", None) is None:
        return ["segmenter=monai_bundle: which one? Give segmenter.bundle=FOLDER, or bundle=NAME alone"]
    if part.kind != "network":
        return []
    weights = getattr(part, "weights", None)
    if weights is None:
        return ["segmenter=network: no weights; give segmenter.weights=FILE, or bundle=NAME"]
    name = str(weights).partition(":")[0]
    if Path(weights).expanduser().exists() or Path(name).expanduser().is_dir() or name in catalogue.bundles:
        return []
    return [f"weights={weights}: no such file, nor a bundle{nearest(name, catalogue.bundles)}"]
