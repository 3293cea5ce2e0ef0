"""Pictures on axes of one's own: what is drawn, where, and what is refused."""

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest
from matplotlib.figure import Figure

from mmtk.errors import ConfigError, GridMismatch
from mmtk.io import Storage, Volume
from mmtk.report import draw_grid, draw_plane, draw_points

SHAPE, SPACING = (20, 24, 16), (2.0, 1.5, 3.0)
#: Stored along P, I, R: permuted and flipped.
TURNED = np.array([[0, 0, 3.0, -5], [-2.0, 0, 0, 9], [0, -1.5, 0, 2], [0, 0, 0, 1.0]])
STRAIGHT = np.diag([*SPACING, 1.0])


def volume(affine=STRAIGHT, shape=SHAPE):
    data = np.zeros(shape, np.float32)
    data[tuple(slice(3, -3) for _ in shape)] = np.random.default_rng(0).uniform(
        0.5, 1, tuple(n - 6 for n in shape)
    )
    return Volume(data, affine, Storage(affine))


@pytest.fixture
def axes():
    return Figure().add_subplot()


def at_voxel(like, index):
    return (like.affine @ [*index, *[0.0] * (3 - like.dim), 1.0])[: like.dim]


@pytest.mark.parametrize("affine", [STRAIGHT, TURNED], ids=["straight", "turned"])
@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("zoom", [None, 15.0])
def test_a_point_lies_on_its_voxel(axes, affine, plane, zoom):
    like, index = volume(affine), (9, 13, 8)
    spot = np.zeros(SHAPE, np.float32)
    spot[index] = 1
    seen = {"at": spot, "plane": plane, "zoom": zoom}
    image = draw_plane(axes, spot, like, **seen)
    draw_points(axes, at_voxel(like, index)[None], like, **seen)
    ((x, y),) = axes.collections[0].get_offsets()
    picture = image.get_array()
    width, height = image.get_extent()[1:3]
    row, column = np.unravel_index(np.argmax(picture), picture.shape)
    assert x == pytest.approx((column + 0.5) * width / picture.shape[1])
    assert y == pytest.approx((row + 0.5) * height / picture.shape[0])


def test_the_plane_shows_most_of_a_mask(axes):
    like = volume()
    mask = np.zeros(SHAPE, bool)
    mask[5:9, 6:10, 4], mask[6:12, 6:14, 9] = True, True
    shown = draw_plane(axes, mask, like, at=mask).get_array()
    assert shown.sum() == mask[..., 9].sum()


def test_lengths_are_in_millimeters(axes):
    image = draw_plane(axes, volume(), volume(), plane="coronal", bar=10)
    rows, columns = image.get_array().shape
    assert image.get_extent() == [0, columns * 2.0, rows * 3.0, 0]
    (bar,) = axes.lines
    assert np.ptp(bar.get_xdata()) == 10
    assert [text.get_text() for text in axes.texts] == ["10 mm"]
    zoomed = draw_plane(Figure().add_subplot(), volume(), volume(), zoom=18.0).get_extent()
    assert zoomed[1] == pytest.approx(18, abs=2.0) and zoomed[2] == pytest.approx(18, abs=1.5)


def test_a_signed_map_is_black_at_0_and_symmetric(axes):
    data = volume().data - 0.3
    image = draw_plane(axes, data, volume(), colors="signed")
    assert image.norm.vmin == -image.norm.vmax
    assert image.cmap(0.5)[:3] == pytest.approx((0, 0, 0), abs=0.02)
    assert draw_plane(axes, data, volume(), limits=(-1, 2)).norm.vmax == 2
    assert draw_plane(axes, np.zeros(SHAPE), volume(), colors="lengths").norm.vmax > 0


def test_outlines_stand_where_the_mask_is_half_and_bring_their_color(axes):
    like = volume()
    mask = np.zeros(SHAPE, np.float32)
    mask[6:12, 8:14] = 1
    draw_plane(axes, like, like, outlines=[mask, (mask, "red"), np.zeros(SHAPE)])
    assert len(axes.collections) == 2
    path = axes.collections[0].get_paths()[0].vertices
    assert np.ptp(path[:, 0]) == pytest.approx(6 * 2.0) and np.ptp(path[:, 1]) == pytest.approx(6 * 1.5)
    assert axes.collections[1].get_edgecolor()[0][:3] == pytest.approx((1, 0, 0))


def test_the_grid_of_no_displacement_is_square_and_moves_with_one(axes):
    like = volume()
    draw_grid(axes, np.zeros((3, *SHAPE), np.float32), like, step=8.0)
    down, right = axes.collections
    for lines, column in ((down, 1), (right, 0)):
        places = sorted({round(float(v), 3) for path in lines.get_paths() for v in path.vertices[:, column]})
        assert np.diff(places) == pytest.approx(8.0)
    moved = Figure().add_subplot()
    draw_grid(moved, np.ones((3, *SHAPE), np.float32), like, step=8.0)
    still = right.get_paths()[0].vertices[:, 0].min()
    # The axial picture runs to the patient's left, against the first axis, whose voxels are 2 mm.
    shift = moved.collections[1].get_paths()[0].vertices[:, 0].min() - still
    assert shift % 8.0 == pytest.approx(2.0, abs=1e-3)


def test_a_flat_image_has_one_plane(axes):
    like = volume(np.diag([0.5, 0.5, 1.0, 1.0]), (30, 40))
    draw_plane(axes, like, like, outlines=[like.data > 0], bar=5, letters=True)
    draw_grid(axes, np.zeros((2, 30, 40)), like, step=2)
    draw_points(axes, at_voxel(like, (10, 12))[None], like, to=at_voxel(like, (11, 12))[None], label="here")
    assert len(axes.lines) == 2
    assert len(axes.texts) == 1


def test_sides_are_told_on_request(axes):
    draw_plane(axes, volume(), volume(), plane="sagittal", letters=True)
    assert [text.get_text() for text in axes.texts] == ["A", "S"]


def test_what_does_not_fit_is_refused(axes):
    like = volume()
    with pytest.raises(GridMismatch, match="`data` has shape"):
        draw_plane(axes, np.zeros((3, 4, 5)), like)
    with pytest.raises(GridMismatch, match="`outline`"):
        draw_plane(axes, like, like, outlines=[np.zeros((3, 4, 5))])
    with pytest.raises(GridMismatch, match="`displacement`"):
        draw_grid(axes, np.zeros(SHAPE), like)
    with pytest.raises(ConfigError, match="plane='top': must be one of axial, coronal, sagittal"):
        draw_plane(axes, like, like, plane="top")
    with pytest.raises(ConfigError, match="colors='hot'"):
        draw_plane(axes, like, like, colors="hot")
