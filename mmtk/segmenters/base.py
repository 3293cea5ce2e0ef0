"""What a segmenter is: an image in, a mask of its lesion out.

image   (B, C, *space)   intensities as they were read
mask    (B, 1, *space)   in [0, 1]; 1 within the lesion
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import nn

from mmtk.errors import ConfigError, GridMismatch
from mmtk.types import Image, Mask

__all__ = ["Segmenter"]


class Segmenter(nn.Module, ABC):
    """Finds the lesion of an image.

    A segmenter that is built is ready for use: networks in ``eval`` mode, so that one image has one mask.
    """

    @abstractmethod
    def segment(self, image: Image, spacing: tuple[float, ...]) -> Mask:
        """Return the mask ``(B, 1, *space)`` of an image whose voxels are ``spacing`` mm apart."""

    def forward(self, image: Image, spacing: Sequence[float]) -> Mask:
        """Return the mask of an image.

        Raises:
            ConfigError: The image is not ``(B, C, *space)`` with 2 or 3 axes, or ``spacing`` has not one positive
                value for each axis.
            GridMismatch: The segmenter returned a mask that is not on the image's grid.
        """
        if image.ndim not in (4, 5):
            raise ConfigError(f"image: its shape is {tuple(image.shape)}; expected (B, C, *space), 2-D or 3-D")
        if len(spacing) != image.ndim - 2:
            raise ConfigError(
                f"spacing: {len(spacing)} values for {image.ndim - 2} axes; give one for each, in mm"
            )
        if not all(math.isfinite(h) and h > 0 for h in spacing):
            raise ConfigError(f"spacing: {tuple(spacing)}; give a positive number of mm for each axis")
        mask = self.segment(image, tuple(spacing))
        if mask.shape != image[:, :1].shape:
            raise GridMismatch("mask", mask.shape, "image", image[:, :1].shape)
        return mask
