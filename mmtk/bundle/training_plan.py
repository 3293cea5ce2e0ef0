"""What ``mmtk train`` asks for, checked to the end before torch is loaded or anything is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mmtk.bundle.reading import read_config
from mmtk.bundle.recipe import read_recipe
from mmtk.bundle.search import find
from mmtk.bundle.trust import admit
from mmtk.config import nearest
from mmtk.errors import ConfigError, MmtkError
from mmtk.plugins import Catalogue
from mmtk.settings import Setting, mapping, read_settings, resolve, slip
from mmtk.training.board import check_tensorboard
from mmtk.training.config import TrainConfig, Training

__all__ = ["make_training_plan"]


def make_training_plan(
    arguments: Sequence[str], *, out: Path, resume: bool, device: str, catalogue: Catalogue
) -> TrainConfig | Training:
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
    other = _other_task(settings, named[-1] if named else None, catalogue, problems)
    if other is not None:
        return _checked(other, [s for s in settings if s.key not in ("bundle", "task")], catalogue, problems)
    if named:
        base = _of_bundle(named[-1], catalogue, problems)
    following = catalogue.following(s.value for s in settings)
    rest = [s for s in settings if s.key != "bundle"]
    config = resolve(rest, base, following, TrainConfig, problems)
    if config.tensorboard:
        check_tensorboard()
    _check_data(config)
    return config


def _other_task(
    settings: Sequence[Setting], bundle: Setting | None, catalogue: Catalogue, problems: list[str]
) -> dict[str, Any] | None:
    """Return what is asked for where that is no registration: plain data with the task's name under ``kind``.

    ``task=NAME`` names it, or the object ``training`` of a bundle's ``configs/train.json``.
    """
    named = [s for s in settings if s.key == "task"]
    base: dict[str, Any] = {}
    if bundle is not None:
        try:
            found = find(str(bundle.value), catalogue)
            admit(found, catalogue)
            path = found.folder / "configs" / "train.json"
            told = read_config(path).get("training") if path.is_file() else None
        except MmtkError:
            return None  # told where the recipe is read
        base = dict(told) if isinstance(told, Mapping) and isinstance(told.get("kind"), str) else {}
    if named:
        kind = str(named[-1].value)
        base = base if base.get("kind") == kind else {"kind": kind}
    if not base:
        return None
    if base["kind"] not in catalogue.trainings:
        known = catalogue.trainings
        hint = nearest(base["kind"], known) or "."
        problems.append(
            f"task={base['kind']}: nothing of this name can be trained{hint} There are: {', '.join(known) or 'none'}; "
            f"registrations are trained by method=NAME"
        )
        raise ConfigError(problems)
    return base


def _checked(
    base: Mapping[str, Any], settings: Sequence[Setting], catalogue: Catalogue, problems: list[str]
) -> Training:
    """Lay settings over what a bundle says, and check the whole.

    Raises:
        ConfigError: One sentence for each thing that is wrong.
    """
    model = catalogue.trainings[base["kind"]]
    given, problems = mapping(settings, problems)
    known = {alias: name for name, field in model.model_fields.items() for alias in (name, field.alias) if alias}
    for key in [key for key in given if key not in known]:
        problems.append(
            f"{key}={given.pop(key)}: unknown key{nearest(key, known)}; `mmtk train` knows {', '.join(known)}"
        )
    tree = {known.get(key, key): value for key, value in base.items()}
    tree |= {known[key]: value for key, value in given.items()}
    typed = {known[key]: f"{key}={value}" for key, value in given.items()}
    try:
        config = model.model_validate(tree, context={"catalogue": catalogue})
    except ValidationError as error:
        for detail in error.errors():
            name = next((str(step) for step in detail["loc"] if step in known), "")
            words = slip(detail["type"], detail.get("ctx", {}), detail)
            place = typed.get(known.get(name, name), name)
            problems.append(f"{place}: {words}" if place else words)
    if problems:
        raise ConfigError(problems)
    assert isinstance(config, Training)
    config.check()
    if config.tensorboard:
        check_tensorboard()
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
