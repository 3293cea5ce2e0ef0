"""How far a registration is from the truth, in millimeters.

The regions are those that matter for an image with a lesion, all on the fixed grid: ``outside`` the lesion,
of this ``near`` (within 10 mm of the lesion, where its mass effect is) and ``far`` (the rest), and ``inside`` it,
where tissue may have no counterpart and an error means little. All of them only where there is brain.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmtk.samples.sample import Sample

if TYPE_CHECKING:
    import numpy as np

#: Name of the file by which a folder is known to hold a truth.
TRUTH_FILE = "truth.npz"

#: Stored displacements are multiples of this many voxels: far below what can be measured.
QUANTUM = 2.0**-10


@dataclass(frozen=True, eq=False)
class Truth:
    """What is needed to score a displacement.

    Attributes:
        displacement: ``(dim, *space)``, true pull-back in voxels of the fixed grid.
        fixed_mask: ``(*space)`` bool, the lesion on the fixed grid.
        foreground: ``(*space)`` bool, where there is something to register.
        affine: ``(4, 4)`` voxel to world, RAS mm, of both images.
    """

    displacement: np.ndarray
    fixed_mask: np.ndarray
    foreground: np.ndarray
    affine: np.ndarray

    @classmethod
    def of(cls, sample: Sample) -> Truth:
        """Return the truth of a sample; its foreground is where the fixed image exceeds a tenth of its maximum."""
        foreground = sample.fixed > 0.1 * sample.fixed.max()
        return cls(sample.displacement, sample.fixed_mask, foreground, sample.affine)

    @classmethod
    def read(cls, folder: Path) -> Truth | None:
        """Return the truth that :func:`mmtk.samples.save` left in ``folder``, or None where there is none."""
        import numpy as np

        file = Path(folder) / TRUTH_FILE
        if not file.is_file():
            return None
        with np.load(file) as stored:
            displacement = unpack(stored["displacement"])
            return cls(displacement, stored["fixed_mask"] > 0, stored["foreground"] > 0, stored["affine"])


def error_against_truth(
    truth: Truth | Sample, displacement: Any, *, affine: Any = None, near: float = 10.0
) -> dict[str, float]:
    """Return the endpoint errors of a registration of ``moving`` onto ``fixed``, mm.

    Args:
        truth: Of the sample that was registered.
        displacement: What :func:`mmtk.register` returned; or ``(dim, *space)`` or ``(1, dim, *space)``, array or tensor:
            pull-back in voxels of the fixed grid, ``x -> x + u(x)``.
        affine: ``(4, 4)``, world RAS mm, fixed to moving: what acts after the displacement; None for nothing, or for
            that of the result.
        near: Width of the band round the lesion, mm (Euclidean).

    Returns:
        ``outside`` (mean), ``median`` (outside), ``near``, ``far``, ``inside`` (means); NaN where a region is
        empty.

    Raises:
        GridMismatch: The displacement is not on the fixed grid.
    """
    from mmtk.io.space import spacing_of
    from mmtk.metrics import truth_errors

    truth = Truth.of(truth) if isinstance(truth, Sample) else truth
    spacing = spacing_of(truth.affine, truth.fixed_mask.ndim)
    off = _off(truth, displacement, affine)
    return truth_errors(off, truth.fixed_mask, truth.foreground, spacing, near=near)


def error_map(truth: Truth | Sample, displacement: Any, *, affine: Any = None) -> np.ndarray:
    """Return how far from the truth each voxel of the fixed grid was led, ``(*space)``, mm.

    Args:
        truth, displacement, affine: As for :func:`error_against_truth`.

    Raises:
        GridMismatch: The displacement is not on the fixed grid.
    """
    import numpy as np

    truth = Truth.of(truth) if isinstance(truth, Sample) else truth
    return np.sqrt((_off(truth, displacement, affine) ** 2).sum(0))


def _off(truth: Truth, displacement: Any, affine: Any) -> np.ndarray:
    """Return found minus true displacement, ``(dim, *space)``, mm along the world's axes."""
    from mmtk.io import Volume, to_world, total_displacement

    prepared = getattr(displacement, "prepared", None)
    if prepared is not None:  # a result, which knows its affine
        displacement = displacement.displacement
        affine = prepared.alignment.matrix if affine is None else affine
    grid = Volume(truth.fixed_mask, truth.affine, name="the truth")
    return total_displacement(displacement, grid, affine) - to_world(truth.displacement, truth.affine)


def pack(displacement: np.ndarray) -> np.ndarray:
    """Return int32 differences along all axes of space, which compress to a tenth of the displacement."""
    import numpy as np

    packed = np.rint(displacement / QUANTUM).astype(np.int32)
    for axis in range(1, packed.ndim):
        packed = np.diff(packed, axis=axis, prepend=0)
    return packed


def unpack(packed: np.ndarray) -> np.ndarray:
    """Return the float32 displacement that was packed, to half a ``QUANTUM``."""
    import numpy as np

    for axis in range(1, packed.ndim):
        packed = np.cumsum(packed, axis=axis, dtype=np.int32)
    return packed.astype(np.float32) * np.float32(QUANTUM)
