"""Where a segmentation's files go: beside the mask, named after it."""

from __future__ import annotations

from pathlib import Path

from mmtk.masking.description import SegmentConfig

__all__ = ["outputs_of"]


def outputs_of(config: SegmentConfig) -> dict[str, Path]:
    """Return every file that a segmentation may write, by what it holds."""
    out = config.out
    stem = out.name[: -len(".nii.gz")] if out.name.lower().endswith(".nii.gz") else out.name[: -len(".nii")]
    kinds = ("probability", "uncertainty", "labels", "ET", "TC", "WT")
    files = {kind: out.with_name(f"{stem}_{kind}.nii.gz") for kind in kinds}
    return {"mask": out, **files, "record": out.with_name(f"{stem}.json")}
