"""What is measured of the validation pairs beside their energy: numbers that need no weight to be compared.

outside     squared error of the moving image, by shape alone, away from the lesion; intensity^2 mm^dim a pair
folds       voxels where the map folds, a pair
endpoint    mm: how far the map is from the true one, away from the lesion, where the fixed image exceeds a tenth of its
            maximum; only of pairs that know the truth
dice        overlap of the warped labels with the fixed ones, the mean over the labels of the fixed map, 0 left out; only
            of pairs that have label maps

Where the lesion lies on the fixed image is known of synthetic pairs (``counterpart``). Of others it is where the map
that was found carries the mask, so that a map which blows the lesion up hides errors: compare ``folds`` too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from mmtk.fields import Grid, folds, warp
from mmtk.learned import Prediction
from mmtk.metrics import endpoint_error, mean_dice, squared_error

__all__ = ["ValidationScores"]

#: Share of the fixed image's maximum above which a voxel is foreground, as in :mod:`mmtk.samples.truth`.
FOREGROUND = 0.1


class ValidationScores:
    """Means over pairs of the module's table.

    Args:
        grid: That the pairs lie on.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self._seen: dict[str, list[float]] = {}

    def reset(self) -> None:
        """Forget what was seen."""
        self._seen = {}

    @torch.no_grad()
    def see(self, items: Mapping[str, Tensor], prediction: Prediction) -> None:
        """Measure one batch.

        Args:
            items: As a loader collated them: ``moving``, ``fixed`` and whatever else the pairs have of the table of
                :mod:`mmtk.training.data`.
            prediction: Of these.
        """
        u = prediction.displacement
        known = {name: value.to(u.device) for name, value in items.items() if value.ndim == u.ndim}
        lesion = known.get("counterpart")
        if lesion is None and "mask" in known:
            lesion = warp(known["mask"], u)
        fixed = known["fixed"]
        away = torch.ones_like(fixed[:, :1]) if lesion is None else 1 - lesion
        if "fixed_mask" in known:
            away = away * (1 - known["fixed_mask"])
        shape_only = warp(known["moving"], u)
        labels = warp(known["labels"].float(), u, "nearest").int() if "fixed_labels" in known else None
        for i in range(len(u)):
            one = slice(i, i + 1)
            error = squared_error(shape_only[one], fixed[one], away[one])
            self._note("outside", self.grid.cell_volume * error)
            self._note("folds", float(folds(u[one])))
            if "displacement" in known:
                head = fixed[one, :1] > FOREGROUND * fixed[one, :1].max()
                where = head & (away[one] >= 1)
                self._note("endpoint", endpoint_error(u[one], known["displacement"][one], self.grid, where))
            if labels is not None:
                target = known["fixed_labels"][one]
                wanted = [int(label) for label in target.unique() if label > 0]
                self._note("dice", mean_dice(labels[one], target, wanted))

    def _note(self, name: str, value: float) -> None:
        if not math.isnan(value):
            self._seen.setdefault(name, []).append(value)

    def means(self) -> dict[str, float]:
        """Return the mean of each number over the pairs that define it; what none defines is not there."""
        return {name: math.fsum(values) / len(values) for name, values in self._seen.items()}
