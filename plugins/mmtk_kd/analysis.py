r"""How networks differ: SVCCA between their layers, what a layer is worth, and what a training set's size does.

Singular vector canonical correlation analysis compares two layers by what their channels span, whatever their order and
scale: each is reduced to the singular directions that hold 99 % of its variance, and the canonical correlations between
the two are averaged.

    M. Raghu et al., "SVCCA: singular vector canonical correlation analysis for deep learning dynamics and
    interpretability", NeurIPS 2017; thesis, fig. 3.9.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmtk_kd.networks import recorded, zeroed
from mmtk_kd.scoring import judge

__all__ = ["LAYERS", "draw_similarity", "draw_sizes", "draw_zeroed", "similarity", "svcca", "zeroed_scores"]

#: Layers that are compared, in the order that an image meets them.
LAYERS = ("sc1", "sc2", "sc3", "bottleneck", "up3", "up2", "up1")


def svcca(x: np.ndarray, y: np.ndarray, kept: float = 0.99) -> float:
    """Return the mean canonical correlation of two layers, in [0, 1].

    Args:
        x, y: ``(points, channels)``, at the same points.
        kept: Share of each one's variance that is compared.
    """
    bases = []
    for activations in (x, y):
        centered = np.asarray(activations, dtype=np.float64)
        centered = centered - centered.mean(0)
        left, strength, _ = np.linalg.svd(centered, full_matrices=False)
        power = strength**2
        if power.sum() <= 0:
            return 0.0
        count = int(np.searchsorted(np.cumsum(power) / power.sum(), kept * (1 - 1e-12)) + 1)
        bases.append(left[:, :count])
    # Both bases are orthonormal, so the canonical correlations are the singular values of their product.
    correlations = np.linalg.svd(bases[0].T @ bases[1], compute_uv=False)
    return float(np.clip(correlations, 0, 1).mean())


@torch.no_grad()
def _points(
    network: nn.Module, images: Sequence[Tensor], layers: Sequence[str], count: int
) -> dict[str, np.ndarray]:
    """Return ``(points, channels)`` of each layer: voxels drawn from every image, the same for all networks."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in layers}
    network.eval()
    for number, image in enumerate(images):
        with recorded(network, layers) as features:
            network(image[None])
        for name in layers:
            flat = features[name][0].flatten(1).float().T.numpy()
            draw = np.random.default_rng([number, flat.shape[0]])
            found[name].append(flat[draw.choice(len(flat), min(count, len(flat)), replace=False)])
    return {name: np.concatenate(parts) for name, parts in found.items()}


def similarity(
    networks: Mapping[str, tuple[nn.Module, Sequence[int]]],
    heads: Any,
    patch: Sequence[int],
    layers: Sequence[str] = LAYERS,
    count: int = 400,
) -> dict[tuple[str, str], dict[str, float]]:
    """Return the SVCCA of every pair of networks at each layer.

    Args:
        networks: By name: the network and which modalities it sees.
        heads: What they are shown: the middle patch of each.
        count: Voxels of a layer that are taken of each head.
    """
    from mmtk_kd.data import Patches

    patches = Patches(heads, patch)
    images = [patches[k]["image"] for k in range(len(patches))]
    seen = {
        name: _points(network, [image[list(channels)] for image in images], layers, count)
        for name, (network, channels) in networks.items()
    }
    names = list(networks)
    return {
        (a, b): {layer: svcca(seen[a][layer], seen[b][layer]) for layer in layers}
        for k, a in enumerate(names)
        for b in names[k + 1 :]
    }


def zeroed_scores(
    network: nn.Module,
    weights: Any,
    heads: Any,
    channels: Sequence[int],
    layers: Sequence[str] = ("bottleneck", "sc3", "sc2", "sc1"),
    half: bool = False,
) -> dict[str, dict[str, float]]:
    """Return the mean Dice of each region with no layer zeroed, and with each in turn (thesis tables 3.5 and 3.6)."""
    from contextlib import nullcontext

    found = {}
    for name in ("none", *layers):
        with nullcontext() if name == "none" else zeroed(network, name):
            scores = judge(network, weights, heads, channels, half)
        found[name] = {
            region: float(np.mean([s[f"dice_{region.lower()}"] for s in scores])) for region in ("ET", "TC", "WT")
        }
    return found


# --- pictures


def _axes(width: float = 7.0, height: float = 3.6) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(width, height), constrained_layout=True)


def _save(figure: Any, path: Path) -> None:
    import matplotlib.pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_similarity(found: Mapping[tuple[str, str], Mapping[str, float]], path: Path) -> None:
    """Draw bars of every pair at each layer (thesis fig. 3.9)."""
    figure, axes = _axes()
    layers = list(next(iter(found.values())))
    width = 0.8 / len(found)
    for k, (pair, values) in enumerate(found.items()):
        places = np.arange(len(layers)) + (k - (len(found) - 1) / 2) * width
        axes.bar(places, [values[layer] for layer in layers], width, label=" and ".join(pair))
    axes.set_xticks(range(len(layers)), layers)
    axes.set(ylabel="SVCCA", ylim=(0, 1))
    axes.legend(frameon=False, fontsize=8)
    axes.grid(axis="y", alpha=0.3)
    _save(figure, path)


def draw_zeroed(found: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Draw the mean Dice of each region, with each layer zeroed."""
    figure, axes = _axes()
    names = list(found)
    for k, region in enumerate(("ET", "TC", "WT")):
        axes.bar(np.arange(len(names)) + (k - 1) * 0.27, [found[n][region] for n in names], 0.25, label=region)
    axes.set_xticks(range(len(names)), names)
    axes.set(ylabel="mean Dice", xlabel="layer set to zero", ylim=(0, 1))
    axes.legend(frameon=False)
    axes.grid(axis="y", alpha=0.3)
    _save(figure, path)


def draw_sizes(gains: Mapping[str, Mapping[str, Mapping[int, float]]], path: Path) -> None:
    """Draw the gain in mean Dice over the baseline against the number of heads (thesis fig. 3.11).

    Args:
        gains: By region, by strategy, by number of heads: in points of Dice.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1, len(gains), figsize=(3.4 * len(gains), 3.4), constrained_layout=True, sharey=True
    )
    for ax, (region, strategies) in zip(np.atleast_1d(axes), gains.items(), strict=True):
        for strategy, values in strategies.items():
            sizes = sorted(values)
            ax.plot(sizes, [values[n] for n in sizes], "o-", label=strategy)
        ax.axhline(0, color="black", linewidth=0.8)
        ax.set(title=region, xlabel="heads to train on", xscale="log")
        sizes = sorted({n for values in strategies.values() for n in values})
        ax.set_xticks(sizes, [str(n) for n in sizes])
        ax.minorticks_off()
        ax.grid(alpha=0.3)
    np.atleast_1d(axes)[0].set_ylabel("gain over the baseline, points of Dice")
    np.atleast_1d(axes)[-1].legend(frameon=False, fontsize=8)
    _save(figure, path)
