"""A label map as a segmenter: somebody has drawn the lesion, and the map holds more than it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mmtk.errors import InputError
from mmtk.segmenters import Segmentation, Segmenter
from mmtk.segmenters.regions import regions_of
from mmtk.types import Image, Mask

__all__ = ["Labels"]


class Labels(Segmenter):
    """1 where the first channel has one of the labels, else 0; nothing is uncertain.

    Args:
        lesion: Labels that are lesion; empty: all but 0.
        brats: The labels are BraTS's; the regions are told apart, and the mask is the whole tumor.
    """

    def __init__(self, *, lesion: Sequence[int] = (), brats: bool = False) -> None:
        super().__init__()
        self.lesion, self.brats = tuple(lesion), brats

    def segment(self, image: Image, spacing: tuple[float, ...]) -> Mask:
        labels = image[:, :1].detach().round()
        if not self.lesion:
            return (labels != 0).to(image.dtype)
        return torch.isin(labels, labels.new_tensor(self.lesion)).to(image.dtype)

    def _find(self, image: Image, spacing: tuple[float, ...], reference: Image | None) -> Segmentation:
        mask = self.segment(image, spacing)
        regions = {}
        if self.brats:
            try:
                found = regions_of(image[:, :1].detach().cpu().numpy())
            except ValueError as error:
                raise InputError(f"segmenter=labels: {error}") from error
            regions = {name: torch.from_numpy(inside).to(mask) for name, inside in found.items()}
            mask = regions["WT"] if not self.lesion else mask
        return Segmentation(mask, torch.zeros_like(mask), regions)
