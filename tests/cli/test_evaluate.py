"""``mmtk evaluate``: numbers of a run are those that it wrote; numbers of files agree with closed forms and with ITK."""

import csv
import json
import math
import shutil
import subprocess
import sys
from dataclasses import dataclass

import nibabel
import numpy as np
import pytest
import SimpleITK

from mmtk import register
from mmtk.cli import main
from mmtk.io import Volume, write_displacement, write_image, write_transform
from mmtk.samples import c_shapes, save

AFFINE = np.diag([-1.5, -2.0, 2.0, 1.0])
SHAPE = (14, 12, 10)


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def problems(self):
        assert (self.code, self.out) == (2, "")
        return [line.removeprefix("error: ") for line in self.err.splitlines()]

    @property
    def metrics(self):
        assert self.code == 0, self.err
        return json.loads(self.out)["metrics"]


@pytest.fixture
def evaluate(capsys, monkeypatch, tmp_path):
    """Call ``mmtk evaluate`` in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        with pytest.raises(SystemExit) as done:
            main(["evaluate", *map(str, words)])
        return Done(int(done.value.code or 0), *capsys.readouterr())

    return call


@pytest.fixture
def volume():
    rng = np.random.default_rng(0)
    return Volume(rng.random(SHAPE), AFFINE, name="fixed")


def bump(height=1.5, shape=SHAPE):
    """A smooth displacement in voxels, largest in the middle."""
    place = np.meshgrid(*(np.linspace(-2, 2, n) for n in shape), indexing="ij")
    hill = height * np.exp(-sum(p**2 for p in place))
    return np.stack([hill, -0.5 * hill, 0.25 * hill][: len(shape)]).astype(np.float32)


# --- a run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a small run on a sample, and that of the sample."""
    folder = tmp_path_factory.mktemp("finished")
    save(next(c_shapes(1, size=64, steps=12, amplitude=150.0, width=(4.0, 8.0), seed=1)), folder / "sample")
    files = {path.name.partition(".")[0]: path for path in (folder / "sample").iterdir()}
    result = register(
        moving=files["moving"], fixed=files["fixed"], mask=files["mask"], init="none", iterations="2,2,2"
    )
    result.save(folder / "run")
    return folder / "run", folder / "sample"


def test_a_run_is_measured_again_as_it_measured_itself(evaluate, finished):
    run, _ = finished
    written = json.loads((run / "metrics.json").read_text())
    found = evaluate(f"run={run}", "--json").metrics
    record = json.loads((run / "run.json").read_text())
    assert found["cost"]["peak_memory_mb"] == record["peak_memory_mb"] > 0
    assert found["cost"]["seconds"] == pytest.approx(sum(record["seconds"].values()))
    for group, values in written.items():
        for name, value in values.items():
            assert found[group][name] == pytest.approx(value, rel=1e-3, abs=1e-4), (group, name)


def test_a_run_that_measured_labels_says_how_to_measure_them_again(evaluate, finished, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(finished[0], copy)
    record = json.loads((copy / "run.json").read_text())
    record["settings"]["fixed_labels"] = "labels.nii.gz"
    (copy / "run.json").write_text(json.dumps(record))
    assert "measure it with fixed_labels=labels.nii.gz" in evaluate(f"run={copy}", "--json").out


def test_a_run_on_a_sample_is_measured_against_its_truth(evaluate, finished):
    run, sample = finished
    implied = evaluate(f"run={run}", "--json").metrics["truth"]
    named = evaluate(f"run={run}", f"truth={sample}", "--json").metrics["truth"]
    assert implied == named
    assert 0 < named["edges_mm"] < 10 and 0 < named["near_mm"] < 30


def test_a_run_whose_image_has_gone_says_so(evaluate, finished, tmp_path):
    run, _ = finished
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in run.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    record = json.loads((copy / "run.json").read_text())
    record["inputs"]["moving"]["path"] = str(tmp_path / "gone.nii.gz")
    (copy / "run.json").write_text(json.dumps(record))
    assert "gone.nii.gz" in evaluate(f"run={copy}").problems[0]


# --- a pair


def test_equal_images_differ_by_0_and_the_mask_parts_inside_from_outside(evaluate, volume):
    write_image("fixed.nii.gz", volume.data, volume)
    changed, mask = volume.data.copy(), np.zeros(SHAPE)
    changed[:5], mask[:5] = changed[:5] + 0.5, 1
    write_image("warped.nii.gz", changed, volume)
    write_image("mask.nii.gz", mask, volume)
    same = evaluate("fixed=fixed.nii.gz", "warped=fixed.nii.gz", "--json").metrics["similarity"]
    assert same == {"squared_error_outside": 0, "correlation_outside": pytest.approx(1)}
    words = ("fixed=fixed.nii.gz", "warped=warped.nii.gz", "deformed=fixed.nii.gz", "mask=mask.nii.gz")
    found = evaluate(*words, "placed=fixed.nii.gz", "normalize=none", "--json").metrics
    assert found["similarity"]["squared_error_outside"] == 0
    assert found["similarity"]["squared_error_inside"] == pytest.approx(0.25 * mask.sum(), rel=1e-5)
    apart = found["disentanglement"]
    assert apart["appearance_leak"] == apart["share_explained_by_shape"] == apart["appearance_outside_mask"] == 0


def test_appearance_that_leaks_is_told(evaluate, volume):
    write_image("fixed.nii.gz", volume.data, volume)
    changed, mask = volume.data.copy(), np.zeros(SHAPE)
    changed[:4] += 1
    mask[:3] = 1
    write_image("warped.nii.gz", changed, volume)
    write_image("mask.nii.gz", mask, volume)
    words = ("fixed=fixed.nii.gz", "warped=warped.nii.gz", "deformed=fixed.nii.gz", "mask=mask.nii.gz")
    found = evaluate(*words, "normalize=none", "--json").metrics["disentanglement"]
    assert found["appearance_leak"] == pytest.approx(0.25, rel=1e-5)
    assert found["appearance_energy_outside"] == pytest.approx(12 * 10 * 1.5 * 2 * 2, rel=1e-5)
    assert found["appearance_outside_mask"] == pytest.approx(1, rel=1e-5)


def test_images_of_two_grids_are_refused_and_a_mask_is_not(evaluate, volume):
    write_image("fixed.nii.gz", volume.data, volume)
    moved = Volume(volume.data, AFFINE + np.eye(4)[:, [3, 3, 3, 0]] * 0.5, name="warped")
    write_image("warped.nii.gz", moved.data, moved)
    (problem,) = evaluate("fixed=fixed.nii.gz", "warped=warped.nii.gz").problems
    assert "first at (0.5" in problem and "onto the grid of the fixed one" in problem
    fine = Volume(np.zeros((28, 24, 10)), AFFINE @ np.diag([0.5, 0.5, 1, 1]), name="mask")
    fine.data[8:16, 8:16, 3:6] = 1
    write_image("mask.nii.gz", fine.data, fine)
    assert evaluate("fixed=fixed.nii.gz", "warped=fixed.nii.gz", "mask=mask.nii.gz").code == 0


# --- label maps


def test_label_maps(evaluate, volume):
    fixed, moved = np.zeros((2, *SHAPE), np.int16)
    fixed[3:9, 3:9, 3:8], moved[5:11, 3:9, 3:8] = 2000, 2000
    moved[0, 0, 0] = 7
    for name, data in (("fixed", fixed), ("moved", moved)):
        write_image(f"{name}.nii.gz", data, volume, dtype=np.int16)
    found = evaluate("labels=moved.nii.gz", "fixed_labels=fixed.nii.gz", "tolerance=3", "--json").metrics[
        "overlap"
    ]
    a, b = (SimpleITK.ReadImage(f"{name}.nii.gz") == 2000 for name in ("moved", "fixed"))
    overlap = SimpleITK.LabelOverlapMeasuresImageFilter()
    overlap.Execute(a, b)
    assert found["dice"] == {"7": 0, "2000": pytest.approx(overlap.GetDiceCoefficient())}
    assert found["dice_mean"] == pytest.approx(overlap.GetDiceCoefficient() / 2)
    assert found["hd95"]["2000"] == found["hd95_mean_mm"] == pytest.approx(3)  # 2 voxels of 1.5 mm
    assert (found["labels"], found["labels_missing"], found["hd95"]["7"]) == (2, 1, None)
    assert found["surface_dice_mean"] == 0.5  # all of 2000's surface, nothing of 7's


def test_label_maps_of_two_grids_or_with_fractions_are_refused(evaluate, volume):
    write_image("fixed.nii.gz", np.round(3 * volume.data), volume)
    write_image("half.nii.gz", volume.data, volume)
    other = Volume(np.ones((7, 12, 10)), AFFINE, name="labels")
    write_image("other.nii.gz", other.data, other)
    (problem,) = evaluate("labels=other.nii.gz", "fixed_labels=fixed.nii.gz").problems
    assert "7x12x10" in problem and "not resampled" in problem
    (problem,) = evaluate("labels=half.nii.gz", "fixed_labels=fixed.nii.gz").problems
    assert "no labels" in problem


# --- landmarks


@pytest.fixture
def shift(volume):
    """A transform whose moving points lie 3 mm to the right of their fixed ones, and landmarks of both images."""
    u = np.zeros((3, *SHAPE), np.float32)
    u[0] = -2  # voxels; the first axis points left
    write_transform("shift.h5", u, volume)
    with open("fixed.csv", "w") as file:
        file.write("# space: fixed, RAS, mm\nname,x,y,z\na,-9,-8,6\nb,-6,-10,8\nc,-12,-8,8\n")
    with open("moving.csv", "w") as file:  # in another order; c is off by 1 mm along y
        file.write("# space: moving, RAS, mm\nname,x,y,z\nc,-9,-7,8\na,-6,-8,6\nb,-3,-10,8\n")


def test_landmarks_are_carried_and_paired_by_name(evaluate, shift):
    words = ("landmarks=moving.csv", "fixed_landmarks=fixed.csv")
    found = evaluate(*words, "transform=shift.h5", "--json").metrics["landmarks"]
    assert found["landmark_error_median_mm"] == pytest.approx(0, abs=1e-4)
    assert found["landmark_error_max_mm"] == pytest.approx(1, abs=1e-4)
    assert found["landmark_error_mean_mm"] == pytest.approx(1 / 3, abs=1e-4)
    axes = [found[f"landmark_error_{axis}_mm"] for axis in "xyz"]
    assert axes == pytest.approx([0, 1 / 3, 0], abs=1e-4), "c is off by 1 mm from back to front"
    assert found["landmark_error_median_mm_before"] == pytest.approx(3)
    assert (found["robustness"], found["landmarks"]) == (1, 3)
    bare = evaluate(*words, "--json")
    assert bare.metrics["landmarks"]["landmark_error_median_mm"] == pytest.approx(3)
    assert "robustness" not in bare.metrics["landmarks"] and "carried already" in bare.out


def test_points_of_a_plane_may_have_a_z_of_0(evaluate):
    """So Slicer writes them, and so do 2-D samples."""
    plane = Volume(np.zeros((20, 24)), np.diag([2.0, 2.0, 1.0, 1.0]), name="fixed")
    u = np.zeros((2, 20, 24), np.float32)
    u[0] = 1.5  # voxels of 2 mm
    write_transform("shift.h5", u, plane)
    for name, x in (("fixed", 10.0), ("moving", 13.5)):  # 0.5 mm too far
        with open(f"{name}.csv", "w") as file:
            file.write(f"# space: {name}, RAS, mm\nx,y,z\n{x},12,0\n{x + 4},20,0\n")
    words = ("landmarks=moving.csv", "fixed_landmarks=fixed.csv", "transform=shift.h5", "--json")
    found = evaluate(*words).metrics["landmarks"]
    assert found["landmark_error_mean_mm"] == pytest.approx(0.5, abs=1e-3)
    assert (found["landmark_error_x_mm"], found["landmark_error_y_mm"]) == pytest.approx((0.5, 0), abs=1e-3)
    assert "landmark_error_z_mm" not in found


def test_landmarks_that_do_not_match_are_refused(evaluate, shift):
    with open("other.csv", "w") as file:
        file.write("name,x,y,z\na,1,1,1\nd,1,1,1\n")
    (problem,) = evaluate("landmarks=moving.csv", "fixed_landmarks=other.csv").problems
    assert "RAS or LPS" in problem
    (problem,) = evaluate("landmarks=moving.csv", "fixed_landmarks=other.csv", "space=moving,RAS").problems
    assert "b, c, d" in problem


# --- displacements


def test_a_displacement_of_another_tool_is_measured_as_itk_measures_it(evaluate, volume):
    field = SimpleITK.GetImageFromArray(np.moveaxis(bump(3.0), 0, -1).transpose(2, 1, 0, 3), isVector=True)
    field.SetSpacing((1.5, 2.0, 2.0))
    SimpleITK.WriteImage(SimpleITK.Cast(field, SimpleITK.sitkVectorFloat64), "field.nii.gz")
    found = evaluate("displacement=field.nii.gz", "--json").metrics["deformation"]
    determinant = SimpleITK.GetArrayFromImage(SimpleITK.DisplacementFieldJacobianDeterminant(field))
    assert found["jacobian_min"] == pytest.approx(determinant.min(), abs=1e-4)
    assert found["jacobian_max"] == pytest.approx(determinant.max(), abs=1e-4)
    assert found["folds"] == (determinant <= 0).sum()
    lengths = np.linalg.norm(SimpleITK.GetArrayFromImage(field), axis=-1)
    assert found["displacement_max_mm"] == pytest.approx(lengths.max(), rel=1e-5)
    assert found["displacement_mean_mm"] == pytest.approx(lengths.mean(), rel=1e-5)


def test_a_displacement_against_itself_and_against_a_shift_of_it(evaluate, volume):
    head = np.zeros(SHAPE)
    head[3:11, 3:9, 2:8] = 1
    write_image("fixed.nii.gz", head, volume)
    mask = np.zeros(SHAPE)
    mask[5:7, 5:7, 4:6] = 1
    write_image("mask.nii.gz", mask, volume)
    shifted = bump()
    shifted[0] += 2
    write_displacement("field.nii.gz", bump(), volume)
    write_displacement("shifted.nii.gz", shifted, volume)
    words = ("displacement=field.nii.gz", "fixed=fixed.nii.gz", "mask=mask.nii.gz", "near=5", "--json")
    assert set(evaluate(*words, "truth=field.nii.gz").metrics["truth"].values()) == {0}
    found = evaluate(*words, "truth=shifted.nii.gz").metrics["truth"]
    assert [found[f"{n}_mm"] for n in ("outside", "median", "near", "far", "inside")] == pytest.approx([3] * 5)
    assert 0 < found["edges_mm"] < 3  # only across the faces that it moves through


def test_a_truth_on_another_grid_is_interpolated(evaluate, volume):
    write_displacement("field.nii.gz", np.full((3, *SHAPE), 1.0, np.float32), volume)
    fine = Volume(np.zeros((28, 24, 20)), AFFINE @ np.diag([0.5, 0.5, 0.5, 1]), name="fixed")
    write_displacement("truth.nii.gz", np.full((3, *fine.shape), 2.0, np.float32), fine)
    done = evaluate("displacement=field.nii.gz", "truth=truth.nii.gz", "--json")
    assert done.metrics["truth"]["median_mm"] == pytest.approx(0, abs=1e-5)
    assert "interpolated" in done.out


def test_there_and_back(evaluate, volume):
    constant = np.zeros((3, *SHAPE), np.float32)
    constant[1] = 1
    write_displacement("there.nii.gz", constant, volume)
    write_displacement("back.nii.gz", -1.25 * constant, volume)
    words = ("displacement=there.nii.gz", "inverse=back.nii.gz", "--json")
    found = evaluate(*words).metrics["deformation"]
    assert found["inverse_consistency_mean_mm"] == pytest.approx(0.5, abs=1e-5)  # a quarter of 2 mm
    assert found["inverse_consistency_max_mm"] == pytest.approx(0.5, abs=1e-5)


def test_a_chain_is_measured_on_the_grid_of_the_fixed_image(evaluate, volume):
    write_image("fixed.nii.gz", volume.data, volume)
    write_transform("chain.h5", bump(), volume, np.diag([2.0, 1.0, 1.0, 1.0]))
    found = evaluate("displacement=chain.h5", "fixed=fixed.nii.gz", "--json").metrics["deformation"]
    write_displacement("alone.nii.gz", bump(), volume)
    alone = evaluate("displacement=alone.nii.gz", "--json").metrics["deformation"]
    assert found["jacobian_max"] == pytest.approx(2 * alone["jacobian_max"], rel=1e-4)
    assert found["sdlogj"] == pytest.approx(alone["sdlogj"], rel=1e-3)


# --- what is printed, and what is refused


def test_the_table_says_what_each_number_means_and_files_hold_the_same(evaluate, volume, tmp_path):
    write_displacement("field.nii.gz", bump(), volume)
    done = evaluate("displacement=field.nii.gz", "--out", "numbers.csv")
    assert "Deformation\n" in done.out and "should be 0" in done.out and done.code == 0
    with open("numbers.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert evaluate("displacement=field.nii.gz", "--out", "numbers.json").code == 0
    written = json.loads((tmp_path / "numbers.json").read_text())["metrics"]["deformation"]
    assert {row["name"]: pytest.approx(float(row["value"])) for row in rows} == written
    assert all(row["meaning"] for row in rows)
    assert "add --overwrite" in evaluate("displacement=field.nii.gz", "--out", "numbers.csv").problems[0]


def test_everything_that_is_wrong_is_said_at_once(evaluate, volume):
    problems = evaluate(
        "fixd=a.nii.gz", "warped=b.nii.gz", "labels=c.nii.gz", "near=-1", "normalize=robst", "--out", "x.txt"
    ).problems
    expected = ["'fixed'", "warped=b.nii.gz: says nothing", "labels=c.nii.gz: says nothing", "near=-1", "'robust'"]
    expected += ["x.txt", "'b.nii.gz'", "'c.nii.gz'"]
    assert len(problems) == len(expected)
    for words in expected:
        assert any(words in problem for problem in problems), words
    write_image("image.nii.gz", volume.data, volume)
    maps = evaluate("displacement=image.nii.gz", "inverse=gone.h5", "truth=.").problems
    assert len(maps) == 3 and "a displacement field is" in maps[0]
    assert "'gone.h5'" in maps[1] and "holds no truth.npz" in maps[2]
    assert "nothing is to be measured" in evaluate().problems[0]
    assert "brings its own" in evaluate("run=.", "mask=a.nii.gz").problems[0]


def test_a_damaged_field_is_refused(evaluate, volume):
    write_displacement("field.nii.gz", bump(), volume)
    image = nibabel.load("field.nii.gz")
    data = image.get_fdata()
    data[3, 3, 3] = math.nan
    nibabel.save(nibabel.Nifti1Image(data, image.affine, image.header), "nan.nii.gz")
    (problem,) = evaluate("displacement=nan.nii.gz").problems
    assert "NaN" in problem


def test_a_refusal_loads_no_torch():
    code = (
        "import sys\n"
        "from mmtk.cli import main\n"
        "try: main(['evaluate', 'fixed=nowhere.nii.gz', 'warped=nowhere.nii.gz'])\n"
        "except SystemExit as done: assert done.code == 2\n"
        "assert not {'torch', 'monai'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
