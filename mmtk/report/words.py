"""What the numbers and the files of a run mean, in a phrase each, for who meets them first on the page."""

from __future__ import annotations

__all__ = ["FILES", "METRICS", "SECTIONS", "STAGES"]

#: Titles of the groups of ``metrics.json``, and their order; others follow under their own names.
SECTIONS = {
    "truth": "Against the truth",
    "similarity": "Similarity",
    "overlap": "Overlap of labels",
    "landmarks": "Landmarks",
    "deformation": "Deformation",
    "lesion": "Lesion",
    "mask": "The mask, as found",
    "mask_sensitivity": "If the mask were another",
    "disentanglement": "Shape against appearance",
    "cost": "Cost",
}

#: Name and meaning of each metric; one that is not here is shown under its own name.
METRICS = {
    "squared_error_outside": (
        "squared error outside the lesion",
        "sum over voxels of (fixed − shape only)², normalized intensity; the smaller, the better",
    ),
    "squared_error_inside": (
        "squared error inside the lesion",
        "sum of (fixed − warped)² under the warped mask; small where the appearance made up for the lesion",
    ),
    "squared_error_inside_shape_only": (
        "the same, shape only",
        "sum of (fixed − shape only)² under the warped mask: what the deformation alone left there",
    ),
    "correlation_outside": (
        "correlation outside the lesion",
        "Pearson's, of fixed and shape only; 1 is a perfect match up to brightness and contrast",
    ),
    "folds": ("folds", "voxels where the map is not invertible (determinant ≤ 0); should be 0"),
    "jacobian_min": (
        "smallest determinant",
        "strongest local stretch of moving tissue, a run's affine left out; > 0",
    ),
    "jacobian_max": ("largest determinant", "strongest local shrinkage of moving tissue, a run's affine left out"),
    "sdlogj": ("SDlogJ", "standard deviation of the log determinant; 0 is rigid, the smaller, the smoother"),
    "displacement_mean_mm": ("mean displacement, mm", "how far the deformation reaches; a run's affine left out"),
    "displacement_max_mm": ("largest displacement, mm", "the same where it is largest"),
    "inverse_consistency_mean_mm": (
        "mean inverse consistency error, mm",
        "how far a point ends from its start after the map and its inverse",
    ),
    "inverse_consistency_max_mm": ("largest inverse consistency error, mm", "the same where it is largest"),
    "sdlogj_learn2reg": (
        "SDlogJ of Learn2Reg",
        "the same as that challenge computes it, for its tables; hardly sees folds",
    ),
    "nondiffeomorphic_volume": (
        "non-diffeomorphic volume, mm\u00b3",
        "that the map turns inside out between voxels (mm\u00b2 in 2-D); should be 0",
    ),
    "mass_effect": (
        "mass effect",
        "how much smaller tissue within 10 mm of the lesion is in the moving image; below 0: it sank into the lesion",
    ),
    "mass_effect_ml": ("mass effect, ml", "the same as a volume"),
    "uncertain_ml": ("in doubt, ml", "volume that the segmenter calls lesion with a chance of 0.11 to 0.89"),
    "mean_uncertainty": (
        "mean uncertainty",
        "within the mask: entropy of its probability in bits; 0 is sure, 1 a coin's",
    ),
    **{
        f"{mask}_{where}_mm": (
            f"{words}, {place}, mm",
            f"mean change of the displacement {place} the mask if it is {told}; small is good",
        )
        for mask, words, told in (
            ("dilated", "mask dilated", "dilated by 3 mm"),
            ("eroded", "mask eroded", "eroded by 3 mm"),
            ("left_out", "no mask", "left out"),
        )
        for where, place in (("near", "within 10 mm of"), ("far", "beyond 10 mm of"))
    },
    "volume_ml": ("lesion volume, ml", "of the mask given, in the moving image"),
    "warped_volume_ml": ("warped lesion volume, ml", "of the mask carried onto the fixed image, affine included"),
    "volume_kept": ("volume kept", "warped over given volume, affine included; 1 is kept, 0 is collapsed"),
    "appearance_outside_mask": (
        "appearance outside the mask",
        "largest change of intensity where none is allowed; must be exactly 0",
    ),
    "appearance_energy_outside": (
        "appearance energy outside the mask",
        "integral of the squared intensity change where none is allowed; 0 if only the lesion changed",
    ),
    "appearance_leak": (
        "appearance leaked",
        "share of the squared intensity change that lies outside the mask; 0 if only the lesion changed",
    ),
    "share_explained_by_shape": (
        "share explained by shape",
        "of the squared change from moving to warped, the part made by the deformation; 1 is all of it",
    ),
    "dice_mean": ("mean Dice", "overlap of warped and fixed labels, mean over labels; 1 is the same regions"),
    "dice": ("Dice", "overlap of warped and fixed labels; 1 is the same region"),
    "hd95_mean_mm": ("mean HD95, mm", "95th percentile of the distances between the labels' surfaces"),
    "surface_distance_mean_mm": (
        "mean surface distance, mm",
        "between the labels' surfaces, mean over labels in both maps",
    ),
    "surface_dice_mean": (
        "surface Dice",
        "share of the surfaces that lies within the tolerance of the other; 1 is all",
    ),
    "labels_missing": ("labels missing", "that only one of the label maps has; their distances are left out"),
    "hd95": ("HD95, mm", "95th percentile of the distances between the two surfaces"),
    "surface_distance": ("surface distance, mm", "mean distance between the two surfaces"),
    "labels": ("labels compared", "that occur in either label map"),
    "outside_mm": ("error outside the lesion, mm", "mean distance to the true displacement, within the head"),
    "median_mm": ("median error outside the lesion, mm", "half of the voxels outside the lesion err by less"),
    "near_mm": ("error near the lesion, mm", "the mean within 10 mm of it, where its mass effect is"),
    "far_mm": ("error far from the lesion, mm", "the mean over the rest"),
    "inside_mm": ("error inside the lesion, mm", "where tissue may have no counterpart: means little"),
    "edges_mm": ("error across visible edges, mm", "along the image's gradient, where an error can be seen"),
    "endpoint_error_outside_mm": ("error outside the lesion, mm", "mean distance to the true displacement"),
    "endpoint_error_inside_mm": ("error inside the lesion, mm", "mean distance to the true displacement"),
    "landmark_error_median_mm": ("median landmark error, mm", "distance of carried landmarks to their twins"),
    "landmark_error_mean_mm": ("mean landmark error, mm", "distance of carried landmarks to their twins"),
    "landmark_error_x_mm": (
        "landmark error along x, mm",
        "mean of its size, in 3-D from left to right",
    ),
    "landmark_error_y_mm": (
        "landmark error along y, mm",
        "mean of its size, in 3-D from back to front",
    ),
    "landmark_error_z_mm": (
        "landmark error along z, mm",
        "mean of its size, in 3-D from feet to head",
    ),
    "landmark_error_max_mm": ("largest landmark error, mm", "distance of the worst landmark to its twin"),
    "landmarks": ("landmarks compared", "in both files"),
    "seconds": ("time, s", "from reading to writing"),
    "peak_memory_mb": ("peak memory, MB", "of the whole process"),
    "robustness": ("robustness", "share of landmarks that came nearer to their twins"),
}

#: What a stage of the run does.
STAGES = {
    "segment": "looking for the lesion",
    "mask sensitivity": "registering with other masks",
    "prepare": "read, place affinely, normalize",
    "register": "optimize",
    "warp": "sample the native images, measure",
    "write": "write images and transforms",
    "report": "this page",
}

_VIEWER = "any NIfTI viewer (ITK-SNAP, 3D Slicer, FSLeyes), over the fixed image"

#: What each file of a run is, and how it is opened; ``{dim}`` is 2 or 3.
FILES = {
    "mask.nii.gz": (
        "probability of the lesion that the segmenter found, on the moving grid",
        "ITK-SNAP, 3D Slicer",
    ),
    "mask_uncertainty.nii.gz": ("where it is in doubt, 0 to 1", "ITK-SNAP, 3D Slicer"),
    "warped.nii.gz": ("moving image, shape and appearance changed, on the fixed grid", _VIEWER),
    "deformed.nii.gz": ("moving image, shape changed only", _VIEWER),
    "appearance.nii.gz": ("intensity change, in the moving image's unit; 0 outside the warped mask", _VIEWER),
    "warped_mask.nii.gz": ("lesion mask carried onto the fixed grid, 0 to 1", _VIEWER),
    "warped_labels.nii.gz": ("label map carried onto the fixed grid, by nearest neighbor", _VIEWER),
    "jacobian.nii.gz": ("determinant of the whole map, affine included; above 1 where tissue shrank", _VIEWER),
    "displacement.nii.gz": (
        "displacement of the whole map, affine included, LPS mm, as ITK stores it",
        "3D Slicer (as a transform), antsApplyTransforms -t",
    ),
    "transform.h5": (
        "affine and deformation together, for images and for points of the fixed image",
        "antsApplyTransforms -d {dim} -i moving -r fixed -t transform.h5 -o out.nii.gz, 3D Slicer, SimpleITK",
    ),
    "inverse_transform.h5": (
        "the way back: carries the fixed image onto the moving one",
        "antsApplyTransforms -d {dim} -i fixed -r moving -t inverse_transform.h5 -o out.nii.gz",
    ),
    "shape.safetensors": (
        "coefficients of the deformation: to resume, refine or compare",
        "safetensors.torch.load_file in Python",
    ),
    "metrics.json": ("the numbers of this page", "any text editor or JSON reader"),
    "run.json": ("all that repeats the run: settings, versions, hashes, seed, energies", "any text editor"),
    "report.html": ("this page", "any browser; needs no network"),
}
