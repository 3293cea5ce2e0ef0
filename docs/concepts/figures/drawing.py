"""What the figures of docs/concepts share: the card they are drawn on, panels, grids, and the command line.

A figure is an opaque, nearly white card, so that one file is readable on light and on dark pages. Every script draws its
figures into docs/images/concepts and prints the numbers that the pages quote:

    python docs/concepts/figures/kernels.py            # draw all of its figures
    python docs/concepts/figures/kernels.py --check    # the same code on small cases, into a temporary folder
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

IMAGES = Path(__file__).parents[2] / "images" / "concepts"

#: Colors that stay apart for color-blind readers (Okabe and Ito), and the card.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
CARD, INK, FAINT = "#fbfaf7", "#22252b", "#8a8f98"

STYLE = {
    "figure.facecolor": CARD, "axes.facecolor": CARD, "savefig.facecolor": CARD, "text.color": INK,
    "axes.edgecolor": FAINT, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "font.size": 9,
    "axes.titlesize": 9.5, "axes.titlepad": 5, "axes.spines.top": False, "axes.spines.right": False,
    "legend.frameon": False, "lines.linewidth": 1.8, "lines.markersize": 4, "grid.color": "#d9d9d4",
    "grid.linewidth": 0.6,
}  # fmt: skip

#: From a folder and whether to be quick (and where networks are kept) to the numbers that were measured on the way.
Draw = Callable[..., Mapping[str, Any]]


def new(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, np.ndarray]:
    """Return a card of so many inches and its axes ``(rows, columns)``."""
    plt.rcParams.update(STYLE)
    figure, axes = plt.subplots(
        rows, columns, figsize=(width, height), squeeze=False, layout="constrained", **options
    )
    return figure, axes


def save(figure: Figure, out: Path, name: str) -> None:
    """Write a figure as a PNG of 256 colors: the same bytes for the same figure, and a third of their number."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.png"
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
    with Image.open(path) as image:
        small = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


def panel(
    axes: Axes, image: Any, title: str = "", *, low: float = 0.0, high: float = 1.0, colors: str = "gray"
) -> Any:
    """Show an image ``(h, w)`` as it is stored: axis i down, axis j to the right."""
    shown = axes.imshow(as_array(image), cmap=colors, vmin=low, vmax=high, interpolation="nearest")
    axes.set_title(title)
    axes.set_axis_off()
    return shown


def signed(axes: Axes, image: Any, title: str = "", *, largest: float = 1.0) -> Any:
    """Show an image of both signs; 0 is the card's white."""
    return panel(axes, image, title, low=-largest, high=largest, colors="RdBu_r")


def outline(axes: Axes, mask: Any, color: str, style: str = "-") -> None:
    """Draw where a mask ends."""
    mask = as_array(mask)
    if mask.max() > 0.5:
        axes.contour(mask, [0.5], colors=[color], linewidths=1.3, linestyles=style)


def mesh(axes: Axes, displacement: Any, every: int = 5, color: str = SKY) -> None:
    """Draw the grid ``x + u(x)``, ``u`` of shape ``(2, h, w)`` in pixels, within the image that is shown.

    With the map from moving to fixed points these are the moving image's own lines, carried along with it.
    """
    u = as_array(displacement)
    down, right = np.indices(u.shape[1:]) + u
    for k in range(0, u.shape[1], every):
        axes.plot(right[k], down[k], color=color, linewidth=0.5, alpha=0.9)
    for k in range(0, u.shape[2], every):
        axes.plot(right[:, k], down[:, k], color=color, linewidth=0.5, alpha=0.9)
    axes.set_xlim(-0.5, u.shape[2] - 0.5)
    axes.set_ylim(u.shape[1] - 0.5, -0.5)


def as_array(image: Any) -> np.ndarray:
    """Return a tensor or array without its batch and channel axes of length 1."""
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu().numpy()
    image = np.asarray(image, dtype=float)
    while image.ndim > 2 and image.shape[0] == 1:
        image = image[0]
    return image


def rounded(numbers: Any) -> Any:
    """Return numbers with four digits, however they are nested."""
    if isinstance(numbers, Mapping):
        return {str(key): rounded(value) for key, value in numbers.items()}
    if isinstance(numbers, list | tuple):
        return [rounded(value) for value in numbers]
    return float(f"{numbers:.4g}") if isinstance(numbers, float) else numbers


def main(draw: Draw, *, networks: bool = False) -> None:
    """Draw, and print what was measured, one line each.

    Args:
        draw: See :data:`Draw`.
        networks: It shows trained networks, and takes the folder that keeps them as its third argument.
    """
    parser = argparse.ArgumentParser(description="Draw the figures of a page of docs/concepts.")
    parser.add_argument("--out", type=Path, default=IMAGES, help="folder of the pictures")
    parser.add_argument("--check", action="store_true", help="small cases, pictures thrown away")
    if networks:
        scratch = Path(tempfile.gettempdir()) / "mmtk-learned"
        parser.add_argument(
            "--runs",
            type=Path,
            default=scratch,
            help="folder of trained networks; what it lacks is trained into it",
        )
    chosen = parser.parse_args()
    torch.set_num_threads(1)  # the same sums in the same order
    torch.manual_seed(0)
    if chosen.check:
        with tempfile.TemporaryDirectory() as folder:
            numbers = draw(Path(folder), True, *[Path(folder)] * networks)
    else:
        numbers = draw(chosen.out, False, *([chosen.runs] if networks else []))
    for name, value in rounded(numbers).items():
        print(f"{name}: {json.dumps(value)}")
