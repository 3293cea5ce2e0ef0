"""Coarse to fine: the pyramid, the sampler of its inner loop, and the minimizers."""

from mmtk.optimize.descend import minimize
from mmtk.optimize.lbfgs import Descent, Objective, adam, lbfgs
from mmtk.optimize.pyramid import Axis, Level, level_axes, smooth_and_sample
from mmtk.optimize.sampler import LevelSampler

__all__ = [
    "Axis",
    "Descent",
    "Level",
    "LevelSampler",
    "Objective",
    "adam",
    "lbfgs",
    "level_axes",
    "minimize",
    "smooth_and_sample",
]
