"""Names for the tensors that cross module borders; each alias is a plain tensor, its axes are told here.

Image          (B, C, *space)    intensities
Mask, Weight   (B, 1, *space)    in [0, 1]
Displacement   (B, dim, *space)  voxels of the grid it lives on, components in array-axis order i, j, k
Scalar         ()                one number that can be differentiated
"""

from __future__ import annotations

from typing import TypeAlias

from torch import Tensor

__all__ = ["Displacement", "Image", "Mask", "Scalar", "Weight"]

Image: TypeAlias = Tensor
Mask: TypeAlias = Tensor
Weight: TypeAlias = Tensor
Displacement: TypeAlias = Tensor
Scalar: TypeAlias = Tensor
