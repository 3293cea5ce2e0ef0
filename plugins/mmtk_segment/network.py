"""A trained network as a segmenter: windows slide over the scan, flips are averaged, and their spread is told.

    scan          (B, C, *space)         any spacing; its axes point right, forward and up, as nearly as they can
    inputs        (B, modalities, *n)    on the spacing of training, each channel scaled as in training
    probability   (B, outputs, *n)       mean over windows and flips, brought back onto the scan's grid

Flips at test time and their mean are Isensee et al.'s (nnU-Net, doi:10.1038/s41592-020-01008-z); the windows
are MONAI's.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmtk.errors import ConfigError
from mmtk.segmenters import Segmentation, Segmenter, entropy
from mmtk.segmenters.regions import REGIONS
from mmtk.segmenters.weights import SegmenterWeights, logits_of
from mmtk.types import Image, Mask

__all__ = ["LABELED", "Network", "probabilities", "scaled"]

#: Labels of which each region consists, where a network tells labels apart.
LABELED = {"ET": ("3", "4"), "TC": ("1", "3", "4"), "WT": ("1", "2", "3", "4")}
#: Quantile of the foreground that ``robust`` scales to 1.
HIGH = 0.995


class Network(Segmenter):
    """See the module; the arguments are the fields of ``NetworkConfig``.

    Raises:
        ConfigError: There are no weights, or they do not fit.
    """

    def __init__(
        self,
        *,
        weights: str | None = None,
        flips: bool = True,
        overlap: float = 0.5,
        patch: Sequence[int] | None = None,
        batch: int = 1,
        fewest: int = 20,
        uncertainty: str = "entropy",
        region: str = "WT",
    ) -> None:
        super().__init__()
        if weights is None:
            raise ConfigError(
                "segmenter=network: no weights; give segmenter.weights=FILE, or a bundle that holds them"
            )
        from mmtk.learned import find_weights
        from mmtk.plugins import installed

        self.weights = SegmenterWeights.load(find_weights(weights))
        packages = {offer.config.target.partition(".")[0] for offer in installed().offers()}
        self.network = self.weights.build(packages | {plugin.name for plugin in installed().plugins})
        self.patch = tuple(patch or self.weights.patch)
        if len(self.patch) != self.weights.dim:
            raise ConfigError(f"patch: {len(self.patch)} values; the network works on {self.weights.dim} axes")
        self.flips, self.overlap, self.batch, self.fewest = flips, overlap, batch, fewest
        self.spread, self.region = uncertainty == "spread", region

    def extra_repr(self) -> str:
        taken = "+".join(self.weights.modalities)
        return f"{self.weights.network}, {taken} -> {'+'.join(self.weights.outputs)}, flips={self.flips}"

    def segment(self, image: Image, spacing: tuple[float, ...]) -> Mask:
        """Return the probability of the region that was asked for."""
        return self._find(image, spacing, None).mask

    @torch.no_grad()
    def _find(self, image: Image, spacing: tuple[float, ...], reference: Image | None) -> Segmentation:
        known = self.weights
        if image.shape[1] != len(known.modalities):
            raise ConfigError(
                f"image: {image.shape[1]} channels; the network takes {len(known.modalities)}: "
                f"{', '.join(known.modalities)}"
            )
        if image.ndim - 2 != known.dim:
            raise ConfigError(f"image: {image.ndim - 2}-D; the network was trained on {known.dim}-D images")
        shape = tuple(image.shape[2:])
        plain = image.detach().to(torch.float32)
        there = torch.cat([scaled(one, known.normalize) for one in plain.split(1)])
        size = [max(1, round(n * h / t)) for n, h, t in zip(shape, spacing, known.spacing, strict=True)]
        there = _resized(there, size)
        flips = self._flips(image.ndim)
        names: list[str] = []
        first = second = torch.zeros(())
        for axes in flips:
            chance = probabilities(self._windows(there.flip(axes)), known.activation).flip(axes)
            found = self._regions(chance)
            names, regions = list(found), torch.cat(list(found.values()), 1)
            first, second = first + regions, second + regions.square()
        mean = first / len(flips)
        deviation = (second / len(flips) - mean.square()).clamp_min(0).sqrt()
        mean, deviation = (_resized(x, shape).clamp(0, 1).to(image.dtype) for x in (mean, deviation))
        found = {name: mean[:, at : at + 1] for at, name in enumerate(names)}
        found = self._without_small(found)
        at = names.index(self.region) if self.region in names else len(names) - 1
        mask = found[names[at]]
        doubt = (2 * deviation[:, at : at + 1]).clamp(0, 1) if self.spread else entropy(mask)
        return Segmentation(mask, doubt, found if len(found) > 1 else {})

    def _flips(self, ndim: int) -> list[list[int]]:
        axes = range(2, ndim)
        if not self.flips:
            return [[]]
        return [list(some) for n in range(ndim - 1) for some in itertools.combinations(axes, n)]

    def _windows(self, image: Tensor) -> Tensor:
        from monai.inferers import sliding_window_inference

        return sliding_window_inference(
            image,
            roi_size=self.patch,
            sw_batch_size=self.batch,
            predictor=lambda window: logits_of(self.network(window)),
            overlap=self.overlap,
            mode="gaussian",
            padding_mode="constant",
        )

    def _regions(self, chance: Tensor) -> dict[str, Tensor]:
        """Return the probability of each region, from the innermost to the outermost."""
        outputs = self.weights.outputs
        if not self.weights.labeled:
            return {name: chance[:, at : at + 1] for at, name in enumerate(outputs)}
        if set(outputs) - {"0", "1", "2", "3", "4"} or len(outputs) < 3:
            lesion = [at for at, name in enumerate(outputs) if name != "0"]
            return {"lesion": chance[:, lesion].sum(1, keepdim=True)}
        members = {name: [at for at, o in enumerate(outputs) if o in LABELED[name]] for name in REGIONS}
        return {name: chance[:, at].sum(1, keepdim=True) for name, at in members.items()}

    def _without_small(self, found: dict[str, Tensor]) -> dict[str, Tensor]:
        """Turn an enhancing tumor of few voxels into tumor core, in each image of the batch (thesis, 3.5.1)."""
        if not {"ET", "TC"} <= set(found) or not self.fewest:
            return found
        voxels = (found["ET"] >= 0.5).flatten(1).sum(1)
        small = (voxels < self.fewest).view(-1, *[1] * (found["ET"].ndim - 1))
        core = torch.where(small, torch.maximum(found["ET"], found["TC"]), found["TC"])
        return {**found, "ET": torch.where(small, torch.zeros_like(core), found["ET"]), "TC": core}


def scaled(image: Tensor, how: str) -> Tensor:
    """Return one image ``(1, C, *space)`` with each channel scaled over what differs from 0; the background stays 0.

    Args:
        how: ``zscore``, ``robust`` (to [0, 1]) or ``none``.
    """
    if how == "none":
        return image
    channels = []
    for channel in image.split(1, 1):
        inside = channel != 0
        values = channel[inside]
        if values.numel() < 2 or not bool(values.max() > values.min()):
            channels.append(torch.zeros_like(channel))
        elif how == "zscore":
            channels.append(torch.where(inside, (channel - values.mean()) / values.std(), 0 * channel))
        else:
            low, high = values.min(), _quantile(values, HIGH)
            channels.append(torch.where(inside, (channel - low) / (high - low).clamp_min(1e-12), 0 * channel))
    return torch.cat(channels, 1)


def _quantile(values: Tensor, share: float) -> Tensor:
    """Return a quantile of any number of values, which torch.quantile does not."""
    return values.kthvalue(max(1, round(share * values.numel()))).values


def probabilities(logits: Tensor, activation: str) -> Tensor:
    """Return what a network's answer means."""
    if activation == "sigmoid":
        return logits.sigmoid()
    return logits.softmax(1) if activation == "softmax" else logits.clamp(0, 1)


def _resized(image: Tensor, size: Sequence[int]) -> Tensor:
    """Return an image on as many voxels of another size, whose first and last have the same outer faces."""
    if tuple(image.shape[2:]) == tuple(size):
        return image
    mode = "trilinear" if image.ndim == 5 else "bilinear"
    if all(n <= m for n, m in zip(size, image.shape[2:], strict=True)) and image.dtype.is_floating_point:
        area: Tensor = F.interpolate(image, size=tuple(size), mode="area")
        return area
    back: Tensor = F.interpolate(image, size=tuple(size), mode=mode, align_corners=False)
    return back
