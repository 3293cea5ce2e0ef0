"""What ``mmtk train`` asks for, checked to the end before torch is loaded or anything is written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmtk.bundle.recipe import read_recipe
from mmtk.bundle.search import find
from mmtk.bundle.trust import admit
from mmtk.errors import ConfigError, MmtkError
from mmtk.plugins import Catalogue
from mmtk.settings import Setting, read_settings, resolve
from mmtk.training.board import check_tensorboard
from mmtk.training.config import TrainConfig

__all__ = ["make_training_plan"]


def make_training_plan(
    arguments: Sequence[str], *, out: Path, resume: bool, device: str, catalogue: Catalogue
) -> TrainConfig:
    """Check everything that can be checked without torch.

    Args:
        arguments: ``key=value``, as typed.
        out: Folder for the results; must be new or empty unless ``resume``.
        resume: Whether a run that was stopped is to go on.
        device: As typed.
        catalogue: What is installed.

    Raises:
        ConfigError: One sentence for each thing that is wrong.
    """
    settings, problems = read_settings(
        arguments, ("--out", "--device", "--seed", "--resume", "--dry-run", "--help")
    )
    if out.exists() and not out.is_dir():
        problems.append(f"--out {out}: is a file; give a folder")
    elif out.is_dir() and any(out.iterdir()) and not resume:
        problems.append(
            f"--out {out}: the folder is not empty; give another one, or --resume to go on with its run"
        )
    base: dict[str, Any] | None = {}
    named = [s for s in settings if s.key == "bundle"]
    if named:
        base = _of_bundle(named[-1], catalogue, problems)
    following = catalogue.following(s.value for s in settings)
    rest = [s for s in settings if s.key != "bundle"]
    config = resolve(rest, base, following, TrainConfig, problems)
    if config.tensorboard:
        check_tensorboard()
    _check_data(config)
    return config


def _of_bundle(named: Setting, catalogue: Catalogue, problems: list[str]) -> dict[str, Any] | None:
    """Return a bundle's recipe without its weights, which are to be made anew."""
    try:
        found = find(str(named.value), catalogue)
        admit(found, catalogue)
        recipe, _ = read_recipe(found.folder)
    except MmtkError as error:
        told = error.problems if isinstance(error, ConfigError) else [str(error)]
        problems += [f"{named}: {problem}" for problem in told]
        return None
    for key in ("weights", "engine", "refine_steps"):
        recipe["method"].pop(key, None)
    return recipe


def _check_data(config: TrainConfig) -> None:
    if not config.synthetic:
        from mmtk.training.listing import list_pairs

        list_pairs(Path(config.data).expanduser(), config.template)
        return
    from mmtk.samples import SAMPLES
    from mmtk.samples.options import parse

    parse(SAMPLES[config.data].options, config.options, f"data={config.data}")
