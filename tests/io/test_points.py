"""Points in files: what decides where a number lies is read or asked for, never guessed."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtk.errors import InputError
from mmtk.io import Points, Volume, read_points, write_points

PLACES = np.array([[10.5, -20.25, 30.0], [-1.0, 2.0, -3.125]])

#: As Slicer writes it.
FCSV = """\
# Markups fiducial file version = {version}
# CoordinateSystem = {frame}
# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID
vtkMRMLMarkupsFiducialNode_0,{x},{y},30.0,0,0,0,1,1,1,0,"tip, left",a note,
vtkMRMLMarkupsFiducialNode_1,{x2},{y2},-3.125,0,0,0,1,1,1,0,F-2,,
"""


def written(tmp_path, text, name="points.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def fcsv(tmp_path, frame, version="4.13"):
    sign = -1 if frame in ("LPS", "1") else 1
    x, y, x2, y2 = (sign * value for value in PLACES[:, :2].reshape(-1))
    return written(tmp_path, FCSV.format(version=version, frame=frame, x=x, y=y, x2=x2, y2=y2), "points.fcsv")


def markups(*groups, **rest):
    return json.dumps(
        {"@schema": "...", "markups": [{"type": "Fiducial", **rest, "controlPoints": g} for g in groups]}
    )


CONTROLS = [
    {"id": "1", "label": "tip", "position": [-10.5, 20.25, 30.0], "positionStatus": "defined"},
    {"id": "2", "label": "F-2", "position": [1.0, -2.0, -3.125]},
]


def test_the_first_line_of_a_table_says_where_its_points_lie(tmp_path):
    text = '# space: moving, RAS, mm\nlabel,x,y,z,certainty\nA,10.5,-20.25,30,0.9\n"B, c",-1,2,-3.125,\n'
    points = read_points(written(tmp_path, text))
    assert points.space == "moving"
    assert points.columns == {"label": ["A", "B, c"], "certainty": ["0.9", ""]}
    np.testing.assert_array_equal(points.places, PLACES)


@pytest.mark.parametrize(
    "line", ["# space: moving, LPS, mm", "#space = moving,lps", "# Space:  LPS , moving,mm,,"]
)
def test_a_table_in_lps_is_turned(tmp_path, line):
    points = read_points(written(tmp_path, f"{line}\nx,y,z\n-10.5,20.25,30\n1,-2,-3.125\n"))
    assert points.space == "moving"
    np.testing.assert_array_equal(points.places, PLACES)


def test_tables_of_other_habits_are_read(tmp_path):
    text = "\ufeff# made by hand\n# space: fixed, RAS\n\nX; Y ;name\n 1.5;2;left\n\n3;-4e1;right\n"
    points = read_points(written(tmp_path, text))
    np.testing.assert_array_equal(points.places, [[1.5, 2], [3, -40]])
    assert points.dim == 2 and points.columns == {"name": ["left", "right"]}


def test_a_table_that_says_nothing_is_refused_until_the_user_does(tmp_path):
    path = written(tmp_path, "x,y,z\n10.5,-20.25,30\n-1,2,-3.125\n")
    with pytest.raises(InputError, match="begin it with the line '# space: moving, RAS, mm'"):
        read_points(path)
    with pytest.raises(InputError, match="give space=fixed,RAS or space=fixed,LPS"):
        read_points(path, space="fixed")
    np.testing.assert_array_equal(read_points(path, space="fixed,RAS").places, PLACES)
    np.testing.assert_array_equal(read_points(path, space="fixed,LPS").places, PLACES * [-1, -1, 1])


@pytest.mark.parametrize("space, says", [("fixed", "lies in 'moving'"), ("moving,LPS", "is in RAS")])
def test_a_user_and_a_file_that_disagree_are_refused(tmp_path, space, says):
    path = written(tmp_path, "# space: moving, RAS, mm\nx,y\n1,2\n")
    with pytest.raises(InputError, match=says):
        read_points(path, space=space)
    assert read_points(path, space="moving,RAS").space == "moving"


def test_brats_reg_landmarks_are_read_by_the_rule_of_its_images(tmp_path):
    """Voxel (X, 239 + Y, Z) of an image whose header is that of the challenge."""
    path = written(tmp_path, "Landmark,X,Y,Z\n1,155.0,-68.0,93.0\n2,125.0,-118.0,81.0\n")
    with pytest.raises(InputError, match="give space=NAME"):
        read_points(path)
    points = read_points(path, space="fixed")
    affine = np.array([[-1, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    image = Volume(np.zeros((2, 2, 2)), affine)
    voxels = np.linalg.solve(image.affine[:3, :3], (points.places - image.affine[:3, 3]).T).T
    np.testing.assert_allclose(voxels, [[155, 239 - 68, 93], [125, 239 - 118, 81]])
    assert points.columns == {"Landmark": ["1", "2"]}
    again = write_points(tmp_path / "again.csv", points).read_text().splitlines()
    assert again[0] == "Landmark,X,Y,Z"
    assert [float(cell) for cell in again[1].split(",")] == [1, 155, -68, 93]


@pytest.mark.parametrize("frame", ["LPS", "RAS", "0", "1"])
def test_slicer_lists_say_their_coordinate_system(tmp_path, frame):
    points = read_points(fcsv(tmp_path, frame), space="moving")
    np.testing.assert_array_equal(points.places, PLACES)
    assert points.columns["label"] == ["tip, left", "F-2"]
    assert points.columns["desc"] == ["a note", ""]


def test_slicer_lists_of_voxels_are_refused(tmp_path):
    with pytest.raises(InputError, match="coordinate system '2'"):
        read_points(fcsv(tmp_path, "2"), space="moving")


def test_slicer_lists_without_a_coordinate_system_are_refused(tmp_path):
    path = fcsv(tmp_path, "LPS")
    path.write_text("".join(line for line in path.read_text().splitlines(True) if "Coordinate" not in line))
    with pytest.raises(InputError, match="RAS or LPS"):
        read_points(path, space="moving")


def test_slicer_markups_say_their_coordinate_system(tmp_path):
    lps = written(tmp_path, markups(CONTROLS, coordinateSystem="LPS", coordinateUnits="mm"), "a.mrk.json")
    np.testing.assert_array_equal(read_points(lps, space="moving").places, PLACES)
    ras = written(tmp_path, markups(CONTROLS, coordinateSystem="RAS"), "b.mrk.json")
    points = read_points(ras, space="moving")
    np.testing.assert_array_equal(points.places, PLACES * [-1, -1, 1])
    assert points.columns == {"id": ["1", "2"], "label": ["tip", "F-2"]}


def test_a_point_that_slicer_has_not_placed_has_no_place(tmp_path):
    controls = [*CONTROLS, {"label": "later", "positionStatus": "undefined"}]
    path = written(tmp_path, markups(controls, coordinateSystem="LPS"), "a.mrk.json")
    points = read_points(path, space="moving")
    assert np.isnan(points.places[2]).all() and len(points) == 3
    again = read_points(write_points(tmp_path / "b.mrk.json", points))
    np.testing.assert_array_equal(again.places, points.places)


@pytest.mark.parametrize(
    "text, says",
    [
        (markups(CONTROLS, coordinateSystem="IJK"), "coordinate systems IJK"),
        (markups(CONTROLS, coordinateUnits="um"), "is in um"),
        (markups([]), "holds no points"),
        ("{}", "no markup file"),
        ("[", "no markup file"),
        (markups([{"label": "a", "position": [1, 2]}]), "no markup file"),
        (markups([{"label": "a", "position": ["x", 2, 3]}]), "no markup file"),
    ],
)
def test_damaged_markups_are_refused(tmp_path, text, says):
    with pytest.raises(InputError, match=says):
        read_points(written(tmp_path, text, "a.mrk.json"), space="moving")


@pytest.mark.parametrize(
    "text, says",
    [
        ("# space: moving, RAS, mm\n", "holds no points"),
        ("# space: moving, RAS, mm\nx,y,z\n", "holds no points"),
        ("# space: moving, RAS, cm\nx,y\n1,2\n", "is in cm"),
        ("# space: moving, RAS, voxels\nx,y\n1,2\n", "is in voxels"),
        ("# space: moving, RAS, LPS\nx,y\n1,2\n", "must be a name, RAS or LPS, and mm"),
        ("# space: moving, RAS, mm\n1,2,3\n4,5,6\n", "x, y and z"),
        ("# space: moving, RAS, mm\nx,z\n4,5\n", "x, y and z"),
        ("# space: moving, RAS, mm\nx,x,y\n4,5,6\n", "each once"),
        ("# space: moving, RAS, mm\nx,y\n1,2\n\n3,four\n", "'four' in line 5"),
        ("# space: moving, RAS, mm\nx,y\n1,inf\n", "'inf' in line 3"),
        ("# space: moving, RAS, mm\nx,y\n1,2,3\n", "3 values in line 3"),
    ],
)
def test_damaged_tables_are_refused(tmp_path, text, says):
    with pytest.raises(InputError, match=says):
        read_points(written(tmp_path, text))


def test_files_of_another_kind_are_refused(tmp_path):
    with pytest.raises(InputError, match="does not end in"):
        read_points(written(tmp_path, "1 2 3", "points.txt"))
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x81" * 8)
    with pytest.raises(InputError, match="is no text"):
        read_points(tmp_path / "binary.csv")
    with pytest.raises(InputError, match="does not end in"):
        write_points(tmp_path / "points.txt", Points(PLACES, "moving"))
    with pytest.raises(InputError, match="there is no file"):
        read_points(tmp_path / "nothing.csv")


texts = st.text(st.characters(categories=("L", "N", "P", "Zs"), exclude_characters="\x85\u2028"), max_size=8).map(
    str.strip
)


@settings(deadline=None, max_examples=40)
@given(
    places=st.lists(st.tuples(*[st.floats(-1e3, 1e3)] * 3), min_size=1, max_size=5),
    suffix=st.sampled_from([".csv", ".fcsv", ".mrk.json"]),
    data=st.data(),
)
def test_what_is_written_is_read_again(tmp_path_factory, places, suffix, data):
    labels = data.draw(st.lists(texts.filter(bool), min_size=len(places), max_size=len(places)))
    points = Points(np.array(places), "the fixed one", {"label": labels})
    again = read_points(write_points(tmp_path_factory.mktemp("points") / f"p{suffix}", points))
    np.testing.assert_allclose(again.places, points.places, atol=1e-6)
    assert again.space == points.space
    assert list(again.columns["label"]) == labels


def test_points_of_a_plane_go_through_slicer_flat(tmp_path):
    points = Points(PLACES[:, :2], "fixed")
    for name in ("p.fcsv", "p.mrk.json"):
        again = read_points(write_points(tmp_path / name, points))
        np.testing.assert_allclose(again.places, [[10.5, -20.25, 0], [-1, 2, 0]])
        assert list(again.columns["label"]) == ["P-1", "P-2"]
