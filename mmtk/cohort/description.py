"""What `mmtk cohort run` is asked for: a table with a row a case, settings for all of them, and where they run.

    case,moving,mask,age,outcome
    p01,scans/p01_t1.nii.gz,scans/p01_tumor.nii.gz,54,alive

``case`` and ``moving`` must be there, and ``fixed``, unless ``template=FILE`` or the bundle says it for all. Paths start
at the table's folder; several modalities stand in one cell with commas between them. A column that is none of a run's
files is kept with the case, and goes on to the results and to the atlas.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from mmtk.bundle.recipe import read_recipe, template_of
from mmtk.bundle.search import find
from mmtk.bundle.trust import admit
from mmtk.config import Recipe, RunConfig, from_text, nearest
from mmtk.errors import ConfigError, MmtkError
from mmtk.plugins import Catalogue
from mmtk.settings import Setting, read_settings, resolve, slip
from mmtk.study.description import Entry

__all__ = ["FILES", "Cohort", "CohortCase", "Place", "read_cohort"]

#: Columns that are files of a run.
FILES = ("moving", "fixed", "mask", "fixed_mask", "labels", "fixed_labels")

#: Those that may hold several, one for each modality.
CHANNELED = ("moving", "fixed", "mask")

#: Of these a cell is no path.
WORDS = ("none", "auto")

_NAME = re.compile(r"\w[\w.+=-]*")


class Place(BaseModel):
    """Where the cases run, and how many of them at a time."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    scheduler: str = Field(
        default="local",
        description="local: processes of this machine; slurm: jobs of a SLURM cluster; tcp://HOST:PORT: a Dask "
        "scheduler that runs already",
    )
    workers: int = Field(default=1, ge=1, description="cases at a time, each in a process of its own")
    threads: int = Field(default=1, ge=1, description="CPU threads of each")
    memory: float | None = Field(
        default=None,
        gt=0,
        description="GB that each worker may take; one that takes more is started anew; none: its share of the machine",
    )
    gpus: int = Field(
        default=0,
        ge=0,
        description="GPUs: each has a worker of its own, and so one case at a time; slurm: GPUs of each job",
    )
    retries: int = Field(
        default=2,
        ge=0,
        description="how often a case is tried again whose worker died or whose resources gave out",
    )
    queue: str | None = Field(default=None, description="slurm: the partition")
    account: str | None = Field(default=None, description="slurm: the account that pays")
    walltime: str = Field(default="08:00:00", description="slurm: of each job")

    @field_validator("scheduler")
    @classmethod
    def _known_scheduler(cls, value: str) -> str:
        if value not in ("local", "slurm") and not re.fullmatch(r"(tcp|tls)://.+:\d+", value):
            raise ValueError("must be local, slurm or tcp://HOST:PORT")
        return value


@dataclass(frozen=True)
class CohortCase:
    """One row of the table.

    Attributes:
        name: Unlike any other; the name of its folder.
        given: Its files, as a run's settings have them, with absolute paths.
        files: The same, one path each, by the role that messages speak of.
        about: The other columns, as they stand.
        need: Estimate of the memory that it takes, bytes.
    """

    name: str
    given: Mapping[str, str]
    files: Mapping[str, Path]
    about: Mapping[str, str]
    need: float = 0.0


@dataclass(frozen=True)
class Cohort:
    """A cohort that can be carried out.

    Attributes:
        table: The file that it was read from.
        columns: The names of the columns that are kept.
        recipe: The method and the preparation, for every case.
        place: Where it runs.
        typed: Values as typed: import paths among them may be followed.
        device, seed: As of `mmtk run`.
    """

    table: Path
    cases: tuple[CohortCase, ...]
    columns: tuple[str, ...]
    recipe: Recipe
    place: Place
    typed: tuple[str, ...] = ()
    device: str = "auto"
    seed: int = 0
    said: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        settings = Entry("cohort", self.recipe).data()
        settings.pop("name")
        object.__setattr__(self, "said", {**settings, "seed": self.seed, "device": self.device})

    @property
    def settings(self) -> Mapping[str, Any]:
        """All that a case's result depends on besides its files, as plain data."""
        return self.said

    def data(self) -> dict[str, Any]:
        """The cohort as plain data."""
        return {
            "table": str(self.table),
            "cases": len(self.cases),
            "columns": list(self.columns),
            "settings": dict(self.settings),
            "place": self.place.model_dump(mode="json"),
        }


def digest(settings: Mapping[str, Any], versions: Mapping[str, str]) -> str:
    """Return a digest of what the results of all cases depend on besides their files."""
    text = json.dumps({"settings": settings, "versions": versions}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def read_cohort(
    table: Path,
    arguments: Sequence[str],
    catalogue: Catalogue,
    *,
    device: str = "auto",
    seed: int = 0,
    options: Sequence[str] = (),
) -> Cohort:
    """Check everything that can be checked without torch.

    Args:
        table: The ``.csv``.
        arguments: ``key=value``, as typed: ``bundle=`` or ``method=``, ``template=``, the fields of :class:`Place`, and
            settings of the method.
        options: Of the command, to be suggested for a slip.

    Raises:
        ConfigError: With a sentence for each thing that is wrong.
    """
    settings, problems = read_settings(arguments, options)
    place, settings = _place(settings, problems)
    settings = [Setting("fixed", s.value) if s.key == "template" else s for s in settings]
    common = {s.key: str(Path.cwd() / s.value) for s in settings if s.key in FILES and s.value not in WORDS}
    common |= {s.key: s.value for s in settings if s.key in FILES and s.value in WORDS}
    settings = [s for s in settings if s.key not in FILES]
    base, template = _bundle([s for s in settings if s.key == "bundle"], catalogue, problems)
    settings = [s for s in settings if s.key != "bundle"]
    if template is not None:
        common = {"fixed": str(template), **common}
    rows, columns = _rows(table, common, problems)
    following = catalogue.following(s.value for s in settings)
    recipe = resolve(settings, base, following, Recipe, problems)
    recipe.method.ready()
    cases = _cases(rows, table, columns, common, recipe, following, place)
    typed = tuple(str(s.value) for s in settings)
    return Cohort(table.absolute(), cases, columns, recipe, place, typed, device, seed)


def _place(settings: Sequence[Setting], problems: list[str]) -> tuple[Place, list[Setting]]:
    fields = Place.model_fields
    mine = {s.key: s.value for s in settings if s.key in fields}
    others = [s for s in settings if s.key not in fields]
    try:
        raw = {key: from_text(fields[key].annotation, str(value)) for key, value in mine.items()}
        return Place.model_validate(raw), others
    except ValidationError as error:
        for detail in error.errors():
            key = str(detail["loc"][0])
            problems.append(f"{key}={detail['input']}: {slip(detail['type'], detail.get('ctx', {}), detail)}")
        return Place(), others


def _bundle(
    named: Sequence[Setting], catalogue: Catalogue, problems: list[str]
) -> tuple[dict[str, Any] | None, Path | None]:
    if not named:
        return {}, None
    if len(named) > 1:
        problems.append(f"{named[0]} and {named[1]}: both choose the bundle; give one of them")
    try:
        found = find(str(named[0].value), catalogue)
        admit(found, catalogue)
        return read_recipe(found.folder)[0], template_of(found.folder)
    except MmtkError as error:
        told = error.problems if isinstance(error, ConfigError) else [str(error)]
        problems += [f"{named[0]}: {problem}" for problem in told]
        return None, None


def _rows(
    table: Path, common: Mapping[str, str], problems: list[str]
) -> tuple[list[tuple[int, dict[str, str]]], tuple[str, ...]]:
    """Return the rows with their lines, and the columns that are no files."""
    if not table.is_file():
        raise ConfigError(
            [*problems, f"{table}: there is no such table; give a .csv with the columns case, moving"]
        )
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            columns = [(column or "").strip() for column in reader.fieldnames or ()]
            rows = [
                (reader.line_num, {(k or "").strip(): v.strip() for k, v in row.items() if isinstance(v, str)})
                for row in reader
            ]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError([*problems, f"{table}: is no table in UTF-8 ({error}); save it as .csv"]) from error
    for column in dict.fromkeys(columns):
        known = [name for name in ("case", *FILES) if name not in columns]
        if not column or columns.count(column) > 1:
            problems.append(f"{table}: the column '{column}' has no name of its own; give each column one")
        elif column not in ("case", *FILES) and (close := nearest(column, known)):
            problems.append(f"{table}: unknown column '{column}'{close} Give it a name that is less like it.")
    problems += [f"{table}: there is no column '{name}'" for name in ("case", "moving") if name not in columns]
    if "fixed" not in columns and "fixed" not in common:
        problems.append(f"{table}: there is no column 'fixed'; add it, or give template=FILE for all cases")
    if not rows:
        problems.append(f"{table}: holds no row")
    seen: dict[str, int] = {}
    for line, row in rows:
        name = row.get("case", "")
        if name in seen:
            problems.append(
                f"{table}: line {line}: case {name}: line {seen[name]} has that name; give each its own"
            )
        elif "case" in columns and _NAME.fullmatch(name) is None:
            problems.append(
                f"{table}: line {line}: case '{name}': is to be the name of a folder; use letters, digits, '-', '_' "
                f"and '.'"
            )
        seen[name] = line
    return rows, tuple(column for column in columns if column not in ("case", *FILES))


def _cases(
    rows: Sequence[tuple[int, dict[str, str]]],
    table: Path,
    columns: Sequence[str],
    common: Mapping[str, str],
    recipe: Recipe,
    catalogue: Catalogue,
    place: Place,
) -> tuple[CohortCase, ...]:
    """Return the cases, the headers of their images read.

    Raises:
        ConfigError: With a sentence for each file that cannot be used.
    """
    base = {key: value for key, value in Entry("cohort", recipe).data().items() if key != "name"}
    problems: list[str] = []
    cases = []
    for line, row in rows:
        given = dict(common) | {key: _placed(row[key], key, table.parent) for key in FILES if row.get(key)}
        where = f"{table}: line {line}: case {row['case']}"
        try:
            config = _checked(base, given, catalogue)
            files = config.files()
            need = _probed(files)
        except ConfigError as error:
            problems += [f"{where}: {problem}" for problem in error.problems]
            continue
        if place.memory is not None and need > place.memory * 1e9:
            problems.append(
                f"{where}: takes about {need / 1e9:.1f} GB but memory={place.memory:g} is what a worker may take; raise "
                f"it, or crop or downsample the images"
            )
        absolute = {name: path.absolute() for name, path in files.items()}
        about = {column: row.get(column, "") for column in columns}
        cases.append(CohortCase(row["case"], given, absolute, about, need))
    if problems:
        raise ConfigError(problems)
    return tuple(cases)


def _placed(cell: str, key: str, home: Path) -> str:
    """Return a cell with its paths from the table's folder on."""
    names = [part.strip() for part in cell.split(",")] if key in CHANNELED else [cell]
    home = home.absolute()
    return ",".join(name if name in WORDS else str(home / Path(name).expanduser()) for name in names)


def _checked(base: Mapping[str, Any], given: Mapping[str, str], catalogue: Catalogue) -> RunConfig:
    try:
        return RunConfig.model_validate({**base, **given}, context={"catalogue": catalogue})
    except ValidationError as error:
        told = [(".".join(map(str, d["loc"])), d["msg"].removeprefix("Value error, ")) for d in error.errors()]
        lines = [f"{key}: {line}" if key else line for key, text in told for line in text.splitlines()]
        raise ConfigError(lines) from None


def _probed(files: Mapping[str, Path]) -> float:
    """Read the headers and return how many bytes it takes to register the images."""
    from mmtk.io import probe_image, run_memory

    voxels: dict[str, int] = {}
    dims: dict[str, int] = {}
    problems: list[str] = []
    for name, path in files.items():
        try:
            header = probe_image(path, name=name)
            dims[name], voxels[name] = header.dim, math.prod(header.shape)
        except ConfigError as error:
            problems += error.problems
    if len(set(dims.values())) > 1:
        told = ", ".join(f"{name} {dim}-D" for name, dim in dims.items())
        problems.append(f"the images are not of one dimension: {told}")
    if problems:
        raise ConfigError(problems)
    return run_memory(
        *(sum(n for name, n in voxels.items() if name.startswith(side)) for side in ("moving", "fixed"))
    )
