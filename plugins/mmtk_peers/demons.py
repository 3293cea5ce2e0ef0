"""SimpleITK's diffeomorphic demons, with the pyramid that one has to write oneself."""

from __future__ import annotations

from collections.abc import Sequence

import SimpleITK as sitk

from mmtk_peers.foreign import Foreign, Found, Scans
from mmtk_peers.itk import to_array, to_image

__all__ = ["Demons"]


class Demons(Foreign):
    """Diffeomorphic demons.

    Args:
        shrink: Voxels for one of each level, coarse to fine; an axis keeps 8 voxels at least.
        iterations: On each level.
        sigma: Of the Gaussian that smooths the displacement, in voxels of the level.

    References:
        T. Vercauteren, X. Pennec, A. Perchant, N. Ayache, "Diffeomorphic demons: efficient non-parametric image
        registration", NeuroImage 45 (2009), as SimpleITK names it.
    """

    def __init__(self, *, shrink: Sequence[int], iterations: Sequence[int], sigma: float) -> None:
        super().__init__()
        self.shrink, self.iterations, self.sigma = tuple(shrink), tuple(iterations), sigma

    def find(self, scans: Scans) -> Found:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(scans.threads)
        fixed, moving = (to_image(image, scans.spacing) for image in (scans.fixed, scans.moving))
        field = None
        for factor, count in zip(self.shrink, self.iterations, strict=True):
            still, carried = (_coarse(image, factor) for image in (fixed, moving))
            demons = sitk.DiffeomorphicDemonsRegistrationFilter()
            demons.SetNumberOfIterations(count)
            demons.SetSmoothDisplacementField(True)
            demons.SetStandardDeviations(self.sigma)
            start = () if field is None else (sitk.Resample(field, still),)
            field = demons.Execute(still, carried, *start)
        assert field is not None
        if field.GetSize() != fixed.GetSize():
            field = sitk.Resample(field, fixed)
        return Found(to_array(field))


def _coarse(image: sitk.Image, factor: int) -> sitk.Image:
    """The image smoothed and thinned, though no axis to fewer than 8 voxels."""
    factors = [max(1, min(factor, n // 8)) for n in image.GetSize()]
    for axis, (step, h) in enumerate(zip(factors, image.GetSpacing(), strict=True)):
        if step > 1:
            image = sitk.RecursiveGaussian(
                image, 0.5 * step * h, False, sitk.RecursiveGaussianImageFilter.ZeroOrder, axis
            )
    return sitk.Shrink(image, factors)
