"""What the codes are good for: deformations that were never seen, one subject's on another, and a space to sort by.

    drawn          codes from the prior, each decoded on one image (the paper's figure 1b)
    transported    the code of one pair on another subject's image (figure 4)
    encoded        the codes of many pairs
    sorted_out     their canonical components against groups, and how well a classifier tells these (figure 3)

Fields are on the image's own grid, in its voxels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmtk import io
from mmtk.errors import ConfigError
from mmtk.fields import folds, jacobian_determinant, warp
from mmtk.learned import Batch, Frame, LearnedMethod, learned_method
from mmtk.method import Pair
from mmtk.prepare import Prepared, prepare
from mmtk_cvae.method import CVAEMethod, planes
from mmtk_cvae.network import DiffeomorphicCVAE

__all__ = ["Codes", "Decoded", "Sorted", "drawn", "encoded", "load", "sorted_out", "transported"]


@dataclass(frozen=True, eq=False)
class Decoded:
    """A code on an image.

    Attributes:
        code: ``(latent,)``; of a volume by weights of slices ``(slices, latent)``.
        displacement: ``(1, dim, *space)`` of the pull-back.
        warped: ``(*space)``, the image through it, in its own intensities.
        jacobian: ``(*space)``, its determinant.
        folds: Voxels where it folds.
    """

    code: Tensor
    displacement: Tensor
    warped: np.ndarray
    jacobian: np.ndarray
    folds: int

    def write(self, folder: Path, image: io.Volume, prefix: str = "") -> None:
        """Write image, Jacobian and ITK's displacement field."""
        folder.mkdir(parents=True, exist_ok=True)
        io.write_image(folder / f"{prefix}warped.nii.gz", self.warped, image)
        io.write_image(folder / f"{prefix}jacobian.nii.gz", self.jacobian, image)
        io.write_displacement(folder / f"{prefix}displacement.nii.gz", self.displacement, image)


@dataclass(frozen=True, eq=False)
class Codes:
    """The codes of pairs.

    Attributes:
        names: Of each row: its pair, and its slice where weights of slices see a volume.
        subjects, groups: Of each row; groups are empty where none are known.
        means: ``(rows, latent)``.
    """

    names: list[str]
    subjects: list[str]
    groups: list[str]
    means: np.ndarray

    def of_subjects(self) -> tuple[list[str], list[str], np.ndarray]:
        """Return subjects, their groups, and the means of their codes."""
        subjects = list(dict.fromkeys(self.subjects))
        rows = [[i for i, s in enumerate(self.subjects) if s == subject] for subject in subjects]
        groups = [self.groups[r[0]] for r in rows] if self.groups else []
        return subjects, groups, np.stack([self.means[r].mean(0) for r in rows])


@dataclass(frozen=True, eq=False)
class Sorted:
    """How the codes of groups lie.

    Attributes:
        components: ``(subjects, components)``, canonical ones, of all subjects at once: to be looked at.
        groups: Of each subject.
        accuracy: Share that the classifier names rightly, everything but the fold left out fitted anew in each fold.
        leaked: The same where the projection has seen all subjects, as it has in a picture of them: too good.
        chance: Share of the largest group.
        folds: Of the cross-validation.
    """

    components: np.ndarray
    groups: list[str]
    accuracy: float
    leaked: float
    chance: float
    folds: int


def load(weights: str) -> CVAEMethod:
    """Return the method that weights belong to.

    Raises:
        ConfigError: If there are none, or they are of another method.
    """
    method: LearnedMethod = learned_method(weights)
    if not isinstance(method, CVAEMethod):
        raise ConfigError(f"weights={weights}: belong to {method.kind}, not to cvae; give weights of a CVAE")
    return method


def _read(moving: str | Path, fixed: str | Path | None = None) -> Prepared:
    return prepare(moving=moving, fixed=moving if fixed is None else fixed, init="none")


@dataclass(frozen=True, eq=False)
class _Seen:
    """An image, or a slice of one, on the grid of the weights."""

    pair: Pair
    frame: Frame
    batch: Batch
    model: DiffeomorphicCVAE

    @classmethod
    def all_of(cls, method: CVAEMethod, known: Prepared) -> list[_Seen]:
        """Return the pair, or its slices where the weights are for these."""
        found = []
        for pair in planes(known.pair) if method.slices(known.pair) else [known.pair]:
            frame, batch, model = method.begin(pair)
            assert isinstance(model, DiffeomorphicCVAE)
            found.append(cls(pair, frame, batch, model))
        return found


@torch.no_grad()
def _codes(seen: Sequence[_Seen]) -> Tensor:
    """Return ``(slices or 1, latent)``, the mean codes of a pair."""
    return torch.cat([each.model.encode(each.batch)[0] for each in seen])


@torch.no_grad()
def _decoded(known: Prepared, seen: Sequence[_Seen], codes: Tensor) -> Decoded:
    """Decode codes on the moving image of what was prepared: one, or one for each slice."""
    if len(codes) != len(seen):
        codes = codes.mean(0, keepdim=True).repeat(len(seen), 1)
    fields = [
        each.frame.carried_back(each.model.flow(code[None], each.batch.moving).whole, each.pair)
        for each, code in zip(seen, codes, strict=True)
    ]
    u = fields[0]
    if known.pair.grid.dim > u.shape[1]:
        flat = torch.stack(fields, dim=-1)
        u = torch.cat([flat, torch.zeros_like(flat[:, :1])], dim=1)
    moved = known.moving_scale.invert(warp(known.pair.moving, u))
    return Decoded(
        code=codes[0] if len(seen) == 1 else codes,
        displacement=u,
        warped=moved[0, 0].numpy(),
        jacobian=jacobian_determinant(u)[0].squeeze().numpy(),
        folds=folds(u),
    )


def drawn(
    method: CVAEMethod, image: str | Path, count: int = 6, seed: int = 0, spread: float = 1.0
) -> list[Decoded]:
    """Return deformations of an image whose codes are drawn from the prior.

    Args:
        image: A file; what is deformed, and what the decoder sees.
        count: How many.
        seed: Of the codes.
        spread: Their standard deviation; 1 is the prior's, 0 the mean deformation.
    """
    known = _read(image)
    generator = torch.Generator().manual_seed(seed)
    assert method.weights is not None
    latent = int(method.weights.settings["latent"])
    codes = spread * torch.randn(count, latent, generator=generator)
    seen = _Seen.all_of(method, known)
    return [_decoded(known, seen, code[None]) for code in codes]


def transported(
    method: CVAEMethod, moving: str | Path, fixed: str | Path, onto: str | Path
) -> tuple[Decoded, Decoded]:
    """Return the deformation of a pair on its own moving image, and on another subject's.

    A code of a volume by weights of slices goes over slice by slice if both have as many, else by its mean.
    """
    known, other = _read(moving, fixed), _read(onto)
    seen = _Seen.all_of(method, known)
    codes = _codes(seen)
    return _decoded(known, seen, codes), _decoded(other, _Seen.all_of(method, other), codes)


def encoded(method: CVAEMethod, pairs: Sequence[Mapping[str, str]]) -> Codes:
    """Return the codes of pairs.

    Args:
        pairs: Each with ``moving`` and ``fixed``, perhaps ``subject`` and ``group``; all pairs have a group, or none.
    """
    names: list[str] = []
    subjects: list[str] = []
    groups: list[str] = []
    means = []
    for pair in pairs:
        codes = _codes(_Seen.all_of(method, _read(pair["moving"], pair["fixed"])))
        name = Path(pair["moving"]).name.split(".")[0]
        for k, code in enumerate(codes):
            names.append(name if len(codes) == 1 else f"{name}:{k}")
            subjects.append(pair.get("subject") or name)
            if pair.get("group"):
                groups.append(pair["group"])
            means.append(code.numpy())
    return Codes(names, subjects, groups, np.stack(means))


def sorted_out(codes: Codes, components: int = 5, folds: int = 10, seed: int = 0, reduced: int = 10) -> Sorted:
    """Project the subjects' codes on their canonical components against the groups, and classify by these.

    Codes are longer than there are subjects, so that a correlation of 1 can always be had: ``reduced`` principal
    components come first. Then canonical correlation with the groups, ``components`` of it at most (there are one fewer
    than groups), and a support vector machine; each of ``folds`` parts in turn is left out of all three.

    Raises:
        ConfigError: If scikit-learn is missing, there are no groups, or too few subjects in one.
    """
    try:
        from sklearn.cross_decomposition import CCA
        from sklearn.decomposition import PCA
        from sklearn.model_selection import StratifiedKFold
        from sklearn.svm import SVC
    except ImportError:
        raise ConfigError(
            "encode: sorting by groups needs scikit-learn, which is not installed; `pip install 'mmtk[cvae]'`, or leave "
            "out the column group"
        ) from None
    _, groups, means = codes.of_subjects()
    kinds, counts = np.unique(groups, return_counts=True)
    if len(kinds) < 2 or counts.min() < 2:
        raise ConfigError(
            f"group: {len(kinds)} groups, the smallest of {min(counts, default=0)} subjects; give two groups or more, "
            "of two subjects or more"
        )
    folds = int(min(folds, counts.min()))
    answers = np.asarray(groups)
    splits = list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(means, answers))

    def projection(train: np.ndarray) -> Any:
        smallest = min(reduced, len(train) - 1, means.shape[1])
        principal = PCA(smallest, random_state=seed).fit(means[train])
        indicators = (answers[train][:, None] == kinds).astype(float)
        canonical = CCA(min(components, smallest, len(kinds) - 1), max_iter=5000)
        canonical.fit(principal.transform(means[train]), indicators)
        return lambda rows: canonical.transform(principal.transform(means[rows]))

    def accuracy(project: Any) -> float:
        right = 0
        for train, test in splits:
            seen = project(train)
            machine = SVC().fit(seen(train), answers[train])
            right += int((machine.predict(seen(test)) == answers[test]).sum())
        return right / len(answers)

    everybody = projection(np.arange(len(answers)))
    return Sorted(
        components=everybody(np.arange(len(answers))),
        groups=list(groups),
        accuracy=accuracy(projection),
        leaked=accuracy(lambda train: everybody),
        chance=float(counts.max() / counts.sum()),
        folds=folds,
    )
