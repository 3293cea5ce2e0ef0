"""Where the cases of a study come from: a folder, a table, a BIDS data set, a benchmark."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from mmtk.config import ComponentConfig, nearest
from mmtk.errors import ConfigError, MmtkError
from mmtk.plugins import Catalogue
from mmtk.settings import mapping, read_settings, slip
from mmtk.study.bids import BidsConfig, from_bids, is_bids
from mmtk.study.typed import bare

if TYPE_CHECKING:
    from mmtk.study.description import StudyConfig

__all__ = ["Source", "read_sources"]


@dataclass(frozen=True)
class Source:
    """Where cases come from: a path, a BIDS data set, or the description of a benchmark."""

    path: Path | None = None
    benchmark: ComponentConfig | None = None
    bids: BidsConfig | None = None

    def data(self) -> dict[str, Any]:
        """The source as a study's file may hold it."""
        if self.benchmark is not None:
            settings = self.benchmark.model_dump(mode="json")
            return {"benchmark": settings.pop("kind"), **settings}
        if self.bids is not None:
            return self.bids.model_dump(mode="json", exclude_defaults=True)
        return {"path": str(self.path)}

    @property
    def folder_name(self) -> str:
        """Of what a benchmark makes: another for other settings."""
        assert self.benchmark is not None
        digest = hashlib.sha256(json.dumps(self.data(), sort_keys=True).encode()).hexdigest()
        return f"{self.benchmark.kind}-{digest[:8]}"


def read_sources(config: StudyConfig, home: Path, catalogue: Catalogue, problems: list[str]) -> list[Source]:
    """Return the sources of cases, paths from ``home`` on; what is wrong with one is added to ``problems``."""
    sources = []
    for raw in config.cases:
        try:
            sources.append(_source(raw, home, catalogue))
        except MmtkError as error:
            problems += error.problems if isinstance(error, ConfigError) else [str(error)]
    if len({json.dumps(source.data(), sort_keys=True) for source in sources}) < len(sources):
        problems.append("cases: one source is given twice; give each once")
    return sources


def _source(raw: str | Mapping[str, Any], home: Path, catalogue: Catalogue) -> Source:
    said = _typed_source(raw, catalogue) if isinstance(raw, str) else dict(raw)
    if "benchmark" in said:
        return Source(benchmark=_benchmark(said, home, catalogue))
    if "bids" in said:
        return _bids(said, home)
    said = {"path" if key in ("folder", "csv") else key: value for key, value in said.items()}
    unknown = [key for key in said if key != "path"]
    if unknown or "path" not in said:
        given = ", ".join(map(str, unknown)) or "nothing"
        raise ConfigError(f"cases: {given} says where the cases are; give folder:, csv:, bids: or benchmark:")
    path = home / _expanded(str(said["path"]))
    if not path.exists() and isinstance(raw, str) and raw in catalogue.benchmarks:
        return Source(benchmark=_benchmark({"benchmark": raw}, home, catalogue))
    if not path.exists():
        near = list(path.parent.iterdir()) if path.parent.is_dir() else []
        known = [*(entry.name for entry in near), *catalogue.benchmarks]
        raise ConfigError(
            f"cases={said['path']}: is no folder, no .csv and no benchmark"
            f"{nearest(path.name, known) or '; benchmarks: ' + ', '.join(catalogue.benchmarks)}"
        )
    if path.is_dir() and is_bids(path):
        return _bids({"bids": str(path)}, Path())
    return Source(path=path.resolve())


def _typed_source(text: str, catalogue: Catalogue) -> dict[str, Any]:
    """Return ``brains folder=DIR count=3``, ``bids=DIR moving=ses-pre`` or a path as a mapping."""
    words = shlex.split(text)
    if len(words) < 2 and not text.startswith("bids="):
        return {"path": text}
    first = words[0]
    if first not in catalogue.benchmarks and not first.startswith("bids="):
        return {"path": text}
    said, problems = mapping(*read_settings(words if "=" in first else words[1:]))
    if problems:
        raise ConfigError([f"cases: {text}: {problem}" for problem in problems])
    said = {key: bare(value) for key, value in said.items()}
    return said if "=" in first else {"benchmark": first, **said}


def _bids(said: Mapping[str, Any], home: Path) -> Source:
    try:
        paths = ("bids", "fixed", "fixed_labels")
        plain = {key: str(_expanded(str(value))) if key in paths else value for key, value in said.items()}
        config = BidsConfig.model_validate(plain).placed(home)
    except ValidationError as error:
        raise ConfigError([_slip_of(BidsConfig, "bids", detail) for detail in error.errors()]) from None
    from_bids(config)  # what is wrong with the data set is said now
    return Source(bids=config)


def _expanded(text: str) -> Path:
    return Path(os.path.expandvars(text)).expanduser()


def _benchmark(said: dict[str, Any], home: Path, catalogue: Catalogue) -> ComponentConfig:
    name = str(said.pop("benchmark"))
    found = catalogue.benchmarks.get(name, [])
    if not found:
        known = list(catalogue.benchmarks)
        hint = nearest(name, known) or "; there are " + ", ".join(known)
        raise ConfigError(f"benchmark={name}: no benchmark is called so{hint}")
    if len(found) > 1:
        raise ConfigError(f"benchmark={name}: {len(found)} plugins offer one; uninstall all but one of them")
    model = found[0]
    try:
        config = _placed(model.model_validate(said), home)
    except ValidationError as error:
        told = [_slip_of(model, f"benchmark={name}", detail) for detail in error.errors()]
        raise ConfigError(told) from None
    try:
        config.build().check()
    except ConfigError as error:
        raise ConfigError([f"benchmark={name}: {problem}" for problem in error.problems]) from None
    return config


def _placed(config: ComponentConfig, home: Path) -> ComponentConfig:
    """Return a benchmark with its paths from ``home`` on; one with a variable that is not set stays as it is."""
    paths = {name: value for name, value in config.settings().items() if isinstance(value, Path)}
    return config.model_copy(
        update={name: value if "$" in str(value) else (home / value).resolve() for name, value in paths.items()}
    )


def _slip_of(model: type[BaseModel], where: str, detail: Any) -> str:
    key = ".".join(str(step) for step in detail["loc"])
    if detail["type"] == "missing":
        about = model.model_fields[key].description if key in model.model_fields else ""
        return f"{where}: {key}: missing; give {key}={'FOLDER' if key == 'folder' else 'VALUE'}: {about}"
    if detail["type"] == "extra_forbidden":
        known = [name for name in model.model_fields if name != "kind"]
        return f"{where}: {key}: unknown key{nearest(key, known) or '; it has ' + ', '.join(known)}"
    return f"{where}: {key}={detail['input']}: {slip(detail['type'], detail.get('ctx', {}), detail)}"
