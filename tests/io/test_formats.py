"""Every format: what is read is what was written, and what its own program, or its definition, makes of it."""

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from mmtk.errors import InputError
from mmtk.io import AffineStep, FieldStep, Volume, read_transform, transform_points, write_image
from mmtk.io.formats import FORMATS, read_steps, write_steps

LPS = np.array([-1.0, -1.0, 1.0])
BOTH = [name for name, one in FORMATS.items() if one.read and one.write]


def turned(x, y, z):
    turn = np.eye(3)
    for axis, angle in enumerate((x, y, z)):
        a, b = ((1, 2), (2, 0), (0, 1))[axis]
        step = np.eye(3)
        step[a, a] = step[b, b] = np.cos(angle)
        step[b, a], step[a, b] = np.sin(angle), -np.sin(angle)
        turn = step @ turn
    return turn


def homogeneous(linear, shift):
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = linear, shift
    return matrix


def volume(name, shape, axes, middle):
    affine = homogeneous(axes, np.array(middle) - axes @ ((np.array(shape) - 1) / 2))
    affine = affine.astype(np.float32).astype(np.float64)  # what a NIfTI file holds
    return Volume(np.random.default_rng(1).random(shape, dtype=np.float32), affine, name=name)


def wavy(grid, size, seed=0):
    """A displacement of up to ``size`` mm, rough enough that no axis can be mistaken for another."""
    vectors = np.random.default_rng(seed).uniform(-size, size, (3, *grid.shape))
    return FieldStep(vectors.astype(np.float32), grid.affine)


def centers(grid):
    voxels = np.indices(grid.shape).reshape(grid.dim, -1).T
    return (
        voxels @ grid.affine[: grid.dim, : grid.dim].T + grid.affine[: grid.dim, grid.dim if grid.dim == 3 else 3]
    )


def between(grid, seed=3):
    """Points between the voxel centers of a grid, well inside."""
    voxels = np.random.default_rng(seed).uniform(0.1, np.array(grid.shape) - 1.1, (40, grid.dim))
    return voxels @ grid.affine[:3, :3].T + grid.affine[:3, 3]


PERMUTED = np.array([[0.0, 0.0, 1.5], [-1.2, 0.0, 0.0], [0.0, 1.8, 0.0]])
GRIDS = {
    "oblique": (turned(0.3, -0.2, 0.4) @ np.diag([1.5, 1.0, 2.5]), turned(-0.1, 0.2, 0.1) * 1.4, (30, -50, 20)),
    "anisotropic": (np.diag([-0.5, -0.9, 7.0]), np.diag([-1.1, 1.3, 4.0]), (3, 14, -8)),
    "flipped": (np.diag([-1.5, 1.0, 2.5]), np.diag([1.6, 1.3, -2.0]), (12, -9, 15)),
    "permuted": (PERMUTED[:, [2, 0, 1]] * [1, -1, 1], PERMUTED, (11, -8, 16)),
    "far off": (np.diag([0.1, -0.1, 0.1]), np.diag([-7.0, 7.0, 7.0]), (910, -1380, 640)),
}


class Pair:
    """Two volumes, their files, and a transform between them."""

    def __init__(self, folder, axes, other, middle):
        at, there = np.array(middle), np.add(middle, (1.0, -2.0, 0.5))
        self.fixed, self.moving = volume("fixed", (7, 6, 5), axes, at), volume("moving", (6, 8, 7), other, there)
        self.images = {
            v.name: write_image(folder / f"{v.name}.nii.gz", v.data, v) for v in (self.fixed, self.moving)
        }
        linear = turned(0.1, 0.05, -0.08) @ np.diag([1.05, 0.97, 1.02])
        self.matrix = homogeneous(linear, there - linear @ at)
        self.affine = (AffineStep(self.matrix),)
        self.field = (wavy(self.fixed, 2 * min(self.fixed.spacing)),)
        self.chain = (*self.field, *self.affine)


@pytest.fixture(params=GRIDS)
def pair(request, tmp_path):
    return Pair(tmp_path, *GRIDS[request.param])


@pytest.fixture
def easy(tmp_path):
    return Pair(tmp_path, *GRIDS["flipped"])


def name_for(format, stem="transform"):
    return stem + (FORMATS[format].extensions[0] if FORMATS[format].extensions else "_")


# --- what is read is what was written

angles, sizes = st.floats(-3, 3), st.floats(0.1, 7)


@st.composite
def grids(draw, upright=False):
    """Shape and affine: turned, flipped, permuted, far off, from 0.1 to 7 mm."""
    turn = np.eye(3) if upright else turned(*(draw(angles) for _ in range(3)))
    flips = np.diag([draw(st.sampled_from([-1.0, 1.0])) for _ in range(3)])
    axes = turn @ np.eye(3)[draw(st.permutations(range(3)))] @ flips @ np.diag([draw(sizes) for _ in range(3)])
    shape = tuple(draw(st.integers(2, 5)) for _ in range(3))
    return shape, axes, [draw(st.floats(-1000, 1000)) for _ in range(3)]


@st.composite
def placements(draw):
    linear = turned(*(draw(angles) for _ in range(3))) @ np.diag([draw(st.floats(0.1, 10)) for _ in range(3)])
    linear[:, 0] *= draw(st.sampled_from([-1.0, 1.0]))
    return homogeneous(linear, [draw(st.floats(-100, 100)) for _ in range(3)])


quick = settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.parametrize("format", [name for name in BOTH if FORMATS[name].holds != "field"])
@given(fixed=grids(), moving=grids(), matrix=placements())
@quick
def test_a_matrix_is_read_as_it_was_written(format, fixed, moving, matrix, tmp_path):
    images = {"fixed": volume("fixed", *fixed), "moving": volume("moving", *moving)}
    path = tmp_path / name_for(format)
    for old in tmp_path.glob("transform*"):
        old.unlink()
    try:
        write_steps(path, (AffineStep(matrix),), format=format, **images)
    except InputError as error:
        assert format == "afni-1d" and "so oblique" in str(error)
        return
    found = read_steps(path, format=format, **images)
    points = centers(images["fixed"])
    np.testing.assert_allclose(transform_points(found, points), transform_points((AffineStep(matrix),), points),
                               rtol=1e-9, atol=1e-7)  # fmt: skip


@pytest.mark.parametrize("format", [name for name in BOTH if FORMATS[name].holds != "affine"])
@given(data=st.data())
@quick
def test_a_field_is_read_as_it_was_written(format, data, tmp_path):
    upright = format == "afni-field"  # it is refused on oblique grids
    fixed, moving = (volume(name, *data.draw(grids(upright))) for name in ("fixed", "moving"))
    field = wavy(fixed, data.draw(st.floats(0.01, 20)), data.draw(st.integers(0, 99)))
    path = tmp_path / name_for(format)
    for old in tmp_path.glob("transform*"):
        old.unlink()
    write_steps(path, (field,), format=format, fixed=fixed, moving=moving)
    # Fields as wild as these are no sane maps, so whether one of FSL is relative must be said.
    stated = "relative" if format == "fsl-field" else None
    found = read_steps(path, format=format, fixed=fixed, moving=moving, convention=stated)
    points = np.concatenate([centers(fixed), between(fixed)])
    # The origin of a NIfTI file is in float32: 6e-5 mm at 1000 mm, times the slope of the field. And so is a
    # displacement, which from array to array is as large as the distance between the images.
    slope = np.abs(field.vectors).max() / min(fixed.spacing)
    atol = 1e-4 * (1 + slope) + 5e-7 * np.linalg.norm(fixed.affine[:3, 3] - moving.affine[:3, 3])
    np.testing.assert_allclose(transform_points(found, points), transform_points((field,), points), atol=atol)


@pytest.mark.parametrize("format", [name for name in BOTH if FORMATS[name].holds == "chain"])
def test_a_chain_keeps_its_steps(format, easy, tmp_path):
    path = tmp_path / name_for(format)
    write_steps(path, easy.chain, format=format)
    field, affine = read_steps(path, format=format)
    np.testing.assert_array_equal(field.vectors, easy.field[0].vectors)
    np.testing.assert_allclose(affine.matrix, easy.matrix, atol=1e-12)


@pytest.mark.parametrize("format", [name for name in BOTH if FORMATS[name].holds == "field"])
def test_a_field_format_takes_a_chain_as_one_map_at_the_voxel_centers(format, pair, tmp_path):
    path = tmp_path / name_for(format)
    try:
        write_steps(path, pair.chain, format=format, **pair.images)
    except InputError as error:
        assert format == "afni-field" and "oblique" in str(error)
        assert not path.exists()
        return
    found = transform_points(read_steps(path, format=format, **pair.images), centers(pair.fixed))
    np.testing.assert_allclose(found, transform_points(pair.chain, centers(pair.fixed)), atol=1e-3)


@pytest.mark.parametrize("format", ["itk-field", "fsl-field", "learn2reg"])
def test_a_chain_that_begins_elsewhere_is_composed_on_the_grid_that_is_given(format, easy, tmp_path):
    """As in an inverse transform: the points meet a matrix first and a field of another grid then."""
    back = (AffineStep(np.linalg.inv(easy.matrix)), *easy.field)
    path = tmp_path / name_for(format)
    images = {"fixed": easy.moving, "moving": easy.fixed}
    write_steps(path, back, format=format, **images)
    found = transform_points(read_steps(path, format=format, **images), centers(easy.moving))
    np.testing.assert_allclose(found, transform_points(back, centers(easy.moving)), atol=1e-4)


# --- ITK and ANTs


def by_itk(transform, points):
    signs = LPS[: points.shape[1]]
    return np.array([transform.TransformPoint(point) for point in (points * signs).tolist()]) * signs


def test_itk_takes_points_where_we_do(pair, tmp_path):
    write_steps(tmp_path / "chain.h5", pair.chain)
    write_steps(tmp_path / "field.nii.gz", pair.chain)
    points = centers(pair.fixed)
    truth = transform_points(pair.chain, points)
    np.testing.assert_allclose(by_itk(sitk.ReadTransform(str(tmp_path / "chain.h5")), points), truth, atol=1e-3)
    image = sitk.ReadImage(str(tmp_path / "field.nii.gz"), sitk.sitkVectorFloat64)
    np.testing.assert_allclose(by_itk(sitk.DisplacementFieldTransform(image), points), truth, atol=1e-3)
    for name in ("affine.tfm", "affine.txt", "affine.mat"):
        write_steps(tmp_path / name, pair.affine)
        found = by_itk(sitk.ReadTransform(str(tmp_path / name)), points)
        np.testing.assert_allclose(found, transform_points(pair.affine, points), atol=1e-6)


def test_what_itk_writes_is_read(pair, tmp_path):
    points = centers(pair.fixed)
    write_steps(tmp_path / "field.nii.gz", pair.field)
    image = sitk.ReadImage(str(tmp_path / "field.nii.gz"), sitk.sitkVectorFloat64)
    sitk.WriteImage(image, str(tmp_path / "theirs.nii.gz"))
    field = sitk.DisplacementFieldTransform(image)
    affine = sitk.AffineTransform(3)
    affine.SetMatrix((np.diag(LPS) @ pair.matrix[:3, :3] @ np.diag(LPS)).ravel().tolist())
    affine.SetCenter((1.0, 2.0, 3.0))
    affine.SetTranslation((4.0, -5.0, 6.0))
    single, chain = tmp_path / "single.h5", tmp_path / "chain.h5"
    sitk.WriteTransform(field, str(single))
    composite = sitk.CompositeTransform([affine, affine, field])
    sitk.WriteTransform(composite, str(chain))
    for path, transform in (
        (tmp_path / "theirs.nii.gz", field), (single, field), (chain, composite),
    ):  # fmt: skip
        np.testing.assert_allclose(
            transform_points(read_steps(path), points), by_itk(transform, points), atol=1e-3
        )
    for ending in ("tfm", "mat", "txt"):
        path = tmp_path / f"affine.{ending}"
        sitk.WriteTransform(affine, str(path))
        np.testing.assert_allclose(transform_points(read_steps(path), points), by_itk(affine, points), atol=1e-6)


def test_a_composite_within_a_composite_is_refused_as_by_itk(tmp_path):
    """ITK fails in the middle of writing one, and leaves a file that looks like its beginning."""
    inner = sitk.CompositeTransform([sitk.TranslationTransform(3, (1, 2, 3)), sitk.ScaleTransform(3, (2, 3, 4))])
    outer = sitk.CompositeTransform([sitk.TranslationTransform(3, (4, 5, 6))])
    outer.AddTransform(inner)
    with pytest.raises(RuntimeError, match="can only be 1st transform"):
        sitk.WriteTransform(outer, str(tmp_path / "a.tfm"))
    with pytest.raises(InputError, match=r"a composite within a composite, .* flatten it first"):
        read_steps(tmp_path / "a.tfm")


def test_the_pair_of_ants_is_taken_in_the_order_of_its_command(easy, tmp_path):
    """``-t WARP -t AFFINE``: ITK's queue [AFFINE, ... ] reversed, so a fixed point meets the warp first."""
    write_steps(tmp_path / "sub_", easy.chain, format="ants")
    warp, matrix = tmp_path / "sub_1Warp.nii.gz", tmp_path / "sub_0GenericAffine.mat"
    field = sitk.DisplacementFieldTransform(sitk.ReadImage(str(warp), sitk.sitkVectorFloat64))
    truth = by_itk(sitk.CompositeTransform([sitk.ReadTransform(str(matrix)), field]), centers(easy.fixed))
    for name in (tmp_path / "sub_", f"{warp},{matrix}"):
        np.testing.assert_allclose(transform_points(read_steps(name), centers(easy.fixed)), truth, atol=1e-4)


def test_a_matrix_of_ants_can_be_taken_inverted(easy, tmp_path):
    write_steps(tmp_path / "a.mat", easy.affine)
    found = read_steps(f"[{tmp_path / 'a.mat'},1],{tmp_path / 'a.mat'}", format="ants")
    np.testing.assert_allclose(transform_points(found, centers(easy.fixed)), centers(easy.fixed), atol=1e-9)
    write_steps(tmp_path / "w.nii.gz", easy.field)
    with pytest.raises(InputError, match="holds one affine matrix"):
        read_steps(f"[{tmp_path / 'w.nii.gz'},1],{tmp_path / 'a.mat'}", format="ants")


def test_another_chain_becomes_one_warp_for_ants(easy, tmp_path):
    chain = (*easy.affine, *easy.field)
    write_steps(tmp_path / "sub_", chain, format="ants", fixed=easy.fixed)
    assert not (tmp_path / "sub_0GenericAffine.mat").exists()
    found = transform_points(read_steps(tmp_path / "sub_"), centers(easy.fixed))
    np.testing.assert_allclose(found, transform_points(chain, centers(easy.fixed)), atol=1e-4)


@pytest.mark.parametrize("name", ["flat.h5", "flat.tfm", "flat.mat"])
def test_a_matrix_of_two_dimensions_stays_one(name, tmp_path):
    matrix = np.eye(4)
    matrix[:2] = [[0.9, -0.2, 0, 3], [0.1, 1.1, 0, -4]]
    path = write_steps(tmp_path / name, (AffineStep(matrix),), dim=2)
    itk = sitk.ReadTransform(str(path))
    assert itk.GetDimension() == 2
    points = np.array([[1.0, 2.0], [-3.0, 4.0]])
    np.testing.assert_allclose(by_itk(itk, points), transform_points((AffineStep(matrix),), points), atol=1e-9)
    np.testing.assert_allclose(read_steps(path)[0].matrix, matrix, atol=1e-12)


def test_a_field_of_two_dimensions(tmp_path):
    affine = np.diag([-1.5, -0.8, 1.0, 1.0])
    field = FieldStep(np.random.default_rng(0).normal(size=(2, 6, 5)).astype(np.float32), affine)
    write_steps(tmp_path / "flat.nii.gz", (field,))
    found = read_steps(tmp_path / "flat.nii.gz")[0]
    np.testing.assert_array_equal(found.vectors, field.vectors)
    with pytest.raises(InputError, match="three dimensions only"):
        write_steps(tmp_path / "flat.x5", (field,))


# --- fields that do not say what they are


def test_a_stated_convention_is_followed(easy, tmp_path):
    world = easy.field[0].vectors
    voxel = np.tensordot(np.linalg.inv(easy.fixed.affine[:3, :3]), world, 1)
    stored = {"ras-mm": world, "lps-mm": world * LPS.reshape(3, 1, 1, 1), "voxel": voxel}
    for convention, vectors in stored.items():
        data = np.moveaxis(vectors, 0, -1).astype(np.float32)
        for shaped in (data, data[:, :, :, None]):
            nibabel.save(nibabel.Nifti1Image(shaped, easy.fixed.affine), tmp_path / "field.nii.gz")
            (found,) = read_steps(tmp_path / "field.nii.gz", convention=convention)
            np.testing.assert_allclose(found.vectors, world, atol=1e-5)


@pytest.mark.parametrize("axes", [(), (None,)])
def test_a_field_that_says_nothing_is_refused_without_one(axes, easy, tmp_path):
    data = np.zeros((4, 5, 6, *(1 for _ in axes), 3), np.float32)
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), tmp_path / "field.nii.gz")
    with pytest.raises(
        InputError, match="does not say what its numbers are; add convention=ras-mm, lps-mm or voxel"
    ):
        read_steps(tmp_path / "field.nii.gz")
    with pytest.raises(InputError, match="no such convention; there are ras-mm"):
        read_steps(tmp_path / "field.nii.gz", convention="mm")


def test_the_standard_s_intent_is_ras_as_in_itk(easy, tmp_path):
    data = np.moveaxis(easy.field[0].vectors, 0, -1)[:, :, :, None]
    image = nibabel.Nifti1Image(data, easy.fixed.affine)
    image.header.set_intent(1006)
    nibabel.save(image, tmp_path / "ras.nii.gz")
    points = centers(easy.fixed)
    itk = sitk.DisplacementFieldTransform(sitk.ReadImage(str(tmp_path / "ras.nii.gz"), sitk.sitkVectorFloat64))
    np.testing.assert_allclose(
        transform_points(read_steps(tmp_path / "ras.nii.gz"), points), by_itk(itk, points), atol=1e-4
    )


# --- FSL


def test_flirt_s_frame_is_scaled_voxels_turned_round_where_the_determinant_is_positive(tmp_path):
    """A shift by (1, 2, 3) in FSL's frame, between images whose first axes run against each other."""
    fixed = Volume(np.zeros((10, 8, 6), np.float32), np.diag([2.0, 2.0, 3.0, 1.0]))  # det > 0: x is turned round
    moving = Volume(np.zeros((20, 8, 6), np.float32), np.diag([-1.0, 2.0, 3.0, 1.0]))
    # FLIRT takes moving to fixed points: fixed = moving + (1, 2, 3).
    shift = homogeneous(np.eye(3), [1, 2, 3])
    (tmp_path / "flirt.mat").write_text("\n".join("  ".join(f"{v:.10f}" for v in row) + "  " for row in shift))
    steps = read_steps(tmp_path / "flirt.mat", format="fsl-flirt", fixed=fixed, moving=moving)
    # Fixed voxel (4, 5, 1): frame ((9 - 4) * 2, 10, 3) = (10, 10, 3); moving frame (9, 8, 0), so x = -9, y = 8, z = 0.
    np.testing.assert_allclose(
        transform_points(steps, np.array([[8.0, 10.0, 3.0]])), [[-9.0, 8.0, 0.0]], atol=1e-9
    )


def test_nitransforms_reads_flirt_as_we_do(pair, tmp_path):
    linear = pytest.importorskip("nitransforms.linear")
    path = write_steps(tmp_path / "flirt.mat", pair.affine, format="fsl", **pair.images)
    moving, fixed = str(pair.images["moving"]), str(pair.images["fixed"])
    theirs = linear.Affine.from_filename(path, fmt="fsl", reference=fixed, moving=moving)
    np.testing.assert_allclose(theirs.matrix, pair.matrix, atol=1e-3)


def test_a_field_of_fsl_is_a_difference_of_two_frames(tmp_path):
    """By definition: the moving frame's position minus the fixed frame's own."""
    fixed = Volume(np.zeros((10, 8, 6), np.float32), np.diag([2.0, 2.0, 3.0, 1.0]))
    moving = Volume(np.zeros((20, 8, 6), np.float32), np.diag([-1.0, 2.0, 3.0, 1.0]))
    path = write_steps(tmp_path / "w.nii.gz", (), format="fsl-field", fixed=fixed, moving=moving)
    image = nibabel.load(path)
    assert image.shape == (10, 8, 6, 3) and int(image.header["intent_code"]) == 2006
    # Voxel (4, 5, 1) is at world (8, 10, 3): fixed frame (10, 10, 3), moving frame (-8, 10, 3).
    np.testing.assert_allclose(image.get_fdata()[4, 5, 1], [-18, 0, 0], atol=1e-5)


def absolute_field(path, relative, grid):
    """Write the absolute twin of a relative field, in FSL's frame of a grid with a negative determinant."""
    image = nibabel.load(relative)
    own = np.moveaxis(np.indices(grid.shape), 0, -1) * np.array(grid.spacing)
    twin = nibabel.Nifti1Image((image.get_fdata() + own).astype(np.float32), image.affine, image.header)
    nibabel.save(twin, path)
    return path


def test_relative_and_absolute_fields_of_fsl_are_told_apart(tmp_path):
    pair = Pair(tmp_path, np.diag([-1.5, 1.0, 2.5]), np.diag([-1.4, 1.2, 2.0]), (0, 0, 0))
    relative = write_steps(tmp_path / "rel.nii.gz", pair.chain, format="fsl-field", **pair.images)
    absolute = absolute_field(tmp_path / "abs.nii.gz", relative, pair.fixed)
    truth = transform_points(pair.chain, centers(pair.fixed))
    for path in (relative, absolute):
        found = transform_points(read_steps(path, moving=pair.moving), centers(pair.fixed))
        np.testing.assert_allclose(found, truth, atol=1e-4)


def test_where_the_rule_of_fsl_fails_nobody_guesses(tmp_path):
    pair = Pair(tmp_path, np.diag([-1.5, 1.0, 2.5]), np.diag([-1.4, -1.2, -2.0]), (0, 0, 0))
    relative = write_steps(tmp_path / "rel.nii.gz", pair.chain, format="fsl-field", **pair.images)
    absolute = absolute_field(tmp_path / "abs.nii.gz", relative, pair.fixed)
    with pytest.raises(InputError, match="add convention=relative or convention=absolute"):
        read_steps(absolute, moving=pair.moving)
    truth = transform_points(pair.chain, centers(pair.fixed))
    for path, convention in ((relative, None), (relative, "relative"), (absolute, "absolute")):
        steps = read_steps(path, moving=pair.moving, convention=convention)
        np.testing.assert_allclose(transform_points(steps, centers(pair.fixed)), truth, atol=1e-4)


def test_coefficients_of_fnirt_are_no_field(easy, tmp_path):
    image = nibabel.Nifti1Image(np.zeros((4, 5, 6, 3), np.float32), np.eye(4))
    image.header.set_intent(2007, allow_unknown=True)
    nibabel.save(image, tmp_path / "coef.nii.gz")
    with pytest.raises(InputError, match=r"holds spline coefficients .* `fnirtfileutils --in=coef\.nii\.gz"):
        read_steps(tmp_path / "coef.nii.gz", moving=easy.moving)


# --- FreeSurfer, AFNI, X5, Learn2Reg


def test_an_lta_between_voxels_means_what_its_grids_say(pair, tmp_path):
    text = write_steps(tmp_path / "world.lta", pair.affine, **pair.images).read_text().splitlines()
    # Fixed voxel to moving voxel, inverted: from source to destination.
    voxels = np.linalg.inv(np.linalg.inv(pair.moving.affine) @ pair.matrix @ pair.fixed.affine)
    text[0] = "type      = 0 # LINEAR_VOX_TO_VOX"
    text[5:9] = [" ".join(f"{value:.15e}" for value in row) for row in voxels]
    (tmp_path / "voxels.lta").write_text("\n".join(text) + "\n")
    for name in ("world.lta", "voxels.lta"):
        np.testing.assert_allclose(read_steps(tmp_path / name)[0].matrix, pair.matrix, atol=1e-6)


def test_nitransforms_reads_an_lta_as_we_do(pair, tmp_path):
    linear = pytest.importorskip("nitransforms.linear")
    path = write_steps(tmp_path / "a.lta", pair.affine, **pair.images)
    theirs = linear.Affine.from_filename(path, fmt="lta")
    points = centers(pair.fixed)
    np.testing.assert_allclose(theirs.map(points), transform_points(pair.affine, points), atol=1e-3)


def test_an_lta_the_other_way_round_is_refused(easy, tmp_path):
    path = write_steps(tmp_path / "a.lta", easy.affine, **easy.images)
    with pytest.raises(InputError, match="exchange fixed= and moving="):
        read_steps(path, fixed=easy.moving, moving=easy.fixed)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("type      = 1", "type      = 14", "its type is 14"),
        ("nxforms   = 1", "nxforms   = 2", "holds 2 matrices"),
        ("1 4 4", "1 4", "no LTA"),
        ("voxelsize = ", "voxelsize = x", "no LTA"),
    ],
)
def test_an_lta_that_is_not_understood_is_refused(old, new, says, easy, tmp_path):
    path = write_steps(tmp_path / "a.lta", easy.affine, **easy.images)
    path.write_text(path.read_text().replace(old, new))
    says = says.replace("no LTA", "not an LTA file of FreeSurfer, or a damaged one")
    with pytest.raises(InputError, match=says):
        read_steps(path)


def test_a_matrix_of_afni_is_lps_and_maps_fixed_to_moving(tmp_path):
    upright = Volume(np.zeros((4, 5, 6), np.float32), np.diag([2.0, -3.0, 1.0, 1.0]))
    (tmp_path / "a.aff12.1D").write_text("# 3dAllineate\n 1 0 0 5  0 1 0 6  0 0 1 7\n")
    (step,) = read_steps(tmp_path / "a.aff12.1D", fixed=upright, moving=upright)
    np.testing.assert_allclose(step.matrix[:3, 3], [-5, -6, 7])


def test_nitransforms_reads_a_matrix_of_afni_as_we_do(pair, tmp_path):
    linear = pytest.importorskip("nitransforms.linear")
    path = write_steps(tmp_path / "a.1D", pair.affine, **pair.images)
    moving, fixed = str(pair.images["moving"]), str(pair.images["fixed"])
    theirs = linear.Affine.from_filename(path, fmt="afni", reference=fixed, moving=moving)
    points = centers(pair.fixed)
    np.testing.assert_allclose(theirs.map(points), transform_points(pair.affine, points), atol=1e-3)


def test_a_field_of_afni_is_lps(easy, tmp_path):
    path = write_steps(tmp_path / "q.nii.gz", easy.field, format="afni", **easy.images)
    stored = nibabel.load(path)
    assert stored.shape == (*easy.fixed.shape, 1, 3) and int(stored.header["intent_code"]) == 0
    np.testing.assert_array_equal(
        np.moveaxis(stored.get_fdata(dtype=np.float32)[:, :, :, 0], -1, 0),
        easy.field[0].vectors * LPS.astype(np.float32).reshape(3, 1, 1, 1),
    )


def test_nitransforms_reads_x5_as_we_do_and_we_its(pair, tmp_path):
    manip, linear = pytest.importorskip("nitransforms.manip"), pytest.importorskip("nitransforms.linear")
    nonlinear = pytest.importorskip("nitransforms.nonlinear")
    points = centers(pair.fixed)
    truth = transform_points(pair.chain, points)
    chain = manip.TransformChain.from_filename(write_steps(tmp_path / "a.x5", pair.chain), fmt="X5")
    dense, affine = chain.transforms
    np.testing.assert_allclose(affine.map(dense._field.reshape(-1, 3)), truth, atol=1e-3)
    reference = str(pair.images["fixed"])
    field = nonlinear.DenseFieldTransform(np.moveaxis(pair.field[0].vectors, 0, -1), reference=reference)
    whole = manip.TransformChain([field, linear.Affine(pair.matrix, reference=reference)])
    whole.to_filename(str(tmp_path / "theirs.x5"), fmt="X5")
    np.testing.assert_allclose(transform_points(read_steps(tmp_path / "theirs.x5"), points), truth, atol=1e-3)
    linear.Affine(pair.matrix, reference=reference).to_filename(str(tmp_path / "one.x5"), fmt="X5")
    np.testing.assert_allclose(read_steps(tmp_path / "one.x5")[0].matrix, pair.matrix)


def test_learn2reg_samples_the_moving_array_where_we_say(pair, tmp_path):
    """The evaluator's rule, ``map_coordinates(moving, identity + displacement)``, on arrays of voxel numbers."""
    chain = pair.chain
    for name in ("disp_0001_0002.nii.gz", "disp_0001_0002.npz"):
        path = write_steps(tmp_path / name, chain, **pair.images)
        stored = np.load(path)["arr_0"] if name.endswith("npz") else nibabel.load(path).get_fdata()
        assert stored.shape == (*pair.fixed.shape, 3)
        at = np.indices(pair.fixed.shape) + np.moveaxis(stored, -1, 0)
        numbers = np.indices(pair.moving.shape, dtype=np.float64)
        voxels = np.stack([map_coordinates(one, at, order=1, cval=np.nan).ravel() for one in numbers], 1)
        sampled = voxels @ pair.moving.affine[:3, :3].T + pair.moving.affine[:3, 3]
        truth = transform_points(chain, centers(pair.fixed))
        back = np.linalg.inv(pair.moving.affine)
        exact = truth @ back[:3, :3].T + back[:3, 3]
        inside = ((exact > 0.01) & (exact < np.array(pair.moving.shape) - 1.01)).all(axis=1)
        assert inside.sum() > 10
        np.testing.assert_allclose(sampled[inside], truth[inside], atol=1e-3)


def test_a_displacement_of_the_old_rules_is_read_at_full_size_and_refused_at_half(easy, tmp_path):
    same = {"fixed": easy.fixed, "moving": easy.fixed}
    path = write_steps(tmp_path / "disp_0001_0002.npz", easy.field, **same)
    first = np.moveaxis(np.load(path)["arr_0"], -1, 0)
    np.savez(tmp_path / "old.npz", first)
    (found,) = read_steps(tmp_path / "old.npz", **same)
    np.testing.assert_allclose(found.vectors, easy.field[0].vectors, atol=1e-5)
    np.savez(tmp_path / "half.npz", np.zeros((3, 4, 3, 3), np.float16))
    with pytest.raises(InputError, match="half the resolution, as the rules of 2021 had it"):
        read_steps(tmp_path / "half.npz", **same)


# --- what a file is, and what it cannot be


@pytest.mark.parametrize(
    ("name", "format"),
    [("t.h5", "itk-h5"), ("t.tfm", "itk-text"), ("t.mat", "itk-mat"), ("t.lta", "freesurfer-lta"), ("t.x5", "x5"),
     ("t.1D", "afni-1d")],
)  # fmt: skip
def test_a_file_is_recognized_by_what_is_in_it(name, format, easy, tmp_path):
    if format == "x5":
        pytest.importorskip("nitransforms")
    write_steps(tmp_path / name, easy.affine, **easy.images)
    found = read_steps(tmp_path / name, **easy.images)
    np.testing.assert_allclose(found[0].matrix, easy.matrix, atol=1e-9)
    # The name of another HDF5 or text file does not mislead.
    if name.endswith(("h5", "x5", "tfm", "lta")):
        other = tmp_path / {"h5": "u.x5", "x5": "u.h5", "fm": "u.lta", "ta": "u.txt"}[name[-2:]]
        (tmp_path / name).rename(other)
        np.testing.assert_allclose(read_steps(other)[0].matrix, easy.matrix, atol=1e-9)


@pytest.mark.parametrize("name", ["a.mat", "a.txt"])
def test_four_lines_of_four_numbers_may_be_anybody_s(name, easy, tmp_path):
    np.savetxt(tmp_path / name, easy.matrix)
    with pytest.raises(InputError, match=r"nothing in it tells whose; name its format .*fsl-flirt .* or matrix"):
        read_steps(tmp_path / name, **easy.images)
    np.testing.assert_allclose(read_steps(tmp_path / name, format="matrix")[0].matrix, easy.matrix)
    assert not np.allclose(read_steps(tmp_path / name, format="fsl-flirt", **easy.images)[0].matrix, easy.matrix)


@pytest.mark.parametrize("format", [name for name in BOTH if FORMATS[name].holds == "affine"])
def test_a_field_does_not_fit_into_a_matrix(format, easy, tmp_path):
    with pytest.raises(InputError, match="holds one affine matrix, but the transform has a displacement field"):
        write_steps(tmp_path / name_for(format), easy.chain, format=format, **easy.images)
    assert not (tmp_path / name_for(format)).exists()


@pytest.mark.parametrize("format", [name for name in BOTH if FORMATS[name].images])
def test_a_missing_image_is_asked_for_by_name(format, easy, tmp_path):
    steps = easy.field if FORMATS[format].holds == "field" else easy.affine
    with pytest.raises(InputError, match=" ".join(f"{name}=FILE" for name in FORMATS[format].images)):
        write_steps(tmp_path / name_for(format), steps, format=format)
    assert not (tmp_path / name_for(format)).exists()


def test_a_field_without_a_grid_is_refused(easy, tmp_path):
    with pytest.raises(InputError, match="nothing tells its grid; add fixed=FILE"):
        write_steps(tmp_path / "f.nii.gz", easy.affine)


def test_itk_has_no_sheared_grids(tmp_path):
    sheared = np.eye(4)
    sheared[0, 1] = 0.3
    step = FieldStep(np.zeros((3, 4, 4, 4), np.float32), sheared)
    for name in ("a.h5", "a.nii.gz"):
        with pytest.raises(InputError, match="not at right angles"):
            write_steps(tmp_path / name, (step,))


@pytest.mark.parametrize(
    ("format", "says"),
    [("fls", "no such format; did you mean 'fsl'"), ("field", "is read only"), ("afni", "none of its extensions")],
)
def test_a_format_that_is_none_is_refused(format, says, easy, tmp_path):
    with pytest.raises(InputError, match=says):
        write_steps(tmp_path / "a.h5", easy.affine, format=format)


@pytest.mark.parametrize("name", ["a.dat", "a", "a.mgz"])
def test_a_name_that_tells_no_format_is_refused(name, easy, tmp_path):
    with pytest.raises(InputError, match="its name does not tell a format"):
        write_steps(tmp_path / name, easy.affine)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.m3z", b"x", "mri_warp_convert"),
        ("a.txt", b"hello", "no transform that mmtk knows"),
        ("a.bin", b"\0\1\2", "binary file of an unknown kind"),
        ("a.1D", b"1 2 3", "twelve numbers is expected"),
        ("a.1D", b"1 0 0 0 0 1 0 0 0 0 1 0\n" * 2, "it holds 2 matrices"),
        ("a.h5", b"\x89HDF\r\n\x1a\n" + bytes(200), "cannot be read as an ITK transform"),
        ("a.mat", bytes(200), "cannot be read as an ITK transform"),
        ("disp_0001_0002.npz", b"PK\3\4" + bytes(99), "cannot be read as .npz"),
        ("a.nii.gz", b"\x1f\x8b" + bytes(99), "cannot be read as an image"),
        ("a.lta", b"\0", "binary file of an unknown kind"),
    ],
)
def test_what_is_damaged_or_foreign_gives_a_sentence(name, content, says, easy, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=says):
        read_steps(tmp_path / name, **easy.images)


def test_a_truncated_field_gives_a_sentence(easy, tmp_path):
    path = write_steps(tmp_path / "f.nii.gz", easy.field)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match="its voxels cannot be read"):
        read_steps(path)


def test_a_field_with_nan_gives_a_sentence(easy, tmp_path):
    bad = easy.field[0].vectors.copy()
    bad[0, 1, 1, 1] = np.nan
    path = write_steps(tmp_path / "f.nii.gz", (FieldStep(bad, easy.fixed.affine),))
    with pytest.raises(InputError, match=r"\d of its numbers are NaN"):
        read_steps(path)


def test_without_the_extra_a_sentence_says_how_to_get_it(easy, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "nitransforms.io.x5", None)
    with pytest.raises(InputError, match=r"needs nitransforms, .* `pip install 'mmtk\[io\]'`"):
        write_steps(tmp_path / "a.x5", easy.affine)
    assert not (tmp_path / "a.x5").exists()


def test_the_files_of_a_run_read_as_before(easy, tmp_path):
    path = write_steps(tmp_path / "t.h5", easy.chain)
    for one, other in zip(read_steps(path), read_transform(path), strict=True):
        assert type(one) is type(other)
