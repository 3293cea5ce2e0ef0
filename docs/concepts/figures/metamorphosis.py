"""Figures of metamorphosis.md: a geodesic, one energy by three sets of unknowns, the price of a lesion."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from drawing import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    as_array,
    main,
    mesh,
    new,
    outline,
    panel,
    save,
    signed,
)
from integrators import cut_c

import mmtk
from mmtk.equations import Metamorphosis
from mmtk.fields import Gaussian, Grid
from mmtk.integrators import Context, Lagrangian, Particles
from mmtk.samples import c_shapes, error_against_truth, tumor_brain
from mmtk.shooting import shoot, shoot_energy


def draw(out: Path, small: bool) -> Mapping[str, Any]:
    """Draw the figures of the page and return what they show in numbers."""
    return {**path(out, small), **price_of_paint(out), **unknowns(out, small), **history(out, small)}


# --- a geodesic


def path(out: Path, small: bool) -> dict[str, Any]:
    """Draw image, momentum and what was painted along the path of a cut C."""
    image, momentum, mask, equation = cut_c(size=64 if small else 100)
    steps = 8 if small else 40
    scheme = Lagrangian(order=2)
    start = scheme.begin(equation, image, momentum, Context(mask=mask, maps=True))
    states = list(shoot(equation, scheme, start, steps))
    times = (0, 0.25, 0.5, 0.75, 1)
    figure, axes = new(9.2, 5.4, 3, len(times))
    largest = 2.0 * float(momentum.abs().quantile(0.98))
    for column, t in enumerate(times):
        state = states[round(t * steps)]
        moved = state.flow.maps.carry(image, state.flow.back)
        panel(axes[0, column], state.image, f"$I_t$, $t = {t:g}$")
        mesh(axes[0, column], state.inverse, every=6)
        outline(axes[0, column], state.mask, ORANGE)
        signed(axes[1, column], state.momentum, "$z_t$", largest=largest)
        signed(axes[2, column], state.image - moved, r"painted: $I_t - I_0\circ\varphi_t^{-1}$")
    save(figure, out, "metamorphosis_path")
    left = states[-1].image - states[-1].flow.maps.carry(image, states[-1].flow.back)
    return {"path, painted beside the carried mask": float((left * (states[-1].mask == 0)).abs().max())}


# --- what painting costs


def price_of_paint(out: Path) -> dict[str, Any]:
    """Draw the share of a mismatch that is painted at the optimum, and the weight that is left in the data term."""
    rho = np.logspace(-5, 2, 200)
    figure, axes = new(6.4, 3.0)
    for room, style in ((0.5, ":"), (1.0, "-"), (2.0, "--")):
        label = f"painted, E = {room:g}" if room != 1 else "painted, E = 1 and split"
        axes[0, 0].semilogx(rho, room / (rho + room), style, color=BLUE, label=label)
    axes[0, 0].semilogx(rho, rho / (1 + rho), "-", color=RED, label="weight left in the data term")
    marks = {
        "published": 2e-7 / 0.1**2, "subject=same": 2 * 5e-5 / 0.1**2, "subject=another": 2 * 1e-4 / 0.15**2
    }  # fmt: skip
    for (name, at), height in zip(marks.items(), (0.5, 0.35, 0.6), strict=True):
        axes[0, 0].axvline(at, color=FAINT, linewidth=1)
        side = "right" if name == "subject=another" else "left"
        axes[0, 0].text(at * (0.8 if side == "right" else 1.2), height, name, color=INK, fontsize=8, ha=side)
    axes[0, 0].set_xlabel(r"$\rho = 2\lambda/\mu^2$")
    axes[0, 0].set_title("What the cheapest residual paints under the mask")
    axes[0, 0].set_xlim(3e-6, 3e3)
    axes[0, 0].legend(fontsize=8, loc="center right")
    save(figure, out, "metamorphosis_paint")
    return {"rho": marks}


# --- one energy, several sets of unknowns


def unknowns(out: Path, small: bool) -> dict[str, Any]:
    """Draw the coupled energy against accepted steps: by scalar momentum and by white coefficients."""
    letter = next(iter(c_shapes(seed=3, size=64 if small else 100, sigma=3.0, amplitude=180.0, steps=30)))
    pairs = {
        "a smooth pair": ((*smooth_pair(48), 6.0), {"mu": 0.15, "lambda": 1e-2}),
        "a cut C": ((letter.moving, letter.fixed, letter.mask, 3.0), {"mu": 0.1, "lambda": 3e-3}),
    }
    forms = {
        "scalar momentum (shooting)": ({"shape": "momentum", "checkpoint": False}, PURPLE, 2.0),
        "white, 1 velocity": ({}, SKY, 3.5),
        "white, 8 velocities": ({"velocities": 8, "squarings": 5}, BLUE, 1.5),
    }
    figure, axes = new(9.0, 3.1, 1, 2)
    numbers: dict[str, Any] = {}
    for axis, (title, ((moving, fixed, mask, sigma), weights)) in zip(axes[0], pairs.items(), strict=True):
        for name, (settings, color, width) in forms.items():
            begin = time.process_time()
            found = mmtk.register(
                moving=moving, fixed=fixed, mask=mask.astype(np.float32), spacing=(1.0, 1.0), init="none",
                normalize="none", similarity="ssd", sigma=[sigma], stride=sigma / 2, momentum="coupled",
                levels=[1.0], iterations=[10 if small else 60], **weights, **settings,
            )  # fmt: skip
            seconds = time.process_time() - begin
            level = found.registration.levels[0]
            energies = level.energies
            axis.plot(range(len(energies)), energies, color=color, linewidth=width, label=name)
            numbers[f"{title}, {name}"] = {
                "energy": energies[-1], "evaluations": level.evaluations,
                "CPU ms each": 1e3 * seconds / level.evaluations,
            }  # fmt: skip
            if name.startswith("scalar") and title == "a cut C":
                finer = _followed(found, sigma, **weights)
                numbers["a cut C, that momentum followed in finer means"] = finer
                axis.axhline(finer["particles, T = 60"], color=PURPLE, linestyle=":")
                axis.text(25, finer["particles, T = 60"] + 8, "that momentum, followed finely", fontsize=8)
        axis.set_title(title)
        axis.set_xlabel("accepted steps of L-BFGS")
        axis.set_ylim(0, 1.05 * max(axis.get_ylim()) if small else (16, 400)[title == "a cut C"])
        axis.grid(True)
    axes[0, 0].set_ylabel("coupled energy")
    axes[0, 1].legend(fontsize=8)
    save(figure, out, "metamorphosis_unknowns")
    return numbers


def smooth_pair(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return moving, fixed and mask: a disk, and a three-leaved one of another brightness with a spot."""
    down, right = np.indices((n, n)) - (n - 1) / 2
    radius, angle = np.hypot(down, right), np.arctan2(right, down)

    def step(distance: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-distance / 2))

    moving = step(n / 4 - radius)
    fixed = 0.7 * step(n / 4 + 1 + 2 * np.cos(3 * angle) - np.hypot(down - 1.5, right))
    fixed += 0.3 * np.exp(-((down - 3) ** 2 + (right + 4) ** 2) / 16)
    mask = np.zeros((n, n), dtype=bool)
    mask[3:-3, 3:-3] = True
    return moving.astype(np.float32), fixed.astype(np.float32), mask


def _followed(found: Any, sigma: float, **weights: float) -> dict[str, float]:
    """Return the energy of the momentum that was found, when it is followed more exactly."""
    pair = found.prepared.pair
    box = (..., *pair.box)
    image, fixed, mask = pair.moving[box], pair.fixed[box], pair.mask[box]
    grid = Grid(image.shape[2:], (1.0, 1.0))
    equation = Metamorphosis.from_kernel(Gaussian(sigma), grid, weights["mu"], stride=sigma / 2)
    means = {"particles, T = 60": Particles(), "cubic, T = 60": Lagrangian("cubic", order=2)}
    energies = {}
    for name, scheme in means.items():
        end = shoot_energy(equation, scheme, image, found.registration.shape["momentum"], 60, Context(mask=mask))
        energies[name] = float(0.5 * (end.image - fixed).square().sum() + weights["lambda"] * end.energy)
    return energies


# --- what the lesion did to its neighbors


def history(out: Path, small: bool) -> dict[str, Any]:
    """Register a slice with a tumor and one with a cavity under every statement about the lesion's history."""
    kinds = ("bright", "resected")
    told = ("unknown", "replaced", "grew", "collapsed")
    figure, axes = new(9.6, 4.1, 2, 5)
    numbers: dict[str, Any] = {}
    for row, kind in enumerate(kinds):
        sample = tumor_brain(kind=kind, dim=2, spacing=2.0, seed=1)
        high = float(sample.fixed.max())
        panel(
            axes[row, 0], sample.moving, "moving: a tumor" if kind == "bright" else "moving: a cavity", high=high
        )
        outline(axes[row, 0], sample.mask, ORANGE)
        middle = np.argwhere(sample.fixed_mask).mean(0)
        for column, lesion in enumerate(told[:1] if small else told, 1):
            found = mmtk.register(
                moving=sample.moving, fixed=sample.fixed, mask=sample.mask.astype(np.float32),
                spacing=sample.spacing, init="none", subject="same", lesion=lesion,
            )  # fmt: skip
            error = error_against_truth(sample, found.displacement)
            panel(axes[row, column], found.deformed, f"{lesion}: {error['near']:.1f} mm", high=high)
            outline(axes[row, column], found.images.mask, ORANGE)
            outline(axes[row, column], sample.fixed_mask, GREEN, "--")
            _zoom(axes[row, column], middle)
            numbers[f"{kind}, lesion={lesion}"] = {
                "near, mm": error["near"], "outside, mm": error["outside"],
                "volume kept": found.metrics["lesion"]["volume_kept"],
                "least determinant": found.metrics["deformation"]["jacobian_min"],
            }  # fmt: skip
        _zoom(axes[row, 0], np.argwhere(sample.mask).mean(0))
        if not small:
            kept = as_array(sample.fixed_mask).sum() / as_array(sample.mask).sum()
            numbers[f"{kind}, true volume kept"] = float(kept)
    save(figure, out, "metamorphosis_lesion")
    return numbers


def _zoom(axes: Any, middle: np.ndarray, half: float = 22.0) -> None:
    axes.set_xlim(middle[1] - half, middle[1] + half)
    axes.set_ylim(middle[0] + half, middle[0] - half)


if __name__ == "__main__":
    main(draw)
