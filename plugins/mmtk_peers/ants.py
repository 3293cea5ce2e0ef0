"""ANTs by antspyx.

Transforms are files there, so each run has a folder of its own. A mask counts on the last stage alone unless
``mask_all_stages`` is given; SyN's own iterations (40, 20, 0) leave full resolution out; points are drawn, so that a
seed is needed for the same result twice.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmtk.errors import MmtkError
from mmtk_peers.foreign import Foreign, Found, Scans

__all__ = ["Ants"]

#: Metric and iterations of SyN: antspyx's own, and what ANTs' authors use for brains.
SYN: dict[str, tuple[str, tuple[int, ...]]] = {
    "default": ("mattes", (40, 20, 0)),
    "recommended": ("cc", (100, 70, 50)),
}
#: Names of the linear stage's metrics.
LINEAR = {"mattes": "mattes", "cc": "GC", "meansquares": "meansquares"}
BINS = 32


class Ants(Foreign):
    """Rigid, affine, SyN or B-spline SyN of ANTs.

    The images are placed already, so ANTs starts at the identity and not at the centers of mass.

    Args:
        transform: ``rigid``, ``affine``, ``syn`` or ``bspline_syn``.
        preset: What stands for None: ``default`` or ``recommended``. Of rigid and affine the latter looks at every
            voxel instead of a fifth of them; of B-spline SyN it is the script ``antsRegistrationSyN``, the former its
            quick sister.
        metric: ``mattes``, ``cc`` or ``meansquares``.
        radius: Half width of the windows of SyN's ``cc``, in voxels.
        iterations: On each level, coarse to fine.
        affine_first: Begin SyN with ANTs' own affine stage.
        threads: Its sums depend on their order, so that several give another result each time.
        masked: See :class:`~mmtk_peers.foreign.Foreign`.

    References:
        SyN: B. Avants, C. Epstein, M. Grossman, J. Gee, "Symmetric diffeomorphic image registration with
        cross-correlation", Med. Image Anal. 12 (2008) 26-41.
        Masks on every stage: Maillard's thesis (2023), 5.3.3.
    """

    def __init__(
        self,
        *,
        transform: str,
        preset: str,
        metric: str | None,
        radius: int | None,
        iterations: Sequence[int] | None,
        affine_first: bool,
        threads: int,
        masked: bool,
    ) -> None:
        super().__init__(masked=masked)
        self.transform, self.threads = transform, threads
        self.words = _words(transform, preset, metric, radius, iterations, affine_first)

    def find(self, scans: Scans) -> Found:
        # ITK asks once in a process.
        os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(self.threads)
        import ants

        ants.config.set_ants_deterministic(on=False, seed_value=scans.seed)
        fixed, moving = (_image(image, scans.spacing) for image in (scans.fixed, scans.moving))
        masks = {
            name: _image(use, scans.spacing)
            for name, use in (("mask", scans.fixed_use), ("moving_mask", scans.moving_use))
            if use is not None
        }
        with tempfile.TemporaryDirectory(prefix="mmtk-ants-") as place:
            try:
                with contextlib.redirect_stdout(None):
                    found = ants.registration(
                        fixed,
                        moving,
                        **self.words,
                        **masks,
                        mask_all_stages=True,
                        initial_transform="Identity",
                        outprefix=str(Path(place) / "of_"),
                    )
            except RuntimeError as error:
                raise MmtkError(f"ANTs stopped: {error}; are the images large enough for its levels?") from error
            there = found["fwdtransforms"]
            vectors = _field(fixed, there, [False] * len(there), place)
            back = found["invtransforms"]
            inverted = [name.endswith(".mat") for name in back]
            backward = _field(fixed, back, inverted, place)
        return Found(vectors, backward, exact=self.transform in ("rigid", "affine"))


def _words(
    transform: str,
    preset: str,
    metric: str | None,
    radius: int | None,
    iterations: Sequence[int] | None,
    affine_first: bool,
) -> dict[str, Any]:
    """Return the keywords of ``ants.registration``."""
    if transform in ("rigid", "affine"):
        words: dict[str, Any] = {"type_of_transform": transform.capitalize()}
        words["aff_metric"] = LINEAR[metric or "mattes"]
        if preset == "recommended":
            words["aff_random_sampling_rate"] = 1.0
        if iterations is not None:
            words["aff_iterations"] = tuple(iterations)
        return words
    if transform == "bspline_syn":
        script = "antsRegistrationSyN" if preset == "recommended" else "antsRegistrationSyNQuick"
        return {"type_of_transform": f"{script}[{'b' if affine_first else 'bo'}]"}
    usual, counts = SYN[preset]
    chosen = metric or usual
    return {
        "type_of_transform": "SyN" if affine_first else "SyNOnly",
        "syn_metric": "CC" if chosen == "cc" else chosen,
        "syn_sampling": (radius or 2) if chosen == "cc" else BINS,
        "reg_iterations": tuple(iterations or counts),
    }


def _image(array: np.ndarray, spacing: tuple[float, ...]) -> Any:
    import ants

    return ants.from_numpy(array, spacing=list(spacing))


def _field(grid: Any, transforms: Sequence[str], inverted: Sequence[bool], place: str) -> np.ndarray:
    """Return a chain of transforms as one field, ``(*space, dim)`` in mm."""
    import ants

    file = ants.apply_transforms(
        grid, grid, list(transforms), whichtoinvert=list(inverted), compose=str(Path(place) / "whole_")
    )
    return np.asarray(ants.image_read(file).numpy(), dtype=np.float32)
