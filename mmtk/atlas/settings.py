"""What is asked of an atlas, from ``key=value`` to a checked description."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mmtk.config import from_text, nearest
from mmtk.errors import ConfigError
from mmtk.settings import Setting, mapping, read_settings, slip

__all__ = [
    "AtlasConfig", "ModesConfig", "TemplateConfig", "checked", "read_atlas_config", "read_modes_config",
    "split_template_config",
]  # fmt: skip

#: For ``json_schema_extra``: listings show the unit in a column of its own.
MM: dict[str, Any] = {"unit": "mm"}

Model = TypeVar("Model", bound=BaseModel)


class AtlasConfig(BaseModel):
    """What is asked of an atlas."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    by: str = Field(default="", description="columns of the table, with commas: a map a group, or a trend")
    tissues: tuple[int, ...] = Field(default=(), description="labels of the masks, each with a map of its own")
    regions: Path | None = Field(default=None, description="label map on the template: a row a region")
    confidence: float = Field(default=0.95, gt=0, lt=1, description="of the limits")
    permutations: int = Field(default=1000, ge=19, description="of the tests by a column")
    seed: int = Field(default=0, ge=0, description="of the permutations")


class TemplateConfig(BaseModel):
    """What is asked of a template, beside what every registration of it is asked."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    rounds: int = Field(default=3, ge=0, le=50, description="registrations of every case; 0: affine alone")
    sharpen: float = Field(
        default=0.5, ge=0, le=2, description="of the image that the next round registers to; 0: the plain mean"
    )
    length: float = Field(
        default=8.0, gt=0, description="of the Sobolev norm that shapes are compared by", json_schema_extra=MM
    )
    nodes: float = Field(
        default=4.0, gt=0, description="distance of the nodes of mean velocity and modes", json_schema_extra=MM
    )
    keep: bool = Field(default=False, description="keep the folders of runs of all rounds, not of the last alone")


class ModesConfig(BaseModel):
    """What is asked of the modes of a template."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    modes: int = Field(default=5, ge=1, description="how many are written; explained variance is of all")
    sd: float = Field(default=2.0, gt=0, description="standard deviations to either side on the page")


def read_atlas_config(arguments: Sequence[str], options: Sequence[str] = ()) -> AtlasConfig:
    """Return what ``key=value`` ask of a frequency atlas.

    Raises:
        ConfigError: With a sentence for each that cannot be.
    """
    settings, problems = read_settings(arguments, options)
    config = checked(AtlasConfig, settings, problems)
    if config.regions is not None and not config.regions.is_file():
        problems.append(f"regions={config.regions}: there is no such file")
    if problems:
        raise ConfigError(problems)
    return config


def read_modes_config(arguments: Sequence[str], options: Sequence[str] = ()) -> ModesConfig:
    """Return what ``key=value`` ask of modes; refuses as :func:`read_atlas_config`."""
    settings, problems = read_settings(arguments, options)
    config = checked(ModesConfig, settings, problems)
    if problems:
        raise ConfigError(problems)
    return config


def split_template_config(
    arguments: Sequence[str], options: Sequence[str] = ()
) -> tuple[TemplateConfig, list[str]]:
    """Return what is asked of a template, and the other arguments, which are of the cohort's registrations.

    Raises:
        ConfigError: With a sentence for each that is wrong, as far as it is the template's.
    """
    known = TemplateConfig.model_fields
    mine = [word for word in arguments if word.partition("=")[0] in known]
    settings, problems = read_settings(mine, options)
    config = checked(TemplateConfig, settings, problems)
    if problems:
        raise ConfigError(problems)
    return config, [word for word in arguments if word not in mine]


def checked(model: type[Model], settings: Iterable[Setting], problems: list[str]) -> Model:
    """Return the description, or the default one, with a sentence in ``problems`` for each thing that is wrong."""
    fields = model.model_fields
    given, told = mapping(settings)
    problems += told
    raw = {
        key: from_text(fields[key].annotation, str(value)) if key in fields else value
        for key, value in given.items()
    }
    if isinstance(raw.get("tissues"), int | str):
        raw["tissues"] = (raw["tissues"],)
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        for detail in error.errors():
            key = str(detail["loc"][0])
            if detail["type"] == "extra_forbidden":
                problems.append(f"{key}: unknown key{nearest(key, fields) or '; there are ' + ', '.join(fields)}")
            else:
                problems.append(f"{key}={detail['input']}: {slip(detail['type'], detail.get('ctx', {}), detail)}")
        return model()
