"""What a careful reader would ask about: each doubt is a sentence with what was seen and what to do.

Doubts come from numbers and from a few planes of the result; nothing here looks at a whole volume more than once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from mmtk.io.space import as_numpy
from mmtk.report.findings import Findings, Live, findings_of
from mmtk.report.tables import number, told
from mmtk.result import Outcome

__all__ = ["Doubt", "doubts"]

#: Where a doubt begins; see the sentences below.
LEAST_DETERMINANT, MOST_DETERMINANT = 0.1, 10.0
LEAST_ON_TISSUE = 0.5
BORDER_MM, BORDER_SHARE = 3.0, 0.3
KEPT = (0.5, 2.0)

RANKS = ("grave", "doubt", "note")


@dataclass(frozen=True)
class Doubt:
    """A sentence for the reader.

    Attributes:
        text: What was seen, and what to do.
        rank: ``grave`` if the result should not be used without an answer, ``doubt``, or ``note`` for information.
    """

    text: str
    rank: Literal["grave", "doubt", "note"] = "doubt"


def doubts(result: Live | Findings) -> list[Doubt]:
    """Return what smells, the gravest first, and at the end the notes that the run itself left."""
    seen = findings_of(result)
    numbers = seen.metrics
    found = [*_outcome(seen), *_match(numbers), *_regularity(numbers), *_lesion(seen), *_shares(numbers)]
    found += [*_border(seen), *_placement(seen)]
    found += [Doubt(text, "note") for text in dict.fromkeys([*seen.gone, *seen.notes])]
    return sorted(found, key=lambda doubt: RANKS.index(doubt.rank))


def _outcome(result: Findings) -> Iterator[Doubt]:
    outcome = result.outcome
    if not outcome.ok:
        yield Doubt(f"The optimization failed: {outcome.value}.", "grave")
    elif outcome is Outcome.EXHAUSTED:
        # How a run with a fixed number of iterations ends: nothing is wrong.
        yield Doubt(
            "Every iteration was used. If the curve of the energy still falls, raise `iterations`.", "note"
        )


def _match(metrics: Mapping[str, Any]) -> Iterator[Doubt]:
    before, after = (told(metrics, "similarity", f"squared_error_outside{end}") for end in ("_before", ""))
    if before is not None and after is not None and after > before:
        yield Doubt(
            f"By squared error the match is worse than the affine alone gives: {number(before)} became "
            f"{number(after)}. Expect that only where the intensities of the two images are not comparable."
        )


def _regularity(metrics: Mapping[str, Any]) -> Iterator[Doubt]:
    folds = told(metrics, "deformation", "folds")
    least, most = (told(metrics, "deformation", f"jacobian_{end}") for end in ("min", "max"))
    if folds:
        voxels = "voxel" if folds == 1 else "voxels"
        yield Doubt(
            f"The deformation folds in {number(int(folds))} {voxels}: it has no inverse there. Raise the weight "
            f"of the regularity, sigma, or the number of steps.",
            "grave",
        )
    elif least is not None and least < LEAST_DETERMINANT:
        yield Doubt(
            f"The deformation comes close to folding: the smallest determinant is {number(least)}. Look at the "
            f"log2 Jacobian where it is bluest."
        )
    if most is not None and most > MOST_DETERMINANT:
        yield Doubt(
            f"Tissue is shrunk {number(most)} times in volume at one place. Look at the log2 Jacobian where it is "
            f"brightest."
        )


def _lesion(result: Findings) -> Iterator[Doubt]:
    if result.mask is not None and result.moving is not None:
        share = _on_tissue(result.moving.data, result.mask.data)
        if share < LEAST_ON_TISSUE:
            yield Doubt(
                f"Only {100 * share:.0f} % of the lesion mask lies on tissue of the moving image. Does the mask "
                f"belong to this image, and does its header say where it lies?",
                "grave",
            )
    if result.lesion is None:
        return
    warped = as_numpy(result.lesion)
    if not (warped > 0.5).any():
        yield Doubt(
            "Nothing of the lesion is left on the fixed grid: it collapsed, or the images are not placed over "
            "each other.",
            "grave",
        )
        return
    if result.fixed is not None:
        share = _on_tissue(result.fixed.data, warped)
        if share < LEAST_ON_TISSUE:
            yield Doubt(
                f"Only {100 * share:.0f} % of the warped lesion lies on tissue of the fixed image. Are the two "
                f"placed over each other? Compare \u201cfixed\u201d and \u201cmoving\u201d."
            )
    kept = told(result.metrics, "lesion", "volume_kept")
    if kept is not None and not KEPT[0] <= kept <= KEPT[1]:
        yield Doubt(
            f"The lesion has {100 * kept:.0f} % of its volume after warping, affine included. That is right for a "
            f"mass that collapses or for heads of different size, and wrong for a lesion that replaced tissue."
        )


def _on_tissue(image: np.ndarray, mask: np.ndarray) -> float:
    """Return the share of a mask where an image differs from its background, the value of its first corner."""
    under = image[mask > 0.5]
    return float((under != image[(0,) * image.ndim]).mean()) if len(under) else 0.0


def _shares(metrics: Mapping[str, Any]) -> Iterator[Doubt]:
    outside = told(metrics, "disentanglement", "appearance_outside_mask")
    share = told(metrics, "disentanglement", "share_explained_by_shape")
    if outside:
        yield Doubt(f"The appearance changes outside the mask, by up to {number(outside)}.", "grave")
    if share is not None and share < 0.5:
        yield Doubt(
            f"Appearance explains more of the change than shape does ({100 * (1 - share):.0f} %). If the lesion "
            f"is small, compare the panels \u201cwarped\u201d and \u201cshape only\u201d near it."
        )


def _border(result: Findings) -> Iterator[Doubt]:
    u, spacing = result.displacement, result.space.spacing
    scale = torch.tensor(spacing, dtype=u.dtype, device=u.device)
    faces = [u.select(axis + 1, end) for axis in range(len(spacing)) for end in (0, u.shape[axis + 1] - 1)]
    border = max(
        float(torch.linalg.vector_norm(f * scale.view(-1, *[1] * (f.ndim - 1)), dim=0).max()) for f in faces
    )
    most = told(result.metrics, "deformation", "displacement_max_mm") or border
    if border > max(BORDER_MM, BORDER_SHARE * most):
        yield Doubt(
            f"The displacement reaches {border:.1f} mm at the edge of the fixed image. Does the head reach beyond "
            f"it? If so, crop both images alike or give a larger fixed image."
        )


def _placement(result: Findings) -> Iterator[Doubt]:
    asked = str(result.settings.get("init", ""))
    refused = asked in ("center", "rigid", "affine") and result.placement != asked
    if refused and not result.placement_note:
        yield Doubt(f"init={asked} was asked for, but did not improve on {result.placement}, which was kept.")
    size = float(result.scaling ** (1 / result.space.dim))
    if not 0.7 < size < 1.4:
        yield Doubt(
            f"The affine changes lengths by a factor of {number(size)} on average. Are both images of one kind, "
            f"and are their spacings right?"
        )
