"""Figure of cvae.md: what the codes of ``cvae_diffeomorphic`` stand for, on made-up hearts (no patient is shown).

A made-up heart is a bright cavity in a dark wall, with a crescent of a right ventricle, on 128 x 128 mm. In systole the
cavity is smaller and the wall thicker, of the same area.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from drawing import SKY, main, mesh, new, panel, save
from matplotlib.axes import Axes

from mmtk_cvae.codes import Decoded, drawn, load, transported

WEIGHTS = "cvae_diffeomorphic"
#: Radius of the cavity in diastole and in systole, and of the wall around it in diastole, mm.
WELL, WEAK = (21.0, 12.0, 30.0), (29.0, 26.0, 37.0)


def heart(cavity: float, wall: float, squeeze: float = 1.0) -> np.ndarray:
    """Return ``(128, 128)`` intensities, 1 mm."""
    x, y = np.meshgrid(*[np.arange(128.0) - 63.5] * 2, indexing="ij")
    outside, away = np.hypot(x, y), np.hypot(x + 34, y * 0.8)

    def inside(distance: np.ndarray, radius: float) -> np.ndarray:
        return 1 / (1 + np.exp((distance - radius) / 0.8))

    right = inside(away, 30 * squeeze) * (1 - inside(outside, wall))
    lungs = 0.15 + 0.1 * np.sin(x / 11) * np.cos(y / 13)
    body = lungs + (0.7 - lungs) * right
    body = body + (0.3 - body) * inside(outside, wall)
    return np.asarray(255 * (body + (0.9 - body) * inside(outside, cavity)), dtype=np.float32)


def beat(diastole: float, systole: float, wall: float) -> tuple[np.ndarray, np.ndarray]:
    """Return both phases; the wall keeps its area."""
    thicker = math.sqrt(systole**2 + wall**2 - diastole**2)
    return heart(diastole, wall), heart(systole, thicker, 0.9)


def draw(out: Path, small: bool) -> Mapping[str, Any]:
    """Draw registrations, a transport and samples, and return their numbers."""
    method = load(WEIGHTS)
    with tempfile.TemporaryDirectory() as place:
        files = {}
        for name, phases in (("well", beat(*WELL)), ("weak", beat(*WEAK))):
            for phase, image in zip(("ed", "es"), phases, strict=True):
                files[name, phase] = Path(place) / f"{name}_{phase}.nii.gz"
                nib.save(nib.Nifti1Image(image, np.eye(4)), files[name, phase])
        well, weak = (files["well", "ed"], files["well", "es"]), (files["weak", "ed"], files["weak", "es"])
        of_well, _ = transported(method, *well, well[0])
        of_weak, carried = transported(method, *weak, well[0])
        samples = drawn(method, well[0], 2 if small else 3, seed=1)
    figure, axes = new(7.4, 6.4, 4, 5)
    for axis in axes.flat:
        axis.set_axis_off()
    rows = (
        ("well", beat(*WELL), of_well, "its own code"),
        ("weak", beat(*WEAK), of_weak, "its own code"),
        ("well", beat(*WELL), carried, "weak one's code"),
    )
    for line, (name, (moving, fixed), found, title) in zip(axes, rows, strict=False):
        panel(line[0], moving / 255, f"{name}: moving")
        panel(line[1], fixed / 255, "fixed")
        _decoded(line[2:], found, title)
    panel(axes[3, 0], beat(*WELL)[0] / 255, "drawn codes")
    for axis, found in zip(axes[3, 1:], samples, strict=False):
        panel(axis, 0.6 * found.warped / 255)
        mesh(axis, found.displacement, every=8, color=SKY)
    save(figure, out, "cvae_codes")
    named = {"well": of_well, "weak": of_weak, "transported": carried}
    return {
        name: {
            "folds": found.folds,
            "least determinant": float(found.jacobian.min()),
            "largest determinant": float(found.jacobian.max()),
            "largest motion, mm": float(found.displacement.norm(dim=1).max()),
        }
        for name, found in {**named, **{f"drawn {n}": f for n, f in enumerate(samples)}}.items()
    }


def _decoded(line: list[Axes], found: Decoded, title: str) -> None:
    panel(line[0], found.warped / 255, title)
    panel(line[1], 0.6 * found.warped / 255, "map")
    mesh(line[1], found.displacement, every=8, color=SKY)
    line[2].imshow(np.log2(np.clip(found.jacobian, 1e-3, None)), cmap="RdBu", vmin=-1, vmax=1)
    line[2].set_title("log2 of det")


if __name__ == "__main__":
    main(draw)
