"""Grids that lie askew, smooth maps between them, and SimpleITK's idea of both."""

from dataclasses import dataclass

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter

from mmtk.io import AffineStep, FieldStep, Volume
from mmtk.io.space import LPS, itk_grid
from mmtk.transforms import Transform

SIGNS = np.array([-1.0, -1.0, 1.0])


def rotation(*angles):
    turn = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = [(1, 2), (2, 0), (0, 1)][axis]
        step = np.eye(3)
        step[a, a] = step[b, b] = np.cos(angle)
        step[a, b], step[b, a] = -np.sin(angle), np.sin(angle)
        turn = step @ turn
    return turn


def matrix(linear, origin=(0, 0, 0)):
    affine = np.eye(4)
    affine[:3, :3], affine[: len(origin), 3] = linear, origin
    return affine


def smooth(shape, seed, sigma=3.0):
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), sigma, mode="nearest")
    return (noise / np.abs(noise).max()).astype(np.float32)


def volume(shape, linear, at, seed, sigma=1.5, name="image"):
    """A smooth image, the middle of whose grid lies at a point."""
    dim = len(shape)
    origin = np.array(at)[:dim] - linear[:dim, :dim] @ ((np.array(shape) - 1) / 2)
    return Volume(100 * smooth(shape, seed, sigma), matrix(linear, origin), name=name)


def around(point, linear):
    """The affine of a linear map that leaves a point where it is."""
    return matrix(linear, np.array(point) - linear @ np.array(point))


def field_on(grid, size, seed, sigma=4.0):
    """A smooth field of at most ``size`` mm along each axis, on the grid of an image."""
    dim = len(grid.shape)
    vectors = np.stack([size * smooth(grid.shape, seed + a, sigma) for a in range(dim)])
    return FieldStep(vectors.astype(np.float32), grid.affine)


@dataclass(frozen=True)
class Case:
    fixed: Volume
    moving: Volume
    transform: Transform

    @property
    def dim(self):
        return self.fixed.dim


def _case(fixed, moving, linear, at, shift):
    placed = around((*at, 0)[:3], linear)
    placed[: len(shift), 3] += shift
    return Case(fixed, moving, Transform((field_on(fixed, 2.0, 10), AffineStep(placed))))


CASES = {
    "oblique": lambda: _case(
        volume((20, 18, 14), rotation(0.3, -0.2, 0.4) @ np.diag([1.5, 1.0, 2.5]), (30, -50, 20), 0, name="fixed"),
        volume((24, 23, 20), rotation(-0.1, 0.2, 0.1) @ np.diag([1.2, 1.4, 1.9]), (28, -48, 21), 1, name="moving"),
        rotation(0.1, 0.05, -0.08) @ np.diag([1.05, 0.97, 1.02]), (30, -50, 20), (1.0, -2.0, 0.5),
    ),
    "flipped": lambda: _case(
        volume((20, 18, 14), np.diag([-1.5, 1.0, -2.5]), (12, -9, 15), 2, name="fixed"),
        volume((24, 25, 21), np.array([[0, 0, 1.5], [-1.2, 0, 0], [0, 1.8, 0]]), (11, -8, 16), 3, name="moving"),
        rotation(0.1, 0.05, -0.08), (12, -9, 15), (1.0, -2.0, 0.5),
    ),
    "thick slices": lambda: _case(
        volume((30, 28, 6), rotation(0, 0.1, 0) @ np.diag([0.8, 0.8, 6.0]), (0, 0, 0), 4, name="fixed"),
        volume((18, 19, 20), np.diag([-1.5, -1.5, 2.0]), (1, 1, 0), 5, name="moving"),
        np.diag([1.1, 0.9, 1.0]), (0, 0, 0), (0.0, 1.0, 0.0),
    ),
    "flat": lambda: _case(
        volume((24, 20), np.diag([-1.5, -1.0, 1.0]), (14, 8), 6, name="fixed"),
        volume((25, 29), rotation(0, 0, 2.9) @ np.diag([1.3, 0.8, 1.0]), (13, 9), 7, name="moving"),
        rotation(0, 0, 0.1) @ np.diag([1.05, 0.97, 1.0]), (14, 8), (1.0, -2.0),
    ),
}  # fmt: skip


@pytest.fixture(params=CASES)
def case(request):
    """Two images on grids of their own, and a transform of a field and an affine between them."""
    return CASES[request.param]()


@pytest.fixture
def oblique():
    return CASES["oblique"]()


@pytest.fixture
def flat():
    return CASES["flat"]()


def to_itk(image, vectors=None):
    """The SimpleITK image of a volume, or of a field on its grid."""
    dim, grid = len(image.shape), itk_grid(image.shape, image.affine)
    if vectors is None:
        made = sitk.GetImageFromArray(image.data.T.astype(np.float64))
    else:
        turned = vectors.astype(np.float64) * SIGNS[:dim].reshape(-1, *[1] * dim)
        made = sitk.GetImageFromArray(np.ascontiguousarray(turned.T), isVector=True)
    made.SetOrigin(grid.origin.tolist())
    made.SetSpacing(grid.spacing.tolist())
    made.SetDirection(grid.direction.ravel().tolist())
    return made


def itk_transform(transform, dim):
    """The SimpleITK composite of a chain of affines and fields."""
    composite = sitk.CompositeTransform(dim)
    for step in reversed(transform.steps):  # ITK applies what was added last first
        if isinstance(step, AffineStep):
            lps = LPS @ step.matrix @ LPS
            part = sitk.AffineTransform(dim)
            part.SetMatrix(lps[:dim, :dim].ravel().tolist())
            part.SetTranslation(lps[:dim, 3].tolist())
        else:
            grid = Volume(np.zeros(step.vectors.shape[1:]), step.affine)
            part = sitk.DisplacementFieldTransform(to_itk(grid, step.vectors))
        composite.AddTransform(part)
    return composite


@pytest.fixture
def itk():
    """Resample by SimpleITK: ``itk(case, interpolator, outside) -> (*space)``."""

    def run(case, interpolator, outside=0.0, image=None):
        moving = to_itk(case.moving if image is None else image)
        composite = itk_transform(case.transform, case.dim)
        return sitk.GetArrayFromImage(
            sitk.Resample(moving, to_itk(case.fixed), composite, interpolator, outside)
        ).T

    return run


def places_on(grid, count=60, seed=0, margin=0.0):
    """Points drawn over the grid of an image, ``(n, dim)``; a margin is a share of its width."""
    dim = len(grid.shape)
    share = np.random.default_rng(seed).uniform(margin, 1 - margin, (count, dim))
    return share * (np.array(grid.shape) - 1) @ grid.affine[:dim, :dim].T + grid.affine[:dim, 3]


@pytest.fixture(name="places_on")
def _places_on():
    """Draw points over the grid of an image: ``places_on(grid, count, seed, margin)``."""
    return places_on


@pytest.fixture(name="field_on")
def _field_on():
    """Draw a smooth field on the grid of an image: ``field_on(grid, size_mm, seed, sigma)``."""
    return field_on


@pytest.fixture(name="itk_transform")
def _itk_transform():
    """The SimpleITK composite of a transform: ``itk_transform(transform, dim)``."""
    return itk_transform
