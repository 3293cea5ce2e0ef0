"""Maps of intensity that can be undone: monotone, piecewise linear, and blind to what lies under the mask.

Registration compares images on one scale, [0, 1] or about, and its results go back to the moving image's own
unit. So a map is stored as its knots, never as a clipped or quantised image: beyond the first and the last
knot the outer segments go on, and :meth:`Normalizer.invert` is the same map with its two axes exchanged.

Quantiles are taken of all the voxels that count, by sorting: a ninth of a second for nine million of them, and
the answer does not depend on the order in which an array happens to be stored.

    image        numpy array of any shape, in the scanner's unit
    mask         the same shape, in [0, 1]; a voxel counts where it is below 1/2 (None: everywhere)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np

from mmtk.errors import GridMismatch, InputError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Normalizer", "Scaling", "histogram", "identity", "pair_normalizers", "robust"]

Scaling = Literal["robust", "histogram", "none"]
Values = TypeVar("Values", np.ndarray, "Tensor")

#: The outermost knots. What lies beyond is often an artifact of one voxel, and is extrapolated.
LOW, HIGH = 0.005, 0.995
#: Foreground quantiles that are matched. More of them follow the noise of the tails.
LEVELS = 24
#: No segment is flatter than this share of the overall slope, nor steeper than its inverse, so that neither
#: direction magnifies the rounding of float32 by more than this.
FLATTEST = 0.02


@dataclass(frozen=True)
class Normalizer:
    """A strictly increasing, piecewise linear map of intensities.

    Attributes:
        source: Knots in the image's unit, strictly increasing, two at least.
        target: Their values, strictly increasing.
    """

    source: tuple[float, ...]
    target: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("source", "target"):
            object.__setattr__(self, name, tuple(float(knot) for knot in getattr(self, name)))
        if len(self.source) != len(self.target) or len(self.source) < 2:
            raise ValueError(
                f"a map of intensities needs as many values as knots and two at least, "
                f"but has {len(self.source)} and {len(self.target)}."
            )
        steps = np.concatenate([np.diff(self.source), np.diff(self.target)])
        if not (np.isfinite(steps).all() and (steps > 0).all()):
            raise ValueError("the knots of a map of intensities must increase strictly, on both axes.")

    @property
    def inverse(self) -> Normalizer:
        """The map back: the same knots, read the other way."""
        return Normalizer(self.target, self.source)

    def apply(self, values: Values) -> Values:
        """Map ``values``, an array or a tensor of any shape; what is not floating point becomes float32."""
        return _interpolate(values, self.source, self.target)

    def invert(self, values: Values) -> Values:
        """Map back: ``invert(apply(x))`` is ``x`` to the rounding of its type."""
        return _interpolate(values, self.target, self.source)

    def then(self, after: Normalizer) -> Normalizer:
        """The map ``after(self(x))``, as one."""
        knots = np.union1d(self.source, self.inverse.apply(np.asarray(after.source)))
        knots = knots[np.concatenate([[True], np.diff(knots) > 1e-9 * (knots[-1] - knots[0])])]
        return Normalizer(tuple(knots), tuple(after.apply(self.apply(knots))))


def identity() -> Normalizer:
    """The map that changes nothing."""
    return Normalizer((0.0, 1.0), (0.0, 1.0))


def robust(image: np.ndarray, mask: np.ndarray | None = None, *, name: str = "image") -> Normalizer:
    """Scale linearly: the darkest 0.5 % end at 0, and all but the brightest 0.5 % of the foreground at 1.

    The upper end is taken of the foreground, so that it does not depend on how much air surrounds the head;
    the lower end is then the air, or the zero of a skull-stripped scan.

    Args:
        image: The image, in any unit.
        mask: Lesion mask on its grid; voxels of 1/2 and more are not looked at.
        name: How an error calls the image.

    Raises:
        InputError: The image is constant, or masked everywhere.
        GridMismatch: Image and mask differ in shape.
    """
    return _scaled(_counted(image, mask, name), name)


def histogram(
    image: np.ndarray,
    reference: np.ndarray,
    mask: np.ndarray | None = None,
    reference_mask: np.ndarray | None = None,
) -> Normalizer:
    """Give the foreground of ``image`` the distribution of intensities that ``reference`` has.

    Quantiles of the two foregrounds are matched, and background goes to background (L. G. Nyúl, J. K. Udupa, X. Zhang,
    "New variants of a method of MRI scale standardization", IEEE Trans. Med. Imaging 19 (2000) 143-150,
    doi:10.1109/42.836373). Flat and steep segments are bounded, so that the map can be undone.

    Args:
        image: The image to be mapped.
        reference: The image whose scale it takes.
        mask: Lesion mask of ``image``.
        reference_mask: Lesion mask of ``reference``.

    Raises:
        InputError: Either image is constant, or masked everywhere.
        GridMismatch: An image and its mask differ in shape.
    """
    return _matched(_counted(image, mask, "image"), _counted(reference, reference_mask, "reference"))


def pair_normalizers(
    moving: np.ndarray,
    fixed: np.ndarray,
    moving_mask: np.ndarray | None = None,
    fixed_mask: np.ndarray | None = None,
    how: Scaling = "robust",
) -> tuple[Normalizer, Normalizer]:
    """Return the maps of the moving and of the fixed image onto one scale.

    ``robust`` scales each by its own range to [0, 1]; ``histogram`` matches the moving image to the fixed one
    and scales both by the range of the fixed; ``none`` leaves both as they are.

    Raises:
        InputError: An image is constant, or masked everywhere.
        GridMismatch: An image and its mask differ in shape.
    """
    if how == "none":
        return identity(), identity()
    ours, theirs = _counted(moving, moving_mask, "moving"), _counted(fixed, fixed_mask, "fixed")
    scale = _scaled(theirs, "fixed")
    if how == "robust":
        return _scaled(ours, "moving"), scale
    return _matched(ours, theirs, "moving", "fixed").then(scale), scale


def _counted(image: np.ndarray, mask: np.ndarray | None, name: str) -> np.ndarray:
    """The values of the voxels that count, sorted. Sorted once, everything else is a look-up."""
    image = np.asarray(image)
    if mask is None:
        values = image.ravel(order="K")
    else:
        mask = np.asarray(mask)
        if mask.shape != image.shape:
            raise GridMismatch(f"{name}_mask", mask.shape, name, image.shape)
        alike = mask.strides[0] * image.itemsize == image.strides[0] * mask.itemsize
        order: Literal["K", "C"] = "K" if alike else "C"
        values = image.ravel(order)[mask.ravel(order) < 0.5]
    if not np.isfinite(values).all():
        values = values[np.isfinite(values)]
    if not values.size:
        raise InputError(
            f"`{name}` is masked everywhere: no voxel is left to measure its intensities by. Check its mask."
        )
    return np.sort(values)


def _range(ordered: np.ndarray, name: str) -> tuple[float, float]:
    low = float(ordered[int(LOW * (len(ordered) - 1))])
    high = float(_quantiles(_foreground(ordered), np.array([HIGH]))[0])
    if not high > low:
        low, high = float(ordered[0]), float(ordered[-1])
    if not high > low:
        raise InputError(
            f"`{name}` is constant ({low:g}) wherever it counts: there is nothing to register. "
            f"Check the file and its mask."
        )
    return low, high


def _scaled(ordered: np.ndarray, name: str) -> Normalizer:
    return Normalizer(_range(ordered, name), (0.0, 1.0))


def _matched(
    ordered: np.ndarray, reference: np.ndarray, name: str = "image", reference_name: str = "reference"
) -> Normalizer:
    source, target = _distinct(_landmarks(ordered, name), _landmarks(reference, reference_name))
    return _with_plain_ends(source, _bounded(source, target))


def _foreground(ordered: np.ndarray) -> np.ndarray:
    """The voxels above the mean: air and the zeros of a stripped scan lie below it, most tissue above."""
    brighter = ordered[np.searchsorted(ordered, ordered.mean(dtype=np.float64), side="right") :]
    return brighter if brighter.size else ordered


def _quantiles(ordered: np.ndarray, levels: np.ndarray) -> np.ndarray:
    place = levels * (len(ordered) - 1)
    below = place.astype(int)
    above = np.minimum(below + 1, len(ordered) - 1)
    left, right = ordered[below].astype(np.float64), ordered[above].astype(np.float64)
    return left + (place - below) * (right - left)


def _landmarks(ordered: np.ndarray, name: str) -> np.ndarray:
    """The background's level, then quantiles of the foreground: not decreasing, but with repeats."""
    low, high = _range(ordered, name)
    return np.concatenate(
        [[low], np.clip(_quantiles(_foreground(ordered), np.linspace(0, HIGH, LEVELS)), low, high)]
    )


def _distinct(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One knot for each run of equal source values (integers, flat regions): its targets, averaged.

    The ends stay as they are: where a run reaches one, it takes the end's own target.
    """
    run = np.cumsum(np.concatenate([[0], np.diff(source) > 1e-4 * (source[-1] - source[0])]))
    count = np.bincount(run)
    knots, values = np.bincount(run, source) / count, np.bincount(run, target) / count
    knots[[0, -1]], values[[0, -1]] = source[[0, -1]], target[[0, -1]]
    return knots, values


def _bounded(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Bend the segments that are too flat or too steep, and keep both ends."""
    mean = (target[-1] - target[0]) / (source[-1] - source[0])
    slopes = np.clip(np.diff(target) / np.diff(source), FLATTEST * mean, mean / FLATTEST)
    rise = np.concatenate([[0.0], np.cumsum(slopes * np.diff(source))])
    return target[0] + rise * ((target[-1] - target[0]) / rise[-1])


def _with_plain_ends(source: np.ndarray, target: np.ndarray) -> Normalizer:
    """Beyond its ends a matched map goes on at its overall slope: the outer segments are those of the tails."""
    reach, rise = source[-1] - source[0], target[-1] - target[0]
    return Normalizer(
        (source[0] - reach, *source, source[-1] + reach),
        (target[0] - rise, *target, target[-1] + rise),
    )


def _interpolate(values: Values, source: Sequence[float], target: Sequence[float]) -> Values:
    """Look up each value's segment and move along it from the segment's left end, so that nothing cancels."""
    tables = np.asarray(source), np.asarray(target), np.diff(target) / np.diff(source)
    if isinstance(values, np.ndarray):
        return _interpolate_array(values, *tables)
    return _interpolate_tensor(values, *tables)


def _interpolate_array(values: np.ndarray, left: np.ndarray, base: np.ndarray, slope: np.ndarray) -> np.ndarray:
    values = values if np.issubdtype(values.dtype, np.floating) else values.astype(np.float32)
    left, base, slope = (table.astype(values.dtype) for table in (left, base, slope))
    if len(slope) == 1:
        return (values - left[0]) * slope[0] + base[0]
    segment = np.searchsorted(left[1:-1], values, side="right")
    return (values - left[segment]) * slope[segment] + base[segment]


def _interpolate_tensor(values: Tensor, left: np.ndarray, base: np.ndarray, slope: np.ndarray) -> Tensor:
    import torch

    values = (values if values.is_floating_point() else values.to(torch.float32)).contiguous()
    knots, bases, slopes = (torch.as_tensor(table).to(values) for table in (left, base, slope))
    if len(slopes) == 1:
        return (values - knots[0]) * slopes[0] + bases[0]
    segment = torch.bucketize(values.detach().view(-1), knots[1:-1].contiguous(), right=True, out_int32=True)

    def look_up(table: Tensor) -> Tensor:
        return table.index_select(0, segment).view(values.shape)

    return (values - look_up(knots)) * look_up(slopes) + look_up(bases)
