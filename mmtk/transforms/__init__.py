"""Transforms as objects: chained, inverted, applied to points and images by one interpolation."""

from mmtk.transforms.layers import Layers, read_layers
from mmtk.transforms.load import load_transform
from mmtk.transforms.resampling import Resampled, resample
from mmtk.transforms.transform import InverseFieldStep, PairedFieldStep, Transform

__all__ = [
    "InverseFieldStep", "Layers", "PairedFieldStep", "Resampled", "Transform", "load_transform", "read_layers",
    "resample",
]  # fmt: skip
