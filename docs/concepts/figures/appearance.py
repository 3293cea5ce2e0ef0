"""Figures of appearance.md: the weight of the intensity change with and without a mask, and masks that are wrong."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from drawing import BLUE, GREEN, ORANGE, RED, main, mesh, new, outline, panel, save, signed
from scipy.ndimage import distance_transform_edt

import mmtk
from mmtk.samples import Sample, error_against_truth, tumor_brain


def draw(out: Path, small: bool) -> Mapping[str, Any]:
    """Draw the figures of the page and return what they show in numbers."""
    return {**freedom(out, small), **masks(out, small)}


# --- how free the intensity change is


def freedom(out: Path, small: bool) -> dict[str, Any]:
    """Shoot a slice with a tumor onto the healthy one for several mu, with the mask and with none."""
    sample = tumor_brain(kind="bright", dim=2, spacing=2.0, seed=1)
    weights = (0.03,) if small else (0.01, 0.03, 0.1)
    figure, axes = new(9.4, 4.1, 3, 2 + 2 * len(weights), width_ratios=[1, 0.12, *[1] * (2 * len(weights))])
    high = float(sample.fixed.max())
    panel(axes[0, 0], sample.moving, "moving", high=high)
    outline(axes[0, 0], sample.mask, ORANGE)
    panel(axes[1, 0], sample.fixed, "fixed", high=high)
    axes[2, 0].set_axis_off()
    numbers: dict[str, Any] = {"before": _seen(sample, None)}
    for masked in (False, True):
        for k, mu in enumerate(weights):
            found = _coupled(sample, mu, masked, 4 if small else 20)
            column = 2 + k + masked * len(weights)
            name = "with the mask" if masked else "no mask"
            title = f"{name}\nμ = {mu:g}" if k == len(weights) // 2 else f"\nμ = {mu:g}"
            panel(axes[0, column], found.deformed, title)
            mesh(axes[0, column], found.registration.inverse, every=6)
            signed(axes[1, column], found.warped - found.deformed, "painted", largest=0.6)
            panel(axes[2, column], found.warped, "both")
            if masked:
                outline(axes[0, column], found.images.mask, ORANGE)
            numbers[f"{name}, mu = {mu:g}"] = _seen(sample, found)
    for row in range(3):
        axes[row, 1].set_axis_off()
    save(figure, out, "appearance_mu")
    return numbers


def _coupled(sample: Sample, mu: float, masked: bool, iterations: int) -> Any:
    high = float(sample.fixed.max())
    return mmtk.register(
        moving=sample.moving / high, fixed=sample.fixed / high, spacing=sample.spacing, init="none", normalize="none",
        mask=sample.mask.astype(np.float32) if masked else None, similarity="ssd", momentum="coupled",
        shape="momentum", sigma=[12.0], levels=[8.0, 4.0, 2.0], iterations=[iterations] * 3, checkpoint=False,
        mu=mu, **{"lambda": 1e-5},
    )  # fmt: skip


def _seen(sample: Sample, found: Any) -> dict[str, float]:
    """Squared errors outside the lesion of the shape alone and of both, and the error of the map."""
    high, outside = float(sample.fixed.max()), ~sample.fixed_mask

    def squared(image: np.ndarray) -> float:
        return float(((image - sample.fixed / high) ** 2)[outside].sum())

    if found is None:
        error = error_against_truth(sample, np.zeros_like(sample.displacement))
        return {"shape only": squared(sample.moving / high), "error outside, mm": error["outside"]}
    error = error_against_truth(sample, found.displacement)
    return {
        "shape only": squared(found.deformed), "both": squared(found.warped), "error outside, mm": error["outside"],
        "error near, mm": error["near"],
        "share by shape": found.metrics["disentanglement"]["share_explained_by_shape"],
    }  # fmt: skip


# --- masks that are too small or too large


def masks(out: Path, small: bool) -> dict[str, Any]:
    """Register slices under masks that are grown or shrunk, and draw what that costs near the lesion."""
    kinds = {"bright": RED, "lookalike": BLUE, "resected": GREEN}
    offsets = (-4, 6) if small else (-8, -6, -4, -2, 0, 2, 4, 6, 9, 12)
    shown = (-6, 0, 9)
    seeds = (1,) if small else (1, 2)
    figure, axes = new(9.4, 4.4, 2, 4, width_ratios=[1, 1, 1, 1.35])
    numbers: dict[str, Any] = {"offsets, mm": offsets}
    for axis in axes[:, 3]:
        axis.remove()
    chart = figure.add_subplot(axes[0, 0].get_gridspec()[:, 3])
    for kind, color in kinds.items():
        samples = [tumor_brain(kind=kind, dim=2, spacing=2.0, seed=seed) for seed in seeds]
        near = []
        for offset in offsets:
            runs = [_masked(sample, offset) for sample in samples]
            errors = [error_against_truth(s, r.displacement)["near"] for s, r in zip(samples, runs, strict=True)]
            near.append(float(np.mean(errors)))
            if kind == "bright" and offset in shown:
                column = shown.index(offset)
                words = {-6: "6 mm too small", 0: "right", 9: "9 mm too large"}[offset]
                _pictures(axes[:, column], samples[0], runs[0], f"mask {words}")
        chart.plot(offsets, near, "o-", color=color, label=kind)
        numbers[f"near, mm, {kind}"] = near
    chart.set_xlabel("mask beyond the lesion, mm")
    chart.set_title("error within 10 mm of it, mm")
    chart.set_ylim(bottom=0)
    chart.grid(True)
    chart.legend(fontsize=8)
    save(figure, out, "appearance_mask")
    return numbers


def _masked(sample: Sample, offset: float) -> Any:
    return mmtk.register(
        moving=sample.moving, fixed=sample.fixed, mask=_grown(sample, offset), spacing=sample.spacing, init="none",
        subject="same",
    )  # fmt: skip


def _pictures(axes: np.ndarray, sample: Sample, found: Any, title: str) -> None:
    """Shape alone and what was painted, about the lesion."""
    high, (down, right) = float(sample.fixed.max()), np.argwhere(sample.fixed_mask).mean(0)
    panel(axes[0], found.deformed, title, high=high)
    outline(axes[0], found.images.mask, ORANGE)
    outline(axes[0], sample.fixed_mask, GREEN, "--")
    signed(axes[1], found.warped - found.deformed, "painted", largest=0.6 * high)
    for axis in axes:
        axis.set_xlim(right - 24, right + 24)
        axis.set_ylim(down + 24, down - 24)


def _grown(sample: Sample, offset: float) -> np.ndarray:
    """Return the mask grown by so many mm, or shrunk."""
    inside = distance_transform_edt(sample.mask, sampling=sample.spacing)
    outside = distance_transform_edt(~sample.mask, sampling=sample.spacing)
    return ((outside <= offset) if offset >= 0 else (inside > -offset)).astype(np.float32)


if __name__ == "__main__":
    main(draw)
