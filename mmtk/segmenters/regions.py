"""BraTS's regions: nested in one another, and told by label maps in two ways.

    ET    enhancing tumor       label 4 (until 2022) or 3 (since)
    TC    tumor core            ET and label 1, necrosis and what does not enhance
    WT    whole tumor           TC and label 2, edema

    S. Bakas et al., "Advancing The Cancer Genome Atlas glioma MRI collections with expert segmentation labels and
    radiomic features", Sci. Data 4 (2017) 170117, doi:10.1038/sdata.2017.117.

Label maps and regions are ``(*space)``, or with leading axes, of NumPy.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

__all__ = ["FEWEST", "LABELS", "REGIONS", "labels_of", "regions_of", "without_small_core"]

#: From the innermost to the outermost.
REGIONS = ("ET", "TC", "WT")
#: Labels of which each region consists; 3 and 4 are the enhancing tumor of newer and of older challenges.
LABELS: Mapping[str, tuple[int, ...]] = {"ET": (3, 4), "TC": (1, 3, 4), "WT": (1, 2, 3, 4)}
#: An enhancing tumor of fewer voxels is taken for necrosis: the smallest one of BraTS 2021 has 22 (thesis, 3.5.1).
FEWEST = 20


def regions_of(labels: np.ndarray) -> dict[str, np.ndarray]:
    """Return the regions of a label map, boolean, by name; it may have 1, 2, 4 or 1, 2, 3.

    Raises:
        ValueError: If it has both 3 and 4, or another label.
    """
    values = {int(v) for v in np.unique(np.rint(labels))}
    if not values <= {0, 1, 2, 3, 4} or {3, 4} <= values:
        seen = ", ".join(str(v) for v in sorted(values)[:8])
        raise ValueError(
            f"a label map of BraTS has 1, 2 and 4, or 1, 2 and 3, beside 0; this one has {seen}. Say which labels are "
            f"lesion instead"
        )
    return {name: np.isin(np.rint(labels), LABELS[name]) for name in REGIONS}


def labels_of(regions: Mapping[str, np.ndarray], enhancing: int = 4) -> np.ndarray:
    """Return the label map of regions, uint8.

    Args:
        regions: ``WT`` at least; 1/2 and more is within. A voxel of an inner region is one of the outer ones, too.
        enhancing: 4, or 3 as challenges have it since 2023.
    """
    inside = {name: np.asarray(regions[name]) >= 0.5 for name in REGIONS if name in regions}
    labels = np.zeros(inside["WT"].shape, np.uint8)
    for name, label in (("WT", 2), ("TC", 1), ("ET", enhancing)):
        if name in inside:
            labels[inside[name]] = label
    return labels


def without_small_core(
    regions: Mapping[str, np.ndarray], fewest: int = FEWEST, among: Collection[str] = ("ET",)
) -> dict[str, np.ndarray]:
    """Return the regions without an ET of fewer than so many voxels, which stay TC (thesis, 3.5.1).

    One false voxel costs the whole score of a patient who has no enhancing tumor, which some have.

    Args:
        regions: Probabilities or booleans; 1/2 and more is counted.
        fewest: Voxels.
        among: Regions to which this is done.
    """
    kept = dict(regions)
    for name in among:
        if name in kept and np.count_nonzero(np.asarray(kept[name]) >= 0.5) < fewest:
            inner = np.asarray(kept[name])
            if "TC" in kept and name == "ET":
                kept["TC"] = np.maximum(np.asarray(kept["TC"]), inner)
            kept[name] = np.zeros_like(inner)
    return kept
