"""Samples are made once and shared: the brain at 4 mm, the slice at 1 mm, the letter at 96 pixels."""

from functools import cache

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from mmtk.samples import Sample, c_shapes, tumor_brain

#: A letter of half the size under half the push; a wide cut, which the larger pixels show as well.
SMALL = {"size": 96, "steps": 20, "amplitude": 500.0, "width": (16.0, 24.0)}


@pytest.fixture(scope="session")
def brain():
    @cache
    def make(kind: str = "bright", **options) -> Sample:
        return tumor_brain(kind=kind, **{"spacing": 4.0, **options})

    return make


@pytest.fixture(scope="session")
def brain_slice():
    @cache
    def make(kind: str = "bright", **options) -> Sample:
        return tumor_brain(kind=kind, dim=2, **options)

    return make


@pytest.fixture(scope="session")
def letter():
    @cache
    def make(cut: str = "source", seed: int = 0, **options) -> Sample:
        return next(c_shapes(1, cut=cut, seed=seed, **{**SMALL, **options}))

    return make


@pytest.fixture(scope="session")
def carried():
    def carry(image: np.ndarray, displacement: np.ndarray, order: int = 3) -> np.ndarray:
        """``image(x + u(x))``, 0 outside."""
        where = np.indices(image.shape) + displacement
        return map_coordinates(image.astype(np.float64), where, order=order)

    return carry


@pytest.fixture
def own_brain():
    """An ellipsoid with a brighter half inside, (P, S, R) axes of 3 mm, as a nibabel image."""
    import nibabel as nib

    i, j, k = np.indices((50, 44, 40)) * 3.0
    r = np.sqrt(((i - 75) / 65) ** 2 + ((j - 66) / 55) ** 2 + ((k - 60) / 50) ** 2)
    image = np.where(r < 1, 400.0, 0) + np.where(r < 0.8, 300.0, 0) + np.where((r < 0.8) & (k > 60), 100.0, 0)
    affine = np.array([[0, 0, 3.0, -60], [-3.0, 0, 0, 80], [0, 3.0, 0, -50], [0, 0, 0, 1]])
    return nib.Nifti1Image(image.astype(np.float32), affine)
