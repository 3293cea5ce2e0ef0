"""Grids, differences, warps and kernels: what every equation and every cost stands on."""

from mmtk.fields.differences import divergence, gradient, jacobian, jacobian_determinant
from mmtk.fields.fill import filled
from mmtk.fields.grid import Grid, identity
from mmtk.fields.kernels import Gaussian, Kernel, Smoother, Sobolev, Sum, fast_length
from mmtk.fields.lattice import Lattice, along_axes
from mmtk.fields.warp import compose, exponential, folds, invert, sample, squarings_needed, warp

__all__ = [
    "Gaussian", "Grid", "Kernel", "Lattice", "Smoother", "Sobolev", "Sum", "along_axes", "compose", "divergence",
    "exponential", "fast_length", "filled", "folds", "gradient", "identity", "invert", "jacobian",
    "jacobian_determinant", "sample", "squarings_needed", "warp",
]  # fmt: skip
