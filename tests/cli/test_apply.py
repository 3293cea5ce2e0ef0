"""``mmtk apply``: the user says what lies where and where it shall go; the right way round follows from it."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pytest

from mmtk.cli import main
from mmtk.io import AffineStep, Volume, read_points, write_image, write_transform
from mmtk.io.formats import write_steps
from mmtk.transforms import Transform, resample

AFFINE = np.diag([-1.5, -1.5, 2.0, 1.0])


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def problems(self):
        assert (self.code, self.out) == (2, "")
        return [line.removeprefix("error: ") for line in self.err.splitlines()]


@pytest.fixture
def apply(capsys, monkeypatch, tmp_path):
    """Call ``mmtk apply`` in a folder that holds a run, its images, labels and points."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        with pytest.raises(SystemExit) as done:
            main(["apply", *map(str, words)])
        return Done(int(done.value.code or 0), *capsys.readouterr())

    return call


@pytest.fixture(autouse=True)
def run(tmp_path):
    """A run whose map is a shift: a fixed point lies 3 mm to the left of its moving one, 1.5 mm below."""
    rng = np.random.default_rng(0)
    fixed = Volume(rng.normal(size=(12, 14, 10)), AFFINE, name="fixed")
    moving = Volume(rng.normal(size=(16, 15, 9)), AFFINE, name="moving")
    u = np.zeros((3, *fixed.shape), np.float32)
    u[0] = -2  # voxels; the first axis points left, so that this is 3 mm to the right
    shift = np.eye(4)
    shift[2, 3] = 1.5
    (tmp_path / "run").mkdir()
    write_transform(tmp_path / "run/transform.h5", u, fixed, shift)
    write_image(tmp_path / "run/warped.nii.gz", fixed.data, fixed)
    for volume in (fixed, moving):
        write_image(tmp_path / f"{volume.name}.nii.gz", volume.data, volume)
    entry = {"path": "moving.nii.gz", "shape": moving.shape, "spacing": moving.spacing, "sha256": "m"}
    (tmp_path / "run/run.json").write_text(json.dumps({"inputs": {"moving": entry}}))
    labels = np.zeros(moving.shape, np.int16)
    labels[4:9, 5:9, 2:6] = 3000
    nibabel.save(nibabel.Nifti1Image(labels, AFFINE), tmp_path / "labels.nii.gz")
    (tmp_path / "points.csv").write_text("# space: moving, RAS, mm\nname,x,y,z\ntip,-6,-9,10\n")
    return tmp_path / "run"


def test_an_image_goes_to_the_fixed_one_by_default(apply, tmp_path):
    done = apply("transform=run", "image=moving.nii.gz", "out=there.nii.gz")
    assert (done.code, done.out) == (0, "From moving to fixed: there.nii.gz\n")
    written = nibabel.load(tmp_path / "there.nii.gz")
    np.testing.assert_allclose(written.affine, AFFINE)
    moving = nibabel.load(tmp_path / "moving.nii.gz").get_fdata()
    expected = (
        0.25 * moving[1, 4, 3] + 0.75 * moving[1, 4, 4]
    )  # voxel (3, 4, 3): -2 voxels along i, 1.5 mm along z
    assert written.get_fdata()[3, 4, 3] == pytest.approx(expected, abs=1e-5)


def test_an_image_goes_back_by_the_same_words(apply, tmp_path):
    done = apply("transform=run", "image=fixed.nii.gz", "out=back.nii.gz", "from=fixed", "to=moving", "--json")
    report = json.loads(done.out)
    assert (report["out"], report["from"], report["to"]) == ("back.nii.gz", "fixed", "moving")
    written = nibabel.load(tmp_path / "back.nii.gz")
    assert written.shape == (16, 15, 9)
    fixed = nibabel.load(tmp_path / "fixed.nii.gz").get_fdata()
    assert written.get_fdata()[3, 4, 3] == pytest.approx(0.75 * fixed[5, 4, 2] + 0.25 * fixed[5, 4, 3], abs=1e-4)


def test_points_go_from_where_their_file_says_they_lie(apply):
    assert apply("transform=run", "points=points.csv", "out=there.csv").code == 0
    assert (
        Path("there.csv").read_text() == "# space: fixed, RAS, mm\nx,y,z,name\n-9.000000,-9.000000,8.500000,tip\n"
    )
    assert apply("transform=run", "points=there.csv", "out=again.mrk.json", "to=moving").code == 0
    again = read_points("again.mrk.json")
    assert again.space == "moving"
    np.testing.assert_allclose(again.places, [[-6, -9, 10]], atol=1e-5)


def test_a_point_and_a_spot_in_the_image_meet(apply, tmp_path):
    """The landmark at the center of moving voxel (6, 6, 5): with z between voxels the spot is half in each of two."""
    spot = np.zeros((16, 15, 9), np.float32)
    spot[6, 6, 5] = 1
    write_image(tmp_path / "spot.nii.gz", spot, Volume(spot, AFFINE))
    (tmp_path / "spot.csv").write_text("# space: moving, RAS, mm\nx,y,z\n-9,-9,10\n")
    assert apply("transform=run", "image=spot.nii.gz", "out=spot_there.nii.gz").code == 0
    assert apply("transform=run", "points=spot.csv", "out=spot_there.csv").code == 0
    image = nibabel.load(tmp_path / "spot_there.nii.gz")
    share = image.get_fdata()
    center = np.tensordot(share, np.moveaxis(np.indices(share.shape), 0, -1), 3) / share.sum()
    place = nibabel.affines.apply_affine(image.affine, center)
    np.testing.assert_allclose(read_points("spot_there.csv").places, [place], atol=1e-4)


def test_labels_stay_labels(apply, tmp_path):
    assert apply("transform=run", "labels=labels.nii.gz", "out=there.nii.gz").code == 0
    written = nibabel.load(tmp_path / "there.nii.gz")
    assert written.get_data_dtype() == np.int16
    assert set(np.unique(written.dataobj)) == {0, 3000}


def test_options_reach_the_interpolation(apply, tmp_path):
    reference = Volume(np.zeros((4, 5, 4)), np.diag([-4.5, -4.5, 6.0, 1.0]))
    write_image(tmp_path / "coarse.nii.gz", reference.data, reference)
    words = ("transform=run/transform.h5", "image=moving.nii.gz", "out=there.nii.gz", "reference=coarse.nii.gz")
    assert apply(*words, "antialias=on", "outside=-5", "interpolation=cubic").code == 0
    expected = resample(
        "moving.nii.gz", Transform.load("run"), reference, antialias=True, outside=-5, interpolation="cubic"
    )
    np.testing.assert_allclose(nibabel.load("there.nii.gz").get_fdata(), expected.data, atol=1e-6)


def test_all_that_is_wrong_is_said_at_once_and_nothing_is_written(apply, tmp_path):
    before = sorted(tmp_path.iterdir())
    words = (
        "transform=rum",
        "image=movng.nii.gz",
        "out=there.png",
        "interpolation=cubc",
        "outside=x",
        "fro=fixed",
    )
    problems = apply(*words, "antialias=maybe", "--mu", "3").problems
    for start in ("transform: there is no file 'rum'", "image: there is no file 'movng.nii.gz'", "out=there.png: must",
                  "interpolation=cubc: must be one of", "outside=x: is not a number", "fro=fixed: unknown key; did you",
                  "antialias=maybe: is neither", "--mu 3: no such option"):  # fmt: skip
        assert sum(problem.startswith(start) for problem in problems) == 1, (start, problems)
    assert len(problems) == 8
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "words, says",
    [
        (("transform=run", "out=a.nii.gz"), "nothing is to be carried; give one of image=FILE"),
        (
            ("transform=run", "image=moving.nii.gz", "points=points.csv", "out=a.csv"),
            "image= and points= were given",
        ),
        (("image=moving.nii.gz", "out=a.nii.gz"), "transform: missing; give transform=FOLDER"),
        (("transform=run", "image=moving.nii.gz"), "out: missing; give out=FILE"),
        (("transform=run", "points=points.csv", "out=a.csv", "interpolation=cubic"), "has no meaning for points"),
        (("transform=run", "image=moving.nii.gz", "out=a.nii.gz", "space=moving"), "an image has from= and to="),
        (("transform=run", "points=points.csv", "out=a.csv", "to=moving"), "the points lie there already"),
        (("transform=run", "points=points.csv", "out=a.csv", "from=fixed"), "as their file says"),
        (("transform=run", "image=moving.nii.gz", "out=a.nii.gz", "from=movin"), "did you mean 'moving'"),
        (("transform=run", "image=moving.nii.gz", "out=a.nii.gz", "from=fixed", "to=fixed"), "name two spaces"),
        (("transform=run", "image=moving.nii.gz", "out=run"), "must end in .nii or .nii.gz"),
        (("transform=run", "image=moving.nii.gz", "out=moving.nii.gz"), "exists already; name another file"),
        (("transform=run", "image=moving.nii.gz", "out=moving.nii.gz/a.nii.gz"), "a folder is needed there"),
        (("transform=run", "labels=labels.nii.gz", "out=a.nii.gz", "antialias=on"), "averages"),
    ],
)
def test_a_slip_is_answered(apply, words, says):
    (problem,) = apply(*words).problems
    assert says in problem


def test_a_file_alone_needs_a_reference(apply, tmp_path):
    write_steps(tmp_path / "shift.tfm", (AffineStep(np.eye(4)),))
    (problem,) = apply("transform=shift.tfm", "image=moving.nii.gz", "out=a.nii.gz").problems
    assert problem.startswith("reference: missing; give reference=FILE")


def test_points_of_another_space_are_refused(apply, tmp_path):
    (tmp_path / "atlas.csv").write_text("# space: atlas, RAS, mm\nx,y,z\n1,2,3\n")
    (problem,) = apply("transform=run", "points=atlas.csv", "out=a.csv").problems
    assert "lies in 'atlas', but the transform leads between fixed and moving" in problem


def test_points_beside_the_image_are_doubted(apply, tmp_path):
    """Taken for RAS though they are LPS, they lie on the other side."""
    (tmp_path / "wrong.csv").write_text("# space: moving, RAS, mm\nx,y,z\n6,9,10\n-6,-9,10\n")
    done = apply("transform=run", "points=wrong.csv", "out=a.csv")
    assert "1 of 2 points lie outside the image 'moving' (number 1)" in done.err


def test_points_without_a_counterpart_are_counted(apply, tmp_path):
    """What maps into the 3 mm beside the border lies beyond the field's grid."""
    (tmp_path / "rim.csv").write_text("# space: moving, RAS, mm\nx,y,z\n-16,-9,10\n-6,-9,10\n")
    done = apply("transform=run", "points=rim.csv", "out=a.csv", "--json")
    (note,) = json.loads(done.out)["notes"]
    assert note.startswith("1 of 2 points have no counterpart in 'fixed'")
    assert np.isnan(read_points(tmp_path / "a.csv").places).any(axis=1).tolist() == [True, False]


def test_points_of_a_plane_come_back_from_a_file_of_slicer(apply, tmp_path):
    flat = Volume(np.ones((12, 14)), AFFINE, name="fixed")
    write_transform(tmp_path / "flat.h5", np.ones((2, 12, 14), np.float32), flat, np.eye(4))
    (tmp_path / "flat.csv").write_text("# space: fixed, RAS, mm\nx,y\n-3,-6\n")
    apply("transform=flat.h5", "points=flat.csv", "out=there.fcsv")
    assert apply("transform=flat.h5", "points=there.fcsv", "out=back.csv").code == 0
    np.testing.assert_allclose(read_points("back.csv").places, [[-3, -6]], atol=1e-5)
    (tmp_path / "solid.csv").write_text("# space: fixed, RAS, mm\nx,y,z\n-3,-6,1\n")
    assert "lie in z = 0" in apply("transform=flat.h5", "points=solid.csv", "out=no.csv").problems[0]


def test_an_existing_file_is_replaced_only_if_asked(apply, tmp_path):
    words = ("transform=run", "points=points.csv", "out=there.csv")
    (tmp_path / "there.csv").write_text("mine")
    assert apply(*words).code == 2
    assert (tmp_path / "there.csv").read_text() == "mine"
    assert apply(*words, "--overwrite").code == 0
    assert (tmp_path / "there.csv").read_text().startswith("# space: fixed")


def test_a_disk_that_is_full_is_said_to_be(apply, tmp_path, monkeypatch):
    def full(*ignored):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mmtk.io.files.os.replace", full)
    done = apply("transform=run", "image=moving.nii.gz", "out=there.nii.gz")
    assert (done.code, done.out) == (1, "")
    assert done.err == (
        "error: out=there.nii.gz: cannot be written (No space left on device); make room or name another folder\n"
    )
    assert not [path for path in tmp_path.iterdir() if "there" in path.name]


def test_a_damaged_transform_leaves_nothing(apply, tmp_path, run):
    (run / "transform.h5").write_bytes((run / "transform.h5").read_bytes()[:3000])
    (problem,) = apply("transform=run", "image=moving.nii.gz", "out=there.nii.gz").problems
    assert "transform.h5" in problem
    assert not (tmp_path / "there.nii.gz").exists()


def test_nothing_heavy_is_loaded(tmp_path):
    """Neither for a refusal nor for the work."""
    for words, expected in (
        (["transform=rum"], "2 []"),
        (["transform=run", "image=moving.nii.gz", "out=a.nii.gz"], "0 []"),
    ):
        code = (
            "import sys; from mmtk.cli import main\n"
            f"try: main(['apply', *{words!r}])\n"
            "except SystemExit as done: print(done.code, sorted({'torch', 'monai'} & set(sys.modules)))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True
        )
        assert done.stdout.splitlines()[-1] == expected
