"""``STUDY.yaml``, or ``methods=a,b cases=DIR``: what is compared, checked to the end before anything is made.

    title: Letters with a cut
    methods:
      - metamorphosis                                   # a method, or a bundle, as it is
      - bundle=metamorph_brats init=none                # as it would be typed after `mmtk run`
      - {name: coupled, method: metamorphosis, momentum: coupled}
    cases:                                      # a folder, a .csv, a BIDS data set, a benchmark; or a list of them
      - {benchmark: c_shapes, count: 10}
    seeds: [0]
    reference: metamorphosis                            # the first method unless said

Paths in a file start from its folder, paths that are typed from the working directory. Reading this file loads
neither torch nor numpy.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from mmtk.config import ComponentConfig, LearnedConfig, Recipe, from_text, nearest
from mmtk.errors import ConfigError, MmtkError
from mmtk.plugins import Catalogue
from mmtk.settings import Setting, mapping, read_settings, resolve, slip
from mmtk.study.benchmarks import Benchmark
from mmtk.study.bids import BidsConfig, from_bids, is_bids
from mmtk.study.oracle import ORACLE, with_oracle

__all__ = ["Entry", "Source", "Study", "StudyConfig", "read_study"]

#: Keys of a method's mapping that are not settings of it.
OWN = ("name", "method", "kind", "bundle", "masked", "told")


def _listed(raw: Any) -> Any:
    """A list of one may be written without brackets."""
    return [raw] if isinstance(raw, str | int | float | Mapping) else raw


def _items(text: str) -> list[str]:
    """Split ``a levels=[8,4],b`` at the commas that stand in no bracket."""
    items, depth = [""], 0
    for letter in text:
        depth += (letter in "[{(") - (letter in "]})")
        if letter == "," and depth <= 0:
            items.append("")
        else:
            items[-1] += letter
    return [item.strip() for item in items]


class StudyConfig(BaseModel):
    """A comparison, as its file says it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    title: str = Field(default="", description="heads the page; none: the name of the file")
    methods: tuple[str | dict[str, Any], ...] = Field(
        min_length=1,
        description="what is compared: names of methods or bundles, settings as typed after `mmtk run`, or mappings "
        "with `method` or `bundle`, settings, and a `name`",
    )
    cases: tuple[str | dict[str, Any], ...] = Field(
        min_length=1, description="folder of cases, .csv, or name of a benchmark; mappings give it settings"
    )
    seeds: tuple[int, ...] = Field(
        default=(0,), min_length=1, description="each method runs once with each on a case"
    )
    reference: str | None = Field(default=None, description="whom the others are held against; none: the first")
    metrics: tuple[str, ...] | None = Field(
        default=None, description="headline of the page, such as truth.outside_mm; none: what the cases give"
    )
    primary: str | None = Field(
        default=None, description="the metric that tells the worst cases; none: the first that the cases give"
    )
    bootstrap_seed: int = Field(default=0, ge=0, description="of the intervals")
    jobs: int | None = Field(default=None, ge=1, description="runs at a time; none: one for each core")
    threads: int = Field(default=1, ge=1, description="of each run")
    memory: float | None = Field(
        default=None, gt=0, description="GB that all runs together may take; none: what is free"
    )
    minutes: float | None = Field(default=None, gt=0, description="after which a run is stopped; none: never")
    device: str = Field(default="auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="as of `mmtk run`")

    @model_validator(mode="before")
    @classmethod
    def _read_text(cls, raw: Any) -> Any:
        fields = cls.model_fields

        def read(key: str, text: str) -> Any:
            if key in ("methods", "cases"):  # items of these may hold lists of their own
                return from_text(fields[key].annotation, text) if text.startswith(("[", "{")) else _items(text)
            return from_text(fields[key].annotation, text)

        return {
            key: read(key, value) if key in fields and isinstance(value, str) else value
            for key, value in raw.items()
        }

    @field_validator("methods", "cases", "seeds", "metrics", mode="before")
    @classmethod
    def _one_is_a_list(cls, raw: Any) -> Any:
        return _listed(raw)

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds) or min(seeds) < 0:
            raise ValueError("must be different whole numbers >= 0")
        return seeds


@dataclass(frozen=True)
class Entry:
    """A method of the study.

    Attributes:
        label: Its name in tables, which is that of a folder, too.
        recipe: The method and the preparation, resolved.
        masked: Whether it is given the lesions' masks. Where a study says ``masked: true``, a method that can leaves the
            lesion out of its cost, too (cost-function masking).
        told: Whether it is told what is known of each case, such as whether the lesion grew.
        missing: Why it cannot run here: a library that is not installed, and how to get it; empty if it can.
    """

    label: str
    recipe: Recipe
    masked: bool = True
    told: bool = False
    missing: str = ""

    def data(self) -> dict[str, Any]:
        """The entry as a study's file may hold it, nothing left to defaults."""
        settings = self.recipe.model_dump(mode="json", exclude={"method"})
        # What was not said of a learned method is for its weights to say.
        learned = isinstance(self.recipe.method, LearnedConfig)
        method = self.recipe.method.model_dump(mode="json", exclude_unset=learned)
        method["kind"] = self.recipe.method.kind
        settings = {key: value for key, value in settings.items() if value is not None}
        said = {**({} if self.masked else {"masked": False}), **({"told": True} if self.told else {})}
        return {"name": self.label, "method": method, **said, **settings}


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


@dataclass(frozen=True)
class Study:
    """A comparison that can be carried out.

    Attributes:
        config: As the file and the settings say it.
        reference: Label of the method that the others are held against.
    """

    config: StudyConfig
    entries: tuple[Entry, ...]
    sources: tuple[Source, ...]
    reference: str
    title: str = "Comparison"

    @property
    def present(self) -> tuple[Entry, ...]:
        """The methods that can run here."""
        return tuple(entry for entry in self.entries if not entry.missing)

    @property
    def absent(self) -> tuple[Entry, ...]:
        """The methods that are not run, for want of a library."""
        return tuple(entry for entry in self.entries if entry.missing)

    @property
    def benchmarks(self) -> dict[str, Benchmark]:
        """The benchmarks that give cases, by kind."""
        return {one.benchmark.kind: one.benchmark.build() for one in self.sources if one.benchmark is not None}

    def data(self) -> dict[str, Any]:
        """The whole as plain data that a study's file may hold."""
        plain = self.config.model_dump(mode="json", exclude={"methods", "cases", "title", "reference"})
        return {
            "title": self.title,
            "methods": [entry.data() for entry in self.entries],
            "cases": [source.data() for source in self.sources],
            "reference": self.reference,
            **{key: value for key, value in plain.items() if value is not None},
        }


def read_study(arguments: Sequence[str], catalogue: Catalogue, options: Iterable[str] = ()) -> Study:
    """Check everything that can be checked without torch.

    Args:
        arguments: A file, if any, and ``key=value``, as typed; what is typed counts before what the file says.
        catalogue: What is installed.
        options: The options of the command, to be suggested for a slip.

    Raises:
        ConfigError: One sentence for each thing that is wrong.
    """
    before = ["", *arguments]
    # What follows a stray option was meant as its value.
    files = [
        word
        for word, last in zip(arguments, before, strict=False)
        if "=" not in word and not word.startswith("-") and not (last.startswith("-") and "=" not in last)
    ]
    rest = [word for word in arguments if word not in files]
    said, problems = mapping(*read_settings(rest, options))
    home = Path()
    base: dict[str, Any] = {}
    if len(files) > 1:
        problems.append(f"{files[1]}: the study is {files[0]} already; give one file, and settings as key=value")
    elif files:
        home, base = Path(files[0]).expanduser().parent, _read_file(Path(files[0]).expanduser())
    elif not rest:
        problems.append("nothing says what to compare; give STUDY.yaml, or methods=a,b cases=FOLDER")
    if problems and not (base or said):
        raise ConfigError(problems)
    catalogue = with_oracle(catalogue)
    config = _checked({**base, **said}, problems)
    typed = catalogue.following(_words_of(said.get("methods", ())))
    entries = _entries(config, typed if "methods" in said else catalogue, problems)
    sources = _sources(config, Path() if "cases" in said else home, catalogue, problems)
    labels = [entry.label for entry in entries]
    present = [entry.label for entry in entries if not entry.missing]
    reference = config.reference or (present[0] if present else "")
    if config.reference is not None and reference not in labels and len(labels) == len(config.methods):
        problems.append(
            f"reference={reference}: is none of the methods{nearest(reference, labels) or ': ' + ', '.join(labels)}"
        )
    absent = {entry.label: entry.missing for entry in entries if entry.missing}
    if reference in absent:
        problems.append(f"reference={reference}: {absent[reference]}; or choose another reference")
    elif absent and not present and len(entries) == len(config.methods):
        problems += [f"methods: {label}: {why}" for label, why in absent.items()]
    if problems:
        raise ConfigError(problems)
    title = config.title or (Path(files[0]).stem.replace("_", " ") if files else "Comparison")
    return Study(config, tuple(entries), tuple(sources), reference, title)


def _read_file(path: Path) -> dict[str, Any]:
    import yaml

    if not path.is_file():
        known = (entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else ()
        hint = nearest(path.name, known) or "; settings are written key=value"
        raise ConfigError(f"{path}: no such file{hint}")
    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = "" if where is None else f" in line {where.line + 1}"
        raise ConfigError(f"{path}: is no YAML{line}: {getattr(error, 'problem', None) or error}") from None
    if isinstance(said, Mapping) and isinstance(said.get("study"), Mapping):
        said = said["study"]  # a study.json that a comparison has left
    if not isinstance(said, Mapping):
        raise ConfigError(f"{path}: must hold keys such as methods: and cases:")
    return {str(key): value for key, value in said.items()}


def _checked(said: Mapping[str, Any], problems: list[str]) -> StudyConfig:
    """Return the description; raise with what is known already if it is none."""
    try:
        return StudyConfig.model_validate(said)
    except ValidationError as error:
        for detail in error.errors():
            problems.append(_sentence(detail))
        raise ConfigError(list(dict.fromkeys(problems))) from None


def _sentence(detail: Any) -> str:
    key = str(detail["loc"][0]) if detail["loc"] else "study"
    item = next((f": item {step + 1}" for step in detail["loc"][1:2] if isinstance(step, int)), "")
    if detail["type"] == "extra_forbidden":
        known = list(StudyConfig.model_fields)
        return f"{key}: unknown key{nearest(key, known) or '; a study has ' + ', '.join(known)}"
    if detail["type"] == "missing":
        example = "methods=metamorphosis,lddmm" if key == "methods" else "cases=FOLDER"
        return f"{key}: missing; give {example}"
    if key in ("methods", "cases") and len(detail["loc"]) > 1:
        return f"{key}{item}: must be a name or a mapping of settings"
    if detail["type"] == "string_pattern_mismatch":
        return f"device={detail['input']}: must be auto, cpu, cuda, cuda:N or mps"
    return f"{key}={detail['input']}{item}: {slip(detail['type'], detail.get('ctx', {}), detail)}"


# --- methods


def _words_of(methods: Any) -> list[str]:
    text = methods if isinstance(methods, str) else ""
    return [word.partition("=")[2] or word for part in _items(text) for word in part.split()]


def _entries(config: StudyConfig, catalogue: Catalogue, problems: list[str]) -> list[Entry]:
    entries: list[Entry] = []
    for number, raw in enumerate(config.methods, 1):
        said = _as_mapping(raw)
        label = str(said.get("name") or _default_label(said))
        if re.fullmatch(r"\w[\w.+=-]*", label) is None:
            problems.append(
                f"methods: item {number}: the name '{label}' is to be that of a folder, too; use letters, digits, "
                f"'-', '_' and '.' and give it as name:"
            )
            continue
        if label in (entry.label for entry in entries):
            problems.append(f"methods: two are called '{label}'; give one of them another name:")
            continue
        try:
            entries.append(_entry(label, said, catalogue))
        except ConfigError as error:
            problems += [f"methods: {label}: {problem}" for problem in error.problems]
        except MmtkError as error:
            problems.append(f"methods: {label}: {error}")
    return entries


def _as_mapping(raw: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return a method's entry as a mapping; text is a name, or settings as they are typed."""
    if isinstance(raw, Mapping):
        return dict(raw)
    words = shlex.split(raw)
    if not any("=" in word for word in words):
        return {"method": raw}
    name = {} if "=" in words[0] else {"method": words.pop(0)}
    said, problems = mapping(*read_settings(words))
    if problems:
        raise ConfigError([f"methods: {raw}: {problem}" for problem in problems])
    return {**name, **{key: _bare(value) for key, value in said.items()}}


def _bare(value: Any) -> Any:
    """Return ``[a,b]``, which needs its brackets in a list alone and quotes nowhere, as ``a,b``."""
    plain = isinstance(value, str) and value.startswith("[") and value.endswith("]")
    return value[1:-1] if plain and not set(value[1:-1]) & set('[{"') else value


def _default_label(said: Mapping[str, Any]) -> str:
    chosen = said.get("bundle") or said.get("method") or said.get("kind") or "method"
    name = str(chosen.get("kind")) if isinstance(chosen, Mapping) else str(chosen)
    changed = [
        f"{key}={value}" for key, value in said.items() if key not in OWN and isinstance(value, str | int | float)
    ]
    label = "-".join([Path(name).name.rpartition(":")[2], *changed])
    return re.sub(r"[:/]+", ".", re.sub(r"[\[\]\s\"']", "", label)).replace(",", "+")


def _entry(label: str, said: dict[str, Any], catalogue: Catalogue) -> Entry:
    from mmtk.bundle.recipe import read_recipe
    from mmtk.bundle.search import find
    from mmtk.bundle.trust import admit

    chosen = [key for key in ("method", "kind", "bundle") if said.get(key) is not None]
    if len(chosen) != 1:
        told = " and ".join(chosen) or "nothing"
        raise ConfigError(f"{told} says how to register; give one of method: and bundle:")
    masked, knows = _flag(said, "masked", True), _flag(said, "told", False)
    base: dict[str, Any] = {}
    settings: list[Setting] = []
    name = said[chosen[0]]
    if chosen == ["bundle"] or (isinstance(name, str) and _only_a_bundle(name, catalogue)):
        found = find(str(name), catalogue)
        admit(found, catalogue)
        base, _ = read_recipe(found.folder)
    else:
        settings.append(Setting("method", name))
    if name == ORACLE:
        base = {"init": "none"}  # the truth is the whole map
    settings += [Setting(str(key), value) for key, value in said.items() if key not in OWN]
    evaluated = [str(s) for s in settings if isinstance(s.value, str) and s.value.startswith(("$", "@", "%"))]
    if evaluated:
        raise ConfigError(f"{evaluated[0]}: a value must not begin with $, @ or %, which MONAI would evaluate")
    recipe = resolve(settings, base, catalogue, Recipe)
    if masked and "masked" in said and "masked" in type(recipe.method).model_fields:
        recipe = resolve([*settings, Setting("method.masked", True)], base, catalogue, Recipe)
    if knows and "lesion" not in type(recipe.method).model_fields:
        raise ConfigError(f"told: {recipe.method.kind} has no setting `lesion`; leave `told` out")
    return Entry(label, recipe, masked, knows, recipe.method.missing())


def _flag(said: Mapping[str, Any], key: str, usual: bool) -> bool:
    found = {"true": True, "false": False}.get(str(said.get(key, usual)).lower())
    if found is None:
        raise ConfigError(f"{key}={said[key]}: must be true or false")
    return found


def _only_a_bundle(name: str, catalogue: Catalogue) -> bool:
    """Whether a name is that of a bundle, and of no method."""
    methods = {offer.name for offer in catalogue.offers("method")}
    return name not in methods and name in catalogue.bundles


# --- cases


def _sources(config: StudyConfig, home: Path, catalogue: Catalogue, problems: list[str]) -> list[Source]:
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
    said = {key: _bare(value) for key, value in said.items()}
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
