r"""How the cases of a template vary: modes of their shapes and of their appearance.

Shapes are the stationary velocities of the last round; their modes are orthonormal in V, the space of the Sobolev norm
of :mod:`mmtk.atlas.shapes`. Appearance is what a case has, once deformed, beside the mean: its lesion, its contrast, and
what the registration has left; its modes are orthonormal in :math:`L^2`. Both are on the grid of the image that the last
round registered to, from which ``template.nii.gz`` differs by ``drift.h5``.

    OUT/modes/shape_mean, shape_mode_K (.nii.gz)   velocities, vectors in mm (intent 1007, LPS): the mean; one standard
                                                   deviation along the mode
    OUT/modes/appearance_mode_K.nii.gz             intensities of one standard deviation, on the scale 0 to 1
    OUT/modes/explained.csv, scores.csv            shares of the variance; scores of each case, in standard deviations
    OUT/modes/modes.npz                            mean, basis, variances and scores of both
    OUT/modes.html
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmtk.atlas.modes import Modes, principal_modes
from mmtk.atlas.rounds import Round, read_deformed
from mmtk.atlas.settings import ModesConfig
from mmtk.cohort.records import CaseRecord, read_case
from mmtk.errors import ConfigError
from mmtk.io import Volume, held, read_image, replacing, write_displacement, write_image, write_text

__all__ = ["Variation", "find_modes"]


@dataclass(frozen=True)
class Variation:
    """The modes of a template.

    Attributes:
        last: The round that they are of.
        mean: The average of the deformed cases, on the grid of ``last.fixed``.
        sizes: Logarithm of each case's size by its affine: of the volume, 0 for the mean.
    """

    last: Round
    config: ModesConfig
    cases: tuple[str, ...]
    mean: Volume
    shape: Modes
    appearance: Modes
    sizes: np.ndarray

    def deformed(self, mode: int, deviations: float) -> np.ndarray:
        """Return the mean as a case so many standard deviations along a mode of shape shows it."""
        import torch

        from mmtk.fields import warp

        space = self.last.space()
        u = space.displacement(-space.velocity(self.shape.at(mode, deviations)))
        return warp(torch.from_numpy(self.mean.data)[None, None].double(), u)[0, 0].numpy()

    def painted(self, mode: int, deviations: float) -> np.ndarray:
        """Return the mean with so many standard deviations of a mode of appearance."""
        change = self.appearance.at(mode, deviations).reshape(self.mean.shape)
        return np.asarray(self.mean.data + change)


def find_modes(out: Path, config: ModesConfig | None = None) -> Variation:
    """Find the modes of a template and write them into its folder.

    Args:
        out: Folder of `mmtk atlas template`.

    Raises:
        ConfigError: If it holds no template with a round of deformations and two cases.
    """
    from mmtk.atlas.modes_page import make_modes_page

    config = config or ModesConfig()
    last = _last(out)
    with held(out, "another `mmtk atlas`"):
        sums = last.sums()
        records = _records(last, sums.cases)
        fixed = read_image(last.fixed, name="template")
        mean = Volume(sums.mean.astype(np.float32), fixed.affine, fixed.storage, "mean")
        shape = principal_modes(sums.table(), config.modes)
        folder = out / "modes"
        folder.mkdir(exist_ok=True)
        with replacing(folder / "appearance.rows") as rows:
            sizes = _appearances(rows, last, records, fixed, mean.data)
            table = np.memmap(rows, dtype=np.float32, mode="r", shape=(len(records), mean.data.size))
            appearance = principal_modes(table, config.modes)
            del table
        (folder / "appearance.rows").unlink()
        found = Variation(last, config, tuple(sums.cases), mean, shape, appearance, sizes - sizes.mean())
        _write(found, folder)
        write_text(out / "modes.html", make_modes_page(found))
    return found


def _last(out: Path) -> Round:
    """Return the last round of a template, as its own account has it."""
    try:
        told = json.loads((out / "template.json").read_text(encoding="utf-8"))
        settings, count = told["asked"]["template"], len(told["rounds"])
    except (OSError, ValueError, KeyError):
        raise ConfigError(
            f"'{out}' is no folder of a template that is finished; run `mmtk atlas template` first"
        ) from None
    if count < 2:
        raise ConfigError(f"'{out}' has no round of deformations; run `mmtk atlas template` with rounds=1 or more")
    if len(told["rounds"][-1]["cases"]) < 2:
        raise ConfigError(f"'{out}' is a template of one case; modes need two at least")
    home = out / "rounds"
    fixed = home / str(count - 2) / "template.nii.gz"
    return Round(
        count - 1, home / str(count - 1), fixed, None, settings["nodes"], settings["length"], settings["sharpen"]
    )


def _records(last: Round, cases: Mapping[str, str]) -> dict[str, CaseRecord]:
    found = {}
    for name in cases:
        record = read_case(last.cohort / "cases" / f"{name}.json")
        if record is None or not (last.cohort / "cases" / name / "run.json").is_file():
            raise ConfigError(f"'{last.cohort}': the run of case {name} is gone; run `mmtk atlas template` again")
        found[name] = record
    return found


def _appearances(
    rows: Path, last: Round, records: Mapping[str, CaseRecord], fixed: Volume, mean: np.ndarray
) -> np.ndarray:
    """Write what each case has beside the mean, a case at a time, and return the logarithms of their sizes."""
    sizes = []
    with open(rows, "wb") as file:
        for name, record in records.items():
            one = read_deformed(last.cohort / "cases" / name, record, fixed)
            rest = np.where(one.seen, one.image - mean, 0.0)
            file.write(rest.astype(np.float32).tobytes())
            dim = fixed.dim
            sizes.append(float(np.log(abs(np.linalg.det(one.matrix[:dim, :dim])))))
    return np.array(sizes)


# --- what is written


def _write(found: Variation, folder: Path) -> None:
    space, like = found.last.space(), found.mean

    def vectors(name: str, white: np.ndarray) -> None:
        write_displacement(folder / f"{name}.nii.gz", space.on_grid(space.velocity(white)).float(), like)

    for old in folder.glob("*_mode_*.nii.gz"):
        old.unlink()
    vectors("shape_mean", found.shape.mean)
    for number, mode in enumerate(found.shape.basis, 1):
        vectors(f"shape_mode_{number}", np.sqrt(found.shape.variances[number - 1]) * mode)
    for number, mode in enumerate(found.appearance.basis, 1):
        change = np.sqrt(found.appearance.variances[number - 1]) * mode.reshape(like.shape)
        write_image(folder / f"appearance_mode_{number}.nii.gz", change.astype(np.float32), like)
    arrays: dict[str, Any] = {"cases": np.array(found.cases)}
    for kind, modes in (("shape", found.shape), ("appearance", found.appearance)):
        arrays |= {f"{kind}_{what}": getattr(modes, what) for what in ("mean", "variances", "scores", "basis")}
    with replacing(folder / "modes.npz") as temporary:
        np.savez(temporary, **arrays)
    write_text(folder / "explained.csv", _explained(found))
    write_text(folder / "scores.csv", _scores(found))


def _explained(found: Variation) -> str:
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["kind", "mode", "variance", "explained", "together"])
    for kind, modes in (("shape", found.shape), ("appearance", found.appearance)):
        together = np.cumsum(modes.explained)
        for number, numbers in enumerate(zip(modes.variances, modes.explained, together, strict=True), 1):
            rows.writerow([kind, number, *(f"{value:.6g}" for value in numbers)])
    return table.getvalue()


def _scores(found: Variation) -> str:
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    kinds = (("shape", found.shape), ("appearance", found.appearance))
    names = [f"{kind}_{n + 1}" for kind, modes in kinds for n in range(len(modes.basis))]
    rows.writerow(["case", "log_volume", *names])
    for number, case in enumerate(found.cases):
        own = [
            modes.scores[number, n] / np.sqrt(modes.variances[n])
            for _, modes in kinds
            for n in range(len(modes.basis))
        ]
        rows.writerow([case, *(f"{value:.6g}" for value in (found.sizes[number], *own))])
    return table.getvalue()
