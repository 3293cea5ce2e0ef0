"""A cohort of small images that are one image, deformed by known flows: a template of them is known."""

from pathlib import Path

import numpy as np
import torch

from mmtk.atlas.shapes import ShapeSpace
from mmtk.fields import Grid, warp
from mmtk.io import Volume, write_image

SHAPE = (40, 36)
SPACE = ShapeSpace(Grid(SHAPE, (1.0, 1.0)), 4.0, 8.0)
GRID = Volume(np.zeros(SHAPE), np.eye(4))

#: Where the lesion of the second case is.
LESION = (slice(16, 22), slice(20, 26))


def anatomy() -> np.ndarray:
    """An oval with two chambers."""
    i, j = np.meshgrid(np.linspace(-1, 1, SHAPE[0]), np.linspace(-1, 1, SHAPE[1]), indexing="ij")
    oval = (i / 0.75) ** 2 + (j / 0.7) ** 2 < 1
    chambers = [((i - at) / 0.14) ** 2 + (j / 0.3) ** 2 < 1 for at in (-0.3, 0.3)]
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(100.0 * oval - 60.0 * (chambers[0] | chambers[1]), 0.6)


def flow(seed: int, size: float = 2.5) -> torch.Tensor:
    """A flow of some voxels, ``(1, dim, *space)``."""
    white = torch.from_numpy(np.random.default_rng(seed).standard_normal(SPACE.shape))
    velocity = SPACE.root(SPACE.root(white))
    return SPACE.displacement(velocity * (size / SPACE.lattice.spacing / float(velocity.abs().max())))


def make_shapes(folder: Path, count: int) -> Path:
    """Write images, the mask of the second's bright lesion and their table; return the table."""
    folder.mkdir(exist_ok=True)
    lines = ["case,moving,mask"]
    for n in range(count):
        image = warp(torch.from_numpy(anatomy())[None, None], flow(n))[0, 0].numpy() * (1 + 0.1 * n)
        mask = ""
        if n == 1:
            image[LESION] = 300.0
            lesion = np.zeros(SHAPE)
            lesion[LESION] = 1
            mask = "p1_mask.nii.gz"
            write_image(folder / mask, lesion, GRID, np.uint8)
        write_image(folder / f"p{n}.nii.gz", image, GRID)
        lines.append(f"p{n},p{n}.nii.gz,{mask}")
    table = folder / "cohort.csv"
    table.write_text("\n".join(lines) + "\n")
    return table
