"""picsl-greedy: a command line with images in memory."""

from __future__ import annotations

import io
from collections.abc import Sequence

from picsl_greedy import Greedy2D, Greedy3D

from mmtk.errors import MmtkError
from mmtk_peers.foreign import Foreign, Found, Scans
from mmtk_peers.itk import to_array, to_image

__all__ = ["Greedy"]

#: Metric and iterations: greedy's own, and what its manual's examples use for brains.
PRESETS = {"default": ("ssd", (100, 100)), "recommended": ("ncc", (100, 60, 30))}


class Greedy(Foreign):
    """Greedy diffeomorphic registration (P. Yushkevich and others, https://greedy.readthedocs.io).

    Args:
        preset: What stands for None.
        metric: ``ssd`` or ``ncc``.
        radius: Half width of the windows of ``ncc``, in voxels.
        iterations: On each level, coarse to fine.
        masked: See :class:`~mmtk_peers.foreign.Foreign`.
    """

    def __init__(
        self,
        *,
        preset: str,
        metric: str | None,
        radius: int,
        iterations: Sequence[int] | None,
        masked: bool,
    ) -> None:
        super().__init__(masked=masked)
        usual, counts = PRESETS[preset]
        self.metric, self.radius, self.iterations = metric or usual, radius, tuple(iterations or counts)

    def find(self, scans: Scans) -> Found:
        window = "" if self.metric == "ssd" else " " + "x".join([str(self.radius)] * scans.dim)
        words = [
            f"-d {scans.dim} -i fixed moving -m {self.metric.upper()}{window}",
            f"-n {'x'.join(map(str, self.iterations))} -threads {scans.threads} -V 0",
            # Stored to a tenth of a voxel unless told not to.
            "-wp 0 -o warp -oinv inverse",
        ]
        images = {"fixed": scans.fixed, "moving": scans.moving}
        for option, name, use in (("-gm", "fixed_use", scans.fixed_use), ("-mm", "moving_use", scans.moving_use)):
            if use is not None:
                words.append(f"{option} {name}")
                images[name] = use
        program = (Greedy2D if scans.dim == 2 else Greedy3D)()
        told = io.StringIO()
        given = {name: to_image(image, scans.spacing) for name, image in images.items()}
        try:
            program.execute(" ".join(words), out=told, err=told, warp=None, inverse=None, **given)
        except Exception as error:
            raise MmtkError(f"greedy stopped: {error}; see its manual for what it takes") from error
        return Found(to_array(program["warp"]), to_array(program["inverse"]))
