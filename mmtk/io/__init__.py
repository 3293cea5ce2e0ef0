"""Images, masks, transforms and files: where millimeters, orientations and formats are dealt with.

Nothing here needs torch, so that what is wrong with an input is said before torch is loaded.
"""

from mmtk.io.affines import read_affine
from mmtk.io.files import replacing, sha256, write_bytes, write_json, write_text
from mmtk.io.folders import Making, holds_something, making
from mmtk.io.headers import probe_image
from mmtk.io.images import read_image, write_image
from mmtk.io.locks import held
from mmtk.io.masks import read_mask
from mmtk.io.memory import available_memory, check_memory, check_run_memory, run_memory
from mmtk.io.points import Points, read_points, write_points
from mmtk.io.space import orientation, to_voxels, to_world, total_displacement, voxel_to_voxel
from mmtk.io.transforms import (
    AffineStep,
    FieldStep,
    read_displacement,
    read_transform,
    transform_points,
    write_composite,
    write_displacement,
    write_inverse_transform,
    write_transform,
)
from mmtk.io.volume import Header, Storage, Volume

__all__ = [
    "AffineStep", "FieldStep", "Header", "Making", "Points", "Storage", "Volume", "available_memory",
    "check_memory", "check_run_memory", "held", "holds_something", "making", "orientation", "probe_image",
    "read_affine", "read_displacement", "read_image", "read_mask", "read_points", "read_transform", "replacing",
    "run_memory", "sha256", "to_voxels", "to_world", "total_displacement", "transform_points", "voxel_to_voxel",
    "write_bytes", "write_composite", "write_displacement", "write_image", "write_inverse_transform",
    "write_json", "write_points", "write_text", "write_transform",
]  # fmt: skip
