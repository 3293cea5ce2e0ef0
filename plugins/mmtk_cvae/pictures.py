"""Pictures of what codes stand for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmtk_cvae.codes import Decoded, Sorted

__all__ = ["draw_rows", "draw_sorted"]

#: Determinants from half to twice are shown; beyond, as at the ends.
MOST = 1.0
#: Of groups, for those who see fewer colors, too.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKS = "osD^vP*"


def _plane(field: np.ndarray) -> np.ndarray:
    """Return the middle slice, the first axis to the right and the second up."""
    flat = field if field.ndim == 2 else field[..., field.shape[2] // 2]
    return np.asarray(flat).T


def _figure(rows: int, columns: int, size: float = 2.0) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        rows, columns, figsize=(size * columns, size * rows + 0.2), squeeze=False, constrained_layout=True
    )
    for ax in axes.flat:
        ax.set_axis_off()
    return figure, axes


def _mesh(ax: Any, displacement: np.ndarray, every: int) -> None:
    """Draw the deformed grid of a ``(2, x, y)`` displacement."""
    x, y = np.meshgrid(*[np.arange(n) for n in displacement.shape[1:]], indexing="ij")
    at = np.stack([x, y]) + displacement
    for line in range(0, at.shape[1], every):
        ax.plot(at[0, line], at[1, line], color="#F0E442", linewidth=0.5)
    for line in range(0, at.shape[2], every):
        ax.plot(at[0, :, line], at[1, :, line], color="#F0E442", linewidth=0.5)


def draw_rows(rows: Sequence[Mapping[str, np.ndarray | Decoded]], path: Path) -> None:
    """Draw a row of panels each: images as they are; of what was decoded warped image, grid and log determinant."""
    wide = max(sum(3 if isinstance(panel, Decoded) else 1 for panel in row.values()) for row in rows)
    figure, axes = _figure(len(rows), wide)
    shown: Any = None
    for line, row in zip(axes, rows, strict=True):
        column = 0
        for title, panel in row.items():
            if not isinstance(panel, Decoded):
                line[column].imshow(_plane(panel), cmap="gray", origin="lower")
                line[column].set_title(title, fontsize=8)
                column += 1
                continue
            warped, u = _plane(panel.warped), panel.displacement[0].numpy()
            flat = u if u.ndim == 3 else u[:2, ..., u.shape[3] // 2]
            determinant = _plane(panel.jacobian)
            for ax in line[column : column + 2]:
                ax.imshow(warped, cmap="gray", origin="lower")
            line[column].set_title(title, fontsize=8)
            _mesh(line[column + 1], flat, max(2, flat.shape[1] // 24))
            line[column + 1].set(xlim=(0, flat.shape[1] - 1), ylim=(0, flat.shape[2] - 1))
            logarithm = np.log2(np.clip(determinant, 1e-3, None))
            shown = line[column + 2].imshow(logarithm, cmap="RdBu", vmin=-MOST, vmax=MOST, origin="lower")
            column += 3
    if shown is not None:
        bar = figure.colorbar(shown, ax=axes[:, -1], shrink=0.6, label="log2 of the determinant")
        bar.outline.set_visible(False)
    _save(figure, path)


def draw_sorted(found: Sorted, path: Path) -> None:
    """Draw the first three canonical components of every subject, two by two."""
    count = found.components.shape[1]
    planes = [pair for pair in ((0, 1), (0, 2), (1, 2)) if max(pair) < count] or [(0, 0)]
    figure, axes = _figure(1, len(planes), 3.2)
    groups = np.asarray(found.groups)
    for ax, (first, second) in zip(axes[0], planes, strict=True):
        ax.set_axis_on()
        for number, group in enumerate(dict.fromkeys(found.groups)):
            chosen = found.components[groups == group]
            ax.scatter(
                chosen[:, first], chosen[:, second], s=22, label=group,
                color=COLORS[number % len(COLORS)], marker=MARKS[number % len(MARKS)],
            )  # fmt: skip
        ax.set(xlabel=f"component {first + 1}", ylabel=f"component {second + 1}")
        ax.grid(alpha=0.3)
    axes[0][-1].legend(frameon=False, fontsize=8)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    import matplotlib.pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
