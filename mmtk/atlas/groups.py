"""What is made of the sums of a frequency atlas: limits, counts and tests by column, regions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mmtk.atlas.settings import AtlasConfig
from mmtk.atlas.statistics import Column, Test, column_of, least_cases, permutation_test, wilson
from mmtk.atlas.sums import BLOCK, Sums
from mmtk.io import Volume

__all__ = ["ByColumn", "Found", "Region", "analyse"]


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


def analyse(
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
