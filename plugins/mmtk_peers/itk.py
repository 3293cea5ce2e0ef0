"""Arrays as SimpleITK's images and back. SimpleITK's arrays have the last axis first; its vectors do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import SimpleITK as sitk

__all__ = ["to_array", "to_image"]


def to_image(array: np.ndarray, spacing: tuple[float, ...]) -> Any:
    """Return ``(*space)`` as an image with its first voxel at 0."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    image.SetSpacing(spacing)
    return image


def to_array(field: Any) -> np.ndarray:
    """Return an image of vectors as ``(*space, dim)``."""
    array = sitk.GetArrayFromImage(field)
    dim = field.GetDimension()
    return np.ascontiguousarray(array.transpose(*reversed(range(dim)), dim)).astype(np.float32)
