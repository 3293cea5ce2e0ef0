"""What is measured when a registration is done: plain functions, each of which defines its number exactly."""

from mmtk.metrics.disentanglement import appearance_energy_outside, lesion_volume_kept, shape_share
from mmtk.metrics.distances import (
    InverseConsistencyError,
    LandmarkErrors,
    endpoint_error,
    endpoint_errors,
    inverse_consistency_error,
    landmark_errors,
)
from mmtk.metrics.intensities import SquaredErrors, squared_error, squared_errors
from mmtk.metrics.overlap import SurfaceDistance, dice, mean_dice, surface_distances
from mmtk.metrics.topology import fold_count, nondiffeomorphic_volume, sdlogj, sdlogj_learn2reg

__all__ = [
    "InverseConsistencyError", "LandmarkErrors", "SquaredErrors", "SurfaceDistance", "appearance_energy_outside",
    "dice", "endpoint_error", "endpoint_errors", "fold_count", "inverse_consistency_error", "landmark_errors",
    "lesion_volume_kept", "mean_dice", "nondiffeomorphic_volume", "sdlogj", "sdlogj_learn2reg", "shape_share",
    "squared_error", "squared_errors", "surface_distances",
]  # fmt: skip
