"""From the folders of a cohort to the maps of an atlas.

    OUT/sums.npz, lesions.bits         what is added up, see :mod:`mmtk.atlas.sums`
    OUT/count, probability, lower, upper (.nii.gz)
    OUT/tissue_LABEL_count, _probability      of each tissue of the masks
    OUT/by_COLUMN_GROUP_count, _probability   of the cases of a group
    OUT/by_COLUMN_statistic, _p, _p_family, _p_false, for numbers _r
    OUT/regions.csv, atlas.json, atlas.html

A case is read once. Building again adds the cases that are new; the maps are made anew from the sums.
"""

from __future__ import annotations

import csv
import io as textio
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mmtk.atlas.statistics import Column, Test, column_of, least_cases, permutation_test, pick_columns, wilson
from mmtk.atlas.sums import LESION, Sums
from mmtk.cohort.records import CaseRecord, read_case
from mmtk.config import from_text, nearest
from mmtk.errors import ConfigError
from mmtk.io import Volume, holds_something, read_image, write_image, write_json, write_text
from mmtk.settings import read_settings, slip

__all__ = ["AtlasConfig", "Found", "build_atlas", "read_atlas_config"]

#: So many cases are added between two savings of the sums.
BETWEEN = 50

#: The lesion where its mask, carried along, is above this.
LESION_FROM = 0.5


class AtlasConfig(BaseModel):
    """What is asked of an atlas."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    by: str = Field(default="", description="columns of the table, with commas: a map a group, or a trend")
    tissues: tuple[int, ...] = Field(default=(), description="labels of the masks, each with a map of its own")
    regions: Path | None = Field(default=None, description="label map on the template: a row a region")
    confidence: float = Field(default=0.95, gt=0, lt=1, description="of the limits")
    permutations: int = Field(default=1000, ge=19, description="of the tests by a column")
    seed: int = Field(default=0, ge=0, description="of the permutations")


def read_atlas_config(arguments: Sequence[str], options: Sequence[str] = ()) -> AtlasConfig:
    """Return what ``key=value`` ask for.

    Raises:
        ConfigError: With a sentence for each that cannot be.
    """
    settings, problems = read_settings(arguments, options)
    fields = AtlasConfig.model_fields
    raw = {
        s.key: from_text(fields[s.key].annotation, str(s.value)) if s.key in fields else s.value for s in settings
    }
    if isinstance(raw.get("tissues"), int | str):
        raw["tissues"] = (raw["tissues"],)
    try:
        config = AtlasConfig.model_validate(raw)
    except ValidationError as error:
        for detail in error.errors():
            key = str(detail["loc"][0])
            if detail["type"] == "extra_forbidden":
                problems.append(f"{key}: unknown key{nearest(key, fields) or '; there are ' + ', '.join(fields)}")
            else:
                problems.append(f"{key}={detail['input']}: {slip(detail['type'], detail.get('ctx', {}), detail)}")
        config = AtlasConfig()
    if config.regions is not None and not config.regions.is_file():
        problems.append(f"regions={config.regions}: there is no such file")
    if problems:
        raise ConfigError(problems)
    return config


@dataclass(frozen=True)
class ByColumn:
    """What was found of a column.

    Attributes:
        counts: ``(groups, *space)``; empty for numbers.
        tested: ``(*space)``, True where there were cases enough.
        test: Of the tested voxels.
        r: ``(*space)``, correlation of lesion and number; None for groups.
        regions: Test of the regions that were touched by some and not by all; None without regions.
        region_numbers: The regions that it is of.
    """

    column: Column
    counts: np.ndarray
    tested: np.ndarray
    test: Test
    r: np.ndarray | None = None
    regions: Test | None = None
    region_numbers: tuple[int, ...] = ()


@dataclass(frozen=True)
class Region:
    """A region of the template and the lesions in it.

    Attributes:
        touched: Cases with a lesion in at least one voxel of it.
        lower, upper: Limits of the probability of that.
        volume: Of the region, mm³ (mm² of a 2-D template).
        lesion: Mean volume of lesion in it over all cases.
    """

    number: int
    touched: int
    lower: float
    upper: float
    volume: float
    lesion: float


@dataclass(frozen=True)
class Found:
    """An atlas.

    Attributes:
        template: On whose grid it lies.
        left_out: Names of cases that are not in it, and why.
        added: How many cases this build has read.
    """

    template: Volume
    sums: Sums
    config: AtlasConfig
    lower: np.ndarray
    upper: np.ndarray
    columns: tuple[ByColumn, ...] = ()
    regions: tuple[Region, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    added: int = 0

    @property
    def cases(self) -> int:
        """How many it is of."""
        return len(self.sums.cases)

    @property
    def probability(self) -> np.ndarray:
        """Share of the cases of which a voxel is lesion, ``(*space)``."""
        return np.asarray(self.sums.counts[0] / max(self.cases, 1), dtype=np.float32)


def build_atlas(
    cohort: Path,
    out: Path,
    config: AtlasConfig | None = None,
    *,
    rebuild: bool = False,
    tell: Callable[[int, int, str], None] = lambda *_: None,
) -> Found:
    """Add the cases of a cohort to an atlas and write its maps, table and page.

    Args:
        cohort: The folder that `mmtk cohort run` left, or ``cohort.csv`` in it.
        out: Folder of the atlas: new, empty, or one that was built before, to which new cases are added.
        rebuild: Read every case again.
        tell: Called after each case that was read: ``tell(done, total, name)``.

    Raises:
        ConfigError: If there is no such cohort, its cases were not registered onto one template, or the atlas in
            ``out`` is another one.
    """
    config = config or AtlasConfig()
    home = cohort.parent if cohort.suffix.lower() == ".csv" else cohort
    rows, columns = _rows(home)
    names = pick_columns(config.by, columns)
    records, left_out = _records(home, rows)
    template = _template(records)
    regions = None if config.regions is None else _regions(config.regions, template)
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: is a file; give a folder")
    if holds_something(out) and not (out / "sums.npz").is_file():
        raise ConfigError(f"--out {out}: the folder is not empty and holds no atlas; give another one")
    out.mkdir(parents=True, exist_ok=True)
    if rebuild:
        (out / "sums.npz").unlink(missing_ok=True)
    layers = (LESION, *(f"tissue_{label}" for label in config.tissues))
    sums = Sums.open(out, template.shape, layers)
    digests = {name: _digest(record) for name, record in records.items()}
    _refuse_others(sums, digests)
    fresh = [name for name in records if name not in sums.cases]
    for done, name in enumerate(fresh, 1):
        sums.add(name, digests[name], *_lesion(home / "cases" / name, records[name], template, config))
        if done % BETWEEN == 0:
            sums.save()
        tell(done, len(fresh), name)
    sums.save()
    found = _analyse(template, sums, config, names, rows, regions, left_out, len(fresh))
    _write(found, out)
    return found


# --- what is read


def _rows(home: Path) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Return the rows of a cohort's table by case, and its columns."""
    table = home / "cohort.csv"
    if not (home / "cohort.json").is_file() or not table.is_file():
        raise ConfigError(f"'{home}' is no folder that `mmtk cohort run` has left; run the cohort first")
    with open(table, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = {row["case"]: row for row in reader}
    files = ("case", "moving", "fixed", "mask", "fixed_mask", "labels", "fixed_labels")
    return rows, [name for name in reader.fieldnames or () if name not in files]


def _records(home: Path, rows: Mapping[str, Any]) -> tuple[dict[str, CaseRecord], dict[str, str]]:
    """Return the cases that can be added, and why the others cannot."""
    records, left_out = {}, {}
    for name in rows:
        record = read_case(home / "cases" / f"{name}.json")
        if record is None or record.status == "begun":
            left_out[name] = "has not been run"
        elif record.failed:
            left_out[name] = f"failed: {record.message}"
        elif not (home / "cases" / name / "warped_mask.nii.gz").is_file():
            left_out[name] = "has no lesion mask"
        else:
            records[name] = record
    if not records:
        first = next((f", such as {name}, which {why}" for name, why in left_out.items()), "")
        raise ConfigError(f"'{home}' has no case with a lesion in the template's space{first}")
    return records, left_out


def _template(records: Mapping[str, CaseRecord]) -> Volume:
    marks = {name: record.files["fixed"] for name, record in records.items()}
    first, one = next(iter(marks.items()))
    for name, other in marks.items():
        if other.sha256 != one.sha256:
            raise ConfigError(
                f"case {name} was registered onto '{other.path}' but {first} onto '{one.path}'; an atlas needs one "
                f"template, so run the cohort with template=FILE"
            )
    return read_image(one.path, name="template")


def _regions(path: Path, template: Volume) -> np.ndarray:
    from mmtk.io.space import voxel_to_voxel

    labels = read_image(path, name="regions")
    here = np.eye(4)
    if labels.shape != template.shape or not np.allclose(voxel_to_voxel(template, labels), here, atol=1e-3):
        raise ConfigError(
            f"regions={path}: lies on another grid than the template ({'x'.join(map(str, labels.shape))} voxels "
            f"against {'x'.join(map(str, template.shape))}); resample it onto the template with nearest neighbor first"
        )
    whole = np.rint(labels.data).astype(np.int64)
    if np.abs(whole - labels.data).max() > 1e-3 or whole.min() < 0:
        raise ConfigError(f"regions={path}: must hold whole numbers, 0 for what is no region")
    return whole


def _digest(record: CaseRecord) -> str:
    """Say on what a case's lesion in the template's space depends."""
    return "-".join([record.key[:16], *(mark.sha256[:16] for _, mark in sorted(record.files.items()))])


def _refuse_others(sums: Sums, digests: Mapping[str, str]) -> None:
    problems = []
    for name, digest in sums.cases.items():
        if name not in digests:
            problems.append(f"case {name} is in the atlas but no longer in the cohort; add --rebuild")
        elif digests[name] != digest:
            problems.append(f"case {name} was run anew since it was added to the atlas; add --rebuild")
    if problems:
        raise ConfigError(problems)


def _lesion(
    folder: Path, record: CaseRecord, template: Volume, config: AtlasConfig
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return where the lesion of a case is, and its tissues, on the template's grid."""
    from mmtk.io.images import load

    mask = load(folder / "warped_mask.nii.gz", name="mask")
    if mask.shape != template.shape:
        raise ConfigError(
            f"'{folder}': its mask does not lie on the template's grid; run the case anew with --retry"
        )
    lesion = mask.data > LESION_FROM
    if not config.tissues:
        return lesion, {}
    from mmtk.transforms import load_transform, resample

    if "mask" not in record.files:
        raise ConfigError(
            f"'{folder}': its mask was found and not given, so it has no tissues; leave tissues= out"
        )
    carried = resample(record.files["mask"].path, load_transform(folder), template, interpolation="nearest").data
    whole = np.rint(carried).reshape(template.shape)
    return lesion, {f"tissue_{label}": whole == label for label in config.tissues}


# --- what is made of it


def _analyse(
    template: Volume,
    sums: Sums,
    config: AtlasConfig,
    names: Sequence[str],
    rows: Mapping[str, Mapping[str, str]],
    regions: np.ndarray | None,
    left_out: Mapping[str, str],
    added: int,
) -> Found:
    lower, upper = wilson(sums.counts[0], len(sums.cases), config.confidence)
    touched, volumes = (None, None) if regions is None else _in_regions(sums, regions)
    columns = [column_of(name, [rows[case][name] for case in sums.cases]) for name in names]
    return Found(
        template=template,
        sums=sums,
        config=config,
        lower=lower.astype(np.float32),
        upper=upper.astype(np.float32),
        columns=tuple(_by(sums, column, config, touched) for column in columns),
        regions=() if regions is None else tuple(_table(template, regions, touched, volumes, sums, config)),
        left_out=left_out,
        added=added,
    )


def _by(sums: Sums, column: Column, config: AtlasConfig, touched: np.ndarray | None) -> ByColumn:
    """Count by groups and test, a block of voxels at a time."""
    counts = np.zeros((len(column.groups), *sums.shape), dtype=np.uint32)
    number = np.full(len(column.known), -1)
    if column.groups:
        number[column.known] = column.values
    known = np.zeros(sums.shape, dtype=np.uint32)
    for case, (_, lesion) in enumerate(sums.rows()):
        known += lesion & bool(column.known[case])
        if number[case] >= 0:
            counts[number[case]] += lesion
    cases = len(column.values)
    least = least_cases(cases)
    tested = (known >= least) & (known <= cases - least)
    blocks = (lesions[column.known] for _, lesions in sums.blocks(tested, _block(sums, config)))
    test = permutation_test(column, blocks, permutations=config.permutations, seed=config.seed)
    r = None if column.groups else _correlation(sums, column, known)
    if touched is None:
        return ByColumn(column, counts, tested, test, r)
    some = touched[column.known].sum(axis=0)
    kept = [n for n, k in enumerate(some) if least <= k <= cases - least]
    of_regions = permutation_test(
        column,
        [touched[column.known][:, kept]] if kept else [],
        permutations=config.permutations,
        seed=config.seed,
    )
    return ByColumn(column, counts, tested, test, r, of_regions, tuple(n + 1 for n in kept))


def _block(sums: Sums, config: AtlasConfig) -> int:
    """Return the bytes of a block of lesions whose products with all permutations take some 64 MB."""
    from mmtk.atlas.sums import BLOCK

    voxels = max(1, BLOCK // (8 * (config.permutations + 1)))
    return min(BLOCK, voxels * 9 * len(sums.cases))


def _correlation(sums: Sums, column: Column, known: np.ndarray) -> np.ndarray:
    x = np.zeros(len(column.known))
    x[column.known] = column.values - column.values.mean()
    product = np.zeros(sums.shape)
    for case, (_, lesion) in enumerate(sums.rows()):
        if column.known[case]:
            product += x[case] * lesion
    spread = known * (1 - known / len(column.values)) * (x**2).sum()
    return np.divide(product, np.sqrt(spread), out=np.zeros(sums.shape), where=spread > 0).astype(np.float32)


def _in_regions(sums: Sums, regions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return whether each case has lesion in each region, ``(cases, regions)``, and how many voxels of it in all."""
    most = int(regions.max())
    touched = np.zeros((len(sums.cases), most), dtype=np.uint8)
    voxels = np.zeros(most)
    for case, (_, lesion) in enumerate(sums.rows()):
        inside = np.bincount(regions[lesion], minlength=most + 1)[1:]
        touched[case] = inside > 0
        voxels += inside
    return touched, voxels


def _table(
    template: Volume,
    regions: np.ndarray,
    touched: np.ndarray | None,
    voxels: np.ndarray | None,
    sums: Sums,
    config: AtlasConfig,
) -> Iterator[Region]:
    assert touched is not None and voxels is not None
    unit = math.prod(template.spacing)
    sizes = np.bincount(regions.reshape(-1), minlength=touched.shape[1] + 1)[1:]
    cases = len(sums.cases)
    counts = touched.sum(axis=0)
    lower, upper = wilson(counts, cases, config.confidence)
    for number, size in enumerate(sizes):
        if size:
            yield Region(
                number + 1,
                int(counts[number]),
                float(lower[number]),
                float(upper[number]),
                float(size * unit),
                float(voxels[number] * unit / cases),
            )


# --- what is written


def _write(found: Found, out: Path) -> None:
    from mmtk.atlas.page import make_page

    for name, data, dtype in maps(found):
        write_image(out / f"{name}.nii.gz", data, found.template, dtype)
    if found.regions:
        write_text(out / "regions.csv", _regions_csv(found))
    write_json(out / "atlas.json", account(found))
    write_text(out / "atlas.html", make_page(found))


def maps(found: Found) -> Iterator[tuple[str, np.ndarray, Any]]:
    """Yield name, voxels and type of every map of an atlas."""
    yield "count", found.sums.counts[0], np.int32
    yield "probability", found.probability, np.float32
    yield "lower", found.lower, np.float32
    yield "upper", found.upper, np.float32
    for number, layer in enumerate(found.sums.layers[1:], 1):
        yield f"{layer}_count", found.sums.counts[number], np.int32
        yield f"{layer}_probability", found.sums.counts[number] / found.cases, np.float32
    for by in found.columns:
        stem = f"by_{_word(by.column.name)}"
        for group, count, size in zip(by.column.groups, by.counts, by.column.sizes, strict=True):
            yield f"{stem}_{_word(group)}_count", count, np.int32
            yield f"{stem}_{_word(group)}_probability", count / size, np.float32
        if by.r is not None:
            yield f"{stem}_r", by.r, np.float32
        for what, values, beyond in (
            ("statistic", by.test.statistic, 0.0),
            ("p", by.test.p, 1.0),
            ("p_family", by.test.p_family, 1.0),
            ("p_false", by.test.p_false, 1.0),
        ):
            yield f"{stem}_{what}", placed(by.tested, values, beyond), np.float32


def placed(tested: np.ndarray, values: np.ndarray, beyond: float) -> np.ndarray:
    """Return the numbers of tested voxels on the grid, ``beyond`` everywhere else."""
    full = np.full(tested.shape, beyond, dtype=np.float32)
    full[tested] = values
    return full


def _word(text: str) -> str:
    return "".join(c if c.isalnum() or c in ".+-" else "-" for c in text)


def account(found: Found) -> dict[str, Any]:
    """Return what ``atlas.json`` holds."""
    return {
        "template": str(found.template.path),
        "cases": list(found.sums.cases),
        "left_out": dict(found.left_out),
        "settings": found.config.model_dump(mode="json"),
        "columns": [
            {
                "column": by.column.name,
                "groups": dict(zip(by.column.groups, by.column.sizes, strict=True)),
                "cases": len(by.column.values),
                "tested_voxels": int(by.tested.sum()),
                "least_p_family": float(by.test.p_family.min()) if len(by.test.p_family) else None,
                "voxels_p_family_below_0.05": int((by.test.p_family < 0.05).sum()),
                "voxels_p_false_below_0.05": int((by.test.p_false < 0.05).sum()),
            }
            for by in found.columns
        ],
    }


def _regions_csv(found: Found) -> str:
    table = textio.StringIO()
    tests = [
        f"{by.column.name}.{what}" for by in found.columns for what in ("statistic", "p", "p_family", "p_false")
    ]
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["region", "volume", "touched", "cases", "probability", "lower", "upper", "mean_lesion", *tests])
    for region in found.regions:
        cells: list[Any] = []
        for by in found.columns:
            test = by.regions
            place = by.region_numbers.index(region.number) if region.number in by.region_numbers else None
            for what in ("statistic", "p", "p_family", "p_false"):
                cells.append("" if place is None or test is None else f"{getattr(test, what)[place]:.6g}")
        share = region.touched / found.cases
        numbers = (share, region.lower, region.upper, region.lesion)
        told = [f"{value:.6g}" for value in numbers]
        rows.writerow([region.number, f"{region.volume:.6g}", region.touched, found.cases, *told, *cells])
    return table.getvalue()
