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

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from mmtk.config import from_text, nearest
from mmtk.errors import ConfigError
from mmtk.plugins import Catalogue
from mmtk.settings import mapping, read_settings, slip
from mmtk.study.benchmarks import Benchmark
from mmtk.study.entries import Entry, read_entries, words_of
from mmtk.study.oracle import with_oracle
from mmtk.study.sources import Source, read_sources
from mmtk.study.typed import items, listed

__all__ = ["Entry", "Source", "Study", "StudyConfig", "read_study"]


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
                return from_text(fields[key].annotation, text) if text.startswith(("[", "{")) else items(text)
            return from_text(fields[key].annotation, text)

        return {
            key: read(key, value) if key in fields and isinstance(value, str) else value
            for key, value in raw.items()
        }

    @field_validator("methods", "cases", "seeds", "metrics", mode="before")
    @classmethod
    def _one_is_a_list(cls, raw: Any) -> Any:
        return listed(raw)

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds) or min(seeds) < 0:
            raise ValueError("must be different whole numbers >= 0")
        return seeds


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
    typed = catalogue.following(words_of(said.get("methods", ())))
    entries = read_entries(config, typed if "methods" in said else catalogue, problems)
    sources = read_sources(config, Path() if "cases" in said else home, catalogue, problems)
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
