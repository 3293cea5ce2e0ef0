"""What a segmenter is: an image in, a mask of its lesion out.

image         (B, C, *space)   intensities as they were read
reference     (B, C', *space)  another image, placed on the image's own grid; the healthy one of a pair
mask          (B, 1, *space)   in [0, 1]; 1 within the lesion. A probability where the segmenter knows one
uncertainty   (B, 1, *space)   in [0, 1]; 1 where the segmenter might as well have tossed a coin
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from mmtk.errors import ConfigError, GridMismatch
from mmtk.types import Image, Mask

__all__ = ["PairSegmenter", "Segmentation", "Segmenter", "entropy"]


@dataclass(frozen=True, eq=False)
class Segmentation:
    """What a segmenter found in an image.

    Attributes:
        mask: ``(B, 1, *space)`` in [0, 1], the lesion: of BraTS's regions, the whole tumor.
        uncertainty: ``(B, 1, *space)`` in [0, 1].
        regions: Probabilities by the name of the region (``ET``, ``TC``, ``WT``), each as the mask; empty where the
            segmenter knows the lesion alone.
        notes: Sentences that a user should read.
        history: What the lesion probably did to its neighbors: ``grew``, ``collapsed`` or ``unknown``. A method that
            can be told so is, where a user leaves the choice.
    """

    mask: Mask
    uncertainty: Mask
    regions: Mapping[str, Mask] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    history: str = "unknown"


def entropy(probability: Tensor) -> Tensor:
    """Return the entropy of a yes or no of that probability, in bits: 0 at 0 and at 1, 1 at 1/2."""
    p = probability.clamp(0, 1)
    return -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p)) / math.log(2)


class Segmenter(nn.Module, ABC):
    """Finds the lesion of an image.

    A segmenter that is built is ready for use: networks in ``eval`` mode, so that one image has one mask. What calls it
    on a scan from a file turns the array first so that its axes point right, forward and up as nearly as they can.
    """

    @abstractmethod
    def segment(self, image: Image, spacing: tuple[float, ...]) -> Mask:
        """Return the mask ``(B, 1, *space)`` of an image whose voxels are ``spacing`` mm apart."""

    def find(self, image: Image, spacing: Sequence[float], reference: Image | None = None) -> Segmentation:
        """Return the mask and what else is known; a segmenter that knows more than the mask overrides :meth:`_find`.

        Args:
            image: ``(B, C, *space)``.
            spacing: mm along each axis.
            reference: ``(B, C', *space)``, for a segmenter that compares; others do not look at it.

        Raises:
            ConfigError: The image is not ``(B, C, *space)`` with 2 or 3 axes, ``spacing`` has not one positive value
                for each axis, or the segmenter needs a reference and was given none.
            GridMismatch: The reference, or the mask that the segmenter returned, is not on the image's grid.
        """
        if image.ndim not in (4, 5):
            raise ConfigError(f"image: its shape is {tuple(image.shape)}; expected (B, C, *space), 2-D or 3-D")
        if len(spacing) != image.ndim - 2:
            raise ConfigError(
                f"spacing: {len(spacing)} values for {image.ndim - 2} axes; give one for each, in mm"
            )
        if not all(math.isfinite(h) and h > 0 for h in spacing):
            raise ConfigError(f"spacing: {tuple(spacing)}; give a positive number of mm for each axis")
        if reference is not None and reference.shape[2:] != image.shape[2:]:
            raise GridMismatch("reference", reference.shape, "image", image.shape)
        found = self._find(image, tuple(spacing), reference)
        for name, map_ in {"mask": found.mask, "uncertainty": found.uncertainty, **found.regions}.items():
            if map_.shape != image[:, :1].shape:
                raise GridMismatch(name, map_.shape, "image", image[:, :1].shape)
        return found

    def _find(self, image: Image, spacing: tuple[float, ...], reference: Image | None) -> Segmentation:
        mask = self.segment(image, spacing)
        return Segmentation(mask, entropy(mask))

    def forward(self, image: Image, spacing: Sequence[float], reference: Image | None = None) -> Mask:
        """Return the mask of an image; see :meth:`find`."""
        return self.find(image, spacing, reference).mask


class PairSegmenter(Segmenter):
    """Finds the lesion of an image by what differs from another one, its reference.

    The reference shows the same anatomy without the lesion: a template, or the same head before. It is placed (affinely,
    at least) on the image's grid; background is where it is 0.

    Attributes:
        alone: Whether an image without a reference has a mask, too.
    """

    alone: ClassVar[bool] = False

    @abstractmethod
    def compare(self, image: Image, reference: Image | None, spacing: tuple[float, ...]) -> Segmentation:
        """Return what is found; ``reference`` is None only for a segmenter that can do without."""

    def segment(self, image: Image, spacing: tuple[float, ...]) -> Mask:
        """Return the mask of an image without a reference."""
        return self._find(image, spacing, None).mask

    def _find(self, image: Image, spacing: tuple[float, ...], reference: Image | None) -> Segmentation:
        if reference is None and not self.alone:
            raise ConfigError(
                f"{type(self).__name__}: compares the image with another one, and none was given; give a healthy "
                f"image of the same grid as `reference`, or choose a segmenter that looks at one image alone"
            )
        return self.compare(image, reference, spacing)
