r"""Who is ill, by how the lungs moved: the small network of fig. 3 on residual deformations :math:`G - G_I`.

    residuals    (n, dim, *space)    displacements in voxels, all on one grid
    ill          (n,) bool

One convolution of 3 voxels that halves the size, then a perceptron with 100 units and tanh, batch normalization before
both, binary cross-entropy, Adam from 1e-4, halved every 50 epochs. As published five models are cross-validated on the
training set, and what is unseen by all is judged by the mean of their answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmtk.errors import ConfigError

__all__ = ["Classifier", "CrossValidation", "cross_validate", "fit", "stratified"]

#: Patients of a batch.
BATCH = 8


class Classifier(nn.Module):
    """The network of fig. 3.

    Args:
        shape: Of the grid.
        maps: Of the convolution; the paper does not say how many.
        hidden: Units of the perceptron.
    """

    def __init__(self, shape: Sequence[int], maps: int = 4, hidden: int = 100) -> None:
        super().__init__()
        dim = len(shape)
        conv, norm = (nn.Conv2d, nn.BatchNorm2d) if dim == 2 else (nn.Conv3d, nn.BatchNorm3d)
        size = maps
        for n in shape:
            size *= -(-n // 2)
        self.down = nn.Sequential(conv(dim, maps, 3, stride=2, padding=1), norm(maps))
        self.judge = nn.Sequential(
            nn.Linear(size, hidden), nn.BatchNorm1d(hidden), nn.Tanh(), nn.Linear(hidden, 1)
        )

    def forward(self, residuals: Tensor) -> Tensor:
        """Return the log-odds of being ill, ``(n,)``."""
        odds: Tensor = self.judge(self.down(residuals).flatten(1))[:, 0]
        return odds


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """What came of it.

    Attributes:
        models: One for each fold.
        probability: ``(n,)``, of each patient by the model that did not see it.
        accuracy: Share of them that a threshold of 0.5 gets right.
    """

    models: tuple[Classifier, ...]
    probability: Tensor
    accuracy: float

    @torch.no_grad()
    def judge(self, residuals: Tensor) -> Tensor:
        """Return the mean probability of all models, for patients that none has seen, ``(n,)``."""
        return torch.stack([model(residuals).sigmoid() for model in self.models]).mean(0)


def stratified(ill: Tensor, folds: int, seed: int) -> list[Tensor]:
    """Return the patients of each fold; the healthy and the ill are dealt out one by one.

    Raises:
        ConfigError: If there are fewer patients of a kind than folds.
    """
    ill = ill.bool()
    fewest = int(min(ill.sum(), (~ill).sum()))
    if folds < 2 or fewest < folds:
        raise ConfigError(
            f"folds={folds}: of {len(ill)} patients {int(ill.sum())} are ill; each fold needs one of either kind, so "
            f"ask for 2 to {fewest} folds, or give more patients"
        )
    draw = torch.Generator().manual_seed(seed)
    order = [
        rows[torch.randperm(len(rows), generator=draw)] for rows in (ill.nonzero()[:, 0], (~ill).nonzero()[:, 0])
    ]
    dealt = torch.cat(order)
    return [dealt[fold::folds].sort().values for fold in range(folds)]


def fit(residuals: Tensor, ill: Tensor, *, epochs: int = 150, rate: float = 1e-4, seed: int = 0) -> Classifier:
    """Return a classifier, trained.

    Args:
        residuals: ``(n, dim, *space)`` voxels, n at least 2.
        ill: ``(n,)`` bool.
        epochs: The rate is halved every fiftieth.
    """
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        model = Classifier(residuals.shape[2:])
        loss = nn.BCEWithLogitsLoss()
        optimizer = torch.optim.Adam(model.parameters(), lr=rate)
        falling = torch.optim.lr_scheduler.StepLR(optimizer, 50, 0.5)
        truth = ill.to(residuals.dtype)
        for _ in range(epochs):
            parts = [part for part in torch.randperm(len(truth)).split(BATCH) if len(part) > 1]
            for part in parts:  # a batch of one has no spread to be normalized by
                optimizer.zero_grad(set_to_none=True)
                loss(model(residuals[part]), truth[part]).backward()
                optimizer.step()
            falling.step()
    return model.eval()


def cross_validate(
    residuals: Tensor, ill: Tensor, *, folds: int = 5, epochs: int = 150, rate: float = 1e-4, seed: int = 0
) -> CrossValidation:
    """Train one model for each fold, on the others.

    Raises:
        ConfigError: If there are not as many patients of each kind as folds.
    """
    if len(residuals) != len(ill):
        raise ConfigError(f"{len(residuals)} deformations and {len(ill)} answers; give one answer for each")
    probability, models = torch.full((len(ill),), torch.nan), []
    for number, held in enumerate(stratified(ill, folds, seed)):
        others = torch.ones(len(ill), dtype=torch.bool)
        others[held] = False
        model = fit(residuals[others], ill[others], epochs=epochs, rate=rate, seed=seed + number)
        with torch.no_grad():
            probability[held] = model(residuals[held]).sigmoid().to(probability.dtype)
        models.append(model)
    right = ((probability > 0.5) == ill.bool()).float().mean()
    return CrossValidation(tuple(models), probability, float(right))
