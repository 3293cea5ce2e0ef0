"""Results and folders as registrations give and leave them, from small images made here: nothing is registered."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mmtk.fields import Grid, jacobian_determinant
from mmtk.intensity import pair_normalizers
from mmtk.io import Storage, Volume, read_image, read_mask, write_image
from mmtk.method import Pair
from mmtk.outputs import Warped
from mmtk.prepare import Prepared
from mmtk.registration import Result, save
from mmtk.result import LevelReport, Outcome, Registration


class Scale:
    """Intensities of 0 to 100 to 0 to 1."""

    def apply(self, values):
        return values / 100

    def invert(self, values):
        return values * 100


def ball(shape, center, radius):
    axes = np.ix_(*(np.arange(n) for n in shape))
    return (sum((a - c) ** 2 for a, c in zip(axes, center, strict=True)) <= radius**2).astype(np.float32)


def bump(shape, size):
    """A displacement of so many voxels along the first axis, 0 at the border."""
    u = torch.zeros(1, len(shape), *shape)
    window = torch.ones(shape)
    for axis, n in enumerate(shape):
        ramp = torch.sin(torch.linspace(0, torch.pi, n))
        window = window * ramp.view(*[-1 if a == axis else 1 for a in range(len(shape))])
    u[0, 0] = size * window
    return u


def build(
    shape=(20, 24, 16),
    *,
    lesion=True,
    fixed_lesion=False,
    constant=False,
    affine=None,
    located=True,
    displacement=None,
    metrics=None,
    notes=(),
    matrix=None,
    paths=("moving.nii.gz", "fixed.nii.gz"),
):
    affine = np.diag([1.0, 1.0, 2.0, 1.0]) if affine is None else affine
    storage = Storage(affine, int(located), int(located))
    middle = [n / 2 for n in shape]
    head = ball(shape, middle, min(shape) / 2 - 1) * (0 if constant else 60)
    spot = ball(shape, [c + 2 for c in middle], min(shape) / 5)

    def volume(data, name, path=None):
        return Volume(data, affine, storage, name, path)

    moving = volume(head + (0 if constant else 30) * spot, "moving", paths[0])
    fixed = volume(np.roll(head, 1, axis=0), "fixed", paths[1])
    grid = Grid(shape, fixed.spacing)
    u = bump(shape, 1.5) if displacement is None else displacement
    mask = volume(spot, "mask") if lesion else None
    scale = Scale()
    alignment = SimpleNamespace(matrix=np.eye(4) if matrix is None else matrix, kind="affine", note="")
    prepared = Prepared(
        moving,
        fixed,
        mask,
        volume(np.roll(spot, 1, axis=0), "fixed_mask") if fixed_lesion else None,
        alignment,
        scale,
        scale,
        Pair(moving=torch.zeros(1, 1, *shape), fixed=torch.zeros(1, 1, *shape), grid=grid),
    )
    appearance = -30 * torch.from_numpy(spot) if lesion else None
    deformed = torch.from_numpy(moving.data)
    images = Warped(
        warped=deformed if appearance is None else deformed + appearance,
        deformed=deformed,
        appearance=appearance,
        mask=torch.from_numpy(spot) if lesion else None,
        labels=None,
        jacobian=jacobian_determinant(u)[0, 0] * abs(np.linalg.det(alignment.matrix[:3, :3])),
    )
    levels = (
        LevelReport(2.0, (9.0, 5.0, 4.0), 4, 0.5, Outcome.CONVERGED),
        LevelReport(1.0, (3.0, float("nan")), 2, 0.7, Outcome.CONVERGED),
    )
    found = Registration(grid, u, -u, None if appearance is None else appearance[None, None], {}, levels)
    return SimpleNamespace(
        images=images,
        registration=found,
        prepared=prepared,
        metrics={"similarity": {"correlation_outside": 0.9}} if metrics is None else metrics,
        seconds={"prepare": 1.0, "register": 2.0},
        notes=tuple(notes),
        settings={"method": {"kind": "metamorphosis", "mu": 0.1}, "init": "affine", "normalize": "robust"},
    )


@pytest.fixture
def make():
    return build


def leave(folder, **kind):
    """Leave the folder of a run, and beside it the images that it read; return the result and its record."""
    folder.mkdir(parents=True, exist_ok=True)
    made = build(**kind)
    images = {}
    for role in ("moving", "fixed", "mask", "fixed_mask"):
        volume = getattr(made.prepared, role)
        if volume is not None:
            write_image(folder / f"{role}.nii.gz", volume.data, volume)
            read = read_image if "mask" not in role else read_mask
            like = {"mask": "moving", "fixed_mask": "fixed"}.get(role)
            images[role] = read(folder / f"{role}.nii.gz", name=role, **({"like": images[like]} if like else {}))
    masks = [images[role].data if role in images else None for role in ("mask", "fixed_mask")]
    moving_scale, fixed_scale = pair_normalizers(images["moving"].data, images["fixed"].data, *masks)
    made.prepared = replace(made.prepared, **images, moving_scale=moving_scale, fixed_scale=fixed_scale)
    result = Result(**vars(made))
    save(result, folder / "run", command="mmtk run moving=moving.nii.gz")
    return result, json.loads((folder / "run" / "run.json").read_text())


@pytest.fixture
def left():
    return leave


@pytest.fixture
def record():
    return {
        "command": "mmtk run moving=moving.nii.gz fixed=fixed.nii.gz",
        "date": "2026-01-02T03:04:05+00:00",
        "settings": {"method": {"kind": "metamorphosis", "mu": 0.1}, "init": "affine", "normalize": "robust"},
        "inputs": {
            "moving": {"path": "moving.nii.gz", "sha256": "ab" * 32, "shape": (20, 24, 16), "spacing": (1, 1, 2)},
            "fixed": {"path": None, "sha256": None, "shape": (20, 24, 16), "spacing": (1, 1, 2)},
        },
        "seed": 3,
        "device": "cpu",
        "versions": {"mmtk": "0.1.0", "torch": "2.10"},
        "affine": {"kind": "affine", "matrix_ras_fixed_to_moving": np.eye(4), "note": None},
        "outcome": {"name": "CONVERGED", "says": "the energy fell by less than `tolerance`"},
        "levels": [
            {"size_mm": 2.0, "evaluations": 4, "seconds": 0.5, "outcome": "CONVERGED", "energies": (9.0, 5.0)},
            {"size_mm": 1.0, "evaluations": 2, "seconds": 0.7, "outcome": "CONVERGED", "energies": (3.0,)},
            {
                "size_mm": 0.5,
                "evaluations": 2,
                "seconds": 0.1,
                "outcome": "NONFINITE",
                "energies": (float("nan"),),
            },
        ],
        "files": ["warped.nii.gz", "metrics.json", "run.json", "report.html", "something new.txt"],
        "absent": {"appearance.nii.gz": "there is no lesion mask"},
        "seconds": {"prepare": 1.0, "register": 2.0, "write": 0.5},
        "peak_memory_mb": 512,
    }
