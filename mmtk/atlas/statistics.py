r"""What may be concluded from counts of lesions: limits of a probability, and whether it goes with a column.

.. math::
    \text{Wilson:}\quad \frac{\hat p + \frac{z^2}{2n} \pm z \sqrt{\frac{\hat p(1 - \hat p)}{n} + \frac{z^2}{4n^2}}}
    {1 + \frac{z^2}{n}} \qquad
    \chi^2 = \sum_g \frac{(k_g - n_g k / n)^2}{n_g (k/n)(1 - k/n)} \qquad
    r^2 = \frac{(\sum_i (x_i - \bar x)\, y_i)^2}{S_{xx}\, k (1 - k/n)}

:math:`k` of :math:`n` cases have a lesion in the voxel, :math:`k_g` of the :math:`n_g` of a group; :math:`y_i` is 1 or 0
and :math:`x` a number of each case. Permuting the column among the cases changes neither :math:`k` nor :math:`n_g`, so
that a test needs one product of matrices for a block of voxels.

References:
    E. B. Wilson, "Probable inference", J. Am. Stat. Assoc. 22 (1927) 209-212. Permutations with the greatest statistic:
    T. E. Nichols, A. P. Holmes, Hum. Brain Mapp. 15 (2002) 1-25.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mmtk.config import nearest
from mmtk.errors import ConfigError

__all__ = ["Column", "Test", "column_of", "permutation_test", "wilson"]

#: A column of numbers with no more values than this is one of groups, and one of words with more is refused.
FEW, MOST = 5, 12

#: A permuted statistic this much below the observed one counts as equal to it: sums are rounded.
TIE = 1e-9


def wilson(count: np.ndarray, cases: int, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Return the lower and the upper limit of a probability, of which ``count`` of ``cases`` are seen.

    Both are 0 and 1 where there are no cases.
    """
    from scipy.special import ndtri

    k = np.asarray(count, dtype=np.float64)
    if cases == 0:
        return np.zeros_like(k), np.ones_like(k)
    z = float(ndtri(0.5 + confidence / 2))
    p, scale = k / cases, 1 + z * z / cases
    middle = (p + z * z / (2 * cases)) / scale
    half = z / scale * np.sqrt(p * (1 - p) / cases + z * z / (4 * cases * cases))
    # At the ends the limit is the end itself; a rounded difference is not.
    return np.where(k == 0, 0.0, middle - half), np.where(k == cases, 1.0, middle + half)


@dataclass(frozen=True)
class Column:
    """A column of the table, for the cases of an atlas.

    Attributes:
        name: Of the column.
        known: ``(cases,)``, True where the cell is not empty.
        groups: Names of groups; empty for a column of numbers.
        values: ``(known cases,)``: the number of the group, or the number.
    """

    name: str
    known: np.ndarray
    groups: tuple[str, ...]
    values: np.ndarray

    @property
    def sizes(self) -> list[int]:
        """Cases of each group."""
        return [int((self.values == number).sum()) for number in range(len(self.groups))]

    def contrasts(self, values: np.ndarray) -> np.ndarray:
        """Return what is multiplied with lesions: ``(groups or 1, *values)``; the rows sum to what is expected, 0."""
        if not self.groups:
            return (values - self.values.mean())[None]
        return np.stack([(values == number) - size / len(self.values) for number, size in enumerate(self.sizes)])

    def statistic(self, products: np.ndarray, count: np.ndarray) -> np.ndarray:
        r"""Return :math:`\chi^2`, or :math:`n r^2`, of products with :meth:`contrasts`: ``(groups, ..., voxels)``."""
        n = len(self.values)
        spread = count * (1 - count / n)  # k (1 - k/n)
        if not self.groups:
            sxx = float(((self.values - self.values.mean()) ** 2).sum())
            return n * products[0] ** 2 / (sxx * spread)
        total = sum(product**2 / size for product, size in zip(products, self.sizes, strict=True))
        return np.asarray(total) * n / spread


def column_of(name: str, cells: Sequence[str]) -> Column:
    """Read a column.

    Raises:
        ConfigError: If there is nothing to compare in it.
    """
    known = np.array([cell != "" for cell in cells])
    said = [cell for cell in cells if cell != ""]
    kinds = sorted(set(said))
    numbers = _numbers(said)
    if len(kinds) < 2:
        raise ConfigError(
            f"by={name}: {'all cases have the same' if kinds else 'every cell is empty'}; leave it out"
        )
    if numbers is not None and len(kinds) > FEW:
        return Column(name, known, (), numbers)
    if len(kinds) > MOST:
        raise ConfigError(
            f"by={name}: has {len(kinds)} different words, such as '{kinds[0]}'; a column of groups has at most {MOST}"
        )
    return Column(name, known, tuple(kinds), np.array([kinds.index(cell) for cell in said], dtype=np.float64))


def _numbers(cells: Iterable[str]) -> np.ndarray | None:
    try:
        found = np.array([float(cell) for cell in cells])
    except ValueError:
        return None
    return found if np.isfinite(found).all() else None


def pick_columns(by: str, columns: Sequence[str]) -> list[str]:
    """Return the columns that ``by=a,b`` names.

    Raises:
        ConfigError: If the table has no such column.
    """
    names = [name.strip() for name in by.split(",") if name.strip()]
    for name in names:
        if name not in columns:
            hint = nearest(name, columns) or f"; it has {', '.join(columns) or 'none'}"
            raise ConfigError(f"by={name}: the cohort's table has no such column{hint}")
    return list(dict.fromkeys(names))


@dataclass(frozen=True)
class Test:
    """A permutation test of many voxels, or regions, at once; arrays are ``(tested,)``.

    Attributes:
        statistic: As observed.
        p: Of each for itself.
        p_family: Probability that chance alone gives any of them so great a statistic.
        p_false: Adjusted for the rate of false discoveries (Benjamini and Hochberg).
    """

    __test__ = False  # pytest: this is none of its own

    statistic: np.ndarray
    p: np.ndarray
    p_family: np.ndarray
    p_false: np.ndarray


def permutation_test(
    column: Column,
    blocks: Iterable[np.ndarray],
    *,
    permutations: int = 1000,
    seed: int = 0,
) -> Test:
    """Ask whether lesions go with a column.

    Args:
        column: Groups or numbers.
        blocks: Lesions, ``(known cases, some voxels)``, 0 or 1, or for regions any number of 0 and 1; no voxel may be
            the same in all cases.
        permutations: How often the column is permuted; the least p is ``1 / (permutations + 1)``.
        seed: Of the permutations.
    """
    from scipy.stats import false_discovery_control

    draw = np.random.default_rng(seed)
    shuffled = np.stack([column.values, *(draw.permutation(column.values) for _ in range(permutations))])
    contrasts = column.contrasts(shuffled)  # (groups or 1, 1 + permutations, cases)
    greatest = np.zeros(permutations)
    observed, reached = [], []
    for block in blocks:
        lesions = np.asarray(block, dtype=np.float64)
        found = column.statistic(contrasts @ lesions, lesions.sum(axis=0))
        edge = found[0] * (1 - TIE)
        observed.append(found[0])
        reached.append((found[1:] >= edge).sum(axis=0))
        greatest = np.maximum(greatest, found[1:].max(axis=1, initial=0.0))
    if not observed:
        empty = np.zeros(0)
        return Test(empty, empty, empty, empty)
    statistic = np.concatenate(observed)
    p = (1 + np.concatenate(reached)) / (permutations + 1)
    beyond = permutations - np.searchsorted(np.sort(greatest), statistic * (1 - TIE), side="left")
    family = (1 + beyond) / (permutations + 1)
    return Test(statistic, p, family, np.asarray(false_discovery_control(p)))


def least_cases(cases: int) -> int:
    """Return of how many cases a voxel must be lesion, and of how many not, to be tested: 5 %, and at least 2."""
    return max(2, math.ceil(0.05 * cases))
