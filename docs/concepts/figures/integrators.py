"""Figures of integrators.md: one momentum through every scheme, orders of convergence, and what blurs."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from drawing import BLUE, FAINT, GREEN, INK, ORANGE, PURPLE, RED, SKY, main, new, outline, panel, save, signed
from torch import Tensor

from mmtk.equations import Metamorphosis
from mmtk.fields import Gaussian, Grid, Smoother, warp
from mmtk.integrators import Context, Eulerian, Integrator, Lagrangian, Particles, SemiLagrangian, Sharp
from mmtk.optimize import lbfgs
from mmtk.samples import c_shapes
from mmtk.shooting import shoot_energy

SCHEMES: dict[str, Callable[..., Integrator]] = {
    "eulerian": Eulerian,
    "semi_lagrangian": SemiLagrangian,
    "sharp": Sharp,
    "lagrangian": Lagrangian,
    "particles": Particles,
}
COLORS = dict(zip(SCHEMES, (PURPLE, RED, ORANGE, BLUE, GREEN), strict=True))


def draw(out: Path, small: bool) -> Mapping[str, Any]:
    """Draw the three figures of the page and return what they show in numbers."""
    return {**side_by_side(out, small), **orders(out, small), **blur(out, small)}


# --- one momentum through every scheme


def side_by_side(out: Path, small: bool) -> dict[str, Any]:
    """Shoot a cut C from one momentum by every scheme, T = 15, beside a reference of many steps."""
    image, momentum, mask, equation = cut_c(size=64 if small else 100)
    context = Context(mask=mask, maps=True)
    exact = shoot_energy(equation, Lagrangian("cubic", order=2), image, momentum, 30 if small else 120, context)
    cubic = shoot_energy(equation, Lagrangian("cubic"), image, momentum, 15, context).image - exact.image
    figure, axes = new(9.6, 3.6, 2, 6)
    panel(axes[0, 0], image, "cut C, $t = 0$")
    outline(axes[0, 0], mask, ORANGE)
    panel(axes[1, 0], exact.image, "reference, $t = 1$")
    outline(axes[1, 0], exact.state.mask, ORANGE)
    numbers: dict[str, Any] = {}
    for column, (name, scheme) in enumerate(SCHEMES.items(), 1):
        begin = time.process_time()
        end = shoot_energy(equation, scheme(), image, momentum, 15, context)
        shown = end.image
        seconds = time.process_time() - begin
        error = shown - exact.image
        apart = (end.state.displacement - exact.state.displacement).norm(dim=1)
        panel(axes[0, column], shown, name)
        signed(axes[1, column], error, "its error, T = 15")
        numbers[f"T = 15, {name}"] = {
            "image, root mean square": float(error.square().mean().sqrt()),
            "map, largest, px": float(apart.max()),
            "map, mean, px": float(apart.mean()),
            "CPU s": seconds,
        }
    save(figure, out, "integrators_cut")
    largest = float(exact.state.displacement.norm(dim=1).max())
    return {
        "largest displacement, px": largest, **numbers,
        "T = 15, lagrangian, cubic: image, root mean square": float(cubic.square().mean().sqrt()),
    }  # fmt: skip


def cut_c(size: int) -> tuple[Tensor, Tensor, Tensor, Metamorphosis]:
    """Return image, momentum and mask of a cut C and their equation; the momentum closes the cut and moves the C."""
    sample = next(iter(c_shapes(seed=3, size=size, sigma=3.0, amplitude=180.0, steps=30)))
    inner = (None, None, *[slice(size // 12, size - size // 12)] * 2)
    image, fixed, mask = (
        torch.from_numpy(f.astype(np.float32))[inner] for f in (sample.moving, sample.fixed, sample.mask)
    )
    equation = Metamorphosis.from_kernel(Gaussian(3.0), Grid(image.shape[2:], (1.0, 1.0)), 0.1, stride=1.5)
    context = Context(mask=mask)

    def objective(flat: Tensor) -> tuple[float, Tensor]:
        momentum = flat.view_as(image).clone().requires_grad_()
        end = shoot_energy(equation, Lagrangian(), image, momentum, 15, context)
        energy = 0.5 * (end.image - fixed).square().sum() + 1e-2 * end.energy
        return float(energy.detach()), torch.autograd.grad(energy, momentum)[0].flatten()

    start = torch.zeros(image.numel())
    found = lbfgs(objective, start, 30, first_step=lambda slope: 20 * float(slope.norm() / slope.abs().amax()))
    return image, found.unknowns.view_as(image), mask, equation


# --- orders


def orders(out: Path, small: bool) -> dict[str, Any]:
    """Draw by how much an image changes when the number of steps is doubled, on smooth periodic data."""
    n, most = (16, 16) if small else (24, 64)
    schemes: dict[str, Callable[..., Integrator]] = {
        **SCHEMES, "lagrangian, order 2": lambda mode: Lagrangian(mode, order=2)
    }  # fmt: skip
    figure, axes = new(9.0, 3.3, 1, 2)
    fitted = {}
    for name, scheme in schemes.items():
        steps = [2**k for k in range(2, int(math.log2(most)) + 1)]
        images = [_waves_shot(scheme("cubic"), n, count, 0.5, 8.0) for count in steps]
        changes = [float((a - b).abs().mean()) for a, b in itertools.pairwise(images)]
        fitted[name] = math.log2(changes[-2] / changes[-1])
        color = COLORS.get(name, SKY)
        # The first three lie on one another: the wider, the earlier.
        axes[0, 0].loglog(
            steps[:-1], changes, "o-", color=color, label=f"{name}: {fitted[name]:.2f}",
            linewidth=6.5 - 1.5 * min(len(fitted), 4), markersize=3,
        )  # fmt: skip
    for slope, anchor in ((1, changes[0] * 6), (2, changes[0] * 0.6)):
        line = [anchor * (steps[0] / s) ** slope for s in steps[:-1]]
        axes[0, 0].loglog(steps[:-1], line, ":", color=FAINT)
        axes[0, 0].text(steps[-2], line[-1], f" order {slope}", color=INK, fontsize=8, va="center")
    axes[0, 0].set_xticks(steps[:-1], [str(s) for s in steps[:-1]])
    axes[0, 0].minorticks_off()
    axes[0, 0].set_xlabel("steps T")
    axes[0, 0].set_ylabel("mean |image(T) − image(2T)|")
    axes[0, 0].set_title("Smooth data, cubic interpolation: observed order")
    axes[0, 0].legend(fontsize=7.5, loc="lower left")
    plateau = _plateau(axes[0, 1], small)
    for axis in axes.flat:
        axis.grid(True, which="major")
    save(figure, out, "integrators_order")
    return {"observed orders": fitted, **plateau}


def _plateau(axis: Any, small: bool) -> dict[str, Any]:
    """A stripe of three pixels, linear interpolation: what a scheme blurs beside one deformation of the start."""
    n = 32
    stripe = torch.zeros(1, 1, n, n, dtype=torch.float64)
    stripe[..., 10:13, :] = 1
    steps = [2, 4, 8] if small else [2, 4, 8, 16, 32, 64]
    blurred: dict[str, list[float]] = {}
    for name in ("semi_lagrangian", "sharp", "lagrangian"):
        blurred[name] = []
        for count in steps if name != "sharp" else steps[:5]:
            end = shoot_energy(
                _periodic(n, 0.0), SCHEMES[name](), stripe, 20 * _waves(n, seed=2), count, Context(maps=True)
            )
            once = warp(stripe, end.state.displacement, padding="periodic")
            blurred[name].append(float((end.image - once).abs().mean()))
        shown = blurred[name]
        axis.semilogx(steps[: len(shown)], shown, "o-", color=COLORS[name], label=name, base=2)
    axis.set_xlabel("steps T")
    axis.set_ylabel("mean |image − start, deformed once|")
    axis.set_title("A thin stripe, linear interpolation: the blur")
    axis.set_xticks(steps, [str(s) for s in steps])
    axis.set_ylim(bottom=-0.03 * axis.get_ylim()[1])
    axis.legend(fontsize=8, loc="center right")
    return {"blur of a stripe": blurred, "steps of the blur": steps}


def _waves(n: int, *, seed: int, modes: int = 2) -> Tensor:
    """A smooth periodic function of the unit square, sampled on n x n points: the same function for every n."""
    chance = torch.Generator().manual_seed(seed)
    x = torch.arange(n, dtype=torch.float64) / n
    down, right = torch.meshgrid(x, x, indexing="ij")
    total = torch.zeros_like(down)
    for _ in range(4):
        k = torch.randint(-modes, modes + 1, (2,), generator=chance)
        amplitude, phase = torch.rand(2, generator=chance, dtype=torch.float64)
        total = total + amplitude * torch.cos(2 * math.pi * (k[0] * down + k[1] * right + phase))
    return total[None, None]


def _periodic(n: int, mu: float) -> Metamorphosis:
    """The equation on a periodic box 32 mm wide, with a kernel of 4 mm."""
    grid = Grid((n, n), (32 / n, 32 / n))
    return Metamorphosis(Smoother(Gaussian(4.0), grid), grid, mu)


def _waves_shot(scheme: Integrator, n: int, steps: int, mu: float, size: float) -> Tensor:
    image, momentum = _waves(n, seed=1), size * _waves(n, seed=2)
    return shoot_energy(_periodic(n, mu), scheme, image, momentum, steps).image


# --- blur and growth, in closed form


def blur(out: Path, small: bool) -> dict[str, Any]:
    """Carry a wave packet by d pixels in T equal steps: variance that linear interpolation adds, growth by Euler."""
    n, moved = 256, 8.0
    steps = [8, 16, 64] if small else [8, 10, 12, 16, 24, 32, 64, 128, 256]
    x = torch.arange(n, dtype=torch.float64)
    bump = torch.exp(-0.5 * ((x - 120) / 6) ** 2)
    width = float(_variance(bump, x))
    measured, predicted, growth, rule = [], [], [], []
    finest = torch.cos(0.5 * math.pi * x)  # four pixels a wave: what central differences see best
    for count in steps:
        step = moved / count
        image, wave = bump, finest
        for _ in range(count):
            image = _shifted(image, step)
            wave = wave - 0.5 * step * (wave.roll(-1) - wave.roll(1))
        measured.append(float(_variance(image, x)) - width)
        predicted.append(_blur(step) * count)
        growth.append(float(wave.norm() / finest.norm()))
        rule.append((1 + step**2) ** (count / 2))
    figure, axes = new(9.0, 3.0, 1, 2)
    axes[0, 0].semilogx(steps, measured, "o", color=RED, label="measured", base=2)
    axes[0, 0].semilogx(steps, predicted, "-", color=INK, linewidth=1, label=r"$T\,\alpha(1-\alpha)$", base=2)
    axes[0, 0].axhline(moved, color=FAINT, linestyle=":")
    axes[0, 0].set_xlabel("steps T for a motion of 8 voxels")
    axes[0, 0].set_ylabel("variance added, voxel²")
    axes[0, 0].set_title("Semi-Lagrangian, linear: diffusion")
    axes[0, 1].loglog(steps, growth, "o", color=PURPLE, label="measured", base=2)
    axes[0, 1].loglog(steps, rule, "-", color=INK, linewidth=1, label=r"$(1+(d/T)^2)^{T/2}$", base=2)
    axes[0, 1].axhline(1, color=FAINT, linestyle=":")
    axes[0, 1].set_xlabel("steps T for a motion of 8 voxels")
    axes[0, 1].set_ylabel("growth of waves of 4 voxels")
    axes[0, 1].set_title("Eulerian: instability")
    axes[0, 1].set_yticks([1, 2, 4, 8, 16], ["1", "2", "4", "8", "16"])
    for axis in axes.flat:
        axis.set_xticks([s for s in steps if s & (s - 1) == 0], [str(s) for s in steps if s & (s - 1) == 0])
        axis.minorticks_off()
        axis.legend(fontsize=8)
        axis.grid(True, which="major")
    save(figure, out, "integrators_blur")
    return {
        "steps of the translation": steps,
        "variance added, measured": measured,
        "variance added, by the formula": predicted,
        "growth, measured": growth,
        "growth, by the formula": rule,
    }


def _blur(step: float) -> float:
    """Variance that one linear interpolation adds, ``a (1 - a)`` with a the broken part of the step."""
    share = step - math.floor(step)
    return share * (1 - share)


def _shifted(image: Tensor, step: float) -> Tensor:
    """Return ``image(x - step)``, linear, by mmtk's own warp."""
    u = torch.zeros(1, 2, image.numel(), 2, dtype=image.dtype)
    u[:, 0] = -step
    return warp(image[None, None, :, None].expand(1, 1, -1, 2), u, padding="periodic")[0, 0, :, 0]


def _variance(image: Tensor, x: Tensor) -> Tensor:
    mass = image / image.sum()
    center = (mass * x).sum()
    return (mass * (x - center) ** 2).sum()


if __name__ == "__main__":
    main(draw)
