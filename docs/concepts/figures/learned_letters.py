"""Figures of learned.md on letters: ISBI's figure 2, the methods of thesis table 5.2 on one letter, sharp and blurred.

The folder of networks holds those of ``python -m benchmarks.letters --runs`` in ``letters``, and two of this script's
own in ``isbi``; what it lacks is trained, for one minute of the processor each.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from drawing import INK, ORANGE, SKY, main, mesh, new, outline, panel, save
from scipy.ndimage import label as components
from torch import Tensor

sys.path.append(str(Path(__file__).parents[3]))  # the benchmarks, whose rows and networks are shown

from benchmarks import letters
from mmtk.fields import Grid, folds, warp
from mmtk.learned import Model
from mmtk.method import Pair
from mmtk.plugins import installed
from mmtk.samples import c_shapes
from mmtk.similarity import SquaredDifference
from mmtk.training.data import as_batch
from mmtk.training.engine import train
from mmtk.training.plan import Plan

Item = dict[str, Tensor]

#: ISBI's energy (its section 3); kernel and mu are those that serve letters of this size.
ISBI: dict[str, Any] = {"sigma": (4.0,), "lam": 1e-6, "mu": 0.05, "steps": 20}


def draw(out: Path, small: bool, runs: Path) -> Mapping[str, Any]:
    """Draw the figures and return what they show in numbers."""
    return {**sharp(out, small), **table(out, small, runs / "letters"), **isbi(out, small, runs / "isbi")}


# --- ISBI, figure 2


def isbi(out: Path, small: bool, runs: Path) -> dict[str, Any]:
    """Draw deformed letters onto one letter that is cut: optimized above, learned below, differences under each."""
    shown, grid = cut_targets(1, 9, small)[0], Grid((48, 48) if small else (100, 100), (1.0, 1.0))
    count = 3 if small else 60
    r, vm = (_isbi_network(kind, runs, grid, small) for kind in ("r", "vm"))
    found = {
        (0, 1): ("LDDMM", _shot(shown, grid, count, mu=0.0, mask=False)),
        (0, 2): ("cost masked (CFM)", _shot(shown, grid, count, mu=0.0)),
        (0, 3): ("MetaMorph-R, optimized", _optimized(shown, grid, 2 if small else 200)),
        (1, 1): ("VoxelMorph", _applied(vm, shown)),
        (1, 3): ("MetaMorph-R, learned", _applied(r, shown)),
    }
    figure, axes = new(9.0, 7.2, 4, 5)
    for axis in axes.flat:
        axis.set_axis_off()
    panel(axes[0, 0], shown["moving"], "source")
    outline(axes[0, 0], shown["mask"], ORANGE)
    panel(axes[2, 0], shown["fixed"], "target")
    numbers: dict[str, Any] = {}
    for (row, column), (name, (displacement, total)) in found.items():
        shape = warp(shown["moving"][None], displacement)
        pictures = {column: (name, total)} | (
            {column + 1: ("the same, shape alone", shape)} if column == 3 else {}
        )
        for place, (title, image) in pictures.items():
            off = (image - shown["fixed"]).abs()
            panel(axes[2 * row, place], image, title)
            panel(axes[2 * row + 1, place], off, f"SSD {float(off.square().sum()):.0f}", colors="magma")
        mesh(axes[2 * row, max(pictures)], forward_map(displacement), every=5)
        numbers[f"isbi, {name}"] = {
            "ssd": float((total - shown["fixed"]).square().sum()),
            "shape outside": _outside(shown, shape), "error, px": _error(shown, displacement),
            "folds": folds(displacement),
        }  # fmt: skip
    for row, word in ((0, "optimized"), (2, "learned")):
        axes[row, 1].text(
            -0.1, 0.5, word, transform=axes[row, 1].transAxes, rotation=90, va="center", ha="center", color=INK
        )
    save(figure, out, "learned_letters_isbi")
    return numbers


def cut_targets(count: int, seed: int, small: bool) -> list[Item]:
    """Return deformed whole letters, all with the same target, which is cut, and the cut's counterpart as mask."""
    options = {"size": 48, "sigma": 2.0, "amplitude": 60.0, "steps": 10} if small else _LETTERS
    first = next(iter(c_shapes(cut="target", seed=9, **options)))
    fixed, cut = _tensor(first.fixed), _tensor(first.fixed_mask)
    items = []
    for sample in c_shapes(cut="target", count=count, seed=seed, **options):
        inverse = torch.from_numpy(sample.inverse_displacement.copy())
        mask = (warp(cut[None], inverse[None])[0] > 0.01).float()
        items.append({
            "moving": _tensor(sample.moving), "fixed": fixed, "mask": mask, "counterpart": cut, "inverse": inverse,
            "displacement": torch.from_numpy(sample.displacement.copy()),
        })  # fmt: skip
    return items


_LETTERS: dict[str, Any] = {"size": 100, "sigma": 3.0, "amplitude": 180.0, "steps": 30}


def _tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(image, dtype=np.float32)[None])


def _isbi_network(kind: str, runs: Path, grid: Grid, small: bool) -> Model:
    from mmtk_metamorph.networks import MetaMorphR
    from mmtk_voxelmorph.network import VoxelMorph

    torch.manual_seed(0)
    squares = SquaredDifference(reduction="none")
    if kind == "vm":
        model: Model = VoxelMorph(grid, similarity=squares, lam=0.1, half=True)
    else:
        model = MetaMorphR(grid, similarity=squares, half=True, checkpoint=False, **ISBI)
    if not (runs / kind / "training.json").is_file():
        training, validation = (
            cut_targets(3 if small else 160, 0, small),
            cut_targets(2 if small else 16, 2, small),
        )
        plan = Plan(epochs=1 if small else 1000, batch_size=1 if small else 4, cpu_minutes=1.0)
        train(model, plan, training, validation, runs / kind, resume=True)  # type: ignore[arg-type]
    model.load_state_dict(torch.load(runs / kind / "model.pt", weights_only=True))
    return model


@torch.no_grad()
def _applied(model: Model, item: Item) -> tuple[Tensor, Tensor]:
    model.eval()
    prediction = model(as_batch({name: value[None] for name, value in item.items()}))
    return prediction.displacement, prediction.warped


def _shot(item: Item, grid: Grid, iterations: int, *, mask: bool = True, **changes: Any) -> tuple[Tensor, Tensor]:
    """Optimize by shooting; without mu there is no appearance, and a mask hides what lies under it."""
    settings = {**ISBI, "integrator": {"kind": "lagrangian"}, **changes}
    settings["lambda"] = settings.pop("lam")
    settings["momentum"] = "split" if settings["mu"] == 0 else "coupled"
    settings |= {"kind": "metamorphosis", "shape": "momentum", "similarity": {"kind": "ssd"}, "checkpoint": False}
    settings |= {"levels": (1.0,), "iterations": (iterations,)}
    return _register(settings, item, grid, mask)


def _optimized(item: Item, grid: Grid, steps: int) -> tuple[Tensor, Tensor]:
    """Train the network on the one pair (ISBI, eq. 6)."""
    settings = {**ISBI, "kind": "metamorph_r", "engine": "optimize", "iterations": steps, "half": True}
    settings["lambda"] = settings.pop("lam")
    return _register(settings, item, grid, True)


def _register(settings: dict[str, Any], item: Item, grid: Grid, masked: bool) -> tuple[Tensor, Tensor]:
    catalogue = installed()
    config = catalogue.find("method", settings["kind"]).model_validate(settings, context={"catalogue": catalogue})
    moving, fixed = item["moving"][None], item["fixed"][None]
    found = config.build().register(Pair(moving, fixed, grid, item["mask"][None] if masked else None))
    shape = warp(moving, found.displacement)
    return found.displacement, shape if found.appearance is None else shape + found.appearance


def forward_map(displacement: Tensor) -> Tensor:
    """Return the map from moving to fixed points, whose image of a grid are the moving image's own lines."""
    from mmtk.fields import invert

    return invert(displacement, -displacement, tolerance=0.05)


def _outside(item: Item, shape: Tensor) -> float:
    return float(((item["counterpart"] == 0) * (shape - item["fixed"]).square()).sum())


def _error(item: Item, displacement: Tensor) -> float:
    """Mean distance from the true map on the target's letter, pixels."""
    ink = item["fixed"][0] > 0.5
    return float((displacement - item["displacement"]).norm(dim=1)[0][ink].mean())


# --- the methods of thesis table 5.2 on one letter (figure 5.4)


def table(out: Path, small: bool, runs: Path) -> dict[str, Any]:
    """Draw one test letter by the methods of table 5.2: above in all, below by shape alone."""
    plain = {"lddmm": "LDDMM", "lddmm-cfm": "LDDMM, masked", "vm": "VoxelMorph", "vm-cfm": "VoxelMorph, masked"}
    both = {
        "meta": "Metamorphosis", "g": "MetaMorph-G", "r": "MetaMorph-R", "r-refine": "MetaMorph-R, refined",
        "split": "split metamorphosis",
    }  # fmt: skip
    if small:
        plain, both = {"vm": "VoxelMorph"}, {"r": "MetaMorph-R", "split": "split metamorphosis"}
    item, grid = _letter(small)
    figure, axes = new(8.8, 7.6, 4, 5)
    for axis in axes.flat:
        axis.set_axis_off()
    panel(axes[0, 0], item["moving"], "source")
    outline(axes[0, 0], item["mask"], ORANGE)
    panel(axes[1, 0], item["fixed"], "target")
    numbers: dict[str, Any] = {}
    places = {name: (0, 1 + k) for k, name in enumerate(plain)} | {name: (2, k) for k, name in enumerate(both)}
    for name, (down, right) in places.items():
        row, title = letters.ROWS[name], {**plain, **both}[name]
        model = None if row.kind == "meta" else _letters_network(row.weights or name, runs, grid, small)
        displacement, total = letters.registered(row, item, grid, model)
        shape = warp(item["moving"][None], displacement)
        scores = letters.letter_scores(item, displacement, total, grid)
        panel(axes[down, right], total, f"{title}\nL2 {scores['l2']:.0f}, s {scores['s']:.0f}")
        panel(axes[down + 1, right], 0.6 * shape)
        mesh(
            axes[down + 1, right], forward_map(displacement), every=5, color=SKY if not scores["folds"] else ORANGE
        )
        numbers[f"one letter, {title}"] = scores
    save(figure, out, "learned_letters_table")
    return numbers


def _letter(small: bool) -> tuple[Item, Grid]:
    """Return a test letter of the benchmark; small: one of 48 pixels."""
    if small:
        options = {"size": 48, "sigma": 2.0, "amplitude": 60.0, "steps": 10}
        from mmtk.training.data import SyntheticPairs

        made = SyntheticPairs("c_shapes", options, count=1, seed=1, truth=True)
    else:
        made = letters.pairs("test", None)  # type: ignore[arg-type]
    return made[0], made.grid()


def _letters_network(name: str, runs: Path, grid: Grid, small: bool) -> Model:
    model = letters.make_model(letters.ROWS[name], grid)
    if small:
        return model
    if not (runs / name / "training.json").is_file():
        made = letters.pairs("training", runs / "pairs")
        training, validation = [made[i] for i in range(100)], [made[i] for i in range(100, 110)]
        train(model, Plan(epochs=1000, cpu_minutes=1.0), training, validation, runs / name, resume=True)  # type: ignore[arg-type]
    model.load_state_dict(torch.load(runs / name / "model.pt", weights_only=True))
    return model


# --- successive and sharp interpolation (thesis, figure 5.3)


def sharp(out: Path, small: bool) -> dict[str, Any]:
    """Optimize one letter with mu = 0 and mu > 0, resampling at each step or once."""
    options = {"size": 48, "sigma": 2.0, "amplitude": 60.0, "steps": 10} if small else _LETTERS
    sample = next(iter(c_shapes(seed=9, **options)))
    item = {"moving": _tensor(sample.moving), "fixed": _tensor(sample.fixed), "mask": _tensor(sample.mask)}
    grid = Grid(sample.fixed.shape, (1.0, 1.0))
    schemes = {
        "semi_lagrangian": "bilinear,\n15 times",
        "sharp": "sharp,\nonce",
        "lagrangian": "lagrangian,\nonce",
    }
    figure, axes = new(9.6, 3.4, 2, 7)
    numbers: dict[str, Any] = {}
    for row, mu in enumerate((0.0, 0.1)):
        panel(axes[row, 0], (item["moving"], item["fixed"])[row], ("source", "target")[row])
        for k, (scheme, title) in enumerate(schemes.items(), 1):
            # Its own momentum for each scheme, as each would be used.
            momentum = {"mu": mu, "steps": 15, "lam": 3e-6, "integrator": {"kind": scheme}}
            _, total = _shot_image(item, grid, 3 if small else 25, mask=mu > 0, **momentum)
            zoomed = axes[row, 3 + k]
            panel(axes[row, k], total, title if row == 0 else "")
            panel(
                zoomed,
                total,
                "about the cut:\n" + scheme.replace("semi_lagrangian", "bilinear") if row == 0 else "",
            )
            down, right = np.argwhere(sample.fixed_mask).mean(0)
            half = sample.fixed.shape[0] / 8
            zoomed.set_xlim(right - half, right + half)
            zoomed.set_ylim(down + half, down - half)
            values = total[0, 0].numpy()
            numbers[f"mu = {mu:g}, {scheme}"] = {
                "pixels that are neither ink nor paper": int(((values > 0.1) & (values < 0.9)).sum()),
                "pieces": int(components(values > 0.5)[1]),
                "ssd": float((total - item["fixed"]).square().sum()),
            }  # fmt: skip
        axes[row, 1].text(
            -0.12,
            0.5,
            f"μ = {mu:g}",
            transform=axes[row, 1].transAxes,
            rotation=90,
            va="center",
            ha="center",
            color=INK,
        )
    save(figure, out, "learned_letters_sharp")
    return numbers


def _shot_image(item: Item, grid: Grid, iterations: int, **changes: Any) -> tuple[Tensor, Tensor]:
    """Return displacement and the image as the scheme itself carries it, blur included."""
    from mmtk.equations import Metamorphosis
    from mmtk.fields import Gaussian
    from mmtk.integrators import Context
    from mmtk.optimize import lbfgs
    from mmtk.shooting import shoot_energy

    scheme = installed().find("integrator", changes["integrator"]["kind"])().build()
    equation = Metamorphosis.from_kernel(
        Gaussian(ISBI["sigma"][0]), grid, changes["mu"], stride=ISBI["sigma"][0] / 2
    )
    image, fixed = item["moving"][None], item["fixed"][None]
    context = Context(mask=item["mask"][None] if changes["mask"] else None)

    def objective(flat: Tensor) -> tuple[float, Tensor]:
        momentum = flat.detach().view_as(image).requires_grad_(True)
        end = shoot_energy(equation, scheme, image, momentum, changes["steps"], context)
        energy = 0.5 * (end.image - fixed).square().sum() + changes["lam"] * end.energy
        return float(energy.detach()), torch.autograd.grad(energy, momentum)[0].flatten()

    begin = torch.zeros(image.numel())
    found = lbfgs(objective, begin, 2 * iterations, first_step=lambda g: 20 * float(g.norm() / g.abs().amax()))
    with torch.no_grad():
        end = shoot_energy(
            equation,
            scheme,
            image,
            found.unknowns.view_as(image),
            changes["steps"],
            Context(mask=context.mask, maps=True),
        )
    return end.state.displacement, end.image


if __name__ == "__main__":
    main(draw, networks=True)
