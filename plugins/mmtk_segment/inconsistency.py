"""What no registration explains is lesion: the residual, and where forth and back do not meet.

The image is registered onto its reference, a healthy one. Where the two show the same anatomy the carried reference
looks like the image, and the map back undoes the map forth; where something appeared or vanished, neither does. That
residual becomes a mask; with several rounds the mask leaves the place out of the next registration, and so on.

    image, reference    on the image's grid and on one scale of intensities
    residual            image minus the reference carried onto it: on the image's side, where a lesion that the
                        registration squeezed to nothing has its whole size

The idea of taking what two registrations do not agree on for a mask is DIRAC's (T. C. W. Mok, A. C. S. Chung, MICCAI
2022). There a network learns it, with a fixed threshold; here it is any method, and thresholds come from the image's own
distribution.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mmtk.config import ComponentConfig
from mmtk.fields import Grid, compose, identity, sample
from mmtk.method import Pair
from mmtk.result import Registration
from mmtk.segmenters import PairSegmenter, Segmentation, entropy
from mmtk.types import Image
from mmtk_segment.evidence import QUIET, brain_of, cut_out, departure, normalized, region, robust_scale, smoothed

__all__ = ["Inconsistency"]

#: A mask whose intensities are nearer to fluid than this, on the way from fluid to the median of the brain, is a cavity.
CAVITY = 0.35
#: Quantile of the brain's intensities that is taken for fluid's.
FLUID = 0.01
#: Probability from which a voxel tells what the lesion is made of.
CORE = 0.9
#: Least deviation of the forward-backward error, mm.
LEAST = 0.2


class Inconsistency(PairSegmenter):
    """See the module; the arguments are the fields of ``InconsistencyConfig``."""

    def __init__(
        self,
        *,
        method: ComponentConfig,
        rounds: int = 1,
        backward: float = 0.0,
        smoothing: float = 2.0,
        threshold: float = 5.0,
        share: float = 0.25,
        components: int = 1,
        smallest: float = 0.3,
    ) -> None:
        super().__init__()
        self.method, self.rounds, self.backward = method, rounds, backward
        self.smoothing, self.threshold, self.share = smoothing, threshold, share
        self.components, self.smallest = components, smallest

    def extra_repr(self) -> str:
        return f"method={self.method.kind}, rounds={self.rounds}, threshold={self.threshold:g}"

    def compare(self, image: Image, reference: Image | None, spacing: tuple[float, ...]) -> Segmentation:
        """Return the mask of each image of the batch by itself."""
        assert reference is not None  # which the base sees to
        found = [
            self._one(one[:1, 0], other[:1, 0], spacing)
            for one, other in zip(image.detach().split(1), reference.detach().split(1), strict=True)
        ]
        masks = torch.stack([torch.from_numpy(mask) for mask, _, _ in found])[:, None].to(image)
        notes = tuple(dict.fromkeys(note for _, _, told in found for note in told))
        histories = {history for _, history, _ in found}
        history = histories.pop() if len(histories) == 1 else "unknown"
        return Segmentation(masks, entropy(masks), notes=notes, history=history)

    def _one(
        self, image: Tensor, reference: Tensor, spacing: tuple[float, ...]
    ) -> tuple[np.ndarray, str, list[str]]:
        ours, theirs = (x[0].float().cpu().numpy() for x in (image, reference))
        brain = brain_of(ours, theirs, spacing)
        empty = np.zeros(ours.shape, np.float32)
        if not brain.any() or not np.ptp(theirs) > 0 or not np.ptp(ours[brain]) > 0:
            return empty, "unknown", ["the image or its reference shows nothing, so no lesion was looked for."]
        # A scan with its skull is compared where the reference has something to compare with.
        ours, theirs = normalized(cut_out(ours, brain)), normalized(theirs)
        grid = Grid(ours.shape, spacing)
        mask = empty
        for _ in range(self.rounds):
            evidence = self._evidence(ours, theirs, brain, mask, grid, image.device)
            mask = region(
                evidence,
                spacing,
                least=self.threshold,
                share=self.share,
                components=self.components,
                smallest=self.smallest,
            )
            if not mask.any():
                told = (
                    f"nothing exceeds {self.threshold:g} robust standard deviations, so no lesion was found; lower "
                    f"`threshold`, or run without a mask."
                )
                return mask, "unknown", [told]
        return mask, _history(ours, mask, brain), []

    def _evidence(
        self,
        ours: np.ndarray,
        theirs: np.ndarray,
        brain: np.ndarray,
        mask: np.ndarray,
        grid: Grid,
        device: torch.device,
    ) -> np.ndarray:
        """Register, and return the evidence, in robust deviations."""
        there = self._register(ours, theirs, mask, grid, device)
        points = identity(grid.shape, device=device) + there.inverse.detach()
        carried = sample(torch.from_numpy(theirs).to(device)[None, None].float(), points)[0, 0].cpu().numpy()
        evidence = np.abs(smoothed(departure(ours, carried, brain), self.smoothing, grid.spacing)) * brain
        evidence = evidence / robust_scale(evidence[brain], QUIET)
        if self.backward:
            back = self._register(theirs, ours, None, grid, device)
            # From the image to its reference by one registration, and back by the other.
            loop = compose(there.inverse.detach(), back.inverse.detach()) * grid.per_axis(points)
            away = smoothed(loop.norm(dim=1)[0].cpu().numpy() * brain, self.smoothing, grid.spacing) * brain
            away = np.maximum(away / robust_scale(away[brain], LEAST) - 1, 0)
            evidence = evidence + self.backward * away * brain
        return evidence

    def _register(
        self, moving: np.ndarray, fixed: np.ndarray, mask: np.ndarray | None, grid: Grid, device: torch.device
    ) -> Registration:
        def lone(array: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).to(device)[None, None]

        covered = None if mask is None or not mask.any() else lone(mask)
        with torch.enable_grad():
            found: Registration = self.method.build().register(Pair(lone(moving), lone(fixed), grid, mask=covered))
        return found


def _history(image: np.ndarray, mask: np.ndarray, brain: np.ndarray) -> str:
    """Return what the lesion probably did to its neighbors: a region of fluid is a cavity, any other has grown."""
    # Its middle: at its border a lesion is half of what surrounds it.
    inside, healthy = mask > (CORE if (mask > CORE).any() else 0.5), image[brain & (mask == 0)]
    if not inside.any() or not healthy.size:
        return "unknown"
    fluid, usual = float(np.quantile(healthy, FLUID)), float(np.median(healthy))
    level = (float(np.median(image[inside])) - fluid) / max(usual - fluid, 1e-6)
    return "collapsed" if level < CAVITY else "grew"
