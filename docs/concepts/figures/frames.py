"""Figure of transforms-and-frames.md: which way images and points go."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from drawing import BLUE, CARD, FAINT, GREEN, INK, ORANGE, RED, main, new, save
from matplotlib.axes import Axes


def draw(out: Path, small: bool) -> Mapping[str, Any]:
    """Draw ``frames.png``; nothing is measured."""
    figure, axes = new(9.0, 3.3, 1, 2, width_ratios=[2.2, 1])
    _chain(axes[0, 0])
    _axes_of_the_head(axes[0, 1])
    save(figure, out, "frames")
    return {}


def _bend(points: np.ndarray) -> np.ndarray:
    """A displacement in the fixed frame, smooth, for points ``(n, 2)``."""
    x, y = points.T
    return np.stack([0.75 * np.sin(0.8 * y + 0.4), 0.5 * np.sin(0.9 * x + 0.3)], axis=1)


def _chain(axes: Axes) -> None:
    """The fixed grid, u, the affine, and the moving grid with the point that is read there."""
    angle, shift = np.deg2rad(-12), np.array([7.0, 0.6])
    turn = 1.05 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])

    def affine(points: np.ndarray) -> np.ndarray:
        return points @ turn.T + shift

    fine = np.linspace(0, 4, 41)
    for t in np.arange(5.0):
        for line in (np.stack([fine, 0 * fine + t], 1), np.stack([0 * fine + t, fine], 1)):
            axes.plot(*line.T, color=FAINT, linewidth=0.9)
            axes.plot(*(line * 1.45 + [6.7, -1.2]).T, color=ORANGE, linewidth=0.8, alpha=0.8)
            axes.plot(*affine(line + _bend(line)).T, color=BLUE, linewidth=0.9)
    x = np.array([[1.0, 1.0]])
    bent = x + _bend(x)
    there = affine(bent)
    axes.annotate("", bent[0], x[0], arrowprops={"arrowstyle": "-|>", "color": GREEN, "linewidth": 2})
    axes.annotate(
        "", there[0], bent[0],
        arrowprops={"arrowstyle": "-|>", "color": RED, "linewidth": 2, "connectionstyle": "arc3,rad=-0.28"},
    )  # fmt: skip
    for point, color in ((x, INK), (bent, GREEN), (there, RED)):
        axes.plot(*point.T, "o", color=color, markersize=5.5)
    card = {"boxstyle": "round,pad=0.15", "facecolor": CARD, "edgecolor": "none", "alpha": 0.9}
    axes.text(0.85, 0.75, "x", color=INK, ha="right", va="top", bbox=card)
    axes.text(bent[0, 0] - 0.1, bent[0, 1] + 0.2, "x + u(x)", color=GREEN, ha="right", va="bottom", bbox=card)
    axes.text(5.0, 3.55, "affine A", color=RED, ha="center", bbox=card)
    axes.text(there[0, 0] + 0.2, there[0, 1] - 0.15, "A(x + u(x))", color=RED, va="top", bbox=card)
    axes.text(2.0, -0.65, "fixed grid: every voxel x asks", color=INK, ha="center")
    axes.text(9.6, -1.9, "moving grid (orange): read here; blue: the fixed grid's image", color=INK, ha="center")
    axes.set_title("Points go from fixed to moving; the moving image is read there")
    axes.set_aspect("equal")
    axes.set_axis_off()


def _axes_of_the_head(axes: Axes) -> None:
    """A head from above, with the axes of RAS and of LPS."""
    angle = np.linspace(0, 2 * np.pi, 200)
    axes.plot(1.25 * np.cos(angle), 1.45 * np.sin(angle), color=FAINT)
    axes.plot([-0.18, 0, 0.18], [1.42, 1.68, 1.42], color=FAINT)
    for tip, place, text, color in (
        ((0.95, 0), (0.55, 0.12), "R\n+x of RAS", BLUE), ((0, 1.2), (0.1, 0.85), "A, +y of RAS", BLUE),
        ((-0.95, 0), (-0.55, 0.12), "L\n+x of LPS", ORANGE), ((0, -1.2), (0.1, -1.0), "P, +y of LPS", ORANGE),
    ):  # fmt: skip
        axes.annotate("", tip, (0, 0), arrowprops={"arrowstyle": "-|>", "color": color, "linewidth": 2})
        axes.text(*place, text, color=INK, ha="left" if tip[0] == 0 else "center", va="bottom", fontsize=8)
    axes.set_title("Seen from above, nose up;\nz goes up toward the reader in both")
    axes.set_aspect("equal")
    axes.set_xlim(-1.7, 1.7)
    axes.set_axis_off()


if __name__ == "__main__":
    main(draw)
