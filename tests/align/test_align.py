"""Placement: known motions are found again, lesions and array orders do not matter, and good headers are kept."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from mmtk.align import align
from mmtk.errors import InputError
from mmtk.io import Volume
from mmtk.samples import embedded_brain


@pytest.fixture(scope="module")
def brain():
    whole = embedded_brain()
    data = ndimage.zoom(np.asarray(whole.image, dtype=np.float32), 0.4, order=1)
    affine = np.array(whole.affine, dtype=float)
    scale = np.array(whole.image.shape) / np.array(data.shape)
    affine[:3, 3] += affine[:3, :3] @ ((scale - 1) / 2)
    affine[:3, :3] = affine[:3, :3] * scale
    return Volume(data, affine, name="fixed")


def motion(degrees, shift, scale=(1.0, 1.0, 1.0), shear=0.0):
    x, y, z = np.radians(degrees)
    turn = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    turn = turn @ np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    turn = turn @ np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    stretch = np.diag(scale)
    stretch[0, 1] = shear
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn @ stretch, shift
    return matrix


def carried(brain, matrix, shape=(70, 64, 60), axes=((-2.6, 0, 0), (0, 0, 3.0), (0, 2.8, 0))):
    """The brain moved by ``matrix`` (fixed to moving, world mm), on a grid of its own."""
    linear = np.array(axes).T
    center = (matrix @ brain.affine @ np.array([*(np.array(brain.shape) - 1) / 2, 1.0]))[:3]
    affine = np.eye(4)
    affine[:3, :3] = linear
    affine[:3, 3] = center - linear @ (np.array(shape) - 1) / 2
    back = np.linalg.inv(brain.affine) @ np.linalg.inv(matrix) @ affine
    data = ndimage.affine_transform(brain.data, back[:3, :3], back[:3, 3], output_shape=shape, order=1)
    return Volume(data, affine, name="moving")


def error(brain, found, truth):
    """Mean distance in mm between two placements over the brain."""
    points = np.argwhere(brain.data > 0.2 * brain.data.max())[::7]
    world = np.c_[points, np.ones(len(points))] @ brain.affine.T
    return np.linalg.norm((world @ (found - truth).T)[:, :3], axis=1).mean()


@pytest.mark.parametrize(
    ("kind", "truth"),
    [
        ("rigid", motion((0, 0, 20), (30, -10, 5))),
        ("rigid", motion((12, -8, 15), (-12, 20, 25))),
        ("affine", motion((5, 0, 12), (10, 5, -20), (0.85, 1.1, 1.2), 0.06)),
        ("affine", motion((0, 10, -10), (0, 30, 0), (1.15, 0.95, 0.9), -0.05)),
    ],
)
def test_a_known_motion_is_found_on_another_grid(brain, kind, truth):
    found = align(carried(brain, truth), brain, kind=kind)
    assert found.accepted
    assert error(brain, np.eye(4), truth) > 10
    assert error(brain, found.matrix, truth) < 0.5


def test_as_good_as_simpleitk(brain):
    truth = motion((6, 4, 10), (12, -6, 8), (0.95, 1.05, 1.08))
    moving = carried(brain, truth)

    def image(volume):
        flip = np.diag([-1.0, -1.0, 1.0])
        spacing = np.linalg.norm(volume.affine[:3, :3], axis=0)
        result = sitk.GetImageFromArray(volume.data.T)
        result.SetSpacing(spacing)
        result.SetDirection((flip @ volume.affine[:3, :3] / spacing).ravel())
        result.SetOrigin(flip @ volume.affine[:3, 3])
        return result

    fixed_image, moving_image = image(brain), image(moving)
    start = sitk.CenteredTransformInitializer(
        fixed_image, moving_image, sitk.AffineTransform(3), sitk.CenteredTransformInitializerFilter.MOMENTS
    )
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsCorrelation()
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-4, 100)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([2, 1])
    method.SetSmoothingSigmasPerLevel([2, 0])
    method.SetInitialTransform(start)
    theirs = method.Execute(fixed_image, moving_image)
    linear = np.eye(4)
    for axis in range(3):
        linear[:3, axis] = np.array(theirs.TransformPoint(np.eye(3)[axis])) - theirs.TransformPoint((0, 0, 0))
    linear[:3, 3] = theirs.TransformPoint((0.0, 0.0, 0.0))
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    reference = error(brain, flip @ linear @ flip, truth)
    assert error(brain, align(moving, brain).matrix, truth) < max(reference, 0.3)


def test_a_lesion_that_is_masked_cannot_matter(brain):
    truth = motion((0, 5, 10), (8, -6, 4))
    moving = carried(brain, truth)
    mask = np.zeros(moving.shape, dtype=np.float32)
    mask[30:44, 24:38, 22:36] = 1
    mask = Volume(mask, moving.affine, name="mask")
    plain = align(moving, brain, kind="rigid", moving_mask=mask)
    damaged = Volume(np.where(mask.data > 0, 5 * moving.data.max(), moving.data), moving.affine, name="moving")
    found = align(damaged, brain, kind="rigid", moving_mask=mask)
    np.testing.assert_allclose(found.matrix, plain.matrix, atol=1e-3)
    assert error(brain, found.matrix, truth) < 0.7


def test_images_that_lie_right_already_stay_there(brain):
    found = align(Volume(1.3 * brain.data + 2, brain.affine, name="moving"), brain)
    # The two sides are sampled at different densities, which costs a tenth of a millimeter or two.
    assert error(brain, found.matrix, np.eye(4)) < 0.25
    assert found.cost_after <= found.cost_before


def test_a_placement_that_is_no_better_is_refused_with_a_reason(brain, monkeypatch):
    import mmtk.align.alignment as alignment

    monkeypatch.setattr(alignment, "_found", lambda *given: motion((0, 0, 90), (90, 0, 0)))
    found = align(brain, brain)
    assert not found.accepted
    np.testing.assert_array_equal(found.matrix, np.eye(4))
    assert "the headers were kept" in found.note


@pytest.mark.parametrize("codes", ["LPS", "SAR", "PIL"])
def test_the_order_of_the_array_does_not_matter(brain, codes):
    moving = carried(brain, motion((4, -6, 10), (10, 5, -8), (1.05, 0.95, 1.0)))
    plain = align(moving, brain)

    def turned(volume):
        image = nib.Nifti1Image(volume.data, volume.affine)
        there = nib.orientations.axcodes2ornt(tuple(codes))
        image = image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(image.affine), there))
        return Volume(image.get_fdata(dtype=np.float32), image.affine, name=volume.name)

    other = align(turned(moving), turned(brain))
    assert error(brain, other.matrix, plain.matrix) < 0.05


def test_two_dimensions(brain):
    middle = brain.shape[2] // 2
    affine = np.eye(4)
    affine[0, 0] = affine[1, 1] = 2.5
    fixed = Volume(brain.data[:, :, middle], affine, name="fixed")
    truth = motion((0, 0, 15), (20, -12, 0))
    back = np.linalg.inv(affine) @ np.linalg.inv(truth) @ affine
    data = ndimage.affine_transform(fixed.data, back[:2, :2], back[:2, 3], output_shape=(90, 100), order=1)
    found = align(Volume(data, affine, name="moving"), fixed, kind="rigid")
    points = np.argwhere(fixed.data > 0.2 * fixed.data.max())
    world = np.c_[points * 2.5, np.zeros(len(points)), np.ones(len(points))]
    assert np.linalg.norm(world @ (found.matrix - truth).T, axis=1).mean() < 0.5


def test_center_joins_the_centers_of_mass(brain):
    found = align(carried(brain, motion((0, 0, 0), (40, -30, 20))), brain, kind="center")
    np.testing.assert_allclose(found.matrix[:3, :3], np.eye(3))
    np.testing.assert_allclose(found.matrix[:3, 3], (40, -30, 20), atol=2.0)


def test_none_trusts_the_headers(brain):
    found = align(carried(brain, motion((0, 0, 9), (9, 0, 0))), brain, kind="none")
    np.testing.assert_array_equal(found.matrix, np.eye(4))


def test_a_file_is_taken_as_it_is(brain, tmp_path):
    matrix = motion((3, 2, 1), (4, 5, 6))
    file = tmp_path / "start.txt"
    np.savetxt(file, matrix)
    found = align(brain, brain, kind=file)
    assert found.kind == "file"
    np.testing.assert_allclose(found.matrix, matrix, atol=1e-9)


def test_an_image_of_nothing_is_refused(brain):
    with pytest.raises(InputError, match=r"moving: nothing differs from its background.*init=none"):
        align(Volume(np.zeros((20, 20, 20)), np.eye(4), name="moving"), brain)
