r"""Principal modes of rows that need not fit into memory.

With the centered rows :math:`X`, ``(cases, numbers)``, the matrix :math:`G = X X^\top` of the cases has the same
eigenvalues as the covariance of the numbers, and is as small as the cohort:

.. math::
    G = U \Lambda U^\top, \qquad \text{variances } \frac{\Lambda}{n - 1}, \qquad \text{scores } U \Lambda^{1/2}, \qquad
    \text{modes } \Lambda^{-1/2} U^\top X

Modes are orthonormal in the plain inner product of the rows, and mean plus scores times modes are the rows again. Rows
are read a block of numbers of all cases at a time, twice. A mode's sign makes its largest score positive.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

__all__ = ["Modes", "principal_modes"]

#: Bytes that a block of numbers of all cases may take.
BLOCK = 1 << 26

#: What is less than this share of the greatest eigenvalue is rounding.
NOTHING = 1e-10


@dataclass(frozen=True)
class Modes:
    """Mean and modes.

    Attributes:
        mean: ``(numbers,)``.
        variances: Of all modes, the greatest first, ``(cases - 1,)`` at most; 0 is left out.
        scores: ``(cases, modes)`` of all.
        basis: ``(kept, numbers)``, orthonormal.
    """

    mean: np.ndarray
    variances: np.ndarray
    scores: np.ndarray
    basis: np.ndarray

    @property
    def explained(self) -> np.ndarray:
        """Share of the variance that each mode has."""
        total = self.variances.sum()
        return np.asarray(self.variances / total if total > 0 else self.variances)

    def at(self, mode: int, deviations: float) -> np.ndarray:
        """Return the row so many standard deviations from the mean along a mode that was kept."""
        return np.asarray(self.mean + deviations * np.sqrt(self.variances[mode]) * self.basis[mode])


def principal_modes(rows: np.ndarray, kept: int, most: int = BLOCK) -> Modes:
    """Return mean and modes of rows.

    Args:
        rows: ``(cases, numbers)``, two cases at least; may lie on disk.
        kept: Of so many modes the basis is computed, or of as many as there are.
        most: Bytes of a block.
    """
    cases, numbers = rows.shape
    gram, mean = np.zeros((cases, cases)), np.zeros(numbers)
    for part in _blocks(rows, most):
        block = np.asarray(rows[:, part], dtype=np.float64)
        mean[part] = block.mean(axis=0)
        block = block - mean[part]  # the rows themselves are not written to
        gram += block @ block.T
    values, vectors = np.linalg.eigh(gram)
    order = np.argsort(values)[::-1][: cases - 1]
    order = order[values[order] > NOTHING * max(float(values.max()), 0.0)]
    values, vectors = values[order], vectors[:, order]
    signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(len(order))])
    vectors = vectors * np.where(signs == 0, 1, signs)
    kept = min(kept, len(order))
    basis = np.zeros((kept, numbers))
    mixed = (vectors[:, :kept] / np.sqrt(values[:kept])).T
    for part in _blocks(rows, most):
        basis[:, part] = mixed @ (np.asarray(rows[:, part], dtype=np.float64) - mean[part])
    return Modes(mean, values / (cases - 1), vectors * np.sqrt(values), basis)


def _blocks(rows: np.ndarray, most: int) -> Iterator[slice]:
    step = max(1, most // (8 * rows.shape[0]))
    return (slice(start, start + step) for start in range(0, rows.shape[1], step))
