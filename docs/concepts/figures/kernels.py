"""Figures of kernels.md: what kernels look like, what their width does, how coarse a lattice may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from drawing import BLUE, FAINT, GREEN, INK, ORANGE, PURPLE, RED, main, mesh, new, outline, panel, save
from torch import Tensor

import mmtk
from mmtk.equations import Metamorphosis
from mmtk.fields import Gaussian, Grid, Kernel, Smoother, Sobolev, Sum, jacobian_determinant
from mmtk.integrators import Context, Lagrangian
from mmtk.samples import Sample, c_shapes, error_against_truth, shape_scores, tumor_brain
from mmtk.shooting import shoot_energy

KERNELS: dict[str, tuple[Kernel, str]] = {
    "Gaussian 24 mm": (Gaussian(24.0), FAINT),
    "24 + 0.1 of 12 mm (subject=same)": (Sum((Gaussian(24.0), Gaussian(12.0)), (1.0, 0.1)), BLUE),
    "24 + 0.1 of 8 + 0.02 of 4 mm": (Sum((Gaussian(24.0), Gaussian(8.0), Gaussian(4.0)), (1.0, 0.1, 0.02)), ORANGE),
    "Gaussian 8 mm": (Gaussian(8.0), GREEN),
    "Sobolev 8 mm (subject=another)": (Sobolev(8.0, 2.0), RED),
}  # fmt: skip


def draw(out: Path, small: bool) -> Mapping[str, Any]:
    """Draw the figures of the page and return what they show in numbers."""
    return {**profiles(out), **widths(out, small), **band(out, small)}


# --- kernels in space and in frequency


def profiles(out: Path) -> dict[str, Any]:
    """Draw the velocity that a point force makes, and the share of each wavelength that a kernel lets through."""
    n, h = 384, 1.0
    figure, axes = new(9.2, 3.2, 1, 2)
    waves = torch.logspace(0.3, 2.6, 200, dtype=torch.float64)
    numbers = {}
    for name, (kernel, color) in KERNELS.items():
        point = torch.zeros(1, 1, n, n, dtype=torch.float64)
        point[..., n // 2, n // 2] = 1
        line = Smoother(kernel, Grid((n, n), (h, h))).smooth(point)[0, 0, n // 2, n // 2 :]
        profile = line / line[0]
        passed = kernel.spectrum([1 / waves]) / kernel.spectrum([torch.zeros(1, dtype=torch.float64)])
        axes[0, 0].plot(h * np.arange(len(profile)), profile, color=color, label=name)
        axes[0, 1].loglog(waves, passed, color=color)
        numbers[name] = {
            "mm to half": float((profile > 0.5).sum()) * h,
            "share of 16 mm waves": float(np.interp(16.0, waves, passed)),
            "share of 48 mm waves": float(np.interp(48.0, waves, passed)),
        }
    axes[0, 0].set_xlim(0, 70)
    axes[0, 0].set_xlabel("distance, mm")
    axes[0, 0].set_title("Velocity about a point force, of its peak")
    axes[0, 0].legend(fontsize=7.5)
    axes[0, 1].set_ylim(1e-6, 2)
    axes[0, 1].set_xlim(3, 400)
    axes[0, 1].set_xlabel("wavelength, mm")
    axes[0, 1].set_title("What is let through: the spectrum of K")
    for axis in axes.flat:
        axis.grid(True, which="major")
    save(figure, out, "kernels_profiles")
    return {"kernels": numbers}


# --- the width of a Gaussian


def widths(out: Path, small: bool) -> dict[str, Any]:
    """Register letters and brain slices with Gaussians of several widths, the better of two weights each."""
    letters = [next(iter(c_shapes(seed=s, size=100, sigma=3.0, amplitude=200.0, steps=30))) for s in (2, 3)]
    slices = [tumor_brain(kind=kind, dim=2, spacing=2.0, seed=1) for kind in ("bright", "resected")]
    letter_widths = (3.0,) if small else (1.0, 2.0, 3.0, 5.0, 8.0, 14.0)
    slice_widths = (12.0,) if small else (4.0, 8.0, 12.0, 18.0, 28.0, 40.0)
    shown_letters, letter_errors = _sweep(letters[:1] if small else letters, letter_widths, _letter)
    shown_slices, slice_errors = _sweep(slices[:1] if small else slices, slice_widths, _slice)
    columns = (0,) if small else (0, 2, 4, 5)
    figure, axes = new(9.4, 4.0, 2, len(columns) + 1)
    rows = ((letters[0], shown_letters, letter_widths, "px"), (slices[0], shown_slices, slice_widths, "mm"))
    for row, (sample, shown, used, unit) in enumerate(rows):
        panel(axes[row, 0], sample.fixed, "fixed", high=float(sample.fixed.max()))
        for column, index in enumerate(columns, 1):
            found = shown[index]
            panel(axes[row, column], found.deformed, f"σ = {used[index]:g} {unit}", high=float(sample.fixed.max()))
            mesh(axes[row, column], found.registration.inverse, every=5)
            outline(axes[row, column], found.images.mask, ORANGE)
    save(figure, out, "kernels_widths")

    figure, axes = new(9.0, 3.0, 1, 2)
    axes[0, 0].plot(letter_widths, letter_errors["edges"], "o-", color=BLUE, label="across visible edges")
    axes[0, 0].plot(letter_widths, letter_errors["near"], "s-", color=ORANGE, label="within 10 px of the cut")
    axes[0, 0].set_title("Letters C; truth: a kernel of 3 px")
    axes[0, 0].set_ylabel("error, px")
    axes[0, 0].set_xlabel("σ, px")
    axes[0, 1].plot(slice_widths, slice_errors["edges"], "o-", color=BLUE, label="outside the lesion")
    axes[0, 1].plot(slice_widths, slice_errors["near"], "s-", color=ORANGE, label="within 10 mm of it")
    axes[0, 1].set_title("Brain slices, 2 mm; truth: splines, knots 36 mm apart")
    axes[0, 1].set_ylabel("error, mm")
    axes[0, 1].set_xlabel("σ, mm")
    for axis in axes.flat:
        axis.set_xscale("log")
        axis.minorticks_off()
        axis.set_ylim(bottom=0)
        axis.grid(True)
        axis.legend(fontsize=8)
    for axis, used in ((axes[0, 0], letter_widths), (axes[0, 1], slice_widths)):
        axis.set_xticks(used, [f"{w:g}" for w in used])
    save(figure, out, "kernels_errors")
    return {
        "letters, widths": letter_widths, "letters": letter_errors,
        "slices, widths": slice_widths, "slices": slice_errors,
    }  # fmt: skip


def _sweep(
    samples: Sequence[Sample], widths: Sequence[float], run: Any
) -> tuple[list[Any], dict[str, list[float]]]:
    """Return the first sample's result for each width, and mean errors; of two weights the one that errs less."""
    shown, errors = [], {"edges": [], "near": [], "least determinant": []}
    for width in widths:
        tried = [[run(sample, width, weight) for sample in samples] for weight in (1e-5, 1e-4)]
        best = min(tried, key=lambda runs: sum(scores["edges"] for _, scores in runs))
        shown.append(best[0][0])
        for key in ("edges", "near"):
            errors[key].append(float(np.mean([scores[key] for _, scores in best])))
        errors["least determinant"].append(min(r.metrics["deformation"]["jacobian_min"] for r, _ in best))
    return shown, errors


def _letter(sample: Sample, width: float, weight: float) -> tuple[Any, dict[str, float]]:
    found = mmtk.register(
        moving=sample.moving, fixed=sample.fixed, mask=sample.mask.astype(np.float32), spacing=(1.0, 1.0), init="none",
        normalize="none", similarity="ssd", sigma=[width], levels=[4.0, 2.0, 1.0], iterations=[12, 12, 12],
        mu=0.1, detail=0.0, **{"lambda": weight},
    )  # fmt: skip
    scores = shape_scores(sample, found.displacement)
    return found, {"edges": scores["normal"], "near": scores["near"]}


def _slice(sample: Sample, width: float, weight: float) -> tuple[Any, dict[str, float]]:
    found = mmtk.register(
        moving=sample.moving, fixed=sample.fixed, mask=sample.mask.astype(np.float32), spacing=sample.spacing,
        init="none", sigma=[width], detail=0.0, **{"lambda": weight},
    )  # fmt: skip
    scores = error_against_truth(sample, found.displacement)
    return found, {"edges": scores["outside"], "near": scores["near"]}


# --- how coarse a lattice may be


def band(out: Path, small: bool) -> dict[str, Any]:
    """Shoot a C by a kernel of 6 mm, velocities on nodes farther and farther apart, beside the full grid."""
    sample = next(iter(c_shapes(seed=3, size=100, sigma=6.0, amplitude=0.0)))
    image = torch.from_numpy(sample.fixed)[None, None].double()
    chance = torch.Generator().manual_seed(1)
    momentum = 400 * (2 * torch.rand(image.shape, generator=chance, dtype=torch.float64) - 1)
    strides = (3.0,) if small else (1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
    full = _shot(image, momentum, None)
    largest, typical, limit = [], [], []
    for stride in strides:
        apart = (_shot(image, momentum, stride) - full)[..., 8:-8, 8:-8].norm(dim=1)
        largest.append(float(apart.max()))
        typical.append(float(apart.mean()))
        limit.append(float(np.exp(-2 * (np.pi * 6.0 / (2 * stride)) ** 2)))
    determinant = jacobian_determinant(full)[..., 8:-8, 8:-8]
    figure, axes = new(5.2, 3.0)
    ratios = [s / 6 for s in strides]
    axes[0, 0].semilogy(ratios, largest, "o-", color=RED, label="largest")
    axes[0, 0].semilogy(ratios, typical, "s-", color=BLUE, label="mean")
    axes[0, 0].semilogy(ratios, np.maximum(limit, 1e-7), ":", color=PURPLE, label="K at the lattice's finest wave")
    axes[0, 0].axvline(0.5, color=FAINT, linewidth=1)
    axes[0, 0].text(0.51, 4, "default", color=INK, fontsize=8)
    axes[0, 0].set_ylim(1e-6, 10)
    axes[0, 0].set_xlabel("distance of the nodes, in σ")
    axes[0, 0].set_ylabel("map against the full grid's, px")
    axes[0, 0].legend(fontsize=8)
    axes[0, 0].grid(True)
    save(figure, out, "kernels_lattice")
    return {
        "lattice, nodes in sigma": ratios, "lattice, largest, px": largest, "lattice, mean, px": typical,
        "lattice, K at its finest wave": limit, "lattice, largest motion, px": float(full.norm(dim=1).max()),
        "lattice, determinants": [float(determinant.min()), float(determinant.max())],
    }  # fmt: skip


def _shot(image: Tensor, momentum: Tensor, stride: float | None) -> Tensor:
    equation = Metamorphosis.from_kernel(Gaussian(6.0), Grid(image.shape[2:], (1.0, 1.0)), 0.0, stride=stride)
    end = shoot_energy(equation, Lagrangian("cubic"), image, momentum, 15, Context(back=True))
    return end.state.displacement


if __name__ == "__main__":
    main(draw)
