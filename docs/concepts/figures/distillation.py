"""The figure of distillation.md: heads of the two generators, in four modalities, and their labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from drawing import main, new, save
from matplotlib.colors import ListedColormap

from mmtk.samples.heads import MODALITIES, one_glioma
from mmtk.samples.options import GliomasOptions

#: Healthy, necrosis, edema, (no label 3), enhancing.
COLORS = ListedColormap(["#1b1d22", "#0072B2", "#56B4E9", "#000000", "#D55E00"])


def draw(out: Path, small: bool) -> Mapping[str, Any]:
    """Draw the figure and return the volumes that it shows, ml."""
    spacing = 4.0 if small else 2.0
    figure, axes = new(8.6, 4.4, 2, 5)
    numbers = {}
    for row, lesion in zip(axes, ("lobed", "grown"), strict=True):
        head = one_glioma(GliomasOptions(spacing=spacing, lesion=lesion, radius=(14, 14), seed=3), 2)
        level = int((head.labels == 4).sum((0, 1)).argmax())
        for ax, name, image in zip(row, MODALITIES, head.images, strict=False):
            ax.imshow(image[:, :, level].T, origin="lower", cmap="gray")
            ax.set_title({"t1": "T1", "t1ce": "T1ce", "t2": "T2", "flair": "FLAIR"}[name])
        row[4].imshow(head.labels[:, :, level].T, origin="lower", cmap=COLORS, vmin=-0.5, vmax=4.5)
        row[4].set_title("labels")
        for ax in row:
            ax.set_xticks([])
            ax.set_yticks([])
            ax.spines[:].set_visible(False)
        row[0].set_ylabel(f"{lesion} (held apart)" if lesion == "grown" else f"{lesion} (trained on)")
        numbers[lesion] = {
            name: round(float(np.isin(head.labels, labels).sum()) * spacing**3 / 1000, 1)
            for name, labels in (("ET", (4,)), ("TC", (1, 4)), ("WT", (1, 2, 4)))
        }
    save(figure, out, "distillation_heads")
    return numbers


if __name__ == "__main__":
    main(draw)
