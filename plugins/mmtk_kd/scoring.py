"""What a network makes of whole heads, and how good that is: Dice and Hausdorff distance of ET, TC and WT.

Patches overlap by a quarter and are blended, by MONAI's sliding window. An enhancing tumor of fewer than 20 voxels
becomes core (thesis 3.5.2); 20 voxels of BraTS's 1 mm, so 20 mm^3, and a voxel at least.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmtk.segmenters.regions import FEWEST, REGIONS, labels_of, regions_of, without_small_core
from mmtk_kd.networks import CLASSES

__all__ = ["judge", "paired", "score", "segment"]


@torch.no_grad()
def segment(
    network: nn.Module,
    image: Tensor,
    patch: Sequence[int],
    *,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    present: Sequence[int] | None = None,
    half: bool = False,
) -> np.ndarray:
    """Return the label map of a head.

    Args:
        network: Returns logits of :data:`mmtk_kd.networks.CLASSES`.
        image: ``(modalities, *space)``: what the network sees.
        spacing: mm, for what is too small to be enhancing.
        present: Which modalities these are, for a network that takes any.
        half: Convolve in bfloat16.
    """
    from monai.inferers import sliding_window_inference

    network.eval()

    def logits(windows: Tensor) -> Tensor:
        with torch.autocast(windows.device.type, torch.bfloat16, enabled=half):
            answer: Tensor = network(windows) if present is None else network(windows, present)
        return answer.float()

    found = sliding_window_inference(image[None], tuple(patch), 1, logits, overlap=0.25, mode="gaussian")
    assert isinstance(found, Tensor)
    index = found[0].argmax(0).cpu().numpy()
    labels = np.array(CLASSES, np.uint8)[index]
    fewest = max(1, round(FEWEST / math.prod(spacing)))
    return labels_of(without_small_core(regions_of(labels), fewest))


def score(found: np.ndarray, truth: np.ndarray, spacing: Sequence[float]) -> dict[str, float]:
    """Return ``dice_et``, ``hausdorff_et``, ``hd95_et`` and so on of two label maps.

    Distances are between surfaces, in mm: the largest (thesis 2.4.2), and the 95th percentile. A region that one of the
    two lacks is as far as the image's diagonal; one that both lack has a Dice of 1 and a distance of 0.

    Args:
        spacing: mm along each axis.
    """
    ours, theirs = regions_of(found), regions_of(truth)
    result = {}
    for name in REGIONS:
        a, b = ours[name], theirs[name]
        both = int(a.sum()) + int(b.sum())
        result[f"dice_{name.lower()}"] = 1.0 if both == 0 else 2 * int((a & b).sum()) / both
        result[f"hausdorff_{name.lower()}"], result[f"hd95_{name.lower()}"] = _hausdorff(a, b, spacing)
    return result


def _hausdorff(a: np.ndarray, b: np.ndarray, spacing: Sequence[float]) -> tuple[float, float]:
    """Return the larger of the two directed maxima between the surfaces, and of the 95th percentiles, mm."""
    from scipy.ndimage import binary_erosion, distance_transform_edt

    if not (a.any() or b.any()):
        return 0.0, 0.0
    if not (a.any() and b.any()):
        diagonal = float(np.linalg.norm(np.array(a.shape) * spacing))
        return diagonal, diagonal
    where = np.argwhere(a | b)
    box = tuple(slice(low, high + 1) for low, high in zip(where.min(0), where.max(0), strict=True))
    padded = [np.pad(region[box], 1) for region in (a, b)]
    edges = [region & ~binary_erosion(region) for region in padded]
    far = [distance_transform_edt(~other, sampling=spacing)[edge] for edge, other in (edges, edges[::-1])]
    return max(float(f.max()) for f in far), max(float(np.percentile(f, 95)) for f in far)


def paired(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
    """Return the mean difference of two methods on the same heads, and p of the paired t-test (thesis 3.5.6)."""
    from scipy.stats import ttest_rel

    difference = np.asarray(ours, float) - np.asarray(theirs, float)
    if len(difference) < 2 or not difference.any():
        return float(difference.mean()) if len(difference) else 0.0, 1.0
    return float(difference.mean()), float(ttest_rel(ours, theirs).pvalue)


def judge(
    network: nn.Module, weights: Any, heads: Any, modalities: Sequence[int], half: bool
) -> list[dict[str, float]]:
    """Return the scores of a network on whole heads, one mapping each.

    Args:
        weights: Its :class:`mmtk.segmenters.weights.SegmenterWeights`.
        heads: A set of :class:`mmtk_kd.data.Heads`.
        modalities: Which of the four it sees.
    """
    present = list(modalities) if getattr(network, "hetero_modal", False) else None
    scores = []
    for index in range(len(heads)):
        item = heads[index]
        found = segment(
            network, item["image"][list(modalities)], weights.patch,
            spacing=heads.spacing, present=present, half=half,
        )  # fmt: skip
        truth = np.array(CLASSES, np.uint8)[item["labels"][0].numpy()]
        scores.append(score(found, truth, heads.spacing))
    return scores
