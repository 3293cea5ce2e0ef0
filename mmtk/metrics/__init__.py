"""What is measured when a registration is done: plain functions, each of which defines its number exactly."""

from mmtk.metrics.base import Metric
from mmtk.metrics.disentanglement import (
    MassEffect,
    appearance_energy_outside,
    appearance_leak,
    lesion_volume_kept,
    mass_effect,
    shape_share,
)
from mmtk.metrics.distances import (
    InverseConsistencyError,
    LandmarkErrors,
    endpoint_error,
    endpoint_errors,
    inverse_consistency_error,
    landmark_errors,
)
from mmtk.metrics.intensities import Moments, SquaredErrors, correlation, squared_error, squared_errors, total
from mmtk.metrics.overlap import SurfaceDistance, dice, mean_dice, surface_distances
from mmtk.metrics.topology import fold_count, log_deviation, nondiffeomorphic_volume, sdlogj, sdlogj_learn2reg
from mmtk.metrics.truth import edge_error, truth_errors, visible_edges

__all__ = [
    "InverseConsistencyError", "LandmarkErrors", "MassEffect", "Metric", "Moments", "SquaredErrors", "SurfaceDistance",
    "appearance_energy_outside", "appearance_leak", "correlation", "dice", "edge_error", "endpoint_error",
    "endpoint_errors", "fold_count", "inverse_consistency_error", "landmark_errors", "lesion_volume_kept",
    "log_deviation", "mass_effect", "mean_dice", "nondiffeomorphic_volume", "sdlogj", "sdlogj_learn2reg",
    "shape_share", "squared_error", "squared_errors", "surface_distances", "total", "truth_errors", "visible_edges",
]  # fmt: skip
