"""Figure of learned.md on the metamorphic auto-encoder: thesis figure 5.8, one letter for several lambda_s.

The folder of networks holds those of ``python -m benchmarks.letters --runs`` in ``letters``; what it lacks is trained,
for one minute of the processor each.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drawing import INK, ORANGE, SKY, main, mesh, new, outline, panel, save, signed
from learned_letters import _letter, _letters_network, forward_map

sys.path.append(str(Path(__file__).parents[3]))  # the benchmarks, whose rows and networks are shown

from benchmarks import letters
from mmtk.fields import warp

#: Rows of the table, and what stands above them.
SHOWN = {"mae-stiff": "λ$_s$ = 1", "mae": "λ$_s$ = 269", "mae-refine": "λ$_s$ = 269, refined"}


def draw(out: Path, small: bool, runs: Path) -> Mapping[str, Any]:
    """Draw a test letter by auto-encoders that differ in lambda_s, and return the scores."""
    item, grid = _letter(small)
    figure, axes = new(6.8, 5.4, 3, 1 + len(SHOWN))
    for axis in axes.flat:
        axis.set_axis_off()
    panel(axes[0, 0], item["moving"], "source")
    outline(axes[0, 0], item["mask"], ORANGE)
    panel(axes[1, 0], item["fixed"], "target")
    numbers: dict[str, Any] = {}
    for column, (name, title) in enumerate(SHOWN.items(), 1):
        row = letters.ROWS[name]
        network = _letters_network(row.weights or name, runs / "letters", grid, small)
        displacement, total = letters.registered(row, item, grid, network)
        shape = warp(item["moving"][None], displacement)
        scores = letters.letter_scores(item, displacement, total, grid)
        panel(axes[0, column], total, f"{title}\nL2 {scores['l2']:.0f}, s {scores['s']:.0f}")
        panel(axes[1, column], 0.6 * shape)
        mesh(axes[1, column], forward_map(displacement), every=5, color=SKY if not scores["folds"] else ORANGE)
        signed(axes[2, column], total - shape)
        change = (total - shape)[0, 0].square()
        in_cut = float((change * (item["counterpart"][0] > 0)).sum() / change.sum().clamp_min(1e-12))
        numbers[row.label] = {**scores, "share of the appearance in the cut": in_cut}
    for down, word in enumerate(("in all", "shape alone", "added intensity")):
        axes[down, 1].text(
            -0.1, 0.5, word, transform=axes[down, 1].transAxes, rotation=90, va="center", ha="center", color=INK
        )
    save(figure, out, "learned_encoder")
    return numbers


if __name__ == "__main__":
    main(draw, networks=True)
