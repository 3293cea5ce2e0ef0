"""SimpleITK's diffeomorphic demons, with the pyramid that one has to write oneself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk
import torch

from mmtk.fields import invert, warp
from mmtk_peers.foreign import Foreign, Found, Scans
from mmtk_peers.itk import to_array, to_image

__all__ = ["Demons"]

#: In so many parts the iterations of a level are dealt out where a lesion is left out.
PARTS = 4


class Demons(Foreign):
    """Diffeomorphic demons.

    Args:
        shrink: Voxels for one of each level, coarse to fine; an axis keeps 8 voxels at least.
        iterations: On each level.
        sigma: Of the Gaussian that smooths the displacement, in voxels of the level.
        masked: Leave the lesion out of the comparison. The program knows no mask; at the beginning of each of
            :data:`PARTS` parts of a level, therefore, the lesion shows what the fixed image has there by the map so far.

    References:
        T. Vercauteren, X. Pennec, A. Perchant, N. Ayache, "Diffeomorphic demons: efficient non-parametric image
        registration", NeuroImage 45 (2009), as SimpleITK names it.
    """

    def __init__(
        self, *, shrink: Sequence[int], iterations: Sequence[int], sigma: float, masked: bool = False
    ) -> None:
        super().__init__(masked=masked)
        self.shrink, self.iterations, self.sigma = tuple(shrink), tuple(iterations), sigma

    def find(self, scans: Scans) -> Found:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(scans.threads)
        fixed, moving = (to_image(image, scans.spacing) for image in (scans.fixed, scans.moving))
        field = None
        for factor, count in zip(self.shrink, self.iterations, strict=True):
            for part in _parts(count, PARTS if scans.moving_use is not None else 1):
                if scans.moving_use is not None:
                    moving = to_image(_patched(scans, field), scans.spacing)
                still, carried = (_coarse(image, factor) for image in (fixed, moving))
                demons = sitk.DiffeomorphicDemonsRegistrationFilter()
                demons.SetNumberOfIterations(part)
                demons.SetSmoothDisplacementField(True)
                demons.SetStandardDeviations(self.sigma)
                start = () if field is None else (sitk.Resample(field, still),)
                field = demons.Execute(still, carried, *start)
        assert field is not None
        if field.GetSize() != fixed.GetSize():
            field = sitk.Resample(field, fixed)
        return Found(to_array(field))


def _parts(count: int, parts: int) -> list[int]:
    """Deal out iterations as evenly as they go."""
    return [count // parts + (part < count % parts) for part in range(parts)]


def _patched(scans: Scans, field: sitk.Image | None) -> np.ndarray:
    """Return the moving image with what does not count replaced by the fixed image, carried back by the map so far."""
    assert scans.moving_use is not None
    there = torch.from_numpy(scans.fixed)[None, None]
    if field is not None:
        whole = to_array(sitk.Resample(field, to_image(scans.fixed, scans.spacing)))
        h = torch.tensor(scans.spacing, dtype=there.dtype)
        u = torch.from_numpy(whole).to(there) / h
        there = warp(there, invert(u.movedim(-1, 0)[None].contiguous(), tolerance=0.05))
    return np.where(scans.moving_use > 0, scans.moving, there[0, 0].numpy()).astype(np.float32)


def _coarse(image: sitk.Image, factor: int) -> sitk.Image:
    """The image smoothed and thinned, though no axis to fewer than 8 voxels."""
    factors = [max(1, min(factor, n // 8)) for n in image.GetSize()]
    for axis, (step, h) in enumerate(zip(factors, image.GetSpacing(), strict=True)):
        if step > 1:
            image = sitk.RecursiveGaussian(
                image, 0.5 * step * h, False, sitk.RecursiveGaussianImageFilter.ZeroOrder, axis
            )
    return sitk.Shrink(image, factors)
